"""A job that was handed in, as its readers see it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from workbench.engine.messages import Job
from workbench.errors import WorkbenchError
from workbench.training.events import Cause

PICTURE = 0.12  # seconds between two pictures of a stream: quick to the eye, light on the wire
FULL = 8_000  # characters, of the longest text, up to which that is kept; what a picture costs grows with them, and so does the pause
LONGEST = 0.5  # seconds: of a page that was closed one hears at the next picture


@dataclass
class Ticket:
    """A job that was handed in. Readers poll the fields; `finished` is set when it ended either way."""

    number: int
    job: Job
    label: str
    turn: int = 0
    """The round of the queue in which it is served (see `turns`)."""
    submitted: float = field(default_factory=time.time)
    begun: float | None = None
    progress: str = "waiting"
    share: float | None = None
    texts: tuple[str, ...] = ()
    result: dict[str, Any] | None = None
    error: WorkbenchError | None = None
    cause: Cause = ""
    """Why it failed, where that is one of the known causes."""
    stop_asked: bool = False
    end_asked: bool = False
    """Whether somebody wanted the process ended, since the stop took too long."""
    changed: threading.Condition = field(default_factory=threading.Condition)
    changes: int = 0
    """How often something about it has changed."""
    finished: threading.Event = field(default_factory=threading.Event)
    stop_time: float | None = None
    """When the stop was asked, by `time.monotonic`."""
    pace_from: tuple[float, float] | None = None
    """(time, share) from which on the share has only grown."""

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

    def wait_picture(self, seen: int, begun: bool) -> None:
        """Sleep until another picture of a stream is worth drawing, for a second at most.

        `seen` is what `changes` was, and `begun` whether there was any text, when the last one was drawn. A first text and the end are not kept waiting.
        """
        with self.changed:
            self.changed.wait_for(lambda: self.changes != seen, 1.0)
            pause = min(LONGEST, PICTURE * max(1.0, max(map(len, self.texts), default=0) / FULL))
            self.changed.wait_for(lambda: self.finished.is_set() or (not begun and any(self.texts)), pause)

    def held(self) -> float:
        """Seconds for which it has had the engine."""
        return time.time() - self.begun if self.begun is not None else 0.0

    def seconds_left(self) -> float | None:
        """Estimated seconds to the end of what it is at, from the pace of its share; None where that says nothing (yet)."""
        share, begun = self.share, self.pace_from
        if share is None or begun is None or share <= begun[1]:
            return None
        return (1 - share) * (time.time() - begun[0]) / (share - begun[1])

    def went_on(self, text: str, share: float | None) -> None:
        """Take a message of progress in."""
        if share is None:
            self.pace_from = None
        elif self.pace_from is None or share < (self.share or 0.0):
            self.pace_from = (time.time(), share)
        self.progress, self.share = text, share

    def touch(self) -> None:
        """Wake whoever waits for a change."""
        with self.changed:
            self.changes += 1
            self.changed.notify_all()
