"""The dialect as a setting: the form draws it, plan and check heed it, a run and a sweep's cell are made with it."""

from __future__ import annotations

import json
from collections.abc import Callable

import gradio as gr
import pytest

from workbench.__main__ import main
from workbench.calls.dialects import DIALECTS
from workbench.engine.jobs import Host, Report
from workbench.engine.messages import FoldJob
from workbench.engine.sweeping import run_sweep
from workbench.errors import SettingsError
from workbench.models.decoding import generate
from workbench.settings import RunSettings, Training, apply_overrides
from workbench.training.sweep_axes import read_axis
from workbench.ui.forms import field_component, form_values
from workbench.ui.tune import plan_panel
from workbench.workspace import Workspace

LONG = "training.max_row_tokens=20000"
HERMES = "You are provided with function signatures"


@pytest.fixture
def run(workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, dict[str, object], list[str]]]:
    monkeypatch.delenv("MODEL", raising=False)

    def call(*arguments: str) -> tuple[int, dict[str, object], list[str]]:
        status = main(["--root", str(workspace.root), *arguments, "--json"])
        said = capsys.readouterr()
        return status, json.loads(said.out.splitlines()[-1]) if said.out else {}, said.err.splitlines()

    return call


def test_the_form_draws_the_dialects_and_whether_tools_are_told() -> None:
    with gr.Blocks():
        dialect, told = (field_component(Training, name, "training", getattr(Training(), name)) for name in ("dialect", "tools_in_prompt"))
    assert isinstance(dialect, gr.Dropdown) and isinstance(told, gr.Dropdown)
    assert [value for _, value in dialect.choices] == [*DIALECTS, "native"] and dialect.value == "tag"
    assert [value for _, value in told.choices] == ["auto", "yes", "no"] and told.value == "auto"


def test_a_plan_counts_the_dialect_s_tokens_and_those_of_the_tools(run: Callable[..., tuple[int, dict[str, int], list[str]]]) -> None:
    counts = []
    for pairs in ((), ("training.tools_in_prompt=yes",), ("training.dialect=hermes", "training.tools_in_prompt=no"), ("training.dialect=hermes",)):
        status, plan, err = run("plan", *(part for pair in (LONG, *pairs) for part in ("--set", pair)))
        assert (status, err) == (0, [])
        counts.append(plan["tokens_per_epoch"])
    tag, told, hermes, both = counts
    assert tag < told < both and tag < hermes < both


def test_a_model_without_a_dialect_of_its_own_is_refused_before_a_run_is_made(run: Callable[..., tuple[int, dict[str, object], list[str]]], workspace: Workspace) -> None:
    said = "The chat template of gemma-3-270m takes no tools, so the model has no dialect of its own. Choose one of tag"
    file = str(workspace.data_dir / "examples.json")
    for verb in (("plan",), ("train", "--data", file, "--name", "r"), ("check", file), ("sweep", "--name", "s", "--data", file, "--axis", "lora.rank=2,4")):
        status, _, err = run(*verb, "--set", "training.dialect=native")
        assert status == 2 and err[-1].startswith(said)
    assert workspace.runs.names() == []
    values = form_values(apply_overrides(workspace.default_settings(), ["training.dialect=native"]))
    assert said in plan_panel.show_plan(workspace, values)[0]


def test_check_names_the_rows_that_a_dialect_can_t_teach(run: Callable[..., tuple[int, dict[str, object], list[str]]], workspace: Workspace) -> None:
    file = workspace.root / "rows.jsonl"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": '{"function": "f", "arguments": {}}'}]
    file.write_text(json.dumps({"messages": turns}) + "\n", encoding="utf-8")
    assert run("check", str(file))[0] == 0
    status, found, err = run("check", str(file), "--set", "training.dialect=json")
    assert status == 2 and "would be read as another call in the dialect “json”" in err[0]
    assert "There is no setting" in run("check", str(file), "--set", "x.y=1")[2][0]


@pytest.mark.slow
def test_a_sweep_over_dialects_trains_asks_and_scores_each_in_its_own(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = apply_overrides(RunSettings(), ["training.epochs=1", "lora.rank=2", "training.dialect=json", "quantization.mode=none", LONG])
    path, values = read_axis("training.dialect=tag,hermes", settings)
    rows = workspace.rows.read().rows
    spec, usable = workspace.make_sweep("s", tuple(rows[:6]), settings, {path: values}, folds=2, seed=1, data_name="d")
    workspace.sweeps.store.create(spec, usable)
    host, seen = Host(workspace.catalog, workspace.runs), []

    def kept(base, lanes, sampling, **options):  # type: ignore[no-untyped-def]
        seen.append((HERMES in base.tokenizer.text(lanes[0].prompt_ids), lanes[0].keep))
        return generate(base, lanes, sampling.model_copy(update={"max_new_tokens": 2}), **options)

    monkeypatch.setattr("workbench.training.fold.generate", kept)

    def do(job: FoldJob, label: str) -> dict[str, object]:
        return host.do(job, Report())

    ended = run_sweep(workspace.sweeps.store, "s", do, stop=lambda: False)
    assert ended.state == "finished" and not ended.reason
    assert set(seen) == {(False, ()), (True, DIALECTS["hermes"].control)}
    assert spec.tools[0]["function"]["name"] == "get_sensitive_data" and "mock" not in json.dumps(spec.tools)


def test_an_unknown_dialect_is_told_with_all_there_are() -> None:
    with pytest.raises(SettingsError, match=r"Tool-call dialect \(training\.dialect\) can't be 'xml': it takes one of tag, json, .*, native\."):
        apply_overrides(RunSettings(), ["training.dialect=xml"])
