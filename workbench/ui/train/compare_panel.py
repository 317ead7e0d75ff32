"""Runs compared: chosen ones drawn over each other, and two of them side by side, in what they were asked and in what they answer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
import plotly.graph_objects as go

from workbench.calls.dialects import DIALECTS, TAG
from workbench.engine.client import Ticket
from workbench.errors import RunError, WorkbenchError
from workbench.training.differences import AnswersDifference, Difference, Pair, answers_difference, settings_difference
from workbench.training.measured import ANSWERS, measured_folder, read_answers
from workbench.training.runs import RunView, run_of
from workbench.ui import words as common
from workbench.ui.chat.cards import brief_reply_html
from workbench.ui.errors import sentence, shown
from workbench.ui.highlight import chip, empty, escape, note, verdict_chip, verdict_of
from workbench.ui.measure_panel import measure
from workbench.ui.quiet import QUIET, STREAM
from workbench.ui.room import Room
from workbench.ui.train import live_plot
from workbench.ui.train.live_plot import pushed
from workbench.ui.train.run_charts import SMOOTHING, overlay_chart
from workbench.ui.words import train as words
from workbench.workspace import Workspace

OVERLAID = 8  # runs in one chart: as many as there are colours that the colour-blind tell apart
LISTED = 100  # cases in the table of answers


@dataclass(frozen=True)
class Look:
    """What a page compares and how, and by `drawn` what it has on the screen already (a stamp by part)."""

    tab: str = "overlay"
    curves: tuple[str, ...] = ("loss", "validation")
    along: str = "epoch"
    log: bool = False
    smoothing: str = words.SMOOTH_OFF
    a: str | None = None
    b: str | None = None
    which: str = "verdict"
    picked: tuple[str, ...] = ()
    drawn: tuple[tuple[str, Any], ...] = ()


# -- what the page shows ---------------------------------------------------------------------------


def two_of(names: Sequence[str], look: Look, picked: Sequence[str]) -> Look:
    """The look with two runs to compare that are still there: the first ticked ones when the ticks have changed."""
    there = [n for n in picked if n in names]
    if tuple(picked) != look.picked and there:
        look = replace(look, a=there[0], b=there[1] if len(there) > 1 else look.b)
    a = look.a if look.a in names else next(iter(there), None) or next(iter(names), None)
    b = look.b if look.b in names and look.b != a else next((n for n in [*there, *names] if n != a), None)
    return replace(look, a=a, b=b, picked=tuple(picked))


def views_of(space: Workspace, names: Sequence[str]) -> list[RunView]:
    """The runs that can be read; one that was deleted meanwhile is left out."""
    found = []
    for name in names:
        try:
            found.append(space.runs.view(name))
        except WorkbenchError:
            continue
    return found


def draw(space: Workspace, look: Look, picked: Sequence[str], names: Sequence[str]) -> list[Any]:
    """The values for `Compare.outputs`: the part of the open tab alone is made, and only if the page has it otherwise.

    `names` are the runs and best adapters that two can be chosen from.
    """
    look = two_of(names, look, picked)
    had, made = dict(look.drawn), dict[str, Any]()
    stamps = dict(had)

    def fresh(part: str, stamp: Any, make: Callable[[], Any]) -> None:
        stamps[part] = stamp
        made[part] = make() if part not in had or had[part] != stamp else gr.skip()

    fresh("a", (tuple(names), look.a), lambda: gr.Dropdown(choices=list(names), value=look.a))
    fresh("b", (tuple(names), look.b), lambda: gr.Dropdown(choices=list(names), value=look.b))
    if look.tab == "overlay":
        views = views_of(space, picked[:OVERLAID])
        stamp = (tuple((v.folder.name, v.state, len(v.happened)) for v in views), look.curves, look.along, look.log, look.smoothing)
        fresh("chart", stamp, lambda: _overlay(views, look))
        first = had.get("plot") != bool(views)  # a plot that stands there is told its new figure
        stamps["plot"] = bool(views)
        if isinstance(made["chart"], go.Figure):
            # Told in any case: of two quick ticks gradio may draw the later figure first, and the earlier one over it.
            made["push"] = pushed(made["chart"])
            made["chart"] = gr.Plot(made["chart"], visible=True) if first else gr.skip()
        fresh("hint", (bool(views), len(picked) > OVERLAID), lambda: _overlay_hint(bool(views), len(picked)))
    elif look.tab == "settings":
        fresh("settings", (look.a, look.b), lambda: settings_html(space, look.a, look.b))
    else:
        stamp = (look.a, look.b, look.which, *(_answers_stamp(space, name) for name in (look.a, look.b)))
        fresh("answers", stamp, lambda: answers_html(space, look.a, look.b, look.which))
        waiting = missing(space, look.a, look.b)
        fresh("measure", bool(waiting), lambda: gr.Button(visible=bool(waiting)))
    parts = [made.get(part, gr.skip()) for part in ("chart", "push", "hint", "a", "b", "settings", "answers", "measure")]
    return [*parts, replace(look, drawn=tuple(stamps.items()))]


def _overlay(views: Sequence[RunView], look: Look) -> Any:
    weight = SMOOTHING.get(look.smoothing, 0.0)
    return overlay_chart(views, look.curves, along=look.along, log=look.log, smoothing=weight) if views else gr.Plot(None, visible=False)


def _overlay_hint(some: bool, count: int) -> str:
    if not some:
        return empty(words.PICK_RUNS)
    return note(words.FIRST_OF.format(count=OVERLAID), "warn") if count > OVERLAID else ""


def _answers_stamp(space: Workspace, name: str | None) -> Any:
    try:
        stat = (measured_folder(space.runs, name or "") / ANSWERS).stat()
        return stat.st_mtime_ns, stat.st_size
    except (OSError, WorkbenchError):
        return None


def settings_html(space: Workspace, a: str | None, b: str | None) -> str:
    """What two runs were asked differently, as a table by the settings' titles."""
    if not a or not b:
        return empty(words.PICK_TWO)
    try:
        found, same = settings_difference(space.runs.info(run_of(a)), space.runs.info(run_of(b)))
    except RunError as exc:
        return note(str(exc), "bad")
    if not found:
        return note(words.SAME_SETTINGS, "ok")
    body = "".join(_setting_line(d) for d in found)
    head = f"<tr><th>{words.SETTING}</th><th>{escape(a)}</th><th>{escape(b)}</th></tr>"
    return f'<table class="wb-runs wb-sides"><thead>{head}</thead><tbody>{body}</tbody></table><div class="wb-dim wb-count">{words.SAME_REST.format(count=same)}</div>'


def _setting_line(found: Difference) -> str:
    return f"<tr><td>{escape(found.title)}</td><td>{escape(found.a)}</td><td>{escape(found.b)}</td></tr>"


def missing(space: Workspace, *adapters: str | None) -> list[str]:
    """Those of the adapters that have no stored answers that can be read."""
    found = []
    for name in dict.fromkeys(n for n in adapters if n):
        try:
            if read_answers(space.runs, name) is None:
                found.append(name)
        except RunError:
            found.append(name)
    return found


def answers_html(space: Workspace, a: str | None, b: str | None, which: str) -> str:
    """What two adapters answer to each case, from their stored answers: by default the cases on which they do something else."""
    if not a or not b:
        return empty(words.PICK_TWO)
    try:
        one, other = read_answers(space.runs, a), read_answers(space.runs, b)
    except RunError as exc:
        return note(str(exc), "warn")
    if one is None or other is None:
        return empty(words.NOT_MEASURED.format(names=" and ".join(dict.fromkeys(n for n, found in ((a, one), (b, other)) if found is None))))
    found = answers_difference(one, other)
    chosen = found.which("reply" if which == "reply" else "all" if which == "all" else "verdict")
    notes = note(words.OTHER_FILES.format(count=len(found.pairs)), "warn") if found.only_a or found.only_b else ""
    if not chosen:
        key = which if which in words.NONE_DIFFER and found.pairs else "all" if not found.pairs else "verdict"
        return notes + _counts(found, a, b) + note(words.NONE_DIFFER[key].format(count=len(found.pairs)), "ok" if found.pairs else "warn")
    head = f"<tr><th>{words.CASE}</th><th>{escape(a)}</th><th>{escape(b)}</th></tr>"
    body = "".join(_answer_line(pair) for pair in chosen[:LISTED])
    more = f'<div class="wb-dim wb-count">{words.MORE_CASES.format(shown=LISTED, total=len(chosen))}</div>' if len(chosen) > LISTED else ""
    return f'{notes}{_counts(found, a, b)}<table class="wb-runs wb-sides"><thead>{head}</thead><tbody>{body}</tbody></table>{more}'


def _counts(found: AnswersDifference, a: str, b: str) -> str:
    if not found.pairs:
        return ""
    told = [words.RIGHT_OF.format(name=name, right=right, count=len(found.pairs)) for name, right in zip((a, b), found.right, strict=True)]
    return f'<div class="wb-dim">{escape(" · ".join(told))}</div>'


def _answer_line(pair: Pair) -> str:
    wants = chip(words.SHOULD_CALL, "call") if pair.a.should_call else chip(words.SHOULD_TEXT, "text")
    cells = "".join(
        f"<td>{brief_reply_html(side.reply, DIALECTS.get(side.dialect, TAG)) if side.reply.strip() else words.NO_REPLY}"
        f'<div class="wb-foot">{verdict_chip(verdict_of(side.reply, DIALECTS.get(side.dialect, TAG)))}<span class="wb-judged {"ok" if side.right else "bad"}">'
        f"{words.RIGHT if side.right else words.WRONG}</span></div></td>"
        for side in (pair.a, pair.b)
    )
    return f'<tr><td><div class="wb-ask">{escape(pair.a.prompt)}</div>{wants}</td>{cells}</tr>'


def measure_missing(space: Workspace, a: str | None, b: str | None, begun: Callable[[Ticket], None]) -> Generator[str, None, None]:
    """Measure those of the two that have no stored answers, one after the other; yields how it goes. Raises `WorkbenchError`."""
    waiting = missing(space, a, b)
    if not waiting:
        raise RunError(words.ALL_MEASURED if a and b else words.PICK_TWO)
    adapters = space.adapters()
    for name in waiting:
        if name not in adapters:
            raise RunError(words.NO_ADAPTER.format(name=name))
    for name in waiting:
        yield from measure(space, name, adapted=True, begun=begun)


# -- the panel -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compare:
    """What the panel of runs needs of this one: `known` holds its `Look`, `outputs` are what `refresh` fills."""

    known: gr.State
    outputs: list[Any]
    refresh: Callable[..., list[Any]]
    wire: Callable[[gr.State], None]


def build(space: Workspace, names: Callable[[], list[str]]) -> Compare:
    """The panel's components; `wire` gives them their handlers once the page's ticks are known.

    `names` tells the runs and best adapters that two can be chosen from.
    """
    known = gr.State(Look())
    room = Room()
    plain: dict[str, Any] = {"show_label": False, "container": False}
    with gr.Tabs(selected="overlay", elem_id="compare-tabs"):
        with gr.Tab(words.COMPARE["overlay"], id="overlay") as overlay_tab:
            with gr.Row(equal_height=True, elem_classes="wb-chartbar"):
                curves = gr.CheckboxGroup(list(words.CURVES), value=list(Look().curves), label=words.CURVES_LABEL, scale=3, min_width=330, elem_id="overlay-curves", **plain)
                along = gr.Radio(list(words.ALONG), value=Look().along, label=words.ALONG_LABEL, scale=1, min_width=165, elem_id="overlay-along", **plain)
                log = gr.Checkbox(False, label=words.LOG_SCALE, container=False, scale=1, min_width=95, elem_id="overlay-log")
                smoothing = gr.Dropdown(list(SMOOTHING), value=words.SMOOTH_OFF, label=words.SMOOTHING, scale=1, min_width=130, elem_id="overlay-smoothing", **plain)
            hint = gr.HTML(empty(words.PICK_RUNS), elem_id="overlay-hint")
            chart = live_plot.build("overlay-chart", visible=False)
        pair = []
        with gr.Tab(words.COMPARE["settings"], id="settings") as settings_tab:
            with gr.Row(equal_height=True):
                pair.append([_chooser(words.FIRST, "settings-a"), _chooser(words.SECOND, "settings-b")])
            settings = gr.HTML(empty(words.PICK_TWO), elem_id="settings-difference")
        with gr.Tab(words.COMPARE["answers"], id="answers") as answers_tab:
            with gr.Row(equal_height=True):
                pair.append([_chooser(words.FIRST, "answers-a"), _chooser(words.SECOND, "answers-b")])
                which = gr.Radio(list(words.WHICH), value="verdict", label=words.WHICH_LABEL, min_width=260, elem_id="answers-which")
            with gr.Row(equal_height=True, elem_classes="wb-chartbar"):
                measure_it = gr.Button(words.MEASURE, variant="primary", size="sm", visible=False, scale=0, min_width=190, elem_id="answers-measure")
                stop = gr.Button(common.CHAT_STOP, size="sm", visible=False, scale=0, min_width=60, elem_id="answers-stop")
            told = gr.HTML(elem_id="answers-message")
            answers = gr.HTML(empty(words.PICK_TWO), elem_id="answers-difference")
    (a1, b1), (a2, b2) = pair
    outputs = [*chart.outputs, hint, a1, b1, a2, b2, settings, answers, measure_it, known]

    def refresh(picked: Sequence[str], look: Look | None) -> list[Any]:
        chart_now, push_now, hint_now, a, b, *rest = draw(space, look or Look(), tuple(picked), names())
        return [chart_now, push_now, hint_now, a, b, a, b, *rest]

    def wire(query: gr.State) -> None:
        """Give the panel its handlers; `query` is the table's, whose `picked` are the ticked runs."""

        def changing(change: Callable[..., Look]) -> Any:
            return shown(lambda asked, look, *given: refresh(asked.picked, change(look, *given)))

        def wired(event: Any, change: Callable[..., Look], *given: Any) -> None:
            gr.on(event, changing(change), [query, known, *given], outputs, **QUIET)

        for tab, key in ((overlay_tab, "overlay"), (settings_tab, "settings"), (answers_tab, "answers")):
            wired(tab.select, lambda look, key=key: replace(look, tab=key))
        controls = [curves, along, log, smoothing]
        wired([c.input for c in controls], lambda look, c, x, y, w: replace(look, curves=tuple(c or ()), along=x, log=bool(y), smoothing=w), *controls)
        wired(which.input, lambda look, w: replace(look, which=w), which)
        for first, second in pair:
            wired([first.input, second.input], lambda look, a, b: replace(look, a=a, b=b), first, second)

        def measuring(request: gr.Request, asked: Any, look: Look) -> Iterator[list[Any]]:
            key, untouched = f"{request.session_hash}/compare", [gr.skip()] * len(outputs)
            if room.holds(key):
                return
            try:
                for said in measure_missing(space, look.a, look.b, lambda ticket: room.enter(key, ticket)):
                    yield [said, gr.Button(visible=True), *untouched]
                yield ["", gr.Button(visible=False), *refresh(asked.picked, look)]
            except Exception as exc:
                yield [note(sentence(exc), "warn" if isinstance(exc, WorkbenchError) else "bad"), gr.Button(visible=False), *refresh(asked.picked, look)]
            finally:
                room.leave(key)

        def halt(request: gr.Request) -> None:
            ticket = room.tickets.get(f"{request.session_hash}/compare")
            if ticket is not None:
                space.engine.stop(ticket)

        measure_it.click(measuring, [query, known], [told, stop, *outputs], **STREAM)
        stop.click(shown(halt), None, None, **QUIET)

    return Compare(known, outputs, refresh, wire)


def _chooser(label: str, element: str) -> gr.Dropdown:
    # Any value is let through: a choice that no longer stands would block every press.
    return gr.Dropdown([], label=label, min_width=140, elem_id=element, allow_custom_value=True)
