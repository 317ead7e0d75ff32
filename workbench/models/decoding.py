"""Decoding: several lanes (a prompt, with or without the adapter) in one batch on one copy of the base weights.

Models whose layers are known are decoded by a loop of our own (`decode_static`), on CUDA as captured graphs; the rest, and what the
loop fails at, by transformers' `generate` with peft's mixed batches.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from workbench.models import decode_static
from workbench.models.decode_lanes import Bound, Lane, OnText, Progress, Reply, bind, nobody
from workbench.models.decode_stack import UnsupportedError
from workbench.models.decode_static import release, room_for
from workbench.models.faults import lets_go
from workbench.models.loading import ADAPTER, Base
from workbench.settings import Sampling

__all__ = ["BASE_LANE", "Bound", "Lane", "Reply", "generate", "release", "room_for"]

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
    keep: Collection[str] = (), stops: Collection[str] = (),
) -> list[Reply]:
    """One reply per lane, all lanes in one batch (prompts padded on the left).

    `on_text` gets every lane's text so far after each token; `stop` is asked as often. `say` hears in one sentence why decoding
    goes the slower way of transformers' `generate`, where it does; with `capture` false it goes that way unasked.
    Control tokens of `keep` stay in the texts, and a reply also ends before a text of `stops`: what a dialect of calls needs.
    """
    if not lanes:
        return []
    if _must_part(base, lanes):
        return _in_turn(base, lanes, sampling, on_text, stop, say, capture, keep, stops)
    if capture:
        progress = Progress(len(lanes), base.tokenizer, on_text, stop, keep=keep, stops=stops)
        try:
            decode_static.run(base, lanes, sampling, progress, say)
        except UnsupportedError as exc:
            say(f"Decoding goes by transformers, which is slower: {exc}.")
        except decode_static.DecodingFault as fault:
            _go_on_after(base, lanes, progress, fault, say)
        else:
            return progress.replies()
    return _by_transformers(base, lanes, sampling, Progress(len(lanes), base.tokenizer, on_text, stop, keep=keep, stops=stops))


def _go_on_after(base: Base, lanes: Sequence[Lane], progress: Progress, fault: decode_static.DecodingFault, say: Callable[[str], None]) -> None:
    """Free what the loop held and say what happened; raises the cause where the other way can't be gone."""
    cause = fault.cause
    decode_static.check_device(base, fault)
    if any(lane.bound is not None for lane in lanes) and any(state.ids for state in progress.states):
        raise cause  # a bound follows its reply and can't begin again
    lets_go(fault)
    if base.device.type == "cuda":
        torch.cuda.empty_cache()
    say(f"Decoding goes by transformers, which is slower: {type(cause).__name__}: {(str(cause).splitlines() or [''])[0][:200]}")


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
    """Whether lanes with and without the adapter can't share a batch: peft mixes no DoRA adapter."""
    return base.adapter is not None and len({lane.adapted for lane in lanes}) > 1 and bool(base.model.peft_config[ADAPTER].use_dora)


def _in_turn(
    base: Base, lanes: Sequence[Lane], sampling: Sampling, on_text: OnText, stop: Callable[[], bool], say: Callable[[str], None], capture: bool,
    keep: Collection[str], stops: Collection[str],
) -> list[Reply]:
    """The lanes without the adapter first, then those with it."""
    texts, replies = [""] * len(lanes), dict[int, Reply]()
    for adapted in (False, True):
        places = [i for i, lane in enumerate(lanes) if lane.adapted is adapted]

        def tell(some: list[str], places: list[int] = places) -> None:
            for i, text in zip(places, some, strict=True):
                texts[i] = text
            on_text(list(texts))

        part = generate(base, [lanes[i] for i in places], sampling, on_text=tell, stop=stop, say=say, capture=capture, keep=keep, stops=stops)
        replies |= dict(zip(places, part, strict=True))
    return [replies[i] for i in range(len(lanes))]


class _adapters:
    """Arranges which lanes see the adapter: none of them, all of them, or each as it says (a mixed batch)."""

    def __init__(self, base: Base, lanes: Sequence[Lane]) -> None:
        self.base, self.wanted = base, [lane.adapted for lane in lanes]
        self.off: Any = None

    def __enter__(self) -> dict[str, Any]:
        if self.base.adapter is None or all(self.wanted):
            return {}
        if not any(self.wanted):
            self.off = self.base.model.disable_adapter()
            self.off.__enter__()
            return {}
        return {"adapter_names": [ADAPTER if adapted else BASE_LANE for adapted in self.wanted]}

    def __exit__(self, *exc: Any) -> None:
        if self.off is not None:
            self.off.__exit__(*exc)


def _config(base: Base, sampling: Sampling) -> GenerationConfig:
    chosen: dict[str, Any] = {"do_sample": False}
    if not sampling.greedy and sampling.temperature > 0:
        chosen = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens, eos_token_id=list(base.tokenizer.stop_ids), pad_token_id=0, use_cache=True, **chosen
    )
