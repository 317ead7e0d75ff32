"""How a run's optimizer steps are made: from CUDA graphs where that can be had, eagerly everywhere else."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch

from workbench.models import proofs
from workbench.models.denormals import as_zero
from workbench.models.sharding import is_spread
from workbench.settings import Training
from workbench.training.captured import CaptureError, GraphedSteps, Update
from workbench.training.counted_dropout import Recomputation, recomputes
from workbench.training.cpu_pass import CpuPass
from workbench.training.encode import IGNORED, Encoded
from workbench.training.pack import Pack, pack, pack_within
from workbench.training.ranks import ALONE, Ranks
from workbench.training.schedule import forwards, orders
from workbench.training.static_batch import NotStaticError, StaticForward, choose_sizes, prove_same, raw_of, size_of
from workbench.training.step import PLAIN, Way, accumulate, apply_gradient, loss_sum, mean_loss, pack_losses

NOTHING = Pack(ids=(0, 0), positions=(0, 1), slots=(0,), targets=(0,))
STATIC, CPU_WAY = "a static forward", "a CPU's cheap pass"
PROOF_LABELS = 16  # on a CPU
PROOF_ROWS = 3  # the shortest rows, on which graphs' masks and loss are proven before anything is captured


class Steps(Protocol):
    """Makes optimizer steps and measures losses of one run."""

    def step(self, packs: Sequence[Pack], rate: float) -> tuple[float, float]:
        """One optimizer step at `rate`; (mean loss in nats per label, the gradient's norm before clipping). One that is not finite changes nothing."""

    def mean_loss(self, packs: Sequence[Pack], stop: Callable[[], bool]) -> float | None:
        """Mean loss without dropout (nats per label), None if `stop`, asked between packs, came first."""


class EagerSteps:
    """Kernel by kernel, on any device and any model."""

    def __init__(
        self, model: Any, optimizer: torch.optim.AdamW, parameters: Sequence[torch.nn.Parameter], limit: float, ranks: Ranks = ALONE,
        way: Way = PLAIN,
    ) -> None:
        self.model, self.optimizer, self.parameters, self.limit, self.ranks, self.way = model, optimizer, parameters, limit, ranks, way
        self.device = parameters[0].device

    def step(self, packs: Sequence[Pack], rate: float) -> tuple[float, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        labels = self.ranks.count(sum(len(p.targets) for p in packs))
        missing = self.ranks.most(len(packs)) - len(packs) if self.ranks.spread else 0  # asked before anybody passes a layer
        with self._lightly():
            loss = accumulate(self.model, packs, self.device, labels, self.way)
        self._pass_along(missing)
        loss = self._together(loss)
        return loss, apply_gradient(self.optimizer, self.parameters, self.limit)

    def mean_loss(self, packs: Sequence[Pack], stop: Callable[[], bool]) -> float | None:
        with self._lightly():
            return mean_loss(self.model, packs, self.device, stop, self.way)

    def _lightly(self) -> contextlib.AbstractContextManager[None]:
        return as_zero() if self.device.type == "cpu" else contextlib.nullcontext()

    def _pass_along(self, passes: int) -> None:
        """Passes that learn nothing, where another process has more: a spread layer is whole only where all pass it."""
        for _ in range(passes):
            (loss_sum(self.model, NOTHING, self.device) * 0.0).backward()  # type: ignore[no-untyped-call]

    def _together(self, loss: float) -> float:
        """Add up what the processes found, each for its rows: the gradients in place, and the loss."""
        if self.ranks.size == 1:
            return loss
        for parameter in self.parameters:
            if parameter.grad is None:  # no rows of this step were this process's
                parameter.grad = torch.zeros_like(parameter)
        total = torch.tensor(loss, device=self.device)
        self.ranks.add_up([*(p.grad for p in self.parameters if p.grad is not None), total])
        return float(total)


class StepsWithFallback:
    """Steps from graphs; where a capture fails, the reason is told once and the run goes on eagerly.

    Raises `CaptureError` where the failed capture took the card's context with it: only a new process can go on then.
    """

    def __init__(self, graphed: GraphedSteps, eager: EagerSteps, tell: Callable[[str], None], unproven: Callable[[], None] = lambda: None) -> None:
        """`unproven` is called where a capture failed by a fault of its own, not for want of memory."""
        self.graphed: GraphedSteps | None = graphed
        self.eager, self.tell, self.unproven = eager, tell, unproven

    def step(self, packs: Sequence[Pack], rate: float) -> tuple[float, float]:
        if self.graphed is not None:
            try:
                return self.graphed.step(packs, rate)
            except (CaptureError, torch.OutOfMemoryError) as exc:
                self._give_up(exc)
        return self.eager.step(packs, rate)

    def mean_loss(self, packs: Sequence[Pack], stop: Callable[[], bool]) -> float | None:
        if self.graphed is not None:
            try:
                return self.graphed.mean_loss(packs, stop)
            except (CaptureError, torch.OutOfMemoryError) as exc:
                self._give_up(exc)
        return self.eager.mean_loss(packs, stop)

    def _give_up(self, exc: CaptureError | torch.OutOfMemoryError) -> None:
        """Failed captures change nothing of the run: the gradients are cleared, and a step is made only by a replay."""
        if isinstance(exc, CaptureError):
            self.unproven()
            if exc.poisoned:
                raise exc
        if self.graphed is not None and self.graphed.again is not None:
            self.graphed.again.take_off()
        self.graphed = None
        self.eager.optimizer.zero_grad(set_to_none=True)
        if hasattr(self.eager.optimizer, "found_inf"):
            del self.eager.optimizer.found_inf
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        why = "the memory did not suffice for them" if isinstance(exc, torch.OutOfMemoryError) else str(exc)
        self.tell(f"CUDA graphs could not be made ({why}): the run goes on without them, with the same result and slower.")


def make_steps(
    model: Any, optimizer: torch.optim.AdamW, parameters: Sequence[torch.nn.Parameter], training: Training,
    rows: Sequence[Encoded], validation: Sequence[Encoded], tell: Callable[[str], None], ranks: Ranks = ALONE,
) -> Steps:
    """Steps for this run on the model's device; `tell` gets a sentence where quick ones were wanted and can't be had."""
    device = parameters[0].device
    way = cpu_way(model, rows, training, tell) if training.capture and device.type == "cpu" else PLAIN
    eager = EagerSteps(model, optimizer, parameters, training.max_grad_norm, ranks, way)
    if not training.capture or device.type != "cuda":
        return eager
    try:
        graphed = make_graphed(model, optimizer, parameters, training, rows, validation, ranks=ranks)
    except NotStaticError as exc:
        tell(f"Without CUDA graphs, so slower: {exc}.")
        return eager
    return StepsWithFallback(graphed, eager, tell, lambda: _unproven(model))


def make_graphed(
    model: Any, optimizer: torch.optim.AdamW, parameters: Sequence[torch.nn.Parameter], training: Training,
    rows: Sequence[Encoded], validation: Sequence[Encoded], *, ranks: Ranks = ALONE, record: bool = True,
) -> GraphedSteps:
    """Graphs (or with `record` off the same work without them) for every pack of the run; raises `NotStaticError`."""
    if reason := _hinders(model):
        raise NotStaticError(reason)
    device = parameters[0].device
    forward = _proven(model, rows, device)
    again = Recomputation(model, device) if recomputes(model) else None
    held = _sizes(validation, [range(len(validation))], training)
    # Measured a few times an epoch at most: one size of its own suffices.
    held_sizes = [size_of(max(t for t, _ in held), max(n for _, n in held))] if held else []
    sizes = choose_sizes(_sizes(rows, (ranks.share(group) for _, _, group in orders(len(rows), training)), training))
    return GraphedSteps(forward, Update(optimizer, parameters, training.max_grad_norm), sizes, held_sizes, device, again=again, ranks=ranks, record=record)


def cpu_way(model: Any, rows: Sequence[Encoded], training: Training, tell: Callable[[str], None]) -> Way:
    """How passes are made on a CPU: the cheap way where it is proven for this base and adapter's shape, else the plain one, and `tell` gets why."""
    raw = raw_of(model)
    if is_spread(raw):  # its layers are fetched around their own forwards
        return PLAIN
    way = CpuPass(model)
    if proofs.proven(raw, CPU_WAY) == way.signs():
        return way
    try:
        way.prove(model, few_labels(pack_within(_shortest(rows), training.tokens_per_forward)[0]))
    except NotStaticError as exc:
        tell(f"Without a CPU's cheaper passes, so slower: {exc}.")
        return PLAIN
    proofs.prove(raw, CPU_WAY, way.signs())
    return way


def _shortest(rows: Sequence[Encoded]) -> list[Encoded]:
    """What a proof is made on."""
    return sorted(rows, key=lambda row: len(row.ids))[:PROOF_ROWS]


def few_labels(packed: Pack) -> Pack:
    """`packed` with `PROOF_LABELS` of its labels at most, from all along it: a proof holds several copies of their logits."""
    step = -(-len(packed.slots) // PROOF_LABELS)
    return replace(packed, slots=packed.slots[::step], targets=packed.targets[::step])


_known: weakref.WeakKeyDictionary[Any, dict[str, list[int]]] = weakref.WeakKeyDictionary()  # base -> adapter -> the signs of its proven forward


def _proven(model: Any, rows: Sequence[Encoded], device: torch.device) -> StaticForward:
    """The model's static forward; proven once for a base and an adapter of this shape, as the runs of a sweep have it."""
    raw = raw_of(model)
    known = _known.setdefault(raw, {})
    shape = proofs.adapters_of(raw)
    if len(found := known.get(shape) or proofs.proven(raw, STATIC) or []) > 1:
        forward = StaticForward(model, bool(found[0]), bool(found[1]))
        if forward.signs() == found:  # the same kernels came as then
            known[shape] = found
            return forward
    forward = prove_same(model, [pack(_shortest(rows))], lambda packed: pack_losses(model, packed, device), device)
    known[shape] = forward.signs()
    proofs.prove(raw, STATIC, known[shape])
    return forward


def _unproven(model: Any) -> None:
    """Its static forward failed where it was trusted: the next run proves it anew, and finds another way if there is one."""
    _known.pop(raw_of(model), None)
    proofs.forget(raw_of(model), STATIC)


def _sizes(rows: Sequence[Encoded], groups: Iterable[Sequence[int]], training: Training) -> list[tuple[int, int]]:
    """(tokens, labels) of every pack that `groups`, each the places of one step's rows, make within the token budget."""
    tokens = [len(row.ids) for row in rows]
    labels = [sum(label != IGNORED for label in row.labels) for row in rows]
    return [pair for group in groups if group for pair in forwards(group, tokens, labels, training.tokens_per_forward)]


def _hinders(model: Any) -> str:
    """Why this model's training can't be captured, in words; empty if nothing is known to hinder."""
    raw = raw_of(model)
    if is_spread(raw):
        return "the base is spread over processes, which fetch its layers from each other"
    for module in raw.modules():
        state = getattr(module, "state", None)
        if float(getattr(state, "threshold", 0.0) or 0.0) > 0 and type(module).__name__ == "Linear8bitLt":
            return "8-bit weights with an outlier threshold wait for the host in every layer; set the 8-bit outlier threshold to 0 for graphs"
    return ""
