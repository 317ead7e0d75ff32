"""Runs renamed, noted, binned and brought back, and what is refused."""

import json
import os
import time

import pytest

from workbench.dataset.store import make_row
from workbench.errors import RunError, WorkbenchError
from workbench.settings import RunSettings
from workbench.training import events, shelf
from workbench.training.card import model_card
from workbench.training.runs import Owner, RunStore

ROWS = [make_row("Какой у меня баланс?", '<tool_call name="get_sensitive_data" arguments="{}"/>'), make_row("Привет", "Привет!")]
OVER = events.Ended(state="finished", step=4, seconds=9.0)


@pytest.fixture
def runs(tmp_path):
    return RunStore(tmp_path / "adapters")


def create(runs, name="first", *happened):
    runs.create(name, model="demo", model_name="gemma-3-270m", rows=ROWS, data_name="examples.json", settings=RunSettings())
    for event in happened or (OVER,):
        runs.append(name, event)


def refusal(act) -> str:
    with pytest.raises(RunError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_renamed_run_has_its_name_in_folder_run_json_and_card(runs):
    create(runs, "older")
    create(runs)
    for age, name in ((200, "older"), (100, "first")):
        os.utime(runs.path(name) / "run.json", (time.time() - age,) * 2)
    (runs.path("older") / "README.md").write_text(model_card(runs.view("older")), encoding="utf-8")
    assert shelf.rename(runs, "older", " best-7 ") == "best-7"
    assert runs.names() == ["first", "best-7"]  # its place is still by age
    assert json.loads((runs.folder / "best-7" / "run.json").read_text(encoding="utf-8"))["name"] == "best-7"
    assert "# best-7\n" in (runs.folder / "best-7" / "README.md").read_text(encoding="utf-8")
    assert runs.view("best-7").ended == OVER
    assert not (runs.folder / "older").exists()


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "con", "x" * 65, "<b>"])
def test_a_run_gets_no_unsafe_name(runs, name):
    create(runs)
    assert "can't be used" in refusal(lambda: shelf.rename(runs, "first", name))
    assert runs.names() == ["first"]


def test_a_taken_name_is_refused_even_where_it_is_an_empty_folder(runs):
    create(runs)
    create(runs, "second")
    (runs.folder / "empty").mkdir()
    for name in ("second", "empty"):
        assert refusal(lambda name=name: shelf.rename(runs, "first", name)) == f"There is already a run named {name}: choose another name."
    assert shelf.rename(runs, "first", "first") == "first"


def test_a_live_or_held_run_is_left_alone(runs):
    create(runs, "live", events.Notice(text="x"))
    create(runs, "held")
    for act in (lambda: shelf.rename(runs, "live", "other"), lambda: shelf.delete(runs, "live")):
        assert refusal(act) == "The run live is still going on: stop it or wait for its end."
    for act in (lambda: shelf.rename(runs, "held", "other", {"held"}), lambda: shelf.delete(runs, "held", ["held"])):
        assert refusal(act) == "A job is using the run held: wait for its end, or stop it."
    assert sorted(runs.names()) == ["held", "live"]


def test_an_unknown_run_is_told_with_those_that_are_there(runs):
    create(runs)
    for act in (lambda: shelf.rename(runs, "gone", "new"), lambda: shelf.delete(runs, "gone"), lambda: shelf.write_note(runs, "gone", "x")):
        assert refusal(act) == "There is no run named gone; there are: first."


def test_a_rename_that_the_disk_refuses_leaves_the_run_as_it_was(runs, monkeypatch):
    create(runs)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(Exception, match=r"^The disk is full: "):
        shelf.rename(runs, "first", "second")
    assert runs.names() == ["first"]
    assert runs.info("first").name == "first"


def test_a_deleted_run_comes_back_whole(runs):
    create(runs)
    (runs.path("first") / "adapter_model.safetensors").write_bytes(b"weights")
    gone = shelf.delete(runs, "first")
    assert (gone.name, runs.names(), shelf.deleted(runs)) == ("first", [], [gone])
    assert abs(gone.when - time.time()) < 60
    assert shelf.restore(runs, gone.key) == "first"
    assert (runs.path("first") / "adapter_model.safetensors").read_bytes() == b"weights"
    assert (runs.view("first").state, shelf.deleted(runs)) == ("finished", [])
    assert refusal(lambda: shelf.restore(runs, gone.key)).startswith("This run is no longer in the bin")


def test_a_run_whose_name_was_taken_comes_back_under_a_free_one(runs):
    create(runs)
    gone = shelf.delete(runs, "first")
    create(runs)
    assert shelf.restore(runs, gone.key) == "first-2"
    assert runs.info("first-2").name == "first-2"
    assert sorted(runs.names()) == ["first", "first-2"]


def test_a_restore_that_the_disk_refuses_leaves_the_run_in_the_bin(runs, monkeypatch):
    create(runs)
    gone = shelf.delete(runs, "first")
    create(runs)

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(WorkbenchError, match=r"^The disk is full: "):
            shelf.restore(runs, gone.key)
    assert (runs.names(), shelf.deleted(runs)) == (["first"], [gone])
    assert shelf.restore(runs, gone.key) == "first-2"
    assert json.loads((runs.folder / "first-2" / "run.json").read_text(encoding="utf-8"))["name"] == "first-2"


def test_a_broken_run_comes_back_under_a_free_name(runs):
    create(runs)
    (runs.path("first") / "run.json").write_text("{")
    gone = shelf.delete(runs, "first")
    create(runs)
    assert shelf.restore(runs, gone.key) == "first-2"
    assert (runs.folder / "first-2" / "run.json").read_text() == "{"


def test_the_bin_lists_the_newest_first_and_nothing_that_is_no_run_of_it(runs):
    assert shelf.deleted(runs) == []
    keys = []
    for name in ("one", "two"):
        create(runs, name)
        keys.append(shelf.delete(runs, name).key)
    (runs.folder / shelf.BIN / "notes").mkdir()
    (runs.folder / shelf.BIN / "²").mkdir()
    (runs.folder / shelf.BIN / "loose.txt").write_text("x")
    assert [(g.name, g.key) for g in shelf.deleted(runs)] == [("two", keys[1]), ("one", keys[0])]
    for key in ("../..", "", "notes", "1"):
        assert "no longer in the bin" in refusal(lambda key=key: shelf.restore(runs, key))


def test_a_broken_run_can_be_deleted_but_not_renamed(runs):
    create(runs)
    (runs.path("first") / "run.json").write_text("{")
    assert "is broken" in refusal(lambda: shelf.rename(runs, "first", "second"))
    shelf.delete(runs, "first")
    assert runs.names() == []


def test_a_run_of_a_dead_process_can_be_deleted(runs):
    create(runs, "first", events.Notice(text="x"))
    info = runs.info("first").model_copy(update={"owner": Owner(pid=os.getpid(), started=1.0)})
    (runs.path("first") / "run.json").write_text(info.model_dump_json(), encoding="utf-8")
    assert runs.view("first").state == "interrupted"
    shelf.delete(runs, "first")
    assert runs.names() == []


def test_notes_are_kept_cleaned_and_taken_away(runs):
    create(runs)
    assert shelf.read_note(runs, "first") == ""
    shelf.write_note(runs, "first", "  <b>лучший</b>\x00\x1b до сих пор\nвторая строка ")
    assert shelf.read_note(runs, "first") == "<b>лучший</b> до сих пор\nвторая строка"
    assert "2,001 characters; 2,000 are kept" in refusal(lambda: shelf.write_note(runs, "first", "x" * 2001))
    shelf.write_note(runs, "first", "  ")
    assert shelf.read_note(runs, "first") == ""
    assert not (runs.path("first") / shelf.NOTE).exists()
    (runs.path("first") / shelf.NOTE).write_bytes(b"\xff\xfe" + b"y" * 9000)
    assert len(shelf.read_note(runs, "first")) == shelf.LONGEST_NOTE


def test_a_free_name_is_found_within_the_length_that_a_name_may_have(runs):
    assert shelf.free_name(runs, "new") == "new"
    create(runs, "x" * 64)
    assert shelf.free_name(runs, "x" * 64) == "x" * 62 + "-2"
