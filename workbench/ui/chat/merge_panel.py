"""The panel that makes a model of its own of the right pane's adapter and its base."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr

from workbench.errors import InputError
from workbench.models.catalog import display_name
from workbench.models.merge_plan import GIB
from workbench.ui.chat.panel import ChatPanel
from workbench.ui.chat.voices import choice_words, voice_of
from workbench.ui.errors import sentence
from workbench.ui.header import waiting_words
from workbench.ui.highlight import note, plain
from workbench.ui.quiet import STREAM
from workbench.ui.words import chat as words
from workbench.workspace import Workspace

PAUSE = 0.5  # seconds between two looks at how far it is


def merge(space: Workspace, voice: str | None, name: str) -> Iterator[str]:
    """Merge an adapter; yields what there is to say, as HTML. Raises `WorkbenchError`.

    Whoever stops reading stops nothing: what is made is a file that all pages see.
    """
    if voice is None or voice not in space.adapters():
        raise InputError(words.MERGE_WHICH)
    ticket = space.merge(voice, name)
    while not ticket.finished.is_set():
        yield note(f"{ticket.label}: {waiting_words(space, ticket, '')} {words.MERGE_LEFT}")
        ticket.wait_change(1.0)
        ticket.finished.wait(PAUSE)
    done = ticket.wait()
    yield note(words.MERGED_NOW.format(
        adapter=voice, choice=choice_words(done["model"]), name=display_name(done["model"]), size=done["bytes"] / GIB, rounding=done["rounding"]
    ), "ok")  # fmt: skip


def build(space: Workspace, panel: ChatPanel) -> None:
    """The panel's components and their wires."""
    with gr.Accordion(words.MERGE_TITLE, open=False, elem_id="chat-merge"):
        gr.Markdown(plain(words.MERGE_HELP))
        with gr.Row(equal_height=True, elem_classes="wb-runtop"):
            name = gr.Textbox(label=words.MERGE_NAME, max_lines=1, scale=3, min_width=180, elem_id="chat-merge-name")
            begin = gr.Button(words.MERGE, size="sm", min_width=110, scale=1, elem_id="chat-merge-begin")
        said = gr.HTML(elem_id="chat-merge-message", elem_classes="wb-tight")

    def pressed(chosen: str | None, wanted: str) -> Iterator[str]:
        try:
            yield from merge(space, voice_of(chosen), wanted)
        except Exception as exc:
            yield note(sentence(exc), "warn")

    begin.click(pressed, [panel.right, name], said, **STREAM)
