"""The panel of tools: the book of tools on the left, one tool in a form on the right."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from workbench.calls.dialects import message_calls
from workbench.calls.tools import ToolSet, argument_fields, infer_spec, no_parameters
from workbench.dataset.changes import Change
from workbench.dataset.rename import rename_calls
from workbench.dataset.rowtools import row_tools
from workbench.dataset.view import facts_of
from workbench.errors import ConflictError, DataError, WorkbenchError
from workbench.schema import Example, ToolSpec
from workbench.ui.data.bench import Bench
from workbench.ui.errors import shown
from workbench.ui.highlight import empty, escape, note
from workbench.ui.quiet import QUIET
from workbench.ui.words import tools as words
from workbench.workspace import Workspace


@dataclass(frozen=True)
class Typed:
    """The form as it stands: four texts."""

    name: str = ""
    description: str = ""
    parameters: str = ""
    mock: str = ""


@dataclass(frozen=True)
class View:
    """What a handler shows. `opened` is the tool in the form (None for a new one), `form` the texts to put into it (None
    leaves them as they are), `armed` what the same press again would do, `touched` whether the tools are others now."""

    tools: ToolSet
    opened: str | None
    form: Typed | None = None
    message: str = ""
    kind: str = ""
    armed: str = ""
    touched: bool = False
    renaming: tuple[str, str] | None = None
    """The tool's name before and now, while rows still call it by the one before."""


# -- what the rows say ----------------------------------------------------------------------------


def rows_calling(space: Workspace) -> Counter[str]:
    """How many rows' answers call each tool."""
    return Counter(name for entry in space.rows.read().entries for name in facts_of(entry).tools)


def active_rows(space: Workspace) -> dict[int, Example]:
    """Every row that can be read, by its place."""
    return {place: entry.row for place, entry in enumerate(space.rows.read().entries) if entry.row is not None}


def plan_rename(space: Workspace, renaming: tuple[str, str] | None) -> Change:
    """The change that lets the rows call a renamed tool by its new name; raises `DataError`."""
    if renaming is None:
        raise DataError(words.NO_TOOL_OPEN)
    put = rename_calls(active_rows(space), *renaming)
    return Change(put=put, what=words.calls_renamed(*renaming, len(put)) if put else "")


def unknown_rows(space: Workspace, tools: ToolSet) -> dict[str, list[Example]]:
    """The rows that call a tool which neither the book nor the row itself knows, by the tool's name."""
    found: dict[str, list[Example]] = {}
    for entry in space.rows.read().entries:
        names = [name for name in facts_of(entry).tools if name not in tools.tools]
        if names and entry.row is not None:
            own = {t.name for t in row_tools(entry.row) if isinstance(t, ToolSpec)}
            for name in names:
                if name not in own:
                    found.setdefault(name, []).append(entry.row)
    return found


# -- the form -------------------------------------------------------------------------------------


def form_of(spec: ToolSpec | None) -> Typed:
    """The texts of the form for a tool, or for a new one."""
    if spec is None:
        return Typed(parameters=_dump(no_parameters()))
    return Typed(spec.name, spec.description, _dump(spec.parameters), "" if spec.mock is None else _dump(spec.mock))


def read_form(typed: Typed) -> ToolSpec:
    """The tool that the form describes; raises `DataError` where a text is not JSON."""
    parameters = _load(words.PARAMETERS, typed.parameters or "") if (typed.parameters or "").strip() else no_parameters()
    mock = _load(words.MOCK, typed.mock) if (typed.mock or "").strip() else None
    return ToolSpec((typed.name or "").strip(), (typed.description or "").strip(), parameters, mock)


def is_unsaved(tools: ToolSet, opened: str | None, typed: Typed) -> bool:
    """Whether the form holds something that is in no tool yet."""
    before = form_of(tools.tools.get(opened) if opened is not None else None)
    return any((a or "").strip() != (b or "").strip() for a, b in zip(_texts(typed), _texts(before), strict=True))


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def _load(what: str, text: str) -> Any:
    def refuse(word: str) -> None:
        raise DataError(words.not_json(what, f"{word} is not a JSON number"))

    try:
        return json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as exc:
        raise DataError(words.not_json(what, f"{exc.msg} in line {exc.lineno}, column {exc.colno}")) from exc
    except (ValueError, RecursionError) as exc:
        raise DataError(words.not_json(what, "a number or the nesting is too large")) from exc


def _texts(typed: Typed) -> list[str]:
    return [typed.name, typed.description, typed.parameters, typed.mock]


# -- verbs ----------------------------------------------------------------------------------------


def open_tool(space: Workspace, name: str | None, opened: str | None = None, typed: Typed | None = None, armed: str = "") -> View:
    """Put a tool (None: a new one) into the form; text that is not saved is let go at the second press only."""
    tools = space.tools.read()
    wanted = f"open:{name}"
    if typed is not None and is_unsaved(tools, opened, typed) and armed != wanted:
        return View(tools, opened, None, words.UNSAVED, "warn", wanted)
    spec = tools.tools.get(name) if name is not None else None
    return View(tools, name if spec is not None else None, form_of(spec), "" if spec is not None else words.NEW_FORM)


def save_tool(space: Workspace, opened: str | None, typed: Typed, version: str) -> View:
    """Add the tool in the form, or change the opened one; raises `DataError`."""
    spec = read_form(typed)
    if opened is None and spec.name in space.tools.read().tools:
        raise DataError(f"There is a tool {spec.name!r} already: take another name, or open that one to change it.")
    tools = space.tools.save(spec, version, opened)
    form = form_of(tools.tools[spec.name])
    if opened is None or opened == spec.name:
        return View(tools, spec.name, form, words.saved(spec.name), "ok", touched=True)
    left = rename_calls(active_rows(space), opened, spec.name)
    rejected = sum(row.status == "rejected" for row in left.values())
    return View(
        tools, spec.name, form, words.renamed(opened, spec.name, len(left), rejected), "ok", touched=True, renaming=(opened, spec.name) if left else None,
    )  # fmt: skip


def delete_tool(space: Workspace, opened: str | None, version: str, armed: str = "") -> View:
    """Delete the opened tool; while rows call it, at the second press only."""
    if opened is None:
        raise DataError(words.NO_TOOL_OPEN)
    rows, wanted = rows_calling(space)[opened], f"delete:{opened}"
    if rows and armed != wanted:
        return View(space.tools.read(), opened, None, words.still_called(opened, rows), "warn", wanted)
    return View(space.tools.delete(opened, version), None, form_of(None), words.deleted(opened), "ok", touched=True)


def undo(space: Workspace, opened: str | None, version: str) -> View:
    """Take the last change of the tools back."""
    tools = space.tools.undo(version)
    name = opened if opened in tools.tools else None
    return View(tools, name, form_of(tools.tools[name] if name is not None else None), words.UNDONE, "ok", touched=True)


def add_seen(space: Workspace, version: str) -> View:
    """Add every tool that rows call and nobody described, with the arguments of these calls; raises `DataError` if there is none."""
    unknown = unknown_rows(space, space.tools.read())
    if not unknown:
        raise DataError(words.NONE_UNKNOWN)
    names: list[str] = []
    failed: list[str] = []
    for name, rows in unknown.items():
        try:
            tools = space.tools.save(infer_spec(name, [call for row in rows for call in message_calls(row.answer)]), version)
        except ConflictError:
            raise
        except DataError as exc:
            failed.append(str(exc))
            continue
        version = tools.version
        names.append(name)
    tools = space.tools.read()
    opened = names[0] if names else None
    form = form_of(tools.tools[opened]) if opened is not None else None
    return View(tools, opened, form, words.added(names, failed), "warn" if failed else "ok", touched=bool(names))


# -- what is shown --------------------------------------------------------------------------------


def list_html(space: Workspace, tools: ToolSet) -> str:
    """What is to be said beside the list: tools that can't be used, and calls of unknown ones."""
    notes = [note(problem, "bad") for problem in tools.problems]
    unknown = unknown_rows(space, tools)
    if unknown:
        notes.append(note(words.unknown(list(unknown), len({id(row) for rows in unknown.values() for row in rows})), "warn"))
    return ("" if tools.tools else empty(words.EMPTY)) + "".join(notes)


def choices(space: Workspace, tools: ToolSet) -> list[tuple[str, str]]:
    """The list: each tool with the number of rows that call it."""
    counts = rows_calling(space)
    return [(words.listed(name, counts[name]), name) for name in tools.tools]


def fields_html(parameters: str) -> str:
    """The arguments as the form for a call will ask for them; nothing while the schema is no JSON."""
    try:
        value = _load(words.PARAMETERS, parameters or "")
    except WorkbenchError as exc:
        return note(str(exc), "warn")
    if not isinstance(value, dict) or value.get("type", "object") != "object":
        return note(words.NO_OBJECT, "warn")
    fields = argument_fields(ToolSpec("", "", value))
    if not fields:
        return f'<div class="wb-dim">{escape(words.NO_ARGUMENTS)}</div>'
    head = "".join(f"<th>{escape(word)}</th>" for word in words.FIELDS)
    body = "".join(
        f"<tr><td>{escape(f.name)}</td><td>{escape(words.KINDS[f.kind])}{escape(': ' + ', '.join(f.choices)) if f.choices else ''}</td>"
        f"<td>{'yes' if f.required else 'no'}</td><td>{escape(f.help[:300])}</td></tr>"
        for f in fields[:50]
    )
    return f'<table class="wb-runs"><tr>{head}</tr>{body}</table>'


def show(space: Workspace, view: View, count: float) -> list[Any]:
    """The values of the panel's outputs."""
    form: list[Any] = [gr.skip()] * 5
    if view.form is not None:
        form = [*_texts(view.form), fields_html(view.form.parameters)]
    message = note(view.message, view.kind) if view.message else ""
    tools = gr.Radio(choices=choices(space, view.tools), value=view.opened)
    told = [count + 1 if view.touched else gr.skip(), view.renaming, gr.Button(visible=view.renaming is not None)]
    return [message, tools, list_html(space, view.tools), view.tools.version, view.opened, view.armed, *form, *told]


def handled(space: Workspace, act: Callable[..., View]) -> Callable[..., list[Any]]:
    """A handler from a verb `act(*own, opened, version, armed, typed)`: what went wrong is said beside the form, which stays as typed.

    Its inputs are its own, then opened, version, armed, the four texts and the count of changes.
    """

    def run(*args: Any) -> list[Any]:
        *own, opened, version, armed, name, description, parameters, mock, count = args
        try:
            view = act(*own, opened, version, armed, Typed(name, description, parameters, mock))
        except WorkbenchError as exc:
            try:
                # After a conflict the list shows what stands there now, and the next press is meant for that.
                view = View(space.tools.read(), opened, None, str(exc), "bad")
            except WorkbenchError as broken:
                return [note(str(broken), "bad"), *[gr.skip()] * 13]
        return show(space, view, count)

    return shown(run)


def build(bench: Bench) -> None:
    """The panel, within the column or tab that is open."""
    space = bench.space
    version, opened, armed, renaming = gr.State(""), gr.State(None), gr.State(""), gr.State(None)
    gr.HTML(f'<div class="wb-dim">{escape(words.HELP)}</div>')
    with gr.Row():
        with gr.Column(scale=2, min_width=260):
            book = gr.Radio([], label=words.LIST, elem_id="tools-list")
            aside = gr.HTML()
            with gr.Row():
                new = gr.Button(words.NEW, size="sm", min_width=90, elem_id="tools-new")
                seen = gr.Button(words.ADD_SEEN, size="sm", min_width=180, elem_id="tools-seen")
        with gr.Column(scale=3, min_width=360):
            with gr.Row():
                save = gr.Button(words.SAVE, variant="primary", size="sm", min_width=90, elem_id="tools-save")
                delete = gr.Button(words.DELETE, size="sm", min_width=90, elem_id="tools-delete")
                back = gr.Button(words.UNDO, size="sm", min_width=90, elem_id="tools-undo")
            message = gr.HTML(elem_id="tools-message")
            rename = gr.Button(words.RENAME, size="sm", visible=False, elem_id="tools-rename")
            name = gr.Textbox(label=words.NAME, info=words.NAME_INFO, max_lines=1, elem_id="tools-name")
            description = gr.Textbox(label=words.DESCRIPTION, info=words.DESCRIPTION_INFO, lines=2, elem_id="tools-description")
            parameters = gr.Code(label=words.PARAMETERS, language="json", lines=6, max_lines=20, elem_id="tools-parameters")
            fields = gr.HTML()
            mock = gr.Code(label=words.MOCK, language="json", lines=3, max_lines=14, elem_id="tools-mock")
    state = [opened, version, armed, name, description, parameters, mock, bench.changed]
    outputs = [message, book, aside, version, opened, armed, name, description, parameters, mock, fields, bench.changed, renaming, rename]

    def wire(event: Any, act: Callable[..., View], *own: Any) -> None:
        event(handled(space, act), [*own, *state], outputs, **QUIET)

    wire(book.input, lambda n, o, v, a, t: open_tool(space, n, o, t, a), book)
    wire(new.click, lambda o, v, a, t: open_tool(space, None, o, t, a))
    wire(save.click, lambda o, v, a, t: save_tool(space, o, t, v))
    wire(delete.click, lambda o, v, a, t: delete_tool(space, o, v, a))
    wire(back.click, lambda o, v, a, t: undo(space, o, v))
    wire(seen.click, lambda o, v, a, t: add_seen(space, v))
    parameters.change(shown(fields_html), parameters, fields, **QUIET)
    rename.click(bench.changing(lambda pair: plan_rename(space, pair)), [renaming, *bench.inputs], bench.outputs, **QUIET)
    wire(bench.page.load, lambda o, v, a, t: first(space))

    def recount(pair: tuple[str, str] | None) -> list[Any]:
        left = pair is not None and bool(rename_calls(active_rows(space), *pair))
        try:
            tools = space.tools.read()
        except WorkbenchError as exc:
            return [gr.skip(), note(str(exc), "bad"), gr.Button(visible=left)]
        return [gr.Radio(choices=choices(space, tools)), list_html(space, tools), gr.Button(visible=left)]

    bench.drawn_when_seen("tools", recount, [renaming], [book, aside, rename])


def first(space: Workspace) -> View:
    """The panel as a page begins with it: the first tool is open."""
    tools = space.tools.read()
    name = next(iter(tools.tools), None)
    return View(tools, name, form_of(tools.tools[name] if name is not None else None))
