"""Decoding: several lanes (a prompt, with or without the adapter) in one batch on one copy of the base weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from workbench.models.loading import ADAPTER, Base
from workbench.settings import Sampling

BASE_LANE = "__base__"  # peft's word for "no adapter" in a mixed batch


class Bound(Protocol):
    """What limits the tokens of one reply. It is made for that reply and follows it token by token."""

    def allowed(self, last: int | None, width: int) -> torch.Tensor | None:
        """The mask of the tokens that may follow `last` (bool, V = `width`), or None for all; `last` is None at the start."""


@dataclass(frozen=True)
class Lane:
    """One reply to make: the prompt's ids, whether the adapter is on, and what binds its tokens, if anything."""

    prompt_ids: tuple[int, ...]
    adapted: bool
    bound: Bound | None = None


@dataclass(frozen=True)
class Reply:
    """A finished reply. `ended` tells why it ended: "stop token", "length" or "stopped"."""

    text: str
    tokens: int
    seconds: float
    first_token_seconds: float
    ended: str


@dataclass
class _LaneState:
    ids: list[int]
    seconds: float = 0.0
    first: float = 0.0
    done: bool = False


class _Lanes(BaseStreamer, StoppingCriteria):  # type: ignore[misc]
    """Collects each lane's tokens as `generate` makes them, reports the texts, and carries the stop request in."""

    def __init__(
        self, count: int, base: Base, on_text: Callable[[list[str]], None], stop: Callable[[], bool]
    ) -> None:
        self.states = [_LaneState([]) for _ in range(count)]
        self.base, self.on_text, self.stop = base, on_text, stop
        self.begun = time.perf_counter()
        self.prompt_seen = self.stopped = False

    def put(self, value: torch.Tensor) -> None:
        if not self.prompt_seen:  # generate hands over the prompt first
            self.prompt_seen = True
            return
        now = time.perf_counter() - self.begun
        for state, token in zip(self.states, value.reshape(-1).tolist(), strict=True):
            if state.done:
                continue
            state.first = state.first or now
            state.seconds = now
            if token in self.base.tokenizer.stop_ids:
                state.done = True
            else:
                state.ids.append(token)
        self.on_text(self.texts())

    def end(self) -> None:
        pass

    def texts(self) -> list[str]:
        # A reply may end inside a character of several tokens: what is not whole yet is not shown.
        return [self.base.tokenizer.text(s.ids).rstrip("\ufffd") for s in self.states]

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.stopped = self.stopped or self.stop()
        return torch.full((input_ids.shape[0],), self.stopped, device=input_ids.device, dtype=torch.bool)


class _Bounds(LogitsProcessor):  # type: ignore[misc]
    """Rules out, in every bound lane, the tokens that its bound does not allow. Runs before the sampling's own cuts."""

    def __init__(self, lanes: Sequence[Lane], states: Sequence[_LaneState], width: int) -> None:
        self.lanes, self.states, self.width = lanes, states, width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        begun = input_ids.shape[1] > self.width
        for i, (lane, state) in enumerate(zip(self.lanes, self.states, strict=True)):
            if lane.bound is None or state.done:
                continue
            mask_V = lane.bound.allowed(int(input_ids[i, -1]) if begun else None, scores.shape[-1])
            if mask_V is not None:
                scores[i] = scores[i].masked_fill(~mask_V.to(scores.device), -torch.inf)
        return scores


def generate(
    base: Base, lanes: Sequence[Lane], sampling: Sampling, *,
    on_text: Callable[[list[str]], None] = lambda _: None, stop: Callable[[], bool] = lambda: False,
) -> list[Reply]:
    """One reply per lane, all lanes in one batch (prompts padded on the left).

    `on_text` gets every lane's text so far after each token; `stop` is asked as often.
    """
    if _must_part(base, lanes):
        return _in_turn(base, lanes, sampling, on_text, stop)
    width = max(len(lane.prompt_ids) for lane in lanes)
    pad = [[0] * (width - len(lane.prompt_ids)) for lane in lanes]
    ids_BT = torch.tensor([p + list(lane.prompt_ids) for p, lane in zip(pad, lanes, strict=True)], device=base.device)
    mask_BT = torch.tensor([p + [1] * len(lane.prompt_ids) for p, lane in zip(pad, lanes, strict=True)], device=base.device)
    base.model.eval()
    watcher = _Lanes(len(lanes), base, on_text, stop)
    if not sampling.greedy:
        torch.manual_seed(sampling.seed)
    bounds: dict[str, Any] = {}
    if any(lane.bound is not None for lane in lanes):
        bounds = {"logits_processor": LogitsProcessorList([_Bounds(lanes, watcher.states, width)])}
    with torch.inference_mode(), _adapters(base, lanes) as extra:
        base.model.generate(
            input_ids=ids_BT, attention_mask=mask_BT, generation_config=_config(base, sampling),
            streamer=watcher, stopping_criteria=StoppingCriteriaList([watcher]), **bounds, **extra,
        )
    texts = [base.tokenizer.text(s.ids) for s in watcher.states]
    return [
        Reply(text, len(s.ids), s.seconds, s.first, "stop token" if s.done else "stopped" if watcher.stopped else "length")
        for text, s in zip(texts, watcher.states, strict=True)
    ]


def _must_part(base: Base, lanes: Sequence[Lane]) -> bool:
    """Whether lanes with and without the adapter can't share a batch: peft mixes no DoRA adapter."""
    return base.adapter is not None and len({lane.adapted for lane in lanes}) > 1 and bool(base.model.peft_config[ADAPTER].use_dora)


def _in_turn(
    base: Base, lanes: Sequence[Lane], sampling: Sampling, on_text: Callable[[list[str]], None], stop: Callable[[], bool]
) -> list[Reply]:
    """The lanes without the adapter first, then those with it."""
    texts, replies = [""] * len(lanes), dict[int, Reply]()
    for adapted in (False, True):
        places = [i for i, lane in enumerate(lanes) if lane.adapted is adapted]

        def tell(some: list[str], places: list[int] = places) -> None:
            for i, text in zip(places, some, strict=True):
                texts[i] = text
            on_text(list(texts))

        replies |= dict(zip(places, generate(base, [lanes[i] for i in places], sampling, on_text=tell, stop=stop), strict=True))
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
