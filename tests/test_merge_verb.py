"""`merge`: an adapter becomes a model of its own, which --model takes as merged:NAME; what can't be is told before a model is loaded."""

from __future__ import annotations

import json

import pytest

from workbench.__main__ import main
from workbench.dataset.formats import load_rows
from workbench.engine.jobs import Host, Report
from workbench.engine.messages import TrainJob
from workbench.settings import make_settings
from workbench.workspace import Workspace

pytestmark = pytest.mark.slow


def test_merge_then_evaluate_by_its_name(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    training = {"epochs": 1, "rows_per_step": 2, "validation_share": 0.0, "warmup_steps": 0, "learning_rate": 0.05, "sample_every": 0, "dialect": "json"}
    rows = load_rows(workspace.data_dir / "examples.json").rows[:4]
    workspace.create_run("one", rows, make_settings({"training": training, "lora": {"rank": 4}}), data_name="examples.json")
    Host(workspace.catalog, workspace.runs).do(TrainJob(run="one"), Report())
    cases = workspace.root / "cases.jsonl"
    cases.write_text("\n".join((workspace.data_dir / "cases.jsonl").read_text().splitlines()[:2]), encoding="utf-8")
    root = ["--root", str(workspace.root)]
    capsys.readouterr()

    def told(*arguments: str) -> tuple[int, dict[str, object], str]:
        status = main([*root, *arguments])
        out, err = capsys.readouterr()
        return status, json.loads(out.splitlines()[-1]) if status == 0 else {}, err

    status, found, err = told("merge", "--adapter", "one", "--name", "mine", "--json")
    assert (status, found["model"], found["adapter"], found["base"]) == (0, "merged:mine", "one", "gemma-3-270m")
    assert "merging one into tiny-gemma3" in err or "merging one into gemma-3-270m" in err
    status, merged, _ = told("evaluate", "--cases", str(cases), "--base", "--model", "merged:mine", "--json")
    assert status == 0
    status, adapted, _ = told("evaluate", "--cases", str(cases), "--adapter", "one", "--json")
    assert status == 0 and {k: v for k, v in merged.items() if k not in ("adapter", "adapter_difference")} == {
        k: v for k, v in adapted.items() if k not in ("adapter", "adapter_difference")
    }
    short = ("--prompt", "Мой баланс?", "--max-new-tokens", "8", "--json")
    asked = {by: told("answer", "--adapter", by, *short)[1] for by in ("one", "merged:mine")}
    assert asked["merged:mine"]["text"] == asked["one"]["text"] and asked["merged:mine"]["adapter_difference"] is None
    status, base, _ = told("answer", "--adapter", "merged:mine", "--base", *short)
    assert status == 0 and base["text"] == told("answer", "--adapter", "one", "--base", *short)[1]["text"]
    for arguments, said in (
        (("merge", "--adapter", "one", "--name", "mine"), "There is already a model named mine: choose another name"),
        (("merge", "--adapter", "nobody", "--name", "x"), "There is no run named nobody"),
        (("merge", "--adapter", "one", "--name", "../x"), "The name of the merged model '../x' can't be used"),
        (("answer", "--adapter", "merged:nobody", "--prompt", "x"), "There is no merged model nobody any more"),
        (("evaluate", "--cases", str(cases), "--base", "--model", "merged:nobody"), "There is no merged model nobody any more"),
    ):
        status, _, err = told(*arguments)
        assert status == 2 and err.count("\n") == 1 and err.startswith(said)
