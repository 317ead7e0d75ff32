"""The Chat tab: one prompt, two panes streamed together, calls as cards and run on request, and the measurement."""

from __future__ import annotations

from typing import Any

import gradio as gr

from workbench.errors import WorkbenchError
from workbench.ui import measure_panel, words
from workbench.ui.browser_tab import after_js, before_js
from workbench.ui.chat import human_panel, keep_panel, merge_panel, reload
from workbench.ui.chat import panel as chat_panel
from workbench.ui.chat.rows import row_from
from workbench.ui.chat.talk import Chat
from workbench.ui.chat.voices import gone_words, last_chosen, voice_choices, voice_of
from workbench.ui.data.bench import Bench
from workbench.ui.errors import shown
from workbench.ui.highlight import note
from workbench.ui.quiet import QUIET
from workbench.ui.room import Room
from workbench.ui.words import chat as words_chat
from workbench.workspace import Workspace


def build(space: Workspace, opened: gr.Tab, timer: gr.Timer, current: gr.State, bench: Bench) -> None:
    """The tab's components and their wires. A reply may become a row of the set on the Data tab's `bench`."""
    last = gr.State(None)
    to_row: dict[str, gr.Button] = {}

    def between() -> None:
        to_row["call"] = gr.Button(words.ROW_CALL, size="sm", min_width=150, scale=0, elem_id="chat-row-call")
        to_row["text"] = gr.Button(words.ROW_TEXT, size="sm", min_width=190, scale=0, elem_id="chat-row-text")

    panel, _, known = chat_panel.build(space, _demo_prompts(space), between)
    seen, listed, draw_list = human_panel.build(space)
    keep_panel.build(space, panel)
    merging = merge_panel.build(space, panel)
    measure_panel.build(space, Room(), bench, panel.right)

    quiet: dict[str, Any] = {"show_progress": "hidden"}
    choices = [panel.left, panel.right, last, panel.chat, seen, merging.seen]
    drawn = [panel.left, panel.right, last, panel.pieces[5], panel.change, *listed, *merging.outputs]

    def look(*so_far: Any) -> list[Any]:
        return [*known(*so_far[:-2]), *draw_list(so_far[-2]), *merging.draw(so_far[-1])]

    def tick(tab: str, *so_far: Any) -> list[Any]:
        # Reading every run's folder each second is for the tab that shows them.
        return look(*so_far) if tab == "chat" else [gr.skip()] * len(drawn)

    def entered(request: gr.Request, before: str, *so_far: Any) -> list[Any]:
        talk: Chat = so_far[3]
        left, right, there, *drawn_now = look(*so_far)
        pieces, change = [*[gr.skip()] * 5, drawn_now[0]], drawn_now[1]
        try:
            if reload.take_over(space, before, str(request.session_hash), talk):
                names = space.voices()
                chosen = last_chosen(talk, names)
                left, right = (gr.Dropdown(choices=voice_choices(names), value=voice) for voice in chosen)
                *pieces, change = panel.draw(talk, *chosen)
                gone = gone_words([voice_of(voice) for voice in chosen], names)
                change += note(words_chat.WENT_ON, "ok") + (note(gone, "warn") if gone else "")
        except WorkbenchError as exc:
            change = note(words_chat.LOST.format(why=exc), "warn")
        return [str(request.session_hash), left, right, there, *pieces, change, *drawn_now[2:]]

    timer.tick(shown(tick), [current, *choices], drawn, queue=False, **quiet)
    before = gr.Textbox(visible="hidden", elem_id="chat-before")
    everything = [before, panel.left, panel.right, last, *panel.outputs, *listed, *merging.outputs]
    opened.select(shown(entered), [before, *choices], everything, js=before_js("chat"), **quiet).success(None, before, None, js=after_js("chat"), **quiet)
    for event in merging.events:  # the boxes have a new model, and have lost a deleted one, at once
        event.then(shown(look), choices, drawn, **QUIET)
    for should, button in to_row.items():
        button.click(shown(_with_answer(space, should)), [panel.chat, *bench.inputs[1:]], [panel.change, bench.version, bench.changed], **quiet)


def _with_answer(space: Workspace, should: str) -> Any:
    def pressed(chat: Chat, count: float) -> list[Any]:
        try:
            rows, said = row_from(space, chat, should)
        except WorkbenchError as exc:
            return [note(str(exc), "warn"), gr.skip(), gr.skip()]
        return [note(said, "ok"), rows.version, count + 1]

    return pressed


def _demo_prompts(space: Workspace) -> list[str]:
    try:
        return [case.prompt for case in space.cases("demo.jsonl")]
    except WorkbenchError:
        return []
