"""A decoding loop of our own: all lanes in one batch over a cache in place, base and adapted side by side on one copy of the weights.

On a CUDA device the step of one token is captured once per number of lanes as a CUDA graph and replayed; the host looks at each
token one step behind, so that the device never waits for it. On a CPU the same step runs as it is.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.models.decode_choice import Chooser
from workbench.models.decode_graphs import COLUMNS, Decoder, Say, up_to
from workbench.models.decode_lanes import Lane, Progress, bind
from workbench.models.decode_stack import UnsupportedError, read_stack
from workbench.models.decode_step import Cache
from workbench.models.faults import accelerator_fault, lets_go, lost_to
from workbench.models.loading import Base
from workbench.settings import Sampling

KEPT_IN_TRAINING = 2**28  # bytes of cache: more is held while the adapter may be training only where an eighth of the free memory allows it


class DecodingFault(Exception):
    """The loop's own work failed, not what it was asked or whoever reads along. `cause` is what was raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


@contextlib.contextmanager
def _own_work() -> Iterator[None]:
    try:
        yield
    except Exception as exc:
        raise DecodingFault(exc) from exc


class _Fetch:
    """Tokens on their way from the device to the host."""

    def __init__(self, tokens_B: Tensor) -> None:
        self.event: Any = None
        if tokens_B.device.type == "cuda":
            self.tokens_B = torch.empty(tokens_B.shape, dtype=tokens_B.dtype, pin_memory=True)
            self.tokens_B.copy_(tokens_B, non_blocking=True)
            self.event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self.event.record()
        else:
            self.tokens_B = tokens_B.clone()

    def wait(self) -> list[int]:
        if self.event is not None:
            self.event.synchronize()
        tokens: list[int] = self.tokens_B.tolist()
        return tokens


class _Loop:
    """One call's way from the prompts to the last token."""

    def __init__(self, decoder: Decoder, lanes: Sequence[Lane], sampling: Sampling, progress: Progress) -> None:
        self.decoder, self.lanes, self.sampling, self.progress = decoder, lanes, sampling, progress
        self.bound = any(lane.bound is not None for lane in lanes)
        self.adapted = any(lane.adapter for lane in lanes)
        self.live = list(range(len(lanes)))  # the lane in each row; what is beyond are rows that fill a size up
        self.rows = decoder.rows_for(len(lanes))
        self.width = decoder.width_for(max(len(lane.prompt_ids) for lane in lanes))

    def steps(self) -> Iterator[None]:
        """One token of every lane at each step."""
        decoder, last = self.decoder, self.sampling.max_new_tokens - 1
        with _own_work():
            decoder.stack.copy_adapter()
            cache = decoder.room(self.rows, self.width + self.sampling.max_new_tokens)
            choose = Chooser(self.sampling)
            logits_BV = decoder.read(self.rows, [lane.prompt_ids for lane in self.lanes], [lane.adapter for lane in self.lanes])
            if decoder.cuda and last:
                decoder.capture(self.rows, self.adapted)  # a fault must come before the first token is told
        self._choose(choose, logits_BV)
        ahead = decoder.cuda and not self.bound
        for number in range(last + 1):
            with _own_work():
                fetch = _Fetch(cache.ids_B[: len(self.live)])
                if ahead and number < last:
                    self._next(choose, number)
                tokens = fetch.wait()
            self.progress.take(tokens, self.live)
            if self.progress.should_stop() or all(self.progress.states[lane].done for lane in self.live) or number == last:
                return
            self._drop_finished(cache)
            if not ahead:
                self._next(choose, number)
            yield

    def _next(self, choose: Chooser, number: int) -> None:
        with _own_work():
            logits_BV = self.decoder.launch(self.rows, self.width + number + 1, self.adapted)
        self._choose(choose, logits_BV[: len(self.live)])

    def _choose(self, choose: Chooser, logits_BV: Tensor) -> None:
        if self.bound:
            logits_BV = self._allowed(logits_BV)
        with _own_work():
            assert self.decoder.cache is not None
            self.decoder.cache.ids_B[: len(self.live)].copy_(choose(logits_BV))

    def _allowed(self, logits_BV: Tensor) -> Tensor:
        """The logits with -inf where a lane's bound forbids a token."""
        logits_BV = logits_BV.clone()
        for row, lane in enumerate(self.live):
            bound, state = self.lanes[lane].bound, self.progress.states[lane]
            if bound is None or state.done:
                continue
            bind(bound, state.ids[-1] if state.ids else None, logits_BV[row])
        return logits_BV

    def _drop_finished(self, cache: Cache) -> None:
        """Go on with fewer rows where a smaller size holds all lanes that are not finished."""
        still = [row for row, lane in enumerate(self.live) if not self.progress.states[lane].done]
        rows = self.decoder.rows_for(len(still))
        if rows >= self.rows or not self.decoder.worth_changing(self.rows, rows, self.adapted):
            return
        with _own_work():
            cache.keep(still)
        self.live, self.rows = [self.live[row] for row in still], rows


_OVER = object()
_kept: weakref.WeakKeyDictionary[Any, Decoder] = weakref.WeakKeyDictionary()


def _decoder(base: Base, say: Say) -> Decoder:
    """The base's decoder. On CUDA each loaded base's last one is kept, as its graphs took time; it goes with its model."""
    if base.device.type != "cuda":
        return Decoder(base, say)
    kept = _kept.get(base.raw)
    if kept is not None and kept.adapters is base.adapters:  # the very same: an adapter may be put on again under its name
        kept.say = say
        return kept
    del kept
    _kept.pop(base.raw, None)
    made = _kept[base.raw] = Decoder(base, say)
    return made


def release(above: int = 0) -> None:
    """Give the kept caches and graphs back, unless a cache takes no more than `above` bytes."""
    for model, decoder in list(_kept.items()):
        if not above or decoder.cache_bytes() > above:
            del _kept[model]


def steps(base: Base, lanes: Sequence[Lane], sampling: Sampling, progress: Progress, say: Say) -> Iterator[None]:
    """Decode all lanes into `progress`, a token of each at every step.

    Raises `UnsupportedError` for a model that the loop does not know, and `DecodingFault` where the loop's own work failed
    (out of memory, a capture that the device refuses); what a callback or a bound raises passes through.
    """
    try:
        with torch.inference_mode():
            decoder = _decoder(base, say)
        going = _Loop(decoder, lanes, sampling, progress).steps()
        while True:
            with torch.inference_mode():  # not across a yield: whoever goes on meanwhile has a mode of its own
                if next(going, _OVER) is _OVER:
                    break
            yield
    except DecodingFault:
        release()
        raise
    if any(part.a.requires_grad for projection in decoder.stack.projections for part in projection.parts):
        release(above=_spare(base))


def difference_made(base: Base, prompt: Sequence[int]) -> float | None:
    """The largest absolute difference that the first adapter makes to the logits (fp32) after `prompt`, by the decoder that is kept for the base.

    None where none is kept (on a CPU never), or it fails: two plain forwards tell it then, which take a 4B half a second. A lost device is raised.
    """
    kept = _kept.get(base.raw)
    if kept is None or kept.adapters is not base.adapters:
        return None
    try:
        with torch.inference_mode():
            kept.stack.copy_adapter()
            rows, width = kept.size_read(2, len(prompt))
            kept.room(rows, width + 1)
            adapted_V, plain_V = kept.read(rows, [prompt, prompt], [1, 0], width).float()
            return float((adapted_V - plain_V).abs().max())
    except Exception as exc:
        kept = None  # or its cache and graphs would be held until the end, here and by the fault's frames
        release()
        check_device(base, DecodingFault(exc))
        lets_go(exc)
        if base.device.type == "cuda":
            torch.cuda.empty_cache()
        return None


def _spare(base: Base) -> int:
    """Bytes of cache that may stay beside a training run: its graphs would have to be captured again at the end of every epoch."""
    if base.device.type != "cuda":
        return KEPT_IN_TRAINING
    return max(KEPT_IN_TRAINING, torch.cuda.mem_get_info(base.device)[0] // 8)


def check_device(base: Base, fault: DecodingFault) -> None:
    """Raise the fault's cause if the device answers no more: nothing that follows could work, and whoever asked must be told."""
    if base.device.type != "cuda" or accelerator_fault(fault.cause) == "memory":
        return
    if (lost := lost_to(base.device)) is not None:
        raise lost from fault.cause


def room_for(base: Base, columns: int, *, most: int, share: float = 0.5) -> int:
    """How many lanes of so many columns fit into that share of the card's free memory; `most` on a CPU or where it can't be told."""
    if base.device.type != "cuda":
        return most
    try:
        stack = read_stack(base)
    except UnsupportedError:
        return most
    free, _ = torch.cuda.mem_get_info(base.device)
    free += torch.cuda.memory_reserved(base.device) - torch.cuda.memory_allocated(base.device)
    widest = max(layer.gate_up.members[0].width for layer in stack.layers)
    per_lane = stack.kv_bytes(up_to(COLUMNS, columns)) + columns * 4 * widest * stack.dtype.itemsize + stack.vocabulary * 8
    return max(1, min(most, int(share * free / per_lane)))
