"""The verbs that train, on a tiny model: what they print, a run stopped and resumed, and names that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from workbench.__main__ import main
from workbench.dataset.formats import dump_jsonl, load_rows
from workbench.training import batching, loop, stepper
from workbench.training.runs import AT_BEST
from workbench.workspace import Workspace

pytestmark = pytest.mark.slow

SMALL = ("epochs=2", "rows_per_step=2", "validation_share=0.34", "warmup_steps=0", "learning_rate=0.01")
KEYS = {
    "name", "adapter", "state", "step", "seconds", "reason", "cause", "best_step", "best_adapter", "adapter_difference", "train_loss", "validation_loss",
}  # fmt: skip
Run = Callable[..., tuple[int, dict[str, Any], list[str], list[str]]]


@pytest.fixture
def run(workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a verb in this process; gives its status, its JSON, and its lines on standard output and standard error."""
    monkeypatch.delenv("MODEL", raising=False)
    monkeypatch.setattr(batching, "MOST_NEW_TOKENS", 6)

    def call(*arguments: str) -> tuple[int, dict[str, Any], list[str], list[str]]:
        status = main(["--root", str(workspace.root), *arguments, "--json"])
        said = capsys.readouterr()
        out = said.out.splitlines()
        return status, json.loads(out[-1]) if status == 0 else {}, out[:-1], said.err.splitlines()

    return call


@pytest.fixture
def train(workspace: Workspace, run: Run) -> Run:
    data = workspace.root / "six.jsonl"
    data.write_text(dump_jsonl(load_rows(workspace.data_dir / "examples.json").rows[:6]), encoding="utf-8")

    def call(name: str, *pairs: str) -> tuple[int, dict[str, Any], list[str], list[str]]:
        chosen = [word for pair in (*SMALL, *pairs) for word in ("--set", f"training.{pair}")]
        return run("train", "--data", str(data), "--name", name, "--set", "lora.rank=4", *chosen)

    return call


def test_a_run_tells_its_steps_answers_and_end(train: Run, workspace: Workspace) -> None:
    status, result, out, err = train("r1")
    assert status == 0 and set(result) == KEYS
    assert (result["state"], result["step"], result["cause"]) == ("finished", 4, "")
    steps = [line for line in err if line.startswith("step ")]
    assert [line.split("  ")[0] for line in steps] == ["step 1", "step 2", "step 3", "step 4"]
    assert sum(line.startswith("epoch ") and "answers" in line for line in err) == 3
    assert sum("validation loss" in line for line in err) == 2
    assert out[0].startswith("finished after 4 optimizer steps, ") and out[1].startswith("the adapter is active: ")


def test_a_run_that_failed_is_resumed_by_its_name(
    train: Run, run: Run, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = loop._Loop.one_step

    def fail(self: Any, packs: Any) -> None:
        if self.step == 3:
            raise RuntimeError("boom")
        real(self, packs)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="boom"):
        patch.setattr(loop._Loop, "one_step", fail)
        train("r1")
    assert workspace.runs.view("r1").state == "failed"
    capsys.readouterr()
    status, result, _, err = run("resume", "--name", "r1")
    assert status == 0 and set(result) == KEYS | {"resumed_from"}
    assert (result["resumed_from"], result["state"], result["step"]) == (2, "finished", 4)
    assert [line.split("  ")[0] for line in err if line.startswith("step ")] == ["step 3", "step 4"]
    assert run("resume", "--name", "r1") == (2, {}, [], ["The run r1 is finished: start a new one to train for longer."])


def test_the_best_adapter_is_named_and_answers(train: Run, run: Run, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter((1.0, 2.0))
    monkeypatch.setattr(stepper, "mean_loss", lambda *args: next(losses))
    _, result, out, _ = train("r1", "sample_every=0")
    assert (result["best_step"], result["best_adapter"]) == (2, f"r1{AT_BEST}")
    assert out[-1] == "the best adapter, after step 2, is r1@best"
    status, told, _, _ = run("answer", "--adapter", "r1@best", "--prompt", "Привет", "--max-new-tokens", "4")
    assert status == 0 and told["tokens"] <= 4 and told["adapter_difference"] > 0
    cases = workspace.root / "two.jsonl"
    cases.write_text("".join(dump_jsonl(load_rows(workspace.data_dir / "examples.json").rows[:2])), encoding="utf-8")
    assert run("evaluate", "--cases", str(cases), "--adapter", "r1@best", "--max-new-tokens", "4")[0] == 0
    assert (workspace.runs.path("r1") / "best" / "scores.json").is_file() and not (workspace.runs.path("r1") / "scores.json").exists()


def test_an_early_end_is_told_with_its_reason(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter((1.0, 2.0))
    monkeypatch.setattr(stepper, "mean_loss", lambda *args: next(losses))
    _, result, out, _ = train("r1", "sample_every=0", "epochs=5", "early_stopping=1")
    assert (result["state"], result["cause"], result["step"]) == ("finished", "early stop", 4)
    assert out[1].startswith("ended early after optimizer step 4: the last measurement of validation loss (2.000) was not better")


@pytest.mark.parametrize("name", ["a/b", "../x", "a@best"])
def test_a_name_that_could_lead_elsewhere_is_refused(train: Run, run: Run, workspace: Workspace, name: str) -> None:
    for call in (lambda: train(name), lambda: run("resume", "--name", name)):
        status, _, _, err = call()
        assert status == 2 and len(err) == 1 and err[0].startswith(f"The run name {name!r} can't be used")
    assert workspace.runs.names() == []


def test_a_second_start_of_a_name_or_a_second_resume_of_a_live_run_is_refused(train: Run, run: Run, workspace: Workspace) -> None:
    rows = load_rows(workspace.data_dir / "examples.json").rows[:4]
    workspace.create_run("r1", rows, workspace.default_settings(), data_name="examples.json")
    assert train("r1")[::3] == (2, ["There is already a run named r1: choose another name."])
    assert run("resume", "--name", "r1")[::3] == (2, ["The run r1 is going on already: wait for its end, or stop it first."])
    assert workspace.runs.view("r1").happened == ()


def test_an_unknown_run_is_told(run: Run) -> None:
    assert run("resume", "--name", "none")[::3] == (2, ["There is no run named none; there are: none yet."])
