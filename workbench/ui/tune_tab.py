"""The Tune tab: presets and the settings in three cards, the plan beside them, and the button that starts a run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import gradio as gr

from workbench.errors import DataError, RunError, WorkbenchError
from workbench.settings import RunSettings
from workbench.ui import words
from workbench.ui.downloads import fetched
from workbench.ui.errors import shown
from workbench.ui.forms import form_values, read_settings
from workbench.ui.highlight import note
from workbench.ui.quiet import QUIET
from workbench.ui.tune import cards, held, labels, plan_panel, presets_panel
from workbench.ui.tune.cards import Form
from workbench.ui.tune.presets_panel import PresetBar
from workbench.ui.words import tune as tune_words
from workbench.workspace import Workspace


def suggest_name(space: Workspace) -> str:
    """A free run name with today's date, as in `run-1121-3`."""
    taken = set(space.runs.names())
    stem = time.strftime("run-%m%d")
    return next(name for name in (f"{stem}-{n}" for n in range(1, 10_000)) if name not in taken)


def start_run(space: Workspace, name: str, values: Sequence[Any], preset: str | None = None) -> str:
    """Create the run and hand it to the engine; returns its name. Raises `WorkbenchError` with one sentence.

    `preset` is the key of the chosen one, which the run remembers.
    """
    settings = read_settings(values)
    rows = space.rows.read()
    if rows.problems:
        raise DataError(f"{len(rows.problems)} line(s) of {space.rows.path.name} can't be used ({rows.problems[0]}): mend or delete them on the Data tab first.")
    busy = space.engine.training()
    if busy is not None:
        raise RunError(f"{busy.label} is still going on: stop it on the Train tab or wait for its end.")
    return space.jobs.begin_run(name, rows.rows, settings, data_name=space.rows.path.name, preset=preset).name


def teach_as(space: Workspace, values: Sequence[Any]) -> None:
    """What the Data tab shows and checks rows for follows the form; while that can't be read it stays as it was."""
    with contextlib.suppress(WorkbenchError):
        space.row_health.teaching = read_settings(values).training


def build(
    space: Workspace, page: gr.Blocks, tabs: gr.Tabs, opened: gr.Tab, run_choice: gr.Dropdown, current: gr.State, timer: gr.Timer, kept: gr.BrowserState,
) -> list[gr.components.Component]:
    """The tab's components and their wires; returns the form's fields, in the order of `FIELDS`.

    `run_choice` is the Train tab's list of runs, `timer` what that tab is drawn anew by, `kept` what the browser
    keeps of the form.
    """
    defaults = space.default_settings()
    with gr.Row():
        with gr.Column(scale=17, min_width=700, elem_id="tune-form"):
            bar = presets_panel.build(space)
            form = cards.build(space, defaults)
        with gr.Column(scale=7, min_width=320, elem_id="tune-side"):
            name = gr.Textbox(label=words.TUNE_NAME, info=tune_words.NAME_INFO, max_lines=1, elem_id="run-name")
            start = gr.Button(words.TUNE_START, variant="primary", size="lg", elem_id="start-training")
            message = gr.HTML(elem_id="tune-message", elem_classes="wb-tight")
            gr.HTML(f'<div class="wb-cardhead">{words.PLAN_TITLE}</div>', elem_classes="wb-tight")
            fit = gr.Button(size="sm", visible=False, elem_id="make-fit")
            plan = gr.HTML(elem_id="plan", elem_classes="wb-tight")

    def drawn(key: str | None, *values: Any) -> list[Any]:
        teach_as(space, values)
        html, button = plan_panel.show_plan(space, values)
        return [html, gr.Button(button or tune_words.MAKE_FIT, visible=bool(button)), presets_panel.differs_html(space, key, values)]

    def start_clicked(run_name: str, key: str | None, *values: Any) -> list[Any]:
        try:
            started = start_run(space, run_name, values, key)
        except WorkbenchError as exc:
            return [note(str(exc), "bad"), *[gr.skip()] * 5]
        names = space.runs.names()
        chosen = gr.Dropdown(choices=names, value=started)
        return [note(f"The run {started} was started.", "ok"), gr.Tabs(selected="train"), chosen, suggest_name(space), "train", gr.Timer(active=True)]

    inputs, outputs = [bar.chosen, *form.fields], [plan, fit, bar.differs]

    def changed(key: str | None, *values: Any) -> list[Any]:
        return [*drawn(key, *values), held.hold(space, key, values)]

    gr.on([f.change for f in form.fields], shown(changed), inputs, [*outputs, kept], trigger_mode="always_last", **QUIET)  # type: ignore[attr-defined]

    def loaded(browser: Any, *values: Any) -> list[Any]:
        left = held.held(space, browser)
        teach_as(space, values if left is None else left[1])
        if left is None:
            return [suggest_name(space), *[gr.skip()] * (len(form.fields) + 2)]
        # With the choices: what was saved since the workbench started is not among those that the page was built with.
        chosen = gr.Dropdown(choices=presets_panel.preset_choices(space), value=left[0])
        return [suggest_name(space), *cards.filled(space, left[1]), chosen, note(tune_words.RESTORED, "ok")]

    def entered(key: str | None, *values: Any) -> list[Any]:
        return [*drawn(key, *values), gr.Dropdown(choices=presets_panel.preset_choices(space)), *presets_panel.bin_values(space)]

    opened.select(shown(entered), inputs, [*outputs, bar.chosen, bar.back, bar.gone], **QUIET)
    page.load(shown(loaded), [kept, *form.fields], [name, *form.fields, bar.chosen, message], **QUIET)
    start.click(shown(start_clicked), [name, *inputs], [message, tabs, run_choice, name, current, timer], **QUIET)
    fit.click(shown(lambda *v: [*_filled(space, plan_panel.fitting_settings(space, v)), note(tune_words.FITTED, "ok")]), form.fields, [*form.fields, message], **QUIET)
    _wire_presets(space, bar, form, kept, message)
    labels.tell(page, opened)
    return form.fields


def _filled(space: Workspace, settings: RunSettings) -> list[Any]:
    return cards.filled(space, form_values(settings))


def _wire_presets(space: Workspace, bar: PresetBar, form: Form, kept: gr.BrowserState, message: gr.HTML) -> None:
    def choose(key: str | None, *values: Any) -> list[Any]:
        filled = form_values(presets_panel.preset_settings(space, key))
        # Where the preset is what the form holds already, no field tells a change.
        return [*cards.filled(space, filled), presets_panel.differs_html(space, key, filled), "", "", held.hold(space, key, filled)]

    def told(act: Any) -> Any:
        """The act's answer and what it says; a mistake says its sentence and changes nothing."""

        def do(*values: Any) -> list[Any]:
            try:
                key, text = act(*values)
            except WorkbenchError as exc:
                return [gr.skip(), note(str(exc), "bad"), *presets_panel.bin_values(space)]
            return [gr.Dropdown(choices=presets_panel.preset_choices(space), value=key), note(text, "ok"), *presets_panel.bin_values(space)]

        return shown(do)

    def saved(name: str, about: str, *values: Any) -> tuple[str, str]:
        key = presets_panel.save(space, name, about, values)
        return key, tune_words.SAVED.format(name=key)

    def taken_in(file: str) -> list[Any]:
        try:
            key, text = presets_panel.take_in(space, file)
        except WorkbenchError as exc:  # what the form holds stays
            return [*[gr.skip()] * (len(form.fields) + 1), note(str(exc), "bad")]
        chosen = gr.Dropdown(choices=presets_panel.preset_choices(space), value=key)
        return [*_filled(space, presets_panel.preset_settings(space, key)), chosen, note(text, "ok")]

    def exported(key: str | None, name: str, about: str, *values: Any) -> list[Any]:
        try:
            path = presets_panel.export(space, key, name, about, values)
        except WorkbenchError as exc:
            return [None, note(str(exc), "bad")]
        return [str(path), note(tune_words.EXPORTED.format(file=path.name), "ok")]

    fill: Any = (shown(choose), [bar.chosen, *form.fields], [*form.fields, bar.differs, bar.said, message, kept])
    compare: Any = (shown(lambda key, *v: [presets_panel.differs_html(space, key, v), held.hold(space, key, v)]), [bar.chosen, *form.fields], [bar.differs, kept])
    bar.chosen.input(*fill, **QUIET)
    done = [bar.chosen, bar.said, bar.back, bar.gone]
    bar.save.click(told(saved), [bar.name, bar.about, *form.fields], done, **QUIET).then(*compare, **QUIET)
    bar.delete.click(told(lambda key: ("", presets_panel.delete(space, key))), bar.chosen, done, **QUIET).then(*compare, **QUIET)
    bar.back.click(told(lambda key: presets_panel.bring_back(space, key)), bar.gone, done, **QUIET).then(*compare, **QUIET)
    bar.bring.upload(shown(taken_in), bar.bring, [*form.fields, bar.chosen, bar.said], **QUIET).then(*compare, **QUIET)
    fetched(bar.export.click(shown(exported), [bar.chosen, bar.name, bar.about, *form.fields], [bar.file, bar.said], **QUIET), bar.file)
