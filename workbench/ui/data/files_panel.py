"""Import and export: what a file holds is shown first, a person chooses, and then it is one change; rows go out as a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from workbench.calls.dialects import message_calls, message_text
from workbench.dataset.changes import Change
from workbench.dataset.checks import is_call
from workbench.dataset.exports import EXPORTS, export_with
from workbench.dataset.imports import Candidate, Preview, alone, preview_file, preview_hub, to_change
from workbench.errors import DataError, WorkbenchError
from workbench.files import write_atomic
from workbench.schema import Example, ToolSpec
from workbench.ui.data.bench import Bench, Pending
from workbench.ui.downloads import download_folder, fetched
from workbench.ui.errors import shown
from workbench.ui.highlight import chip, empty, note
from workbench.ui.quiet import QUIET
from workbench.ui.words import files as words
from workbench.workspace import Workspace

LISTED = 200  # records in the table
SHOWN = 300  # characters of a cell
TICK = 0


# -- what the table shows ------------------------------------------------------------------------


def listed(preview: Preview) -> list[int]:
    """The places of the records in the table: what can't be read first, which nobody would find below its fold, the rest in the file's order.

    Where they are too many, the duplicates come next.
    """
    everything = range(len(preview.candidates))
    many = len(everything) > LISTED
    return sorted(everything, key=lambda i: (preview.candidates[i].row is not None, many and not preview.candidates[i].duplicate, i))[:LISTED]


def as_taken(preview: Preview, mode: str) -> Preview:
    """The preview with the duplicates that count: rows that replace the set repeat none of its rows."""
    return alone(preview) if mode == words.REPLACE else preview


def table_values(preview: Preview, leave_duplicates: bool) -> list[list[Any]]:
    return [_table_row(preview.candidates[i], leave_duplicates) for i in listed(preview)]


def _table_row(candidate: Candidate, leave_duplicates: bool) -> list[Any]:
    row = candidate.row
    if row is None:
        problem = candidate.problem
        return [False, candidate.line, _cut(candidate.raw), "", words.KIND_BROKEN, problem.told if problem else ""]
    kind = words.KIND_CALL if is_call(row) else words.KIND_TEXT
    take = not (leave_duplicates and candidate.duplicate)
    return [take, candidate.line, _cut(row.request), _cut(message_text(row.answer)), kind, candidate.duplicate]


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def chosen_places(preview: Preview, table: Sequence[Sequence[Any]], leave_duplicates: bool) -> list[int]:
    """The places of the rows that come in: as ticked where the table shows them, the usual ones where it does not.

    A tick on a broken line counts for nothing: those come along all or not at all. Raises `DataError` for a table of another shape.
    """
    places = listed(preview)
    if len(table) != len(places) or any(len(line) != len(words.HEADERS) for line in table):
        raise DataError(words.TABLE_SHAPE)
    # The browser may have sorted the table: a record is known by its number.
    by_line = {preview.candidates[i].line: i for i in places}
    ticked = {by_line[int(line[1])]: _is_true(line[TICK]) for line in table if str(line[1]).strip().isdigit() and int(line[1]) in by_line}
    unlisted = set(range(len(preview.candidates))) - set(places)
    usual = [i for i in unlisted if not (leave_duplicates and preview.candidates[i].duplicate)]
    return sorted(i for i in [*usual, *(i for i, tick in ticked.items() if tick)] if preview.candidates[i].row is not None)


def _is_true(value: Any) -> bool:
    return value is True or str(value).lower() == "true"


def counts_html(preview: Preview) -> str:
    """What can come in, in one line, and what else the person should know."""
    parts = [
        f"<b>{words.counted(preview.usable, 'row')} can come in</b>",
        chip(words.counted(preview.problems, "problem"), "bad" if preview.problems else "ok"),
        chip(words.counted(preview.duplicates, "duplicate"), "warn" if preview.duplicates else "ok"),
        chip(f"layout {preview.layout}", "text"), chip(preview.container, "text"),
    ]  # fmt: skip
    notes = [*preview.notes]
    if len(preview.candidates) > LISTED:
        notes.append(words.LISTED.format(shown=LISTED, total=f"{len(preview.candidates):,}"))
    return f'<div style="display:flex;gap:8px;flex-wrap:wrap;align-items:center">{" ".join(parts)}</div>' + "".join(note(n) for n in notes)


def take_label(preview: Preview, table: Sequence[Sequence[Any]], leave_duplicates: bool, broken: bool) -> str:
    """The button's words, with how many rows would come in."""
    try:
        places = chosen_places(preview, table, leave_duplicates)
    except DataError:
        return "Bring in rows"
    extra = f" and {words.counted(preview.broken_lines, 'broken line')}" if broken and preview.broken_lines else ""
    return f"Bring in {words.counted(len(places), 'row')}{extra}"


# -- verbs ---------------------------------------------------------------------------------------


def existing(space: Workspace) -> list[Example | None]:
    return [entry.row for entry in space.rows.read().entries]


def look_file(space: Workspace, path: str) -> Preview:
    """What a dropped file holds; raises `DataError`. Gradio keeps the name that the file had."""
    return preview_file(Path(path), Path(path).name, existing(space))


def look_named(space: Workspace, name: str, split: str, part: str) -> Preview:
    """What a data set of the hub, a folder or a file on this machine holds; raises `DataError`."""
    if not name.strip():
        raise DataError(words.NO_NAME)
    return preview_hub(name, split, existing(space), part.strip() or None)


def plan(preview: Preview | None, table: Sequence[Sequence[Any]], leave_duplicates: bool, broken: bool, mode: str) -> Change:
    """The change that brings the chosen rows in; raises `DataError`."""
    if preview is None:
        raise DataError(words.NOTHING_SEEN)
    places = chosen_places(as_taken(preview, mode), table, leave_duplicates)
    return to_change(preview, places, keep_broken=broken, replace=mode == words.REPLACE)


def missing_tools(space: Workspace, preview: Preview) -> list[ToolSpec]:
    """The tools that the rows describe and the book of tools does not have."""
    known = space.tools.read().tools
    return [tool for tool in preview.tools if tool.name not in known]


def unknown_calls(space: Workspace, preview: Preview) -> list[str]:
    """The tools that the rows call and that neither the book of tools nor the rows themselves describe."""
    try:
        known = {*space.tools.read().tools, *(tool.name for tool in preview.tools)}
    except WorkbenchError:
        return []
    called = {call.name for c in preview.candidates if c.row is not None for call in message_calls(c.row.answer)}
    return sorted(called - known)


def add_tools(space: Workspace, tools: Sequence[ToolSpec]) -> str:
    """Put tools into the book, each checked; the sentence that says which came and which could not."""
    added, refused = [], []
    version = space.tools.read().version
    for tool in tools:
        try:
            version = space.tools.save(tool, version).version
            added.append(tool.name)
        except WorkbenchError as exc:
            refused.append(str(exc))
    said = f"{words.counted(len(added), 'tool')} came into data/tools.json" + (f": {', '.join(added[:8])}." if added else ".")
    return said + (f" {len(refused)} could not: {refused[0]}" if refused else "")


def export_file(space: Workspace, style: str, only_approved: bool) -> tuple[str, str]:
    """Write the rows as a file to download: its path, and what to know about it. Raises `DataError` where there is nothing."""
    found = space.rows.read()
    rows = [row for row in found.rows if row.status == "approved" or not only_approved]
    if not rows:
        raise DataError(words.NONE_APPROVED if only_approved and found.rows else words.NO_ROWS)
    made = export_with(space.tools, rows, style)
    target = download_folder(space) / f"{space.rows.path.stem}-{style}{made.suffix}"
    write_atomic(target, made.data)
    left = [f"{words.counted(len(found.problems), 'line')} that can't be read stayed behind."] if found.problems else []
    return str(target), " ".join([f"{words.counted(len(rows), 'row')} in {target.name}.", *made.notes, *left])


# -- what the handlers fill ----------------------------------------------------------------------


def opened(space: Workspace, preview: Preview, leave_duplicates: bool = True) -> list[Any]:
    """The values for the preview's components: state, counts, group, table, broken, take, tools' line, tools' button."""
    table = table_values(preview, leave_duplicates)
    try:
        tools = missing_tools(space, preview)
    except WorkbenchError:
        tools = []  # a broken book of tools is told where it is edited
    names = ", ".join(t.name for t in tools[:8]) + (" …" if len(tools) > 8 else "")
    found = note(words.TOOLS_FOUND.format(count=words.counted(len(tools), "tool"), names=names)) if tools else ""
    strangers = unknown_calls(space, preview)
    unknown = note(words.TOOLS_UNKNOWN.format(names=", ".join(strangers[:8])), "warn") if strangers else ""
    return [
        preview, counts_html(preview) + unknown, gr.update(visible=True), table,
        gr.update(value=False, visible=preview.broken_lines > 0),
        gr.update(value=take_label(preview, table, leave_duplicates, False), interactive=preview.usable + preview.broken_lines > 0),
        gr.update(value=found, visible=bool(tools)), gr.update(visible=bool(tools)),
    ]  # fmt: skip


def closed(text: str = "", kind: str = "") -> list[Any]:
    """The preview's components without a preview."""
    said = note(text, kind) if text else empty(words.NOTHING_YET)
    return [None, said, gr.update(visible=False), [], gr.skip(), gr.skip(), gr.update(visible=False), gr.update(visible=False)]


def guarded(look: Any) -> Any:
    """A handler that opens what `look` finds, or says in the preview's place why there is nothing to see."""

    def run(*args: Any) -> list[Any]:
        try:
            return look(*args)  # type: ignore[no-any-return]
        except WorkbenchError as exc:
            return closed(str(exc), "bad")

    return shown(run)


def take(bench: Bench, preview: Preview | None, table: Any, leave_duplicates: bool, broken: bool, mode: str, version: str, count: float) -> list[Any]:
    """Bring the chosen rows in: the values for `Bench.outputs`, then for the file box and the preview, which close when the rows are in."""
    try:
        change = plan(preview, table, leave_duplicates, broken, mode)
    except WorkbenchError as exc:
        return [note(str(exc), "bad"), *[gr.skip()] * 12]
    rows, said = bench.make(change, version, count)
    done = rows is not None or isinstance(said[-1], Pending)
    return [*said, *([None, *closed()] if done else [gr.skip()] * 9)]


# -- the panel -----------------------------------------------------------------------------------


def build(bench: Bench) -> None:
    """The panel's components and their wires."""
    with gr.Row():
        with gr.Column(scale=3, min_width=420):
            _build_import(bench)
        with gr.Column(scale=1, min_width=260):
            _build_export(bench)


def _build_import(bench: Bench) -> None:
    space = bench.space
    preview = gr.State(None)
    gr.HTML(f'<div class="wb-cardhead">{words.IMPORT_TITLE}</div>')
    with gr.Row(equal_height=True):
        file = gr.File(label=words.DROP_FILE, elem_id="import-file", height=112, min_width=220)
        with gr.Column(min_width=220):
            name = gr.Textbox(label=words.HUB_NAME, placeholder=words.HUB_PLACEHOLDER, max_lines=1, elem_id="import-name")
            with gr.Row(equal_height=True):
                split = gr.Textbox("train", label=words.HUB_SPLIT, max_lines=1, min_width=80, elem_id="import-split")
                part = gr.Textbox(label=words.HUB_PART, max_lines=1, min_width=80, elem_id="import-part")
                look = gr.Button(words.LOOK, size="sm", min_width=70, elem_id="import-look")
    counts = gr.HTML(empty(words.NOTHING_YET), elem_id="import-counts")
    with gr.Column(visible=False, elem_id="import-preview") as group:
        table = gr.Dataframe(
            headers=words.HEADERS, datatype=["bool", "number", "str", "str", "str", "str"], type="array", interactive=True,
            static_columns=[1, 2, 3, 4, 5], max_height=300, show_label=False, elem_id="import-table", wrap=True,
            column_widths=["6%", "6%", "27%", "25%", "8%", "28%"], buttons=[], max_chars=90,
        )  # fmt: skip
        with gr.Row(equal_height=True):
            tools = gr.HTML(visible=False, elem_id="import-tools")
            add = gr.Button(words.ADD_TOOLS, size="sm", visible=False, scale=0, min_width=170, elem_id="import-add-tools")
        with gr.Row(equal_height=True):
            leave = gr.Checkbox(True, label=words.LEAVE_DUPLICATES, container=False, min_width=160, elem_id="import-leave")
            broken = gr.Checkbox(False, label=words.BRING_BROKEN, container=False, min_width=260, elem_id="import-broken")
            mode = gr.Radio([words.ADD, words.REPLACE], value=words.ADD, label=words.MODE, show_label=False, container=False, min_width=260, elem_id="import-mode")
        with gr.Row():
            bring = gr.Button("Bring in rows", variant="primary", min_width=160, elem_id="import-take")
            cancel = gr.Button(words.CANCEL, min_width=80, scale=0, elem_id="import-cancel")

    filled = [preview, counts, group, table, broken, bring, tools, add]
    anew: Any = lambda: [True, words.ADD]  # noqa: E731
    waiting: dict[str, Any] = {"show_progress": "minimal", "show_progress_on": counts}
    file.upload(guarded(lambda p: opened(space, look_file(space, p))), file, filled, **waiting).then(anew, None, [leave, mode], **QUIET)
    look.click(guarded(lambda n, s, p: opened(space, look_named(space, n, s, p))), [name, split, part], filled, **waiting).then(anew, None, [leave, mode], **QUIET)
    file.clear(shown(closed), None, filled, **QUIET)
    cancel.click(shown(lambda: [None, *closed(words.CANCELLED)]), None, [file, *filled], **QUIET)
    label = shown(lambda p, t, keep, b, m: take_label(as_taken(p, m), t, keep, b) if p else gr.skip())
    table.input(label, [preview, table, leave, broken, mode], bring, **QUIET)
    broken.input(label, [preview, table, leave, broken, mode], bring, **QUIET)
    gr.on([leave.input, mode.input], shown(_tick_anew), [preview, leave, broken, mode], [counts, table, bring], **QUIET)
    add.click(shown(lambda p: _add_found(space, p)), preview, [tools, add], **QUIET)
    given = [preview, table, leave, broken, mode]
    bring.click(shown(lambda *a: take(bench, *a)), [*given, *bench.inputs], [*bench.outputs, file, *filled], show_progress="hidden")


def _tick_anew(preview: Preview | None, leave: bool, broken: bool, mode: str) -> list[Any]:
    if preview is None:
        return [gr.skip()] * 3
    seen = as_taken(preview, mode)
    table = table_values(seen, leave)
    return [counts_html(seen), table, take_label(seen, table, leave, broken)]


def _add_found(space: Workspace, preview: Preview | None) -> list[Any]:
    if preview is None:
        return [gr.skip(), gr.skip()]
    return [note(add_tools(space, missing_tools(space, preview)), "ok"), gr.update(visible=False)]


def _build_export(bench: Bench) -> None:
    gr.HTML(f'<div class="wb-cardhead">{words.EXPORT_TITLE}</div>')
    style = gr.Radio([(s.title, key) for key, s in EXPORTS.items()], value="rows", label=words.EXPORT_STYLE, elem_id="export-style")
    approved = gr.Checkbox(False, label=words.ONLY_APPROVED, container=False, elem_id="export-approved")
    give = gr.Button(words.EXPORT, elem_id="export")
    said = gr.HTML(elem_id="export-said")
    file = gr.DownloadButton(visible="hidden", elem_id="export-file")

    def make(key: str, only_approved: bool) -> list[Any]:
        try:
            path, text = export_file(bench.space, key, only_approved)
        except WorkbenchError as exc:
            return [None, note(str(exc), "bad")]
        return [path, note(text, "ok")]

    fetched(give.click(shown(make), [style, approved], [file, said], **QUIET), file)
