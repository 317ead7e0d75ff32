"""The verb `sweep`: begun, gone on with, shown; and what it refuses before a model is loaded."""

import json
import re

import pytest

from workbench.__main__ import main
from workbench.dataset.formats import load_rows
from workbench.engine import sweeping
from workbench.training.sweep_store import SweepStore

SMALL = ["--set", "training.epochs=1", "--set", "lora.rank=4", "--set", "training.warmup_steps=0", "--folds", "2"]
AXIS = ["--axis", "training.learning_rate=1e-3,1e-2"]


@pytest.fixture
def verb(workspace, capsys, tmp_path):
    """Calls the verb over eight rows; gives its status, what it printed, and its complaint's lines."""
    rows = load_rows(workspace.data_dir / "examples.json")
    data = tmp_path / "rows.jsonl"
    lines = (workspace.data_dir / "examples.json").read_text(encoding="utf-8").splitlines()
    data.write_text("\n".join(lines[i - 1] for i in rows.lines[:8]), encoding="utf-8")

    def call(*options, name="s", given=True):
        status = main(["--root", str(workspace.root), "sweep", "--name", name, *(["--data", str(data)] if given else []), *options])
        said = capsys.readouterr()
        return status, said.out.splitlines(), said.err.splitlines()

    call.data = data
    return call


@pytest.mark.slow
def test_a_sweep_is_run_shown_and_not_run_twice(workspace, verb):
    status, out, err = verb(*AXIS, *SMALL, "--json")
    found = json.loads(out[-1])
    assert (status, found["state"], found["cells"]) == (0, "finished", {"planned": 4, "done": 4, "failed": 0})
    assert [c["label"] for c in found["combinations"]] == ["learning rate 0.001", "learning rate 0.01"]
    assert out[0] == f"s: finished, 4 of 4 cells, 8 rows of rows.jsonl, 2 folds, 1 seed(s), {found['model']}"
    cells = [line for line in err if line.startswith("cell ")]
    assert re.fullmatch(r"cell 1 of 4 \(learning rate 0.001, fold 1\): validation loss \d+\.\d{4}, \d/4 right, \d+\.\d s; .+ left", cells[0])
    assert len(cells) == 4 and not any(line.startswith("step ") for line in err)
    assert any(line.startswith("learning rate 0.01 minus learning rate 0.001: validation loss ") for line in out)

    again, shown, said = verb("--show", given=False)
    assert (again, shown, said) == (0, out[:-1], [])
    assert verb(*AXIS, *SMALL)[0] == 0 and verb(given=False)[0] == 0
    assert len(SweepStore(workspace.root / "sweeps").view("s").lines) == 6  # begun, four cells, ended: nothing was done again


@pytest.mark.slow
def test_a_stopped_sweep_goes_on_under_its_name(workspace, verb, monkeypatch):
    kept = sweeping.run_sweep
    monkeypatch.setattr("workbench.verbs.sweeps.run_sweep", lambda store, name, do, *, stop, heard: kept(store, name, do, stop=lambda: bool(store.view(name).done), heard=heard))
    status, out, err = verb(*AXIS, *SMALL)
    assert (status, err[-1]) == (0, "stopped on request with 1 of 4 cells done; they are kept")
    monkeypatch.undo()
    status, out, err = verb(given=False)
    assert (status, len([line for line in err if line.startswith("cell ")])) == (0, 3)


def test_what_it_was_begun_with_must_be_the_same(workspace, verb, monkeypatch):
    monkeypatch.setattr("workbench.verbs.sweeps._run", lambda space, store, name: sweeping.Ended(state="stopped"))
    assert verb(*AXIS, *SMALL)[0] == 0
    status, _, err = verb(*AXIS, *SMALL, "--seed", "7", "--set", "lora.rank=8")
    assert (status, err) == (2, ["The sweep s was begun with other settings, seed of the folds: take another name, or give what it was begun with."])
    with verb.data.open("a", encoding="utf-8") as stream:
        stream.write('\n{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}')
    assert verb(*AXIS, *SMALL)[2] == ["The sweep s was begun with other rows: take another name, or give what it was begun with."]
    assert verb(*SMALL)[2] == ["To go on with a sweep give its name alone, or all that it was begun with."]


def test_a_failed_sweep_is_exit_1(workspace, verb, monkeypatch):
    monkeypatch.setattr("workbench.verbs.sweeps._run", lambda space, store, name: sweeping.Ended(state="failed", reason="3 cells failed."))
    assert verb(*AXIS, *SMALL) == (1, [], ["3 cells failed. Done are 0 of 4 cells; --show prints them."])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "There is no sweep named s yet: --data and at least one --axis tell what to compare."),
        (["--axis", "lora.rank=8"], "--axis lora.rank: Rank has one value (8): give two or more to compare, separated by commas. It takes a whole number from 1 to 512."),
        (["--axis", "lora.rank=8,16", "--axis", "lora.rank=4,8"], "The axis lora.rank is given twice: put all its values into one --axis."),
        (["--axis", "lora.rank=8,16", "--folds", "9"], "9 folds want at least 9 rows that are not near-duplicates of one another; there are 8 to hold back (of 8 rows)."),
        (["--axis", "lora.rank=8,16", "--max-cells", "9"], "This grid has 10 cells; 9 are allowed. Take fewer values, fewer seeds or fewer folds."),
        (["--axis", "lora.rank=8,16", "--set", "training.max_row_tokens=16"], "rows.jsonl: 8 row(s) can't be learned: line 1, messages: the row has"),
        (["--axis", "lora.rank=8,16", "--model", "./nowhere"], "nowhere"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_no_folder(workspace, verb, options, sentence):
    status, out, err = verb(*options)
    assert (status, out, len(err)) == (2, [], 1)
    assert sentence in err[0]
    assert not (workspace.root / "sweeps" / "s").exists()


def test_a_bad_name_and_an_unknown_one(verb):
    assert verb(*AXIS, name="../s")[2][0].startswith("The sweep's name '../s' can't be used")
    assert verb("--show", given=False) == (2, [], ["There is no sweep named s; there are: none yet."])
