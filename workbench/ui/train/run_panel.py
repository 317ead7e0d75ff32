"""The panel of one run: its chart, what it says now, its story, and the buttons that stop it, resume it or start it smaller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
import plotly.graph_objects as go

from workbench.dataset.formats import load_rows, refuse_problems
from workbench.engine.messages import TrainJob
from workbench.errors import RunError, WorkbenchError, sentence_case
from workbench.training.runs import RunView
from workbench.training.shelf import free_name
from workbench.ui import words as common
from workbench.ui.errors import shown
from workbench.ui.highlight import empty, note
from workbench.ui.quiet import QUIET
from workbench.ui.train import live_plot
from workbench.ui.train.live_plot import pushed
from workbench.ui.train.run_charts import SMOOTHING, run_chart
from workbench.ui.train.showing import epoch_choices, facts_html, freeing_html, log_html, progress_html, says_html, smaller_of
from workbench.ui.words import train as words
from workbench.workspace import Workspace


@dataclass(frozen=True)
class Look:
    """How a page wants the chart and the answers: which chart, log scale, smoothing by its word, the step whose answers are shown (-1: newest)."""

    kind: str = "loss"
    log: bool = False
    smoothing: str = words.SMOOTH_OFF
    step: int = -1


@dataclass(frozen=True)
class Picture:
    """What the panel shows; `gr.skip()` where it is as the page has it already. `seen` is what the page has then.

    `chart` is a run's first figure, `push` each later one.
    """

    chooser: Any
    progress: Any
    chart: Any
    push: Any
    says: Any
    epochs: Any
    facts: Any
    log: Any
    stop: Any
    resume: Any
    smaller: Any
    message: Any
    seen: Any

    def values(self) -> list[Any]:
        return list(vars(self).values())


# -- verbs -----------------------------------------------------------------------------------------


def stop_run(space: Workspace) -> str:
    """Ask the run in hand to stop, or take a waiting one back; raises `RunError` if there is none."""
    ticket = space.engine.training()
    if ticket is None:
        raise RunError(words.NOTHING_TO_STOP)
    space.engine.stop(ticket)
    return (words.TAKEN_BACK if ticket.begun is None else words.STOP_TOLD).format(label=sentence_case(ticket.label))


def resume_run(space: Workspace, name: str | None) -> str:
    """Go on with a run from its checkpoint; raises `WorkbenchError` where that can't be."""
    view = _idle_view(space, name)
    if not view.resumable:
        raise RunError(words.NOT_RESUMABLE.format(name=view.info.name))
    space.jobs.resume_training(view.info.name)
    holder = space.engine.status().holder
    others = holder is not None and not isinstance(holder.job, TrainJob)
    return (words.RESUME_WAITS if others else words.RESUMING).format(name=view.info.name)


def start_smaller(space: Workspace, name: str | None) -> tuple[str, str]:
    """Start a run on the same rows with the next smaller settings: its name and what was done. Raises `WorkbenchError`."""
    view = _idle_view(space, name)
    smaller = smaller_of(space, view)
    if smaller is None:
        raise RunError(words.NO_SMALLER)
    info, (settings, what) = view.info, smaller
    loaded = load_rows(view.folder / "rows.jsonl")
    refuse_problems(loaded.problems, f"{view.folder.name}/rows.jsonl")
    made = space.jobs.begin_run(free_name(space.runs, view.folder.name), loaded.rows, settings, data_name=info.data_name, model=info.model)
    return made.name, words.SMALLER_STARTED.format(name=made.name, what=what)


def _idle_view(space: Workspace, name: str | None) -> RunView:
    busy = space.engine.training()
    if busy is not None:
        raise RunError(words.BUSY.format(label=sentence_case(busy.label)))
    if not name:
        raise RunError(words.CHOOSE_RUN)
    return space.runs.view(name)


# -- what the page shows ---------------------------------------------------------------------------


def chosen_run(space: Workspace, wanted: str | None, known_live: str | None, names: list[str]) -> tuple[str | None, str | None]:
    """(the run to show, the run that is live): a run that has just begun, here or in another browser, is shown."""
    ticket = space.engine.training()
    live = getattr(ticket.job, "run", None) if ticket else None
    if live is not None and live != known_live:
        return live, live
    if wanted not in names:
        wanted = live or newest(space, names)
    return wanted, live


def newest(space: Workspace, names: list[str]) -> str | None:
    """The newest run that can be read; a broken one only where all are."""
    for name in names:
        try:
            space.runs.info(name)
        except WorkbenchError:
            continue
        return name
    return names[0] if names else None


def refresh(space: Workspace, wanted: str | None, look: Look, seen: dict[str, Any]) -> Picture:
    """What the page shows now. `seen` remembers what it shows already, so that nothing is drawn twice."""
    names = space.runs.names()
    name, live = chosen_run(space, wanted, seen.get("live"), names)
    now: dict[str, Any] = {"live": live}

    def fresh(part: str, stamp: Any, make: Callable[[], Any]) -> Any:
        """The part, drawn anew if the page has it by another stamp."""
        now[part] = stamp
        return make() if seen.get(part, _NEVER) != stamp else gr.skip()

    chooser = fresh("chooser", (name, names), lambda: gr.Dropdown(choices=names, value=name))
    ticket = space.engine.training()
    now["begun"] = ticket is not None and ticket.begun is not None
    over = "" if seen.get("begun") and not live else gr.skip()  # "it stops" is no longer true once it has
    stop = fresh("stop", live is not None, lambda: gr.Button(interactive=live is not None))
    try:
        view = space.runs.view(name) if name is not None else None
    except WorkbenchError as exc:
        progress = note(str(exc), "bad")
        view = None
    else:
        progress = empty(common.TRAIN_EMPTY) if view is None else progress_html(space, view)
    progress += freeing_html(space)
    head = fresh("progress", progress, lambda: progress)
    if view is None:
        blank = [fresh(part, name, lambda: "") for part in ("says", "facts", "log")]
        hidden = [fresh(part, None, lambda: gr.Button(visible=False)) for part in ("resume", "smaller")]
        chart = fresh("plot", None, lambda: None)
        epochs = fresh("epochs", None, lambda: gr.Dropdown(choices=[(words.NEWEST, -1)], value=-1))
        return Picture(chooser, head, chart, gr.skip(), blank[0], epochs, blank[1], blank[2], stop, hidden[0], hidden[1], over, now)
    return _drawn(space, view, look, fresh, (chooser, head, stop, over), now, seen)


_NEVER = object()


def _drawn(
    space: Workspace, view: RunView, look: Look, fresh: Callable[[str, Any, Callable[[], Any]], Any], ready: tuple[Any, Any, Any, Any], now: dict[str, Any],
    seen: dict[str, Any],
) -> Picture:
    chooser, head, stop, over = ready
    key = (view.folder.name, view.state, len(view.happened))
    step = look.step if seen.get("run") in (None, key[0]) else -1  # another run begins with its newest answers
    now["run"] = key[0]
    samples = view.samples
    smaller = smaller_of(space, view) if now["live"] is None else None
    resumable = now["live"] is None and view.resumable
    first = seen.get("plot", _NEVER) != key[0]
    now["plot"] = key[0]
    figure = fresh(
        "chart", (*key, look.kind, look.log, look.smoothing), lambda: run_chart(view, look.kind, log=look.log, smoothing=SMOOTHING.get(look.smoothing, 0.0))
    )
    return Picture(
        chooser, head,
        chart=figure if first else gr.skip(), push=pushed(figure) if not first and isinstance(figure, go.Figure) else gr.skip(),
        says=fresh("says", (key[0], len(samples), step, view.started is None), lambda: says_html(view, step)),
        epochs=fresh("epochs", (key[0], len(samples)), lambda: gr.Dropdown(choices=epoch_choices(view), value=step if any(s.step == step for s in samples) else -1)),
        facts=fresh("facts", key, lambda: facts_html(view)),
        log=fresh("log", key, lambda: log_html(view)),
        stop=stop,
        resume=fresh("resume", resumable, lambda: gr.Button(visible=resumable)),
        smaller=fresh("smaller", smaller[1] if smaller else None, lambda: _smaller_button(smaller)),
        message=over, seen=now,
    )  # fmt: skip


def _smaller_button(smaller: tuple[Any, str] | None) -> gr.Button:
    return gr.Button(f"{words.SMALLER}: {smaller[1]}", visible=True) if smaller else gr.Button(visible=False)


# -- the panel -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunPanel:
    """What the tab needs: `refresh` from the inputs' values, the list of runs, and what the page has drawn."""

    refresh: Callable[..., list[Any]]
    inputs: list[Any]
    outputs: list[Any]
    runs: gr.Dropdown
    seen: gr.State


def build(space: Workspace) -> RunPanel:
    """The panel's components and their wires."""
    seen = gr.State({})
    names = space.runs.names()  # which one is shown is known when the page is opened
    plain: dict[str, Any] = {"show_label": False, "container": False}
    with gr.Row(equal_height=True, elem_classes="wb-runtop"):
        runs = gr.Dropdown(choices=names, value=None, label=words.RUN, scale=3, min_width=240, elem_id="run-choice", allow_custom_value=True, **plain)
        with gr.Column(scale=8, min_width=320):
            progress = gr.HTML(empty(common.TRAIN_EMPTY), elem_id="progress")
        stop = gr.Button(words.STOP, variant="stop", size="sm", scale=2, min_width=200, interactive=False, elem_id="stop-training")
        resume = gr.Button(words.RESUME, variant="primary", size="sm", scale=1, min_width=90, visible=False, elem_id="resume-training")
    smaller = gr.Button(words.SMALLER, variant="primary", size="sm", visible=False, elem_id="start-smaller")
    message = gr.HTML(elem_id="train-message")
    with gr.Row():
        with gr.Column(scale=7, min_width=480):
            with gr.Row(equal_height=True, elem_classes="wb-chartbar"):
                kind = gr.Radio([(title, key) for key, title in words.CHARTS.items()], value="loss", label=words.CHART_KIND, scale=5, min_width=380, elem_id="chart-kind", **plain)
                log_scale = gr.Checkbox(False, label=words.LOG_SCALE, container=False, scale=1, min_width=95, elem_id="chart-log")
                smoothing = gr.Dropdown(list(SMOOTHING), value=words.SMOOTH_OFF, label=words.SMOOTHING, scale=1, min_width=140, elem_id="chart-smoothing", **plain)
            chart = live_plot.build("loss-chart")
        with gr.Column(scale=4, min_width=320):
            with gr.Row(equal_height=True, elem_classes="wb-chartbar"):
                gr.HTML(f'<div class="wb-cardhead">{words.SAYS_TITLE}</div>', elem_classes="wb-tight")
                epochs = gr.Dropdown([(words.NEWEST, -1)], value=-1, label=words.SAYS_WHEN, min_width=130, elem_id="says-epoch", allow_custom_value=True, **plain)
            says = gr.HTML(elem_id="says-now")
    with gr.Row():
        with gr.Column(scale=4, min_width=320):
            figures = gr.HTML(elem_id="run-facts")
        with gr.Column(scale=7, min_width=420):
            gr.HTML(f'<div class="wb-cardhead">{words.SHOW_LOG}</div>', elem_classes="wb-tight")
            log = gr.HTML(elem_id="run-log")

    def redraw(wanted: str | None, chart_kind: str, log_on: bool, smooth: str, step: Any, shown_now: dict[str, Any]) -> list[Any]:
        look = Look(chart_kind, bool(log_on), smooth, step if isinstance(step, int) else -1)
        return refresh(space, wanted, look, shown_now).values()

    inputs = [runs, kind, log_scale, smoothing, epochs, seen]
    outputs = [runs, progress, *chart.outputs, says, epochs, figures, log, stop, resume, smaller, message, seen]
    gr.on([runs.input, kind.input, log_scale.input, smoothing.input, epochs.input], shown(redraw), inputs, outputs, **QUIET)

    def smaller_clicked(wanted: str | None) -> list[Any]:
        try:
            name, said = start_smaller(space, wanted)
        except WorkbenchError as exc:
            return [note(str(exc), "warn"), gr.skip()]
        return [note(said, "ok"), gr.Dropdown(choices=space.runs.names(), value=name)]

    # What a press has done is seen at once, not at the timer's next tick.
    stop.click(shown(lambda: said_by(stop_run, space)), None, message, **QUIET).then(shown(redraw), inputs, outputs, **QUIET)
    resume.click(shown(lambda wanted: said_by(resume_run, space, wanted)), runs, message, **QUIET).then(shown(redraw), inputs, outputs, **QUIET)
    smaller.click(shown(smaller_clicked), runs, [message, runs], **QUIET).then(shown(redraw), inputs, outputs, **QUIET)
    return RunPanel(redraw, inputs, outputs, runs, seen)


def said_by(verb: Callable[..., str], *args: Any) -> str:
    """What a verb says it did, or why it could not."""
    try:
        return note(verb(*args), "ok")
    except WorkbenchError as exc:
        return note(str(exc), "warn")
