"""An adapter merged into its base: it answers as the adapter did, stands whole in its folder or not at all, and takes turns with other bases."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.engine import answering, bases
from workbench.engine.jobs import FaultError, Host, Report
from workbench.engine.messages import AnswerJob, EvaluateJob, Holds, LoadJob, MergeJob, UnloadJob
from workbench.errors import AdapterError, InputError, ModelError, RunError, WorkbenchError
from workbench.models import decoding, merge_plan, merging
from workbench.models.adapters import put_saved_adapter
from workbench.models.catalog import DEMO_FOLDER
from workbench.models.fingerprint import fingerprint
from workbench.models.loading import load_base
from workbench.settings import Quantization, Sampling
from workbench.training.merged import read_merged
from workbench.workspace import Workspace

pytestmark = pytest.mark.slow

TURNS = ({"role": "user", "content": "Сколько у меня денег?"},)
SHORT = Sampling(max_new_tokens=16)
WHOLE = Quantization(mode="none")


def reply(host: Host, *, run: str | None = None, model: str = "demo", adapted: bool = False, report: Report | None = None) -> str:
    job = AnswerJob(turns=TURNS, lanes=(adapted,), run=run, model=model, sampling=SHORT)
    return str(host.do(job, report or Report())["replies"][0]["text"])


def logits(base: Any, text: str) -> torch.Tensor:
    ids = torch.tensor([base.tokenizer.prompt_ids([{"role": "user", "content": text}])])
    with torch.no_grad():
        found: torch.Tensor = base.model(input_ids=ids, use_cache=False).logits
    return found


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("lora", [{}, {"dora": True}, {"rslora": True, "alpha": 3.0}], ids=["lora", "dora", "rslora"])
def test_a_merged_model_answers_as_base_and_adapter_do(host: Host, workspace: Workspace, train: Callable[..., str], lora: dict[str, Any]) -> None:
    train("one", lora)
    source = workspace.catalog.demo_folder()
    before = fingerprint(source)
    done = host.do(MergeJob(run="one", name="mine"), Report())
    folder = workspace.catalog.models_dir / "mine"
    assert (done["model"], done["folder"], workspace.catalog.merged()) == ("merged:mine", str(folder), ["merged:mine"])
    assert done["adapter_difference"] > 1 and done["rounding"] < 1e-4 and fingerprint(source) == before

    apart, merged = load_base(source, WHOLE), load_base(folder, WHOLE)
    plain = logits(apart, "Мой баланс?")
    put_saved_adapter(apart, workspace.runs.path("one"), "one")
    for text in ("Мой баланс?", "Привет", "Сколько у меня денег на счёте?"):
        torch.testing.assert_close(logits(merged, text), logits(apart, text), atol=1e-4, rtol=0)
    assert float((logits(merged, "Мой баланс?") - plain).abs().max()) > 1
    assert reply(host, model="merged:mine") == reply(host, run="one", adapted=True) != reply(host)


def test_its_folder_is_a_whole_model_and_says_what_it_was_made_of(host: Host, workspace: Workspace, train: Callable[..., str]) -> None:
    host.do(MergeJob(run=train("one", dialect="functiongemma"), name="mine"), Report())
    folder = workspace.catalog.models_dir / "mine"
    assert left_in(folder) == [
        "chat_template.jinja", "config.json", "generation_config.json", "merged.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert left_in(folder.parent) == [DEMO_FOLDER, "mine"] and folder.stat().st_mode & 0o055 and (folder / "model.safetensors").stat().st_mode & 0o044
    source = workspace.catalog.demo_folder()
    for name in ("chat_template.jinja", "generation_config.json", "tokenizer.json"):
        assert (folder / name).read_bytes() == (source / name).read_bytes()
    record = read_merged(workspace.catalog, "merged:mine")
    assert (record.adapter, record.base, record.base_fingerprint) == ("one", DEMO_FOLDER, fingerprint(source))
    assert record.calls.dialect == "functiongemma" and record.calls.form() == workspace.form("one") == workspace.form("merged:mine")
    assert record.calls.tools and str(workspace.root) not in (folder / "config.json").read_text() + (folder / "merged.json").read_text()
    shutil.move(folder, workspace.root / "elsewhere")
    assert host.catalog.merged() == [] and load_base(workspace.root / "elsewhere", WHOLE).adapter is None, "a model like any other"


def test_it_is_asked_and_scored_in_its_adapter_s_form_and_so_is_the_base_beside_it(
    host: Host, workspace: Workspace, train: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    host.do(MergeJob(run=train("one", dialect="functiongemma"), name="mine"), Report())
    asked: list[tuple[Any, Any]] = []

    def told(base: Any, lanes: Any, *args: Any, **kwargs: Any) -> Any:
        asked.extend({(lane.keep, lane.stops) for lane in lanes})
        return decoding.generate(base, lanes, *args, **kwargs)

    monkeypatch.setattr(answering, "generate", told)
    dialect = workspace.form("one").dialect
    host.do(AnswerJob(turns=TURNS, lanes=(False,), model="merged:mine", sampling=SHORT), Report())
    host.do(EvaluateJob(prompts=(TURNS,), adapted=False, model="merged:mine", sampling=SHORT), Report())
    host.do(AnswerJob(turns=TURNS, lanes=(False,), form_of="merged:mine", sampling=SHORT), Report())
    host.do(AnswerJob(turns=TURNS, lanes=(False,), sampling=SHORT), Report())
    assert asked == [(dialect.control, dialect.stops)] * 3 + [((), ())] and dialect.stops
    opened = Workspace(root=workspace.root, model="merged:mine")
    assert opened.form(None) == workspace.form("one") and opened.model_name == "mine"


# -- two bases take turns ----------------------------------------------------------------------------


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that were loaded, in their order."""
    found: list[str] = []
    real = bases.load_base

    def counted(folder: Path, *args: Any, **kwargs: Any) -> Any:
        found.append(folder.name)
        return real(folder, *args, **kwargs)

    monkeypatch.setattr(bases, "load_base", counted)
    return found


def test_two_bases_stay_loaded_and_adapters_go_on_without_reloading(host: Host, train: Callable[..., str], loads: list[str]) -> None:
    for name, seed in (("one", 1), ("two", 2)):
        train(name, seed=seed)
    host.do(MergeJob(run="one", name="mine"), Report())
    del loads[:]
    said: list[Holds] = []
    report = Report(holds=said.append)
    plain = reply(host)
    for _ in range(2):
        assert reply(host, run="one", adapted=True, report=report) == reply(host, model="merged:mine", report=report)
        assert reply(host, run="two", adapted=True, report=report) != reply(host, run="one", adapted=True) and reply(host, report=report) == plain
    assert loads == ["mine"], "the base was there, and each base is loaded once"
    both = {(holds.model, holds.also) for holds in said}
    assert (DEMO_FOLDER, "mine") in both and ("mine", DEMO_FOLDER) in both


def test_without_the_room_for_both_they_are_loaded_in_turn_and_it_is_said(
    host: Host, train: Callable[..., str], loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    host.do(MergeJob(run=train("one"), name="mine"), Report())
    del loads[:]
    monkeypatch.setattr(bases, "_free_gib", lambda: 0.1)
    told: list[str] = []
    report = Report(progress=lambda text, share: told.append(text))
    for _ in range(2):
        reply(host, model="merged:mine", report=report)
        reply(host, report=report)
    assert loads == ["mine", DEMO_FOLDER] * 2 and host.beside is None
    assert f"{DEMO_FOLDER} makes room for mine: the memory does not hold both" in told and f"mine makes room for {DEMO_FOLDER}: the memory does not hold both" in told


@pytest.mark.parametrize("what", ["train", "unload", "load", "merge"])
def test_whoever_needs_the_memory_for_itself_drops_the_second_base(host: Host, workspace: Workspace, train: Callable[..., str], what: str) -> None:
    host.do(MergeJob(run=train("one"), name="mine"), Report())
    reply(host, model="merged:mine")
    assert host.beside is not None and host.beside.key[0] == "demo" and host.key is not None and host.key[0] == "merged:mine"
    held: list[Holds] = []
    if what == "train":
        train("two")
    else:
        host.do({"unload": UnloadJob(), "load": LoadJob(model="demo"), "merge": MergeJob(run="one", name="again")}[what], Report(holds=held.append))
    assert (host.beside is None) == (what != "merge"), "a merge takes what is free"
    assert (host.base is None) == (what == "unload") and (what in ("train", "merge") or held[-1].also == "")


def test_two_bases_that_are_too_much_are_not_tried_again(host: Host, train: Callable[..., str], loads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    host.do(MergeJob(run=train("one"), name="mine"), Report())

    def exhausted(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(answering, "generate", exhausted)
        with pytest.raises(FaultError, match="The memory ran out with two models loaded. From now on there is one at a time: ask again."):
            reply(host, model="merged:mine")
    assert (host.base, host.beside) == (None, None)
    del loads[:]
    assert reply(host) and reply(host, model="merged:mine") and host.beside is None
    assert loads == [DEMO_FOLDER, "mine"]


def test_a_merged_model_that_is_gone_is_named_and_one_made_anew_is_loaded(host: Host, workspace: Workspace, train: Callable[..., str], loads: list[str]) -> None:
    train("one")
    host.do(MergeJob(run="one", name="mine"), Report())
    first = reply(host, model="merged:mine")
    shutil.rmtree(workspace.catalog.models_dir / "mine")
    with pytest.raises(ModelError, match="There is no merged model mine any more: choose another model"):
        reply(host, model="merged:mine")
    host.do(MergeJob(run=train("two", seed=7), name="mine"), Report())
    del loads[:]
    assert reply(host, model="merged:mine") == reply(host, run="two", adapted=True) != first and loads == ["mine"]


def test_a_merged_model_that_is_broken_leaves_the_other_base_in_place(host: Host, workspace: Workspace, train: Callable[..., str], loads: list[str]) -> None:
    host.do(MergeJob(run=train("one"), name="mine"), Report())
    plain = reply(host)
    del loads[:]
    (workspace.catalog.models_dir / "mine" / "tokenizer.json").unlink()
    held: list[Holds] = []
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        reply(host, model="merged:mine", report=Report(holds=held.append))
    assert held[-1].model == DEMO_FOLDER and reply(host) == plain and loads == ["mine"]
    (workspace.catalog.models_dir / "mine" / "merged.json").write_text("{}")
    with pytest.raises(ModelError, match=r"The file mine/merged\.json, which says how its calls are written, is broken"):
        workspace.form("merged:mine")


# -- what is refused ---------------------------------------------------------------------------------


def refused(host: Host, name: str = "mine", run: str = "one", report: Report | None = None) -> str:
    with pytest.raises(WorkbenchError) as caught:
        host.do(MergeJob(run=run, name=name), report or Report())
    assert "\n" not in str(caught.value) and left_in(host.catalog.models_dir) == [DEMO_FOLDER]
    return str(caught.value)


def test_what_can_t_be_merged_is_named_and_leaves_nothing(host: Host, workspace: Workspace, train: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    train("one")
    assert refused(host, "../x").startswith("The name of the merged model '../x' can't be used")
    assert refused(host, DEMO_FOLDER) == f"There is already a model named {DEMO_FOLDER}: choose another name, or take its folder out of models/ first."
    assert refused(host, run="nobody").startswith("There is no run named nobody")
    with monkeypatch.context() as patch:
        patch.setattr(merge_plan, "_free_disk", lambda folder: 1000)
        assert "and models/ has 0.0 GiB left (1 GiB of it stays free): free some space and try again." in refused(host)
    with monkeypatch.context() as patch:
        patch.setattr(merging, "host_memory_gib", lambda: (8.0, 0.01))
        assert refused(host).startswith(f"Merging into {DEMO_FOLDER} needs 1.0 GiB of free memory") and host.base is None
    with monkeypatch.context() as patch:
        patch.setattr(merging, "LOST", 0.0)
        assert f"The adapter one can't be merged into {DEMO_FOLDER}: stored in F32, the logits would be off by up to" in refused(host)
    with monkeypatch.context() as patch:
        patch.setattr(merging, "make_last", full_disk)
        assert refused(host).endswith("Nothing of the merged model is left.")
    workspace.runs.rewrite_info("one", base_fingerprint="0" * 64)
    assert refused(host).startswith("The adapter one was trained on another base")


def full_disk(path: Path) -> None:
    raise OSError(28, "No space left on device", str(path))


def test_a_stop_at_any_step_leaves_nothing(host: Host, train: Callable[..., str]) -> None:
    train("one")
    asked = 0

    def counting() -> bool:
        nonlocal asked
        asked += 1
        return False

    host.do(MergeJob(run="one", name="whole"), Report(stop=counting))
    shutil.rmtree(host.catalog.models_dir / "whole")
    assert asked > 6
    for step in range(asked):
        calls = iter(range(asked + 1))
        said = refused(host, report=Report(stop=lambda calls=calls, step=step: next(calls) >= step))  # type: ignore[misc]
        assert "stopped on request" in said


def test_a_base_that_is_stored_quantized_and_one_in_16_bit(host: Host, workspace: Workspace, train: Callable[..., str], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    source = shutil.copytree(workspace.catalog.demo_folder(), tmp_path / "sixteen")
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(source / "model.safetensors").items()}
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    assert merge_plan.plan_merge(workspace.catalog, source, "x").stored == "BF16"
    train("one")
    workspace.runs.rewrite_info("one", model=str(source), base_fingerprint="")
    done = host.do(MergeJob(run="one", name="mine"), Report())
    kept = load_file(workspace.catalog.models_dir / "mine" / "model.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {torch.bfloat16} and done["rounding"] < 0.5 * done["adapter_difference"]
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"quantization_config": {}}))
    with pytest.raises(ModelError, match="The weights of sixteen are stored quantized"):
        merge_plan.plan_merge(workspace.catalog, source, "y")


def test_the_workspace_refuses_before_it_queues(workspace: Workspace, train: Callable[..., str]) -> None:
    train("one")
    vars(workspace)["engine"] = None  # nothing is to be submitted
    try:
        for adapter, name, error in (("one", "", InputError), ("one", DEMO_FOLDER, InputError), ("nobody", "x", RunError), ("one@best", "x", AdapterError)):
            with pytest.raises(error):
                workspace.jobs.merge(adapter, name)
    finally:
        del vars(workspace)["engine"]


def test_through_the_engine_s_process_both_panes_answer_and_a_deleted_adapter_is_named(workspace: Workspace, train: Callable[..., str]) -> None:
    train("one")
    done = workspace.jobs.merge("one", "mine").wait(120)
    assert done["model"] == "merged:mine" and workspace.voices() == ["one", "merged:mine"]
    turns = [[dict(turn) for turn in TURNS]]
    def answer(run: str | None, **options: Any) -> Any:
        return workspace.jobs.answer_together([workspace.jobs.answer_job(turns, run=run, lanes=(run is not None,), sampling=SHORT, **options)])

    adapted, merged, beside = answer("one"), answer(None, model="merged:mine"), answer(None, form_of="merged:mine")
    texts = [ticket.wait(120)["replies"][0]["text"] for ticket in (adapted, merged, beside)]
    assert texts[0] == texts[1] != texts[2]
    holds = workspace.engine.status().holds
    assert (holds.model, holds.also) == (DEMO_FOLDER, "mine")
    workspace.runs.remove("one")
    gone = [answer("one"), answer(None, model="merged:x")]
    for ticket in gone:
        with pytest.raises(WorkbenchError, match="There is no (run named one|merged model x)"):
            ticket.wait(60)
    assert answer(None, model="merged:mine").wait(60)["replies"][0]["text"] == texts[1]
