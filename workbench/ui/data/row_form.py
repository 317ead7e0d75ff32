"""The form of one row: its turns, its calls with argument fields made from the tool's schema, and its review."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from workbench.calls.arguments import ArgumentField
from workbench.dataset.changes import Change
from workbench.dataset.draft import CallDraft, Draft, same
from workbench.errors import WorkbenchError
from workbench.schema import PINS, ROLES, STATUSES
from workbench.ui import words
from workbench.ui.data.bench import Bench, refusal
from workbench.ui.data.editor import Editor, Form, delete, duplicate, mend_line, neighbour, open_row, opened_draft, review, save
from workbench.ui.data.lesson import lesson_html
from workbench.ui.data.turns import Shape, Tools, answer_with, change_call, field_value, read_draft, shape_of, with_call, with_turn, without_turn
from workbench.ui.errors import shown
from workbench.ui.highlight import chip, help_text, note

PIN_CHOICES = [(words.PIN_NONE, ""), *((words.PIN_WORDS[p], p) for p in PINS)]


def build(editor: Editor) -> None:
    """The form, drawn anew for every row that is opened and every change of its structure."""

    # One drawing at a time: gradio keeps one table of events a page, and two drawings at once break it.
    @gr.render(inputs=[editor.opened], triggers=[editor.bench.page.load, editor.opening.change], show_progress="hidden", concurrency_limit=1)  # type: ignore[untyped-decorator]
    def draw(form: Form | None) -> None:
        form = form or Form()
        if form.broken:
            _draw_broken(editor, form)
        else:
            _Drawn(editor, form).draw()


def _kept(name: str) -> dict[str, Any]:
    """A component that is the same one in every drawing of the form, with the values of the new one."""
    return {"key": name, "preserved_by_key": []}


def title_html(form: Form) -> str:
    """Which row is open, and for the page's keys which drawing of the form and which visit of the row this is."""
    row = "" if form.place is None else form.place + 1
    source = f" {chip(form.draft.source, 'warn')}" if form.draft.source else ""
    said = words.NEW_ROW.capitalize() if form.place is None else f"Row {row}: {words.CANT_BE_USED}" if form.broken else f"Row {row}{source}"
    return f'<div class="wb-rowtitle" data-serial="{form.serial}" data-visit="{form.visit}" data-row="{row}">{said}</div>'


def _draw_broken(editor: Editor, form: Form) -> None:
    bench = editor.bench
    gr.HTML(title_html(form), elem_id="row-title", **_kept("row-title"))
    line = gr.Textbox(form.broken, label=words.BROKEN_LINE, lines=8, max_lines=16, interactive=True, elem_id="row-line", **_kept("row-line"))
    with gr.Row():
        mend = gr.Button(words.MEND, variant="primary", elem_id="row-save", **_kept("row-save"), min_width=90)
        away = gr.Button(words.DELETE_ROW, variant="stop", elem_id="row-delete", **_kept("row-delete"), min_width=90)
    state = gr.State(form)
    outputs = [*bench.outputs, *editor.outputs]
    mended = editor.change(mend_line, "same")  # type: ignore[arg-type]
    gone = editor.change(lambda f, _: delete(f), "same")
    mend.click(shown(mended), [state, line, *bench.inputs, *editor.query], outputs, **editor.quiet)
    away.click(shown(gone), [state, line, *bench.inputs, *editor.query], outputs, **editor.quiet)
    line.input(lambda text: text, line, editor.typed, **editor.quiet)


@dataclass(frozen=True)
class _Move:
    """An event that changes the form's structure: `change` takes the draft, and the value of `own` if there is one."""


    event: Any
    change: Callable[..., Draft]
    own: Any = None


class _Drawn:
    """One drawing of the form: its components in the order of `read_draft`, and the handlers that read them."""

    def __init__(self, editor: Editor, form: Form) -> None:
        self.editor, self.form = editor, form
        self.tools: Tools = _tools(editor.bench)
        self.shape: Shape = shape_of(form.draft, self.tools)
        self.fields: list[Any] = []
        self.moves: list[_Move] = []

    def draw(self) -> None:
        draft, last = self.form.draft, len(self.form.draft.turns) - 1
        users = [i for i, t in enumerate(draft.turns) if t.role == "user"]
        gr.HTML(title_html(self.form), elem_id="row-title", **_kept("row-title"))
        self._main_buttons()
        for i in range(len(draft.turns)):
            with gr.Column(elem_classes="wb-turn-form", min_width=100, key=f"turn-{i}"):
                self._turn(i, "row-answer" if i == last else "row-request" if users and i == users[-1] else f"row-turn-{i}", i == last)
        plain: dict[str, Any] = {"show_label": False, "container": False, "interactive": True}
        status = gr.Radio(list(STATUSES), value=draft.status, label=words.STATUS, elem_id="row-status", **_kept("row-status"), **plain)
        with gr.Row(equal_height=True, elem_classes="wb-review", key="row-review"):
            remark = gr.Textbox(draft.note, label=words.NOTE, placeholder=words.NOTE, max_lines=2, elem_id="row-note", **_kept("row-note"), min_width=160, scale=3, **plain)
            pin = gr.Dropdown(PIN_CHOICES, value=draft.pin, label=words.PIN, elem_id="row-pin", **_kept("row-pin"), min_width=130, scale=2, **plain)
        self.fields += [status, pin, remark]
        self._other_buttons()
        self._wire()

    def _turn(self, place: int, element: str, is_answer: bool) -> None:
        turn, calls = self.form.draft.turns[place], self.shape[place].calls
        usual = [t.role for t in self.form.draft.turns] == ["user", "assistant"]
        plain: dict[str, Any] = {"show_label": False, "container": False, "interactive": True}
        with gr.Row(equal_height=True, elem_classes="wb-turnhead", key=f"head-{place}"):
            role: Any = gr.Dropdown(list(ROLES), value=turn.role, min_width=100, scale=2, visible=not usual, elem_id=f"{element}-role", **_kept(f"{element}-role"), **plain)
            self.moves.append(_Move(role.input, lambda d, _: d, role))  # another role has another label and other buttons
            if is_answer and turn.role == "assistant":
                kinds = [(words.ANSWER_TEXT, "text"), (words.ANSWER_CALL, "call")]
                kind = gr.Radio(kinds, value="call" if calls else "text", label=words.SAYS["assistant"], min_width=250, scale=5, elem_id="row-kind", **_kept("row-kind"), **plain)
                self.moves.append(_Move(kind.input, lambda d, k: answer_with(d, k, self.tools), kind))
            if turn.role == "assistant" and (calls or not is_answer):
                more = gr.Button(words.ADD_CALL, size="sm", min_width=90, scale=0, elem_id=f"{element}-more", **_kept(f"{element}-more"))
                self.moves.append(_Move(more.click, lambda d: with_call(d, place, self.tools)))
            if not usual:
                out = gr.Button(words.TAKE_OUT, size="sm", min_width=70, scale=0, elem_id=f"{element}-out", **_kept(f"{element}-out"))
                self.moves.append(_Move(out.click, lambda d: without_turn(d, place)))
        labelled = turn.role == "tool" or (usual and turn.role == "user")
        text = gr.Textbox(
            turn.text, label=words.SAYS.get(turn.role, turn.role), show_label=labelled, placeholder=words.PLACEHOLDERS.get(turn.role, ""),
            lines=2 if not calls else 1, max_lines=7,
            container=labelled, interactive=True, elem_id=element, visible=bool(not calls or turn.text), **_kept(element),
        )
        self.fields += [role, text]
        for number, call in enumerate(turn.calls):
            self._call(place, number, call, calls[number].fields)

    def _call(self, place: int, number: int, call: CallDraft, fields: tuple[ArgumentField, ...] | None) -> None:
        names = list(dict.fromkeys([*self.tools, *([call.name] if call.name else [])]))
        mark = f"row-call-{place}-{number}"
        with gr.Row(equal_height=True, elem_classes="wb-turnhead", key=f"{mark}-head"):
            plain: dict[str, Any] = {"interactive": True, "show_label": False, "container": False}
            tool = gr.Dropdown(names, value=call.name or None, label=words.TOOL, min_width=160, scale=5, allow_custom_value=True, elem_id=mark, **_kept(mark), **plain)
            as_json = gr.Checkbox(fields is None, label="JSON", min_width=64, scale=1, elem_id=f"{mark}-json", **_kept(f"{mark}-json"), container=False, interactive=True)
            out = gr.Button(words.TAKE_OUT, size="sm", min_width=70, scale=0, elem_id=f"{mark}-out", **_kept(f"{mark}-out"))
        self.fields.append(tool)
        if fields is None:
            unknown = words.UNKNOWN_TOOL if call.name and call.name not in self.tools else None
            shown_as = _kept(f"{mark}-arguments")
            self.fields.append(gr.Textbox(
                call.arguments, label=words.ARGUMENTS_JSON, info=unknown, lines=2, max_lines=10, interactive=True, elem_id=f"{mark}-arguments", **shown_as,
            ))
        else:
            if not fields:
                gr.HTML(f'<div class="wb-dim">{words.NO_ARGUMENTS}</div>', elem_classes="wb-tight", **_kept(f"{mark}-none"))
            self.fields += [_argument(f, field_value(f, call.arguments), f"{mark}-{i}") for i, f in enumerate(fields)]
        self.moves += [
            _Move(tool.input, lambda d, name: change_call(d, place, number, replace(call, name=name or "", arguments="{}", raw=False)), tool),
            _Move(as_json.input, lambda d, raw: change_call(d, place, number, replace(d.turns[place].calls[number], raw=bool(raw))), as_json),
            _Move(out.click, lambda d: change_call(d, place, number, None)),
        ]

    def _main_buttons(self) -> None:
        with gr.Row(elem_classes="wb-actions", key="row-actions-1"):
            self.save = gr.Button(words.ADD_ROW if self.form.place is None else words.SAVE_ROW, variant="primary", elem_id="row-save", **_kept("row-save"), min_width=60, size="sm")
            self.approve = gr.Button(words.APPROVE, elem_id="row-approve", **_kept("row-approve"), min_width=60, size="sm")
            self.reject = gr.Button(words.REJECT, elem_id="row-reject", **_kept("row-reject"), min_width=60, size="sm")
            self.previous = gr.Button(words.PREVIOUS, elem_id="row-previous", **_kept("row-previous"), min_width=60, size="sm")
            self.next = gr.Button(words.NEXT, elem_id="row-next", **_kept("row-next"), min_width=50, size="sm")
            self.save_next = gr.Button("", visible="hidden", elem_id="row-save-next", **_kept("row-save-next"))  # for its keyboard shortcut alone

    def _other_buttons(self) -> None:
        with gr.Row(elem_classes="wb-actions", key="row-actions-2"):
            self.copy = gr.Button(words.DUPLICATE, elem_id="row-duplicate", **_kept("row-duplicate"), min_width=70, size="sm")
            self.turn = gr.Button(words.ADD_TURN, elem_id="row-turn", **_kept("row-turn"), min_width=70, size="sm")
            self.new = gr.Button(words.NEW_EMPTY, elem_id="row-new", **_kept("row-new"), min_width=50, size="sm")
            self.delete = gr.Button(words.DELETE_ROW, variant="stop", elem_id="row-delete", **_kept("row-delete"), min_width=60, size="sm")

    # -- wires -------------------------------------------------------------------------------------

    def _read(self, values: Sequence[Any], *, lenient: bool = False) -> Draft:
        return read_draft(self.shape, values, self.tools, self.form.draft, lenient=lenient)

    def _restructure(self, move: _Move) -> Callable[..., list[Any]]:
        """A handler that draws the form anew with another structure, keeping what was typed."""
        count = len(self.fields)

        def run(*values: Any) -> list[Any]:
            draft = self._read(values[:count], lenient=True)
            changed = self.form.redrawn(move.change(draft, *values[count:]))
            return [changed, changed.serial, changed.draft]

        return shown(run)

    def _wire(self) -> None:
        editor, form = self.editor, self.form
        bench, outputs = editor.bench, [*editor.bench.outputs, *editor.outputs]
        for move in [*self.moves, _Move(self.turn.click, with_turn)]:
            move.event(self._restructure(move), [*self.fields, *([move.own] if move.own is not None else [])], editor.outputs, **editor.quiet)

        def acting(plan: Callable[[Form, Draft], Change], then: str) -> Callable[..., list[Any]]:
            act, count = editor.change(plan, then), len(self.fields)

            def run(*args: Any) -> list[Any]:
                try:
                    draft = self._read(args[:count])
                except WorkbenchError as exc:
                    return [refusal(exc), *[gr.skip()] * 6]
                return act(form, draft, *args[count:])

            return shown(run)

        inputs = [*self.fields, *bench.inputs, *editor.query]
        self.save.click(acting(save, "same"), inputs, outputs, **editor.quiet)
        self.save_next.click(acting(save, "next"), inputs, outputs, **editor.quiet)
        self.approve.click(acting(lambda f, d: review(f, d, "approved"), "next"), inputs, outputs, **editor.quiet)
        self.reject.click(acting(lambda f, d: review(f, d, "rejected"), "next"), inputs, outputs, **editor.quiet)
        self.copy.click(acting(duplicate, "last"), inputs, outputs, **editor.quiet)
        # Deleting takes no field along: a value that its field can't hold must not keep a row from going.
        gone = editor.change(lambda f, _: delete(f), "same")
        self.delete.click(shown(lambda *rest: gone(form, form.draft, *rest)), [*bench.inputs, *editor.query], outputs, **editor.quiet)
        self.new.click(lambda: editor.show(Form()), None, editor.outputs, **editor.quiet)
        for button, step in ((self.next, 1), (self.previous, -1)):
            button.click(self._walk(step), [*self.fields, *editor.query], [bench.message, *editor.outputs], **editor.quiet)

        def typing(*values: Any) -> list[Any]:
            try:
                draft = self._read(values)
            except WorkbenchError as exc:
                return [gr.skip(), refusal(f"{words.LESSON_REFUSED} {exc}", "warn")]
            return [draft, lesson_html(bench.space, draft, form.was)]

        # Not `input`: gradio tells it for keys alone, not for what is pasted or dictated.
        gr.on([f.change for f in self.fields], shown(typing), self.fields, [editor.typed, editor.lesson], trigger_mode="always_last", **editor.quiet)

    def _walk(self, step: int) -> Callable[..., list[Any]]:
        editor, form, count = self.editor, self.form, len(self.fields)

        def run(*args: Any) -> list[Any]:
            try:
                typed: Draft | None = self._read(args[:count])
            except WorkbenchError:
                typed = None
            if typed is None or not same(typed, opened_draft(form)):
                return [note(words.UNSAVED, "warn"), *[gr.skip()] * 3]
            found = editor.found(*args[count:])
            place = neighbour(found, form.place, step)
            rows = editor.bench.space.rows.read()
            if place is not None:
                return [gr.skip(), *editor.show(open_row(rows, place))]
            said = words.NOTHING_FOUND if not found else words.LAST_ROW if step > 0 else words.FIRST_ROW
            # The row is drawn again: the keys wait for that.
            return [note(said), *editor.show(open_row(rows, form.place) if form.version == rows.version else form.redrawn(form.draft))]

        return shown(run)


def _argument(field: ArgumentField, value: Any, element: str) -> Any:
    label = f"{field.name}{' *' if field.required else ''}"
    common: dict[str, Any] = {"label": label, "info": help_text(field.help) or None, "interactive": True, "elem_id": element, "min_width": 120, **_kept(element)}
    if field.kind == "choice":
        return gr.Dropdown([*([] if field.required else [""]), *field.choices], value=value, allow_custom_value=False, **common)
    if field.kind == "boolean":
        return gr.Dropdown(["", "true", "false"], value=value or "", **common)
    # Numbers are typed as text: gradio's number box makes 0 of nothing, and rounds what is long.
    hint = {"number": words.A_NUMBER, "integer": words.A_WHOLE_NUMBER, "json": "JSON"}.get(field.kind)
    return gr.Textbox("" if value is None else str(value), placeholder=hint, lines=2 if field.kind == "json" else 1, max_lines=8, **common)


def _tools(bench: Bench) -> Tools:
    try:
        found: Tools = bench.space.tools.read().tools
    except WorkbenchError:
        return {}  # a broken tools file is told on its own panel; the form then shows JSON
    return found
