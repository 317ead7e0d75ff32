"""The browser's side of the engine: a queue of jobs, one thread that follows them, one worker process.

No torch here. If the worker dies, its job fails with the reason and the last lines it said, and the
next job starts a fresh one.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from workbench.engine.messages import Do, Done, Failed, FromEngine, Holds, Job, LoadJob, Progress, Stop, Texts, TrainJob
from workbench.errors import BusyError, EngineError, WorkbenchError
from workbench.training.runs import RunStore

ROOT = Path(__file__).resolve().parent.parent.parent  # where `-m workbench…` is found


@dataclass
class Ticket:
    """A job that was handed in. Readers poll the fields; `finished` is set when it ended either way."""

    number: int
    job: Job
    label: str
    submitted: float = field(default_factory=time.time)
    begun: float | None = None
    progress: str = "waiting"
    share: float | None = None
    texts: tuple[str, ...] = ()
    result: dict[str, Any] | None = None
    error: WorkbenchError | None = None
    stop_asked: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)
    finished: threading.Event = field(default_factory=threading.Event)

    def wait(self, timeout: float | None = None) -> dict[str, Any]:
        """The result; raises the job's error, or `TimeoutError`."""
        if not self.finished.wait(timeout):
            raise TimeoutError(f"{self.label} did not end within {timeout} s")
        if self.error is not None:
            raise self.error
        return self.result or {}

    def wait_change(self, timeout: float) -> None:
        """Sleep until something about the job changed, or the time is over."""
        with self.changed:
            self.changed.wait(timeout)

    def _touch(self) -> None:
        with self.changed:
            self.changed.notify_all()


@dataclass(frozen=True)
class Status:
    """What the header shows: the engine's state, who holds it, how many wait, and what is loaded."""

    state: str  # "off", "idle" or "busy"
    holder: Ticket | None
    waiting: int
    holds: Holds
    last_fault: str


class Engine:
    """Hands jobs to the worker one by one. `submit` returns at once."""

    def __init__(self, models_dir: Path, adapters_dir: Path, runs: RunStore, *, python: str = sys.executable) -> None:
        self._dirs = (models_dir.resolve(), adapters_dir.resolve())
        self._runs = runs
        self._python = python
        self._queue: queue.Queue[Ticket | None] = queue.Queue()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._current: Ticket | None = None
        self._waiting: list[Ticket] = []
        self._holds = Holds()
        self._last_fault = ""
        self._said: collections.deque[str] = collections.deque(maxlen=40)
        self._closed = False
        self._log: threading.Thread | None = None
        self._thread = threading.Thread(target=self._follow, name="engine-client", daemon=True)
        self._thread.start()

    def submit(self, job: Job, label: str) -> Ticket:
        """Queue a job. Raises `BusyError` for a second training while one runs or waits."""
        with self._lock:
            if self._closed:
                raise EngineError("The workbench is closing.")
            if isinstance(job, TrainJob):
                held = [t.job.run for t in [self._current, *self._waiting] if t and isinstance(t.job, TrainJob)]
                if held:
                    raise BusyError(f"The run {held[0]} is still going on: stop it or wait for its end, then start the next.")
            ticket = Ticket(next(self._numbers), job, label)
            self._waiting.append(ticket)
        self._queue.put(ticket)
        return ticket

    def status(self) -> Status:
        with self._lock:
            alive = self._process is not None and self._process.poll() is None
            state = "busy" if self._current else "idle" if alive else "off"
            return Status(state, self._current, len(self._waiting), self._holds, self._last_fault)

    def stop(self, ticket: Ticket) -> None:
        """Ask a job to stop: one that waits is dropped, one in hand ends between two steps or tokens."""
        with self._lock:
            ticket.stop_asked = True
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                waiting = True
            else:
                waiting = False
        if waiting:
            reason = f"{ticket.label} was taken back before it began."
            if isinstance(ticket.job, TrainJob):
                with contextlib.suppress(WorkbenchError, OSError):
                    self._runs.mark_stopped(ticket.job.run, reason)
            self._end(ticket, error=WorkbenchError(reason))
        elif ticket is self._current:
            self._send(Stop(number=ticket.number))

    def training(self) -> Ticket | None:
        """The training job in hand or waiting, if any."""
        with self._lock:
            return next((t for t in [self._current, *self._waiting] if t and isinstance(t.job, TrainJob)), None)

    def worker_pid(self) -> int | None:
        with self._lock:
            return self._process.pid if self._process and self._process.poll() is None else None

    def close(self, timeout: float = 20.0) -> None:
        """End the worker: a run in hand is stopped and keeps its adapter. Kills it after `timeout` seconds."""
        with self._lock:
            self._closed = True
            process = self._process
        self._queue.put(None)
        if process is not None and process.poll() is None:
            try:
                if process.stdin:
                    process.stdin.close()
                process.wait(timeout)
            except (subprocess.TimeoutExpired, OSError):
                process.kill()
                process.wait()
        self._thread.join(timeout=5)

    # -- the background thread ------------------------------------------------------------------

    def _follow(self) -> None:
        while (ticket := self._queue.get()) is not None:
            with self._lock:
                if ticket not in self._waiting:
                    continue  # taken back
                self._waiting.remove(ticket)
                self._current = ticket
            if self._closed:
                self._end(ticket, error=EngineError("The workbench is closing: this was not begun."))
                continue
            ticket.begun = time.time()
            ticket.progress = "starting the engine" if self.worker_pid() is None else "starting"
            ticket._touch()
            try:
                self._do(ticket)
            except Exception as exc:  # the thread must live: the next job needs it
                self._end(ticket, error=EngineError(f"The engine could not do this: {exc}"))
    def _do(self, ticket: Ticket) -> None:
        process = self._ensure_process()
        self._send(Do(number=ticket.number, job=ticket.job))
        if ticket.stop_asked:
            self._send(Stop(number=ticket.number))
        assert process.stdout is not None
        for line in process.stdout:
            if self._hear(ticket, line):
                return
        self._worker_died(ticket, process)

    def _hear(self, ticket: Ticket, line: str) -> bool:
        """Take one message in; True when the job is over."""
        try:
            message = FromEngine.validate_json(line)
        except ValidationError:
            self._said.append(line.rstrip())
            return False
        if isinstance(message, Holds):
            with self._lock:
                self._holds = message
        elif message.number != ticket.number:
            return False
        elif isinstance(message, Progress):
            ticket.progress, ticket.share = message.text, message.share
        elif isinstance(message, Texts):
            ticket.texts = message.texts
        elif isinstance(message, Done):
            self._end(ticket, result=message.result)
            return True
        elif isinstance(message, Failed):
            if isinstance(ticket.job, (LoadJob, TrainJob)) or not message.expected:
                self._last_fault = message.reason
            self._end(ticket, error=WorkbenchError(message.reason) if message.expected else EngineError(message.reason))
            return True
        ticket._touch()
        return False

    def _worker_died(self, ticket: Ticket, process: subprocess.Popen[str]) -> None:
        code = process.wait()
        if self._log is not None:
            self._log.join(timeout=2)  # the last lines it said
        how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"
        # A library's warnings are not what it died of.
        said = next((line for line in reversed(self._said) if line.strip() and "warn" not in line.lower()), "nothing")
        reason = f"The engine process {how} during {ticket.label}. It last said: {said[:200]!r}. Start again: the next job gets a fresh process."
        if code == -signal.SIGKILL and not self._closed:
            reason += " If nobody killed it, the machine ran out of memory."
        with self._lock:
            self._holds, self._process = Holds(), None
        self._last_fault = reason
        self._end(ticket, error=EngineError(reason))

    def _end(self, ticket: Ticket, *, result: dict[str, Any] | None = None, error: WorkbenchError | None = None) -> None:
        if isinstance(ticket.job, TrainJob) and error is not None:
            # The run's folder may be gone or its disk full; the ticket must end all the same.
            with contextlib.suppress(WorkbenchError, OSError):
                self._runs.mark_failed(ticket.job.run, str(error))
        with self._lock:
            if result is not None:
                self._last_fault = ""
            # Free before the ticket tells that it is over: whoever waits for it may hand in the next job at once.
            if self._current is ticket:
                self._current = None
        ticket.result, ticket.error = result, error
        ticket.finished.set()
        ticket._touch()

    def _ensure_process(self) -> subprocess.Popen[str]:
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                return self._process
            self._holds = Holds()
            self._said.clear()
            models, adapters = self._dirs
            self._process = subprocess.Popen(
                [self._python, "-m", "workbench.engine.worker", str(models), str(adapters)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                cwd=ROOT, text=True, encoding="utf-8", errors="replace", bufsize=1, start_new_session=True,
            )
            self._log = threading.Thread(target=self._read_log, args=(self._process,), daemon=True)
            self._log.start()
            return self._process

    def _read_log(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self._said.append(line.rstrip())

    def _send(self, message: Do | Stop) -> None:
        process = self._process
        try:
            if process is not None and process.stdin is not None:
                process.stdin.write(message.model_dump_json() + "\n")
                process.stdin.flush()
        except (BrokenPipeError, ValueError, OSError):
            pass  # the worker is gone: the reader of its output says so
