"""One training run from start to end, on a loaded base, into its folder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from workbench.calls.prompting import PLAIN, CallForm
from workbench.dataset.formats import load_rows, refuse_problems, rows_hash
from workbench.dataset.split import learnable, left_out, split_examples
from workbench.errors import DataError, RunError, WorkbenchError
from workbench.files import explain_os_error, write_atomic
from workbench.models.adapters import probe, prove_active, put_new_adapter
from workbench.models.decode_static import difference_made
from workbench.models.faults import accelerator_fault
from workbench.models.loading import Base
from workbench.schema import Example, RowProblem
from workbench.settings import Training
from workbench.training import events
from workbench.training.answers import Asker
from workbench.training.cadence import in_place
from workbench.training.call_form import read_record, write_record
from workbench.training.card import model_card
from workbench.training.checkpoint import Moment, check_saved, copy_best, drop_checkpoint, read_checkpoint, save_adapter, write_checkpoint
from workbench.training.encode import Encoded, encode_all
from workbench.training.loop import NotFiniteError, Outcome, memory_gib, train
from workbench.training.plan import step_count
from workbench.training.ranks import ALONE, Ranks
from workbench.training.resuming import alone_in_training, note_base, read_state, take
from workbench.training.runs import BEST, CHECKPOINT, RunInfo, RunStore
from workbench.training.tracker import open_tracker

ROWS_AT_ONCE = 256  # rows encoded between two looks for a stop


class _StoppedError(Exception):
    """A stop came before the loop began."""


def run_training(
    base: Base, runs: RunStore, name: str, *, stop: Callable[[], bool], resume: bool = False,
    tell: Callable[[events.Event], None] = lambda event: None, left: Callable[[], bool] = lambda: False, ranks: Ranks = ALONE,
) -> events.Ended:
    """Train the run `name` (already created) and keep its adapter; returns how it ended. `tell` gets every event too.

    `left` is asked after a stop that nobody on a screen asked for: whether the workbench is gone.

    With `resume` the run goes on from its checkpoint. A run that may not be trained now is refused with `RunError` and
    left as it is; every later fault ends as an `Ended` event in the run's file before it is raised on.
    """
    with alone_in_training(runs, name):
        take(runs, name, resume=resume)
        one = _Training(base, runs, name, stop, tell, left, ranks)
        try:
            return one.whole()
        except Exception as exc:
            if accelerator_fault(exc):
                raise  # the caller frees the memory, or lets the card's process go, and marks the run then
            reason, cause = one.explain(exc)
            with contextlib.suppress(WorkbenchError, OSError):  # on a full disk even the mark may not fit
                runs.mark_failed(name, reason, cause)
            if cause == "disk":
                raise WorkbenchError(reason) from exc
            raise


def follow_training(base: Base, runs: RunStore, name: str, ranks: Ranks) -> None:
    """The part of a process that is not the first of its run's: train along, and leave files and events to the first."""
    one = _Training(base, runs, name, lambda: False, lambda event: None, lambda: False, ranks)
    outcome = one.train(runs.info(name))
    if outcome.steps and one.ranks.spread:
        prove_active(base)  # passed by all


class _Training:
    """What one run needs while it is trained. `emit` is the only way an event takes: file, caller, tracker."""

    def __init__(
        self, base: Base, runs: RunStore, name: str, stop: Callable[[], bool], tell: Callable[[events.Event], None], left: Callable[[], bool],
        ranks: Ranks,
    ) -> None:
        self.base, self.runs, self.name, self.stop, self.left, self.ranks = base, runs, name, stop, left, ranks
        self.folder = runs.path(name)
        self.begun = time.time()
        self.before = 0.0  # seconds spent by earlier attempts
        self._listeners = [tell]

    def emit(self, event: events.Event) -> None:
        if not self.ranks.first:
            return
        self.runs.append(self.name, event)
        for listener in self._listeners:
            listener(event)

    def spent(self) -> float:
        return self.before + time.time() - self.begun

    def whole(self) -> events.Ended:
        info = self.runs.info(self.name)
        note_base(self.runs, info, self.base.folder)
        with self._tracked(info):
            try:
                outcome = self.train(info)
            except _StoppedError:
                outcome = Outcome(self._saved_step(), stopped=True)
            return self.end(outcome)

    def train(self, info: RunInfo) -> Outcome:
        training = info.settings.training
        self.ranks.from_first(lambda: self.runs.settled_form(self.name, self.base.tokenizer).dialect.name)  # noted by one of them
        form = self.runs.settled_form(self.name, self.base.tokenizer)
        stop = self.stop if self.ranks.size == 1 else lambda: False  # alone it would leave the others waiting
        prepared = prepare_rows(_rows(self.runs, info), self.base, training, info.data_name, stop, form)
        checkpoint = read_checkpoint(self.folder, self.name)
        self.ranks = replace(self.ranks, spread=self.base.quantization.shard)
        model = put_new_adapter(
            self.base, info.settings.lora, name=self.name, seed=training.seed, checkpointing=training.checkpointing, model_name=info.model_name,
            alike=self.ranks.size > 1,
        )
        if self.base.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.base.device)
        self.emit(events.Started(
            total_steps=step_count(len(prepared.learned), training), epochs=training.epochs,
            train_rows=len(prepared.learned), validation_rows=len(prepared.held_back),
            trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
            total_parameters=_total_parameters(self.base), device=_device_name(self.base.device),
        ))
        if checkpoint is not None:
            self.before = checkpoint.state.seconds
            if checkpoint.state.device != self.base.device.type:
                self.emit(events.Notice(text="The run goes on on another kind of device: its losses will differ a little from an uninterrupted run's."))
        asks = training.sample_every > 0 and prepared.held_rows
        return train(
            model, prepared.learned, prepared.held_back, training, emit=self.emit, stop=self.stop, save=self.save,
            ask=Asker(self.base, prepared.held_rows, training, stop if self.ranks.spread else self.stop, form) if asks else None, resume=checkpoint, ranks=self.ranks,
        )

    def save(self, moment: Moment) -> None:
        """The last adapter, then the checkpoint, then the best: a resume mends what a kill leaves undone between them."""
        if not self.ranks.first:
            return
        save_adapter(self.base, self.folder, best=False)
        first = not moment.final and not (self.folder / CHECKPOINT).exists()
        size = 0 if moment.final else write_checkpoint(self.folder, moment, seconds=self.spent())
        if moment.best:
            if moment.best_values is None:
                copy_best(self.folder)
            else:
                with in_place([p for p in moment.model.parameters() if p.requires_grad], moment.best_values):
                    save_adapter(self.base, self.folder, best=True)
            if (record := read_record(self.folder, self.name)) is not None:
                write_record(self.folder / BEST, record)
        self.emit(events.Saved(step=moment.step, best=moment.best))
        if first:
            self.emit(events.Notice(text=f"The run can be resumed from each saving: its checkpoint takes {size / 2**20:.1f} MiB until the run is finished."))

    def end(self, outcome: Outcome) -> events.Ended:
        """Prove the adapter, write the run's last event and its papers."""
        self.base.model.eval()
        difference = None
        if outcome.steps and self.base.adapter == self.name:
            difference = prove_active(self.base, known=difference_made(self.base, probe(self.base)))
            check_saved(self.folder)
        view = self.runs.view(self.name)
        peak = view.peak_memory_gib
        if self.base.device.type == "cuda":
            peak = max(peak or 0.0, memory_gib(self.base.device))
        reason = outcome.early
        if outcome.stopped:
            reason = stopped_words(f"after {outcome.steps} optimizer step{'' if outcome.steps == 1 else 's'}", left=self.left())
            reason += "" if outcome.steps else "; there is no adapter to keep"
        ended = events.Ended(
            state="stopped" if outcome.stopped else "finished", reason=reason, cause="early stop" if outcome.early else "",
            step=outcome.steps, best_step=view.best_step, seconds=self.spent(), peak_memory_gib=peak, adapter_difference=difference,
        )
        self.emit(ended)
        if not outcome.stopped:
            drop_checkpoint(self.folder)
        try:
            write_atomic(self.folder / "README.md", model_card(self.runs.view(self.name)))
        except (WorkbenchError, OSError) as exc:  # the adapter is whole: only its paper is missing
            with contextlib.suppress(WorkbenchError, OSError):
                self.emit(events.Notice(text=f"The adapter's README.md was not written: {exc}"))
        return ended

    def explain(self, exc: Exception) -> tuple[str, events.Cause]:
        """The sentence for a fault, and its cause."""
        fault = exc if isinstance(exc, OSError) else exc.__cause__ if isinstance(exc, WorkbenchError) else None
        if isinstance(fault, OSError):
            reason = explain_os_error(exc, self.folder) if isinstance(exc, OSError) else str(exc)
            if step := self._saved_step():
                reason += f" Then resume the run: it goes on after optimizer step {step}."
            return reason, "disk"
        return str(exc), "not finite" if isinstance(exc, NotFiniteError) else ""

    def _saved_step(self) -> int:
        with contextlib.suppress(RunError):
            state = read_state(self.folder, self.name)
            return state.step if state else 0
        return 0

    @contextlib.contextmanager
    def _tracked(self, info: RunInfo) -> Iterator[None]:
        tracker = open_tracker(info, self.folder)
        if tracker is None:
            yield
            return

        def listen(event: events.Event) -> None:
            if (notice := tracker.tell(event)) is not None:
                self.runs.append(self.name, notice)

        self._listeners.append(listen)
        try:
            yield
        finally:
            tracker.close()


def stopped_words(when: str, *, left: bool) -> str:
    """Why a run stopped, and `when`: a person asked for it, or the workbench that trained it went away (`left`)."""
    return f"stopped {when}, since the workbench was closed or killed" if left else f"stopped on request {when}"


def _rows(runs: RunStore, info: RunInfo) -> tuple[Example, ...]:
    """The run's own rows, which no change of the dataset reaches; raises `DataError` if they are not what the run began with."""
    path = runs.path(info.name) / "rows.jsonl"
    lost = f"The rows that run {info.name} learns from ({info.name}/rows.jsonl) "
    if not path.is_file():
        raise DataError(f"{lost}are gone: restore the file, or start a new run from the dataset.")
    loaded = load_rows(path)
    refuse_problems(loaded.problems, info.data_name)
    if rows_hash(loaded.rows) != info.data_sha256:
        raise DataError(f"{lost}were changed after it was created: restore the file, or start a new run from the dataset.")
    return loaded.rows


@dataclass(frozen=True)
class Prepared:
    """A run's rows: those to learn and those held back, encoded, and the held back ones as they are."""

    learned: list[Encoded]
    held_back: list[Encoded]
    held_rows: list[Example]


def prepare(rows: Sequence[Example], base: Base, training: Training, where: str) -> tuple[list[Encoded], list[Encoded]]:
    """(training, validation) rows encoded and split; see `prepare_rows`."""
    made = prepare_rows(rows, base, training, where)
    return made.learned, made.held_back


def prepare_rows(
    rows: Sequence[Example], base: Base, training: Training, where: str, stop: Callable[[], bool] = lambda: False, form: CallForm = PLAIN
) -> Prepared:
    """The rows encoded and split, kinds and tools in proportion.

    Raises `DataError` for a bad row, and where too few rows or none are left to learn.
    """
    places = learnable(rows, training.unreviewed)
    usable = [rows[i] for i in places]
    encoded: list[Encoded | None] = []
    problems: list[RowProblem] = []
    for start in range(0, len(usable), ROWS_AT_ONCE):
        if start and stop():
            raise _StoppedError
        lines = [i + 1 for i in places[start : start + ROWS_AT_ONCE]]
        made, bad = encode_all(usable[start : start + ROWS_AT_ONCE], base.tokenizer, max_tokens=training.max_row_tokens, lines=lines, form=form)
        encoded += made
        problems += bad
    refuse_problems(problems, where)
    if len(usable) < 2:
        waiting = left_out(rows, training.unreviewed)
        raise DataError(f"{where} holds {len(usable)} usable row(s): add at least two before training." + (f" {waiting}" if waiting else ""))
    learned, held_back = split_examples(usable, training.validation_share, training.seed)
    if not learned:
        raise DataError(f"Every row of {where} is pinned to validation, so none is left to learn: take pins off on the Data tab.")
    whole = [e for e in encoded if e is not None]
    return Prepared([whole[i] for i in learned], [whole[i] for i in held_back], [usable[i] for i in held_back])


def _total_parameters(base: Base) -> int:
    """All parameters, adapter included; a packed 4-bit weight counts as the weights it stands for."""
    total = 0
    for parameter in base.model.parameters():
        state = getattr(parameter, "quant_state", None)
        total += state.shape.numel() if state is not None else parameter.numel()
    return total


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
