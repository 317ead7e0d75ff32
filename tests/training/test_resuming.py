"""A run taken up again through the app, its place in the queue, and what the card tells while it goes on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from workbench.dataset.formats import load_rows
from workbench.engine.messages import TrainJob
from workbench.errors import BusyError, EngineError, RunError
from workbench.models import hardware
from workbench.models.loading import load_base
from workbench.settings import Quantization, make_settings
from workbench.training import events, job
from workbench.training.resuming import reopen
from workbench.training.runs import RunStore
from workbench.workspace import Workspace


class Queue:
    """Stands in the engine's place: holds what it is given, or refuses it."""

    def __init__(self, held: str = "", refuses: bool = False) -> None:
        self.held, self.refuses = held, refuses
        self.jobs: list[Any] = []

    def training(self) -> Any:
        return SimpleNamespace(label=self.held) if self.held else None

    def submit(self, job: Any, label: str) -> str:
        if self.refuses:
            raise EngineError("The workbench is closing.")
        self.jobs.append((job, label))
        return "ticket"

    def close(self) -> None:
        pass


@pytest.fixture
def stopped(workspace: Workspace) -> Workspace:
    rows = load_rows(workspace.data_dir / "examples.json").rows[:4]
    workspace.create_run("r1", rows, workspace.default_settings(), data_name="examples.json")
    workspace.runs.append("r1", events.Ended(state="stopped", reason="x"))
    return workspace


def test_a_run_to_be_resumed_waits_in_the_queue_and_is_left_as_it_is(stopped: Workspace) -> None:
    queue = vars(stopped)["engine"] = Queue()
    assert stopped.jobs.resume_training("r1") == "ticket"
    assert queue.jobs == [(TrainJob(run="r1", resume=True), "training run r1")]
    assert [e.type for e in stopped.runs.view("r1").happened] == ["ended"]
    assert stopped.runs.view("r1").state == "stopped"


def test_a_run_that_goes_on_or_is_finished_is_not_queued(stopped: Workspace) -> None:
    queue = vars(stopped)["engine"] = Queue()
    reopen(stopped.runs, "r1")
    assert [e.type for e in stopped.runs.view("r1").happened] == ["ended", "resumed", "notice"]
    with pytest.raises(RunError, match="The run r1 is going on already"):
        stopped.jobs.resume_training("r1")
    stopped.runs.append("r1", events.Ended(state="finished"))
    with pytest.raises(RunError, match="The run r1 is finished"):
        stopped.jobs.resume_training("r1")
    assert queue.jobs == []


def test_a_run_is_not_resumed_while_another_is_trained(stopped: Workspace) -> None:
    vars(stopped)["engine"] = Queue(held="training run r0")
    with pytest.raises(BusyError, match=r"^Training run r0 is still going on: stop it or wait for its end, then resume r1\.$"):
        stopped.jobs.resume_training("r1")
    assert len(stopped.runs.view("r1").happened) == 1


def test_a_refused_resume_leaves_the_run_as_it_is(stopped: Workspace) -> None:
    vars(stopped)["engine"] = Queue(refuses=True)
    with pytest.raises(EngineError):
        stopped.jobs.resume_training("r1")
    view = stopped.runs.view("r1")
    assert view.ended is not None and (view.state, view.ended.reason, len(view.happened)) == ("stopped", "x", 1)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [{"dora": True}, {"rslora": True}], ids=["DoRA", "rsLoRA"])
def test_other_kinds_of_adapters_go_on_where_they_stopped(tiny_folder: Path, tmp_path: Path, lora: dict[str, Any]) -> None:
    base, runs = load_base(tiny_folder, Quantization(mode="none")), RunStore(tmp_path / "adapters")
    rows = load_rows(Path(__file__).resolve().parents[2] / "data" / "examples.json").rows[:4]
    training = {"epochs": 2, "rows_per_step": 2, "validation_share": 0.0, "warmup_steps": 0, "learning_rate": 0.02, "sample_every": 0}
    for name in ("whole", "parts"):
        runs.create(
            name, model="demo", model_name="x", rows=rows, data_name="x", settings=make_settings({"training": training, "lora": {"rank": 4} | lora})
        )
    job.run_training(base, runs, "whole", stop=lambda: False)
    job.run_training(base, runs, "parts", stop=lambda: len(runs.view("parts").steps) >= 1)
    job.run_training(base, runs, "parts", stop=lambda: False, resume=True)
    whole, parts = ([s.loss for s in runs.view(name).steps] for name in ("whole", "parts"))
    assert len(parts) == 4 and parts == pytest.approx(whole, abs=1e-4, rel=0)


# -- the card's use --------------------------------------------------------------------------------


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A driver that tells what the test wants, and counts how often it was opened."""
    hardware._kept_handle.cache_clear()
    told = SimpleNamespace(opened=0, use=37, fault=None)

    def init() -> None:
        told.opened += 1
        if told.fault == "init":
            raise pynvml.NVMLError(1)

    def rates(handle: Any) -> Any:
        if told.fault == "rates":
            raise pynvml.NVMLError(3)
        return SimpleNamespace(gpu=told.use)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(pynvml, "nvmlInit", init)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda number: number)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", rates)
    yield told
    hardware._kept_handle.cache_clear()


def test_the_card_s_use_is_a_share_and_the_driver_is_opened_once(nvml: Any) -> None:
    assert hardware.gpu_use() == pytest.approx(0.37)
    nvml.use = 100
    assert (hardware.gpu_use(), nvml.opened) == (1.0, 1)


@pytest.mark.parametrize("fault", ["init", "rates"])
def test_a_driver_that_does_not_tell_gives_nothing(nvml: Any, fault: str) -> None:
    nvml.fault = fault
    assert hardware.gpu_use() is None


def test_a_hidden_card_gives_nothing(nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert (hardware.gpu_use(), nvml.opened) == (None, 0)
