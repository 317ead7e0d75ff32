"""The memory is free again after unloading: load → train → answer → unload, twenty times in one process, and through the engine."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch

from workbench.dataset.formats import load_rows
from workbench.engine.jobs import Host, Report
from workbench.engine.messages import AnswerJob, Holds, TrainJob, UnloadJob
from workbench.models.catalog import DEMO_FOLDER
from workbench.settings import Sampling, make_settings
from workbench.workspace import Workspace

pytestmark = pytest.mark.slow

ROUNDS, WARM = 20, 4  # after the first rounds every library has what it keeps for itself
MIB = 2**20
DEADLINE = 120.0


@pytest.fixture
def space(workspace: Workspace, tiny_folder: Path, tmp_path: Path) -> Workspace:
    """The workspace on a random model of 24 MiB, most of it embeddings: it computes fast, and one that is not freed shows at once."""
    from transformers import AutoModelForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig.from_pretrained(tiny_folder)
    config.update({"vocab_size": 100_000})
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    link = workspace.models_dir / DEMO_FOLDER  # type: ignore[operator]
    link.unlink()
    link.symlink_to(folder, target_is_directory=True)
    assert (folder / "model.safetensors").stat().st_size > 20 * MIB
    return workspace


@pytest.fixture
def create(space: Workspace) -> Callable[[str], TrainJob]:
    """A builder of runs of two steps."""
    training = {"epochs": 1, "rows_per_step": 1, "validation_share": 0.0, "warmup_steps": 0, "learning_rate": 0.01}
    settings = make_settings({"training": training, "lora": {"rank": 4}, "quantization": {"mode": "none"}})
    rows = load_rows(space.data_dir / "examples.json").rows[:2]

    def build(name: str) -> TrainJob:
        space.create_run(name, rows, settings, data_name="examples.json")
        return TrainJob(run=name)

    return build


def answer(run: str) -> AnswerJob:
    return AnswerJob(turns=({"role": "user", "content": "Привет"},), lanes=(False, True), run=run, sampling=Sampling(max_new_tokens=3))


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def test_twenty_rounds_of_load_train_answer_unload_leave_nothing_behind(space: Workspace, create: Callable[[str], TrainJob]) -> None:
    host = Host(space.catalog, space.runs)
    before = live_tensors()
    tensors: list[int] = []
    resident: list[int] = []
    for k in range(ROUNDS):
        assert host.do(create(f"run-{k}"), Report())["step"] == 2
        host.do(answer(f"run-{k}"), Report())
        if k == 0:
            assert live_tensors() > before + 50, "a loaded model is seen by this count"
        assert host.do(UnloadJob(), Report()) == {"allocated_bytes": 0}
        tensors.append(live_tensors())
        resident.append(psutil.Process().memory_info().rss)
    assert tensors[1:] == [tensors[0]] * (ROUNDS - 1)
    model = (space.catalog.demo_folder() / "model.safetensors").stat().st_size
    # What a library keeps for itself comes and goes; a model that is not freed stays in every later round.
    assert min(resident[-WARM:]) - max(resident[:WARM]) < model, "not even one model in sixteen rounds"


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield


def test_the_engine_s_worker_gives_the_memory_back_and_can_end(
    space: Workspace, create: Callable[[str], TrainJob], one_thread: None
) -> None:
    engine = space.engine
    resident = []
    for k in range(6):
        create(f"run-{k}")
        assert space.jobs.start_training(f"run-{k}").wait(DEADLINE)["step"] == 2
        assert engine.status().holds.adapter == f"run-{k}"
        assert engine.submit(UnloadJob(), "freeing").wait(DEADLINE) == {"allocated_bytes": 0}
        assert engine.status().holds == Holds()
        resident.append(psutil.Process(engine.worker_pid()).memory_info().rss)
    assert max(resident[3:]) - max(resident[:3]) < (space.catalog.demo_folder() / "model.safetensors").stat().st_size
    pid = engine.worker_pid()
    space.jobs.unload().wait(DEADLINE)
    assert engine.worker_pid() is None and pid is not None and not psutil.pid_exists(pid)
    assert space.jobs.load_model().wait(DEADLINE) == {} and engine.status().holds.model == "gemma-3-270m"
