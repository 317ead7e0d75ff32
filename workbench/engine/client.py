"""The browser's side of the engine: a queue of jobs, one thread that follows them, one worker process.

No torch here. If the worker dies, or the watchdog ends it, its job fails with the reason, and the
next job starts a fresh one.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from workbench.engine.messages import Beat, Do, Done, Failed, FromEngine, Holds, Job, LoadJob, Progress, Ready, Stop, Texts, TrainJob, UnloadJob
from workbench.engine.process import MOST_NOISE, WorkerProcess
from workbench.engine.ticket import Ticket
from workbench.engine.turns import Turns
from workbench.engine.watch import Limits, Watch
from workbench.errors import BusyError, EngineError, WorkbenchError, sentence_case
from workbench.training.events import Cause, Notice
from workbench.training.resuming import reopen
from workbench.training.runs import RunStore

__all__ = ["Engine", "Limits", "Status", "Ticket"]

ROOT = Path(__file__).resolve().parent.parent.parent  # where `-m workbench…` is found
FRESH = "The next job gets a fresh process."


@dataclass(frozen=True)
class Status:
    """What the header shows: the engine's state, who holds it, how many wait, and what is loaded."""

    state: str  # "off", "idle" or "busy"
    holder: Ticket | None
    waiting: int
    holds: Holds
    last_fault: str


class Engine:
    """Hands jobs to the worker one by one, in their `turns`. `submit` returns at once."""

    def __init__(
        self, models_dir: Path, adapters_dir: Path, runs: RunStore, *, python: str = sys.executable, limits: Limits | None = None
    ) -> None:
        self._command = [python, "-m", "workbench.engine.worker", str(models_dir.resolve()), str(adapters_dir.resolve())]
        self._runs = runs
        self.limits = limits or Limits()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._handed_in = threading.Condition(self._lock)
        self._process: WorkerProcess | None = None
        self._current: Ticket | None = None
        self._waiting: list[Ticket] = []  # in the order in which they come
        self._turns = Turns()
        self._holds = Holds()
        self._last_fault = ""
        self._closed = False
        self._thread = threading.Thread(target=self._follow, name="engine-client", daemon=True)
        self._thread.start()

    def submit(self, job: Job, label: str) -> Ticket:
        """Queue a job. Raises `BusyError` for a second training while one runs or waits."""
        with self._lock:
            if self._closed:
                raise EngineError("The workbench is closing.")
            if isinstance(job, TrainJob):
                held = [t.job.run for t in self._all() if isinstance(t.job, TrainJob)]
                if held:
                    raise BusyError(f"The run {held[0]} is still going on: stop it or wait for its end, then start the next.")
            ticket = Ticket(next(self._numbers), job, label, turn=self._turns.settle())
            bisect.insort(self._waiting, ticket, key=lambda t: (t.turn, t.number))
            self._handed_in.notify()
        self._tell_places()
        return ticket

    def _tell_places(self) -> None:
        """Wake whoever waits for a job that waits: its place may be another now."""
        with self._lock:
            waiting = list(self._waiting)
        for ticket in waiting:
            ticket.touch()

    def status(self) -> Status:
        with self._lock:
            alive = self._process is not None and self._process.alive
            state = "busy" if self._current else "idle" if alive else "off"
            return Status(state, self._current, len(self._waiting), self._holds if alive else Holds(), self._last_fault)

    def queue(self) -> tuple[Ticket, ...]:
        """The jobs in their order: who holds the engine, then who waits."""
        with self._lock:
            return tuple(self._all())

    def place(self, ticket: Ticket) -> int | None:
        """0 for the job that holds the engine, 1 for the next one, and so on; None for one that is over."""
        with self._lock:
            if ticket is self._current:
                return 0
            return self._waiting.index(ticket) + 1 if ticket in self._waiting else None

    def seconds_left(self, ticket: Ticket) -> float | None:
        """Estimated seconds that a job still takes; None where that is not known (yet)."""
        if not isinstance(ticket.job, TrainJob):
            return ticket.seconds_left()
        try:
            return self._runs.view(ticket.job.run).seconds_left()
        except WorkbenchError:  # its folder was taken away while it trained
            return None

    def stop(self, ticket: Ticket) -> None:
        """Ask a job to stop: one that waits is dropped, one in hand ends between two steps, tokens or tensors.

        One that does not within `limits.stopping` is ended with its process.
        """
        with self._lock:
            if ticket.stop_time is None:
                ticket.stop_asked, ticket.stop_time = True, time.monotonic()
            waiting = ticket in self._waiting
            if waiting:
                self._waiting.remove(ticket)
            process = self._process if ticket is self._current else None
        if waiting:
            reason = f"{sentence_case(ticket.label)} was taken back before it began."
            if isinstance(ticket.job, TrainJob) and not ticket.job.resume:
                with contextlib.suppress(WorkbenchError, OSError):
                    self._runs.mark_stopped(ticket.job.run, reason)
            self._end(ticket, error=WorkbenchError(reason))
            self._tell_places()
        elif process is not None:
            process.send(Stop(number=ticket.number))
        ticket.touch()

    def end(self, ticket: Ticket) -> None:
        """Stop a job at once: one in hand is ended with its process. What it has not saved is lost."""
        self.stop(ticket)
        ticket.end_asked = True

    def training(self) -> Ticket | None:
        """The training job in hand or waiting, if any."""
        return next((t for t in self.queue() if isinstance(t.job, TrainJob)), None)

    def worker_pid(self) -> int | None:
        with self._lock:
            return self._process.pid if self._process and self._process.alive else None

    def close(self, timeout: float = 20.0) -> None:
        """End the worker: a run in hand is stopped and keeps its adapter. Kills it after `timeout` seconds."""
        with self._lock:
            self._closed = True
            process = self._process
            self._handed_in.notify()
        if process is not None:
            process.close_input()
            if process.ended(timeout) is None:
                process.kill()
                process.ended(self.limits.dying)
        self._thread.join(timeout=5)

    # -- the background thread ------------------------------------------------------------------

    def _all(self) -> list[Ticket]:
        return [*([self._current] if self._current else []), *self._waiting]

    def _next(self) -> Ticket | None:
        """Wait for the next job and make it the current one; None once the engine is closed and nothing waits."""
        with self._lock:
            while not self._waiting:
                if self._closed:
                    return None
                self._handed_in.wait()
            self._current = self._waiting.pop(0)
            self._turns.begin(self._current.turn)
            return self._current

    def _follow(self) -> None:
        while (ticket := self._next()) is not None:
            if self._closed:
                self._end(ticket, error=EngineError("The workbench is closing: this was not begun."))
                continue
            if isinstance(ticket.job, TrainJob) and ticket.job.resume and not self._took_up(ticket, ticket.job.run):
                continue
            ticket.begun = time.time()
            ticket.progress = "starting the engine" if self.worker_pid() is None else "starting"
            ticket.touch()
            self._tell_places()
            try:
                self._do(ticket)
            except Exception as exc:  # the thread must live: the next job needs it
                self._end(ticket, error=EngineError(f"The engine could not do this: {exc}"))

    def _took_up(self, ticket: Ticket, run: str) -> bool:
        """Take a run up again now that its turn has come; False, with the ticket ended and the reason told, where that can't be any more."""
        try:
            reopen(self._runs, run)
        except Exception as exc:  # the thread must live: the next job needs it
            self._last_fault = str(exc) if isinstance(exc, WorkbenchError) else f"The run {run} could not be resumed: {exc}"
            with contextlib.suppress(WorkbenchError, OSError):
                self._runs.append(run, Notice(text=f"It could not be resumed. {exc}"))
            self._end(ticket, error=exc if isinstance(exc, WorkbenchError) else EngineError(self._last_fault))
            return False
        return True

    def _do(self, ticket: Ticket) -> None:
        process, fresh = self._ensure_process()
        if not self._attend(ticket, process, fresh):
            self._attend(ticket, *self._ensure_process())

    def _attend(self, ticket: Ticket, process: WorkerProcess, fresh: bool) -> bool:
        """Follow a job to its end. False if an old process had died before it heard of the job: a fresh one can do it."""
        watch, heard = Watch(self.limits, fresh=fresh), False
        process.send(Do(number=ticket.number, job=ticket.job))
        if ticket.stop_asked:
            process.send(Stop(number=ticket.number))
        while True:
            line = process.hear(self.limits.patience)
            if line == b"":
                if not (fresh or heard or self._closed):
                    self._forget(process)
                    return False
                self._worker_died(ticket, process, watch)
                return True
            if line is not None:
                number = process.noise
                if self._hear(ticket, process, watch, line):
                    return True
                heard = heard or process.noise == number
            if reason := self._why_end(ticket, process, watch):
                self._give_up(ticket, process, *reason)
                return True

    def _hear(self, ticket: Ticket, process: WorkerProcess, watch: Watch, line: bytes) -> bool:
        """Take one message in; True when the job is over."""
        try:
            message = FromEngine.validate_json(line)
        except ValidationError:
            process.noted(line)
            return False
        if isinstance(message, Holds):
            with self._lock:
                self._holds = message
        elif not isinstance(message, Ready) and message.number != ticket.number:
            return False
        elif isinstance(message, Progress):
            ticket.went_on(message.text, message.share)
        elif isinstance(message, Texts):
            ticket.texts = message.texts
        elif isinstance(message, Done):
            if isinstance(ticket.job, UnloadJob) and ticket.job.leave:
                self._retire(process)
            self._end(ticket, result=message.result)
            return True
        elif isinstance(message, Failed):
            if message.cause == "device":
                self._retire(process)
            if not ticket.stop_asked and (isinstance(ticket.job, (LoadJob, TrainJob)) or not message.expected):
                self._last_fault = message.reason
            error = WorkbenchError(message.reason) if message.expected else EngineError(message.reason)
            self._end(ticket, error=error, cause=message.cause)
            return True
        watch.heard(message)
        if not isinstance(message, Beat):
            ticket.touch()
        return False

    def _why_end(self, ticket: Ticket, process: WorkerProcess, watch: Watch) -> tuple[str, Cause] | None:
        """Why the worker must be ended now, and the cause; None while it may go on."""
        what = sentence_case(ticket.label)
        if ticket.end_asked:
            return f"{what} was ended by hand before it had stopped by itself.", "killed"
        if process.noise > MOST_NOISE:
            return f"The engine process flooded its messages with lines that are none during {ticket.label}: {process.last_words()[:100]!r}.", "killed"
        if overrun := watch.overrun(ticket.stop_time):
            return f"{what} {overrun}, so the engine process was ended.", "hang"
        return None

    def _give_up(self, ticket: Ticket, process: WorkerProcess, reason: str, cause: Cause) -> None:
        process.kill()
        if process.ended(self.limits.dying) is None:
            reason += f" The process {process.pid} does not end even when killed: the card may need the machine started anew."
        self._forget(process)
        self._fail(ticket, f"{reason} {FRESH}", cause)

    def _worker_died(self, ticket: Ticket, process: WorkerProcess, watch: Watch) -> None:
        code = process.ended(self.limits.dying)
        if code is None:  # it closed its output and goes on
            self._give_up(ticket, process, f"The engine process fell silent during {ticket.label}.", "killed")
            return
        self._forget(process)
        said = process.last_words()
        if watch.phase == "starting" and code > 0:
            reason = f"The engine process could not start: {said[:200]!r}. Check that everything in requirements.txt is installed (`make install`)."
            self._fail(ticket, reason, "killed")
            return
        how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"
        reason = f"The engine process {how} during {ticket.label}. It last said: {said[:200]!r}."
        if not isinstance(ticket.job, TrainJob):  # what helps a run is told beside it, by the cause
            reason += " Start again: the next job gets a fresh process."
        if code == -signal.SIGKILL and not self._closed:
            reason += " If nobody killed it, the machine ran out of memory."
        self._fail(ticket, reason, "device" if "CUDA error" in said else "killed")

    def _fail(self, ticket: Ticket, reason: str, cause: Cause) -> None:
        self._last_fault = reason
        self._end(ticket, error=EngineError(reason), cause=cause)

    def _end(self, ticket: Ticket, *, result: dict[str, Any] | None = None, error: WorkbenchError | None = None, cause: Cause = "") -> None:
        # A resume that was never begun has left the run as it was.
        if isinstance(ticket.job, TrainJob) and error is not None and not (ticket.job.resume and ticket.begun is None):
            # The run's folder may be gone or its disk full; the ticket must end all the same.
            with contextlib.suppress(WorkbenchError, OSError):
                self._runs.mark_failed(ticket.job.run, str(error), cause=cause)
        with self._lock:
            if result is not None:
                self._last_fault = ""
            # Free before the ticket tells that it is over: whoever waits for it may hand in the next job at once.
            if self._current is ticket:
                self._current = None
        ticket.result, ticket.error, ticket.cause = result, error, cause
        ticket.finished.set()
        ticket.touch()

    def _retire(self, process: WorkerProcess) -> None:
        """Let a process that is done for come to its end: the next job must not be handed to it."""
        process.close_input()
        if process.ended(self.limits.dying) is None:
            process.kill()
        self._forget(process)

    def _forget(self, process: WorkerProcess) -> None:
        with self._lock:
            if self._process is process:
                self._holds, self._process = Holds(), None

    def _ensure_process(self) -> tuple[WorkerProcess, bool]:
        """The worker, and whether it was started for this."""
        with self._lock:
            if self._process is not None and self._process.alive:
                return self._process, False
            if self._closed:
                raise EngineError("the workbench is closing")
            self._holds = Holds()
            try:
                self._process = WorkerProcess(self._command, ROOT)
            except OSError as exc:
                raise EngineError(f"the engine process can't be started: {exc}") from exc
            return self._process, True
