"""The training loop. It knows no screen and no folder: it is given batches, and told where to report."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from workbench.errors import WorkbenchError
from workbench.models.hardware import gpu_use
from workbench.settings import Training
from workbench.training import events
from workbench.training.cadence import Cadence
from workbench.training.checkpoint import Checkpoint, Moment, restore
from workbench.training.encode import Encoded
from workbench.training.keeping import Best, Measure, make_keeper
from workbench.training.pack import Pack, pack_within
from workbench.training.ranks import ALONE, Ranks
from workbench.training.schedule import orders, step_count
from workbench.training.step import make_optimizer, rate_at
from workbench.training.stepper import make_steps

Emit = Callable[[events.Event], None]
Ask = Callable[[int, float], "events.Sampled | None"]


class NotFiniteError(WorkbenchError):
    """The loss or the gradient is no longer a number."""


@dataclass(frozen=True)
class Outcome:
    """How the loop ended: after which optimizer step, whether it was asked to stop, and why it ended early, if it did."""

    steps: int
    stopped: bool
    early: str = ""
    best: Best | None = None


def batches(rows: Sequence[Encoded], training: Training, after: int = 0, ranks: Ranks = ALONE) -> Iterator[tuple[int, bool, list[Pack]]]:
    """(epoch from 0, last of its epoch?, this process's packs) for every optimizer step, rows shuffled anew by the seed each epoch.

    The first `after` steps are passed over, with the shuffles they took.
    """
    for step, (epoch, ends, places) in enumerate(orders(len(rows), training)):
        if step >= after:
            yield epoch, ends, pack_within([rows[i] for i in ranks.share(places)], training.tokens_per_forward)


def train(
    model: Any, rows: Sequence[Encoded], validation: Sequence[Encoded], training: Training, *,
    emit: Emit, stop: Callable[[], bool], save: Callable[[Moment], None], ask: Ask | None = None, resume: Checkpoint | None = None, ranks: Ranks = ALONE,
) -> Outcome:
    """Train `model`'s trainable parameters in place on `rows`, or go on with it from the checkpoint `resume`.

    `emit` gets every event, `stop` is asked between optimizer steps, `save` keeps the adapter. `ask(step, epoch)` lets
    the model answer validation rows; it must not touch the random state. Raises `NotFiniteError` when the loss or the
    gradient is no longer a finite number. With several `ranks` all of them call this alike; only the first one's `stop`
    and `ask` are asked.
    """
    loop = _Loop(model, rows, validation, training, emit, stop, save, ask, ranks)
    torch.manual_seed(training.seed + ranks.rank)  # each its own dropout
    model.train()
    if resume is None:
        loop.begin()
    else:
        loop.go_on(resume)
    for epoch, epoch_ends, packs in batches(rows, training, after=loop.step, ranks=ranks):
        if loop.keeper.exhausted or ranks.from_first(stop):
            break
        loop.one_step(packs)
        loop.look(epoch, epoch_ends)
    short = loop.step < loop.total or loop.cut_at == loop.step  # without its last measurement it is not finished either
    early = loop.keeper.sentence(loop.step) if short and loop.keeper.exhausted else ""
    if loop.saved_at < loop.step or loop.waiting is not None:
        loop.keep(best=loop.waiting_at == loop.step, final=not short or bool(early))
    return Outcome(loop.step, stopped=short and not early, early=early, best=loop.keeper.best if loop.keeper.keeps else None)


class _Loop:
    """The loop's state: the optimizer, the step (done so far), the step last saved, and what was measured."""

    def __init__(
        self, model: Any, rows: Sequence[Encoded], validation: Sequence[Encoded], training: Training,
        emit: Emit, stop: Callable[[], bool], save: Callable[[Moment], None], ask: Ask | None, ranks: Ranks,
    ) -> None:
        self.model, self.training, self.emit, self.stop, self.save, self.ask, self.ranks = model, training, emit, stop, save, ask, ranks
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        on_card = self.device.type == "cuda"
        self.optimizer = make_optimizer(self.parameters, training, fused=on_card, capturable=on_card and training.capture)
        self.steps = make_steps(model, self.optimizer, self.parameters, training, rows, validation, lambda text: emit(events.Notice(text=text)), ranks)
        self.held_back = pack_within(validation, training.tokens_per_forward)
        self.total = step_count(len(rows), training)
        self.per_epoch = self.total // training.epochs
        self.keeper, self.notice = make_keeper(training, validates=bool(validation), asks=ask is not None)
        self.step = self.saved_at = self.asked_at = self.cut_at = 0
        self.cadence = Cadence(self.parameters, training.save_every)
        self.waiting: list[torch.Tensor] | None = None  # the best adapter, where saving it at once was not worth its time
        self.waiting_at = -1  # the step it is of

    def halts(self) -> bool:
        """Whether a measurement may be cut short now: on a spread base never, the other processes would wait for this one."""
        return not self.ranks.spread and self.stop()

    def begin(self) -> None:
        if self.notice:
            self.emit(events.Notice(text=self.notice))
        ask = self.ask
        told = self.ranks.measured(lambda: ask(0, 0.0) if ask is not None and not self.halts() else None)
        if told is not None:
            self.emit(told)  # what the base does: not a measurement of the adapter

    def go_on(self, checkpoint: Checkpoint) -> None:
        restore(checkpoint, self.model, self.optimizer)
        if not self.ranks.first:  # the checkpoint holds the first one's
            torch.manual_seed(self.training.seed + self.ranks.rank + checkpoint.state.step * self.ranks.size)
        state = checkpoint.state
        self.step, self.asked_at, self.keeper.best, self.keeper.since = state.step, state.asked_at, state.best, list(state.since)
        if state.cut_at == self.step and self.held_back:
            self._validate()
        if self.step > self.asked_at and self.step % self.per_epoch == 0:
            self._answers(self.step // self.per_epoch - 1)  # a stop cut them short
        # A kill may have come between a checkpoint and what is written after it: the same once more is harmless.
        self.keep(best=self.keeper.keeps and self.keeper.best is not None and self.keeper.best.step == self.step)

    def one_step(self, packs: list[Pack]) -> None:
        begun = time.perf_counter()
        rate = rate_at(self.step, self.total, self.training)
        loss, norm = self.steps.step(packs, rate)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NotFiniteError(self._not_finite())
        self.step += 1
        self.emit(events.Step(
            step=self.step, epoch=self.step / self.per_epoch, loss=loss, learning_rate=rate, gradient_norm=norm,
            tokens=self.ranks.count(sum(len(p.ids) for p in packs)), labels=self.ranks.count(sum(len(p.targets) for p in packs)),
            seconds=time.perf_counter() - begun, memory_gib=memory_gib(self.device),
            gpu_use=gpu_use() if self.device.type == "cuda" else None,
        ))

    def look(self, epoch: int, epoch_ends: bool) -> None:
        """After a step: measure and save where that is due. A better measurement is saved with a checkpoint, at once if that is cheap."""
        better = False
        if self.held_back and _fires(self.training.evaluate_every, self.step, epoch_ends):
            better |= self._validate()
        better |= epoch_ends and self._answers(epoch)
        if not (better or _fires(self.training.save_every, self.step, epoch_ends)):
            return
        if self.cadence.lets():
            self.keep(best=better)
        elif better:
            self.waiting, self.waiting_at = [p.detach().clone() for p in self.parameters], self.step

    def _validate(self) -> bool:
        """Measure the loss of the rows held back; True if it is the best so far. A stop cuts it short: a resume begins with it."""
        loss = self.ranks.measured(lambda: self.steps.mean_loss(self.held_back, self.halts))
        self.cut_at = self.step if loss is None else 0
        if loss is None:
            return False
        self.emit(events.Validation(step=self.step, epoch=self.step / self.per_epoch, loss=loss))
        return self._measured("validation loss", loss)

    def _answers(self, epoch: int) -> bool:
        """Let the model answer at the end of `epoch` (from 0) if that is due; True if it is the best so far."""
        every = self.training.sample_every
        due = every > 0 and ((epoch + 1) % every == 0 or epoch + 1 == self.training.epochs)
        ask = self.ask
        told = self.ranks.measured(lambda: ask(self.step, self.step / self.per_epoch)) if ask is not None and due else None
        if told is None:
            return False
        self.asked_at = self.step
        self.emit(told)
        return self._measured("call accuracy", told.right / told.asked)

    def _measured(self, measure: Measure, value: float) -> bool:
        return self.keeper.take(measure, self.step, value) and self.keeper.keeps

    def keep(self, *, best: bool, final: bool = False) -> None:
        waited = None if best else self.waiting
        with self.cadence.saving():
            self.save(Moment(
                self.step, self.model, self.optimizer, self.keeper, self.asked_at, best or waited is not None, self.cut_at, waited, final=final,
            ))
        self.saved_at, self.waiting, self.waiting_at = self.step, None, -1

    def _not_finite(self) -> str:
        kept = f"The adapter saved after step {self.saved_at} is kept." if self.saved_at else "No adapter had been saved yet."
        return (
            f"The loss or the gradient of optimizer step {self.step + 1} is not a finite number: lower the learning rate "
            f"(a third of {self.training.learning_rate:g}, say) or try other quantization in a new run. {kept}"
        )


def _fires(every: int, step: int, epoch_ends: bool) -> bool:
    return step % every == 0 if every else epoch_ends


def memory_gib(device: torch.device) -> float:
    """Peak GiB the process took: on a GPU the allocator's peak, on a CPU its resident memory now."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**30
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**30
