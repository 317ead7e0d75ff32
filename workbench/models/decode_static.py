"""A decoding loop of our own: all lanes in one batch over a cache in place, base and adapted side by side on one copy of the weights.

On a CUDA device the step of one token is captured once per number of lanes as a CUDA graph and replayed; the host looks at each
token one step behind, so that the device never waits for it. On a CPU the same step runs as it is.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.models import decode_fused
from workbench.models.decode_choice import Chooser
from workbench.models.decode_lanes import Lane, Progress, bind
from workbench.models.decode_stack import Stack, UnsupportedError, read_stack
from workbench.models.decode_step import Cache, prefill, step
from workbench.models.faults import accelerator_fault, lost_to
from workbench.models.loading import Base
from workbench.models.offload import host_parts
from workbench.models.side_stream import side_stream
from workbench.settings import Sampling

ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # lanes that a graph is captured for
COLUMNS = (256, 512, 768, 1024, 1536, 2048, 4096, 8192, 16384)  # tokens that a cache is made for
SHRINK = 4  # a smaller graph is captured once so many times fewer lanes are left
KEPT_IN_TRAINING = 2**28  # bytes of cache: more is held while the adapter may be training only where an eighth of the free memory allows it

Say = Callable[[str], None]


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


def up_to(sizes: Sequence[int], least: int) -> int:
    """The smallest of `sizes` that is not below `least`; beyond the last, `least` itself."""
    return next((size for size in sizes if size >= least), least)


class Decoder:
    """One base's layers, a cache for its lanes, and the graphs captured over them. Made for the adapters that are on the base then."""

    def __init__(self, base: Base, say: Say) -> None:
        self.stack: Stack = read_stack(base)
        self.adapters = base.adapters
        self.say = say
        self.cuda = self.stack.device.type == "cuda"
        self.cache: Cache | None = None
        self.graphs: dict[tuple[int, bool], tuple[Any, Tensor]] = {}
        self.pool: Any = None
        self.fused = decode_fused.usable(self.stack)
        self.proven: set[bool] = set()  # with the adapter, without: whether the fused step was held against the plain one
        self.read_proven: set[bool] = set()  # and the fused reading of prompts
        reason = _hinders(base)
        self.whole = not reason  # whether a step can be captured at all
        if self.cuda and reason:
            say(f"Decoding takes its steps one by one: {reason} can't be captured as a CUDA graph.")

    def room(self, rows: int, columns: int) -> Cache:
        """A cache of at least that size. On CUDA it is kept, with its graphs, until one is needed that it can't serve."""
        if self.cache is not None and self.cache.rows >= rows and self.cache.columns >= columns:
            return self.cache
        if self.cuda:
            rows, columns = up_to(ROWS, rows), up_to(COLUMNS, columns)
        self.graphs.clear()
        self.cache = self.pool = None
        self.cache = Cache(self.stack, rows, columns)
        return self.cache

    def cache_bytes(self) -> int:
        return 0 if self.cache is None else self.cache.rows * self.stack.kv_bytes(self.cache.columns)

    def rows_for(self, lanes: int) -> int:
        """How many rows a step takes for so many lanes: on CUDA one of the captured sizes."""
        return up_to(ROWS, lanes) if self.cuda else lanes

    def worth_changing(self, rows: int, fewer: int, adapted: bool) -> bool:
        """Whether to go on with fewer rows: a graph that is not there yet must be worth its capture."""
        return not self.cuda or not self.whole or (fewer, adapted) in self.graphs or SHRINK * fewer <= rows

    def launch(self, rows: int, upto: int, adapted: bool) -> Tensor:
        """One token of every row; its logits (rows×V), which the next launch may overwrite."""
        cache = self.cache
        assert cache is not None
        if not self.cuda:
            return step(self.stack, cache, rows, upto, adapted)
        if not self.whole:
            self._prove(cache, rows, adapted)
            return self._step(cache, rows, adapted)
        if (rows, adapted) not in self.graphs:
            self.capture(rows, adapted)
        graph, logits_BV = self.graphs[rows, adapted]
        graph.replay()
        return logits_BV

    def read(self, cache: Cache, prompts: Sequence[Sequence[int]], adapters: Sequence[int]) -> Tensor:
        """Read all prompts into the cache; the logits that follow (B×V). The fused way is held against the plain one once, as the step's is."""
        if self.fused and any(adapters) in self.read_proven:
            return decode_fused.prompt(self.stack, cache, prompts, adapters)
        plain_BV = prefill(self.stack, cache, prompts, adapters)
        if not self.fused:
            return plain_BV
        made: list[Tensor] = []

        def ours() -> Tensor:
            made.append(decode_fused.prompt(self.stack, cache, prompts, adapters))
            return made[0]

        self.fused = decode_fused.agrees(ours, plain_BV, self.say)
        self.read_proven.add(any(adapters))
        return made[0] if self.fused else prefill(self.stack, cache, prompts, adapters)

    def _step(self, cache: Cache, rows: int, adapted: bool) -> Tensor:
        if self.fused:
            return decode_fused.step(self.stack, cache, rows, adapted)
        return step(self.stack, cache, rows, cache.columns, adapted)

    def _prove(self, cache: Cache, rows: int, adapted: bool) -> None:
        """Hold the fused step against the plain one, once with the adapter and once without; the column stays where it is."""
        if not self.fused or adapted in self.proven:
            return
        column = cache.column.clone()
        plain_BV = step(self.stack, cache, rows, cache.columns, adapted)
        cache.column.copy_(column)
        self.fused = decode_fused.agrees(lambda: decode_fused.step(self.stack, cache, rows, adapted), plain_BV, self.say)
        self.proven.add(adapted)
        cache.column.copy_(column)

    def _rehearse(self, cache: Cache, rows: int, adapted: bool, column: Tensor) -> None:
        """A step before the capture: libraries load their kernels at the first call. What it writes, the step itself overwrites."""
        self._prove(cache, rows, adapted)
        self._step(cache, rows, adapted)
        cache.column.copy_(column)

    def capture(self, rows: int, adapted: bool) -> None:
        """Capture the step of so many rows, unless it is there; raises what the capture raises."""
        cache = self.cache
        assert cache is not None
        if not self.whole or (rows, adapted) in self.graphs:
            return
        column = cache.column.clone()
        side = side_stream(self.stack.device)
        side.wait_stream(torch.cuda.current_stream(self.stack.device))
        with torch.cuda.stream(side):
            self._rehearse(cache, rows, adapted, column)
        torch.cuda.current_stream(self.stack.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=side, capture_error_mode="thread_local"):
            logits_BV = self._step(cache, rows, adapted)
        self.pool = self.pool or graph.pool()
        self.graphs[rows, adapted] = (graph, logits_BV)


def _hinders(base: Base) -> str:
    """What keeps a step from being captured: it would wait for the host in the middle. Empty if nothing does."""
    if base.quantization.mode == "8-bit" and base.quantization.threshold > 0:
        return "8-bit weights with an outlier threshold above 0"
    return "word embeddings in the host's memory" if host_parts(base.raw) is not None else ""


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
        self.width = max(len(lane.prompt_ids) for lane in lanes)

    def steps(self) -> Iterator[None]:
        """One token of every lane at each step."""
        decoder, last = self.decoder, self.sampling.max_new_tokens - 1
        with _own_work():
            decoder.stack.copy_adapter()
            cache = decoder.room(self.rows, self.width + self.sampling.max_new_tokens)
            choose = Chooser(self.sampling)
            logits_BV = decoder.read(cache, [lane.prompt_ids for lane in self.lanes], [lane.adapter for lane in self.lanes])
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


def run(base: Base, lanes: Sequence[Lane], sampling: Sampling, progress: Progress, say: Say) -> None:
    """Decode all lanes into `progress`, as `steps` does."""
    for _ in steps(base, lanes, sampling, progress, say):
        pass


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


_OVER = object()


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
