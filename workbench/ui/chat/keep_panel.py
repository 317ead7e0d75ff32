"""The panel that keeps a chat, opens or deletes a kept one, and exports it."""

from __future__ import annotations

import time
from typing import Any

import gradio as gr

from workbench.errors import InputError, WorkbenchError
from workbench.files import write_atomic
from workbench.ui.chat import kept, reload
from workbench.ui.chat.panel import ChatPanel, tools_of
from workbench.ui.chat.talk import Chat
from workbench.ui.downloads import download_folder, fetched
from workbench.ui.errors import shown
from workbench.ui.highlight import note
from workbench.ui.quiet import QUIET
from workbench.ui.words import chat as words
from workbench.workspace import Workspace

SURE_SECONDS = 10.0  # for which a first press is remembered


def export(space: Workspace, chat: Chat, form: str) -> str:
    """Write the chat as "json" or "html" for the browser to fetch; returns the file's path. Raises `InputError` for an empty or growing chat."""
    _whole(chat)
    name = f"{chat.name or 'chat'}.{form}"
    path = download_folder(space) / name
    write_atomic(path, kept.chat_json(chat, space.model_name) if form == "json" else kept.chat_html(chat, space.model_name, tools_of(space)))
    return str(path)


def _whole(chat: Chat) -> None:
    if not chat.exchanges:
        raise InputError(words.NOTHING_TO_KEEP)
    if not all(piece.done for side in chat.exchanges[-1].asked() for piece in side.pieces):
        raise InputError(words.STILL_GOING)


def build(space: Workspace, panel: ChatPanel) -> None:
    """The panel's components and their wires."""
    folder = space.chats_dir
    with gr.Accordion(words.KEEP_TITLE, open=False, elem_id="chat-keep"):
        with gr.Row(equal_height=True, elem_classes="wb-runtop"):
            name = gr.Textbox(label=words.KEEP_NAME, max_lines=1, scale=2, min_width=140, elem_id="chat-keep-name")
            save = gr.Button(words.KEEP, size="sm", min_width=110, scale=1, elem_id="chat-keep-save")
            chosen = gr.Dropdown([], label=words.KEPT_CHATS, scale=2, min_width=140, elem_id="chat-kept", allow_custom_value=True)
            load = gr.Button(words.OPEN, size="sm", min_width=80, scale=1, elem_id="chat-keep-open")
            remove = gr.Button(words.DELETE, size="sm", min_width=80, scale=1, elem_id="chat-kept-delete")
            exports = {form: gr.Button(title, size="sm", min_width=110, scale=1, elem_id=f"chat-export-{form}") for form, title in
                       (("json", words.EXPORT_JSON), ("html", words.EXPORT_HTML))}  # fmt: skip
        said = gr.HTML(elem_id="chat-keep-message", elem_classes="wb-tight")
        file = gr.DownloadButton(visible="hidden", elem_id="chat-export-file")
        sure = gr.State(None)  # the chat that a first press meant, and when

    def kept_now(request: gr.Request, chat: Chat, wanted: str | None) -> list[Any]:
        try:
            _whole(chat)
            found = kept.keep(folder, wanted or "", chat, space.model_name)
        except WorkbenchError as exc:
            return [note(str(exc), "warn"), gr.skip()]
        reload.write(space, str(request.session_hash), chat)  # with its name
        return [note(words.KEPT_AS.format(name=found), "ok"), gr.Dropdown(choices=kept.names(folder), value=found)]

    def opened(request: gr.Request, chat: Chat, left: str | None, right: str | None, wanted: str | None) -> list[Any]:
        stay = [gr.skip()] * (len(panel.outputs) + 2)
        if panel.busy(str(request.session_hash)):
            return [note(words.STILL_GOING, "warn"), *stay]
        try:
            found = kept.read(folder, wanted or "")
        except WorkbenchError as exc:
            return [note(str(exc), "warn"), *stay]
        reload.write(space, str(request.session_hash), found)
        return [note(words.OPENED.format(name=found.name, count=len(found.exchanges)), "ok"), *panel.draw(found, left, right), found, found.name]

    def exporting(form: str) -> Any:
        def made(chat: Chat) -> list[Any]:
            try:
                return [export(space, chat, form), note(words.EXPORTED, "ok")]
            except WorkbenchError as exc:
                return [None, note(str(exc), "warn")]

        return shown(made)

    def deleted(request: gr.Request, chat: Chat, wanted: str | None, first: tuple[str, float] | None) -> list[Any]:
        """The first press asks, the second deletes."""
        if not wanted:
            return [note(words.CHOOSE_KEPT, "warn"), gr.skip(), *calm()]
        if wanted not in kept.names(folder):
            return [note(words.NO_SUCH_CHAT.format(name=wanted), "warn"), gr.Dropdown(choices=kept.names(folder), value=None), *calm()]
        if first is None or first[0] != wanted or time.monotonic() - first[1] > SURE_SECONDS:
            return [note(words.DELETE_ASKED.format(name=wanted), "warn"), gr.skip(), gr.Button(words.SURE_DELETE, variant="stop"), (wanted, time.monotonic())]
        try:
            gone = kept.delete(folder, wanted)
        except WorkbenchError as exc:
            return [note(str(exc), "warn"), gr.Dropdown(choices=kept.names(folder), value=None), *calm()]
        if chat.name == gone:  # the chat on the screen is kept no more: its name is free
            chat.name = ""
            reload.write(space, str(request.session_hash), chat)
        return [note(words.DELETED.format(name=gone), "ok"), gr.Dropdown(choices=kept.names(folder), value=None), *calm()]

    def calm() -> list[Any]:
        """The button as it was before a first press."""
        return [gr.Button(words.DELETE, variant="secondary"), None]

    save.click(shown(kept_now), [panel.chat, name], [said, chosen], **QUIET)
    chosen.focus(shown(lambda: gr.Dropdown(choices=kept.names(folder))), None, chosen, **QUIET)
    load.click(shown(opened), [panel.chat, panel.left, panel.right, chosen], [said, *panel.outputs, panel.chat, name], **QUIET)
    remove.click(shown(deleted), [panel.chat, chosen, sure], [said, chosen, remove, sure], **QUIET)
    chosen.input(shown(calm), None, [remove, sure], **QUIET)
    for form, button in exports.items():
        fetched(button.click(exporting(form), panel.chat, [file, said], **QUIET), file)
