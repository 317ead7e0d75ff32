"""The Rows panel: search, filters and sorting over the grid, bulk actions, the row's form beside it and what the row teaches."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from workbench.calls.dialects import message_text
from workbench.dataset.changes import Change
from workbench.dataset.draft import CallDraft, Draft, TurnDraft, draft_of, row_of, split_calls
from workbench.dataset.store import Entry, RowSet
from workbench.dataset.view import KINDS, PAGE, SORTS, Query, facts_of, find, pages, tools_called
from workbench.errors import DataError, RowError
from workbench.schema import STATUSES, Example
from workbench.ui import words
from workbench.ui.data import row_form
from workbench.ui.data.bench import QUIET, Bench
from workbench.ui.data.editor import Editor, Form, is_unsaved, open_row
from workbench.ui.data.lesson import lesson_html
from workbench.ui.errors import shown
from workbench.ui.highlight import note
from workbench.ui.words.health import FINDINGS
from workbench.workspace import Workspace

COLUMNS = {"request": 2, "answer": 3, "status": 5}
ARROW = "→"  # before a call's name in the grid
CELL = 1000  # characters of a cell; a longer text is edited in the form
NUMBER = 1  # the column of the row's number
TOOL = 2  # the place of the tool's filter among the query's values
SIDES = ("train", "validation", "left out")
BULK = ("approve", "reject", "back to draft", "pin to training", "pin to validation", "take the pin off", "duplicate", "delete")


@dataclass(frozen=True)
class Marks:
    """What the health check says of each place: the side of the split, and the findings' kinds and words."""

    split: Sequence[str] = ()
    problems: Mapping[int, Collection[str]] | None = None
    titles: Mapping[int, str] | None = None


def marks(space: Workspace, rows: RowSet) -> Marks:
    """The marks of the last health check, if it looked at these very rows."""
    health = space.known_health(rows)
    if health is None:
        return Marks()
    problems: dict[int, list[str]] = {}
    titles: dict[int, list[str]] = {}
    for finding in health.findings:
        for place in finding.places:
            problems.setdefault(place, []).append(finding.kind)
            if finding.severity != "info" or finding.kind == "review":
                titles.setdefault(place, []).append(FINDINGS[finding.kind])
    return Marks(health.split, problems, {place: ", ".join(dict.fromkeys(kinds)) for place, kinds in titles.items()})


def grid_values(rows: RowSet, places: Sequence[int], seen: Marks) -> list[list[Any]]:
    """The grid's cells for `places`; a broken line shows its text and its problem."""
    return [_grid_row(place, rows.entries[place], seen) for place in places]


def _grid_row(place: int, entry: Entry, seen: Marks = Marks()) -> list[Any]:
    facts = facts_of(entry)
    side = seen.split[place] if place < len(seen.split) else ""
    says = (seen.titles or {}).get(place, "")
    if entry.row is None:
        says = f"{entry.problem.field}: {entry.problem.reason}" if entry.problem else says
        return [False, place + 1, _cell(facts.request), "", facts.kind, "", "", _cell(says)]
    return [False, place + 1, _cell(facts.request), _cell(answer_cell(entry.row)), facts.kind, facts.status, words.SIDE_WORDS.get(side, side), _cell(says or facts.source)]


def answer_cell(row: Example) -> str:
    """The answer as the grid shows it: a call by its name and arguments behind an arrow, anything else as it stands."""
    text, calls = split_calls(row.answer)
    if text.strip() or len(calls) != 1:
        return message_text(row.answer)
    arguments = json.dumps(dict(calls[0].arguments), ensure_ascii=False) if calls[0].arguments else ""
    return f"{ARROW} {calls[0].name} {arguments}".rstrip()


def read_answer(text: str) -> TurnDraft:
    """What was typed into an answer's cell: a call in the grid's own way of showing it, or a text. Raises `RowError`."""
    if not text.lstrip().startswith(ARROW):
        return TurnDraft("assistant", text)
    name, _, arguments = text.strip().removeprefix(ARROW).strip().partition(" ")
    return TurnDraft("assistant", "", (CallDraft(name, arguments.strip() or "{}"),))


def _cell(text: str) -> str:
    """What a cell shows: a page of whole books would be sent to and fro at every edit."""
    return text if len(text) <= CELL else text[: CELL - 1] + "…"


def make_query(text: str, kind: str, tool: str, status: str, problem: str, split: str, sort: str) -> Query:
    return Query(text or "", kind or "", tool or "", status or "", problem or "", split or "", sort or "place")


def found(space: Workspace, rows: RowSet, *values: Any) -> list[int]:
    """The places in `rows` that the filters let through: their values, then what the grid is narrowed to."""
    *query, only = values
    seen = marks(space, rows)
    return find(rows.entries, make_query(*query), problems=seen.problems, split=seen.split, only=only.now(space, rows) if only else None)


def as_drawn(space: Workspace, version: str) -> RowSet:
    """The rows that the grid was drawn from; raises `DataError` where they are not known any more."""
    rows = space.rows.at(version)
    if rows is None:
        raise DataError(words.GRID_OLD)
    return rows


# -- verbs: plans over the rows that the grid was drawn from -----------------------------------------


def edit_cells(rows: RowSet, cells: Sequence[Sequence[Any]]) -> Change:
    """The change that was typed into the grid: every row whose request, answer or status differs."""
    if any(len(line) != len(words.GRID_HEADERS) for line in cells):
        raise DataError(words.GRID_SHAPE)
    put: dict[int, Example] = {}
    for line in cells:
        place = int(line[NUMBER]) - 1 if str(line[NUMBER]).strip().isdigit() else -1
        if not 0 <= place < len(rows.entries):
            raise DataError(words.GRID_SHAPE)
        before = _grid_row(place, rows.entries[place])
        if any(str(line[c] or "") != str(before[c] or "") for c in COLUMNS.values()):
            texts = {name: str(line[c] or "") for name, c in COLUMNS.items() if str(line[c] or "") != str(before[c] or "")}
            put[place] = _typed_row(rows.entries[place], texts)
    what = f"row {min(put) + 1} was changed" if len(put) == 1 else f"{len(put)} rows were changed"
    return Change(put=put, what=what if put else "")


def _typed_row(entry: Entry, texts: Mapping[str, str]) -> Example:
    """The row that typing into the grid makes of a line: `texts` are the cells that differ. Raises `RowError`."""
    if entry.row is None:
        raise RowError("This line can't be used as it is: click it and mend it in the form on the right.", "line")
    facts, draft = facts_of(entry), draft_of(entry.row)
    if any(len(getattr(facts, name)) > CELL for name in texts):
        raise RowError("This text is too long for a cell, which shows its beginning alone: edit it in the form on the right.", "request")
    if not texts.get("request", "x").strip():
        raise RowError("The request is empty: write what the user says.", "request")
    if not texts.get("answer", "x").strip():
        raise RowError("The answer is empty: write a text, or choose “calls a tool” in the form.", "answer")
    status = texts.get("status", draft.status) or "draft"
    if status not in STATUSES:
        raise RowError(f"The status must be one of {', '.join(STATUSES)}.", "status")
    turns = list(draft.turns)
    asked = max(i for i, turn in enumerate(turns) if turn.role == "user")
    if "request" in texts:
        turns[asked] = replace(turns[asked], text=texts["request"])
    if "answer" in texts:
        # The answer was typed anew: what it says now counts, not the calls given beside the old one.
        typed = read_answer(texts["answer"])
        turns[-1] = replace(turns[-1], text=typed.text, calls=typed.calls)
    return row_of(replace(draft, turns=tuple(turns), status=status), entry.row)


def bulk(rows: RowSet, action: str, places: Sequence[int]) -> Change:
    """One change over many rows; broken lines can only be deleted."""
    if not places:
        raise DataError(words.NOTHING_TICKED)
    count = f"{len(places)} row{'s' if len(places) > 1 else ''}"
    if action == "delete":
        return Change(drop=frozenset(places), what=f"{count} deleted; Undo brings them back")
    usable = {p: e.row for p in places if p < len(rows.entries) and (e := rows.entries[p]).row is not None}
    if action == "duplicate":
        return Change(add=tuple(replace(row, status="draft") for row in usable.values()), what=f"{count} copied to the end as drafts")
    changes: dict[str, tuple[dict[str, str], str]] = {
        "approve": ({"status": "approved"}, "approved"), "reject": ({"status": "rejected"}, "rejected"), "back to draft": ({"status": "draft"}, "drafts again"),
        "pin to training": ({"pin": "train"}, "pinned to training"), "pin to validation": ({"pin": "validation"}, "pinned to validation"),
        "take the pin off": ({"pin": ""}, "on either side again"),
    }
    if action not in changes:
        raise DataError(f"There is no bulk action {action[:40]!r}: choose one of {', '.join(BULK)}.")
    fields, done = changes[action]
    put = {p: new for p, row in usable.items() if (new := replace(row, **fields)) != row}  # type: ignore[arg-type]
    skipped = len(places) - len(usable)
    return Change(put=put, what=f"{count} {done}" + (f"; {skipped} broken left as they are" if skipped else "")) if put else Change(what=words.NOTHING_CHANGED)


def ticked(cells: Sequence[Sequence[Any]]) -> list[int]:
    """The places of the rows whose first cell is ticked."""
    return [int(line[NUMBER]) - 1 for line in cells if line and line[0] in (True, "true", "True") and str(line[NUMBER]).strip().isdigit()]


# -- the panel -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RowsPanel:
    """What the tab needs to draw the grid anew: `refresh` from the filters' values and the page number."""

    refresh: Callable[..., list[Any]]
    inputs: list[Any]
    outputs: list[Any]
    editor: Editor
    drawn: gr.State


def build(bench: Bench) -> RowsPanel:
    """The panel's components and their wires. `drawn` holds the version of the rows that the grid shows: its places count there."""
    space = bench.space
    drawn = gr.State("")
    plain: dict[str, Any] = {"show_label": False, "container": False}

    def choice(options: list[Any], element: str, width: int) -> gr.Dropdown:
        return gr.Dropdown(options, value=options[0][1], min_width=width, scale=2, elem_id=element, **plain)

    with gr.Row(equal_height=True, elem_classes="wb-filters"):
        search = gr.Textbox(placeholder=words.SEARCH, max_lines=1, scale=5, min_width=170, elem_id="search", **plain)
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
                column_widths=["7%", "6%", "28%", "22%", "7%", "10%", "10%", "10%"], buttons=[], max_chars=90,
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
        seen = marks(space, rows)
        gone = bool(asked[TOOL]) and asked[TOOL] not in tools
        if gone:  # the filter's last row went: a choice that no longer stands would block every press
            asked[TOOL] = ""
        matching = find(rows.entries, make_query(*asked), problems=seen.problems, split=seen.split, only=only.now(space, rows) if only else None)
        number = min(max(int(number or 0), 0), pages(len(matching)) - 1)
        here = matching[number * PAGE : (number + 1) * PAGE]
        choices = gr.Dropdown(choices=[(words.ANY_TOOL, ""), *tools], **({"value": ""} if gone else {}))
        return [grid_values(rows, here, seen), where_html(rows, matching, number, only is not None), rows.version, rows.version, number, choices]

    inputs, outputs = [*query, bench.only, page], [grid, where, bench.version, drawn, page, tool]
    panel = RowsPanel(refresh, inputs, outputs, editor, drawn)
    first: Any = lambda *values: refresh(*values[:-1], 0)  # noqa: E731  another filter begins at the first page
    # Not `search.input`: gradio tells it for keys alone, not for what is pasted or dictated.
    gr.on([search.change, *(f.input for f in query[1:])], shown(first), inputs, outputs, trigger_mode="always_last", **QUIET)
    everything.click(shown(lambda: ["", *[""] * 5, "place", None, *refresh("", *[""] * 5, "place", None, 0)]), None, [*query, bench.only, *outputs], **QUIET)
    back.click(shown(lambda *v: refresh(*v[:-1], (v[-1] or 0) - 1)), inputs, outputs, **QUIET)
    forth.click(shown(lambda *v: refresh(*v[:-1], (v[-1] or 0) + 1)), inputs, outputs, **QUIET)
    grid.select(shown(select_row(bench)), [opened, typed, drawn], [bench.message, *editor.outputs], **QUIET)
    grid.input(shown(typed_cells(bench, refresh)), [grid, opened, typed, drawn, *bench.inputs, *inputs], [*bench.outputs, *editor.outputs, *outputs], **QUIET)
    apply.click(shown(do_bulk(bench)), [grid, action, scope, drawn, *query, bench.only, *bench.inputs], bench.outputs, **QUIET)
    opening.change(shown(lambda form: lesson_html(space, *_what(form))), opened, lesson, **QUIET)
    return panel


def _what(form: Form | None) -> tuple[Draft | None, Example | None]:
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
            change = bulk(rows, action, ticked(cells) if scope == "ticked" else found(bench.space, rows, *asked))
        except DataError as exc:
            return [note(str(exc), "bad"), *[gr.skip()] * 3]
        return bench.settle(change, drawn, version, count)[2]

    return run


def typed_cells(bench: Bench, refresh: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """What was typed into the grid is saved at once; a tick alone changes nothing. A refused edit puts the grid back."""

    def typed_into(cells: Any, form: Form | None, typed: Any, drawn: str, version: str, count: float, *asked: Any) -> list[Any]:
        try:
            change = edit_cells(as_drawn(bench.space, drawn), cells)
        except DataError as exc:
            return [note(str(exc), "bad"), *[gr.skip()] * 6, *refresh(*asked)]
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
