"""The panel of sweeps: a grid of settings tried on folds of the rows, compared with intervals.

Everything shown is read from the sweeps' folders, so that a reload or a second browser shows the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from workbench.errors import RunError, WorkbenchError
from workbench.files import write_atomic
from workbench.training.sweep_axes import setting_title
from workbench.training.sweep_report import METRICS, as_csv, as_json
from workbench.ui.downloads import download_folder, fetched
from workbench.ui.errors import shown
from workbench.ui.highlight import empty, note
from workbench.ui.quiet import QUIET
from workbench.ui.train import sweep_form as form
from workbench.ui.train.sweep_charts import sweep_chart
from workbench.ui.train.sweep_form import Form
from workbench.ui.train.sweep_table import draw, progress_html
from workbench.ui.words import sweep as words
from workbench.workspace import Workspace

SHOWN = 13  # values that `refresh` returns besides what it remembers
FORMS = ("csv", "json")


# -- what is shown --------------------------------------------------------------------------------


def refresh(space: Workspace, wanted: str | None, metric: str, axis: str | None, seen: dict[str, Any]) -> list[Any]:
    """What the page shows now. `seen` remembers what it shows already, so that nothing is drawn twice.

    Returns values for: list of sweeps, progress, stop, go on, delete, table, axis, chart, sentences, answer, CSV, JSON, the choices of the chart, `seen`.
    """
    store, live = space.sweeps.store, space.sweeps.running()
    names = store.names()
    if live is not None and live != seen.get("live"):
        wanted = live  # one that has just begun, here or in another browser, is shown
    name = wanted if wanted in names else (live or (names[0] if names else None))
    stopping = space.sweeps.stopping
    key = (name, tuple(names), live, metric, axis, stopping, store.stamp(name) if name else None)
    if seen.get("key") == key and seen.get("state") != "running":
        return [gr.skip()] * (SHOWN + 1)
    now: dict[str, Any] = {"key": key, "live": live, "state": None, "names": names, "shown": name}
    known = (seen.get("shown"), seen.get("names")) == (name, names) and wanted == name
    chooser = gr.skip() if known else gr.Dropdown(choices=names, value=name)
    off, drop = gr.Button(interactive=False), gr.Button(interactive=name is not None and name != live)
    blank = [off, gr.Button(visible=False), drop, "", gr.skip(), gr.Plot(visible=False), "", "", off, off, gr.Row(visible=False), now]
    if name is None:
        return [chooser, empty(words.EMPTY), *blank]
    try:
        view = store.view(name)
    except WorkbenchError as exc:
        return [chooser, note(str(exc), "bad"), *blank]
    now["state"] = view.state
    progress = progress_html(space.sweeps, view)
    if seen.get("key") == key and seen.get("state") == view.state:
        return [gr.skip(), progress, *[gr.skip()] * (SHOWN - 2), gr.skip()]
    axes = view.spec.compared
    chosen = axis if axis in axes else axes[0] if axes else None
    drawn = draw(space, view, METRICS[metric], chosen)
    now["key"] = (*key[:4], chosen, *key[5:])
    chart = gr.Plot(sweep_chart(view, METRICS[metric], chosen), visible=True) if view.done else gr.Plot(visible=False)
    go_on = gr.Button(words.RESUME.format(left=view.left), visible=view.resumable, interactive=live is None)
    return [
        chooser, progress, gr.Button(interactive=live == name and not stopping), go_on, drop, drawn.table,
        gr.Dropdown(choices=[(setting_title(p), p) for p in axes], value=chosen), chart, drawn.sentences if view.done else "", drawn.answer,
        gr.Button(interactive=bool(view.done)), gr.Button(interactive=True), gr.Row(visible=bool(view.done)), now,
    ]  # fmt: skip


def has_ended(seen: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether the sweep that the page saw running no longer does. `now` is the last of `refresh`'s values: gradio's skip where nothing is new."""
    return seen.get("state") == "running" and now.get("state", "running") != "running"


# -- verbs: what was done, in a sentence -----------------------------------------------------------


def stop(space: Workspace, name: str | None) -> str:
    """Ask the sweep to stop; raises `RunError` if it does not go on."""
    space.sweeps.stop(form.check(space, name))
    return words.stopping(name or "")


def resume(space: Workspace, name: str | None) -> str:
    """Go on with a sweep; raises `BusyError` or `RunError`."""
    chosen = form.check(space, name)
    left = space.sweeps.store.view(chosen).left
    space.sweeps.start(chosen)
    return words.going_on(chosen, left)


def delete(space: Workspace, name: str | None) -> str:
    """Put a sweep away; raises `RunError` while it runs."""
    chosen = form.check(space, name)
    space.sweeps.store.delete(chosen)
    return words.deleted(chosen)


def bring_back(space: Workspace, name: str) -> str:
    """Undo the last delete of this page."""
    if not name:
        raise RunError(words.NOTHING_DELETED)
    space.sweeps.store.bring_back(name)
    return words.brought_back(name)


def export(space: Workspace, name: str | None, kind: str) -> str:
    """The sweep as a file to fetch, "csv" or "json"; its path."""
    view = space.sweeps.store.view(form.check(space, name))
    path = download_folder(space) / f"{view.spec.name}.{kind}"
    write_atomic(path, as_csv(view) if kind == "csv" else json.dumps(as_json(view), ensure_ascii=False, indent=1))
    return str(path)


# -- the panel -------------------------------------------------------------------------------------


def build(
    space: Workspace, opened: gr.Tab, timer: gr.Timer, *, current: gr.State, name: str = "sweep", above: gr.Tab | None = None,
) -> Callable[[Sequence[gr.components.Component]], None]:
    """The panel, within the tab that is open.

    `current` holds the id of the panel that the page shows: while it is another than `name` nothing is drawn. `above` is the
    tab that holds this one: the form's choices are read anew when either is opened. The form is wired by what is returned,
    called with the fields of the Tune form (in the order of `FIELDS`) once they are there.
    """
    seen, gone = gr.State({}), gr.State("")
    with gr.Row():
        with gr.Column(scale=3, min_width=330):
            fields, rows, notes, plan, start = _form()
        with gr.Column(scale=8, min_width=560):
            with gr.Row():
                chooser = gr.Dropdown([], label=words.SWEEP, scale=2, min_width=150, elem_id="sweep-choice", allow_custom_value=True)
                with gr.Column(scale=7, min_width=280):
                    progress = gr.HTML(empty(words.EMPTY), elem_id="sweep-progress")
                with gr.Column(scale=3, min_width=180):
                    halt = gr.Button(words.STOP, variant="stop", size="sm", interactive=False, elem_id="sweep-stop")
                    go_on = gr.Button(words.RESUME.format(left=0), variant="primary", size="sm", visible=False, elem_id="sweep-resume")
            message = gr.HTML(elem_id="sweep-message", elem_classes="wb-tight")
            answer = gr.HTML(elem_id="sweep-answer", elem_classes="wb-tight")
            table = gr.HTML(elem_id="sweep-table", elem_classes="wb-tight")
            with gr.Row(equal_height=True, visible=False, elem_id="sweep-choices") as choices:
                metric = gr.Dropdown([(m.title, m.key) for m in METRICS.values()], value="loss", label=words.METRIC, min_width=140, elem_id="sweep-metric")
                axis = gr.Dropdown([], label=words.AXIS, min_width=140, elem_id="sweep-axis", allow_custom_value=True)
            chart = gr.Plot(show_label=False, visible=False, elem_id="sweep-chart")
            sentences = gr.HTML(elem_id="sweep-sentences", elem_classes="wb-tight")
            with gr.Row():
                exports = {
                    kind: gr.Button(title, size="sm", min_width=100, interactive=False, elem_id=f"sweep-{kind}")
                    for kind, title in zip(FORMS, (words.CSV, words.JSON), strict=True)
                }
                drop = gr.Button(words.DELETE, size="sm", variant="stop", min_width=100, interactive=False, elem_id="sweep-delete")
                back = gr.Button(words.BRING_BACK.format(name=""), size="sm", min_width=120, visible=False, elem_id="sweep-back")
                file = gr.DownloadButton(visible="hidden", elem_id="sweep-file")

    looked = [chooser, metric, axis, seen]
    filled = [chooser, progress, halt, go_on, drop, table, axis, chart, sentences, answer, *exports.values(), choices, seen]

    def ticked(tab: str, *values: Any) -> list[Any]:
        if tab != name:
            return [gr.skip()] * (1 + len(filled))
        drawn = refresh(space, *values)
        return ["" if has_ended(values[-1], drawn[-1]) else gr.skip(), *drawn]  # "it was started" is no news once it has ended

    timer.tick(shown(ticked), [current, *looked], [message, *filled], trigger_mode="once", **QUIET)
    opened.select(shown(lambda which, figure, compared, known: refresh(space, which, figure, compared, {})), looked, filled, **QUIET)
    gr.on([chooser.input, metric.input, axis.input], shown(lambda *v: refresh(space, *v)), looked, filled, **QUIET)

    def told(verb: Callable[..., str]) -> Callable[..., list[Any]]:
        """A handler that says what the verb did, or why it could not, and draws what came of it."""

        def run(which: str | None, figure: str, compared: str | None, known: dict[str, Any]) -> list[Any]:
            try:
                said = note(verb(which), "ok")
            except WorkbenchError as exc:
                said = note(str(exc), "warn")
            return [said, *refresh(space, which, figure, compared, known | {"key": None})]

        return shown(run)

    halt.click(told(lambda which: stop(space, which)), looked, [message, *filled], **QUIET)
    go_on.click(told(lambda which: resume(space, which)), looked, [message, *filled], **QUIET)

    def dropped(which: str | None, figure: str, compared: str | None, known: dict[str, Any]) -> list[Any]:
        try:
            said = note(delete(space, which), "ok")
        except WorkbenchError as exc:
            return [gr.skip(), gr.skip(), note(str(exc), "warn"), *[gr.skip()] * len(filled)]
        return [which, gr.Button(words.BRING_BACK.format(name=which), visible=True), said, *refresh(space, None, figure, compared, {})]

    def returned(which: str, now: str | None, figure: str, compared: str | None, known: dict[str, Any]) -> list[Any]:
        try:
            said = note(bring_back(space, which), "ok")
        except WorkbenchError as exc:
            return [gr.skip(), note(str(exc), "warn"), *[gr.skip()] * len(filled)]
        return [gr.Button(visible=False), said, *refresh(space, which, figure, compared, {})]

    drop.click(shown(dropped), looked, [gone, back, message, *filled], **QUIET)
    back.click(shown(returned), [gone, *looked], [back, message, *filled], **QUIET)
    for kind, button in exports.items():
        fetched(button.click(_exporting(space, kind), chooser, [file, message], **QUIET), file)

    def wire(tune: Sequence[gr.components.Component]) -> None:
        _wire_form(space, [opened, *([above] if above else [])], fields, tune, rows, notes, plan, start, [message, *filled], looked)

    return wire


def _form() -> tuple[list[gr.components.Component], list[gr.Row], list[gr.HTML], gr.HTML, gr.Button]:
    """The form's fields in the order of `Form.of`, its lines, the note under each, the plan, and the button that starts."""
    with gr.Row(equal_height=True):
        title = gr.Textbox(label=words.NAME, max_lines=1, max_length=64, scale=3, min_width=110, elem_id="sweep-name")
        folds = gr.Number(5, label=words.FOLDS, precision=0, scale=1, min_width=80, elem_id="sweep-folds")
    shared = gr.Dropdown([(words.DEFAULTS, ""), (words.TUNE_NOW, form.TUNE)], value="", label=words.SHARED, min_width=150, elem_id="sweep-shared", allow_custom_value=True)
    paths, values, rows, notes = [], [], [], []
    for i, (path, text) in enumerate(form.BEGIN_WITH):
        with gr.Row(equal_height=True, visible=not i or bool(form.BEGIN_WITH[i - 1][0])) as row:
            paths.append(gr.Dropdown(
                form.setting_choices(), value=path, label=words.SETTING_N.format(number=i + 1) if i else words.SETTING, show_label=not i, container=not i,
                scale=3, min_width=150, elem_id=f"sweep-axis-{i}",
            ))  # fmt: skip
            values.append(gr.Textbox(
                text, label=words.VALUES_N.format(number=i + 1) if i else words.VALUES, show_label=not i, container=not i, placeholder=words.VALUES_HINT,
                max_lines=1, max_length=400, scale=3, min_width=130, elem_id=f"sweep-values-{i}",
            ))  # fmt: skip
        rows.append(row)
        notes.append(gr.HTML(visible=False, elem_id=f"sweep-wrong-{i}", elem_classes="wb-tight"))
    start = gr.Button(words.START, variant="primary", elem_id="sweep-start")
    plan = gr.HTML(elem_id="sweep-plan")
    gr.HTML(f'<div class="wb-dim">{words.HELP}</div>')
    return [title, folds, shared, *paths, *values], rows, notes, plan, start


def _wire_form(
    space: Workspace, opened: Sequence[gr.Tab], fields: list[gr.components.Component], tune: Sequence[gr.components.Component], rows: list[gr.Row],
    notes: list[gr.HTML], plan: gr.HTML, start: gr.Button, filled: list[Any], looked: list[Any],
) -> None:
    """`tune` are the fields of the Tune form; `filled` is the line that says what happened, then what `refresh` fills from `looked`."""
    given = [*fields, *tune]

    def look(*values: Any) -> list[Any]:
        typed = Form.of(*values)
        wrong, said = form.look(space, typed)
        used = [bool(path or text.strip()) for path, text in typed.lines]
        lines = (gr.Row(visible=not i or used[i - 1] or any(used[i:])) for i in range(len(used)))  # an empty line below the last used one
        return [*lines, *(gr.HTML(text, visible=bool(text)) for text in wrong), said]

    def begun(*values: Any) -> list[Any]:
        return [values[0] or form.suggest_name(space), gr.Dropdown(choices=form.shared_choices(space)), *look(*values)]

    def started(*values: Any) -> list[Any]:
        typed, (_, metric, axis, seen) = values[: len(given)], values[len(given) :]
        try:
            spec = form.start(space, Form.of(*typed))
        except WorkbenchError as exc:
            return [gr.skip(), note(str(exc), "bad"), *[gr.skip()] * (len(filled) - 1)]
        said = note(words.started(spec.name, len(space.sweeps.store.view(spec.name).cells), form.planned_time(space, spec)), "ok")
        return [form.suggest_name(space), said, *refresh(space, spec.name, metric, axis, seen)]

    changes = [f.change for f in fields[1:]]  # type: ignore[attr-defined]
    gr.on(changes, shown(look), given, [*rows, *notes, plan], trigger_mode="always_last", **QUIET)
    gr.on([tab.select for tab in opened], shown(begun), given, [fields[0], fields[2], *rows, *notes, plan], **QUIET)
    start.click(shown(started), [*given, *looked], [fields[0], *filled], **QUIET)


def _exporting(space: Workspace, kind: str) -> Callable[..., Any]:
    def make(which: str | None) -> list[Any]:
        try:
            return [export(space, which, kind), ""]
        except WorkbenchError as exc:
            return [None, note(str(exc), "warn")]

    return shown(make)
