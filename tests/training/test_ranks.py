"""One run by two processes on a CPU (gloo): the run of one process, step for step."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from workbench.__main__ import main
from workbench.engine.messages import TrainJob
from workbench.errors import SettingsError
from workbench.models.loading import load_base
from workbench.settings import RunSettings, apply_overrides
from workbench.training.ranks import ALONE, Ranks, launched
from workbench.workspace import Workspace

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
SETTINGS = (
    "training.epochs=2", "training.rows_per_step=5", "training.learning_rate=0.01", "training.warmup_steps=1", "training.sample_every=1",
    "training.keep_best=validation loss", "lora.rank=4", "lora.alpha=8", "lora.dropout=0", "quantization.mode=none",
)
PAIR = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "-m"]


def rows(root: Path) -> Path:
    """The first twelve rows: an epoch's last step has a single one, so that one of two processes has none."""
    path = root / "rows.jsonl"
    path.write_text("\n".join((root / "data" / "examples.json").read_text(encoding="utf-8").splitlines()[:12]), encoding="utf-8")
    return path


def command(root: Path, launcher: list[str], name: str, *more: str) -> subprocess.CompletedProcess[str]:
    sets = [part for pair in SETTINGS for part in ("--set", pair)]
    return subprocess.run(
        [sys.executable, *launcher, "workbench", "--root", str(root), "train", "--data", str(rows(root)), "--name", name, "--json", *sets, *more],
        capture_output=True, text=True, timeout=300, check=False, cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""},
    )


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory, new_workspace: Callable[[Path], Workspace]) -> Workspace:
    """A workspace with the run `one`, made by a single process."""
    root = tmp_path_factory.mktemp("ranks") / "space"
    made = new_workspace(root)
    done = command(root, ["-m"], "one")
    assert done.returncode == 0, done.stderr[-3000:]
    return made


SPREAD = "quantization.shard=true"


# Where the base is spread each process must pass as often as the other, whatever the budget makes of its rows.
@pytest.mark.parametrize("more", [(), (SPREAD, "training.tokens_per_forward=150"), (SPREAD, "training.checkpointing=true")])
def test_two_processes_make_the_steps_of_one(space: Workspace, more: tuple[str, ...]) -> None:
    name = f"two{len(space.runs.names())}"
    done = command(space.root, PAIR, name, *(part for pair in more for part in ("--set", pair)))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('"adapter_difference"') == 1, "the first process alone speaks"
    one, two = space.runs.view("one"), space.runs.view(name)
    assert [s.loss for s in two.steps] == pytest.approx([s.loss for s in one.steps], rel=1e-4)
    assert [s.gradient_norm for s in two.steps] == pytest.approx([s.gradient_norm for s in one.steps], rel=1e-3)
    assert [(s.tokens, s.labels) for s in two.steps] == [(s.tokens, s.labels) for s in one.steps]
    assert [v.loss for v in two.validations] == pytest.approx([v.loss for v in one.validations], rel=1e-4)
    assert (two.state, two.best_step) == (one.state, one.best_step)
    assert len({next(e.total_parameters for e in view.happened if e.type == "started") for view in (one, two)}) == 1
    assert [s.right for s in two.samples] == [s.right for s in one.samples]
    ours, theirs = (load_file(str(space.runs.path(each) / "adapter_model.safetensors")) for each in (name, "one"))
    for key in theirs:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-3, atol=1e-4)


def test_a_process_that_is_not_the_first_ends_as_the_first_does(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By `main`'s status, for `leave`: gloo's threads outlive their group, and now and then abort a process that Python takes apart."""

    class Second(Ranks):
        def from_first(self, work: Callable[[], Any]) -> Any:
            return TrainJob(run="elsewhere")

    followed = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("workbench.training.ranks.launched", lambda: Second(1, 2))
    monkeypatch.setattr("workbench.engine.jobs.Host.follow", lambda self, run: followed.append(run))
    assert main(["--root", str(workspace.root), "train", "--data", str(rows(workspace.root)), "--name", "elsewhere", "--json"]) == 0
    assert followed == ["elsewhere"] and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("sets", "sentence"),
    [(("quantization.mode=none",), "wants several processes: start the training by `accelerate launch"), (("quantization.mode=4-bit",), "weights in 4 bit can't be spread"),
     (("quantization.mode=none", "quantization.offload=true"), "set quantization.offload=false")],
)  # fmt: skip
def test_a_base_that_can_t_be_spread_is_refused(tiny_folder: Path, sets: tuple[str, ...], sentence: str) -> None:
    chosen = apply_overrides(RunSettings(), (SPREAD, *sets)).quantization
    with pytest.raises(SettingsError, match=sentence):
        load_base(tiny_folder, chosen)
    assert chosen.model_copy(update={"mode": "auto"}).resolved(True).mode == "none"


def test_a_name_that_is_taken_ends_both_processes_with_one_sentence(tmp_path: Path, new_workspace: Callable[[Path], Workspace]) -> None:
    new_workspace(tmp_path / "space")
    (tmp_path / "space" / "adapters" / "there").mkdir(parents=True)
    (tmp_path / "space" / "adapters" / "there" / "run.json").write_text("{}", encoding="utf-8")
    done = command(tmp_path / "space", PAIR, "there")
    assert done.returncode != 0
    assert "there" in done.stderr and "The first process of the run gave up, and says why; this one ends with it." in done.stderr
    assert f'File "{REPOSITORY / "workbench"}' not in done.stderr, "the launcher tells its own way, ours is two sentences"


def test_a_step_s_rows_are_dealt_in_turns() -> None:
    assert [Ranks(r, 3).share([10, 11, 12, 13]) for r in range(3)] == [[10, 13], [11], [12]]
    assert Ranks(2, 3).share([10]) == []


def test_alone_nothing_is_added_up_or_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    tensor = torch.ones(2)
    assert launched() is ALONE and ALONE.first and ALONE.count(5) == 5 and ALONE.from_first(lambda: "x") == "x"
    ALONE.add_up([tensor])
    assert tensor.tolist() == [1.0, 1.0]
