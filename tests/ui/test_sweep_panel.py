"""The panel of sweeps: its form, its table, its chart and its verbs, called without a server."""

import json
import re
import threading
from pathlib import Path

import gradio as gr
import pytest

from workbench.errors import BusyError, DataError, RunError, SettingsError
from workbench.settings import all_paths, make_settings
from workbench.training.runs import Owner
from workbench.training.sweep import cells
from workbench.training.sweep_axes import NO_AXES
from workbench.training.sweep_report import METRICS
from workbench.training.sweep_view import Begun, CellDone, CellFailed, Ended
from workbench.ui.forms import FIELDS, form_values
from workbench.ui.train import sweep_form as form
from workbench.ui.train import sweep_panel as panel
from workbench.ui.train.sweep_charts import sweep_chart
from workbench.ui.train.sweep_form import Form
from workbench.ui.train.sweep_table import draw, progress_html
from workbench.ui.words import sweep as words

MODES = ("quantization.mode", "8-bit, 4-bit")
EMPTY = ("", "")


def filled(*lines, name="s", folds=5, shared="", tune=()):
    return Form(name, folds, shared, (*lines, *[EMPTY] * (form.LINES - len(lines))), tune)


def texts(html):
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


@pytest.fixture
def sweep(workspace):
    """A builder of a sweep on the set's rows; `loss(values, fold)` of None leaves a cell undone."""

    def build(loss=lambda values, fold: 1.0 + fold / 10, *lines, name="s", ended="finished"):
        spec, rows = form.read_form(workspace, filled(*(lines or [MODES]), name=name))
        store = workspace.sweeps.store
        store.create(spec, rows)
        for cell in cells(spec):
            if (value := loss(cell.values, cell.fold)) is not None:
                store.append(name, CellDone(
                    values=dict(cell.values), fold=cell.fold, loss=value, train_loss=0.1, call_recall=(6, 7), over_calls=(1, 7), malformed=(0, 14),
                    right=(12, 14), steps=40, seconds=30.0, peak_memory_gib=1.5, device="CPU",
                ))  # fmt: skip
        if ended:
            store.append(name, Ended(state=ended))
        return store.view(name)

    return build


# -- the form --------------------------------------------------------------------------------------


def test_every_setting_that_can_be_compared_is_offered_under_a_name_of_its_own():
    offered = form.setting_choices()
    assert [path for _, path in offered[1:]] == [p for p in all_paths() if p not in NO_AXES]
    assert len({title for title, _ in offered}) == len(offered)


def test_the_form_is_read_in_the_order_of_its_fields():
    read = Form.of("s", 5, None, "lora.rank", "", None, "", "8,16", "", "", "")
    assert read == Form("s", 5, "", (("lora.rank", "8,16"), EMPTY, EMPTY, EMPTY))


def test_a_plan_says_cells_rows_steps_and_that_the_time_is_not_known(workspace):
    notes, plan = form.look(workspace, filled(MODES, ("training.seed", "1,2,3"), name=""))
    assert notes == [""] * 4
    said = texts(plan)
    assert "30 cells: 2 × base weights, 3 × seed, 5 folds" in said
    assert "70 rows; each cell learns from 56 and is measured on 14" in said
    assert "optimizer steps in all 1,200" in said and words.TIME_UNKNOWN in said


def test_the_time_comes_from_measured_cells(workspace, sweep):
    sweep()
    by_sweep = "about 30 s, by 10 measured cells of this model here"
    assert form.time_words(workspace, workspace.model_name, 40) == (words.TIME_UNKNOWN if workspace.has_gpu else by_sweep)
    assert form.time_words(workspace, "another", 40) == words.TIME_UNKNOWN


@pytest.mark.parametrize(
    ("lines", "places"),
    [
        ([("lora.rank", "8,x")], {0: r"Rank: &#x27;x&#x27; can&#x27;t be used. It takes a whole number from 1 to 512"}),
        ([MODES, ("lora.rank", " ")], {1: "Give two or more values, with commas. It takes a whole number from 1 to 512."}),
        ([MODES, ("lora.rank", "8"), MODES], {1: "has one value", 2: words.TWICE}),
        ([("lora.target_modules", "<b>+q_proj, q_proj")], {0: "&lt;b&gt;"}),
    ],
)
def test_what_is_wrong_with_a_line_is_said_beside_it(workspace, lines, places):
    notes, plan = form.look(workspace, filled(*lines))
    assert plan == ""
    assert {i for i, said in enumerate(notes) if said} == set(places)
    assert all(re.search(places[i], notes[i]) for i in places)
    assert "<b>" not in "".join(notes)


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        (filled(), SettingsError, f"^{words.NO_AXES}$"),
        (filled(MODES, name="../x"), RunError, "^The sweep's name '../x' can't be used"),
        (filled(MODES, name=""), RunError, "^The sweep's name '' can't be used"),
        (filled(MODES, folds=None), SettingsError, "^The number of folds is no whole number"),
        (filled(MODES, folds=1), SettingsError, "^The number of folds can't be 1"),
        (filled(MODES, folds=90), DataError, "^90 folds want at least 90 rows"),
        (filled(MODES, shared="gone"), RunError, "^There is no run named gone"),
        (filled(("training.seed", ",".join(map(str, range(200))))), SettingsError, "^This grid has 1,000 cells; 400 are allowed"),
    ],
)
def test_a_form_that_can_t_be_started_is_refused_and_leaves_nothing(workspace, given, error, sentence):
    with pytest.raises(error, match=sentence):
        form.start(workspace, given)
    assert workspace.sweeps.store.names() == []


def only(workspace, count, calls):
    """Leave the set `count` rows, `calls` of which call a tool."""
    from workbench.dataset.changes import Change
    from workbench.dataset.split import stratum

    rows = workspace.rows.read()
    kinds = [[i for i, row in enumerate(rows.rows) if bool(stratum(row)) == calling] for calling in (True, False)]
    kept = {*kinds[0][:calls], *kinds[1][: count - calls]}
    workspace.rows.change(Change(drop=frozenset(range(len(rows.rows))) - kept), rows.version)


def test_a_set_that_a_sweep_can_t_learn_from_is_refused_and_leaves_nothing(workspace):
    only(workspace, 12, 3)
    with pytest.raises(DataError, match=r"^5 folds want at least 5 rows that call a tool, .* there are 3: take 3 folds or fewer, or add such rows"):
        form.start(workspace, filled(MODES))
    assert "there are 3: take 3 folds" in form.look(workspace, filled(MODES))[1]
    only(workspace, 0, 0)
    with pytest.raises(DataError, match="^There is nothing to compare on: examples.json holds no rows. Add rows on the Data tab"):
        form.start(workspace, filled(MODES))
    assert workspace.sweeps.store.names() == []


def test_a_taken_name_is_refused_and_the_sweep_there_stays(workspace, sweep):
    sweep()
    with pytest.raises(RunError, match="^There is a sweep named s already: choose another name, or go on with that one.$"):
        form.start(workspace, filled(MODES, name="s"))
    assert len(workspace.sweeps.store.view("s").done) == 10


def test_broken_rows_are_told_before(workspace):
    with workspace.rows.path.open("a", encoding="utf-8") as stream:
        stream.write("{broken\n")
    with pytest.raises(DataError, match=r"^1 line\(s\) of examples.json can't be used"):
        form.start(workspace, filled(MODES))


def test_all_else_can_be_as_in_a_run(workspace):
    settings = make_settings({"training": {"epochs": 3, "seed": 7}})
    workspace.create_run("r", workspace.rows.read().rows, settings, data_name="examples.json")
    spec, _ = form.read_form(workspace, filled(MODES, shared="r"))
    assert (spec.settings.training.epochs, spec.seed) == (3, 7)


def test_all_else_can_be_as_in_a_preset_or_in_the_tune_form(workspace):
    own = make_settings({"lora": {"rank": 4}, "training": {"epochs": 7, "seed": 9}})
    workspace.presets.save("mine", own)
    offered = dict(form.shared_choices(workspace))
    assert [offered[words.DEFAULTS], offered[words.TUNE_NOW]] == ["", form.TUNE] and "preset:mine" in offered.values()
    spec, _ = form.read_form(workspace, filled(MODES, shared="preset:mine"))
    assert (spec.settings, spec.seed) == (own, 9)
    spec, _ = form.read_form(workspace, filled(MODES, shared=offered["preset: Second article"]))
    assert (spec.settings.training.epochs, spec.settings.lora.target_modules) == (3, ("q_proj", "k_proj", "v_proj", "o_proj"))
    values = form_values(own)
    assert form.read_form(workspace, filled(MODES, shared=form.TUNE, tune=values))[0].settings == own
    values[FIELDS.index(("lora", "rank"))] = "x"
    with pytest.raises(SettingsError, match="^The Tune form can't be used. Rank.* can't be "):
        form.start(workspace, filled(MODES, shared=form.TUNE, tune=values))
    with pytest.raises(SettingsError, match="^There is no preset named gone"):
        form.start(workspace, filled(MODES, shared="preset:gone"))
    read = Form.of("s", 5, form.TUNE, *["", "", "", ""], *["", "", "", ""], *values)
    assert read.tune == tuple(values)


class Held:
    """An engine whose jobs end when the test says so."""

    def __init__(self):
        self.tickets, self.asked, self.before, self.slow = [], threading.Event(), [], False

    def submit(self, job, label):
        from workbench.engine.client import Ticket

        ticket = Ticket(1, job, label, progress="step 3 of 40", share=0.5, begun=None if self.before else 1.0)
        self.tickets.append(ticket)
        self.asked.set()
        return ticket

    def queue(self):
        return (*self.before, *self.tickets)

    def stop(self, ticket):
        ticket.stop_asked, ticket.result = True, {"stopped": True}
        if not self.slow:
            ticket.finished.set()


@pytest.fixture
def engine(workspace):
    held = Held()
    vars(workspace.sweeps)["_engine"] = lambda: held
    yield held
    held.slow = False
    for ticket in held.tickets:
        held.stop(ticket)
    assert workspace.sweeps.join(10)


def test_a_sweep_is_started_shown_stopped_and_gone_on_with(workspace, engine):
    assert form.suggest_name(workspace) == "sweep-1"
    form.start(workspace, filled(MODES, name="sweep-1"))
    assert engine.asked.wait(10) and form.suggest_name(workspace) == "sweep-2"
    with pytest.raises(RunError, match="^The sweep sweep-1 is still going on"):
        form.start(workspace, filled(MODES, name="b"))
    with pytest.raises(BusyError, match="^The sweep sweep-1 is still going on"):
        panel.resume(workspace, "sweep-1")
    with pytest.raises(RunError, match="^The sweep sweep-1 is still going on"):
        panel.delete(workspace, "sweep-1")
    chooser, progress, halt, go_on, drop, *_, seen = panel.refresh(workspace, None, "loss", None, {})
    assert (chooser.value, halt.interactive, go_on.visible, drop.interactive, seen["state"]) == ("sweep-1", True, False, False, "running")
    assert "sweep-1 running 0 of 10 cells step 3 of 40 time left: known after the first cell" in texts(progress)
    assert not workspace.sweeps.stopping
    engine.slow = True
    assert panel.stop(workspace, "sweep-1") == words.stopping("sweep-1")
    _, progress, halt, *_, seen = panel.refresh(workspace, "sweep-1", "loss", None, seen)
    assert (halt.interactive, workspace.sweeps.stopping) == (False, True) and "sweep-1 stopping 0 of 10 cells" in texts(progress)
    engine.tickets[0].finished.set()
    assert workspace.sweeps.join(10) and not workspace.sweeps.stopping
    values = panel.refresh(workspace, "sweep-1", "loss", None, seen)
    assert (values[2].interactive, values[3].visible, values[3].interactive, values[4].interactive) == (False, True, True, True)
    assert "Stopped on request with 0 of 10 cells done; they are kept." in texts(values[1])
    engine.asked.clear()
    engine.slow = False
    assert panel.resume(workspace, "sweep-1") == "The sweep sweep-1 goes on: 10 cells are left."
    assert engine.asked.wait(10)


def test_a_sweep_behind_another_job_says_for_whom_it_waits(workspace, engine):
    from workbench.engine.client import Ticket

    engine.before = [Ticket(9, None, "training run <b>", begun=1.0)]
    form.start(workspace, filled(MODES, name="w"))
    assert engine.asked.wait(10)
    shown = panel.refresh(workspace, "w", "loss", None, {})[1]
    assert "w running 0 of 10 cells waiting for its turn time left" in texts(shown)
    assert "Training run &lt;b&gt; has the engine; this sweep goes on when it has ended." in texts(shown)
    engine.before.append(Ticket(10, None, "an answer"))
    assert "Training run &lt;b&gt; has the engine, and 1 more stand before this sweep." in texts(progress_html(workspace.sweeps, workspace.sweeps.store.view("w")))
    engine.tickets[0].begun = 1.0
    assert "has the engine" not in progress_html(workspace.sweeps, workspace.sweeps.store.view("w"))


def test_a_sweep_that_another_process_runs_says_so(workspace, sweep):
    sweep(ended="")
    workspace.sweeps.store.append("s", Begun(owner=Owner.this_process()))
    assert words.ELSEWHERE in panel.refresh(workspace, "s", "loss", None, {})[1]


# -- what is shown ---------------------------------------------------------------------------------


def test_an_empty_workbench_invites(workspace):
    _, progress, halt, go_on, drop, table, *_, answer, as_csv, as_json, choices, _ = panel.refresh(workspace, None, "loss", None, {})
    assert (answer, as_csv.interactive, as_json.interactive, choices.visible) == ("", False, False, False)
    assert (texts(progress), table, halt.interactive, go_on.visible, drop.interactive) == (words.EMPTY, "", False, False, False)
    assert "engine" not in vars(workspace)  # looking starts nothing


def test_nothing_new_is_nothing_drawn_and_no_file_read(workspace, sweep, monkeypatch):
    sweep()
    first = panel.refresh(workspace, "s", "loss", None, {})
    axis, seen = first[6].value, first[-1]
    monkeypatch.setattr(workspace.sweeps.store, "view", lambda name: pytest.fail("it was read again"))
    assert panel.refresh(workspace, "s", "loss", axis, seen) == [gr.skip()] * 14
    monkeypatch.undo()
    workspace.sweeps.store.append("s", Ended(state="stopped", reason="x"))
    assert panel.refresh(workspace, "s", "loss", axis, seen)[1] != gr.skip()
    assert panel.refresh(workspace, "s", "right", axis, seen)[7] != gr.skip()


def test_what_a_cell_took_is_told_without_an_interval(workspace, sweep):
    line = re.findall(r"<tr>.*?</tr>", draw(workspace, sweep(), METRICS["loss"], "quantization.mode").table)[1]
    assert texts(line).endswith("0/70 0.0 % [0.0, 5.2] 30.0 1.50")


def test_while_it_runs_only_the_progress_is_drawn_anew(workspace, sweep):
    sweep(ended="")
    workspace.sweeps.store.append("s", Begun(owner=Owner.this_process()))
    first = panel.refresh(workspace, "s", "loss", None, {})
    again = panel.refresh(workspace, "s", "loss", first[6].value, first[-1])
    assert [i for i, value in enumerate(again) if value != gr.skip()] == [1]


def test_the_end_is_told_once_and_nothing_new_is_no_end(workspace, sweep):
    seen = {"state": "running"}
    assert panel.has_ended(seen, {"state": "finished"}) and panel.has_ended(seen, {"state": None})
    assert not panel.has_ended(seen, {"state": "running"}) and not panel.has_ended({"state": "finished"}, {"state": "stopped"})
    assert not panel.has_ended(seen, gr.skip())


def test_the_table_has_a_line_for_each_combination_and_marks_the_best(workspace, sweep):
    view = sweep(lambda values, fold: 1 + fold / 10 + (0.5 + fold / 100 if values["quantization.mode"] == "4-bit" else 0))
    drawn = draw(workspace, view, METRICS["loss"], "quantization.mode")
    lines = [texts(line) for line in re.findall(r"<tr>.*?</tr>", drawn.table)]
    assert len(lines) == 3
    assert lines[1].startswith("8-bit 5 / 5 1.200 best [") and lines[2].startswith("4-bit 5 / 5 1.720 [")
    assert "30/35 85.7 % [70.6, 93.7]" in lines[1]
    assert texts(drawn.answer) == (
        "Which is better, 8-bit or 4-bit? It is 8-bit in validation loss; no difference is shown in call recall, over-call rate or right decisions."
    )
    said = "In validation loss 8-bit is better than 4-bit: lower by 0.520 on average, and with 95 % confidence by 0.491 to 0.549 (5 pairs of cells)."
    assert said in texts(drawn.sentences) and texts(words.READING) in texts(drawn.sentences)
    assert words.ROWS_CHANGED not in drawn.table


def test_without_a_shown_difference_nothing_is_best(workspace, sweep):
    drawn = draw(workspace, sweep(), METRICS["loss"], "quantization.mode")
    assert ">best<" not in drawn.table
    assert "8-bit and 4-bit have exactly the same validation loss in all 5 pairs of cells." in texts(drawn.sentences)
    assert texts(drawn.answer).endswith("5 pairs of cells show only large differences: more folds or seeds tell more.")


def test_rows_that_changed_since_are_told(workspace, sweep):
    from workbench.dataset.changes import Change

    view = sweep()
    workspace.rows.change(Change(drop=frozenset({0})), workspace.rows.read().version)
    assert words.ROWS_CHANGED in draw(workspace, view, METRICS["loss"], "quantization.mode").table


def test_failures_and_odd_text_are_told_and_escaped(workspace, sweep):
    view = sweep(lambda values, fold: None if fold == 0 else 1.0, ended="")
    for cell in (c for c in view.cells if c.fold == 0):
        workspace.sweeps.store.append("s", CellFailed(values=dict(cell.values), fold=0, reason="<script>x</script>", kind="k"))
    workspace.sweeps.store.append("s", Ended(state="failed", reason="<img src=x>"))
    view = workspace.sweeps.store.view("s")
    html = progress_html(workspace.sweeps, view) + draw(workspace, view, METRICS["loss"], "quantization.mode").table
    assert "<script>" not in html and "<img" not in html
    assert "2 failed: &lt;script&gt;" in html and "1 failed" in html


def test_a_broken_sweep_is_told_in_its_place(workspace, sweep):
    view = sweep()
    (view.folder / "sweep.json").write_text("{")
    assert "The file s/sweep.json is broken" in panel.refresh(workspace, "s", "loss", None, {})[1]


def test_a_sweep_over_seeds_alone_compares_nothing(workspace, sweep):
    view = sweep(lambda values, fold: 1.0, ("training.seed", "1,2"))
    values = panel.refresh(workspace, "s", "loss", None, {})
    assert (values[6].value, values[6].choices) == (None, [])
    assert words.ONE_ONLY in values[9]
    assert [t.name for t in sweep_chart(view, METRICS["loss"], None).data if t.error_y.array is not None] == ["all cells"]


def test_the_chart_has_a_trace_for_each_value_with_its_interval(workspace, sweep):
    view = sweep(lambda values, fold: fold + 1.0, MODES, ("lora.rank", "8,16"))
    figure = sweep_chart(view, METRICS["loss"], "quantization.mode")
    means = [t for t in figure.data if t.error_y.array is not None]
    assert [t.name for t in means] == ["8-bit", "4-bit"]
    assert [list(t.y) for t in means] == [[3.0, 3.0]] * 2
    half = 2.7764451 * (2.5 * (1 / 5 + 1 / 4)) ** 0.5
    assert list(means[0].error_y.array) == [pytest.approx(half)] * 2
    assert list(figure.layout.xaxis.ticktext) == ["rank 8", "rank 16"]
    assert means[0].x[0] < 0 < means[1].x[0] < 0.5
    dots = [t for t in figure.data if t.showlegend is False]
    assert sorted(dots[0].y) == [1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 5.0, 5.0]
    rates = sweep_chart(view, METRICS["call_recall"], "lora.rank")
    assert [round(t.y[0], 1) for t in rates.data if t.error_y.array is not None] == [85.7, 85.7]


def test_deleting_says_how_to_undo_it(workspace, sweep):
    sweep()
    assert panel.delete(workspace, "s") == "The sweep s was deleted. “Bring back s” undoes it."
    with pytest.raises(RunError, match=f"^{re.escape(words.NO_SWEEP)}$"):
        panel.delete(workspace, "s")
    assert panel.bring_back(workspace, "s") == "The sweep s is back."
    with pytest.raises(RunError, match=f"^{re.escape(words.NOTHING_DELETED)}$"):
        panel.bring_back(workspace, "")


def test_files_to_take_away(workspace, sweep):
    sweep()
    table, whole = Path(panel.export(workspace, "s", "csv")), Path(panel.export(workspace, "s", "json"))
    assert (table.name, len(table.read_text().splitlines())) == ("s.csv", 11)
    assert json.loads(whole.read_text())["cells"] == {"planned": 10, "done": 10, "failed": 0}
    with pytest.raises(RunError):
        panel.export(workspace, None, "csv")


def test_the_panel_is_built(workspace):
    with gr.Blocks() as page:
        timer, watched = gr.Timer(1.0), gr.State("sweep")
        with gr.Tabs(), gr.Tab("Sweep") as tab:
            wire = panel.build(workspace, tab, timer, current=watched)
            wire([])
    ids = {getattr(block, "elem_id", None) for block in page.blocks.values()}
    assert {"sweep-start", "sweep-table", "sweep-chart", "sweep-axis-3", "sweep-values-3", "sweep-resume"} <= ids
