"""Decoding: several lanes (a prompt, with or without the adapter) in one batch on one copy of the base weights.

Models whose layers are known are decoded by a loop of our own (`decode_static`), on CUDA as captured graphs; the rest, and what the
loop fails at, by transformers' `generate` with peft's mixed batches.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from workbench.models import decode_static
from workbench.models.adapters import SLOTS, asked_alone
from workbench.models.decode_lanes import Bound, Lane, OnStep, OnText, Progress, Reply, bind, nobody, uncounted
from workbench.models.decode_stack import UnsupportedError
from workbench.models.decode_static import release, room_for
from workbench.models.faults import lets_go, named
from workbench.models.loading import Base
from workbench.settings import Sampling

__all__ = ["BASE_LANE", "Bound", "Lane", "Reply", "generate", "release", "room_for", "together"]

BASE_LANE = "__base__"  # peft's word for "no adapter" in a mixed batch

_log = logging.getLogger(__name__)
_said: set[str] = set()


def _log_once(text: str) -> None:
    """For callers without a place for notices: on the log, once."""
    if text not in _said:
        _said.add(text)
        _log.warning(text)


def generate(
    base: Base, lanes: Sequence[Lane], sampling: Sampling, *,
    on_text: OnText = nobody, stop: Callable[[], bool] = lambda: False, say: Callable[[str], None] = _log_once, capture: bool = True,
    on_step: OnStep = uncounted,
) -> list[Reply]:
    """One reply per lane, all lanes in one batch (prompts padded on the left).

    `on_text` gets every lane's text so far after each token, `on_step` only counts, which is cheap; `stop` is asked as often. `say` hears in one sentence why decoding
    goes the slower way of transformers' `generate`, where it does; with `capture` false it goes that way unasked.
    """
    going = _going(base, lanes, sampling, on_text, stop, say, capture, on_step=on_step)
    while True:
        try:
            next(going)
        except StopIteration as ended:
            replies: list[Reply] = ended.value
            return replies


def together(
    asked: Sequence[tuple[Base, Sequence[Lane]]], sampling: Sampling, *,
    on_text: OnText = nobody, stop: Callable[[], bool] = lambda: False, say: Callable[[str], None] = _log_once,
) -> list[list[Reply]]:
    """`generate` on several loaded bases, a token on each in turns; `on_text` gets the texts of all lanes, in that order."""
    texts = [[""] * len(lanes) for _, lanes in asked]

    def heard(place: int) -> OnText:
        def tell(some: list[str]) -> None:
            texts[place] = some
            on_text([text for part in texts for text in part])

        return tell

    now = time.perf_counter()
    going = {place: _going(base, lanes, sampling, heard(place), stop, say, True, now) for place, (base, lanes) in enumerate(asked)}
    replies: dict[int, list[Reply]] = {}
    while going:
        for place, one in list(going.items()):
            try:
                next(one)
            except StopIteration as ended:
                replies[place] = ended.value
                del going[place]
    return [replies[place] for place in range(len(asked))]


Going = Generator[None, None, list[Reply]]


def _going(
    base: Base, lanes: Sequence[Lane], sampling: Sampling, on_text: OnText, stop: Callable[[], bool], say: Callable[[str], None], capture: bool,
    begun: float | None = None, on_step: OnStep = uncounted,
) -> Going:
    """`generate`, a token of each lane at every step; by transformers all at one step. `begun` is when it was asked, if not now."""
    if not lanes:
        return []
    if _must_part(base, lanes):
        return (yield from _in_turn(base, lanes, sampling, on_text, stop, say, capture, on_step))
    if capture:
        progress = Progress(lanes, base.tokenizer, on_text, stop, begun, on_step)
        try:
            yield from decode_static.steps(base, lanes, sampling, progress, say)
        except UnsupportedError as exc:
            say(f"Decoding goes by transformers, which is slower: {exc}.")
        except decode_static.DecodingFault as fault:
            _go_on_after(base, lanes, progress, fault, say)
        else:
            return progress.replies()
    return _by_transformers(base, lanes, sampling, Progress(lanes, base.tokenizer, on_text, stop, begun, on_step))


def _go_on_after(base: Base, lanes: Sequence[Lane], progress: Progress, fault: decode_static.DecodingFault, say: Callable[[str], None]) -> None:
    """Free what the loop held and say what happened; raises the cause where the other way can't be gone."""
    cause = fault.cause
    decode_static.check_device(base, fault)
    if any(lane.bound is not None for lane in lanes) and any(state.ids for state in progress.states):
        raise cause  # a bound follows its reply and can't begin again
    lets_go(fault)
    if base.device.type == "cuda":
        torch.cuda.empty_cache()
    say(f"Decoding goes by transformers, which is slower: {named(cause)}")


class _Lanes(BaseStreamer, StoppingCriteria):  # type: ignore[misc]
    """Collects each lane's tokens as `generate` makes them, reports the texts, and carries the stop request in."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if not self.prompt_seen:  # generate hands over the prompt first
            self.prompt_seen = True
            return
        self.progress.take(value.reshape(-1).tolist(), range(len(self.progress.states)))

    def end(self) -> None:
        pass

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        stopped = self.progress.should_stop()
        return torch.tensor([stopped or state.done for state in self.progress.states], device=input_ids.device)


class _Bounds(LogitsProcessor):  # type: ignore[misc]
    """Rules out, in every bound lane, the tokens that its bound does not allow. Runs before the sampling's own cuts."""

    def __init__(self, lanes: Sequence[Lane], progress: Progress, width: int) -> None:
        self.lanes, self.states, self.width = lanes, progress.states, width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        begun = input_ids.shape[1] > self.width
        for i, (lane, state) in enumerate(zip(self.lanes, self.states, strict=True)):
            if lane.bound is None or state.done:
                continue
            bind(lane.bound, int(input_ids[i, -1]) if begun else None, scores[i])
        return scores


def _by_transformers(base: Base, lanes: Sequence[Lane], sampling: Sampling, progress: Progress) -> list[Reply]:
    """All lanes by transformers' `generate`."""
    base.model.eval()  # the loop above knows no dropout
    width = max(len(lane.prompt_ids) for lane in lanes)
    pad = [[0] * (width - len(lane.prompt_ids)) for lane in lanes]
    ids_BT = torch.tensor([p + list(lane.prompt_ids) for p, lane in zip(pad, lanes, strict=True)], device=base.device)
    mask_BT = torch.tensor([p + [1] * len(lane.prompt_ids) for p, lane in zip(pad, lanes, strict=True)], device=base.device)
    watcher = _Lanes(progress)
    if not sampling.greedy:
        torch.manual_seed(sampling.seed)
    bounds: dict[str, Any] = {}
    if any(lane.bound is not None for lane in lanes):
        bounds = {"logits_processor": LogitsProcessorList([_Bounds(lanes, progress, width)])}
    # No inference mode: a spread base keeps the buffers that it fetched its layers into, and trains in them again.
    with torch.no_grad(), _adapters(base, lanes) as extra:
        base.model.generate(
            input_ids=ids_BT, attention_mask=mask_BT, generation_config=_config(base, sampling),
            streamer=watcher, stopping_criteria=StoppingCriteriaList([watcher]), **bounds, **extra,
        )
    return progress.replies()


def _must_part(base: Base, lanes: Sequence[Lane]) -> bool:
    """Whether lanes with different adapters, or with and without one, can't share a batch: peft mixes no DoRA adapter."""
    return len({lane.adapter for lane in lanes}) > 1 and any(base.model.peft_config[slot].use_dora for slot in SLOTS[: len(base.adapters)])


def _in_turn(
    base: Base, lanes: Sequence[Lane], sampling: Sampling, on_text: OnText, stop: Callable[[], bool], say: Callable[[str], None], capture: bool,
    on_step: OnStep,
) -> Going:
    """The lanes without an adapter first, then those with each; the steps are counted anew for each of them."""
    texts, replies = [""] * len(lanes), dict[int, Reply]()
    for adapter in sorted({lane.adapter for lane in lanes}):
        places = [i for i, lane in enumerate(lanes) if lane.adapter == adapter]

        def tell(some: list[str], places: list[int] = places) -> None:
            for i, text in zip(places, some, strict=True):
                texts[i] = text
            on_text(list(texts))

        def count(finished: int, steps: int, before: int = len(replies)) -> None:
            on_step(before + finished, steps)

        part = yield from _going(base, [lanes[i] for i in places], sampling, tell, stop, say, capture, on_step=count)
        replies |= dict(zip(places, part, strict=True))
    return [replies[i] for i in range(len(lanes))]


@contextlib.contextmanager
def _adapters(base: Base, lanes: Sequence[Lane]) -> Iterator[dict[str, Any]]:
    """Arranges which lanes see which adapter: none of them, all of them the same, or each as it says (a mixed batch)."""
    wanted = [lane.adapter for lane in lanes]
    if not base.adapters:
        yield {}
    elif not any(wanted):
        with base.model.disable_adapter():
            yield {}
    elif len(set(wanted)) == 1:
        with asked_alone(base, wanted[0]) if wanted[0] > 1 else contextlib.nullcontext():
            yield {}
    else:
        yield {"adapter_names": [SLOTS[number - 1] if number else BASE_LANE for number in wanted]}


def _config(base: Base, sampling: Sampling) -> GenerationConfig:
    chosen: dict[str, Any] = {"do_sample": False}
    if not sampling.greedy and sampling.temperature > 0:
        chosen = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens, eos_token_id=list(base.tokenizer.stop_ids), pad_token_id=0, use_cache=True, **chosen
    )
