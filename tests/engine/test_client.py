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
from workbench.engine.client import Engine, Ticket
from workbench.engine.messages import LoadJob, TrainJob
from workbench.errors import EngineError, WorkbenchError
from workbench.settings import RunSettings
from workbench.training.runs import RunStore

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
    wish = job.get("model") or job["run"]
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
    else:
        say(type="done", number=number, result=dict(pid=os.getpid()))
"""


@pytest.fixture
def runs(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "adapters")


@pytest.fixture
def engine(tmp_path: Path, runs: RunStore) -> Iterator[Engine]:
    script = tmp_path / "worker"
    script.write_text(STAND_IN.replace("{python}", sys.executable), encoding="utf-8")
    script.chmod(0o755)
    made = Engine(tmp_path / "models", runs.folder, runs, python=str(script))
    yield made
    made.close(timeout=0.5)


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
        with pytest.raises(EngineError, match="The engine could not do this: .*no-python"):
            load(engine).wait(DEADLINE)
    engine.close()


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
    with pytest.raises(WorkbenchError, match="loading code was taken back before it began"):
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
