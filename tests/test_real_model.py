"""The embedded Gemma 3 270M itself: trained for a few steps from the command line, then asked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from workbench.calls.dialects import TAG, verdict
from workbench.models.shapes import folder_shapes, lora_parameters, parameter_count
from workbench.settings import Lora
from workbench.training.runs import RunStore

pytestmark = pytest.mark.real_model
REPOSITORY = Path(__file__).resolve().parent.parent
PROMPT = "Сколько у меня сейчас денег на счёте?"
# 12 rows, 6 of them calls; 10 are learned in 2 steps an epoch, 2 are held back.
SETTINGS = {
    "training.epochs": 4, "training.rows_per_step": 5, "training.validation_share": 0.17, "training.warmup_steps": 0,
    "training.learning_rate": 0.001, "lora.dropout": 0,
}


def workbench(root: Path, *arguments: str) -> dict[str, Any]:
    """One verb in a process of its own; the object that `--json` prints as the last line."""
    done = subprocess.run(
        [sys.executable, "-m", "workbench", "--root", str(root), *arguments, "--json"],
        cwd=REPOSITORY, capture_output=True, text=True, encoding="utf-8", timeout=300, check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def ask(root: Path, *arguments: str) -> dict[str, Any]:
    return workbench(root, "answer", "--adapter", "short", "--prompt", PROMPT, "--max-new-tokens", "32", *arguments)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, demo_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("real")
    (folder / "models").symlink_to(demo_folder.parent, target_is_directory=True)
    lines = (REPOSITORY / "data" / "examples.json").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "rows.jsonl").write_text("".join(lines[:12]), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(root: Path) -> dict[str, Any]:
    chosen = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
    return workbench(root, "train", "--data", str(root / "rows.jsonl"), "--name", "short", *chosen)


def test_a_short_run_learns_and_its_adapter_is_active(root: Path, trained: dict[str, Any], demo_folder: Path) -> None:
    assert (trained["state"], trained["step"], trained["name"], trained["reason"]) == ("finished", 8, "short", "")
    assert trained["adapter_difference"] > 1
    view = RunStore(root / "adapters").view("short")
    assert view.started is not None
    assert (view.started.train_rows, view.started.validation_rows) == (10, 2)
    shapes = folder_shapes(demo_folder)
    assert view.started.trainable_parameters == lora_parameters(shapes, Lora())
    assert view.started.total_parameters == parameter_count(shapes) + lora_parameters(shapes, Lora())
    losses, held_back = [s.loss for s in view.steps], [v.loss for v in view.validations]
    assert len(losses) == 8 and len(held_back) == 4
    assert losses[-1] < 0.5 * losses[0] and held_back[-1] < held_back[0]
    assert (trained["train_loss"], trained["validation_loss"]) == (losses[-1], held_back[-1])


def test_the_trained_adapter_answers_otherwise_than_its_base(root: Path, trained: dict[str, Any]) -> None:
    adapted, base = ask(root), ask(root, "--base")
    assert adapted["adapter_difference"] == pytest.approx(trained["adapter_difference"], rel=1e-4)
    assert adapted["text"] != base["text"]
    for reply in (adapted, base):
        assert reply["verdict"] == verdict(TAG.parse(reply["text"])) and 0 < reply["tokens"] <= 32
    assert adapted["verdict"] == "tool call" and base["verdict"] == "no tool call"
    assert adapted["text"].startswith('<tool_call name="get_sensitive_data" arguments="{}"/>')
    assert adapted["calls"][0] == {"name": "get_sensitive_data", "arguments": {}} and base["calls"] == []
