"""The Rows panel: search, filters and sorting over the grid, bulk actions, the row's form beside it and what the row teaches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from workbench.dataset.draft import Draft
from workbench.dataset.store import RowSet
from workbench.dataset.view import KINDS, PAGE, SORTS, pages, tools_called
from workbench.errors import DataError
from workbench.schema import STATUSES, Example
from workbench.ui import words
from workbench.ui.data import row_form
from workbench.ui.data.bench import Bench, refusal
from workbench.ui.data.editor import Editor, Form, is_unsaved, open_row
from workbench.ui.data.grid import BULK, NUMBER, SIDES, TOOL, as_drawn, bulk, edit_cells, found, grid_values, marks, ticked
from workbench.ui.data.lesson import lesson_html
from workbench.ui.errors import shown
from workbench.ui.highlight import note
from workbench.ui.quiet import QUIET
from workbench.ui.words.health import FINDINGS


@dataclass(frozen=True)
class RowsPanel:
    """What the tab needs to draw the grid anew: `refresh` from the filters' values and the page number.

    `followed` holds the visit of the row that the grid has turned its page for.
    """

    refresh: Callable[..., list[Any]]
    inputs: list[Any]
    outputs: list[Any]
    editor: Editor
    followed: gr.State


def build(bench: Bench) -> RowsPanel:
    """The panel's components and their wires. `drawn` holds the version of the rows that the grid shows: its places count there."""
    space = bench.space
    drawn = gr.State("")
    plain: dict[str, Any] = {"show_label": False, "container": False}

    def choice(options: list[Any], element: str, width: int) -> gr.Dropdown:
        return gr.Dropdown(options, value=options[0][1], label=words.FILTERS[element], min_width=width, scale=2, elem_id=element, **plain)

    with gr.Row(equal_height=True, elem_classes="wb-filters"):
        search = gr.Textbox(label=words.FILTERS["search"], placeholder=words.SEARCH, max_lines=1, scale=5, min_width=170, elem_id="search", **plain)
        kind = choice([(words.ANY_KIND, ""), *((k, k) for k in KINDS)], "filter-kind", 105)
        tool = choice([(words.ANY_TOOL, "")], "filter-tool", 120)
        status = choice([(words.ANY_STATUS, ""), *((s, s) for s in STATUSES)], "filter-status", 115)
        problem = choice([(words.ANY_FINDING, ""), (words.SOME_FINDING, "any"), *((v, k) for k, v in FINDINGS.items())], "filter-problem", 125)
        split = choice([(words.ANY_SIDE, ""), *((words.SIDE_WORDS[s], s) for s in SIDES)], "filter-split", 115)
        sort = choice([(words.SORT_WORDS[s], s) for s in SORTS], "sort", 125)
        everything = gr.Button(words.SHOW_ALL, size="sm", min_width=80, scale=1, elem_id="show-all")
    opened, typed = gr.State(None), gr.State(None)
    opening = gr.Number(0, precision=0, visible="hidden", elem_id="opening")
    with gr.Row():
        with gr.Column(scale=7, min_width=480):
            # A first column below some 50 px is drawn anew under the pointer at a press, and its tick is lost.
            grid = gr.Dataframe(
                headers=words.GRID_HEADERS, datatype=["bool", "number", "str", "str", "str", "str", "str", "str"], type="array",
                interactive=True, static_columns=[1, 4, 6, 7], max_height=420, show_label=False, elem_id="grid",
                column_widths=["7%", "6%", "27%", "21%", "7%", "10%", "12%", "10%"], buttons=[], max_chars=90,
            )
            with gr.Row(equal_height=True, elem_classes="wb-bulk"):
                back = gr.Button("‹", size="sm", min_width=30, scale=0, elem_id="page-back")
                where = gr.HTML(elem_id="grid-where")
                forth = gr.Button("›", size="sm", min_width=30, scale=0, elem_id="page-forth")
                action = choice([(b, b) for b in BULK], "bulk-action", 140)
                scope = choice([(words.TICKED_ROWS, "ticked"), (words.FOUND_ROWS, "found")], "bulk-scope", 140)
                apply = gr.Button(words.BULK_APPLY, size="sm", min_width=70, scale=1, elem_id="bulk-apply")
            lesson = gr.HTML(note(words.LESSON_EMPTY), elem_id="lesson")
            gr.HTML(f'<div class="wb-dim wb-keys">{words.SHORTCUTS}</div>')
        with gr.Column(scale=4, min_width=340, elem_id="row-editor"):
            query = [search, kind, tool, status, problem, split, sort]
            editor = Editor(bench, opened, opening, typed, lesson, lambda *v: found(space, space.rows.read(), *v), [*query, bench.only])
            row_form.build(editor)
    page = gr.Number(0, precision=0, visible="hidden", elem_id="page-number")

    def refresh(*values: Any) -> list[Any]:
        *asked, only, number = values
        rows = space.rows.read()
        tools = tools_called(rows.entries)
        gone = bool(asked[TOOL]) and asked[TOOL] not in tools
        if gone:  # the filter's last row went: a choice that no longer stands would block every press
            asked[TOOL] = ""
        matching = found(space, rows, *asked, only)
        number = min(max(int(number or 0), 0), pages(len(matching)) - 1)
        here = matching[number * PAGE : (number + 1) * PAGE]
        choices = gr.Dropdown(choices=[(words.ANY_TOOL, ""), *tools], **({"value": ""} if gone else {}))
        return [grid_values(rows, here, marks(space, rows)), where_html(rows, matching, number, only is not None), rows.version, rows.version, number, choices]

    inputs, outputs = [*query, bench.only, page], [grid, where, bench.version, drawn, page, tool]
    first: Any = lambda *values: refresh(*values[:-1], 0)  # noqa: E731  another filter begins at the first page
    # Not `search.input`: gradio tells it for keys alone, not for what is pasted or dictated.
    gr.on([search.change, *(f.input for f in query[1:])], shown(first), inputs, outputs, trigger_mode="always_last", **QUIET)
    everything.click(shown(lambda: ["", *[""] * 5, "place", None, *refresh("", *[""] * 5, "place", None, 0)]), None, [*query, bench.only, *outputs], **QUIET)
    back.click(shown(lambda *v: refresh(*v[:-1], (v[-1] or 0) - 1)), inputs, outputs, **QUIET)
    forth.click(shown(lambda *v: refresh(*v[:-1], (v[-1] or 0) + 1)), inputs, outputs, **QUIET)
    grid.select(shown(select_row(bench)), [opened, typed, drawn], [bench.message, *editor.outputs], **QUIET)
    grid.input(shown(typed_cells(bench, refresh)), [grid, opened, typed, drawn, *bench.inputs, *inputs], [*bench.outputs, *editor.outputs, *outputs], **QUIET)
    apply.click(shown(do_bulk(bench)), [grid, action, scope, drawn, *query, bench.only, *bench.inputs], [*bench.outputs, action, scope], **QUIET)
    opening.change(shown(lambda form: lesson_html(space, *taught_row(form))), opened, lesson, **QUIET)
    followed = gr.State(0)

    def follow_row(form: Form | None, seen: int, *asked: Any) -> list[Any]:
        """The grid turns to the page of a row that was opened by Next, Add row and the like."""
        number = page_with(bench, form, seen, asked)
        return [form.visit if form else 0, *([gr.skip()] * len(outputs) if number == asked[-1] else refresh(*asked[:-1], number))]

    opening.change(shown(follow_row), [opened, followed, *inputs], [followed, *outputs], trigger_mode="always_last", **QUIET)
    return RowsPanel(refresh, inputs, outputs, editor, followed)


def page_with(bench: Bench, form: Form | None, seen: int, asked: Sequence[Any]) -> int:
    """The page of the open row, where it was opened since the visit `seen` and the filters let it through; else the page that is shown."""
    *query, number = asked
    if form is None or form.place is None or form.visit == seen:
        return int(number or 0)
    rows = bench.space.rows.read()
    matching = found(bench.space, rows, *query) if form.version == rows.version else []
    return matching.index(form.place) // PAGE if form.place in matching else int(number or 0)


def taught_row(form: Form | None) -> tuple[Draft | None, Example | None]:
    """What `lesson_html` shows of an open form: nothing for one that has no row yet."""
    return (form.draft, form.was) if form is not None and not form.broken and form.place is not None else (None, None)


def where_html(rows: RowSet, matching: Sequence[int], number: int, narrow: bool) -> str:
    """Which rows the grid shows, in words."""
    total = len(rows.entries)
    if not total:
        return f'<span class="wb-dim">{words.DATA_EMPTY}</span>'
    if not matching:
        return f'<span class="wb-dim">{words.NOTHING_FOUND}</span>'
    narrowed = f" · {words.NARROWED}" if narrow else ""
    if len(matching) <= PAGE:
        return f'<span class="wb-dim">{len(matching)} of {total} rows{narrowed}</span>'
    begin = number * PAGE + 1
    return f'<span class="wb-dim">{begin}–{min(begin + PAGE - 1, len(matching))} of {len(matching)} found, {total} in all{narrowed}</span>'


def select_row(bench: Bench) -> Callable[..., list[Any]]:
    """A click on a cell opens its row, unless the form holds something unsaved."""

    def select(event: gr.SelectData, form: Form | None, typed: Any, drawn: str) -> list[Any]:
        number = str(event.row_value[NUMBER]).strip() if event.row_value else ""
        if not number.isdigit() or (event.index and event.index[1] == 0):  # the tick box
            return [gr.skip()] * 4
        place = int(number) - 1
        if form is not None and form.place == place and form.version == drawn:
            return [gr.skip()] * 4
        if is_unsaved(form, typed):
            return [note(words.UNSAVED, "warn"), *[gr.skip()] * 3]
        opened = open_row(as_drawn(bench.space, drawn), place)
        return [gr.skip(), opened, opened.serial, None]

    return select


def do_bulk(bench: Bench) -> Callable[..., list[Any]]:
    """A bulk action on the ticked rows, or on all that the filters let through."""

    def run(cells: Any, action: str, scope: str, drawn: str, *rest: Any) -> list[Any]:
        *asked, version, count = rest
        try:
            rows = as_drawn(bench.space, drawn)
            places = ticked(cells) if scope == "ticked" else found(bench.space, rows, *asked)
            change = bulk(rows, action, places, found_all=scope != "ticked")
        except DataError as exc:
            return [refusal(exc), *[gr.skip()] * 5]
        _, made, said = bench.settle(change, drawn, version, count)
        # What was done once must not be done again by a second press: the harmless choices come back.
        return [*said, *([gr.skip()] * 2 if made is None else [BULK[0], "ticked"])]

    return run


def typed_cells(bench: Bench, refresh: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """What was typed into the grid is saved at once; a tick alone changes nothing. A refused edit puts the grid back."""

    def typed_into(cells: Any, form: Form | None, typed: Any, drawn: str, version: str, count: float, *asked: Any) -> list[Any]:
        try:
            change = edit_cells(as_drawn(bench.space, drawn), cells)
        except DataError as exc:
            return [refusal(exc), *[gr.skip()] * 6, *refresh(*asked)]
        if not change:
            return [gr.skip()] * 13
        made, rows, said = bench.settle(change, drawn, version, count)
        if rows is None:
            return [*said, *[gr.skip()] * 3, *refresh(*asked)]
        place = next(iter(made.put), None)
        if is_unsaved(form, typed) or form is None or form.place is None or form.place not in change.put:
            return [*said, *[gr.skip()] * 9]
        opened = open_row(rows, place)
        return [*said, opened, opened.serial, None, *[gr.skip()] * 6]

    return typed_into
