"""The Data tab: the rows in a grid, one row in a form, import and export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from workbench.calls.dialects import TAG, message_text
from workbench.dataset.checks import COMPARED, balance, is_call, leaks, near_duplicates
from workbench.dataset.formats import decode, parse_jsonl
from workbench.dataset.store import Entry, RowSet, make_row
from workbench.errors import ConflictError, DataError, RowError
from workbench.files import write_atomic
from workbench.schema import STATUSES, Example, ToolCall
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
    places = [i for i, entry in enumerate(rows.entries, 1) if entry.row is not None]
    prompts = [row.request for row in rows.rows]
    approved = sum(row.status == "approved" for row in rows.rows)
    parts = [f"<b>{found.rows} rows</b>", chip(f"{found.calls} calls", "call"), chip(f"{found.texts} texts", "text"), chip(f"{approved} approved", "ok")]
    if rows.problems:
        parts.append(chip(f"{len(rows.problems)} lines can't be used", "bad"))
    if len(prompts) > COMPARED:
        parts.append(chip(f"more than {COMPARED} rows: prompts are not compared", "warn"))
        prompts = []
    for pair in near_duplicates(prompts)[:3]:
        parts.append(chip(f"rows {places[pair.first]} and {places[pair.second]} ask nearly the same", "warn"))
    for name in ("cases.jsonl", "demo.jsonl"):
        for pair in leaks(prompts, _prompts_of(space, name))[:2]:
            parts.append(chip(f"row {places[pair.first]} stands in {name} too", "warn"))
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
    entry = entries[place] if place < len(entries) else None
    rows = space.rows.replace(place, _changed(entry, request, answer, status), version)
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
    if len(cells) != len(rows.entries) or any(len(line) != len(words.GRID_HEADERS) for line in cells):
        raise DataError(words.GRID_SHAPE)
    changed: dict[int, Example] = {}
    for line in cells:
        place = int(line[0]) - 1 if str(line[0]).strip().isdigit() else -1
        if not 0 <= place < len(rows.entries):
            continue
        before = _grid_row(place, rows.entries[place])
        if all(str(line[c] or "") == str(before[c] or "") for c in COLUMNS.values()):
            continue
        request, answer, status = (str(line[COLUMNS[name]] or "") for name in ("request", "answer", "status"))
        changed[place] = _changed(rows.entries[place], request, answer, status or "draft")
    if not changed:
        return View(rows)
    try:
        rows = space.rows.replace_many(changed, version)
    except ConflictError:
        # The grid reports one edit twice now and then: what already stands in the file is no conflict.
        rows = space.rows.read()
        if any(place >= len(rows.entries) or rows.entries[place].row != row for place, row in changed.items()):
            raise
    return View(rows, f"{words.SAVED} {len(changed)} row(s) changed.", next(reversed(changed)))


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
    target = space.root / ".cache" / "export" / "examples.jsonl"
    write_atomic(target, text)
    return str(target)


def _changed(entry: Entry | None, request: str, answer: str, status: str) -> Example:
    """The row that an edit makes of a line. A line that could not be read may be mended as JSON or written anew."""
    if entry is not None and entry.row is None and request.lstrip().startswith("{"):
        loaded = parse_jsonl(request.strip())
        if loaded.problems:
            raise RowError(f"The line still can't be used: {loaded.problems[0].field}: {loaded.problems[0].reason}.", "line")
        return loaded.rows[0]
    return _row(request, answer, status, entry.row if entry else None)


def _row(request: str, answer: str, status: str, was: Example | None) -> Example:
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


def build(space: Workspace, page: gr.Blocks) -> None:
    """The tab's components and their wires."""
    version, place = gr.State(""), gr.State(None)
    counts = gr.HTML(elem_id="data-counts")
    with gr.Row(equal_height=True):
        message = gr.HTML(note(words.DATA_HELP), elem_id="data-message")
        with gr.Column(scale=1, min_width=560), gr.Row():
            keep = gr.Dropdown(["add to the rows", "replace the rows"], value="add to the rows", show_label=False, container=False, min_width=150, elem_id="import-mode")
            load = gr.UploadButton("Import JSONL", file_types=[".json", ".jsonl"], size="sm", min_width=110, elem_id="import")
            give = gr.Button("Export JSONL", size="sm", min_width=110, elem_id="export")
            file = gr.DownloadButton(visible="hidden", elem_id="export-file")
            undo = gr.Button("Undo", size="sm", min_width=70, elem_id="undo")
            redo = gr.Button("Redo", size="sm", min_width=70, elem_id="redo")
    with gr.Row():
        with gr.Column(scale=7):
            grid = gr.Dataframe(
                headers=words.GRID_HEADERS, datatype=["number", "str", "str", "str", "str", "str"], type="array",
                interactive=True, static_columns=[0, 3, 5], max_height=560, show_label=False, elem_id="grid",
                column_widths=["48px", "31%", "33%", "66px", "86px", "15%"], buttons=["fullscreen"], max_chars=90,
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

    def show(view: View, *, form_too: bool = True) -> list[Any]:
        filled = [view.place, *form_values(view.rows, view.place)] if form_too else [gr.skip()] * 6
        text = note(view.message, "ok") if view.message else note(words.DATA_HELP)
        return [grid_values(view.rows), counts_html(space, view.rows), text, view.rows.version, *filled]

    def guarded(verb: Any) -> Any:
        """A verb whose last argument is the version that the page saw.

        What went wrong is said over the grid, and the form keeps its text. If the rows are others by now, the form no
        longer belongs to a place: saving again must not hit whatever row stands there today.
        """
        def run(*args: Any) -> list[Any]:
            try:
                return verb(*args)  # type: ignore[no-any-return]
            except DataError as exc:
                rows = space.rows.read()
                held = [gr.skip()] * 2 if rows.version == args[-1] else [None, f"### {words.ROWS_CHANGED}"]
                return [grid_values(rows), counts_html(space, rows), note(str(exc), "bad"), rows.version, *held, *[gr.skip()] * 4]

        return shown(run)

    def unsaved(held: int | None, texts: Sequence[str]) -> bool:
        """Whether the form holds text that is in no row yet."""
        _, was_request, _, was_answer, was_status = form_values(space.rows.read(), held)
        return list(texts) != [was_request, was_answer, was_status]

    def select(event: gr.SelectData, held: int | None, *texts: str) -> list[Any]:
        number = event.row_value[0] if event.row_value else int(event.index[0]) + 1
        if not str(number).strip().isdigit():
            return [gr.skip()] * 7
        if unsaved(held, texts) and held != int(number) - 1:
            return [note(words.UNSAVED, "warn"), *[gr.skip()] * 6]
        chosen = int(number) - 1
        return [gr.skip(), chosen, *form_values(space.rows.read(), chosen)]

    def typed(cells: Any, held: int | None, *rest: str) -> list[Any]:
        dirty = unsaved(held, rest[:-1])
        view = edit_cells(space, cells, rest[-1])
        if not view.message:
            return [gr.skip()] * 3 + [view.rows.version] + [gr.skip()] * 6
        return show(view, form_too=not dirty)

    # Quick verbs answer the click itself, without the detour over the queue.
    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False}
    texts = [request, answer, status]
    page.load(shown(lambda: show(View(space.rows.read()))), None, everything, **quiet)
    grid.select(shown(select), [place, *texts], [message, place, *form], **quiet)
    grid.input(guarded(typed), [grid, place, *texts, version], everything, **quiet)
    save.click(guarded(lambda p, r, a, s, v: show(save_row(space, p, r, a, s, v))), [place, *texts, version], everything, **quiet)
    add.click(guarded(lambda r, a, s, v: show(add_row(space, r, a, s, v))), [*texts, version], everything, **quiet)
    delete.click(guarded(lambda p, v: show(delete_row(space, p, v))), [place, version], everything, **quiet)
    undo.click(guarded(lambda v: show(View(space.rows.undo(v), words.UNDONE))), version, everything, **quiet)
    redo.click(guarded(lambda v: show(View(space.rows.redo(v), words.REDONE))), version, everything, **quiet)
    load.upload(guarded(lambda f, k, v: show(import_file(space, f, k.startswith("add"), v))), [load, keep, version], everything, **quiet)
    # The file is made at the click, and only then does the browser fetch it.
    give.click(shown(lambda: export_file(space)), None, file, **quiet).then(None, js="() => document.querySelector('#export-file').click()")
    new.click(shown(lambda: [None, *form_values(RowSet((), ""), None)]), None, [place, *form], **quiet)
    kind.input(shown(lambda k, a: CALL_TEXT if k == "tool call" else ("" if a.strip() == CALL_TEXT else a)), [kind, answer], answer, **quiet)
