"""The optimizer step as CUDA graphs: captured once, replayed for every step with new inputs.

A small step's time on a GPU goes into telling the card each of its thousands of kernels; a graph tells them all at once.
Two kinds of graph work on one set of gradients: forward and backward of one pack (one graph per size), and the update
(clipping, AdamW, clearing). The rate, the labels' weight and the rows are tensors that are written before a replay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from workbench.models.faults import first_line, lost_to, named
from workbench.models.side_stream import capturing, side_stream
from workbench.training.counted_dropout import Recomputation
from workbench.training.pack import Pack
from workbench.training.ranks import ALONE, Ranks
from workbench.training.static_batch import Buffers, Size, StaticForward

WARM_UPS = 1  # passes before a capture: libraries make their workspaces and choose their kernels in them


class CaptureError(RuntimeError):
    """A capture failed. `poisoned`: the card's context is lost with it, and the process with the context."""

    def __init__(self, message: str, *, poisoned: bool) -> None:
        super().__init__(message)
        self.poisoned = poisoned


class Graphs:
    """All graphs of one run. They share one pool of memory: only one replays at a time, and none leaves a tensor in it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = side_stream(device)
        self.pool: Any = None

    def capture(self, work: Callable[[], None], warm_ups: int) -> torch.cuda.CUDAGraph:
        """`work` recorded; it runs `warm_ups` times before, and not at all while it is recorded. Raises `CaptureError`.

        Running out of memory passes through as torch's own error.
        """
        try:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self.stream):
                for _ in range(warm_ups):
                    work()
            torch.cuda.current_stream(self.device).wait_stream(self.stream)
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()  # what the warm-up kept lies in another pool, and would count twice
            graph = torch.cuda.CUDAGraph()
            with capturing(graph, self.pool, self.stream):
                work()
            self.pool = self.pool or graph.pool()
            return graph
        except torch.OutOfMemoryError:
            raise
        except Exception as exc:
            if lost_to(self.device):  # worded so that the engine knows the card's process for lost (models/faults)
                # What is told on the way may be cut at its end: the way out stands first.
                told = f"CUDA error while CUDA graphs were made; if it happens again, switch “Quick steps” off (training.capture=false): {first_line(exc)}"
                raise CaptureError(told, poisoned=True) from exc
            raise CaptureError(named(exc), poisoned=False) from exc


class Update:
    """Clipping, AdamW and clearing on gradients that stay where they are; a gradient that is not finite changes nothing.

    On a CUDA device the optimizer must be fused and capturable, its rate a tensor. The same runs eagerly on a CPU.
    """

    def __init__(self, optimizer: torch.optim.AdamW, parameters: Sequence[torch.nn.Parameter], limit: float) -> None:
        self.optimizer, self.parameters = optimizer, list(parameters)
        self.limit = limit if limit > 0 else math.inf
        device = self.parameters[0].device
        self.norm = torch.zeros((), device=device)
        self.found_inf = torch.zeros((), device=device)
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    @property
    def gradients(self) -> list[torch.Tensor]:
        return [p.grad for p in self.parameters if p.grad is not None]

    def set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def __call__(self) -> None:
        gradients = self.gradients
        norm = torch.nn.utils.get_total_norm(gradients)
        self.norm.copy_(norm)
        self.found_inf.copy_((~torch.isfinite(norm)).float())
        torch.nn.utils.clip_grads_with_norm_(self.parameters, self.limit, norm)
        # The fused AdamW leaves parameters and moments alone where this is 1 (meant for loss scaling).
        self.optimizer.found_inf = self.found_inf  # type: ignore[attr-defined]
        self.optimizer.step()
        torch._foreach_zero_(gradients)

    def prime(self) -> None:
        """Make AdamW's moments without a step: a graph must find them. Moments that are there (a resumed run's) stay."""
        known = [self.optimizer.state[p] for p in self.parameters if self.optimizer.state.get(p)]
        if known:
            return
        torch._foreach_zero_(self.gradients)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] = torch.zeros_like(group["lr"]) if isinstance(group["lr"], torch.Tensor) else 0.0
        self.optimizer.found_inf = self.found_inf.zero_()  # type: ignore[attr-defined]
        self.optimizer.step()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        for parameter in self.parameters:
            self.optimizer.state[parameter]["step"].zero_()


class GraphedSteps:
    """Optimizer steps and validation losses of one run from graphs, each captured when it is first needed.

    `sizes` are the sizes of the run's packs, ascending; a larger pack (validation) gets a graph of its own. With
    `record` off the same work runs eagerly on the same buffers: that is how a CPU proves it.
    """

    def __init__(
        self, forward: StaticForward, update: Update, sizes: Sequence[Size], held_sizes: Sequence[Size], device: torch.device, *,
        again: Recomputation | None = None, ranks: Ranks = ALONE, record: bool = True,
    ) -> None:
        self.forward, self.update, self.device, self.again = forward, update, device, again
        self.ranks = ranks
        self.sizes = {True: sorted(sizes), False: sorted(held_sizes)}
        self.graphs = Graphs(device) if record else None
        self.total = torch.zeros((), device=device)
        self._buffers: dict[Size, Buffers] = {}
        self._passes: dict[tuple[Size, bool], Callable[[], None]] = {}
        self._update: Callable[[], None] | None = None

    def step(self, packs: Sequence[Pack], rate: float) -> tuple[float, float]:
        """One optimizer step; returns (mean loss in nats per label, the gradient's norm before clipping)."""
        self._ready(packs, learns=True)
        weight = 1.0 / self.ranks.count(sum(len(p.targets) for p in packs))
        self._run(packs, weight, learns=True)
        self.ranks.add_up([*self.update.gradients, self.total])
        self.update.set_rate(rate)
        assert self._update is not None
        self._update()
        loss, norm = torch.stack([self.total, self.update.norm]).tolist()
        return loss, norm

    def mean_loss(self, packs: Sequence[Pack], stop: Callable[[], bool]) -> float | None:
        """Mean cross-entropy without dropout, None if `stop`, asked between packs, came first."""
        weight = 1.0 / sum(len(p.targets) for p in packs)
        model, was_training = self.forward.decoder, self.forward.decoder.training
        computes = self.graphs is None or bool(self._missing(packs, learns=False))  # a graph does what it did when it was captured
        if computes:
            model.eval()
        try:
            self._ready(packs, learns=False)
            return float(self.total) if self._run(packs, weight, learns=False, stop=stop) else None
        finally:
            if computes:
                model.train(was_training)

    def _run(self, packs: Sequence[Pack], weight: float, *, learns: bool, stop: Callable[[], bool] = lambda: False) -> bool:
        self.total.zero_()
        for i, packed in enumerate(packs):
            if i and stop():
                return False
            size = self._size(packed, learns)
            self._buffers[size].fill(packed, weight)
            if learns and self.again is not None:
                self.again.draw()
            self._passes[size, learns]()
        return True

    def _size(self, packed: Pack, learns: bool) -> Size:
        return next(size for size in self.sizes[learns] if size.holds(packed))

    def _missing(self, packs: Sequence[Pack], *, learns: bool) -> list[Size]:
        return [s for s in dict.fromkeys(self._size(p, learns) for p in packs) if (s, learns) not in self._passes]

    def _ready(self, packs: Sequence[Pack], *, learns: bool) -> None:
        """Capture what these packs need and is not there yet, with the random state and the gradients as they were."""
        missing = self._missing(packs, learns=learns)
        if not missing and not (learns and self._update is None):
            return
        random = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else torch.get_rng_state()
        for size in missing:
            packed = next(p for p in packs if self._size(p, learns) == size)
            self._buffers_of(size).fill(packed, 1.0)
            self._passes[size, learns] = self._recorded(lambda size=size: self._pass(size, learns), WARM_UPS)  # type: ignore[misc]
        if learns and self._update is None:
            self.update.prime()
            self._update = self._recorded(self.update, 0)
        torch._foreach_zero_(self.update.gradients)
        (torch.cuda.set_rng_state(random, self.device) if self.device.type == "cuda" else torch.set_rng_state(random))

    def _buffers_of(self, size: Size) -> Buffers:
        if size not in self._buffers:
            self._buffers[size] = self.forward.buffers(size, self.device)
        return self._buffers[size]

    def _recorded(self, work: Callable[[], None], warm_ups: int) -> Callable[[], None]:
        return work if self.graphs is None else self.graphs.capture(work, warm_ups).replay

    def _pass(self, size: Size, learns: bool) -> None:
        """Forward, and backward into the gradients where it `learns`, of what the buffers hold; the loss goes onto `total`."""
        with torch.set_grad_enabled(learns), self.forward.around():
            loss, _ = self.forward(self._buffers[size])
            if learns:
                loss.backward()  # type: ignore[no-untyped-call]
        self.total.add_(loss.detach())
