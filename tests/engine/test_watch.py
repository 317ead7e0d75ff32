"""The watchdog's limits, by a clock that the test turns."""

from __future__ import annotations

import pytest

from workbench.engine.messages import Beat, Holds, LoadJob, Phase, Progress, Ready
from workbench.engine.ticket import Ticket
from workbench.engine.watch import Limits, Watch
from workbench.engine.worker import ALONE, _watch_alone

LIMITS = Limits(starting=10, loading=20, computing=30, computing_cpu=40, stopping=5)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def beat(phase: Phase, gap: float = 0.0) -> Beat:
    return Beat(number=1, phase=phase, gap=gap)


@pytest.mark.parametrize(("phase", "limit"), [("loading", 20), ("computing", 30), ("computing on a CPU", 40)])
def test_each_phase_has_its_own_limit_since_the_last_sign(phase: Phase, limit: int) -> None:
    clock = Clock()
    watch = Watch(LIMITS, fresh=False, clock=clock)
    for _ in range(3):
        clock.now += limit
        assert watch.overrun(None) == "" or watch.phase != phase
        watch.heard(beat(phase))
    clock.now += limit
    assert watch.overrun(None) == ""
    clock.now += 0.1
    assert watch.overrun(None) == f"gave no sign of progress for {limit} s while {phase} (the limit)"


def test_a_fresh_process_is_starting_until_it_says_anything() -> None:
    clock = Clock()
    watch = Watch(LIMITS, fresh=True, clock=clock)
    clock.now += 10.1
    assert watch.overrun(None) == "gave no sign of progress for 10 s while starting (the limit)"
    watch.heard(Ready())
    clock.now += 30
    assert (watch.phase, watch.overrun(None)) == ("computing", "")


@pytest.mark.parametrize("message", [Progress(number=1, text="x"), Holds()])
def test_any_message_is_a_sign(message: Progress | Holds) -> None:
    clock = Clock()
    watch = Watch(LIMITS, fresh=False, clock=clock)
    clock.now += 29
    watch.heard(message)
    clock.now += 29
    assert watch.overrun(None) == ""


def test_a_stop_has_a_limit_of_its_own_that_signs_before_it_do_not_prolong() -> None:
    clock = Clock()
    watch = Watch(LIMITS, fresh=False, clock=clock)
    watch.heard(beat("computing"))
    clock.now += 1
    asked = clock.now
    clock.now += 5
    assert watch.overrun(asked) == ""
    clock.now += 0.1
    assert watch.overrun(asked) == "did not stop within 5 s of being asked to (the limit)"
    assert watch.overrun(None) == ""


def test_signs_after_a_stop_begin_its_limit_anew_but_not_for_ever() -> None:
    clock = Clock()
    watch = Watch(LIMITS, fresh=False, clock=clock)
    asked = clock.now
    for _ in range(10):
        clock.now += 5
        assert watch.overrun(asked) == ""
        watch.heard(beat("computing"))
    clock.now += 0.1
    assert watch.overrun(asked) == "did not stop within 50 s of being asked to (the limit)"
    clock.now = asked + 12.0
    watch.last = asked + 6.9
    assert watch.overrun(asked) == "did not stop within 5 s of being asked to (the limit)"


def test_a_job_of_long_steps_has_longer_to_obey_a_stop() -> None:
    clock = Clock()
    watch = Watch(LIMITS, fresh=False, clock=clock)
    watch.heard(beat("computing", gap=10))
    watch.heard(beat("computing", gap=3))
    assert watch.stop_limit() == 25


def test_the_client_listens_often_enough_for_the_shortest_limit() -> None:
    assert Limits().patience == 0.5
    assert Limits(stopping=0.4).patience == 0.1


def test_a_job_s_time_left_follows_from_the_pace_of_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("workbench.engine.ticket.time.time", clock)
    ticket = Ticket(1, LoadJob(model="m"), "loading m")
    assert (ticket.seconds_left(), ticket.held()) == (None, 0.0)
    ticket.begun = clock.now
    ticket.went_on("answered", 0.0)
    assert ticket.seconds_left() is None
    clock.now += 10
    ticket.went_on("answered", 0.25)
    assert (ticket.seconds_left(), ticket.held()) == (30.0, 10.0)
    ticket.went_on("next part", 0.1)  # it began anew
    assert ticket.seconds_left() is None
    clock.now += 10
    ticket.went_on("next part", 0.2)
    assert ticket.seconds_left() == pytest.approx(80.0)
    ticket.went_on("no share", None)
    assert ticket.seconds_left() is None


def test_a_worker_whose_app_is_gone_ends_a_job_that_hangs_but_not_one_that_gets_on() -> None:
    clock, ended = Clock(), list[int]()
    watch = Watch(LIMITS, fresh=False, clock=clock)
    rounds = iter(range(10**6))

    def pause(seconds: float) -> None:
        clock.now += 1
        if next(rounds) < 30:  # its last job works for half a minute, then hangs
            watch.heard(beat("computing"))

    _watch_alone(watch, pause=pause, end=ended.append)
    assert ended == [ALONE] and 130 + LIMITS.stopping < clock.now <= 130 + LIMITS.stopping + 2
