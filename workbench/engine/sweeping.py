"""Running a sweep: one cell after the other, each result kept at once, stoppable between and within cells. No torch here.

The screen runs it through the engine's queue (`Sweeps`), so that a chat gets its turn between two cells; the command
line runs the same cells in its own process.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from workbench.engine.client import Engine, Ticket
from workbench.engine.messages import FoldJob
from workbench.errors import BusyError, EngineError, RunError, WorkbenchError
from workbench.training.sweep import Cell, Folds, settings_of
from workbench.training.sweep_store import SweepStore
from workbench.training.sweep_view import CellDone, CellFailed, Ended, SweepView

SAME_FAILURES = 3  # of one kind in a row: what comes would fail as well

Do = Callable[[FoldJob, str], dict[str, Any]]
Heard = Callable[[Cell, CellDone | CellFailed], None]


class ClosingError(WorkbenchError):
    """Whoever does the cells is closing: the sweep goes on another time."""


def run_sweep(
    store: SweepStore, name: str, do: Do, *, stop: Callable[[], bool], heard: Heard = lambda cell, line: None, begun: SweepView | None = None
) -> Ended:
    """Do the cells of a sweep that are not done yet, and say how it ended.

    `do(job, label)` does one cell and returns its result; it raises `WorkbenchError` for a cell that failed, which is
    noted and passed over, and `ClosingError` to leave off. `begun` is the view from `SweepStore.begin`, if that is done.
    Raises `BusyError` for a sweep that is being run, `RunError` or `DataError` for one that can't be read or written.
    """
    view = begun or store.begin(name)
    try:
        ended = _cells(store, view, do, stop, heard)
    except WorkbenchError as exc:
        with contextlib.suppress(RunError):  # the first reason is the one to tell
            store.end(name, Ended(state="failed", reason=str(exc)))
        raise
    store.end(name, ended)
    return ended


def _cells(store: SweepStore, view: SweepView, do: Do, stop: Callable[[], bool], heard: Heard) -> Ended:
    name, spec = view.spec.name, view.spec
    folds = Folds(spec, store.rows(name))
    rows = str((view.folder / "rows.jsonl").resolve())
    kinds: list[str] = []
    for cell in view.cells:
        if cell.key in view.done:
            continue
        if stop():
            return _stopped(store.view(name))
        learned, held = folds.of(cell)
        try:
            job = FoldJob(model=spec.model, rows=rows, learned=tuple(learned), held=tuple(held), settings=settings_of(spec, cell.values), tools=spec.tools)
            result = do(job, f"sweep {name}, cell {cell.number} of {len(view.cells)}")
            if result.get("stopped"):
                return _stopped(store.view(name))
            line: CellDone | CellFailed = CellDone.model_validate(result | {"values": dict(cell.values), "fold": cell.fold})
        except ClosingError as exc:
            return Ended(state="interrupted", reason=str(exc))
        except (WorkbenchError, ValidationError) as exc:
            if stop():
                return _stopped(store.view(name))
            reason = str(exc) if isinstance(exc, WorkbenchError) else f"The cell's result was not whole: {exc.errors()[0]['msg']}."
            line = CellFailed(values=dict(cell.values), fold=cell.fold, reason=reason, kind=failure_kind(exc))
        store.append(name, line)
        heard(cell, line)
        kinds = [*kinds, line.kind] if isinstance(line, CellFailed) else []
        if isinstance(line, CellFailed) and kinds[-SAME_FAILURES:] == [line.kind] * SAME_FAILURES:
            return Ended(state="failed", reason=f"{SAME_FAILURES} cells in a row failed for the same reason. {line.reason}")
    failed = len(store.view(name).failed)
    return Ended(state="finished", reason=f"{failed} of {len(view.cells)} cells failed: go on with the sweep to try them again." if failed else "")


def _stopped(view: SweepView) -> Ended:
    return Ended(state="stopped", reason=f"stopped on request with {len(view.done)} of {len(view.cells)} cells done; they are kept")


def failure_kind(exc: Exception) -> str:
    """Equal for failures of one kind: the engine's cause if it named one, else the sentence without its numbers."""
    return getattr(exc, "cause", "") or re.sub(r"\d+", "#", str(exc))[:200]


class _CellError(WorkbenchError):
    """A cell's failure with the cause that the engine named."""

    def __init__(self, reason: str, cause: str) -> None:
        super().__init__(reason)
        self.cause = cause


class Sweeps:
    """The sweeps of a workbench, and the one that goes on here: a thread that hands its cells to the engine one by one."""

    def __init__(self, store: SweepStore, engine: Callable[[], Engine]) -> None:
        self.store = store
        self._engine = engine
        self._lock = threading.Lock()
        self._name = ""
        self._thread: threading.Thread | None = None
        self._ticket: Ticket | None = None
        self._stop = threading.Event()

    def start(self, name: str) -> None:
        """Begin a sweep, or go on with one; returns at once. Raises `BusyError` while one goes on, `RunError` where nothing is left to do."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                raise BusyError(f"The sweep {self._name} is still going on: stop it or wait for its end, then start the next.")
            if not self.store.view(name).left:
                raise RunError(f"All cells of the sweep {name} are done: there is nothing to go on with.")
            view = self.store.begin(name)
            self._name = name
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, args=(view,), name=f"sweep-{name}", daemon=True)
            self._thread.start()

    def stop(self, name: str) -> None:
        """Ask the sweep to stop: the cell in hand is given up, those done are kept. Raises `RunError` if it does not go on here."""
        if self.running() != name:
            raise RunError(f"The sweep {name} is not going on here: there is nothing to stop.")
        self._stop.set()
        ticket = self._ticket
        if ticket is not None:
            self._engine().stop(ticket)

    def running(self) -> str | None:
        """The sweep that goes on in this process, if any."""
        return self._name if self._thread is not None and self._thread.is_alive() else None

    @property
    def stopping(self) -> bool:
        """Whether the sweep that goes on here was asked to stop and has not stopped yet."""
        return self.running() is not None and (self._stop.is_set() or bool(self._ticket and self._ticket.stop_asked))

    @property
    def ticket(self) -> Ticket | None:
        """The cell in hand or waiting for the engine."""
        return self._ticket

    def waits_for(self) -> tuple[str, ...]:
        """The jobs before the next cell by their labels, first the one that holds the engine; empty once the cell has its turn."""
        ticket = self._ticket
        if ticket is None or ticket.begun is not None:
            return ()
        return tuple(other.label for other in itertools.takewhile(lambda other: other is not ticket, self._engine().queue()))

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end of what goes on; False if the time is over first."""
        if self._thread is not None:
            self._thread.join(timeout)
        return self.running() is None

    def _run(self, view: SweepView) -> None:
        name = view.spec.name
        try:
            run_sweep(self.store, name, self._do, stop=self._stop.is_set, begun=view)
        except WorkbenchError:
            pass  # it is the sweep's last line, or the folder is gone with it
        except Exception as exc:  # a fault of ours must not leave the sweep looking alive
            with contextlib.suppress(WorkbenchError):
                self.store.end(name, Ended(state="failed", reason=f"The sweep met an unexpected fault: {type(exc).__name__}: {str(exc)[:300]}"))
            raise
        finally:
            self._ticket = None

    def _do(self, job: FoldJob, label: str) -> dict[str, Any]:
        engine = self._engine()
        try:
            ticket = engine.submit(job, label)
        except EngineError as exc:
            raise ClosingError("The workbench was closed.") from exc
        self._ticket = ticket
        if self._stop.is_set():
            engine.stop(ticket)
        ticket.finished.wait()
        if ticket.stop_asked:
            self._stop.set()  # whoever stops the cell, from wherever, means the sweep
        if ticket.error is not None:
            raise _CellError(str(ticket.error), ticket.cause) from ticket.error
        result = ticket.result or {}
        if result.get("stopped") and not self._stop.is_set():
            raise ClosingError("The workbench was closed.")
        return result

