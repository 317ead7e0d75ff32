"""Jobs on one loaded base, in this process: which adapter is on, what a fault leaves, what a stop gives."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from workbench.dataset.formats import load_rows
from workbench.engine import answering, bases
from workbench.engine.jobs import Host, Report
from workbench.engine.messages import AnswerJob, EvaluateJob, Holds, LoadJob, TrainJob
from workbench.errors import AdapterError, ModelError, RowError, RunError, WorkbenchError
from workbench.models import decoding
from workbench.models.catalog import DEMO_FOLDER
from workbench.models.decode_lanes import Progress
from workbench.models.decode_stack import UnsupportedError
from workbench.models.fingerprint import fingerprint
from workbench.settings import Quantization, Sampling, make_settings
from workbench.training import events
from workbench.workspace import Workspace

pytestmark = pytest.mark.slow

TURNS = ({"role": "user", "content": "Сколько у меня денег?"},)
PROMPTS = tuple(({"role": "user", "content": text},) for text in ("Привет", "Мой баланс?", "Сколько у меня денег на счёте?"))
SHORT = Sampling(max_new_tokens=16)


@pytest.fixture
def host(workspace: Workspace) -> Host:
    return Host(workspace.catalog, workspace.runs)


@pytest.fixture
def create(workspace: Workspace) -> Callable[..., TrainJob]:
    def build(name: str, **training: Any) -> TrainJob:
        small = {"epochs": 2, "rows_per_step": 2, "validation_share": 0.0, "warmup_steps": 0, "learning_rate": 0.05}
        chosen = make_settings({"training": small | training, "lora": {"rank": 4}})
        workspace.create_run(name, load_rows(workspace.data_dir / "examples.json").rows[:4], chosen, data_name="examples.json")
        return TrainJob(run=name)

    return build


def reply(host: Host, run: str | None, adapted: bool = True) -> str:
    text = host.do(AnswerJob(turns=TURNS, lanes=(adapted,), run=run, sampling=SHORT), Report())["replies"][0]["text"]
    assert isinstance(text, str)
    return text


def after(calls: int) -> Callable[[], bool]:
    asked = iter(range(10_000))
    return lambda: next(asked) >= calls


def test_adapters_take_turns_on_one_copy_of_the_base(host: Host, create: Callable[..., TrainJob]) -> None:
    plain = reply(host, None, adapted=False)
    base = host.base
    own = {}
    for name, seed in (("one", 1), ("two", 2)):
        host.do(create(name, seed=seed), Report())
        own[name] = reply(host, name)
    assert len({plain, *own.values()}) == 3
    for name in ("one", "two", "one"):
        assert reply(host, name) == own[name] and host.base is not None and host.base.adapter == name
        assert reply(host, name, adapted=False) == plain
    assert host.base is base, "the weights were loaded once"


def test_an_adapter_is_asked_and_read_in_the_dialect_that_it_learned(
    host: Host, workspace: Workspace, create: Callable[..., TrainJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = host.do(create("one", dialect="functiongemma", epochs=1, validation_share=0.25, sample_every=1), Report())
    folder, form = workspace.runs.path("one"), workspace.form("one")
    assert ended["state"] == "finished" and workspace.runs.info("one").dialect == form.dialect.name == "functiongemma"
    assert (folder / "calls.json").read_bytes() == (folder / "best" / "calls.json").read_bytes() and "get_sensitive_data" in (folder / "calls.json").read_text()
    asked: list[tuple[str, Any, Any]] = []

    def told(base: Any, lanes: Any, sampling: Sampling, **kwargs: Any) -> Any:
        asked.append((base.tokenizer.text(lanes[0].prompt_ids, keep_control=True), lanes[0].keep, lanes[0].stops))
        return decoding.generate(base, lanes, sampling, **kwargs)

    monkeypatch.setattr(answering, "generate", told)
    host.do(AnswerJob(turns=tuple(form.ask("Мой баланс?")), lanes=(True,), run="one", sampling=SHORT), Report())
    host.do(EvaluateJob(prompts=PROMPTS, adapted=False, sampling=SHORT), Report())
    prompt = f"<bos><start_of_turn>user\n{form.dialect.render_tools(form.tools or ())}\n\nМой баланс?<end_of_turn>\n<start_of_turn>model\n"
    assert asked[0] == (prompt, form.dialect.control, ("<start_function_response>",)) and "declaration:get_sensitive_data" in prompt
    assert asked[1][1:] == ((), ()), "a base that nothing was taught"


def test_an_adapter_read_from_disk_answers_as_it_did_after_training(
    host: Host, workspace: Workspace, create: Callable[..., TrainJob]
) -> None:
    result = host.do(create("one"), Report())
    fresh = Host(workspace.catalog, workspace.runs)
    assert reply(fresh, "one") == reply(host, "one")
    assert fresh.proven["one"].difference == pytest.approx(result["adapter_difference"], rel=1e-6)


def test_a_run_that_failed_half_way_answers_with_what_it_saved_and_not_with_what_broke(
    host: Host, workspace: Workspace, create: Callable[..., TrainJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    host.do(create("good"), Report())
    job = create("broken", epochs=3)
    real = workspace.runs.append

    def append(name: str, event: events.Event) -> None:
        real(name, event)
        if isinstance(event, events.Saved) and host.base is not None:  # after the first epoch: the next step meets no number
            with torch.no_grad():
                next(p for p in host.base.model.parameters() if p.requires_grad).fill_(float("nan"))

    monkeypatch.setattr(workspace.runs, "append", append)
    with pytest.raises(WorkbenchError, match="not a finite number"):
        host.do(job, Report())
    assert workspace.runs.view("broken").state == "failed" and workspace.runs.view("broken").has_adapter
    assert reply(host, "broken") == reply(Host(workspace.catalog, workspace.runs), "broken")


def test_the_best_adapter_answers_by_its_own_name(
    host: Host, workspace: Workspace, create: Callable[..., TrainJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter((1.0, 2.0))
    monkeypatch.setattr("workbench.training.stepper.mean_loss", lambda *args: next(losses))
    result = host.do(create("one", validation_share=0.3, sample_every=0), Report())
    assert (result["best_step"], workspace.adapters()) == (2, ["one", "one@best"])
    texts = {name: reply(host, name) for name in ("one", "one@best")}
    assert host.base is not None and host.base.adapter == "one@best" and len({*texts.values(), reply(host, "one", adapted=False)}) == 3
    assert {name: reply(Host(workspace.catalog, workspace.runs), name) for name in texts} == texts
    with pytest.raises(AdapterError, match="The run two kept no best adapter"):
        host.do(create("two", sample_every=0), Report())
        reply(host, "two@best")


def test_a_run_goes_on_from_its_checkpoint_on_a_fresh_base(host: Host, workspace: Workspace, create: Callable[..., TrainJob]) -> None:
    told: list[events.Event] = []
    job = create("one", sample_every=0)
    first = host.do(job, Report(stop=lambda: len(workspace.runs.view("one").steps) >= 3, event=told.append))
    assert (first["state"], first["step"], told) == ("stopped", 3, list(workspace.runs.view("one").happened))
    fresh = Host(workspace.catalog, workspace.runs)
    done = fresh.do(TrainJob(run="one", resume=True), Report())
    assert (done["state"], done["step"]) == ("finished", 4)
    host.do(create("whole", sample_every=0), Report())
    losses = {name: [s.loss for s in workspace.runs.view(name).steps] for name in ("one", "whole")}
    assert losses["one"] == pytest.approx(losses["whole"], abs=1e-4, rel=0)
    assert reply(fresh, "one") == reply(host, "whole")


def test_an_adapter_that_another_process_wrote_anew_is_read_again(host: Host, workspace: Workspace, create: Callable[..., TrainJob]) -> None:
    host.do(create("one", sample_every=0), Report(stop=lambda: len(workspace.runs.view("one").steps) >= 1))
    before = reply(host, "one")
    Host(workspace.catalog, workspace.runs).do(TrainJob(run="one", resume=True), Report())
    assert reply(host, "one") == reply(Host(workspace.catalog, workspace.runs), "one") != before


def test_a_run_that_may_not_be_started_is_refused_and_stays_as_it_is(host: Host, workspace: Workspace, create: Callable[..., TrainJob]) -> None:
    job = create("one", sample_every=0)
    host.do(job, Report())
    happened = workspace.runs.view("one").happened
    for again in (job, TrainJob(run="one", resume=True)):
        with pytest.raises(RunError, match="The run one (has|is) finished"):
            host.do(again, Report())
    assert workspace.runs.view("one").happened == happened and host.base is not None


def test_a_stop_while_the_model_is_loaded_ends_the_run_as_stopped(host: Host, workspace: Workspace, create: Callable[..., TrainJob]) -> None:
    job = create("one", sample_every=0)
    with pytest.raises(WorkbenchError, match="was stopped on request"):
        host.do(job, Report(stop=lambda: True))
    ended = workspace.runs.view("one").ended
    assert ended is not None and (ended.state, ended.step) == ("stopped", 0)
    assert ended.reason == "stopped on request while the model was being loaded; what was downloaded so far is kept"
    assert host.do(TrainJob(run="one", resume=True), Report())["state"] == "finished"


def test_a_run_that_was_stopped_before_its_first_step_leaves_the_base_bare_and_says_so(host: Host, create: Callable[..., TrainJob]) -> None:
    told: list[Holds] = []
    job = create("r1", sample_every=0)
    host.ensure_base(host.runs.info("r1").model, host.runs.info("r1").settings.quantization, Report())
    result = host.do(job, Report(stop=lambda: True, holds=told.append))
    assert (result["state"], result["step"]) == ("stopped", 0)
    assert told[-1].adapter is None and host.base is not None and host.base.adapter is None


def test_a_loading_that_the_workbench_s_end_stopped_is_nobody_s_request(host: Host, workspace: Workspace, create: Callable[..., TrainJob]) -> None:
    with pytest.raises(WorkbenchError):
        host.do(create("one", sample_every=0), Report(stop=lambda: True, left=lambda: True))
    ended = workspace.runs.view("one").ended
    assert ended is not None and ended.state == "stopped"
    assert ended.reason == "stopped while the model was being loaded, since the workbench was closed or killed; what was downloaded so far is kept"


def test_other_quantization_loads_the_base_anew(host: Host) -> None:
    seen: list[Holds] = []
    host.do(LoadJob(model="demo"), Report(holds=seen.append))
    first = host.base
    host.do(LoadJob(model="demo", quantization=Quantization(mode="8-bit")), Report(holds=seen.append))
    assert host.base is not first and [h.quantization for h in seen] == ["none", "", "8-bit"]
    host.do(LoadJob(model="demo", quantization=Quantization(mode="8-bit")), Report(holds=seen.append))
    assert len(seen) == 3


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory"), MemoryError(),
    # What torch raises on a CPU.
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("std::bad_alloc"),
], ids=["card", "python", "cpu", "library"])
def test_running_out_of_memory_frees_everything_and_fails_the_run_in_one_sentence(
    host: Host, workspace: Workspace, create: Callable[..., TrainJob], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def exhausted(*args: Any, **kwargs: Any) -> None:
        raise error

    job = create("big")
    with monkeypatch.context() as patch:
        patch.setattr("workbench.training.job.train", exhausted)
        with pytest.raises(WorkbenchError, match="The memory ran out: choose 4-bit base weights") as caught:
            host.do(job, Report())
    view = workspace.runs.view("big")
    assert view.ended is not None and (view.state, view.ended.cause, view.ended.reason) == ("failed", "memory", str(caught.value))
    assert (host.base, host.key, host.proven) == (None, None, {})
    assert host.do(create("small"), Report())["state"] == "finished"


def test_an_unforeseen_fault_leaves_no_library_s_hooks_behind(
    host: Host, create: Callable[..., TrainJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a library hung on the base when it broke off (peft its hooks of a mixed batch), the next job does not meet it."""
    host.do(create("one"), Report())
    before = [reply(host, "one"), reply(host, "one", adapted=False)]
    real = decoding.generate

    def broken(base: Any, *args: Any, **kwargs: Any) -> Any:
        base.raw.lm_head.register_forward_hook(lambda module, inputs, output: -output)
        raise IndexError("list index out of range")

    monkeypatch.setattr(answering, "generate", broken)
    held: list[Holds] = []
    with pytest.raises(IndexError):
        host.do(AnswerJob(turns=TURNS, lanes=(False, True), run="one", sampling=SHORT), Report(holds=held.append))
    monkeypatch.setattr(answering, "generate", real)
    assert host.base is None and held[-1] == Holds()
    assert [reply(host, "one"), reply(host, "one", adapted=False)] == before


def test_why_a_model_can_t_be_loaded_is_told_on_a_full_disk_too(
    host: Host, create: Callable[..., TrainJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = create("one")

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    def unreadable(*args: Any, **kwargs: Any) -> None:
        raise ModelError("The model is broken.")

    monkeypatch.setattr(bases, "load_base", unreadable)
    monkeypatch.setattr(host.runs, "append", full)
    with pytest.raises(ModelError, match="^The model is broken"):
        host.do(job, Report())


# -- an adapter and its base -------------------------------------------------------------------------------------


def put_in_place(workspace: Workspace, folder: Path) -> None:
    link = workspace.models_dir / DEMO_FOLDER  # type: ignore[operator]
    link.unlink()
    link.symlink_to(folder, target_is_directory=True)


@pytest.mark.parametrize("job", [
    AnswerJob(turns=TURNS, lanes=(True,), run="one", sampling=SHORT), EvaluateJob(prompts=PROMPTS, adapted=True, run="one", sampling=SHORT),
], ids=["answer", "evaluate"])
def test_an_adapter_is_not_put_on_other_weights_than_it_was_trained_on(
    host: Host, workspace: Workspace, create: Callable[..., TrainJob], tiny_folder: Path, tmp_path: Path, job: AnswerJob | EvaluateJob
) -> None:
    """A sister model of the same shape: everything fits, and the answers would be wrong without a word."""
    host.do(create("one"), Report())
    before = reply(host, "one")
    sister = tmp_path / "sister"
    shutil.copytree(tiny_folder, sister)
    weights = load_file(str(sister / "model.safetensors"))
    save_file({name: tensor + 0.01 for name, tensor in weights.items()}, str(sister / "model.safetensors"), metadata={"format": "pt"})
    put_in_place(workspace, sister)
    fresh = Host(workspace.catalog, workspace.runs)
    with pytest.raises(AdapterError) as caught:
        fresh.do(job, Report())
    trained, there = fingerprint(tiny_folder)[:8], fingerprint(sister)[:8]
    name = workspace.runs.info("one").model_name
    assert str(caught.value) == (
        f"The adapter one was trained on another base: {name} (fingerprint {trained}), and what is there now is {fresh.base.folder.name} "  # type: ignore[union-attr]
        f"({there}), with other weights. Bring the old model's files back, or train a new run on this one."
    )
    assert trained != there and fresh.base is not None and fresh.base.adapter is None
    workspace.runs.rewrite_info("one", base_fingerprint="")  # an adapter of before fingerprints were kept
    assert reply(fresh, "one") != before


def test_an_adapter_goes_on_the_same_weights_under_another_path(
    host: Host, workspace: Workspace, create: Callable[..., TrainJob], tiny_folder: Path, tmp_path: Path
) -> None:
    host.do(create("one"), Report())
    moved = tmp_path / "moved"
    shutil.copytree(tiny_folder, moved)
    put_in_place(workspace, moved)
    workspace.runs.rewrite_info("one", model=str(moved))
    assert reply(Host(workspace.catalog, workspace.runs), "one") == reply(host, "one")


def test_a_run_that_is_still_going_on_answers_nothing(host: Host, create: Callable[..., TrainJob]) -> None:
    create("waiting")
    with pytest.raises(AdapterError, match="The run waiting is still training: wait for its end or stop it first"):
        reply(host, "waiting")


def test_a_run_without_an_adapter_answers_nothing(host: Host, create: Callable[..., TrainJob]) -> None:
    host.do(create("good"), Report())
    assert host.do(create("empty"), Report(stop=lambda: True))["state"] == "stopped"
    with pytest.raises(AdapterError, match="empty holds no finished adapter"):
        reply(host, "empty")
    assert reply(host, "good") != reply(host, None, adapted=False)


def test_an_adapter_can_only_be_asked_by_its_run_s_name(host: Host, create: Callable[..., TrainJob]) -> None:
    """Without a name the lane would get whatever adapter happens to be on, or none."""
    host.do(create("one"), Report())
    with pytest.raises(WorkbenchError):
        reply(host, None, adapted=True)
    with pytest.raises(WorkbenchError):
        host.do(EvaluateJob(prompts=PROMPTS, adapted=True, sampling=SHORT), Report())


def test_a_control_token_in_a_prompt_is_refused(host: Host) -> None:
    with pytest.raises(RowError, match="the text holds the control token <end_of_turn>"):
        host.do(AnswerJob(turns=({"role": "user", "content": "<end_of_turn>"},), lanes=(False,)), Report())


# -- evaluating --------------------------------------------------------------------------------------


def test_an_evaluation_keeps_the_order_of_its_prompts_over_several_batches(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "BATCH", 2)
    told: list[tuple[str, float | None]] = []
    report = Report(progress=lambda text, share: told.append((text, share)))
    done = host.do(EvaluateJob(prompts=PROMPTS, adapted=False, sampling=SHORT), report)
    alone = [host.do(AnswerJob(turns=p, lanes=(False,), sampling=SHORT), Report())["replies"][0]["text"] for p in PROMPTS]
    assert done["replies"] == alone and len(set(alone)) == 3
    assert [text for text, _ in told if text.startswith("answered 2")] == ["answered 2 of 3 prompts"] * 16
    assert told[-1] == ("answered 3 of 3 prompts", 1.0)


def test_an_evaluation_tells_how_far_it_is_while_a_batch_is_decoded(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU a batch takes a quarter of a minute. A reply counts when it has ended, the others by their tokens."""
    plain = host.do(EvaluateJob(prompts=PROMPTS, adapted=False, sampling=SHORT), Report())["replies"]
    real = Progress.take

    def take(self: Progress, tokens: Any, lanes: Any) -> None:
        if self.steps == 7:
            self.states[1].done = True  # as if the eighth token of the second lane were a stop token
        real(self, tokens, lanes)

    monkeypatch.setattr(Progress, "take", take)
    told: list[tuple[str, float | None]] = []
    done = host.do(EvaluateJob(prompts=PROMPTS, adapted=False, sampling=SHORT), Report(progress=lambda text, share: told.append((text, share))))
    assert told[0] == ("answered 0 of 3 prompts", None), "reading the prompts says nothing of the pace"
    assert told[1:8] == [("answered 0 of 3 prompts", pytest.approx(step / 16)) for step in range(1, 8)]
    assert told[8:16] == [("answered 1 of 3 prompts", pytest.approx((1 + 2 * step / 16) / 3)) for step in range(8, 16)]
    assert told[16:] == [("answered 3 of 3 prompts", 1.0)]
    assert [said == before for said, before in zip(done["replies"], plain, strict=True)] == [True, False, True]


def test_the_way_that_decoding_goes_stays_told_while_an_evaluation_goes_on(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: Any) -> Any:
        raise UnsupportedError("no such layer")
        yield

    monkeypatch.setattr(decoding.decode_static, "steps", unknown)
    told: list[str] = []
    host.do(EvaluateJob(prompts=PROMPTS, adapted=False, sampling=SHORT), Report(progress=lambda text, share: told.append(text)))
    assert told[-1] == "answered 3 of 3 prompts (Decoding goes by transformers, which is slower: no such layer)"


def test_an_evaluation_s_batches_hold_no_more_tokens_than_their_budget(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten long prompts at once would be a pass of minutes on a CPU, and more than fits on a card."""
    sizes: list[tuple[int, int]] = []
    real = decoding.generate

    def counted(base: Any, lanes: Any, sampling: Sampling, **kwargs: Any) -> Any:
        sizes.append((len(lanes), len(lanes) * (max(len(lane.prompt_ids) for lane in lanes) + sampling.max_new_tokens)))
        return real(base, lanes, sampling, **kwargs)

    monkeypatch.setattr(answering, "generate", counted)
    monkeypatch.setattr(answering, "BATCH_TOKENS", 300)
    host.do(EvaluateJob(prompts=PROMPTS * 2, adapted=False, sampling=SHORT), Report())
    assert sum(lanes for lanes, _ in sizes) == 6 and 1 < len(sizes) < 6 and max(tokens for _, tokens in sizes) <= 300


@pytest.mark.parametrize("calls", [1, 5], ids=["before the first prompt", "in the middle of a batch"])
def test_a_stopped_evaluation_gives_no_figures(host: Host, calls: int) -> None:
    """Replies that a stop has cut would be counted as wrong answers."""
    host.do(LoadJob(model="demo"), Report())
    with pytest.raises(WorkbenchError, match="The evaluation was stopped after 0 of 3 prompts. It gives no figures: they need all of them."):
        host.do(EvaluateJob(prompts=PROMPTS, adapted=False, sampling=SHORT), Report(stop=after(calls - 1)))


def test_a_stopped_answer_gives_what_there_is(host: Host) -> None:
    host.do(LoadJob(model="demo"), Report())
    texts: list[list[str]] = []
    report = Report(stop=after(4), texts=texts.append)
    done = host.do(AnswerJob(turns=TURNS, lanes=(False, False), sampling=SHORT), report)
    assert [(r["ended"], r["tokens"]) for r in done["replies"]] == [("stopped", 5)] * 2 and len(texts) == 5


def test_a_folder_given_by_its_path_is_named_without_it(host: Host, tiny_folder: Path) -> None:
    seen: list[Holds] = []
    host.do(LoadJob(model=str(tiny_folder)), Report(holds=seen.append))
    assert [h.model for h in seen] == ["tiny-gemma3"]
