"""What a sweep compares: its grid, its order, its folder, what its results say. No model."""

import json
import re

import pytest

from workbench.dataset.formats import rows_hash
from workbench.errors import BusyError, DataError, RunError, SettingsError
from workbench.schema import Example, Message, ToolCall
from workbench.settings import RunSettings, make_settings
from workbench.training.runs import Owner
from workbench.training.sweep import Folds, cells, combinations, hours, make_spec, settings_of
from workbench.training.sweep_answer import plain, verdicts
from workbench.training.sweep_axes import axis_values, read_axis, setting_title, setting_words, value_text
from workbench.training.sweep_report import METRICS, as_csv, as_json, best, compare, seconds_per_step, table
from workbench.training.sweep_store import SweepStore
from workbench.training.sweep_view import Begun, CellDone, CellFailed, Ended

PLAIN = RunSettings()
MODES = {"quantization.mode": ("4-bit", "8-bit")}


def row(number: int, tool: str = "", **fields: str) -> Example:
    answer = Message("assistant", "", (ToolCall(tool),)) if tool else Message("assistant", "Да")
    return Example((Message("user", chr(0x4E00 + number) * 3), answer), **fields)


ROWS = tuple(row(i, "look_up" if i % 2 else "") for i in range(20))


def spec_of(name="s", rows=ROWS, axes=MODES, settings=PLAIN, **more):
    return make_spec(name, rows, model="demo", model_name="tiny", data_name="rows.json", data_sha256=rows_hash(rows), settings=settings, axes=axes, **more)


@pytest.fixture
def store(tmp_path):
    return SweepStore(tmp_path / "sweeps")


@pytest.fixture
def sweep(store):
    """A builder of a sweep whose cells have the losses that `loss(values, fold)` gives; None leaves a cell undone."""

    def build(loss, name="s", **more):
        spec, rows = spec_of(name, **more)
        store.create(spec, rows)
        for cell in cells(spec):
            if (value := loss(cell.values, cell.fold)) is not None:
                store.append(name, done(cell, value))
        return store.view(name)

    return build


def done(cell, loss=1.0, **more):
    figures = {
        "loss": loss, "train_loss": 0.5, "call_recall": (2, 2), "over_calls": (0, 2), "malformed": (0, 4), "right": (4, 4),
        "steps": 10, "seconds": 20.0, "peak_memory_gib": 1.5, "device": "CPU",
    }  # fmt: skip
    return CellDone(values=dict(cell.values), fold=cell.fold, **(figures | more))


# -- axes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "text", "values"),
    [
        ("quantization.mode", "4-bit, 8-bit,none", ("4-bit", "8-bit", "none")),
        ("lora.rank", "8,16", (8, 16)),
        ("training.learning_rate", "3e-4, 1e-3", (3e-4, 1e-3)),
        ("training.checkpointing", "true,false", (True, False)),
        ("lora.target_modules", "q_proj+v_proj, q_proj", (["q_proj", "v_proj"], ["q_proj"])),
    ],
)
def test_an_axis_is_read_by_its_settings_type(path, text, values):
    found = axis_values(path, text, PLAIN)
    assert found == values
    assert axis_values(path, ",".join(value_text(v) for v in found), PLAIN) == found


@pytest.mark.parametrize(
    ("path", "text", "sentence"),
    [
        ("lora.rang", "8,16", "^There is no setting lora.rang. The settings are: quantization.mode,"),
        ("", "8,16", r"^There is no setting \(empty\)"),
        ("lora.rank", "8", r"^Rank has one value \(8\): give two or more to compare, separated by commas. It takes a whole number from 1 to 512.$"),
        ("lora.rank", " , ", "^Rank has no value: give two or more"),
        ("lora.rank", "8,0", "^Rank: '0' can't be used. It takes a whole number from 1 to 512.$"),
        ("lora.rank", "8,x", "^Rank: 'x' can't be used"),
        ("lora.rank", "8,16,8", "^Rank names 8 twice"),
        ("training.learning_rate", "1e-3,0.001", "^Learning rate names 0.001 twice"),
        ("quantization.mode", "auto,4-bit", "^Base weights can't be auto in a sweep"),
        ("training.keep_best", "off,validation loss", "^Keep the best by can't be compared in a sweep: every cell"),
        ("training.unreviewed", "all,approved", "^Unreviewed rows can't be compared in a sweep: it decides which rows"),
    ],
)
def test_an_axis_that_can_t_be_is_refused_by_name(path, text, sentence):
    with pytest.raises(SettingsError, match=sentence):
        axis_values(path, text, PLAIN)


def test_the_command_line_s_axis():
    assert read_axis("lora.rank=8,16", PLAIN) == ("lora.rank", (8, 16))
    with pytest.raises(SettingsError, match="^--axis takes group.field=value,value"):
        read_axis("lora.rank", PLAIN)
    with pytest.raises(SettingsError, match=r"^--axis lora.rank: Rank names 8 twice"):
        read_axis("lora.rank=8,8", PLAIN)


# -- the grid --------------------------------------------------------------------------------------


def test_cells_of_equal_quantization_stand_together_and_folds_come_before_other_axes_do():
    axes = {"lora.rank": (8, 16), "training.seed": (1, 2), "quantization.mode": ("8-bit", "4-bit")}
    spec, _ = spec_of(axes=axes, folds=2)
    found = cells(spec)
    assert [c.number for c in found] == list(range(1, 17))
    assert [c.values["quantization.mode"] for c in found] == ["8-bit"] * 8 + ["4-bit"] * 8
    assert [(c.values["training.seed"], c.fold, c.values["lora.rank"]) for c in found[:5]] == [(1, 0, 8), (1, 0, 16), (1, 1, 8), (1, 1, 16), (2, 0, 8)]
    assert len({c.key for c in found}) == 16
    assert combinations(spec) == [{"lora.rank": r, "quantization.mode": m} for r in (8, 16) for m in ("8-bit", "4-bit")]
    assert found[0].words() == "rank 8, seed 1, 8-bit, fold 1"


def test_a_cells_settings_are_the_shared_ones_with_its_values():
    shared = make_settings({"training": {"epochs": 3}})
    spec, _ = spec_of(settings=shared, axes={"lora.rank": (8, 16)})
    made = settings_of(spec, {"lora.rank": 16})
    assert (made.lora.rank, made.training.epochs) == (16, 3)


def test_each_seed_has_folds_of_its_own_and_all_combinations_share_them():
    spec, rows = spec_of(axes=MODES | {"training.seed": (1, 2)}, folds=4)
    folds = Folds(spec, rows)
    by_place = {}
    for cell in cells(spec):
        by_place.setdefault((cell.values["training.seed"], cell.fold), set()).add(tuple(folds.of(cell)[1]))
    assert all(len(found) == 1 for found in by_place.values())
    assert by_place[(1, 0)] != by_place[(2, 0)]
    assert folds.steps(spec) == 16 * 10  # 15 rows to learn: one step an epoch


def test_rows_that_training_leaves_out_are_left_out():
    rows = (*ROWS, row(30, status="rejected"), row(31, source="generated:families"))
    spec, kept = spec_of(rows=rows)
    assert (spec.data_rows, kept) == (20, ROWS)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"name": "../x"}, RunError, r"^The sweep's name '../x' can't be used"),
        ({"axes": {}}, SettingsError, "^A sweep compares settings: give at least one"),
        ({"folds": 1}, SettingsError, "^The number of folds can't be 1"),
        ({"folds": 21}, DataError, r"^21 folds want at least 21 rows .* there are 20 to hold back \(of 20 rows\)"),
        ({"seed": -1}, SettingsError, "^The seed of the folds can't be -1"),
        ({"rows": (row(0, status="rejected"),)}, DataError, "^There is nothing to compare on: none of the 1 rows of rows.json can be learned. Add rows on"),
        ({"rows": ()}, DataError, "^There is nothing to compare on: rows.json holds no rows. Add rows"),
        ({"rows": (*ROWS[::2], row(1, "look_up"))}, DataError, "^5 folds want at least 5 rows that call a tool, .* there is 1: add such rows on"),
        ({"rows": (*ROWS[1::2], *ROWS[:5:2])}, DataError, "^5 folds want at least 5 rows that answer in words, .* there are 3: take 3 folds or fewer, or"),
        ({"axes": MODES | {"lora.dora": (False, True)}}, SettingsError, r"^The grid holds a combination that can't be trained \(8-bit, DoRA on\)\. DoRA does"),
        ({"max_cells": 9}, SettingsError, r"^This grid has 10 cells; 9 are allowed\. Take fewer"),
        ({"max_cells": 9, "seconds_per_step": 6.0}, SettingsError, r"^This grid has 10 cells, about 10 min by what was measured here; 9 are allowed"),
    ],
)
def test_a_sweep_that_can_t_be_is_refused(change, error, sentence):
    with pytest.raises(error, match=sentence):
        spec_of(**change)


def test_words_for_times_and_settings():
    assert [hours(s) for s in (40, 720, 12_600)] == ["40 s", "12 min", "3.5 h"]
    assert [setting_words(*p) for p in (("quantization.mode", "none"), ("lora.rank", 8), ("training.learning_rate", 3e-4))] == ["not quantized", "rank 8", "learning rate 0.0003"]
    assert setting_words("lora.dora", True) == "DoRA on"
    paths = ("training.max_grad_norm", "lora.mlp_rank", "quantization.threshold", "lora.rslora")
    assert [setting_title(p) for p in paths] == ["gradient clip", "MLP: rank", "8-bit outlier threshold", "rsLoRA"]
    assert read_axis("lora.dora=yes,no", make_settings({"quantization": {"mode": "8-bit"}})) == ("lora.dora", (True, False))  # other axes may settle it


# -- the folder ------------------------------------------------------------------------------------


def test_a_sweep_comes_back_from_its_folder_as_it_was(store):
    spec, rows = spec_of(axes=MODES | {"lora.target_modules": (["q_proj"], ["q_proj", "v_proj"])})
    view = store.create(spec, rows)
    assert view.spec == store.spec("s") == spec
    assert store.rows("s") == rows
    assert (view.state, view.left, view.resumable, store.names()) == ("waiting", 20, True, ["s"])
    for cell in cells(spec):
        store.append("s", done(cell))
    assert store.view("s").left == 0


def test_a_taken_name_and_an_unknown_one_are_told(store):
    spec, rows = spec_of()
    store.create(spec, rows)
    with pytest.raises(RunError, match="^There is a sweep named s already"):
        store.create(spec, rows)
    with pytest.raises(RunError, match=r"^There is no sweep named t; there are: s\.$"):
        store.spec("t")
    with pytest.raises(RunError, match="can't be used"):
        store.spec("../s")


def test_a_cut_last_line_costs_that_line_alone(store, sweep):
    view = sweep(lambda values, fold: 1.0 if fold < 2 else None)
    path = view.folder / "results.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"type": "done", "val')
    assert len(store.view("s").done) == 4
    store.append("s", Ended(state="stopped", reason="x"))
    assert path.read_bytes().startswith(whole)
    assert (store.view("s").state, len(store.view("s").done)) == ("stopped", 4)


def test_a_folder_broken_by_hand_is_told(store, sweep):
    view = sweep(lambda values, fold: None)
    (view.folder / "rows.jsonl").write_text((view.folder / "rows.jsonl").read_text().split("\n", 1)[1])
    with pytest.raises(DataError, match="^The file s/rows.jsonl was changed"):
        store.rows("s")
    (view.folder / "sweep.json").write_text("{")
    with pytest.raises(RunError, match="^The file s/sweep.json is broken"):
        store.view("s")
    assert store.views() == []
    store.delete("s")
    assert store.names() == []


def test_the_state_is_that_of_the_last_line_and_of_its_owner(store, sweep):
    sweep(lambda values, fold: None)
    store.begin("s")
    assert store.view("s").state == "running"
    with pytest.raises(BusyError, match="^The sweep s is being run already"):
        store.begin("s")
    store.append("s", Begun(owner=Owner(pid=2**22 + 1, started=0.0)))
    assert (store.view("s").state, store.view("s").resumable) == ("interrupted", True)
    store.append("s", Ended(state="finished"))
    assert store.view("s").state == "finished"


def test_of_two_that_begin_it_at_once_one_is_refused(store, sweep, monkeypatch):
    sweep(lambda values, fold: None)
    other = SweepStore(store.folder)
    told = []

    def meanwhile(name, line):
        with pytest.raises(BusyError) as caught:
            other.begin(name)
        told.append(str(caught.value))
        return SweepStore.append(store, name, line)

    monkeypatch.setattr(store, "append", meanwhile)
    view = store.begin("s")
    assert told == ["The sweep s is being run already: wait for its end, or stop it first."]
    assert [line.type for line in view.lines] == ["begun"]
    assert sorted(path.name for path in view.folder.iterdir()) == ["results.jsonl", "rows.jsonl", "sweep.json"]
    with pytest.raises(RunError, match="^There is no sweep named gone"):
        store.begin("gone")


def test_a_failed_cell_is_no_longer_failed_once_it_is_done(store, sweep):
    view = sweep(lambda values, fold: None)
    cell = view.cells[0]
    store.append("s", CellFailed(values=dict(cell.values), fold=cell.fold, reason="no", kind="k"))
    assert (list(store.view("s").failed), store.view("s").left) == ([cell.key], 10)
    store.append("s", done(cell))
    assert (list(store.view("s").failed), store.view("s").left) == ([], 9)


def test_deleting_can_be_undone_once(store, sweep):
    sweep(lambda values, fold: 1.0)
    store.delete("s")
    assert store.names() == [] and not (store.folder / "s").exists()
    store.bring_back("s")
    assert store.names() == ["s"] and len(store.view("s").done) == 10
    with pytest.raises(RunError, match="^There is no deleted sweep named s"):
        store.bring_back("s")
    store.delete("s")
    sweep(lambda values, fold: None)
    with pytest.raises(RunError, match="^There is another sweep named s now"):
        store.bring_back("s")


def test_a_sweep_that_runs_is_not_deleted(store, sweep):
    sweep(lambda values, fold: None)
    store.begin("s")
    with pytest.raises(RunError, match="^The sweep s is still going on"):
        store.delete("s")


def test_the_time_left_goes_by_cells_of_the_same_settings_where_there_are_any(store):
    spec, rows = spec_of(axes={"training.epochs": (1, 10), "training.seed": (1, 2)}, folds=2)
    store.create(spec, rows)
    first, second, *_ = cells(spec)  # both settings on the first fold of the first seed
    store.append("s", done(first, seconds=5.0))
    assert store.view("s").seconds_left() == 7 * 5.0
    store.append("s", done(second, seconds=50.0))
    assert store.view("s").seconds_left() == 3 * 5.0 + 3 * 50.0


def test_the_time_left_comes_from_the_cells_done(sweep):
    assert sweep(lambda values, fold: 1.0 if fold < 2 else None).seconds_left() == 6 * 20.0
    assert sweep(lambda values, fold: None, name="t").seconds_left() is None


# -- what it says ----------------------------------------------------------------------------------


def test_a_row_for_each_combination_with_its_intervals(sweep):
    view = sweep(lambda values, fold: fold + 1.0 if values["quantization.mode"] == "4-bit" else None)
    first, second = table(view)
    assert (first.label, first.done, first.failed, first.planned) == ("4-bit", 5, 0, 5)
    half = 2.7764451 * (2.5 * (1 / 5 + 1 / 4)) ** 0.5  # the folds share rows: 1 / (folds - 1) on top of 1 / n
    interval = first.intervals["loss"]
    assert (interval.mean, interval.low, interval.high) == (3.0, pytest.approx(3 - half), pytest.approx(3 + half))
    assert first.counts["call_recall"] == (10, 10)
    assert (first.intervals["call_recall"].mean, first.intervals["call_recall"].high) == (1.0, 1.0)
    assert first.intervals["call_recall"].low == pytest.approx(0.7225, abs=1e-4)
    assert (second.done, second.intervals["loss"], second.intervals["call_recall"]) == (0, None, None)


def test_no_interval_of_a_time_or_a_loss_lies_below_zero(sweep):
    found = table(sweep(lambda values, fold: 0.01 + fold * 3 if fold < 2 else None))[0].intervals["loss"]
    assert (found.low, found.mean) == (0.0, pytest.approx(1.51)) and found.high > 15


def test_seeds_are_taken_together_and_add_no_rows(sweep):
    view = sweep(lambda values, fold: 1.0, axes=MODES | {"training.seed": (1, 2, 3)})
    rows = table(view)
    assert [r.label for r in rows] == ["4-bit", "8-bit"]
    assert (rows[0].done, rows[0].counts["call_recall"]) == (15, (30, 30))
    assert rows[0].intervals["call_recall"].low == pytest.approx(0.7225, abs=1e-4)  # of 10 rows, not of 30


@pytest.mark.parametrize(
    ("gap", "sentence", "winner"),
    [
        (lambda fold: -0.5 - fold / 100, "8-bit minus 4-bit: validation loss −0.520 [−0.549, −0.491]: 8-bit is better, shown by these 5 pairs.", "8-bit"),
        (lambda fold: 0.5 + fold / 100, "8-bit minus 4-bit: validation loss +0.520 [+0.491, +0.549]: 4-bit is better, shown by these 5 pairs.", "4-bit"),
        (lambda fold: (fold - 2) / 10, "8-bit minus 4-bit: validation loss 0.000 [−0.294, +0.294]: no difference shown by these 5 pairs.", None),
        (lambda fold: 0.0, "8-bit minus 4-bit: validation loss: the same in all 5 pairs.", None),
    ],
)
def test_two_values_are_compared_fold_by_fold(sweep, gap, sentence, winner):
    view = sweep(lambda values, fold: 1 + fold + (gap(fold) if values["quantization.mode"] == "8-bit" else 0))
    found, = compare(view, "quantization.mode", METRICS["loss"])
    assert (found.sentence(), found.winner) == (sentence, winner)


@pytest.mark.parametrize(
    ("gap", "verdict", "said"),
    [
        (lambda fold: -0.5 - fold / 100, "It is 8-bit in validation loss; no difference is shown in call recall, over-call rate or right decisions.",
         "In validation loss 8-bit is better than 4-bit: lower by 0.520 on average, and with 95 % confidence by 0.491 to 0.549 (5 pairs of cells)."),
        (lambda fold: (fold - 2) / 10 - 0.1, "No difference is shown in validation loss, call recall, over-call rate or right decisions. 5 pairs of cells show only large",
         "In validation loss no difference between 4-bit and 8-bit is shown: 8-bit was lower by 0.100 on average, but anything from lower by 0.394 to "
         "higher by 0.194 fits these 5 pairs of cells (95 % confidence)."),
        (lambda fold: 0.0, "No difference is shown in", "4-bit and 8-bit have exactly the same validation loss in all 5 pairs of cells."),
        (lambda fold: 0.5, "No difference is shown in",
         "In validation loss 8-bit was higher by 0.500 than 4-bit in every one of 5 pairs of cells: too few to rule out chance."),
    ],
)  # fmt: skip
def test_the_answer_in_plain_words(sweep, gap, verdict, said):
    view = sweep(lambda values, fold: 4.0 + (gap(fold) if values["quantization.mode"] == "8-bit" else 0))
    (answer, shown), = verdicts(view, "quantization.mode")
    assert answer.startswith(f"Which is better, 4-bit or 8-bit? {verdict}")
    assert shown == ("8-bit in" in verdict)
    assert plain(compare(view, "quantization.mode", METRICS["loss"])[0]) == said


def test_what_is_not_measured_yet_is_not_answered_yet(sweep):
    view = sweep(lambda values, fold: 1.0 if fold == 0 else None)
    assert verdicts(view, "quantization.mode") == [("Which is better, 4-bit or 8-bit? Not known yet: at least two folds must be measured with both.", False)]
    assert plain(compare(view, "quantization.mode", METRICS["loss"])[0]).endswith("one pair of cells says nothing about chance.")
    half = sweep(lambda values, fold: 1.0 if fold < 3 else None, name="half")
    assert "So far no difference is shown" in verdicts(half, "quantization.mode")[0][0]
    none = sweep(lambda values, fold: None, name="none")
    assert plain(compare(none, "quantization.mode", METRICS["call_recall"])[0]) == "4-bit and 8-bit can't be compared in call recall yet: no fold is measured with both."


def test_either_value_can_win_in_its_own_figure_and_rates_are_told_in_points(store):
    spec, rows = spec_of(folds=6)
    store.create(spec, rows)
    for cell in cells(spec):
        first = cell.values["quantization.mode"] == "4-bit"
        store.append("s", done(cell, loss=1.0 + cell.fold / 100 - 0.5 * first, call_recall=(1 if first else 2, 2)))
    found = store.view("s")
    assert verdicts(found, "quantization.mode") == [
        ("Which is better, 4-bit or 8-bit? It is 4-bit in validation loss; 8-bit in call recall; no difference is shown in over-call rate or right decisions.", True)
    ]
    said = "In call recall 8-bit was higher by 50.0 points than 4-bit in every one of 6 pairs of cells: more than chance."
    assert plain(compare(found, "quantization.mode", METRICS["call_recall"])[0]) == said


def test_few_pairs_are_said_to_be_few(sweep):
    nothing = compare(sweep(lambda values, fold: None), "quantization.mode", METRICS["loss"])[0]
    assert nothing.sentence() == "8-bit minus 4-bit: validation loss: no pair is measured yet."
    one = compare(sweep(lambda values, fold: 1.0 if fold == 0 else None, name="t"), "quantization.mode", METRICS["loss"])[0]
    assert one.sentence() == "8-bit minus 4-bit: validation loss 0.000: one pair tells nothing of chance."


def test_other_axes_are_averaged_and_seeds_make_pairs(store):
    spec, rows = spec_of(axes=MODES | {"lora.rank": (8, 16), "training.seed": (1, 2)}, folds=3)
    store.create(spec, rows)
    for cell in cells(spec):
        bonus = 1 if cell.values["quantization.mode"] == "8-bit" and cell.values["lora.rank"] == 16 else 0
        store.append("s", done(cell, 1.0 + bonus * (1 + cell.fold / 100)))
    view = store.view("s")
    found, = compare(view, "quantization.mode", METRICS["loss"])
    assert (found.difference.interval.n, found.difference.interval.mean) == (6, pytest.approx(0.505))
    assert [c.second for c in compare(view, "lora.rank", METRICS["loss"])] == [16]


def test_rates_are_compared_in_points(store):
    spec, rows = spec_of()
    store.create(spec, rows)
    for cell in cells(spec):
        store.append("s", done(cell, call_recall=(1 + (cell.fold > 0), 2) if cell.values["quantization.mode"] == "8-bit" else (1, 2)))
    found, = compare(store.view("s"), "quantization.mode", METRICS["call_recall"])
    assert found.sentence().startswith("8-bit minus 4-bit: call recall +40.0 points [")


def test_folds_without_calls_are_no_pairs_for_recall(store):
    spec, rows = spec_of()
    store.create(spec, rows)
    for cell in cells(spec):
        store.append("s", done(cell, call_recall=(0, 0) if cell.fold == 0 else (1, 2)))
    assert compare(store.view("s"), "quantization.mode", METRICS["call_recall"])[0].difference.interval.n == 4


def test_the_best_is_named_only_where_it_beats_all_others(sweep):
    apart = {8: 3.0, 16: 1.0, 32: 2.0}
    axes = {"lora.rank": (8, 16, 32)}
    clear = sweep(lambda values, fold: apart[values["lora.rank"]] + fold * values["lora.rank"] / 1000, axes=axes)
    assert best(clear, METRICS["loss"]) == 1
    close = sweep(lambda values, fold: apart[values["lora.rank"]] + (fold if values["lora.rank"] == 32 else 0), name="t", axes=axes)
    assert best(close, METRICS["loss"]) is None
    part = sweep(lambda values, fold: apart[values["lora.rank"]] + fold / 100 if values["lora.rank"] < 32 else None, name="u", axes=axes)
    assert best(part, METRICS["loss"]) is None
    assert best(clear, METRICS["call_recall"]) is None


def test_the_pace_is_that_of_this_model_on_such_a_machine(sweep):
    view = sweep(lambda values, fold: 1.0)
    assert seconds_per_step([view], "tiny", False) == 2.0
    assert seconds_per_step([view], "tiny", True) is None
    assert seconds_per_step([view], "other", False) is None


def test_what_is_taken_away(sweep):
    view = sweep(lambda values, fold: fold + (0.5 if values["quantization.mode"] == "8-bit" else 0.0), axes=MODES)
    found = json.loads(json.dumps(as_json(view)))
    assert found["cells"] == {"planned": 10, "done": 10, "failed": 0}
    assert [c["label"] for c in found["combinations"]] == ["4-bit", "8-bit"]
    assert found["combinations"][0]["call_recall"]["k"] == 10
    assert found["best"]["loss"] is None
    assert len(found["comparisons"]) == len(METRICS) and len(found["results"]) == 10
    lines = as_csv(view).splitlines()
    assert lines[0] == (
        "quantization.mode,fold,loss,train_loss,steps,seconds,peak_memory_gib,device,"
        "call_recall_k,call_recall_n,over_calls_k,over_calls_n,right_k,right_n,malformed_k,malformed_n"
    )
    assert lines[1] == "4-bit,1,0.0,0.5,10,20.0,1.5,CPU,2,2,0,2,4,4,0,4"
    assert len(lines) == 11 and not re.search(r"\binf|nan", as_csv(view))
