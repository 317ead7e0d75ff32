"""The queue and the thread behind the engine, with a stand-in for the worker that misbehaves on demand."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from workbench.dataset.formats import load_rows
from workbench.engine.client import Engine, Limits, Ticket
from workbench.engine.messages import LoadJob, TrainJob, UnloadJob
from workbench.engine.turns import asked_by
from workbench.errors import BusyError, EngineError, RunError, WorkbenchError
from workbench.settings import RunSettings
from workbench.training import events
from workbench.training.runs import Owner, RunStore

ROWS = load_rows(Path(__file__).resolve().parents[2] / "data" / "examples.json").rows[:2]
DEADLINE = 10.0

# A load job's model, or a training's run, says what the stand-in shall do.
STAND_IN = """#!{python}
import json, os, signal, sys, time

def say(**message):
    print(json.dumps(message), flush=True)

for line in sys.stdin:
    do = json.loads(line)
    if do["type"] != "do":
        continue
    number, job = do["number"], do["job"]
    wish = job.get("model") or job.get("run") or job["kind"]
    say(type="progress", number=number, text=wish, share=0.25)
    if wish == "code":
        print("last words", file=sys.stderr, flush=True)
        time.sleep(0.1)
        os._exit(7)
    elif wish == "noise":
        print("Loading weights: 100%", flush=True)
        say(type="done", number=number + 1000)
        say(type="done", number=number, result=dict(noise=True))
    elif wish in ("expected", "fails"):
        say(type="failed", number=number, reason="No such thing.")
    elif wish == "fault":
        say(type="failed", number=number, reason="A fault of ours.", expected=False)
    elif wish == "slow":
        for line in sys.stdin:  # until it is stopped, or its input is closed
            break
        say(type="done", number=number, result=dict(slow=True))
    elif wish == "deaf":
        time.sleep(600)
    elif wish == "chatters":  # alive, and still without any progress
        while True:
            print("Loading weights", flush=True)
            say(type="progress", number=number + 1000, text="another job's")
            time.sleep(0.02)
    elif wish == "loads":
        for k in range(3):
            say(type="beat", number=number, phase="loading")
            time.sleep(0.8)
        say(type="done", number=number, result=dict(loaded=True))
    elif wish == "floods":
        while True:
            print("x" * 100)
    elif wish == "shouts":
        for k in range(200_000):
            print("y" * 100, file=sys.stderr)
        say(type="done", number=number, result=dict(shouted=True))
    elif wish == "device":
        say(type="failed", number=number, reason="The card failed.", expected=False, cause="device")
        time.sleep(0.3)
        os._exit(3)
    elif wish == "memory":
        say(type="failed", number=number, reason="The memory ran out.", expected=False, cause="memory")
    elif wish == "frozen":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif wish == "closes":
        os.close(1)
        time.sleep(600)
    else:
        say(type="done", number=number, result=dict(pid=os.getpid()))
"""


@pytest.fixture
def runs(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "adapters")


@pytest.fixture
def build(tmp_path: Path, runs: RunStore) -> Iterator[Callable[..., Engine]]:
    """A builder of engines on the stand-in, with limits of the test's own."""
    script = tmp_path / "worker"
    script.write_text(STAND_IN.replace("{python}", sys.executable), encoding="utf-8")
    script.chmod(0o755)
    made: list[Engine] = []

    def new(**limits: float) -> Engine:
        made.append(Engine(tmp_path / "models", runs.folder, runs, python=str(script), limits=Limits(**limits)))
        return made[-1]

    yield new
    for engine in made:
        engine.close(timeout=0.5)


@pytest.fixture
def engine(build: Callable[..., Engine]) -> Engine:
    return build()


def load(engine: Engine, wish: str = "please") -> Ticket:
    return engine.submit(LoadJob(model=wish), f"loading {wish}")


def train(engine: Engine, runs: RunStore, name: str) -> Ticket:
    runs.create(name, model="demo", model_name="demo", rows=ROWS, data_name="rows.json", settings=RunSettings())
    return engine.submit(TrainJob(run=name), f"training {name}")


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def test_no_process_is_started_before_the_first_job(engine: Engine) -> None:
    assert (engine.status().state, engine.worker_pid(), engine.training()) == ("off", None, None)
    assert load(engine).wait(DEADLINE) == {"pid": engine.worker_pid()}
    until(lambda: engine.status().state == "idle")


def test_jobs_are_done_one_by_one_in_their_order(engine: Engine) -> None:
    first = load(engine, "slow")
    rest = [load(engine, f"job-{k}") for k in range(5)]
    until(lambda: first.progress == "slow")
    assert (first.share, engine.status().holder, engine.status().waiting) == (0.25, first, 5)
    assert [t.progress for t in rest] == ["waiting"] * 5
    engine.stop(first)
    assert first.wait(DEADLINE) == {"slow": True}
    assert len({t.wait(DEADLINE)["pid"] for t in rest}) == 1
    begun = [t.begun for t in (first, *rest)]
    assert None not in begun and begun == sorted(begun)  # type: ignore[type-var]


def test_every_page_has_its_turn_before_one_has_its_second(engine: Engine) -> None:
    first = load(engine, "slow")
    until(lambda: first.progress == "slow")
    tickets = {}
    for page, name in (("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("c", "c1"), ("b", "b2"), ("", "nobody's")):
        with asked_by(page):
            tickets[name] = load(engine, name)
    order = ["a1", "b1", "c1", "nobody's", "a2", "b2", "a3"]
    assert [t.label.removeprefix("loading ") for t in engine.queue()] == ["slow", *order]
    assert [engine.place(tickets[name]) for name in order] == [1, 2, 3, 4, 5, 6, 7]
    engine.stop(tickets["b1"])
    assert engine.place(tickets["c1"]) == 2
    engine.stop(first)
    done = [name for name in order if name != "b1"]
    for name in done:
        tickets[name].wait(DEADLINE)
    begun = [tickets[name].begun for name in done]
    assert None not in begun and begun == sorted(begun)  # type: ignore[type-var]


def test_noise_and_messages_of_other_jobs_are_not_taken_for_an_end(engine: Engine) -> None:
    assert load(engine, "noise").wait(DEADLINE) == {"noise": True}


def test_a_person_s_mistake_and_a_fault_of_ours_are_told_apart(engine: Engine) -> None:
    with pytest.raises(WorkbenchError, match="^No such thing.$") as caught:
        load(engine, "expected").wait(DEADLINE)
    assert not isinstance(caught.value, EngineError)
    with pytest.raises(EngineError, match="^A fault of ours.$"):
        load(engine, "fault").wait(DEADLINE)
    assert engine.status().last_fault == "A fault of ours."
    load(engine).wait(DEADLINE)
    assert engine.status().last_fault == ""


def test_a_worker_that_ends_by_itself_is_told_with_its_last_words_and_replaced(engine: Engine) -> None:
    with pytest.raises(EngineError) as caught:
        load(engine, "code").wait(DEADLINE)
    assert str(caught.value) == (
        "The engine process ended with code 7 during loading code. It last said: 'last words'. "
        "Start again: the next job gets a fresh process."
    )
    assert load(engine).wait(DEADLINE)["pid"] == engine.worker_pid()


def test_a_worker_that_died_between_two_jobs_is_replaced_unnoticed(engine: Engine) -> None:
    pid = load(engine).wait(DEADLINE)["pid"]
    psutil.Process(pid).kill()
    until(lambda: engine.status().state == "off")
    assert load(engine).wait(DEADLINE)["pid"] not in (None, pid)


def test_a_failed_training_is_marked_in_its_folder(engine: Engine, runs: RunStore) -> None:
    with pytest.raises(WorkbenchError, match="No such thing"):
        train(engine, runs, "fails").wait(DEADLINE)
    view = runs.view("fails")
    assert view.state == "failed" and view.ended is not None and view.ended.reason == "No such thing."


def test_a_worker_that_cannot_be_started_fails_the_job_and_not_the_queue(tmp_path: Path, runs: RunStore) -> None:
    engine = Engine(tmp_path, runs.folder, runs, python=str(tmp_path / "no-python"))
    for _ in range(2):
        with pytest.raises(EngineError, match="The engine could not do this: the engine process can't be started: .*no-python"):
            load(engine).wait(DEADLINE)
    engine.close()


def stopped_run(runs: RunStore, name: str) -> None:
    runs.create(name, model="demo", model_name="demo", rows=ROWS, data_name="rows.json", settings=RunSettings())
    runs.append(name, events.Ended(state="stopped", reason="x"))


def told(runs: RunStore, name: str) -> list[str]:
    return [e.type for e in runs.view(name).happened]


def test_a_resume_is_told_when_its_turn_has_come(engine: Engine, runs: RunStore) -> None:
    stopped_run(runs, "slow")
    first = load(engine, "slow")
    until(lambda: first.progress == "slow")
    ticket = engine.submit(TrainJob(run="slow", resume=True), "training run slow")
    assert (told(runs, "slow"), runs.view("slow").state) == (["ended"], "stopped")
    engine.stop(first)
    until(lambda: ticket.progress == "slow")
    assert (told(runs, "slow"), runs.view("slow").state) == (["ended", "resumed", "notice"], "waiting")
    engine.stop(ticket)
    assert ticket.wait(DEADLINE) == {"slow": True}


@pytest.mark.parametrize("ended", [True, False])
def test_a_resume_that_is_taken_back_in_the_queue_leaves_no_trace(engine: Engine, runs: RunStore, ended: bool) -> None:
    runs.create("r1", model="demo", model_name="demo", rows=ROWS, data_name="rows.json", settings=RunSettings())
    if ended:
        runs.append("r1", events.Ended(state="stopped", reason="x"))
    else:
        runs.rewrite_info("r1", owner=Owner(pid=1, started=1.0))
    before, owner = runs.view("r1").happened, runs.info("r1").owner
    first = load(engine, "slow")
    until(lambda: first.progress == "slow")
    ticket = engine.submit(TrainJob(run="r1", resume=True), "training run r1")
    engine.stop(ticket)
    with pytest.raises(WorkbenchError, match="^Training run r1 was taken back before it began"):
        ticket.wait(DEADLINE)
    again = engine.submit(TrainJob(run="r1", resume=True), "training run r1")
    engine.close(timeout=DEADLINE)
    with pytest.raises(EngineError, match="The workbench is closing"):
        again.wait(DEADLINE)
    assert (runs.view("r1").happened, runs.info("r1").owner) == (before, owner)


def test_a_run_that_can_no_longer_be_resumed_when_its_turn_comes_says_why(engine: Engine, runs: RunStore) -> None:
    stopped_run(runs, "r1")
    first = load(engine, "slow")
    until(lambda: first.progress == "slow")
    ticket = engine.submit(TrainJob(run="r1", resume=True), "training run r1")
    runs.append("r1", events.Ended(state="finished"))  # by another process
    engine.stop(first)
    with pytest.raises(RunError, match="The run r1 is finished"):
        ticket.wait(DEADLINE)
    assert told(runs, "r1") == ["ended", "ended", "notice"] and runs.view("r1").state == "finished"
    assert engine.status().last_fault.startswith("The run r1 is finished")
    assert load(engine).wait(DEADLINE)["pid"] == engine.worker_pid()


def test_a_run_whose_folder_was_removed_does_not_take_the_queue_along(engine: Engine, runs: RunStore) -> None:
    first = load(engine, "slow")
    until(lambda: first.progress == "slow")
    ticket = train(engine, runs, "fails")
    shutil.rmtree(runs.path("fails"))
    engine.stop(first)
    with pytest.raises(WorkbenchError, match="No such thing"):
        ticket.wait(DEADLINE)
    assert load(engine).wait(DEADLINE)["pid"] == engine.worker_pid()


def test_a_full_disk_while_a_run_is_marked_does_not_take_the_queue_along(
    engine: Engine, runs: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs, "append", full)
    with pytest.raises(WorkbenchError):
        train(engine, runs, "fails").wait(DEADLINE)
    assert load(engine).wait(DEADLINE)["pid"] == engine.worker_pid()


def test_a_waiting_job_that_is_stopped_never_reaches_the_worker(engine: Engine) -> None:
    first, second = load(engine, "slow"), load(engine, "code")
    until(lambda: first.progress == "slow")
    engine.stop(second)
    with pytest.raises(WorkbenchError, match="Loading code was taken back before it began"):
        second.wait(DEADLINE)
    engine.stop(first)
    assert first.wait(DEADLINE) == {"slow": True} and load(engine).wait(DEADLINE)["pid"] == engine.worker_pid()


def test_a_job_that_is_not_done_in_time_is_waited_for_no_longer(engine: Engine) -> None:
    ticket = load(engine, "slow")
    until(lambda: ticket.progress == "slow")
    with pytest.raises(TimeoutError, match="loading slow did not end within 0.05 s"):
        ticket.wait(0.05)
    engine.stop(ticket)
    assert ticket.wait(DEADLINE) == {"slow": True}


# -- closing -----------------------------------------------------------------------------------------


def test_closing_lets_the_job_in_hand_end_and_starts_no_other(engine: Engine) -> None:
    first, second = load(engine, "slow"), load(engine, "later")
    until(lambda: first.progress == "slow")
    pid = engine.worker_pid()
    engine.close(timeout=DEADLINE)
    assert first.wait(1) == {"slow": True}
    assert pid is not None and not psutil.pid_exists(pid)
    with pytest.raises(EngineError, match="The workbench is closing"):
        second.wait(1)
    assert engine.worker_pid() is None, "no fresh worker for a job that waited"


def test_closing_kills_a_worker_that_does_not_listen(engine: Engine) -> None:
    ticket = load(engine, "deaf")
    until(lambda: ticket.progress == "deaf")
    pid = engine.worker_pid()
    engine.close(timeout=0.2)
    assert pid is not None and not psutil.pid_exists(pid)
    with pytest.raises(EngineError, match=r"was killed \(SIGKILL\) during loading deaf"):
        ticket.wait(DEADLINE)


def test_closing_twice_or_before_any_job_is_harmless_and_ends_the_thread(engine: Engine) -> None:
    before = threading.active_count()
    engine.close()
    engine.close()
    assert threading.active_count() == before - 1
    with pytest.raises(EngineError, match="The workbench is closing"):
        load(engine)


# -- the queue ---------------------------------------------------------------------------------------


def test_everybody_sees_the_queue_and_the_own_place_in_it(engine: Engine) -> None:
    first = load(engine, "slow")
    rest = [load(engine, f"job-{k}") for k in range(3)]
    until(lambda: first.progress == "slow")
    assert engine.queue() == (first, *rest)
    assert [engine.place(t) for t in (first, *rest)] == [0, 1, 2, 3]
    engine.stop(rest[1])
    assert [engine.place(t) for t in (first, *rest)] == [0, 1, None, 2]
    engine.stop(first)
    for ticket in (first, rest[0], rest[2]):
        ticket.wait(DEADLINE)
    assert engine.queue() == () and engine.place(first) is None


def test_two_starts_at_once_begin_one_run_and_tell_the_other(engine: Engine, runs: RunStore) -> None:
    held = load(engine, "slow")
    names = [f"run-{k}" for k in range(8)]
    for name in names:
        runs.create(name, model="demo", model_name="demo", rows=ROWS, data_name="rows.json", settings=RunSettings())
    begun: list[Ticket] = []
    told: list[str] = []
    gate = threading.Barrier(len(names))

    def press(name: str) -> None:
        gate.wait()
        try:
            begun.append(engine.submit(TrainJob(run=name), name))
        except BusyError as exc:
            told.append(str(exc))

    pages = [threading.Thread(target=press, args=(name,)) for name in names]
    for page in pages:
        page.start()
    for page in pages:
        page.join()
    assert len(begun) == 1 and len(told) == 7
    assert set(told) == {f"The run {begun[0].label} is still going on: stop it or wait for its end, then start the next."}
    engine.stop(held)
    begun[0].wait(DEADLINE)


def test_a_worker_that_dies_before_it_hears_of_a_job_costs_no_job(engine: Engine) -> None:
    first = load(engine).wait(DEADLINE)["pid"]
    psutil.Process(first).suspend()  # it takes the job and never reads it
    ticket = load(engine)
    until(lambda: ticket.begun is not None)
    psutil.Process(first).kill()
    assert ticket.wait(DEADLINE)["pid"] not in (None, first)


# -- the watchdog ------------------------------------------------------------------------------------


@pytest.mark.parametrize("wish", ["deaf", "chatters", "frozen"])
def test_a_worker_that_gets_nowhere_is_ended_and_its_run_marked(build: Callable[..., Engine], runs: RunStore, wish: str) -> None:
    """What it prints and what other jobs say is no progress."""
    engine = build(starting=DEADLINE, computing=0.5)
    load(engine).wait(DEADLINE)
    with pytest.raises(EngineError) as caught:
        train(engine, runs, wish).wait(DEADLINE)
    assert str(caught.value) == (
        f"Training {wish} gave no sign of progress for 0.5 s while computing (the limit), so the engine process was ended. "
        "The next job gets a fresh process."
    )
    view = runs.view(wish)
    assert view.ended is not None and (view.state, view.ended.cause, view.ended.reason) == ("failed", "hang", str(caught.value))
    assert engine.status().last_fault == str(caught.value) and engine.status().state == "off"
    assert load(engine).wait(DEADLINE)["pid"] == engine.worker_pid()


def test_signs_of_progress_keep_a_long_job_alive_by_the_limit_of_its_phase(build: Callable[..., Engine]) -> None:
    engine = build(starting=DEADLINE, computing=0.5, loading=DEADLINE)
    assert load(engine, "loads").wait(DEADLINE) == {"loaded": True}


def test_a_stop_that_is_not_obeyed_ends_the_worker(build: Callable[..., Engine], runs: RunStore) -> None:
    engine = build(stopping=0.5)
    ticket = train(engine, runs, "deaf")
    until(lambda: ticket.progress == "deaf")
    engine.stop(ticket)
    with pytest.raises(EngineError, match=r"^Training deaf did not stop within 0.5 s of being asked to \(the limit\), so the engine process was ended"):
        ticket.wait(DEADLINE)
    view = runs.view("deaf")
    assert view.ended is not None and (view.state, view.ended.cause, ticket.cause) == ("failed", "hang", "hang")
    assert load(engine).wait(DEADLINE)["pid"] == engine.worker_pid()


def test_a_job_can_be_ended_at_once_by_hand(engine: Engine, runs: RunStore) -> None:
    ticket = train(engine, runs, "deaf")
    until(lambda: ticket.progress == "deaf")
    engine.end(ticket)
    with pytest.raises(EngineError, match="^Training deaf was ended by hand before it had stopped by itself"):
        ticket.wait(DEADLINE)
    assert ticket.cause == "killed" and load(engine).wait(DEADLINE)["pid"] == engine.worker_pid()


def test_a_worker_that_floods_its_messages_is_ended(engine: Engine) -> None:
    with pytest.raises(EngineError, match="The engine process flooded its messages with lines that are none during loading floods: 'xxxx"):
        load(engine, "floods").wait(DEADLINE)
    assert load(engine).wait(DEADLINE)["pid"] == engine.worker_pid()


def test_a_worker_that_floods_its_log_is_left_alone_and_little_of_it_kept(engine: Engine) -> None:
    assert load(engine, "shouts").wait(DEADLINE) == {"shouted": True}
    assert engine._process is not None and len(engine._process._words) == 2**14


def test_a_worker_that_closes_its_output_and_goes_on_is_ended(build: Callable[..., Engine]) -> None:
    engine = build(dying=0.5)
    with pytest.raises(EngineError, match="The engine process fell silent during loading closes"):
        load(engine, "closes").wait(DEADLINE)
    assert load(engine).wait(DEADLINE)["pid"] == engine.worker_pid()


# -- faults that the worker tells itself -----------------------------------------------------------------


def test_after_a_failure_of_the_card_the_next_job_waits_for_a_fresh_process(engine: Engine, runs: RunStore) -> None:
    """The failing process lives on for a moment: a job handed to it would die with it."""
    first = train(engine, runs, "device")
    second = load(engine)
    with pytest.raises(EngineError, match="^The card failed.$"):
        first.wait(DEADLINE)
    view = runs.view("device")
    assert view.ended is not None and (view.state, view.ended.cause, first.cause) == ("failed", "device", "device")
    assert second.wait(DEADLINE)["pid"] == engine.worker_pid()


def test_running_out_of_memory_marks_the_run_and_keeps_the_process(engine: Engine, runs: RunStore) -> None:
    pid = load(engine).wait(DEADLINE)["pid"]
    with pytest.raises(EngineError, match="^The memory ran out.$"):
        train(engine, runs, "memory").wait(DEADLINE)
    view = runs.view("memory")
    assert view.ended is not None and view.ended.cause == "memory"
    assert load(engine).wait(DEADLINE)["pid"] == pid


def test_a_worker_that_does_not_start_says_what_is_missing(tmp_path: Path, runs: RunStore) -> None:
    script = tmp_path / "worker"
    script.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'torch'\" >&2\nexit 1\n", encoding="utf-8")
    script.chmod(0o755)
    engine = Engine(tmp_path, runs.folder, runs, python=str(script))
    with pytest.raises(EngineError) as caught:
        load(engine).wait(DEADLINE)
    assert str(caught.value) == (
        "The engine process could not start: \"ModuleNotFoundError: No module named 'torch'\". "
        "Check that everything in requirements.txt is installed (`make install`)."
    )
    engine.close()


def test_freeing_the_memory_can_end_the_process_too(engine: Engine) -> None:
    pid = load(engine).wait(DEADLINE)["pid"]
    assert engine.submit(UnloadJob(), "freeing the memory").wait(DEADLINE) == {"pid": pid}
    assert engine.worker_pid() == pid
    engine.submit(UnloadJob(leave=True), "freeing the memory").wait(DEADLINE)
    assert (engine.worker_pid(), engine.status().state) == (None, "off") and not psutil.pid_exists(pid)
    assert load(engine).wait(DEADLINE)["pid"] not in (None, pid)
