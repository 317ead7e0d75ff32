"""The Data tab: the rows in a grid, one row in a form, import and export."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from workbench.calls.dialects import TAG, message_text
from workbench.dataset.checks import balance, is_call, leaks, near_duplicates
from workbench.dataset.formats import decode
from workbench.dataset.store import Entry, RowSet, make_row
from workbench.errors import DataError, RowError
from workbench.schema import STATUSES, ToolCall
from workbench.ui import words
from workbench.ui.errors import shown
from workbench.ui.highlight import chip, empty, note
from workbench.workspace import Workspace

CALL_TEXT = TAG.render(ToolCall("get_sensitive_data"))
COLUMNS = {"request": 1, "answer": 2, "status": 4}


@dataclass(frozen=True)
class View:
    """What a handler shows: the grid, the counts, a message, the version the screen now holds, the row in the form."""

    rows: RowSet
    message: str = ""
    place: int | None = None


def grid_values(rows: RowSet) -> list[list[Any]]:
    """The grid's cells, one line an entry; a broken line shows its text and its problem."""
    return [_grid_row(i, entry) for i, entry in enumerate(rows.entries)]


def _grid_row(place: int, entry: Entry) -> list[Any]:
    if entry.row is None:
        problem = f"{entry.problem.field}: {entry.problem.reason}" if entry.problem else ""
        return [place + 1, entry.raw, "", words.KIND_BROKEN, "", problem]
    row = entry.row
    kind = words.KIND_CALL if is_call(row) else words.KIND_TEXT
    return [place + 1, row.request, message_text(row.answer), kind, row.status, ""]


def counts_html(space: Workspace, rows: RowSet) -> str:
    """The strip over the grid: how many calls and texts, and what would fool the curator."""
    if not rows.entries:
        return empty(words.DATA_EMPTY)
    found = balance(rows.rows)
    prompts = [row.request for row in rows.rows]
    approved = sum(row.status == "approved" for row in rows.rows)
    parts = [f"<b>{found.rows} rows</b>", chip(f"{found.calls} calls", "call"), chip(f"{found.texts} texts", "text"), chip(f"{approved} approved", "ok")]
    if rows.problems:
        parts.append(chip(f"{len(rows.problems)} lines can't be used", "bad"))
    for pair in near_duplicates(prompts)[:3]:
        parts.append(chip(f"rows {pair.first + 1} and {pair.second + 1} ask nearly the same", "warn"))
    for name in ("cases.jsonl", "demo.jsonl"):
        for pair in leaks(prompts, _prompts_of(space, name))[:2]:
            parts.append(chip(f"row {pair.first + 1} stands in {name} too", "warn"))
    return f'<div style="display:flex;gap:8px;flex-wrap:wrap;align-items:center">{" ".join(parts)}</div>'


def _prompts_of(space: Workspace, name: str) -> list[str]:
    try:
        return [case.prompt for case in space.cases(name)]
    except DataError:
        return []  # the file is optional; a broken one is told where it is used


# -- verbs ---------------------------------------------------------------------------------------


def add_row(space: Workspace, request: str, answer: str, status: str, version: str) -> View:
    """Add a row at the end; raises `DataError` with the field that is wrong."""
    rows = space.rows.add(_row(request, answer, status, None), version)
    return View(rows, f"{words.SAVED} Row {len(rows.entries)} was added.", len(rows.entries) - 1)


def save_row(space: Workspace, place: int | None, request: str, answer: str, status: str, version: str) -> View:
    """Replace the row in the form."""
    if place is None:
        return add_row(space, request, answer, status, version)
    entries = space.rows.read().entries
    was = entries[place].row if place < len(entries) else None
    rows = space.rows.replace(place, _row(request, answer, status, was), version)
    return View(rows, words.NOTHING_CHANGED if rows.version == version else f"{words.SAVED} Row {place + 1} was changed.", place)


def delete_row(space: Workspace, place: int | None, version: str) -> View:
    """Delete the row in the form; Undo brings it back."""
    if place is None:
        raise DataError("No row is chosen: click a row in the grid first.")
    rows = space.rows.delete(place, version)
    return View(rows, f"Row {place + 1} was deleted; Undo brings it back.", None)


def edit_cells(space: Workspace, cells: Sequence[Sequence[Any]], version: str) -> View:
    """Take in what was typed into the grid: every row whose request, answer or status differs is saved."""
    rows = space.rows.read()
    changed, last = 0, None
    for line in cells:
        place = int(line[0]) - 1 if str(line[0]).strip().isdigit() else -1
        if not 0 <= place < len(rows.entries):
            continue  # an empty line that the grid itself added
        before = _grid_row(place, rows.entries[place])
        if all(str(line[c] or "") == str(before[c] or "") for c in COLUMNS.values()):
            continue
        row = _row(str(line[COLUMNS["request"]] or ""), str(line[COLUMNS["answer"]] or ""), str(line[COLUMNS["status"]] or "draft"), rows.entries[place].row)
        rows = space.rows.replace(place, row, version)
        version, changed, last = rows.version, changed + 1, place
    return View(rows, f"{words.SAVED} {changed} row(s) changed." if changed else words.NOTHING_CHANGED, last)


def import_file(space: Workspace, path: str, keep: bool, version: str) -> View:
    """Add a JSONL file's rows to the set, or put them in its place. Broken lines come along and are named."""
    name = Path(path).name
    before = len(space.rows.read().entries)
    rows = space.rows.import_text(decode(Path(path).read_bytes(), name), version, keep=keep)
    came = len(rows.entries) - (before if keep else 0)
    broken = f" {len(rows.problems)} line(s) can't be used; they are kept and marked “{words.KIND_BROKEN}”." if rows.problems else ""
    return View(rows, f"{words.SAVED} {came} line(s) came in from {name}.{broken}")


def export_file(space: Workspace) -> str:
    """A copy of the set as a file to download."""
    text = "".join(e.raw + "\n" for e in space.rows.read().entries)
    target = Path(tempfile.mkdtemp(prefix="workbench-")) / "examples.jsonl"
    target.write_text(text, encoding="utf-8")
    return str(target)


def _row(request: str, answer: str, status: str, was: Any) -> Any:
    if not request.strip():
        raise RowError("The request is empty: write what the user says.", "request")
    if not answer.strip():
        raise RowError("The answer is empty: write a text, or choose “tool call”.", "answer")
    if status not in STATUSES:
        raise RowError(f"The status must be one of {', '.join(STATUSES)}.", "status")
    # An answer given as tool_calls shows as text: unchanged text leaves the row's own form alone.
    if was is not None and answer == message_text(was.answer):
        answer = was.answer.content
    return make_row(request, answer, status, was)


# -- the tab -------------------------------------------------------------------------------------


def form_values(rows: RowSet, place: int | None) -> list[Any]:
    """Title, request, kind, answer and status for the form; empty for a new row."""
    if place is None or place >= len(rows.entries):
        return [f"### {words.NEW_ROW.capitalize()}", "", "text", "", "draft"]
    entry = rows.entries[place]
    if entry.row is None:
        return [f"### Row {place + 1}: this line can't be used", entry.raw, "text", "", "draft"]
    kind = "tool call" if is_call(entry.row) else "text"
    return [f"### Row {place + 1}", entry.row.request, kind, message_text(entry.row.answer), entry.row.status]


def build(space: Workspace) -> None:
    """The tab's components and their wires."""
    version, place = gr.State(""), gr.State(None)
    with gr.Row(equal_height=True):
        counts = gr.HTML(elem_id="data-counts")
        with gr.Column(scale=2, min_width=560), gr.Row():
            keep = gr.Dropdown(["add to the rows", "replace the rows"], value="add to the rows", show_label=False, container=False, min_width=150, elem_id="import-mode")
            load = gr.UploadButton("Import JSONL", file_types=[".json", ".jsonl"], size="sm", min_width=110, elem_id="import")
            give = gr.DownloadButton("Export JSONL", size="sm", min_width=110, elem_id="export")
            undo = gr.Button("Undo", size="sm", min_width=70, elem_id="undo")
            redo = gr.Button("Redo", size="sm", min_width=70, elem_id="redo")
    message = gr.HTML(note(words.DATA_HELP), elem_id="data-message")
    with gr.Row():
        with gr.Column(scale=7):
            grid = gr.Dataframe(
                headers=words.GRID_HEADERS, datatype=["number", "str", "str", "str", "str", "str"], type="array",
                interactive=True, static_columns=[0, 3, 5], max_height=560, show_label=False, elem_id="grid",
                column_widths=["50px", "34%", "34%", "70px", "90px", "120px"], buttons=["fullscreen"], max_chars=90,
            )
        with gr.Column(scale=4, min_width=330):
            title = gr.Markdown("### New row", elem_id="row-title")
            request = gr.Textbox(label="Request (the user says)", lines=3, max_lines=8, elem_id="row-request")
            kind = gr.Radio(["text", "tool call"], value="text", label="The answer is a", elem_id="row-kind")
            answer = gr.Textbox(label="Answer (the assistant says)", lines=3, max_lines=10, elem_id="row-answer")
            status = gr.Radio(list(STATUSES), value="draft", label="Status", elem_id="row-status")
            with gr.Row():
                save = gr.Button("Save row", variant="primary", elem_id="row-save", min_width=90)
                add = gr.Button("Add as new row", elem_id="row-add", min_width=110)
            with gr.Row():
                new = gr.Button("Clear the form", size="sm", elem_id="row-new", min_width=90)
                delete = gr.Button("Delete row", variant="stop", size="sm", elem_id="row-delete", min_width=90)

    form = [title, request, kind, answer, status]
    everything = [grid, counts, message, version, place, *form]

    def show(view: View, kind_of_note: str = "ok") -> list[Any]:
        text = note(view.message, kind_of_note) if view.message else note(words.DATA_HELP)
        return [grid_values(view.rows), counts_html(space, view.rows), text, view.rows.version, view.place, *form_values(view.rows, view.place)]

    def guarded(verb: Any) -> Any:
        """Run a verb; what went wrong is said over the grid, the rows as they are now are shown, the form keeps its text."""
        def run(*args: Any) -> list[Any]:
            try:
                return show(verb(*args))
            except DataError as exc:
                rows = space.rows.read()
                return [grid_values(rows), counts_html(space, rows), note(str(exc), "bad"), rows.version, gr.skip(), *[gr.skip()] * 5]

        return shown(run)

    def select(held: int | None, event: gr.SelectData) -> list[Any]:
        rows = space.rows.read()
        chosen = int(event.row_value[0]) - 1 if event.row_value else int(event.index[0])
        return [chosen, *form_values(rows, chosen)]

    quiet: dict[str, Any] = {"show_progress": "hidden"}
    gr.on([gr.context.Context.root_block.load], shown(lambda: show(View(space.rows.read()))), None, everything, **quiet)  # type: ignore[union-attr]
    grid.select(shown(select), place, [place, *form], **quiet)
    grid.input(guarded(lambda cells, v: edit_cells(space, cells, v)), [grid, version], everything, **quiet)
    save.click(guarded(lambda p, r, a, s, v: save_row(space, p, r, a, s, v)), [place, request, answer, status, version], everything, **quiet)
    add.click(guarded(lambda r, a, s, v: add_row(space, r, a, s, v)), [request, answer, status, version], everything, **quiet)
    delete.click(guarded(lambda p, v: delete_row(space, p, v)), [place, version], everything, **quiet)
    undo.click(guarded(lambda: View(space.rows.undo(), "The last change was taken back.")), None, everything, **quiet)
    redo.click(guarded(lambda: View(space.rows.redo(), "The change was made again.")), None, everything, **quiet)
    load.upload(guarded(lambda f, k, v: import_file(space, f, k.startswith("add"), v)), [load, keep, version], everything, **quiet)
    give.click(shown(lambda: export_file(space)), None, give, **quiet)
    new.click(shown(lambda: [None, *form_values(RowSet((), ""), None)]), None, [place, *form], **quiet)
    kind.input(shown(lambda k, a: CALL_TEXT if k == "tool call" else ("" if a.strip() == CALL_TEXT else a)), [kind, answer], answer, **quiet)


