"""`python -m workbench runs`: the list, the file of metrics, and what is refused in one line."""

import json

import pytest

from workbench.__main__ import main
from workbench.settings import RunSettings
from workbench.training import events
from workbench.training.runs import RunStore


@pytest.fixture
def root(tmp_path):
    store = RunStore(tmp_path / "adapters")
    for name, loss in (("one", 1.25), ("two", float("nan"))):
        store.create(name, model="demo", model_name="gemma-3-270m", rows=[], data_name="examples.json", settings=RunSettings())
        store.append(name, events.Validation(step=4, epoch=1.0, loss=loss))
        store.append(name, events.Ended(state="finished", step=4, seconds=9.0, peak_memory_gib=3.0))
    return tmp_path


def run(root, *arguments):
    return main(["--root", str(root), "runs", *arguments])


def test_all_runs_are_listed_with_what_they_came_to(root, capsys):
    (root / "adapters" / "broken").mkdir()
    (root / "adapters" / "broken" / "run.json").write_text("{")
    assert run(root) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["run", "state", "rows"]
    assert {line.split()[0] for line in lines} == {"one", "two", "broken:"}
    (one,) = [line for line in lines if line.startswith("one")]
    assert "finished" in one and "1.2500" in one and "(gone)" in one and one.endswith("3.0")


def test_the_weights_are_told_as_they_were_held(root, capsys):
    store = RunStore(root / "adapters")
    store.create("three", model="demo", model_name="gemma-3-270m", rows=[], data_name="examples.json", settings=RunSettings())
    store.append("three", events.Started(
        total_steps=4, epochs=1, train_rows=4, validation_rows=0, trainable_parameters=1, total_parameters=2, device="CPU, 2 threads",
    ))
    assert run(root, "--name", "three") == 0
    head, line = (text.split("  ") for text in capsys.readouterr().out.splitlines())
    cells = [[cell.strip() for cell in row if cell.strip()] for row in (head, line)]
    assert cells[1][cells[0].index("weights")] == "none", "and not as the settings asked, which was auto"


def test_the_json_line_is_json_to_everybody(root, capsys):
    assert run(root, "--json", "--name", "two") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1], parse_constant=lambda name: pytest.fail(name))
    (two,) = told["runs"]
    assert (two["name"], two["state"], two["best_validation_loss"], two["rows_now"], told["broken"]) == ("two", "finished", None, "gone", [])


@pytest.mark.parametrize(("ending", "begins"), [("csv", "run,what,step"), ("JSON", "{")])
def test_metrics_are_written_and_an_existing_file_is_kept_unless_forced(root, capsys, ending, begins):
    target = root / f"out.{ending}"
    assert run(root, "--export", str(target)) == 0
    assert target.read_text(encoding="utf-8").startswith(begins)
    target.write_text("mine")
    assert run(root, "--export", str(target)) == 2
    assert (target.read_text(), "--force" in capsys.readouterr().err) == ("mine", True)
    assert run(root, "--export", str(target), "--force") == 0
    assert target.read_text(encoding="utf-8").startswith(begins)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--name", "three"], "There is no run named three"), (["--name", "../one"], "can't be used"),
        (["--export", "out.xlsx"], "must end in .csv or .json"), (["--export", "file/out.csv"], "could not be used"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(root, capsys, arguments, said, monkeypatch):
    monkeypatch.chdir(root)
    (root / "file").write_text("no folder")
    assert run(root, *arguments) in (1, 2)
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1


def test_without_runs_the_list_is_empty(tmp_path, capsys):
    assert run(tmp_path, "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"runs": [], "broken": [], "export": None}
