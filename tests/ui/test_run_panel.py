"""One run on the page, from its events alone: chart, answers, story, causes, buttons; nothing drawn twice; nothing of a model's words run."""

import json
import os
import time

import pytest

from workbench.engine.client import Status, Ticket
from workbench.engine.messages import AnswerJob, Holds, LoadJob, TrainJob, UnloadJob
from workbench.errors import BusyError, RunError
from workbench.settings import RunSettings, apply_overrides
from workbench.training import events, run_view
from workbench.training.resuming import State
from workbench.training.run_view import ADAPTER_FILES
from workbench.training.runs import CHECKPOINT, Owner
from workbench.ui import words as common
from workbench.ui.highlight import escape, note
from workbench.ui.train import run_panel, showing
from workbench.ui.train.run_charts import POINTS, overlay_chart, run_chart, smooth, thin
from workbench.ui.train.run_panel import Look
from workbench.ui.train_tab import brought
from workbench.ui.words import engine as said
from workbench.ui.words import train as words
from workbench.workspace import Workspace
from workbench.workspace.jobs import Jobs

CALL = '<tool_call name="get_sensitive_data" arguments="{}"/>'
EVIL = "<img src=x onerror=alert(1)>"
BEGUN = events.Started(
    time=1000.0, total_steps=40, epochs=10, train_rows=63, validation_rows=7, trainable_parameters=1, total_parameters=2, device="CPU, 2 threads"
)  # fmt: skip


def step(number, loss=2.0, use=None):
    return events.Step(
        time=1000.0 + 3 * number, step=number, epoch=number / 4, loss=loss, learning_rate=1e-4, gradient_norm=0.5, tokens=640, labels=160,
        seconds=2.0, memory_gib=1.5, gpu_use=use,
    )  # fmt: skip


def sampled(number, *replies, prompt="Баланс?", expected=CALL, right=0):
    answers = tuple(events.SampleAnswer(prompt=prompt, expected=expected, reply=r, verdict="x", right=r == expected) for r in replies)
    return events.Sampled(time=1000.0 + 3 * number, step=number, epoch=number / 4, right=right, asked=7, answers=answers)


@pytest.fixture
def space(tmp_path):
    """A workbench without a model: what the page shows of a run needs none."""
    made = Workspace(root=tmp_path, model="demo")
    yield made
    made.engine.close()


def create(space, name, *happened, settings=(), dead=False, **more):
    made = apply_overrides(RunSettings(), settings)
    rows = ()
    space.runs.create(name, model="demo", model_name="gemma-3-270m", rows=rows, data_name=more.pop("data_name", "examples.json"), settings=made, **more)
    if dead:
        info = space.runs.info(name).model_copy(update={"owner": Owner(pid=os.getpid(), started=1.0)})
        (space.runs.path(name) / "run.json").write_text(info.model_dump_json(), encoding="utf-8")
    for event in happened:
        space.runs.append(name, event)
    return space.runs.view(name)


def skipped(value) -> bool:
    return isinstance(value, dict) and value.get("__type__") == "update" and set(value) == {"__type__"}


def drawn(picture) -> set[str]:
    return {name for name, value in vars(picture).items() if not skipped(value) and name != "seen"}


# -- the chart -------------------------------------------------------------------------------------


def test_the_chart_shows_losses_calls_and_the_best_adapter(space):
    happened = [BEGUN, step(1, 3.0), sampled(0, "Нет", right=4), step(4, 2.0), events.Validation(step=4, epoch=1.0, loss=2.5), sampled(4, CALL, right=6)]
    view = create(space, "first", *happened, events.Saved(step=4, best=True))
    train, validation, calls, best = run_chart(view).data
    assert (list(train.x), list(train.y)) == ([1, 4], [3.0, 2.0])
    assert (list(validation.x), list(validation.y), validation.marker.symbol) == ([4], [2.5], "diamond")
    assert (list(calls.x), [round(y) for y in calls.y], calls.yaxis) == ([0, 4], [57, 86], "y2")
    assert (list(best.x), list(best.y)) == ([4], [2.5])
    layout = run_chart(view).layout
    assert (layout.yaxis.title.text, layout.yaxis2.title.text, layout.uirevision) == ("loss (nats per token)", "call or text right", "first/loss")
    assert run_chart(view, log=True).layout.yaxis.type == "log"


def test_a_zoom_along_the_steps_outlives_another_scale_and_one_of_the_losses_does_not(space):
    view = create(space, "first", BEGUN, step(1, 3.0), step(2, 2.0))
    plain, logged, smoothed, rate = run_chart(view).layout, run_chart(view, log=True).layout, run_chart(view, smoothing=0.5).layout, run_chart(view, "rate").layout
    assert plain.xaxis.uirevision == logged.xaxis.uirevision == smoothed.xaxis.uirevision == rate.xaxis.uirevision == "first"
    assert plain.yaxis.uirevision == smoothed.yaxis.uirevision
    assert len({plain.yaxis.uirevision, logged.yaxis.uirevision, rate.yaxis.uirevision}) == 3
    over = [overlay_chart([view], ["loss"], log=log, along=along).layout for log, along in ((False, "step"), (True, "step"), (False, "epoch"))]
    assert [o.xaxis.uirevision for o in over] == ["step", "step", "epoch"] and over[0].yaxis.uirevision != over[1].yaxis.uirevision


def test_smoothing_adds_an_average_and_keeps_what_was_measured(space):
    view = create(space, "first", BEGUN, step(1, 4.0), step(2, 2.0))
    measured, averaged, *_ = run_chart(view, smoothing=0.5).data
    assert (list(measured.y), measured.opacity) == ([4.0, 2.0], 0.35)
    assert list(averaged.y) == pytest.approx([4.0, 8 / 3])


def test_the_average_is_free_of_its_start_and_passes_over_what_is_no_number():
    assert smooth([3.0, 3.0, 3.0], 0.9) == pytest.approx([3.0, 3.0, 3.0])
    assert smooth([1.0, None, 2.0], 0.5) == [1.0, None, pytest.approx(5 / 3)]
    assert smooth([], 0.9) == []


def test_a_long_curve_is_thinned_without_losing_a_spike():
    points = [(float(x), 1.0) for x in range(20_000)]
    points[7777], points[7778] = (7777.0, 99.0), (7778.0, None)
    kept = thin(points)
    assert len(kept) <= POINTS
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert (7777.0, 99.0) in kept
    assert [x for x, _ in kept] == sorted({x for x, _ in kept})
    assert thin(points[:10]) == points[:10]


@pytest.mark.parametrize(("kind", "first"), [("rate", 1e-4), ("gradient", 0.5), ("speed", 320.0), ("memory", 1.5), ("nothing known", 2.0)])
def test_the_other_charts(space, kind, first):
    view = create(space, "first", BEGUN, step(1), step(2, use=0.5))
    chart = run_chart(view, kind)
    assert chart.data[0].y[0] == pytest.approx(first)
    if kind == "memory":
        assert (list(chart.data[1].x), list(chart.data[1].y), chart.data[1].yaxis) == ([2], [50.0], "y2")


def test_a_loss_that_is_no_number_leaves_a_gap_and_a_resume_is_marked(space):
    view = create(space, "first", BEGUN, step(1, float("nan")), step(2), events.Resumed(step=2), step(3))
    chart = run_chart(view)
    assert list(chart.data[0].y) == [None, 2.0, 2.0]
    assert [a.text for a in chart.layout.annotations] == ["resumed"]
    assert [s.x0 for s in chart.layout.shapes] == [2]


def test_several_runs_are_told_apart_by_colour_and_mark(space):
    views = [create(space, name, BEGUN, step(1), events.Validation(step=4, epoch=1.0, loss=1.0), sampled(4, CALL, right=7)) for name in ("one", "two")]
    chart = overlay_chart(views, ["loss", "validation", "accuracy"], along="epoch")
    assert [t.name for t in chart.data] == [f"{n} · {c}" for n in ("one", "two") for c in (words.TRAIN_LOSS, words.VALIDATION_LOSS, words.CALL_ACCURACY)]
    assert (list(chart.data[0].x), list(chart.data[1].x), list(chart.data[2].y)) == ([0.25], [1.0], [100.0])
    assert chart.data[1].line.color != chart.data[4].line.color
    assert chart.data[1].marker.symbol != chart.data[4].marker.symbol
    assert list(overlay_chart(views, ["validation"], along="step").data[0].x) == [4]
    assert len(overlay_chart([], ["loss"]).data) == 0


# -- what it says now ------------------------------------------------------------------------------


def test_the_newest_answers_are_shown_and_older_ones_by_their_step(space):
    view = create(space, "first", BEGUN, sampled(0, "Не знаю", right=4), sampled(4, CALL, right=6))
    newest = showing.says_html(view)
    assert "epoch 1" in newest and "6 of 7 validation rows" in newest and 'data-call="get_sensitive_data"' in newest
    assert "✓ right" in newest and "should call" in newest
    before = showing.says_html(view, 0)
    assert "before training" in before and "Не знаю" in before and "✗ wrong" in before
    assert showing.says_html(view, 999) == newest
    assert showing.epoch_choices(view) == [("newest", -1), ("epoch 1", 4), ("before training", 0)]


def test_it_says_when_the_model_called_for_the_first_time(space):
    view = create(space, "never", BEGUN, sampled(0, "Нет"), sampled(4, '<tool_call name="x'))
    assert showing.first_call_words(view) == words.NO_CALL_YET
    view = create(space, "later", BEGUN, sampled(0, "Нет"), sampled(4, "Нет"), sampled(8, CALL), sampled(12, CALL))
    assert showing.first_call_words(view) == "It called for the first time after epoch 2 (step 8)."
    assert showing.first_call_words(create(space, "base", BEGUN, sampled(0, CALL))) == "It called for the first time before any training."
    assert showing.first_call_words(create(space, "texts", BEGUN, sampled(4, CALL, expected="Привет!"))) == ""


def test_without_answers_the_panel_says_why(space):
    assert words.SAYS_NONE in showing.says_html(create(space, "new", BEGUN))
    assert words.SAYS_ENDED in showing.says_html(create(space, "over", BEGUN, events.Ended(state="stopped")))
    assert "does not answer validation rows" in showing.says_html(create(space, "off", BEGUN, settings=["training.sample_every=0"]))
    assert words.SAYS_NOBODY in showing.says_html(create(space, "none", BEGUN.model_copy(update={"validation_rows": 0})))
    assert words.NO_REPLY in showing.says_html(create(space, "mute", BEGUN, sampled(4, "  ")))


# -- state, causes, figures, story -----------------------------------------------------------------


@pytest.mark.parametrize("cause", [cause for cause in words.CAUSES if cause != "early stop"])
def test_each_cause_is_told_with_what_helps(space, cause):
    view = create(space, "first", BEGUN, step(3), events.Ended(state="failed", reason="so it ended.", cause=cause, step=3))
    shown = showing.progress_html(space, view)
    assert "So it ended." in shown
    assert escape(words.CAUSES[cause][1].format(go_on=words.BEGIN_ANEW)) in shown
    (view.folder / CHECKPOINT).mkdir()
    (view.folder / CHECKPOINT / "state.json").write_text("{}")
    assert escape(words.CAUSES[cause][1].format(go_on=words.GO_ON)) in showing.progress_html(space, view)
    assert f"({words.CAUSES[cause][0]}). So it ended." in showing.log_html(view)


def test_an_interrupted_run_says_what_can_be_done(space):
    view = create(space, "gone", BEGUN, step(1), dead=True)
    assert "broke off" in showing.progress_html(space, view) and words.BEGIN_ANEW in showing.progress_html(space, view)
    folder = space.runs.path("gone") / CHECKPOINT
    folder.mkdir()
    (folder / "state.json").write_text("{}")
    assert words.GO_ON in showing.progress_html(space, space.runs.view("gone"))


def test_the_estimate_stands_beside_the_measurement_when_the_run_is_over(space):
    view = create(space, "first", BEGUN, step(1), estimated_gib={"total": 3.3, "weights": 2.0})
    assert showing.estimate_rows(view) == []
    space.runs.append("first", events.Ended(state="finished", peak_memory_gib=3.0))
    assert showing.estimate_rows(space.runs.view("first")) == [(words.ESTIMATE, "3.3 → 3.0 GiB (-9%)")]
    assert showing.estimate_rows(create(space, "old", BEGUN, events.Ended(state="finished", peak_memory_gib=3.0))) == []
    assert showing.estimate_rows(create(space, "odd", BEGUN, events.Ended(state="finished", peak_memory_gib=0.0), estimated_gib={"total": 3.0})) == []


def test_the_story_tells_every_event_but_the_steps(space):
    view = create(
        space, "first", BEGUN, step(1), events.Notice(text="a notice"), events.Validation(step=4, epoch=1.0, loss=2.5), sampled(4, CALL, right=5),
        events.Saved(step=4, best=True), events.Resumed(step=4), events.Ended(state="finished", step=40),
    )  # fmt: skip
    assert showing.told_of(events.Ended(state="stopped", reason="stopped on request after 12 optimizer steps", step=12)) == "stopped on request after 12 optimizer steps"
    left = "stopped after 12 optimizer steps, since the workbench was closed or killed"
    assert showing.told_of(events.Ended(state="stopped", reason=left, step=12)) == left
    lines = showing.log_html(view).split("\n")
    assert [line.split(" ", 1)[1].removesuffix("</div>") for line in lines[1:]] == [
        "resumed after step 4", "adapter saved after step 4, the best so far", f"epoch 1: {words.SAYS_RIGHT.format(right=5, asked=7)}",
        "epoch 1: validation loss 2.5000", "a notice", "started on CPU, 2 threads: 40 optimizer steps over 63 rows",
    ]  # fmt: skip
    assert lines[0].endswith("finished after step 40.")


def test_times_of_a_file_written_by_hand_break_nothing(space):
    view = create(space, "first", BEGUN.model_copy(update={"time": 1e300}), events.Notice(time=float("nan"), text="x"))
    assert "started on" in showing.log_html(view)


def test_nothing_that_a_run_or_a_row_says_is_run(space):
    happened = [
        BEGUN.model_copy(update={"device": EVIL}), step(1), sampled(4, EVIL + CALL, CALL.replace("get_sensitive_data", EVIL), prompt=EVIL, expected=EVIL + CALL),
        events.Notice(text=EVIL), events.Ended(state="failed", reason=EVIL),
    ]  # fmt: skip
    view = create(space, "first", *happened, data_name=EVIL)
    info = view.info.model_copy(update={"name": EVIL, "model_name": EVIL})
    (space.runs.path("first") / "run.json").write_text(info.model_dump_json(), encoding="utf-8")
    view = space.runs.view("first")
    made = [showing.progress_html(space, view), showing.facts_html(view), showing.log_html(view), showing.says_html(view)]
    for text in made:
        assert "<img" not in text and "&lt;img" in text
    assert all("<" not in trace.name for trace in overlay_chart([view], ["loss", "validation", "accuracy"]).data)


# -- what the engine knows more ----------------------------------------------------------------------


class Queue:
    """An engine that holds and queues what the test says."""

    def __init__(self, *jobs):
        self.jobs = [Ticket(k + 1, job, label) for k, (job, label) in enumerate(jobs)]
        self.jobs[0].begun = time.time() - 40
        self.stopped = []

    def queue(self):
        return tuple(self.jobs)

    def training(self):
        return next((t for t in self.jobs if isinstance(t.job, TrainJob)), None)

    def status(self):
        return Status("busy", self.jobs[0], len(self.jobs) - 1, Holds(), "")

    def place(self, ticket):
        return self.jobs.index(ticket)

    def seconds_left(self, ticket):
        return 100.0

    def stop(self, ticket):
        self.stopped.append(ticket)
        ticket.stop_asked = True

    def submit(self, job, label):
        self.jobs.append(Ticket(9, job, label))
        return self.jobs[-1]

    def close(self):
        pass


SWEEP = LoadJob(model="x"), "sweep s1, cell 3 of 18"
FREE = UnloadJob(leave=True), "freeing the memory"


def queued(space, *jobs):
    vars(space)["engine"] = made = Queue(*jobs)
    return made


def resumable(space, name):
    folder = create(space, name, BEGUN, step(1), events.Ended(state="stopped", reason="stopped on request after 1 optimizer steps", seconds=9.0, step=1)).folder / CHECKPOINT
    folder.mkdir()
    state = State(step=1, seconds=9.0, python_random=(), device="cpu", tensors="t", size=1)
    (folder / "t").write_bytes(b"x")
    (folder / "state.json").write_text(state.model_dump_json())


def test_an_early_end_is_told_once_with_what_is_kept(space):
    why = "ended early after optimizer step 6: the last 2 measurements of validation loss (31.758, 34.094) were not better than 12.797 after step 2"
    ended = events.Ended(state="finished", reason=why, cause="early stop", step=6, best_step=2)
    view = create(space, "early", BEGUN, step(1), events.Saved(step=2, best=True), events.Saved(step=6), ended)
    told, better = note("E" + why[1:] + ".", "warn"), "The measurements no longer got better."
    assert showing.outcome_html(space, view) == told + note(better), "the best was not kept"
    best = view.folder / "best"
    best.mkdir()
    for name in ADAPTER_FILES:
        (best / name).write_bytes(b"{}")
    view = space.runs.view("early")
    assert showing.outcome_html(space, view) == told + note(f"{better} The best adapter is kept beside the last: early@best in Chat.")
    assert view.ended is not None and showing.told_of(view.ended) == why


def test_a_run_that_waits_says_who_holds_the_engine_its_place_and_the_ways_out(space):
    view = create(space, "new")
    queued(space, SWEEP, (AnswerJob(turns=(), lanes=()), "an answer"), (TrainJob(run="new"), "training run new"))
    shown = showing.progress_html(space, view)
    why = f"Waiting, number 2 in the queue: sweep s1, cell 3 of 18 holds the engine for 40 s, 1:40 left. {said.TAKE_BACK}"
    assert escape(why) in shown and "waiting for the engine" in shown
    assert escape(why) not in showing.progress_html(space, create(space, "other"))


def test_a_resume_that_waits_is_told_on_the_panel_and_can_be_taken_back(space):
    resumable(space, "old")
    engine = queued(space, SWEEP)
    assert run_panel.resume_run(space, "old") == words.RESUME_WAITS.format(name="old")
    shown = run_panel.refresh(space, "old", Look(), {})
    assert words.RESUME_CHIP in shown.progress and "Waiting, next in the queue: sweep s1" in shown.progress
    assert "stopped on request" not in shown.progress and "took" not in shown.progress
    assert shown.stop.interactive and not shown.resume.visible
    assert run_panel.stop_run(space) == "Training run old was taken back before it began."
    engine.jobs = engine.jobs[:1]
    after = run_panel.refresh(space, "old", Look(), shown.seen)
    assert skipped(after.message) and after.resume.visible and "Stopped on request after 1 optimizer steps" in after.progress


def test_a_stop_is_told_on_the_panel_and_no_time_left_with_it(space):
    view = create(space, "new", BEGUN.model_copy(update={"time": time.time()}), step(1).model_copy(update={"time": time.time()}))
    queued(space, (TrainJob(run="new"), "training run new"))
    assert " left</b>" in showing.progress_html(space, view) and "training</span>" in showing.progress_html(space, view)
    assert run_panel.stop_run(space) == "Training run new was asked to stop: it will end its step and keep the adapter."
    shown = showing.progress_html(space, view)
    assert ">stopping</span>" in shown and words.STOPPING_AFTER in shown and " left</b>" not in shown and ">training<" not in shown
    waits = create_again(space, "new")
    space.engine.training().stop_asked = False
    assert ">starting</span>" in showing.progress_html(space, waits)
    space.engine.training().stop_asked = True
    assert words.STOPPING_SOON in showing.progress_html(space, create_again(space, "new"))


def test_what_the_engine_is_at_is_told_before_the_first_step_unless_it_only_repeats_the_name(space):
    view = create(space, "new", BEGUN)
    queued(space, (TrainJob(run="new"), "training run new"))
    ticket = space.engine.training()
    for told, shown in (("loading the weights", True), ("training new", False)):
        ticket.progress = told
        assert (told in showing.progress_html(space, view)) is shown


def create_again(space, name):
    space.runs.remove(name)
    return create(space, name)


def test_that_the_memory_is_freed_later_is_told_on_the_panel(space):
    create(space, "new", BEGUN, step(1))
    queued(space, (TrainJob(run="new"), "training run new"))
    seen = run_panel.refresh(space, "new", Look(), {})
    assert "memory is freed" not in seen.progress
    space.jobs.unload()
    shown = run_panel.refresh(space, "new", Look(), seen.seen)
    assert escape("is waiting, next in the queue: training run new holds the engine for 40 s, 1:40 left. " + said.FREE_WAYS) in shown.progress


def test_a_run_whose_workbench_was_closed_says_so_and_that_it_ends_by_itself(space, monkeypatch):
    monkeypatch.setattr(run_view, "held_elsewhere", lambda folder: True)
    view = create(space, "first", BEGUN, step(1), dead=True)
    shown = showing.progress_html(space, view)
    assert view.state == "running" and words.ORPHAN_CHIP in shown and words.ORPHANED in shown and "training</span>" not in shown
    space.runs.append("first", events.Ended(state="stopped", reason="x"))
    over = showing.progress_html(space, space.runs.view("first"))
    assert words.ORPHANED not in over and words.ORPHAN_CHIP not in over


def test_a_run_of_another_living_process_says_whose_it_is(space, monkeypatch):
    monkeypatch.setattr(Owner, "is_foreign", lambda self: True)
    view = create(space, "first", BEGUN, step(1))
    assert words.ELSEWHERE.format(pid=os.getpid()) in showing.progress_html(space, view)


# -- the page --------------------------------------------------------------------------------------


def test_nothing_is_drawn_twice(space):
    create(space, "first", BEGUN, step(1), sampled(4, CALL), events.Ended(state="finished", step=1))
    first = run_panel.refresh(space, None, Look(), {})
    assert drawn(first) == {"chooser", "progress", "chart", "says", "epochs", "facts", "log", "stop", "resume", "smaller"}
    again = run_panel.refresh(space, "first", Look(), first.seen)
    assert drawn(again) == set()
    assert drawn(run_panel.refresh(space, "first", Look(kind="rate"), again.seen)) == {"push"}
    assert drawn(run_panel.refresh(space, "first", Look(log=True), again.seen)) == {"push"}
    assert drawn(run_panel.refresh(space, "first", Look(smoothing=words.SMOOTH_MUCH), again.seen)) == {"push"}
    assert drawn(run_panel.refresh(space, "first", Look(step=4), again.seen)) == {"says"}
    space.runs.append("first", events.Notice(text="more"))
    assert drawn(run_panel.refresh(space, "first", Look(), again.seen)) == {"push", "facts", "log"}


def test_new_points_go_into_the_plot_that_stands_there_and_another_run_gets_its_own(space):
    create(space, "one", BEGUN, step(1))
    create(space, "two", BEGUN, step(1), events.Ended(state="finished"))
    first = run_panel.refresh(space, "one", Look(), {})
    assert (len(first.chart.data[0].x), skipped(first.push)) == (1, True)
    space.runs.append("one", step(2, float("nan")))
    second = run_panel.refresh(space, "one", Look(), first.seen)
    told = json.loads(second.push)
    assert (skipped(second.chart), told["data"][0]["x"], told["data"][0]["y"]) == (True, [1, 2], [2.0, None])
    assert told["layout"]["uirevision"] == first.chart.layout.uirevision
    other = run_panel.refresh(space, "two", Look(), second.seen)
    assert (len(other.chart.data[0].x), skipped(other.push)) == (1, True)


def test_another_run_begins_with_its_newest_answers(space):
    for name in ("one", "two"):
        create(space, name, BEGUN, sampled(0, "Нет"), sampled(4, CALL), events.Ended(state="finished"))
    seen = run_panel.refresh(space, "one", Look(step=0), {}).seen
    shown = run_panel.refresh(space, "two", Look(step=0), seen)
    assert shown.epochs.value == -1 and "epoch 1" in shown.says
    kept = run_panel.refresh(space, "two", Look(step=0), shown.seen)
    assert "before training" in kept.says


def test_without_a_run_the_page_invites(space):
    shown = run_panel.refresh(space, None, Look(), {})
    assert common.TRAIN_EMPTY in shown.progress and shown.chart is None and not shown.stop.interactive
    assert drawn(run_panel.refresh(space, None, Look(), shown.seen)) == set()


def test_a_run_that_was_deleted_while_it_was_shown_gives_way_to_the_next(space):
    for age, name in ((100, "old"), (50, "new")):
        create(space, name, BEGUN, events.Ended(state="finished"))
        os.utime(space.runs.path(name) / "run.json", (time.time() - age,) * 2)
    seen = run_panel.refresh(space, "new", Look(), {}).seen
    space.runs.remove("new")
    shown = run_panel.refresh(space, "new", Look(), seen)
    assert (shown.chooser.value, shown.chooser.choices) == ("old", [("old", "old")])
    space.runs.remove("old")
    assert common.TRAIN_EMPTY in run_panel.refresh(space, "old", Look(), shown.seen).progress


@pytest.mark.parametrize("name", ["../../etc", EVIL, "", "nothing"])
def test_a_name_that_no_run_has_shows_the_newest(space, name):
    create(space, "first", BEGUN, events.Ended(state="finished"))
    assert run_panel.refresh(space, name, Look(), {}).chooser.value == "first"


def test_a_broken_run_is_named_and_a_readable_one_shown_first(space):
    create(space, "good", BEGUN, events.Ended(state="finished"))
    create(space, "broken", BEGUN)
    (space.runs.path("broken") / "run.json").write_text("{")
    assert run_panel.refresh(space, None, Look(), {}).chooser.value == "good"
    shown = run_panel.refresh(space, "broken", Look(), {})
    assert "broken/run.json is broken" in shown.progress and not shown.resume.visible


def test_events_cut_in_mid_line_are_shown_as_far_as_they_go(space):
    create(space, "first", BEGUN, step(1))
    with (space.runs.path("first") / "events.jsonl").open("ab") as stream:
        stream.write(b'{"type": "step", "st')
    assert list(run_panel.refresh(space, "first", Look(), {}).chart.data[0].x) == [1]


# -- buttons ---------------------------------------------------------------------------------------


def test_after_an_out_of_memory_a_smaller_run_is_offered_and_made_of_the_same_rows(space, monkeypatch):
    from workbench.dataset.store import make_row

    rows = (make_row("Баланс?", CALL), make_row("Привет", "Привет!"))
    space.create_run("big", rows, apply_overrides(RunSettings(), ["training.checkpointing=false"]), data_name="examples.json")
    for event in (BEGUN, events.Ended(state="failed", cause="memory", reason="The memory ran out.")):
        space.runs.append("big", event)
    monkeypatch.setattr(Workspace, "has_gpu", False)
    begun = []
    monkeypatch.setattr(Jobs, "start_training", lambda self, name: begun.append(name))
    button = run_panel.refresh(space, "big", Look(), {}).smaller
    assert button.visible and "Start again smaller: Gradient checkpointing is turned on" in button.value
    name, said = run_panel.start_smaller(space, "big")
    assert (name, begun) == ("big-2", ["big-2"])
    assert "big-2 was started with the same rows. Gradient checkpointing is turned on" in said
    made = space.runs.info("big-2")
    assert made.settings.training.checkpointing is True
    assert (made.data_sha256, made.data_name) == (space.runs.info("big").data_sha256, "examples.json")


def test_a_smaller_run_that_can_not_be_begun_leaves_no_folder(space, monkeypatch):
    space.create_run("big", (), RunSettings(), data_name="examples.json")
    space.runs.append("big", events.Ended(state="failed", cause="memory", reason="x"))

    def busy(self, name):
        raise BusyError("Another run is going on.")

    monkeypatch.setattr(Jobs, "start_training", busy)
    with pytest.raises(BusyError):
        run_panel.start_smaller(space, "big")
    assert space.runs.names() == ["big"]


@pytest.mark.parametrize("ended", [events.Ended(state="finished"), events.Ended(state="failed", cause="hang", reason="x")])
def test_a_run_that_did_not_run_out_of_memory_is_not_offered_smaller(space, ended):
    create(space, "first", BEGUN, ended)
    assert not run_panel.refresh(space, "first", Look(), {}).smaller.visible
    with pytest.raises(RunError, match="Nothing smaller is left"):
        run_panel.start_smaller(space, "first")


def test_a_run_without_a_checkpoint_is_not_resumed(space):
    create(space, "first", BEGUN, events.Ended(state="stopped", reason="x"))
    with pytest.raises(RunError, match="The run first can't be resumed"):
        run_panel.resume_run(space, "first")
    with pytest.raises(RunError, match="Click a run"):
        run_panel.resume_run(space, None)


def test_a_run_chosen_elsewhere_comes_to_the_front_and_the_panels_own_drawing_does_not(space):
    create(space, "one", BEGUN, events.Ended(state="finished"))
    create(space, "two", BEGUN, events.Ended(state="finished"))
    first = run_panel.refresh(space, None, Look(), {})
    shown = first.chooser.value
    assert all(skipped(value) for value in brought(shown, first.seen))  # a person may be on another panel by now
    other = "two" if shown == "one" else "one"
    for seen in (first.seen, {}):  # chosen on the Tune tab, after and before the panel was drawn
        tabs, panel = brought(other, seen)
        assert (tabs.selected, panel) == ("run", "run")
    (space.runs.path(shown) / "run.json").write_text("{")
    broken = run_panel.refresh(space, shown, Look(), {})
    assert all(skipped(value) for value in brought(shown, broken.seen))
