"""Faults that really happen, in a real worker on a tiny model: the run is marked, can be resumed, and the next job works."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from workbench.dataset.formats import load_rows
from workbench.engine.client import Engine, Limits
from workbench.engine.jobs import Host, Report
from workbench.engine.messages import AnswerJob, Holds, LoadJob, TrainJob
from workbench.engine.worker import ALONE
from workbench.errors import EngineError, WorkbenchError
from workbench.settings import Sampling, make_settings
from workbench.training.runs import RunView
from workbench.workspace import Workspace

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE = 120.0
SHORT = Sampling(max_new_tokens=8)
AT = 4  # the backward pass that meets the fault: a step each, and three of them are saved by then

# The worker itself, with one fault in it: it happens once, as long as the file `armed` is there.
WORKER = """#!{python}
import ctypes, os, resource, runpy, signal, sys, time

sys.path.insert(0, {root!r})
fault, armed = {fault!r}, {armed!r}
if fault == "orphan's hang":
    import functools, workbench.engine.watch as watch
    watch.Limits = functools.partial(watch.Limits, stopping=0.5)
if fault == "no library" and os.path.exists(armed):
    sys.modules["transformers"] = None
import torch

backward, passes = torch.Tensor.backward, 0

def out_of_memory():
    limit = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2**28, limit[1]))
    try:
        held = [torch.ones(2**26) for _ in range(100)]
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)

def happen():
    if fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "crash":
        ctypes.string_at(0)
    elif fault == "memory":
        out_of_memory()
    elif fault == "card's memory":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    elif fault == "device":
        raise torch.AcceleratorError("CUDA error: device-side assert triggered\\nCUDA kernel errors might be told later.")
    elif fault in ("hang", "orphan's hang"):
        time.sleep(3600)
    elif fault == "busy hang":
        while True:
            pass

def counted(self, *args, **kwargs):
    global passes
    passes += 1
    if passes == {at} and os.path.exists(armed):
        os.remove(armed)
        happen()
    return backward(self, *args, **kwargs)

torch.Tensor.backward = counted
sys.argv = ["worker", *sys.argv[3:]]
runpy.run_module("workbench.engine.worker", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def broken(tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Workspace]]:
    """A builder: the workspace with an engine whose worker meets a fault in its fourth step, once."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def build(fault: str, **limits: float) -> Workspace:
        script, armed = tmp_path / "worker", tmp_path / "armed"
        armed.touch()
        text = WORKER.format(python=sys.executable, root=str(REPOSITORY), fault=fault, armed=str(armed), at=AT)
        script.write_text(text, encoding="utf-8")
        script.chmod(0o755)
        known = Limits(**{"starting": DEADLINE, "loading": DEADLINE, "computing": DEADLINE, "computing_cpu": DEADLINE} | limits)
        vars(workspace)["engine"] = Engine(workspace.catalog.models_dir, workspace.runs.folder, workspace.runs, python=str(script), limits=known)
        return workspace

    yield build


def create(space: Workspace, name: str, steps: int) -> None:
    training = {"epochs": steps // 2, "rows_per_step": 2, "validation_share": 0.0, "warmup_steps": 0, "save_every": 1, "learning_rate": 0.01}
    settings = make_settings({"training": training, "lora": {"rank": 4}, "quantization": {"mode": "none"}})
    space.create_run(name, load_rows(space.data_dir / "examples.json").rows[:4], settings, data_name="examples.json")


def fail(space: Workspace) -> tuple[str, RunView]:
    """Train until the fault comes; its sentence, and the run as it stands then."""
    create(space, "run", 8)
    ticket = space.jobs.start_training("run")
    with pytest.raises(EngineError) as caught:
        ticket.wait(DEADLINE)
    view = space.runs.view("run")
    assert view.ended is not None and (view.state, view.ended.reason) == ("failed", str(caught.value))
    assert view.ended.step == AT - 1 == view.steps[-1].step and ticket.cause == view.ended.cause
    assert space.engine.status().last_fault == str(caught.value)
    return str(caught.value), view


def goes_on(space: Workspace) -> None:
    """The next job works, and the run is finished from its checkpoint."""
    done = space.jobs.answer([{"role": "user", "content": "Привет"}], run=None, lanes=(False,), sampling=SHORT).wait(DEADLINE)
    assert done["replies"][0]["tokens"] == 8 and space.engine.status().last_fault == ""
    assert space.runs.view("run").resumable and space.runs.view("run").has_adapter
    result = space.engine.submit(TrainJob(run="run", resume=True), "training run run").wait(DEADLINE)
    assert (result["state"], result["step"]) == ("finished", 8)
    assert [step.step for step in space.runs.view("run").steps] == list(range(1, 9))


@pytest.mark.parametrize(("fault", "name"), [("killed", "SIGKILL"), ("crash", "SIGSEGV")])
def test_a_worker_that_is_killed_or_crashes(broken: Callable[..., Workspace], fault: str, name: str) -> None:
    space = broken(fault)
    reason, view = fail(space)
    assert reason.startswith(f"The engine process was killed ({name}) during training run run. It last said: ")
    assert view.ended is not None and view.ended.cause == "killed"
    assert space.engine.status().state == "off" and space.engine.status().holds == Holds()
    goes_on(space)


@pytest.mark.parametrize("fault", ["memory", "card's memory"])
def test_running_out_of_memory(broken: Callable[..., Workspace], fault: str) -> None:
    """Once for real, by a limit on the process's address space; once as the card's allocator says it."""
    space = broken(fault)
    reason, view = fail(space)
    assert reason.startswith("The memory ran out: choose 4-bit base weights") and view.ended is not None and view.ended.cause == "memory"
    pid = space.engine.worker_pid()
    assert pid is not None and space.engine.status().holds == Holds(), "the process lives on, with everything freed"
    goes_on(space)
    assert space.engine.worker_pid() == pid


def test_a_device_assertion_ends_the_worker(broken: Callable[..., Workspace]) -> None:
    space = broken("device")
    space.jobs.load_model().wait(DEADLINE)
    pid = space.engine.worker_pid()
    reason, view = fail(space)
    assert reason == (
        "The card failed (CUDA error: device-side assert triggered), and what was on it is lost. The next job gets a fresh process."
    )
    assert view.ended is not None and view.ended.cause == "device"
    assert pid is not None and not psutil.pid_exists(pid)
    goes_on(space)


@pytest.mark.parametrize("fault", ["hang", "busy hang"])
def test_a_hang_is_ended_by_the_watchdog(broken: Callable[..., Workspace], fault: str) -> None:
    space = broken(fault, computing=8, computing_cpu=8)
    reason, view = fail(space)
    assert reason.startswith("Training run run gave no sign of progress for 8 s while computing")
    assert reason.endswith("(the limit), so the engine process was ended. The next job gets a fresh process.")
    assert view.ended is not None and view.ended.cause == "hang"
    goes_on(space)


def test_a_stop_that_a_hanging_worker_does_not_obey(broken: Callable[..., Workspace], tmp_path: Path) -> None:
    space = broken("hang", stopping=0.5)
    create(space, "run", 8)
    ticket = space.jobs.start_training("run")
    while (tmp_path / "armed").exists():
        assert not ticket.finished.wait(0.05)
    space.engine.stop(ticket)
    with pytest.raises(EngineError, match=r"^Training run run did not stop within [\d.]+ s of being asked to \(the limit\)"):
        ticket.wait(DEADLINE)
    view = space.runs.view("run")
    assert view.ended is not None and (view.state, view.ended.cause) == ("failed", "hang")
    goes_on(space)


def test_a_hanging_worker_does_not_outlive_its_app(broken: Callable[..., Workspace], tmp_path: Path) -> None:
    """The watchdog went with the app, and the worker's input with it: the worker ends itself."""
    space = broken("orphan's hang")
    create(space, "run", 8)
    ticket = space.jobs.start_training("run")
    while (tmp_path / "armed").exists():
        assert not ticket.finished.wait(0.05)
    process = space.engine._process
    assert process is not None
    process.close_input()
    with pytest.raises(EngineError, match=rf"^The engine process ended with code {ALONE} during training run run"):
        ticket.wait(DEADLINE)
    goes_on(space)


def test_a_missing_library_is_named(broken: Callable[..., Workspace], tmp_path: Path) -> None:
    space = broken("no library")
    create(space, "run", 8)
    with pytest.raises(EngineError, match="transformers") as caught:
        space.jobs.start_training("run").wait(DEADLINE)
    assert str(caught.value).startswith("The engine process could not start: ") and "requirements.txt" in str(caught.value)
    assert space.runs.view("run").state == "failed"
    (tmp_path / "armed").unlink()
    assert space.jobs.load_model().wait(DEADLINE) == {}


# -- a stop while a model is loaded: in this process, so that it comes at a known tensor ---------------------------


def load(host: Host, stop_at: float) -> list[float]:
    """Load the model until the given share of its tensors; the shares that were told. Above 1 it is loaded whole."""
    shares: list[float] = []

    def progress(text: str, share: float | None) -> None:
        shares.extend([] if share is None else [share])

    host.do(LoadJob(model="demo"), Report(progress=progress, stop=lambda: bool(shares) and shares[-1] >= stop_at))
    return shares


def test_a_stop_while_a_model_is_loaded_is_obeyed_between_two_tensors(workspace: Workspace) -> None:
    host = Host(workspace.catalog, workspace.runs)
    with pytest.raises(WorkbenchError, match="^gemma-3-270m was not loaded: it was stopped on request"):
        load(host, stop_at=0.5)
    assert (host.base, host.key) == (None, None)
    shares = load(host, stop_at=2.0)
    assert shares == sorted(shares) and len(shares) > 10 and (shares[0], shares[-1] > 0.9) == (0.0, True)
    job = AnswerJob(turns=({"role": "user", "content": "Привет"},), lanes=(False,), sampling=SHORT)
    fresh = Host(workspace.catalog, workspace.runs)
    assert host.do(job, Report())["replies"][0]["text"] == fresh.do(job, Report())["replies"][0]["text"]


def test_a_run_that_is_stopped_while_its_model_is_loaded_is_stopped_and_not_failed(workspace: Workspace) -> None:
    create(workspace, "run", 2)
    with pytest.raises(WorkbenchError, match="it was stopped on request"):
        Host(workspace.catalog, workspace.runs).do(TrainJob(run="run"), Report(stop=lambda: True))
    view = workspace.runs.view("run")
    assert view.state == "stopped" and view.ended is not None and "while the model was being loaded" in view.ended.reason
