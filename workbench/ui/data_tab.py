"""The Data tab: counts and health always in view, and the panels that change the set. It only wires."""

from __future__ import annotations

import time
from typing import Any

import gradio as gr

from workbench.dataset.store import RowSet
from workbench.dataset.view import reviewed
from workbench.errors import WorkbenchError
from workbench.ui import words
from workbench.ui.data import files_panel, generate_panel, health_panel, history_panel, rows_panel, tools_panel
from workbench.ui.data.bench import SMALL, Bench, Only, Pending, refusal
from workbench.ui.data.editor import Form, follow, open_row
from workbench.ui.data.lesson import lesson_html
from workbench.ui.data.shortcuts import SHORTCUTS_JS
from workbench.ui.errors import shown
from workbench.ui.highlight import bar, note
from workbench.ui.quiet import QUIET
from workbench.workspace import Workspace

SETTLED = 1.0  # seconds without a change before a large set is checked again


def progress_html(rows: RowSet) -> str:
    """How many rows a person has looked at."""
    done, total = reviewed(rows.entries)
    if not total:
        return ""
    broken = len(rows.entries) - total
    also = f" + {broken} that can't be used" if broken else ""
    return f'<div class="wb-reviewed"><b>{total} rows{also}</b> <span>{done} of {total} reviewed</span> {bar(done / total, "review")}</div>'


def travel(space: Workspace, back: bool, version: str, count: float) -> list[Any]:
    """Undo or redo: the values for `Bench.outputs`."""
    what = space.rows.undo_what if back else space.rows.redo_what
    try:
        rows = space.rows.undo(version) if back else space.rows.redo(version)
    except WorkbenchError as exc:
        return [refusal(exc), *[gr.skip()] * 3]
    said = words.UNDONE if back else words.REDONE
    return [note(f"{said}: “{what}”." if what else f"{said}.", "ok"), rows.version, count + 1, None]


def merge(bench: Bench, pending: Pending | None, version: str, count: float) -> list[Any]:
    """Make a change that met a foreign one on the rows as they stand now; nothing of either is lost. Then the merged row is opened."""
    if pending is None:
        return [note(words.NOTHING_CHANGED), *[gr.skip()] * 6]
    try:
        merged = bench.space.rows.merge(pending.change, pending.version)
        if merged.change:
            rows, said = bench.make(merged.change, merged.version, count)
        else:  # both sides did the same
            rows = bench.space.rows.read()
            said = [gr.skip(), rows.version, count + 1, None]
    except WorkbenchError as exc:
        return [refusal(exc), *[gr.skip()] * 6]
    if rows is None:
        return [*said, *[gr.skip()] * 3]
    form = open_row(rows, next(iter(merged.change.put), None if not merged.change.add else len(rows.entries) - 1))
    return [note(merged.sentence, "ok"), *said[1:], form, form.serial, None]


def drop_mine(bench: Bench, form: Form | None, count: float) -> list[Any]:
    """Let the pending change go: the rows stay as the other side left them, and the form shows its row anew."""
    rows = bench.space.rows.read()
    again = follow(bench.space, form, None) or open_row(rows, None)
    return [note(words.MINE_DROPPED), rows.version, count + 1, None, again, again.serial, None]


def taught_anew(space: Workspace, seen: tuple[str, str, int] | None, count: float, form: Form | None) -> list[Any]:
    """Where another dialect was chosen under Tune since the page looked, the rows are drawn and checked anew, and what the open one teaches."""
    now = space.row_health.taught
    if now == seen:
        return [gr.skip()] * 3
    return [now, count + 1, lesson_html(space, *rows_panel.taught_row(form))]


def build(space: Workspace, page: gr.Blocks, opened: gr.Tab) -> Bench:
    """The tab's components and their wires; returns the bench, for tabs that add rows."""
    version, pending, only, panel = gr.State(""), gr.State(None), gr.State(None), gr.State("rows")
    changed = gr.Number(0, precision=0, visible="hidden", elem_id="rows-changed")
    with gr.Row(equal_height=True, elem_classes="wb-bar1"):
        progress = gr.HTML(elem_id="data-counts")
        strip = gr.HTML(elem_id="health-strip", js_on_load=health_panel.STRIP_JS)
        with gr.Row(elem_classes="wb-undo"):
            undo = gr.Button("Undo", size="sm", min_width=60, elem_id="undo")
            redo = gr.Button("Redo", size="sm", min_width=60, elem_id="redo")
    with gr.Row(equal_height=True):
        message = gr.HTML(note(words.DATA_HELP), elem_id="data-message")
        with gr.Row(elem_classes="wb-choice"):
            join = gr.Button(words.MERGE, variant="primary", size="sm", min_width=140, elem_id="merge")
            drop = gr.Button(words.DROP_MINE, size="sm", min_width=140, elem_id="drop-mine")
    with gr.Tabs(selected="rows", elem_id="data-panels") as tabs:
        bench = Bench(space, page, message, version, changed, pending, only, tabs, panel)
        with bench.open_panel("rows", words.PANELS["rows"]) as grid:
            rows = rows_panel.build(bench)
        grid.select(lambda: "rows", None, bench.panel, **QUIET)
        with bench.open_panel("health", words.PANELS["health"]):
            health_panel.build(bench)
        with bench.open_panel("files", words.PANELS["files"]) as files:
            files_panel.build(bench)
        files.select(lambda: "files", None, bench.panel, **QUIET)
        with bench.open_panel("generate", words.PANELS["generate"]):
            generate_panel.build(bench)
        with bench.open_panel("tools", words.PANELS["tools"]):
            tools_panel.build(bench)
        with bench.open_panel("history", words.PANELS["history"]):
            history_panel.build(bench)

    _wire_refresh(bench, rows, progress, strip)
    taught, lesson = gr.State(None), rows.editor.lesson
    opened.select(shown(lambda *seen: taught_anew(space, *seen)), [taught, changed, rows.editor.opened], [taught, changed, lesson], **QUIET)
    page.load(None, js=SHORTCUTS_JS)
    undo.click(shown(lambda v, c: travel(space, True, v, c)), bench.inputs, bench.outputs, **QUIET)
    redo.click(shown(lambda v, c: travel(space, False, v, c)), bench.inputs, bench.outputs, **QUIET)
    both = [*bench.outputs, *rows.editor.outputs]
    join.click(shown(lambda p, v, c: merge(bench, p, v, c)), [pending, *bench.inputs], both, **QUIET)
    drop.click(shown(lambda form, c: drop_mine(bench, form, c)), [rows.editor.opened, changed], both, **QUIET)
    return bench


def _wire_refresh(bench: Bench, rows: rows_panel.RowsPanel, progress: gr.HTML, strip: gr.HTML) -> None:
    """Whenever the set changed, the grid, the counts and the health are drawn anew."""
    space, editor, panels = bench.space, rows.editor, list(bench.stale)
    unchecked = gr.Number(0, precision=0, visible="hidden", elem_id="rows-unchecked")

    def refresh(unknown: float, *asked: Any) -> list[Any]:
        now = space.rows.read()
        if len(now.entries) > SMALL and space.row_health.known(now) is None:
            return [progress_html(now), health_panel.strip_html(None), unknown + 1, *rows.refresh(*asked)]
        found = space.row_health.of(now)
        return [progress_html(now), health_panel.strip_html(found), gr.skip(), *rows.refresh(*asked)]

    def changed(count: float, panel: str, form: Form | None, typed: Any, seen: int, unknown: float, *asked: Any) -> list[Any]:
        """The set was changed on this page: the form goes along with its row, the grid turns to it, and the open panel is told."""
        number = rows_panel.page_with(bench, form, seen, asked)
        again = follow(space, form, typed)
        told = [count if key == panel else gr.skip() for key in panels]
        return [*refresh(unknown, *asked[:-1], number), *(editor.show(again) if again else [gr.skip()] * 3), *told]

    def recheck(number: float, panel: str, *asked: Any) -> list[Any]:
        """A large set's health, in an event of its own: the grid is there before it, and rows that are approved one after
        the other wait for none: while they change, the next event does it."""
        before = space.rows.read().version
        if time.time() - space.rows.changed_at() < SETTLED:
            time.sleep(SETTLED)
        now = space.rows.read()
        if now.version != before:
            return [gr.skip()] * len(again)
        found = space.row_health.of(now)
        return [health_panel.strip_html(found), -number if panel == "health" else gr.skip(), *rows.refresh(*asked)]

    outputs = [progress, strip, unchecked, *rows.outputs]
    again = [strip, bench.stale["health"], *rows.outputs]
    bench.page.load(shown(refresh), [unchecked, *rows.inputs], outputs, **QUIET)
    bench.changed.change(
        shown(changed), [bench.changed, bench.panel, editor.opened, editor.typed, rows.followed, unchecked, *rows.inputs],
        [*outputs, *editor.outputs, *bench.stale.values()], trigger_mode="always_last", **QUIET,
    )
    unchecked.change(shown(recheck), [unchecked, bench.panel, *rows.inputs], again, trigger_mode="always_last", show_progress="hidden")

    def narrow(event: gr.EventData, *asked: Any) -> list[Any]:
        """A finding in the strip was pressed: the grid shows its rows; one about the whole set is told on the Health panel."""
        number = int((event._data or {}).get("finding", -1))
        now = space.rows.read()
        found = space.row_health.known(now)
        if found is None or not 0 <= number < len(found.findings):
            return [gr.skip()] * (2 + len(rows.outputs))
        places = found.findings[number].places
        if not places:
            return [gr.skip(), gr.Tabs(selected="health"), *[gr.skip()] * len(rows.outputs)]
        *filters, _, _ = asked
        only = Only(now.version, places)
        return [only, gr.Tabs(selected="rows"), *rows.refresh(*filters, only, 0)]

    strip.click(shown(narrow), rows.inputs, [bench.only, bench.tabs, *rows.outputs], **QUIET)
    bench.only.change(shown(rows.refresh), rows.inputs, rows.outputs, show_progress="hidden")
