"""The lines of the table of runs: what they say, how they are filtered and sorted, and that nothing is read twice."""

import pytest

from workbench.dataset.formats import dump_jsonl
from workbench.dataset.store import make_row
from workbench.evaluation.scores import Rate
from workbench.settings import RunSettings, apply_overrides
from workbench.training import events, shelf
from workbench.training.run_search import filter_rows
from workbench.training.run_table import SORTS, DataHashes, RunTable, sort_rows
from workbench.training.runs import RunStore

CALL = '<tool_call name="get_sensitive_data" arguments="{}"/>'
ROWS = [make_row("Какой у меня баланс?", CALL), make_row("Привет", "Привет!")]
BEGUN = events.Started(
    time=1000.0, total_steps=40, epochs=10, train_rows=63, validation_rows=7, trainable_parameters=1, total_parameters=2, device="CPU"
)  # fmt: skip


def step(number, loss=2.0, gib=1.5):
    return events.Step(
        time=1000.0 + 3 * number, step=number, epoch=number / 4, loss=loss, learning_rate=1e-4, gradient_norm=0.5, tokens=640, labels=160,
        seconds=2.0, memory_gib=gib,
    )  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    return RunStore(tmp_path / "adapters")


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "examples.json").write_text(dump_jsonl(ROWS), encoding="utf-8")
    return folder


def create(runs, name, *happened, settings=(), data_name="examples.json"):
    runs.create(name, model="demo", model_name="gemma-3-270m", rows=ROWS, data_name=data_name, settings=apply_overrides(RunSettings(), settings))
    for event in happened:
        runs.append(name, event)


def table(runs, data):
    return RunTable(runs, DataHashes(data))


def only(runs, data):
    (row,) = table(runs, data).read()[1]
    return row


def test_a_line_says_what_the_run_came_to(runs, data):
    happened = [BEGUN, step(1, 3.0, 1.0), events.Validation(step=1, epoch=0.25, loss=2.5), step(2, gib=2.5), events.Validation(step=2, epoch=0.5, loss=1.25)]
    create(runs, "first", *happened, step(3), events.Validation(step=3, epoch=0.75, loss=float("nan")))
    runs.write_scores("first", {"cases": 30, "call_recall": {"k": 14, "n": 15, "rate": 0.933}, "over_call_rate": {"k": 0, "n": 15, "rate": 0}})
    shelf.write_note(runs, "first", "a note")
    row = only(runs, data)
    assert (row.name, row.state, row.steps, row.total_steps, row.train_loss) == ("first", "running", 3, 40, 2.0)
    assert (row.best_loss, row.best_epoch, row.seconds, row.peak_gib, row.note) == (1.25, 0.5, 9.0, 2.5, "a note")
    assert row.rates == {"call_recall": Rate(14, 15), "over_call_rate": Rate(0, 15)}
    assert (row.rate("call_recall"), row.rate("over_call_rate"), row.rate("name_accuracy")) == (14 / 15, 0.0, None)
    assert (row.data, row.live, row.has_adapter) == ("same", True, False)


def test_what_the_end_tells_wins_over_the_steps(runs, data):
    create(runs, "first", BEGUN, step(1), events.Ended(state="finished", step=1, seconds=77.0, peak_memory_gib=9.5))
    row = only(runs, data)
    assert (row.state, row.seconds, row.peak_gib) == ("finished", 77.0, 9.5)


def test_a_run_that_never_began_has_a_line_without_figures(runs, data):
    create(runs, "first")
    row = only(runs, data)
    assert (row.state, row.steps, row.best_loss, row.seconds, row.peak_gib, row.rates, row.note) == ("waiting", 0, None, None, None, {}, "")


@pytest.mark.parametrize("raw", ["{", "[]", '"x"', '{"call_recall": {"k": 2, "n": 1}}', '{"call_recall": {"k": "1", "n": 1}}', '{"call_recall": 1}', "\udcff"])
def test_broken_scores_are_no_scores(runs, data, raw):
    create(runs, "first")
    (runs.path("first") / "scores.json").write_bytes(raw.encode("utf-8", "surrogateescape"))
    assert only(runs, data).rates == {}


def test_a_changed_or_missing_file_of_rows_is_marked(runs, data):
    create(runs, "first", events.Ended(state="finished"))
    shown = table(runs, data)
    version, (row,) = shown.read()
    assert row.data == "same"
    (data / "examples.json").write_text(dump_jsonl([*ROWS, make_row("Ещё", "Да")]), encoding="utf-8")
    later, (row,) = shown.read()
    assert (row.data, later > version) == ("changed", True)
    (data / "examples.json").unlink()
    assert shown.read()[1][0].data == "gone"


def test_a_data_name_that_leads_elsewhere_is_not_followed(runs, data, tmp_path):
    create(runs, "first", data_name="../secret.json")
    (tmp_path / "secret.json").write_text(dump_jsonl(ROWS), encoding="utf-8")
    assert only(runs, data).data == ""


def test_nothing_is_read_again_until_a_file_changes(runs, data, monkeypatch):
    create(runs, "first", BEGUN, events.Ended(state="finished"))
    shown = table(runs, data)
    before = shown.read()
    views = []
    whole = runs.view
    monkeypatch.setattr(runs, "view", lambda name: views.append(name) or whole(name))
    assert shown.read() == before
    assert shown.read()[1] is before[1]
    assert views == []
    shelf.write_note(runs, "first", "new")
    version, (row,) = shown.read()
    assert (row.note, version, views) == ("new", before[0] + 1, ["first"])


def test_a_renamed_and_a_broken_run_change_the_table(runs, data):
    create(runs, "first", events.Ended(state="finished"))
    create(runs, "second", events.Ended(state="finished"))
    shown = table(runs, data)
    assert {r.name for r in shown.read()[1]} == {"first", "second"}
    shelf.rename(runs, "first", "third")
    (runs.path("second") / "run.json").write_text("{")
    assert [r.name for r in shown.read()[1]] == ["third"]


def test_rows_are_filtered_by_words_and_state(runs, data):
    create(runs, "low", events.Ended(state="finished"), settings=["lora.rank=8", "quantization.mode=4-bit"])
    create(runs, "high", events.Ended(state="failed"), settings=["lora.rank=64"])
    shelf.write_note(runs, "high", "Слишком велик")
    rows = table(runs, data).read()[1]
    found = lambda text, state="": {r.name for r in filter_rows(rows, text, state)}  # noqa: E731
    assert found("") == {"low", "high"}
    assert found("rank 8 4-bit") == {"low"}
    assert found("СЛИШКОМ") == {"high"}
    assert found("", "failed") == {"high"}
    assert found("low", "failed") == set()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("rank 8", {"eight"}), ("rank=8", {"eight"}), ("Rank: 16", {"run-8", "wide"}), ("rank", {"eight", "run-8", "wide"}), ("alpha 64", {"wide"}),
        ("8", {"eight", "run-8"}), ("80", set()), ("12 epochs", {"wide"}), ("epochs 12 rank 16", {"wide"}), ("rate 2e-4", {"wide"}), ("lr 0.0002", {"wide"}),
        ("learning rate 0.0003", {"eight", "run-8"}), ("attention rank 4", {"wide"}), ("un-8", set()), ("run-8", {"run-8"}), ("wi", {"wide"}), ("ide", set()),
        ("4-bit", {"eight"}), ("weights 4-bit", {"eight"}), ("nf4", {"eight"}), ("training", {"run-8"}), ("finished", {"eight", "wide"}),
        ("rslora on", {"wide"}), ("gradient checkpointing off 8", {"eight", "run-8"}), ("examples.json", {"eight", "run-8", "wide"}), ("exam", {"eight", "run-8", "wide"}),
        ("json ба", {"eight"}), ("(", set()), ("rank x", set()),
    ],
)  # fmt: skip
def test_words_are_looked_for_as_words_and_settings_by_their_values(runs, data, text, names):
    create(runs, "eight", events.Ended(state="finished"), settings=["lora.rank=8", "quantization.mode=4-bit"])
    create(runs, "run-8", BEGUN)
    wide = ["lora.alpha=64", "training.epochs=12", "training.learning_rate=2e-4", "lora.attention_rank=4", "lora.rslora=true", "quantization.mode=none"]
    create(runs, "wide", events.Ended(state="finished"), settings=wide)
    shelf.write_note(runs, "eight", "баланс")
    rows = table(runs, data).read()[1]
    assert any("8" in row.data_sha256 for row in rows), "every run's hash holds the digit that only some runs are found by"
    assert {r.name for r in filter_rows(rows, text, "", {"running": "training"})} == names


@pytest.mark.parametrize(("device", "weights"), [("CPU, 2 threads", "none"), ("NVIDIA H200", "4-bit nf4")])
def test_the_weights_are_told_as_they_were_on_the_run(runs, data, device, weights):
    create(runs, "first", BEGUN.model_copy(update={"device": device}))
    assert only(runs, data).weights == weights
    create(runs, "waits")
    create(runs, "eight", BEGUN, settings=["quantization.mode=8-bit"])
    assert {r.name: r.weights for r in table(runs, data).read()[1]} == {"first": weights, "waits": "auto", "eight": "8-bit"}


def test_rows_are_sorted_and_those_without_a_value_come_last_either_way(runs, data):
    for name, loss in (("a", 2.0), ("b", None), ("c", 1.0)):
        create(runs, name, BEGUN, *([events.Validation(step=1, epoch=1, loss=loss)] if loss else []), events.Ended(state="finished"))
    rows = table(runs, data).read()[1]
    names = lambda by, down: [r.name for r in sort_rows(rows, by, descending=down)]  # noqa: E731
    assert names("loss", False) == ["c", "a", "b"]
    assert names("loss", True) == ["a", "c", "b"]
    assert names("name", True) == ["c", "b", "a"]
    assert names("no such column", True) == names("created", True) == ["c", "b", "a"]
    for by in SORTS:
        assert sorted(names(by, True)) == sorted(names(by, False)) == ["a", "b", "c"]
