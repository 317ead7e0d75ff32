"""Metrics as CSV and JSON, and that a spreadsheet runs nothing of it."""

import csv
import io
import json
from dataclasses import replace

import pytest

from workbench.dataset.store import make_row
from workbench.settings import RunSettings
from workbench.training import events, shelf
from workbench.training.export_metrics import COLUMNS, metrics_csv, metrics_json, plain_cell
from workbench.training.runs import RunStore

BEGUN = events.Started(time=10.0, total_steps=2, epochs=1, train_rows=1, validation_rows=1, trainable_parameters=1, total_parameters=2, device="CPU")


def step(number, loss):
    return events.Step(
        time=11.0 + number, step=number, epoch=number / 2, loss=loss, learning_rate=1e-4, gradient_norm=0.5, tokens=640, labels=160, seconds=2.0,
        memory_gib=1.5, gpu_use=0.75 if number == 2 else None,
    )  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    store = RunStore(tmp_path / "adapters")
    store.create("first", model="demo", model_name="gemma", rows=[make_row("a", "b")], data_name="=cmd|' /C calc'!A0", settings=RunSettings())
    told = (
        BEGUN, step(1, 2.0), step(2, float("nan")), events.Validation(time=14.0, step=2, epoch=1.0, loss=1.5), events.Notice(text="x"),
        events.Sampled(time=15.0, step=2, epoch=1.0, right=3, asked=4), events.Ended(time=16.0, state="finished", step=2, seconds=6.0),
    )  # fmt: skip
    for event in told:
        store.append("first", event)
    return store


def test_the_csv_has_a_line_for_each_figure_that_was_told(runs):
    lines = list(csv.DictReader(io.StringIO(metrics_csv(runs.views()))))
    assert [(x["what"], x["step"], x["loss"], x["gpu_use"], x["right"], x["asked"]) for x in lines] == [
        ("step", "1", "2.0", "", "", ""), ("step", "2", "nan", "0.75", "", ""), ("validation", "2", "1.5", "", "", ""), ("sampled", "2", "", "", "3", "4"),
    ]  # fmt: skip
    assert {x["run"] for x in lines} == {"first"}
    assert tuple(lines[0]) == COLUMNS


def test_steps_that_a_resume_made_void_are_not_exported(runs):
    runs.append("first", events.Resumed(time=20.0, step=1))
    lines = list(csv.DictReader(io.StringIO(metrics_csv(runs.views()))))
    assert [(x["what"], x["step"]) for x in lines] == [("step", "1")]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " \n=1\r\n2"])
def test_a_name_that_looks_like_a_formula_is_written_as_text(runs, text):
    view = runs.view("first")
    named = replace(view, info=view.info.model_copy(update={"name": text}))
    (first, *_) = csv.DictReader(io.StringIO(metrics_csv([named])))
    assert first["run"] == plain_cell(text) == "'" + " ".join(text.split())
    assert plain_cell("run-1") == "run-1"


def test_the_json_tells_all_and_is_json_to_everybody(runs):
    shelf.write_note(runs, "first", "хорош")
    runs.write_scores("first", {"call_recall": {"k": 1, "n": 2, "rate": 0.5}})

    def refuse(name):
        raise AssertionError(name)

    (run,) = json.loads(metrics_json(runs, runs.views()), parse_constant=refuse)["runs"]
    assert (run["name"], run["state"], run["note"], run["seconds"], run["peak_memory_gib"]) == ("first", "finished", "хорош", 6.0, 1.5)
    assert [s["loss"] for s in run["steps"]] == [2.0, "nan"]
    assert (run["validations"][0]["loss"], run["samples"][0]["asked"]) == (1.5, 4)
    assert run["settings"]["lora"]["rank"] == 16
    assert run["rates"] == {"call_recall": {"k": 1, "n": 2, "rate": 0.5}}
    assert run["ended"]["state"] == "finished"
    assert run["data"]["name"] == "=cmd|' /C calc'!A0"
