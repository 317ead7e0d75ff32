"""The table of runs, the shelf and the comparisons, as the page's handlers make them."""

import csv
import io
import json
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from workbench.dataset.store import make_row
from workbench.errors import DataError, RunError
from workbench.evaluation.scores import make_cases, score_reply
from workbench.settings import RunSettings, apply_overrides
from workbench.training import events, shelf
from workbench.training.measured import keep_measurement
from workbench.training.runs import Owner
from workbench.ui import measure_panel
from workbench.ui.train import compare_panel, runs_panel
from workbench.ui.train.compare_panel import Look
from workbench.ui.train.run_panel import said_by
from workbench.ui.train.runs_panel import Query, Shelf
from workbench.ui.train.table import LISTED, table_html
from workbench.ui.words import train as words
from workbench.workspace import Workspace
from workbench.workspace.jobs import Jobs

CALL = '<tool_call name="get_sensitive_data" arguments="{}"/>'
EVIL = "<img src=x onerror=alert(1)>"
CASES = make_cases([make_row("Какой у меня баланс?", CALL), make_row(f"Привет {EVIL}", "Привет!")])
OVER = events.Ended(state="finished", seconds=9.0, peak_memory_gib=3.0)
BEGUN = events.Started(
    time=1000.0, total_steps=40, epochs=10, train_rows=63, validation_rows=7, trainable_parameters=1, total_parameters=2, device="CPU"
)  # fmt: skip


@pytest.fixture
def space(tmp_path):
    """A workbench without a model."""
    (tmp_path / "data").mkdir()
    made = Workspace(root=tmp_path, model="demo")
    yield made
    made.engine.close()


def create(space, name, *happened, settings=(), age=0, replies=None, data_name="examples.json"):
    made = apply_overrides(RunSettings(), settings)
    space.runs.create(name, model="demo", model_name="gemma-3-270m", rows=(), data_name=data_name, settings=made)
    os.utime(space.runs.path(name) / "run.json", (time.time() - age,) * 2)
    for event in happened or (BEGUN, OVER):
        space.runs.append(name, event)
    if replies:
        measure(space, name, *replies)


def measure(space, name, *replies):
    keep_measurement(space.runs, name, [score_reply(c, r) for c, r in zip(CASES, replies, strict=True)], "cases.jsonl")


def skipped(value) -> bool:
    return isinstance(value, dict) and set(value) == {"__type__"}


PARTS = ("chart", "push", "hint", "a", "b", "settings", "answers", "measure")


def draw(space, look=None, picked=()):
    """What the comparison draws, by part, and the look afterwards."""
    *parts, look = compare_panel.draw(space, look or Look(), tuple(picked), Shelf(space).names())
    return {name: value for name, value in zip(PARTS, parts, strict=True) if not skipped(value)}, look


# -- the table -------------------------------------------------------------------------------------


def test_the_table_shows_a_run_with_its_settings_and_measures(space):
    create(space, "first", BEGUN, events.Validation(step=4, epoch=1.0, loss=1.25), OVER, settings=["quantization.mode=4-bit", "lora.rank=8"], replies=(CALL, CALL))
    shelf.write_note(space.runs, "first", "the best")
    made = Shelf(space).html(Query(picked=("first",), opened="first"))
    for text in ("finished", "4-bit nf4", "1.250", "100%", "9 s", "3.0", "the best", 'data-pick="first"', " checked", "wb-opened", "▲ gone", "1 of 1 runs"):
        assert text in made
    assert 'title="2/2 (100.0 %)"' not in made and 'title="1/1 (100.0 %)"' in made


def test_without_runs_the_table_invites_and_a_filter_that_finds_none_says_so(space):
    assert words.RUNS_EMPTY in Shelf(space).html(Query())
    create(space, "first")
    assert words.NONE_FOUND in Shelf(space).html(Query(text="no such"))
    assert words.NONE_FOUND in Shelf(space).html(Query(state="failed"))


def test_names_notes_and_data_are_shown_and_never_run(space):
    create(space, "first", data_name=f'"><script>{EVIL}')
    shelf.write_note(space.runs, "first", f'" onmouseover="x {EVIL}')
    made = Shelf(space).html(Query())
    assert "<img" not in made and "<script" not in made
    assert '" onmouseover' not in made


def test_a_broken_run_is_named_above_the_table(space):
    create(space, "good")
    create(space, "broken")
    (space.runs.path("broken") / "run.json").write_text("{")
    made = Shelf(space).html(Query())
    assert "broken/run.json is broken" in made and 'data-pick="good"' in made and 'data-pick="broken"' not in made


def test_a_long_table_is_cut_and_says_so(space):
    create(space, "first")
    (row,) = Shelf(space).rows(Query())[1]
    made = table_html([row] * (LISTED + 5), LISTED + 5, sort="name", descending=False, picked=(), opened=None)
    assert made.count('data-pick="first"') == LISTED
    assert words.MORE.format(shown=LISTED, total=LISTED + 5) in made
    assert 'aria-sort="ascending"' in made


def test_a_second_click_on_a_heading_turns_the_order(space):
    for name, age in (("b", 300), ("a", 200)):
        create(space, name, age=age)
    shown = lambda query: [row.name for row in Shelf(space).rows(query)[1]]  # noqa: E731
    once = Query().turned("name")
    assert (shown(once), shown(once.turned("name"))) == (["a", "b"], ["b", "a"])
    assert Query().turned("rank").descending and not Query().turned("loss").descending
    assert Query().turned("__class__") == Query()


def test_ticks_of_runs_that_the_filter_hides_stay(space):
    query = Query().ticked(["a", "b"], ["b"]).ticked(["c"], ["c"])
    assert query.picked == ("b", "c")
    assert query.ticked(["a", "b"], ["a"]).picked == ("c", "a")


# -- the shelf -------------------------------------------------------------------------------------


def test_verbs_say_what_they_did_or_why_not(space):
    create(space, "first")
    assert runs_panel.note_run(space, "first", "x") == ("The note on first was saved.", "first")
    assert runs_panel.rename_run(space, "first", "second") == ("first is now named second.", "second")
    said, opened = runs_panel.delete_run(space, "second")
    assert said.startswith("second was deleted.") and opened is None
    create(space, "second")
    ((title, key),) = runs_panel.bin_choices(space)
    assert title.startswith("second · ")
    assert runs_panel.restore_run(space, key) == ("second is back under the name second-2: its own had been taken.", "second-2")
    for name in (None, "gone", "../x", EVIL):
        for act in (lambda name=name: runs_panel.delete_run(space, name), lambda name=name: runs_panel.rename_run(space, name, "x")):
            with pytest.raises(RunError, match="Click a run"):
                act()
    for key in (None, "", "../..", EVIL):
        assert "no longer in the bin" in said_by(lambda key=key: runs_panel.restore_run(space, key)[0])


def test_a_run_that_a_waiting_job_uses_is_held(space, monkeypatch):
    create(space, "first")
    jobs = (SimpleNamespace(job=SimpleNamespace(run="first@best")), SimpleNamespace(job=SimpleNamespace(run=None)), SimpleNamespace(job=SimpleNamespace()))
    monkeypatch.setattr(space.engine, "queue", lambda: jobs)
    assert runs_panel.held_runs(space) == {"first"}
    with pytest.raises(RunError, match="A job is using the run first"):
        runs_panel.delete_run(space, "first")


def test_ticked_runs_are_exported_or_all_that_were_found(space):
    for name in ("one", "two", "three"):
        create(space, name, BEGUN, events.Validation(step=4, epoch=1.0, loss=1.0), OVER)
    table = Shelf(space)
    path, said = table.export(Query(), "csv")
    assert {line["run"] for line in csv.DictReader(io.StringIO(Path(path).read_text(encoding="utf-8")))} == {"one", "two", "three"}
    assert said == f"3 runs in {Path(path).name}."
    path, said = table.export(Query(picked=("two", "gone")), "json")
    assert [run["name"] for run in json.loads(Path(path).read_text(encoding="utf-8"))["runs"]] == ["two"]
    assert said.startswith("1 run in runs-")
    with pytest.raises(DataError, match="no run to export"):
        table.export(Query(text="nothing like it"), "csv")


# -- comparing -------------------------------------------------------------------------------------


def test_the_first_ticked_runs_are_compared_and_a_choice_stays_until_the_ticks_change(space):
    for name, age in (("old", 30), ("middle", 20), ("new", 10)):
        create(space, name, age=age)
    _, look = draw(space)
    assert (look.a, look.b) == ("new", "middle")
    _, look = draw(space, look, ["old"])
    assert (look.a, look.b) == ("old", "middle")
    _, look = draw(space, look, ["old", "new"])
    assert (look.a, look.b) == ("old", "new")
    _, look = draw(space, compare_panel.replace(look, a="middle"), ["old", "new"])
    assert (look.a, look.b) == ("middle", "new")
    space.runs.remove("middle")
    _, look = draw(space, look, ["old", "new"])
    assert (look.a, look.b) == ("old", "new")
    _, look = draw(space, compare_panel.replace(look, a=EVIL, b="../.."), ["old", "new"])
    assert (look.a, look.b) == ("old", "new")


def test_the_open_comparison_alone_is_drawn_and_nothing_twice(space):
    create(space, "one", replies=(CALL, "Привет!"))
    create(space, "two", settings=["lora.rank=8"])
    made, look = draw(space, None, ["one", "two"])
    assert set(made) == {"chart", "hint", "a", "b", "push"}
    assert draw(space, look, ["one", "two"])[0] == {}
    made, look = draw(space, compare_panel.replace(look, tab="settings"), ["one", "two"])
    assert set(made) == {"settings"} and "Rank" in made["settings"]
    made, look = draw(space, compare_panel.replace(look, tab="answers"), ["one", "two"])
    assert set(made) == {"answers", "measure"} and made["measure"].visible
    assert "No stored answers yet of: two." in made["answers"]
    measure(space, "two", "Нет", "Привет!")
    made, look = draw(space, look, ["one", "two"])
    assert set(made) == {"answers", "measure"} and not made["measure"].visible
    assert draw(space, look, ["one", "two"])[0] == {}


def test_a_run_that_goes_on_grows_in_the_overlay_that_stands_there(space):
    create(space, "one", BEGUN)
    made, look = draw(space, None, ["one"])
    assert made["chart"].visible and json.loads(made["push"])["data"][0]["name"].startswith("one"), "told in any case, and drawn where nothing stands yet"
    space.runs.append("one", events.Validation(step=4, epoch=1.0, loss=1.5))
    made, look = draw(space, look, ["one"])
    assert set(made) == {"push"}
    assert json.loads(made["push"])["data"][1]["y"] == [1.5]
    made, look = draw(space, look, [])
    assert not made["chart"].visible
    assert draw(space, look, ["one"])[0]["chart"].visible


def test_overlaid_runs_that_are_gone_are_left_out_and_too_many_are_cut(space):
    create(space, "one", BEGUN, events.Validation(step=4, epoch=1.0, loss=1.0), OVER)
    made, _ = draw(space, None, ["one", "gone"])
    assert made["chart"].visible
    made, _ = draw(space, None, ["gone"])
    assert not made["chart"].visible and words.PICK_RUNS in made["hint"]
    made, _ = draw(space, None, ["one"] * 9)
    assert "Only the first 8 ticked runs are drawn" in made["hint"]


def test_settings_side_by_side(space):
    create(space, "one")
    create(space, "two", settings=["lora.rank=8"])
    assert words.SAME_SETTINGS in compare_panel.settings_html(space, "one", "one")
    shown = compare_panel.settings_html(space, "one", "two@best")
    assert "<td>Rank</td><td>16</td><td>8</td>" in shown and "other settings are the same" in shown
    assert words.PICK_TWO in compare_panel.settings_html(space, None, "one")
    assert "There is no run named" in compare_panel.settings_html(space, "one", "gone")
    made = compare_panel.settings_html(space, "one", EVIL)
    assert "<img" not in made and "can&#x27;t be used" in made


def test_answers_side_by_side_with_both_verdicts(space):
    create(space, "one", replies=(CALL, f"Привет! {EVIL}"))
    create(space, "two", replies=(f"Нет {EVIL}", "Привет!"))
    other = compare_panel.answers_html(space, "one", "two", "verdict")
    assert "one: 2 of 2 right · two: 1 of 2 right" in other
    assert "Какой у меня баланс?" in other and "&lt;img" in other and "<img" not in other
    assert ("✓ right" in other, "✗ wrong" in other, other.count("wb-ask")) == (True, True, 1)
    assert compare_panel.answers_html(space, "one", "two", "reply").count("wb-ask") == 2
    assert words.NONE_DIFFER["verdict"].format(count=2) in compare_panel.answers_html(space, "one", "one", "verdict")
    assert compare_panel.answers_html(space, "one", "one", "all").count("wb-ask") == 2


def test_broken_or_foreign_answers_are_said(space):
    create(space, "one", replies=(CALL, "x"))
    create(space, "two", replies=(CALL, "x"))
    (space.runs.path("two") / "answers.json").write_text("{")
    assert "answers.json of two is broken: measure it again" in compare_panel.answers_html(space, "one", "two", "verdict")
    assert compare_panel.missing(space, "one", "two", None) == ["two"]
    keep_measurement(space.runs, "two", [score_reply(CASES[0], CALL)], "other.jsonl")
    assert words.OTHER_FILES.format(count=1) in compare_panel.answers_html(space, "one", "two", "all")
    keep_measurement(space.runs, "two", [], "other.jsonl")
    assert words.NONE_DIFFER["all"] in compare_panel.answers_html(space, "one", "two", "verdict")


def test_what_can_not_be_measured_is_said(space):
    create(space, "one", replies=(CALL, "x"))
    create(space, "two")
    go = lambda a, b: list(compare_panel.measure_missing(space, a, b, lambda ticket: None))  # noqa: E731
    with pytest.raises(RunError, match="two left no adapter"):
        go("one", "two")
    with pytest.raises(RunError, match="measured already"):
        go("one", "one")
    with pytest.raises(RunError, match="Choose two runs"):
        go(None, None)


def test_the_missing_one_alone_is_measured_and_its_answers_are_kept(space, monkeypatch):
    create(space, "one", replies=(CALL, "x"))
    create(space, "two")
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        (space.runs.path("two") / file).write_text("{}")
    asked = []

    def evaluate(self, cases, *, run, **_):
        asked.append(run)
        done = threading.Event()
        done.set()
        return SimpleNamespace(finished=done, label="evaluating", wait=lambda: {"replies": [CALL] * len(cases)})

    monkeypatch.setattr(Jobs, "evaluate", evaluate)
    monkeypatch.setattr(space, "cases", lambda name: CASES)
    begun = []
    monkeypatch.setattr(measure_panel, "waiting_words", lambda *_: "waiting")
    lines = list(compare_panel.measure_missing(space, "one", "two", begun.append))
    assert (asked, len(begun)) == (["two"], 1)
    assert "call recall" in lines[-1]
    assert compare_panel.missing(space, "one", "two") == []


def test_the_table_tells_what_the_engine_knows_more_and_the_weights_as_they_were(space, monkeypatch):
    step = events.Step(step=1, epoch=0.5, loss=2.0, learning_rate=1e-4, gradient_norm=0.5, tokens=640, labels=160, seconds=2.0, memory_gib=1.5)
    create(space, "first", BEGUN, step, events.Ended(state="stopped", reason="x"))
    shelf_ = Shelf(space)
    plain = shelf_.html(Query())
    assert ">stopped</span>" in plain and 'title="asked for as: auto">none</span>' in plain and shelf_.now() == ()
    ticket = SimpleNamespace(job=SimpleNamespace(run="first"), begun=None, stop_asked=False)
    monkeypatch.setattr(space.engine, "training", lambda: ticket)
    assert shelf_.now() == (("first", "waiting"),) and f">{words.RESUME_CHIP}</span>" in shelf_.html(Query())
    assert [row.name for row in shelf_.rows(Query(state="waiting"))[1]] == ["first"]
    ticket.begun = 1.0
    assert shelf_.now() == () and ">stopped</span>" in shelf_.html(Query())
    ticket.stop_asked = True
    assert f">{words.STOPPING}</span>" in shelf_.html(Query(text="stopping"))
    monkeypatch.setattr(space.engine, "training", lambda: None)
    monkeypatch.setattr("workbench.training.run_view.held_elsewhere", lambda folder: True)
    create(space, "left", BEGUN, step)
    space.runs.rewrite_info("left", owner=Owner(pid=os.getpid(), started=1.0))
    assert f">{words.ORPHAN_CHIP}</span>" in Shelf(space).html(Query())
