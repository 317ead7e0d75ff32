"""Answers to validation rows while a run trains: they change nothing in it; the best adapter and the early end that follow from measuring."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.dataset.formats import load_rows
from workbench.errors import AdapterError
from workbench.evaluation.scores import make_cases
from workbench.models.adapters import put_new_adapter, put_saved_adapter, take_off_adapter
from workbench.models.loading import Base, load_base
from workbench.schema import Example, Message
from workbench.settings import Lora, Quantization, Sampling, Training, make_settings
from workbench.training import answers, batching, events, job, stepper
from workbench.training.answers import Asker, chosen
from workbench.training.runs import RunStore

pytestmark = pytest.mark.slow

ROWS = load_rows(Path(__file__).resolve().parents[2] / "data" / "examples.json").rows[:6]
CALL = '<tool_call name="get_sensitive_data" arguments="{}"/>'
SMALL = {"epochs": 3, "rows_per_step": 2, "validation_share": 0.34, "warmup_steps": 1, "learning_rate": 0.02}


@pytest.fixture(scope="module", autouse=True)
def short_replies() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "MOST_NEW_TOKENS", 6)
        yield


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> Base:
    return load_base(tiny_folder, Quantization(mode="none"))


@pytest.fixture
def runs(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "adapters")


def train(base: Base, runs: RunStore, name: str = "r1", stop: Callable[[], bool] = lambda: False, **training: Any) -> events.Ended:
    settings = make_settings({"training": SMALL | training, "lora": {"rank": 4, "alpha": 8, "dropout": 0.2}})
    runs.create(name, model="demo", model_name="gemma-3-270m", rows=ROWS, data_name="rows.json", settings=settings)
    return job.run_training(base, runs, name, stop=stop)


def row(request: str, answer: str) -> Example:
    return Example((Message("user", request), Message("assistant", answer)))


def rights(monkeypatch: pytest.MonkeyPatch, *counts: int) -> None:
    """Let the model be right that often, of 4, at step 0 and after each epoch."""
    left = iter(counts)

    def ask(self: Asker, step: int, epoch: float) -> events.Sampled:
        return events.Sampled(step=step, epoch=epoch, right=next(left), asked=4)

    monkeypatch.setattr(Asker, "__call__", ask)


def losses(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    left = iter(values)
    monkeypatch.setattr(stepper, "mean_loss", lambda *args: next(left))


def curve(runs: RunStore, name: str) -> list[float]:
    view = runs.view(name)
    return [e.loss for e in (*view.steps, *view.validations)] + [e.gradient_norm for e in view.steps]


# -- answers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"checkpointing": True}], ids=["plain", "gradient checkpointing"])
def test_a_run_with_answers_has_the_losses_of_a_run_without(base: Base, runs: RunStore, changes: dict[str, Any]) -> None:
    train(base, runs, "with", sample_every=1, **changes)
    train(base, runs, "without", sample_every=0, **changes)
    assert len(curve(runs, "with")) == 15 and curve(runs, "with") == curve(runs, "without")
    assert [s.step for s in runs.view("with").samples] == [0, 2, 4, 6] and runs.view("without").samples == []


@pytest.mark.parametrize("mode", ["8-bit", "4-bit"])
def test_answers_before_the_first_step_change_no_quantized_run(tiny_folder: Path, runs: RunStore, mode: Any) -> None:
    for name, every in (("with", 1), ("without", 0)):
        train(load_base(tiny_folder, Quantization(mode=mode)), runs, name, sample_every=every, epochs=1)
    assert curve(runs, "with") == curve(runs, "without")


@pytest.mark.parametrize(("every", "steps"), [(1, [0, 2, 4, 6]), (2, [0, 4, 6]), (9, [0, 6])])
def test_the_model_answers_before_the_first_step_every_so_many_epochs_and_at_the_end(base: Base, runs: RunStore, every: int, steps: list[int]) -> None:
    train(base, runs, sample_every=every)
    samples = runs.view("r1").samples
    assert [s.step for s in samples] == steps and [s.epoch for s in samples] == [s / 2 for s in steps]
    for told in samples:
        assert told.asked == 2 and 0 <= told.right <= 2 and told.seconds > 0
        assert [a.prompt for a in told.answers] == [a.prompt for a in samples[0].answers] and len(told.answers) == 2
        assert sum(a.right for a in told.answers) == told.right
        assert all(len(a.reply) <= 6 for a in told.answers)
    first = samples[0].answers
    assert first[0].expected == CALL and first[1].expected != CALL, "calls and texts by turns"


def test_a_run_s_events_come_in_order_at_an_epoch_s_end(base: Base, runs: RunStore) -> None:
    train(base, runs, sample_every=1, epochs=1)
    assert [e.type for e in runs.view("r1").happened] == [
        "started", "sampled", "step", "step", "validation", "sampled", "saved", "notice", "ended",
    ]  # fmt: skip


def test_without_validation_rows_nobody_is_asked(base: Base, runs: RunStore) -> None:
    train(base, runs, sample_every=1, validation_share=0.0, epochs=1)
    view = runs.view("r1")
    assert view.samples == [] and view.best_step is None and not (view.folder / "best").exists()
    assert "No row is held back" in next(e.text for e in view.happened if isinstance(e, events.Notice))


def test_asking_leaves_the_random_states_and_the_mode_as_they_were(base: Base) -> None:
    model = put_new_adapter(base, Lora(rank=4), name="t", seed=1, checkpointing=False)
    ask = Asker(base, ROWS[:2], Training(), lambda: False)
    for training in (True, False):
        model.train(training)
        before = (torch.get_rng_state(), random.getstate())
        assert ask(0, 0.0) is not None
        assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
        assert model.training is training


def test_a_stop_while_the_model_answers_gives_no_figures(base: Base, runs: RunStore) -> None:
    take_off_adapter(base)
    put_new_adapter(base, Lora(rank=4), name="t", seed=1, checkpointing=False)
    assert Asker(base, ROWS[:2], Training(), lambda: True)(0, 0.0) is None
    ended = train(base, runs, stop=lambda: any(isinstance(e, events.Started) for e in runs.view("r1").happened), sample_every=1)
    assert (ended.state, ended.step, runs.view("r1").samples) == ("stopped", 0, [])


def test_the_answers_say_what_is_right(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.models.decoding import Reply

    put_new_adapter(base, Lora(rank=4), name="t", seed=1, checkpointing=False)
    rows = [row("Баланс?", CALL), row("Привет", "Привет!"), row("Счёт?", CALL), row("Пока", "До встречи!")]
    made_up = CALL.replace("get_sensitive_data", "get_money")
    said = {"Баланс?": CALL, "Привет": CALL, "Счёт?": made_up, "Пока": "Да"}

    def generate(base: Base, lanes: Any, sampling: Sampling, **kwargs: Any) -> list[Reply]:
        texts = [base.tokenizer.text(list(lane.prompt_ids)) for lane in lanes]
        return [Reply(next(r for p, r in said.items() if p in text), 1, 0.1, 0.1, "stop token") for text in texts]

    monkeypatch.setattr(answers, "generate", generate)
    told = Asker(base, rows, Training(), lambda: False)(4, 1.0)
    assert told is not None and (told.step, told.epoch, told.right, told.asked) == (4, 1.0, 2, 4)
    assert [(a.prompt, a.expected, a.reply, a.verdict, a.right) for a in told.answers] == [
        ("Баланс?", CALL, CALL, "tool call", True), ("Привет", "Привет!", CALL, "tool call", False),
        ("Счёт?", CALL, made_up, "tool call", False),
    ]  # fmt: skip


def test_batches_hold_no_more_tokens_than_a_training_step(base: Base) -> None:
    rows = [row("а" * n, "Да.") for n in (50, 10, 20, 40, 30)]
    ask = Asker(base, rows, Training(tokens_per_forward=300), lambda: False)
    lengths = [len(q.prompt_ids) for q in ask.questions]
    groups = ask._groups()
    assert sorted(i for g in groups for i in g) == [0, 1, 2, 3, 4] and len(groups) > 1
    assert all(max(lengths[i] + 6 for i in g) * len(g) <= 300 for g in groups)


def test_the_longest_expected_call_fits(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MOST_NEW_TOKENS", 256)
    assert Asker(base, [row("Баланс?", CALL)], Training(), lambda: False).sampling == Sampling(max_new_tokens=len(CALL) + 8)
    assert Asker(base, [row("Привет", "Привет! " * 40)], Training(), lambda: False).sampling == Sampling(max_new_tokens=48)


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("", False), ("Привет", False), ("a < b, c", False), ("a <", True), ("Да. <tool", True), ("<tool_call", True), ('<tool_call name="x', True),
        (CALL, False), (f"{CALL} и ещё", False), (f"{CALL}<tool_call n", True), ("<b>жирно</b>", False), ('<tool_call name="x" arguments="{a < b', True),
    ],
)  # fmt: skip
def test_a_reply_in_the_middle_of_a_call_is_not_cut(text: str, inside: bool) -> None:
    assert answers.in_call(text) is inside


def test_replies_end_once_none_of_them_is_in_a_call(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MOST_NEW_TOKENS", 48)
    put_new_adapter(base, Lora(rank=4), name="t", seed=1, checkpointing=False)
    ask = Asker(base, ROWS[:2], Training(), lambda: False)
    for inside, tokens in ((False, 24), (True, 48)):
        monkeypatch.setattr(answers, "in_call", lambda text, dialect, inside=inside: inside)
        told = ask(0, 0.0)
        # Every byte is a token: a reply of the random model has no stop token so early, and no more characters than tokens.
        assert told is not None and tokens - 12 < max(len(a.reply) for a in told.answers) <= tokens + 1


@pytest.mark.parametrize(("calls", "texts", "asked"), [(30, 30, (12, 12)), (30, 3, (21, 3)), (2, 30, (2, 22)), (0, 30, (0, 24)), (5, 4, (5, 4))])
def test_calls_and_texts_are_asked_evenly(calls: int, texts: int, asked: tuple[int, int]) -> None:
    rows = [row(f"Баланс {i}", CALL) for i in range(calls)] + [row(f"Привет {i}", "Да") for i in range(texts)]
    found = chosen(make_cases(rows))
    assert (sum(bool(c.expected) for c in found), sum(not c.expected for c in found)) == asked
    assert len({c.prompt for c in found}) == len(found)
    assert [bool(c.expected) for c in found[: 2 * min(asked)]] == [True, False] * min(asked)


# -- the best adapter and the early end -----------------------------------------------------------------


def saved(runs: RunStore) -> list[tuple[int, bool]]:
    return [(e.step, e.best) for e in runs.view("r1").happened if isinstance(e, events.Saved)]


def differs(base: Base, runs: RunStore) -> bool:
    """Whether best/ and the last adapter are two."""
    folder = runs.path("r1")
    for place in (folder, folder / "best"):
        take_off_adapter(base)
        assert put_saved_adapter(base, place, "r1") > 0
    return (folder / "adapter_model.safetensors").read_bytes() != (folder / "best" / "adapter_model.safetensors").read_bytes()


def test_the_adapter_of_the_lowest_validation_loss_is_kept(base: Base, runs: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    losses(monkeypatch, 3.0, 2.0, 2.0)
    ended = train(base, runs, sample_every=0)
    assert saved(runs) == [(2, True), (4, True), (6, False)] and (ended.best_step, ended.step) == (4, 6)
    assert differs(base, runs) and runs.view("r1").has_best
    assert runs.adapters() == ["r1", "r1@best"]
    assert runs.adapter("r1@best")[1] == runs.path("r1") / "best" and runs.adapter("r1")[1] == runs.path("r1")


def test_the_adapter_of_the_best_call_accuracy_is_kept(base: Base, runs: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    rights(monkeypatch, 4, 2, 3, 3)  # before the first step there is no adapter to keep, however right the base is
    losses(monkeypatch, 3.0, 2.0, 1.0)
    ended = train(base, runs, sample_every=1, keep_best="call accuracy")
    assert saved(runs) == [(2, True), (4, True), (6, False)] and ended.best_step == 4


def test_a_best_that_is_the_last_is_not_listed_twice(base: Base, runs: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    losses(monkeypatch, 3.0, 2.0, 1.0)
    train(base, runs, sample_every=0)
    assert runs.adapters() == ["r1"] and not differs(base, runs)
    assert runs.adapter("r1@best")[1] == runs.path("r1") / "best", "it can be named all the same"


def test_without_keep_best_there_is_one_adapter(base: Base, runs: RunStore) -> None:
    train(base, runs, sample_every=0, keep_best="off", epochs=1)
    assert runs.adapters() == ["r1"] and not (runs.path("r1") / "best").exists()
    with pytest.raises(AdapterError, match="^The run r1 kept no best adapter: take r1, its last one.$"):
        runs.adapter("r1@best")


def test_a_stop_keeps_the_best_and_the_last(base: Base, runs: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    losses(monkeypatch, 3.0, 4.0)
    ended = train(base, runs, stop=lambda: len(runs.view("r1").steps) >= 3, sample_every=0)
    assert (ended.state, ended.step, ended.best_step) == ("stopped", 3, 2)
    assert differs(base, runs) and runs.adapters() == ["r1", "r1@best"]


def test_a_run_ends_early_with_the_measurements_that_ended_it(base: Base, runs: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    losses(monkeypatch, 1.0, 2.0, 3.0)
    ended = train(base, runs, sample_every=0, epochs=5, early_stopping=2)
    assert (ended.state, ended.cause, ended.step, ended.best_step) == ("finished", "early stop", 6, 2)
    assert ended.reason == (
        "ended early after optimizer step 6: the last 2 measurements of validation loss (2.000, 3.000) were not better than 1.000 after step 2"
    )
    view = runs.view("r1")
    assert not view.resumable and not (view.folder / "checkpoint").exists() and saved(runs)[-1] == (6, False)


def test_patience_that_runs_out_at_the_last_step_is_no_early_end(base: Base, runs: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    losses(monkeypatch, 1.0, 2.0, 3.0)
    ended = train(base, runs, sample_every=0, early_stopping=2)
    assert (ended.state, ended.cause, ended.reason, ended.step) == ("finished", "", "", 6)


def test_the_best_and_the_patience_are_remembered_over_a_resume(base: Base, runs: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    losses(monkeypatch, 1.0, 2.0, 3.0)
    train(base, runs, stop=lambda: len(runs.view("r1").steps) >= 5, sample_every=0, epochs=9, early_stopping=2)
    best = (runs.path("r1") / "best" / "adapter_model.safetensors").read_bytes()
    ended = job.run_training(base, runs, "r1", stop=lambda: False, resume=True)
    assert (ended.cause, ended.step, ended.best_step) == ("early stop", 6, 2)
    assert (runs.path("r1") / "best" / "adapter_model.safetensors").read_bytes() == best


def test_the_scores_of_an_adapter_stand_beside_it(base: Base, runs: RunStore) -> None:
    train(base, runs, sample_every=0, epochs=1)
    for name, folder in (("r1", runs.path("r1")), ("r1@best", runs.path("r1") / "best")):
        runs.write_scores(name, {"cases": 1})
        assert (folder / "scores.json").is_file()


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ('<tool_call name="get_sensitive_data" arguments="{}"/>', True),
        ('<tool_call name="get_sensitive_sensitive" arguments="{}"/>', False),
        ("Сейчас посмотрю.", False),
    ],
)
def test_a_call_of_a_tool_that_was_made_up_is_not_right(reply: str, right: bool) -> None:
    from workbench.evaluation.scores import score_reply

    case = next(c for c in make_cases(load_rows(Path(__file__).parents[2] / "data" / "examples.json").rows) if c.expected)
    assert score_reply(case, reply).right is right
