"""The tracker: events become figures, its process gets no way to a network, and its faults never reach the run."""

import json
import os
import sys
import textwrap

import pytest

from workbench.dataset.store import make_row
from workbench.errors import SettingsError
from workbench.settings import RunSettings, Training, apply_overrides
from workbench.training import events, tracker
from workbench.training.runs import RunStore
from workbench.training.tracker import PROJECT, Tracker, check_tracker, figures, local_environment, open_tracker

ON = apply_overrides(RunSettings(), ["training.tracker=trackio"])
STEP = events.Step(step=3, epoch=0.75, loss=2.0, learning_rate=1e-4, gradient_norm=0.5, tokens=640, labels=160, seconds=2.0, memory_gib=1.5, gpu_use=0.5)

# Stands in for the library: writes what it is told into a file, and what its process was given.
FAKE = """
    import json, os
    from pathlib import Path
    OUT = Path(os.environ["TRACKED"])
    class Run:
        def log(self, metrics, step=None):
            print("* said on standard output")
            with OUT.open("a") as file:
                file.write(json.dumps({"log": metrics, "step": step}) + "\\n")
        def finish(self):
            with OUT.open("a") as file:
                file.write(json.dumps({"finished": True}) + "\\n")
    def init(**given):
        with OUT.open("a") as file:
            file.write(json.dumps({"init": given, "environment": sorted(os.environ)}) + "\\n")
        return Run()
"""


@pytest.fixture
def run(tmp_path):
    store = RunStore(tmp_path / "adapters")
    info = store.create("first", model="demo", model_name="gemma", rows=[make_row("a", "b")], data_name="examples.json", settings=ON)
    return info, store.path("first")


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Makes a `trackio` of the given source importable, here and in a child process; returns what it wrote."""
    out = tmp_path / "tracked.jsonl"

    def install(source):
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "trackio.py").write_text(textwrap.dedent(source), encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
        monkeypatch.setenv("TRACKED", str(out))
        return lambda: [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]

    return install


def test_events_become_figures():
    assert figures(STEP) == {
        "train/loss": 2.0, "train/learning_rate": 1e-4, "train/gradient_norm": 0.5, "train/epoch": 0.75, "speed/tokens_per_second": 320.0,
        "memory/gib": 1.5, "memory/gpu_use": 0.5,
    }  # fmt: skip
    assert figures(events.Validation(step=3, epoch=1.0, loss=1.5)) == {"validation/loss": 1.5, "train/epoch": 1.0}
    assert figures(events.Sampled(step=3, epoch=1.0, right=3, asked=4)) == {"validation/call_accuracy": 0.75, "train/epoch": 1.0}
    assert figures(events.Sampled(step=3, epoch=1.0, right=0, asked=0)) is None
    assert figures(events.Ended(state="finished", peak_memory_gib=9.0)) == {"state": "finished", "memory/peak_gib": 9.0}
    assert figures(events.Notice(text="x")) is None


def test_a_tracker_that_is_not_installed_is_told_before_the_run(workspace, monkeypatch):
    monkeypatch.setattr(tracker.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match='"pip install trackio", or set training.tracker to off'):
        workspace.create_run("first", workspace.rows.read().rows, ON, data_name="examples.json")
    assert workspace.runs.names() == []
    check_tracker(RunSettings())


def test_off_opens_nothing(run):
    info, folder = run
    assert Training().tracker == "off"
    assert open_tracker(info.model_copy(update={"settings": RunSettings()}), folder) is None
    assert not (folder / tracker.LOG).exists()


def test_the_child_logs_every_figure_and_is_given_no_way_out(run, library, monkeypatch):
    told = library(FAKE)
    for name in tracker.TO_OTHERS:
        monkeypatch.setenv(name, "secret")
    info, folder = run
    opened = open_tracker(info, folder)
    assert opened.tell(STEP) is None
    assert opened.tell(events.Notice(text="not for it")) is None
    opened.tell(events.Ended(state="finished", step=3))
    opened.close()
    first, *logged, last = told()
    assert (first["init"]["project"], first["init"]["name"], first["init"]["resume"]) == (PROJECT, "first", "allow")
    assert (first["init"]["space_id"], first["init"]["server_url"], first["init"]["embed"]) == (None, None, False)
    assert first["init"]["config"]["lora.rank"] == 16
    assert set(first["environment"]) & set(tracker.TO_OTHERS) == set()
    assert {"HF_HUB_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN"} <= set(first["environment"])
    assert logged == [{"log": figures(STEP), "step": 3}, {"log": {"state": "finished"}, "step": 3}]
    assert last == {"finished": True}
    assert "* said on standard output" in (folder / tracker.LOG).read_text(encoding="utf-8")
    assert os.environ["HF_TOKEN"] == "secret"


def test_a_loss_that_is_no_number_is_handed_on(run, library):
    told = library(FAKE)
    opened = Tracker(*run)
    opened.tell(STEP.model_copy(update={"loss": float("nan")}))
    opened.close()
    assert told()[1]["log"]["train/loss"] != told()[1]["log"]["train/loss"]


def test_a_library_that_fails_is_said_once_and_the_run_goes_on(run, library):
    library("raise RuntimeError('broken library')")
    opened = Tracker(*run)
    opened._process.wait(60)
    notices = []
    while not notices:  # its pipe may take a line or two before it is known to be closed
        notices += [n for n in [opened.tell(STEP)] if n is not None]
    assert "The tracker gave up" in notices[0].text
    assert opened.tell(STEP) is None
    opened.close()
    assert "broken library" in (run[1] / tracker.LOG).read_text(encoding="utf-8")


def test_a_process_that_can_not_be_started_is_said_once(run, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    opened = Tracker(*run)
    assert "The tracker gave up" in opened.tell(STEP).text
    assert opened.tell(STEP) is None
    opened.close()


def test_one_that_does_not_end_is_killed(run, library, monkeypatch):
    library("import time\ntime.sleep(3600)")
    monkeypatch.setattr(tracker, "PATIENCE", 0.3)
    opened = Tracker(*run)
    opened.close()
    assert opened._process.returncode == -9


def test_the_environment_keeps_what_is_not_about_others():
    made = local_environment({"PATH": "/bin", "TRACKIO_SPACE_ID": "me/space", "TRACKIO_DIR": "/here"})
    assert made == {"PATH": "/bin", "TRACKIO_DIR": "/here", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
