"""What tells two runs apart, and the answers that are kept for it."""

import json

import pytest

from workbench.dataset.formats import rows_hash
from workbench.dataset.store import make_row
from workbench.errors import RunError
from workbench.evaluation.scores import make_cases, score_reply
from workbench.settings import RunSettings, apply_overrides
from workbench.training import measured
from workbench.training.differences import Difference, answers_difference, settings_difference
from workbench.training.runs import RunStore

CALL = '<tool_call name="get_sensitive_data" arguments="{}"/>'
OTHER_CALL = '<tool_call name="other" arguments="{}"/>'
ROWS = [make_row("Какой у меня баланс?", CALL), make_row("Привет", "Привет!"), make_row("Пока", "Пока!")]
CASES = make_cases(ROWS)


@pytest.fixture
def runs(tmp_path):
    return RunStore(tmp_path / "adapters")


def create(runs, name, *settings, rows=ROWS):
    made = apply_overrides(RunSettings(), settings)
    return runs.create(name, model="demo", model_name="gemma-3-270m", rows=rows, data_name="examples.json", settings=made)


def answers(runs, name, *replies, cases=CASES, file="cases.jsonl"):
    if name not in runs.names():
        create(runs, name)
    measured.keep_measurement(runs, name, [score_reply(c, r) for c, r in zip(cases, replies, strict=True)], file)
    return measured.read_answers(runs, name)


def test_settings_that_differ_are_named_by_their_titles(runs):
    a = create(runs, "a")
    b = create(runs, "b", "lora.rank=8", "training.checkpointing=true", "training.learning_rate=1e-4", "training.warmup_steps=2000", rows=ROWS[:2])
    found, same = settings_difference(a, b)
    assert found == [
        Difference("Rows", f"3 from examples.json ({a.data_sha256[:8]})", f"2 from examples.json ({b.data_sha256[:8]})"),
        Difference("Rank", "16", "8"), Difference("Learning rate", "0.0003", "0.0001"),
        Difference("Warm-up", "10 optimizer steps", "2,000 optimizer steps"), Difference("Gradient checkpointing", "off", "on"),
    ]  # fmt: skip
    assert same > 20
    assert settings_difference(a, a) == ([], same + 5)


def test_a_measurement_keeps_rates_and_every_reply(runs):
    kept = answers(runs, "a", CALL, "Привет!", CALL)
    assert (kept.file, kept.sha256) == ("cases.jsonl", rows_hash(ROWS))
    assert [(x.prompt, x.expected, x.should_call, x.reply, x.verdict, x.right) for x in kept.answers] == [
        ("Какой у меня баланс?", CALL, True, CALL, "tool call", True), ("Привет", "Привет!", False, "Привет!", "no tool call", True),
        ("Пока", "Пока!", False, CALL, "tool call", False),
    ]  # fmt: skip
    scores = json.loads((runs.path("a") / "scores.json").read_text(encoding="utf-8"))
    assert (scores["cases"], scores["file"], scores["over_call_rate"]) == (3, "cases.jsonl", {"k": 1, "n": 2, "rate": 0.5})
    assert {name: (r.k, r.n) for name, r in measured.read_rates(runs, "a").items()} == {
        "call_recall": (1, 1), "over_call_rate": (1, 2), "malformed_rate": (0, 3), "name_accuracy": (1, 1), "argument_match": (1, 1),
    }  # fmt: skip


def test_a_run_that_was_deleted_while_it_was_measured_makes_no_folder(runs):
    with pytest.raises(RunError, match="renamed or deleted while it was measured"):
        measured.keep_measurement(runs, "gone", [], "cases.jsonl")
    assert not runs.folder.exists()


def test_without_a_measurement_there_are_no_answers_and_a_broken_file_is_named(runs):
    create(runs, "a")
    assert measured.read_answers(runs, "a") is None
    assert measured.read_rates(runs, "a") == {}
    for raw in (b"{", b"[]", b"\xff", b'{"file": "x"}'):
        (runs.path("a") / "answers.json").write_bytes(raw)
        with pytest.raises(RunError, match=r"The file answers.json of a is broken: measure it again\."):
            measured.read_answers(runs, "a")


@pytest.mark.parametrize("adapter", ["a@other", "../a", "a/b", "a@best@best", ""])
def test_an_adapter_that_can_not_be_is_refused(runs, adapter):
    with pytest.raises(RunError):
        measured.read_answers(runs, adapter)


def test_the_best_adapter_has_its_answers_apart(runs):
    create(runs, "a")
    assert measured.measured_folder(runs, "a@best") == runs.path("a") / "best"
    assert measured.read_answers(runs, "a@best") is None


def test_the_cases_on_which_two_runs_do_something_else(runs):
    a = answers(runs, "a", CALL, "Привет!", CALL)
    b = answers(runs, "b", OTHER_CALL, "Здравствуйте!", "Пока!")
    found = answers_difference(a, b)
    assert (found.right, found.only_a, found.only_b) == ((2, 2), 0, 0)
    # The first case calls another tool, the third no longer calls; the second is said in other words alone.
    assert [p.a.prompt for p in found.which("verdict")] == ["Какой у меня баланс?", "Пока"]
    assert [p.a.prompt for p in found.which("reply")] == ["Какой у меня баланс?", "Привет", "Пока"]
    assert len(found.which("all")) == 3
    same = answers_difference(a, a)
    assert (same.which("verdict"), same.which("reply"), len(same.which("all"))) == ([], [], 3)


def test_cases_that_one_run_alone_answered_are_counted_and_not_compared(runs):
    twice = make_cases([ROWS[1], ROWS[1], ROWS[0]])
    a = answers(runs, "a", "x", "y", CALL, cases=twice)
    b = answers(runs, "b", CALL, "z", "w")
    found = answers_difference(a, b)
    assert [(p.a.reply, p.b.reply) for p in found.pairs] == [("x", "z"), (CALL, CALL)]
    assert (found.only_a, found.only_b) == (1, 1)
