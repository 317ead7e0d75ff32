"""The engine with a real worker process: jobs, stops, and what is left when the worker or the app is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from workbench.dataset.formats import load_rows
from workbench.engine.client import Ticket
from workbench.engine.messages import Holds, LoadJob
from workbench.errors import BusyError, EngineError, WorkbenchError
from workbench.evaluation.scores import make_cases
from workbench.schema import Example, Message
from workbench.settings import RunSettings, Sampling, make_settings
from workbench.workspace import Workspace

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE = 60.0
TURNS = [{"role": "user", "content": "Сколько у меня денег?"}]
SHORT, ENDLESS = Sampling(max_new_tokens=24), Sampling(max_new_tokens=8192)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory, new_workspace: Callable[[Path], Workspace]) -> Iterator[Workspace]:
    """One workbench for the whole file: a worker takes seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # tiny matrices are only slowed down by a second thread
        made = new_workspace(tmp_path_factory.mktemp("engine") / "workbench")
        yield made
        made.engine.close()


@pytest.fixture(autouse=True)
def nothing_left_running(space: Workspace) -> Iterator[None]:
    yield
    holder = space.engine.status().holder
    if holder is not None:
        space.engine.stop(holder)
        holder.finished.wait(DEADLINE)


def until(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {DEADLINE:.0f} s")


def settings(epochs: int) -> RunSettings:
    training = {"epochs": epochs, "rows_per_step": 2, "validation_share": 0.0, "warmup_steps": 0, "save_every": 1_000_000}
    return make_settings({"training": training | {"learning_rate": 0.01}, "lora": {"rank": 4, "alpha": 8}})


def create(space: Workspace, name: str, *, epochs: int = 1, model: str | None = None) -> None:
    rows = load_rows(space.data_dir / "examples.json").rows[:4]
    space.create_run(name, rows, settings(epochs), data_name="examples.json", model=model)


def train_on_and_on(space: Workspace, name: str) -> Ticket:
    """A training of 2000 steps, at least three of them done."""
    create(space, name, epochs=1000)
    ticket = space.jobs.start_training(name)
    until(lambda: len(space.runs.view(name).steps) >= 3 or ticket.finished.is_set(), f"the third step of {name}")
    assert not ticket.finished.is_set(), ticket.error
    return ticket


def answer_on_and_on(space: Workspace) -> Ticket:
    ticket = space.jobs.answer(TURNS, run=None, lanes=(False,), sampling=ENDLESS)
    until(lambda: any(ticket.texts) or ticket.finished.is_set(), "the first word of the answer")
    assert not ticket.finished.is_set(), ticket.error
    return ticket


def worker(space: Workspace) -> int:
    pid = space.engine.worker_pid()
    assert pid is not None
    return pid


def test_a_model_is_loaded_and_the_header_can_say_so(space: Workspace) -> None:
    assert space.jobs.load_model().wait(DEADLINE) == {}
    status = space.engine.status()
    assert (status.state, status.holder, status.waiting, status.last_fault) == ("idle", None, 0, "")
    assert (status.holds.model, status.holds.quantization, status.holds.adapter) == ("gemma-3-270m", "none", None)


def test_a_trained_run_answers_beside_its_base_word_by_word(space: Workspace) -> None:
    create(space, "answers", epochs=3)
    trained = space.jobs.start_training("answers").wait(DEADLINE)
    assert (trained["state"], trained["step"]) == ("finished", 6)
    assert space.runs.view("answers").state == "finished" and trained["adapter_difference"] > 0
    ticket = space.jobs.answer(TURNS, run="answers", lanes=(False, True), sampling=Sampling(max_new_tokens=60))
    seen: list[tuple[str, ...]] = []
    while not ticket.finished.is_set():
        ticket.wait_change(0.05)
        if ticket.texts and ticket.texts not in seen:
            seen.append(ticket.texts)
    replies = ticket.wait(0)["replies"]
    assert [(r["tokens"], r["ended"]) for r in replies] == [(60, "length")] * 2
    assert replies[0]["text"] != replies[1]["text"]
    assert len(seen) > 3 and {len(texts) for texts in seen} == {2}
    assert seen[-1] == tuple(r["text"].rstrip("\ufffd") for r in replies)
    assert space.engine.status().holds.adapter == "answers"


def test_an_evaluation_gives_the_replies_that_answers_give(space: Workspace) -> None:
    prompts = ["Сколько у меня денег?", "Привет", "Покажи остаток по моей карте, пожалуйста"]
    asked = [space.jobs.answer([{"role": "user", "content": p}], run=None, lanes=(False,), sampling=SHORT) for p in prompts]
    alone = [ticket.wait(DEADLINE)["replies"][0]["text"] for ticket in asked]
    cases = make_cases([Example((Message("user", p), Message("assistant", "да"))) for p in prompts])
    done = space.jobs.evaluate(cases, run=None, adapted=False, sampling=SHORT).wait(DEADLINE)
    assert done == {"replies": alone, "adapter_difference": None} and len(set(alone)) == 3


def test_a_second_training_is_refused_while_one_runs_and_a_stop_keeps_the_adapter(space: Workspace) -> None:
    ticket = train_on_and_on(space, "first")
    create(space, "second")
    with pytest.raises(BusyError, match="The run first is still going on: stop it or wait for its end"):
        space.jobs.start_training("second")
    assert space.engine.training() is ticket and space.engine.status().holder is ticket
    assert space.runs.view("second").state == "waiting", "a refused run is not spoilt"
    space.engine.stop(ticket)
    result = ticket.wait(DEADLINE)
    view = space.runs.view("first")
    assert (result["state"], view.state, view.has_adapter) == ("stopped", "stopped", True)
    assert 3 <= result["step"] < 2000 and result["step"] == len(view.steps)
    assert result["reason"] == f"stopped on request after {result['step']} optimizer steps"
    done = space.jobs.answer(TURNS, run="first", lanes=(True,), sampling=SHORT).wait(DEADLINE)
    assert done["adapter_difference"] == pytest.approx(result["adapter_difference"])
    assert space.jobs.start_training("second").wait(DEADLINE)["state"] == "finished"


def test_a_waiting_job_is_taken_back_without_touching_the_one_in_hand(space: Workspace) -> None:
    ticket = answer_on_and_on(space)
    create(space, "taken-back")
    waiting = space.jobs.start_training("taken-back")
    assert space.engine.status().waiting == 1 and space.engine.training() is waiting
    space.engine.stop(waiting)
    with pytest.raises(WorkbenchError, match="Training run taken-back was taken back before it began"):
        waiting.wait(1)
    assert waiting.begun is None and space.engine.status().waiting == 0 and space.engine.training() is None
    assert space.runs.view("taken-back").state == "stopped"
    assert not ticket.finished.is_set()
    space.engine.stop(ticket)
    [reply] = ticket.wait(DEADLINE)["replies"]
    assert reply["ended"] == "stopped" and 0 < reply["tokens"] < 8192


@pytest.mark.parametrize("kind", ["train", "load"])
def test_a_wrong_model_path_fails_in_one_sentence_and_the_worker_lives(space: Workspace, kind: str) -> None:
    space.jobs.load_model().wait(DEADLINE)
    pid = worker(space)
    if kind == "train":
        create(space, "nowhere", model="/no/such/model")
        ticket = space.jobs.start_training("nowhere")
    else:
        ticket = space.engine.submit(LoadJob(model="/no/such/model"), "loading")
    with pytest.raises(WorkbenchError) as caught:
        ticket.wait(DEADLINE)
    assert str(caught.value).startswith("There is no model folder /no/such/model: give a folder")
    assert "\n" not in str(caught.value)
    assert space.engine.status().last_fault == str(caught.value)
    if kind == "train":
        view = space.runs.view("nowhere")
        assert (view.state, view.ended and view.ended.reason) == ("failed", str(caught.value))
    assert space.jobs.load_model().wait(DEADLINE) == {} and worker(space) == pid
    assert space.engine.status().last_fault == ""


def test_a_worker_killed_in_the_middle_of_a_run_fails_it_with_the_reason(space: Workspace) -> None:
    ticket = train_on_and_on(space, "killed")
    pid = worker(space)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EngineError, match=r"The engine process was killed \(SIGKILL\) during training run killed\.") as caught:
        ticket.wait(DEADLINE)
    assert "the machine ran out of memory" in str(caught.value)
    view = space.runs.view("killed")
    assert view.state == "failed" and view.ended is not None
    assert view.ended.reason == str(caught.value) == space.engine.status().last_fault
    assert view.ended.step == view.steps[-1].step >= 3
    until(lambda: space.engine.status().holder is None, "the end of the job")
    assert space.engine.status().state == "off" and space.engine.status().holds == Holds()
    create(space, "after-kill")
    assert space.jobs.start_training("after-kill").wait(DEADLINE)["state"] == "finished"
    assert worker(space) != pid


def test_a_worker_killed_in_the_middle_of_an_answer_costs_that_answer_only(space: Workspace) -> None:
    ticket = answer_on_and_on(space)
    os.kill(worker(space), signal.SIGKILL)
    with pytest.raises(EngineError, match=r"was killed \(SIGKILL\) during an answer"):
        ticket.wait(DEADLINE)
    done = space.jobs.answer(TURNS, run=None, lanes=(False,), sampling=SHORT).wait(DEADLINE)
    assert done["replies"][0]["tokens"] == 24


def test_closing_stops_the_run_keeps_its_adapter_and_ends_the_worker(workspace: Workspace) -> None:
    ticket = train_on_and_on(workspace, "closed")
    process = psutil.Process(worker(workspace))
    workspace.engine.close()
    assert not process.is_running() and workspace.engine.worker_pid() is None
    view = workspace.runs.view("closed")
    assert (view.state, view.has_adapter) == ("stopped", True)
    assert view.ended is not None and view.ended.step == len(view.steps) < 2000
    assert ticket.wait(1)["state"] == "stopped"
    with pytest.raises(EngineError, match="The workbench is closing"):
        workspace.jobs.load_model()


APP = """
import sys, time
from pathlib import Path
from workbench.workspace import Workspace

space = Workspace(root=Path(sys.argv[1]))
ticket = space.jobs.start_training(sys.argv[2])
while space.engine.worker_pid() is None:
    time.sleep(0.01)
print(space.engine.worker_pid(), flush=True)
ticket.finished.wait()
"""


def test_a_killed_app_takes_its_worker_along_and_the_run_keeps_its_adapter(workspace: Workspace) -> None:
    create(workspace, "orphan", epochs=1000)
    app = subprocess.Popen(
        [sys.executable, "-c", APP, str(workspace.root), "orphan"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    try:
        assert app.stdout is not None
        process = psutil.Process(int(app.stdout.readline()))
        until(lambda: len(workspace.runs.view("orphan").steps) >= 3, "the third step")
    finally:
        app.kill()
        app.wait()
    until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, "the worker's end")
    view = workspace.runs.view("orphan")
    assert (view.state, view.has_adapter) == ("stopped", True)
    assert view.ended is not None and view.ended.adapter_difference is not None and view.ended.adapter_difference > 0
    assert view.ended.reason == f"stopped after {view.ended.step} optimizer steps, since the workbench was closed or killed"
