"""The panel of answers that a person must look at: what was asked, why it could not be trusted, and a button when it is settled."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from workbench.calls.dialects import DIALECTS, TAG
from workbench.errors import WorkbenchError
from workbench.training.review import Waiting
from workbench.ui.chat.cards import CARDS_JS, reply_html, visible
from workbench.ui.chat.panel import tools_of
from workbench.ui.chat.shown import Tools
from workbench.ui.errors import shown
from workbench.ui.highlight import empty, escape, note
from workbench.ui.quiet import QUIET
from workbench.ui.words import chat as words
from workbench.workspace import Workspace

LISTED = 20  # answers that are shown at once


def list_html(entries: Sequence[Waiting], tools: Tools = None) -> str:
    """The answers that wait, the oldest first, their calls held against `tools`."""
    if not entries:
        return empty(words.HUMAN_NONE)
    more = f'<div class="wb-dim">{escape(words.HUMAN_MORE.format(count=len(entries) - LISTED))}</div>' if len(entries) > LISTED else ""
    return "".join(_entry(entry, tools) for entry in entries[:LISTED]) + more


def _entry(entry: Waiting, tools: Tools) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.time))
    button = f'<button type="button" class="wb-small" data-do="settle" data-key="{escape(entry.key)}">{escape(words.SETTLE)}</button>'
    dialect = DIALECTS.get(entry.dialect, TAG)
    replies = "".join(reply_html(text, dialect=dialect, tools=tools) for text in entry.replies)
    return (
        f'<div class="wb-turn wb-human"><div class="wb-callhead"><b dir="auto">{visible(entry.prompt, 2000)}</b>'
        f'<span class="wb-dim">{visible(entry.adapter, 100)} · {escape(when)}</span>{button}</div>'
        f'<div class="wb-step bad">{visible(entry.reason, 1000)}</div><details><summary>{escape(words.HUMAN_REPLIES)}</summary>{replies}</details></div>'
    )


def build(space: Workspace) -> tuple[gr.State, list[Any], Callable[[Any], list[Any]]]:
    """The panel. Returns what the page has seen of the list, the outputs of drawing it anew, and that drawing (all skipped where nothing changed)."""
    seen = gr.State(None)
    with gr.Accordion(words.HUMAN_TITLE, open=False, elem_id="chat-human") as panel:
        said = gr.HTML(elem_id="chat-human-message", elem_classes="wb-tight")
        listed = gr.HTML(empty(words.HUMAN_NONE), js_on_load=CARDS_JS, elem_id="chat-human-list", elem_classes="wb-tight")
    outputs = [panel, listed, seen]

    def stamp() -> tuple[int, int]:
        try:
            stat = space.review.path.stat()
        except OSError:
            return 0, 0
        return stat.st_mtime_ns, stat.st_size

    def draw(before: Any) -> list[Any]:
        now = stamp()
        if before == now:
            return [gr.skip()] * 3
        try:
            entries = space.review.waiting()
        except WorkbenchError as exc:
            return [gr.skip(), note(str(exc), "bad"), now]
        title = words.HUMAN_SOME.format(count=len(entries)) if entries else words.HUMAN_TITLE
        return [gr.Accordion(label=title), list_html(entries, tools_of(space)), now]

    def hit(event: gr.EventData) -> list[Any]:
        told: dict[str, Any] = event._data or {}
        if told.get("do") != "settle":
            return [gr.skip()] * 4
        try:
            space.review.settle(str(told.get("key")))
            what = note(words.SETTLED, "ok")
        except WorkbenchError as exc:
            what = note(str(exc), "warn")
        return [what, *draw(None)]

    listed.click(shown(hit), None, [said, *outputs], **QUIET)
    return seen, outputs, draw
