"""One base's layers, the cache of its lanes, and on a CUDA device the graphs captured over them: of a token's step, and of prompts read."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from workbench.models import decode_fused, proofs
from workbench.models.decode_stack import Stack, read_stack
from workbench.models.decode_step import Cache, begin, prefill, step
from workbench.models.loading import Base
from workbench.models.offload import host_parts
from workbench.models.side_stream import capturing, side_stream

ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # lanes that a graph is captured for
COLUMNS = (256, 512, 768, 1024, 1536, 2048, 4096, 8192, 16384)  # tokens that a cache is made for
WIDTHS = (16, 32, 48, 64, 96, 128, 192, 256)  # tokens that prompts are filled up to, so that their reading may be captured; longer ones are not
MOST_READ = 1024  # tokens, fillers included, of prompts whose reading is captured: launches count for less in larger ones
SHRINK = 4  # a smaller graph is captured once so many times fewer lanes are left

Say = Callable[[str], None]


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
        self.read_before: set[tuple[int, int, bool]] = set()  # rows, columns, with an adapter
        self.read_graphs: dict[tuple[int, int, bool], tuple[Any, Tensor, Tensor]] = {}
        self.pool: Any = None
        self.fused = decode_fused.usable(self.stack)
        self.raw = weakref.ref(base.raw)  # the decoder goes with its model, so it must not hold it
        self.proven: set[str] = set()  # which fused ways were held against the plain ones
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
        self.read_graphs.clear()
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

    def width_for(self, tokens: int) -> int:
        """How many columns prompts of at most so many tokens take."""
        return up_to(WIDTHS, tokens) if self.cuda else tokens

    def size_read(self, lanes: int, tokens: int) -> tuple[int, int]:
        """Rows and columns by which adapted prompts of at most so many tokens are read soonest: of a graph, if one is large enough."""
        graphs = [(rows, width) for rows, width, adapted in self.read_graphs if adapted and rows >= lanes and width >= tokens]
        return min(graphs, key=prod, default=(self.rows_for(lanes), self.width_for(tokens)))

    def read(self, rows: int, prompts: Sequence[Sequence[int]], adapters: Sequence[int], width: int = 0) -> Tensor:
        """Read all prompts into the cache (of `rows` at least), as many columns as `width_for` says if not `width`; the logits that follow (B×V).

        A size that comes again is captured as a graph: the first time would not pay for it.
        """
        cache = self.cache
        assert cache is not None
        lanes, width, adapted = len(prompts), width or self.width_for(max(map(len, prompts))), any(adapters)
        small = self.cuda and width <= WIDTHS[-1]
        graphed = small and self.whole and rows * width <= MOST_READ
        fillers = rows - lanes if graphed else 0
        ids_BT = begin(cache, [*prompts, *[()] * fillers], [*adapters, *[0] * fillers], width)
        size, masked = (rows, width, adapted), small or len(set(map(len, prompts))) > 1
        proof_BV = self._prove_reading(cache, ids_BT, adapted, masked)
        if graphed and size in self.read_before and size not in self.read_graphs:
            self.read_graphs[size] = (*self.record(lambda: self._read(cache, ids_BT, adapted, masked)), ids_BT)
        self.read_before.add(size)
        if proof_BV is not None:
            return proof_BV[:lanes]
        if not graphed or size not in self.read_graphs:
            return self._read(cache, ids_BT, adapted, masked)[:lanes]
        graph, logits_BV, held_BT = self.read_graphs[size]
        held_BT.copy_(ids_BT)
        graph.replay()
        return logits_BV[:lanes]

    def _read(self, cache: Cache, ids_BT: Tensor, adapted: bool, masked: bool) -> Tensor:
        return (decode_fused.prompt if self.fused else prefill)(self.stack, cache, ids_BT, adapted, masked=masked)

    def _prove_reading(self, cache: Cache, ids_BT: Tensor, adapted: bool, masked: bool) -> Tensor | None:
        """Hold the fused way of reading against the plain one, once of each kind; what it read then, if it is trusted."""
        what = f"fused reading{' past padding' if masked else ''} of {_some(ids_BT.numel())} tokens {'with' if adapted else 'without'} an adapter"
        return self._trust(
            what, lambda: decode_fused.prompt(self.stack, cache, ids_BT, adapted, masked=masked),
            lambda: prefill(self.stack, cache, ids_BT, adapted, masked=masked),
        )

    def _trust(self, what: str, fused: Callable[[], Tensor], plain: Callable[[], Tensor]) -> Tensor | None:
        """Give the fused kernels up unless they give what the `plain` way gives; returns what they gave, if they were asked and are trusted.

        Asked once a kind; where an earlier process held them against each other here, they only have to run.
        """
        if not self.fused or what in self.proven:
            return None
        made: list[Tensor] = []

        def asked() -> Tensor:
            made.append(fused())
            return made[0]

        if proofs.proven(self.raw(), what) == [1]:
            self.fused = decode_fused.runs(asked, self.stack.device, self.say)
        else:
            self.fused = decode_fused.agrees(asked, plain(), self.say)
            if self.fused:
                proofs.prove(self.raw(), what, [1])
        self.proven.add(what)
        return made[0] if self.fused else None

    def _step(self, cache: Cache, rows: int, adapted: bool) -> Tensor:
        if self.fused:
            return decode_fused.step(self.stack, cache, rows, adapted)
        return step(self.stack, cache, rows, cache.columns, adapted)

    def _prove(self, cache: Cache, rows: int, adapted: bool) -> bool:
        """Hold the fused step against the plain one, once of each kind; the column stays where it is. True if it was made and is trusted."""
        def stayed(work: Callable[[], Tensor]) -> Tensor:
            column = cache.column.clone()
            try:
                return work()
            finally:
                cache.column.copy_(column)

        return self._trust(
            f"fused step of {_some(rows)} rows {'with' if adapted else 'without'} an adapter",
            lambda: stayed(lambda: decode_fused.step(self.stack, cache, rows, adapted)), lambda: stayed(lambda: step(self.stack, cache, rows, cache.columns, adapted)),
        ) is not None

    def _rehearse(self, cache: Cache, rows: int, adapted: bool, column: Tensor) -> None:
        """A step before the capture: libraries load their kernels at the first call. What it writes, the step itself overwrites."""
        if not self._prove(cache, rows, adapted):
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
        self.graphs[rows, adapted] = self.record(lambda: self._step(cache, rows, adapted))

    def record(self, work: Callable[[], Tensor]) -> tuple[Any, Tensor]:
        """`work` as a CUDA graph, and what its replays leave where the capture left it."""
        graph = torch.cuda.CUDAGraph()
        with capturing(graph, self.pool, side_stream(self.stack.device)):
            made = work()
        self.pool = self.pool or graph.pool()
        return graph, made


def _some(rows: int) -> str:
    """Which of the fused ways so many rows take."""
    return "few" if rows <= decode_fused.OWN_PRODUCTS else "many"


def _hinders(base: Base) -> str:
    """What keeps a step from being captured: it would wait for the host in the middle. Empty if nothing does."""
    if base.quantization.mode == "8-bit" and base.quantization.threshold > 0:
        return "8-bit weights with an outlier threshold above 0"
    return "word embeddings in the host's memory" if host_parts(base.raw) is not None else ""
