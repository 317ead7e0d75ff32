"""The watchdog: how long a worker may give no sign of progress, and how long it may take to obey a stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from workbench.engine.messages import Beat, Failed, Holds, Phase, Progress, Ready, Texts

Sign = Ready | Beat | Progress | Texts | Holds | Failed
LONGEST_STOP = 10  # times the limit of a stop: a worker that gives signs but never looks for one is ended too


@dataclass(frozen=True)
class Limits:
    """Seconds. A sign of progress is a message or a beat, and beats come from the work itself, never from a clock:
    a tensor loaded, a block downloaded, a layer passed forward or back, an optimizer step, a token.

    starting: from the process to its libraries imported (10 s from a local disk; a slow network disk takes minutes).
    loading: between two tensors or blocks (the hub's client gives a silent connection up after 10 s and tries again).
    computing: between two such signs on a card, a second at most (it is given work ahead, but each step waits for it);
        compiling kernels at the first takes minutes.
    computing_cpu: the same on a CPU, where one layer of a 4B model takes a minute forward and back, and the head as long.
    stopping: from a stop, or the last sign after it, to the end of the job (ten times that in all), beyond twice its longest
        step (saving and proving the adapter takes seconds).
    dying: from the kill to the process's end.
    """

    starting: float = 180.0
    loading: float = 600.0
    computing: float = 600.0
    computing_cpu: float = 1800.0
    stopping: float = 120.0
    dying: float = 10.0

    def of(self, phase: Phase) -> float:
        by_phase: dict[Phase, float] = {
            "starting": self.starting, "loading": self.loading, "computing": self.computing, "computing on a CPU": self.computing_cpu,
        }
        return by_phase[phase]

    @property
    def patience(self) -> float:
        """How long to listen at a time, so that no limit is overrun by much."""
        shortest: float = min(self.starting, self.loading, self.computing, self.computing_cpu, self.stopping)
        return min(0.5, shortest / 4)


class Watch:
    """Follows the signs of one job."""

    def __init__(self, limits: Limits, *, fresh: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits, self.clock = limits, clock
        self.phase: Phase = "starting" if fresh else "computing"
        self.last = clock()
        self.gap = 0.0

    def heard(self, message: Sign) -> None:
        """Take a sign in."""
        self.last = self.clock()
        if isinstance(message, Beat):
            self.phase, self.gap = message.phase, max(self.gap, message.gap)
        elif self.phase == "starting":
            self.phase = "computing"

    def stop_limit(self) -> float:
        """Seconds without a sign within which a stop must be obeyed: one is looked for between two steps only."""
        return self.limits.stopping + 2 * self.gap

    def overrun(self, stop_asked: float | None) -> str:
        """Which limit was overrun, as the end of a sentence; "" while none is. `stop_asked` is when, by the same clock."""
        now, limit = self.clock(), self.limits.of(self.phase)
        # Signs after the stop tell that it works its way to the next look for one; but not for ever.
        if stop_asked is not None and now - max(stop_asked, self.last) > self.stop_limit():
            return f"did not stop within {self.stop_limit():g} s of being asked to (the limit)"
        if stop_asked is not None and now - stop_asked > LONGEST_STOP * self.stop_limit():
            return f"did not stop within {LONGEST_STOP * self.stop_limit():g} s of being asked to (the limit)"
        if now - self.last > limit:
            return f"gave no sign of progress for {limit:g} s while {self.phase} (the limit)"
        return ""
