"""The chat itself on the page: two panes, the box below them, and the events between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from workbench.errors import InputError, WorkbenchError
from workbench.ui import words as common
from workbench.ui.chat import asking, reload, shown
from workbench.ui.chat.asking import Asked, Desk, Manner
from workbench.ui.chat.cards import CARDS_JS
from workbench.ui.chat.talk import Chat
from workbench.ui.chat.voices import chosen_now, gone_words, replaced_words, voice_choices, voice_of
from workbench.ui.errors import sentence
from workbench.ui.errors import shown as guarded
from workbench.ui.forms import SAMPLING_FIELDS, read_sampling, sampling_components
from workbench.ui.highlight import note
from workbench.ui.quiet import QUIET, STREAM
from workbench.ui.words import chat as words
from workbench.workspace import Workspace


@dataclass(frozen=True)
class ChatPanel:
    """What the other panels of the tab need of the chat: its state, its choices, and the seven pieces of HTML that show it."""

    chat: gr.State
    left: gr.Dropdown
    right: gr.Dropdown
    change: gr.HTML
    pieces: list[gr.HTML]
    editing: gr.State
    leave: gr.Button
    draw: Callable[[Chat, str | None, str | None], list[Any]]
    """The values of `pieces` and `change`."""
    busy: Callable[[str], bool]
    """Whether something is still going on for a page: an answer that is written, or a call that runs."""

    @property
    def outputs(self) -> list[Any]:
        return [*self.pieces, self.change]


def read_manner(values: Sequence[Any]) -> Manner:
    """The settings' boxes as one value: the sampling's, then stop sequences, what happens to calls, and whether functions may run."""
    count = len(SAMPLING_FIELDS)
    stops, way, functions = values[count:]
    return Manner(read_sampling(values[:count]), asking.read_stops(stops), way if way in words.WAYS else "ask", bool(functions))


def again(chat: Chat, manner: Manner) -> tuple[str, Manner, str]:
    """The newest request, taken back to be answered again: with another seed where it is sampled. Raises `InputError`; last, what to know of it."""
    newest = chat.newest
    if newest is None:
        raise InputError(words.NOTHING_TO_REPEAT)
    chat.cut(len(chat.exchanges) - 1)
    if manner.sampling.greedy or not manner.sampling.temperature:
        return newest.prompt, manner, words.GREEDY_REPEATS
    chat.tries += 1
    sampling = manner.sampling.model_copy(update={"seed": (manner.sampling.seed + chat.tries) % 2**31})
    return newest.prompt, Manner(sampling, manner.stops, manner.way, manner.functions), ""


def settings(space: Workspace) -> list[Any]:
    """The accordion of all that says how a chat is answered; its components, in the order of `read_manner`."""
    with gr.Accordion("Sampling and calls", open=False, elem_id="chat-settings"):
        with gr.Row():
            sampling = sampling_components()
        with gr.Row(equal_height=True):
            stops = gr.Textbox("", label=words.STOPS, info=words.STOPS_HELP, lines=1, max_lines=8, scale=2, min_width=220, elem_id="chat-stops")
            way = gr.Radio([(title, key) for key, title in words.WAYS.items()], value="ask", label=words.WAY, scale=3, min_width=300, elem_id="chat-way")
            functions = gr.Checkbox(False, label=words.FUNCTIONS, info=words.FUNCTIONS_HELP, scale=2, min_width=240, elem_id="chat-functions")
    return [*sampling, stops, way, functions]


def tools_of(space: Workspace) -> Any:
    """The tools that calls are held against; None where they can't be read, which the Data tab tells."""
    try:
        return space.tools.read().tools
    except WorkbenchError:
        return None


def drawing(space: Workspace) -> Callable[[Chat, str | None, str | None], list[Any]]:
    """What draws a whole chat for the voices that the two boxes name."""

    def draw(chat: Chat, left: str | None, right: str | None) -> list[Any]:
        return [*shown.panes(chat, (voice_of(left), voice_of(right)), tools_of(space)), shown.changed_html(chat)]

    return draw


def two_panes() -> list[gr.HTML]:
    """The panes: for each its title, what is past, and the newest exchange."""
    pieces = []
    titles: tuple[str | None, ...] = ("", None)
    with gr.Row(elem_classes="wb-panes"):
        for name, voice in zip(("left", "right"), titles, strict=True):
            with gr.Column(elem_classes=["wb-chatpane"], elem_id=f"pane-{name}", min_width=280):
                pieces.append(gr.HTML(shown.title_html(voice), elem_classes="wb-tight"))
                pieces.append(gr.HTML("", js_on_load=CARDS_JS, elem_id=f"past-{name}", elem_classes="wb-tight"))
                invitation = shown.live_html(Chat(), 0, None, voice)
                pieces.append(gr.HTML(invitation, js_on_load=CARDS_JS + FOLLOW, elem_id=f"live-{name}", elem_classes="wb-tight"))
    return pieces


FOLLOW = f"\n{shown.FOLLOW_JS}"


def answering(space: Workspace, desk: Desk, draw: Callable[..., list[Any]]) -> Callable[..., Iterator[list[Any]]]:
    """A handler that follows what `begin(chat)` set going: yields [six pieces, change, prompt, chat, editing, leave]."""

    def steps(page: str, chat: Chat, left: str | None, right: str | None, begin: Callable[[], tuple[Asked, Iterator[None], str]]) -> Iterator[list[Any]]:
        tail: list[Any] = ["", chat, None, gr.Button(visible=False)]
        if (busy := desk.of(page)) is not None:
            busy.pressed = True
            yield [*[gr.skip()] * 6, note(common.STILL_ANSWERING, "warn"), *[gr.skip()] * 4]
            return
        try:
            asked, going, said = begin()
        except WorkbenchError as exc:
            yield [*draw(chat, left, right)[:6], note(str(exc), "warn"), gr.skip(), chat, *[gr.skip()] * 2]
            return
        desk.enter(page, asked)
        tools = tools_of(space)
        try:
            reload.write(space, page, chat)
            first, told, between = True, None, ""
            for _ in going:
                if desk.of(page) is not asked:  # the chat was cleared meanwhile; the last picture is told once more at the end, so it must be of what is now
                    yield [*draw(chat, left, right), *[gr.skip()] * 4]
                    return
                between = shown.changed_html(chat) + (note(said) if said else "")
                told, line = between, gr.skip() if between == told else between  # what another button has said there meanwhile stays until there is something new
                if first:
                    yield [*draw(chat, left, right)[:6], line, *tail]
                else:  # what is past does not change while an answer streams
                    newest = [shown.live_html(chat, pane, tools, "") for pane in range(shown.PANES)]
                    yield [gr.skip(), gr.skip(), newest[0], gr.skip(), gr.skip(), newest[1], line, *[gr.skip()] * 4]
                first = False
            if asked.pressed:  # that an answer is still being written is over
                yield [*[gr.skip()] * 6, between, *[gr.skip()] * 4]
        except Exception as exc:
            yield [*[gr.skip()] * 6, note(sentence(exc), "bad"), *[gr.skip()] * 4]
        finally:
            # The page was closed, or the answer is whole: what is still going on is stopped either way.
            going.close()  # type: ignore[attr-defined]
            asked.stop()
            if desk.leave(page, asked) is not None:  # else the page shows another chat by now
                reload.write_aside(space, page, chat)

    return steps


def build(space: Workspace, demo: Sequence[str], between: Callable[[], None]) -> tuple[ChatPanel, list[Any], Callable[..., Any]]:
    """The chat's components and wires. Returns the panel, its settings' components, and what refreshes the choice of adapters.

    `between` puts the tab's other buttons between the panes and the box; `demo` are prompts to press.
    """
    desk, draw = Desk(), drawing(space)
    chat, editing = gr.State(Chat()), gr.State(None)
    with gr.Row(equal_height=True):
        base = voice_choices(())
        left = gr.Dropdown(base, value=words.BASE, label=words.LEFT, min_width=150, scale=1, elem_id="chat-left", allow_custom_value=True)
        right = gr.Dropdown(base, value=None, label=words.RIGHT, min_width=150, scale=1, elem_id="chat-right", allow_custom_value=True)
        with gr.Row(scale=4, elem_id="demo-prompts"):
            buttons = [gr.Button(text, size="sm", min_width=120, elem_id=f"demo-{i}") for i, text in enumerate(demo)]
    pieces = two_panes()
    with gr.Row(equal_height=True, elem_classes="wb-bulk"):
        change = gr.HTML(elem_id="pane-change", elem_classes="wb-tight")
        repeat = gr.Button(words.REGENERATE, size="sm", min_width=100, scale=0, elem_id="chat-again")
        leave = gr.Button(words.LEAVE_EDIT, size="sm", min_width=100, scale=0, visible=False, elem_id="chat-leave-edit")
        between()
    with gr.Row(equal_height=True):
        prompt = gr.Textbox(
            label=words.PROMPT, placeholder=common.CHAT_PLACEHOLDER, lines=1, max_lines=4, scale=8, elem_id="prompt", autofocus=True
        )
        send = gr.Button(common.CHAT_SEND, variant="primary", min_width=80, scale=1, elem_id="send")
        stop = gr.Button(common.CHAT_STOP, min_width=60, scale=1, elem_id="stop-answer")
        clear = gr.Button(common.CHAT_CLEAR, min_width=60, scale=1, elem_id="clear-chat")
    manner = settings(space)
    panel = ChatPanel(chat, left, right, change, pieces, editing, leave, draw, lambda page: desk.of(page) is not None)
    outputs = [*panel.outputs, prompt, chat, editing, leave]
    steps = answering(space, desk, draw)

    def sent(
        request: gr.Request, text: str, talk: Chat, first: str | None, second: str | None, edited: int | None, *values: Any, fresh: bool = False
    ) -> Iterator[list[Any]]:
        def begin() -> tuple[Asked, Iterator[None], str]:
            how, place, before = read_manner(values), talk.place(edited), list(talk.exchanges)
            if place is not None:
                talk.cut(place)
            begins = fresh or place is not None and before[place].fresh
            try:
                asked = asking.ask(space, talk, text, (voice_of(first), voice_of(second)), how, fresh=begins, page=str(request.session_hash))
            except WorkbenchError:
                talk.exchanges[:] = before
                raise
            return asked, asking.follow(asked), ""

        yield from steps(str(request.session_hash), talk, first, second, begin)

    def repeated(request: gr.Request, talk: Chat, first: str | None, second: str | None, *values: Any) -> Iterator[list[Any]]:
        def begin() -> tuple[Asked, Iterator[None], str]:
            before = list(talk.exchanges)
            begins = bool(before) and before[-1].fresh
            try:
                text, how, said = again(talk, read_manner(values))
                asked = asking.ask(space, talk, text, (voice_of(first), voice_of(second)), how, fresh=begins, page=str(request.session_hash))
            except WorkbenchError:
                talk.exchanges[:] = before
                raise
            return asked, asking.follow(asked), said

        yield from steps(str(request.session_hash), talk, first, second, begin)

    def hit(request: gr.Request, event: gr.EventData, talk: Chat, first: str | None, second: str | None, *values: Any) -> Iterator[list[Any]]:
        """A button of a card or a request was pressed."""
        told: dict[str, Any] = event._data or {}
        if told.get("do") == "edit":
            place = talk.place(int(told["key"])) if str(told.get("key", "")).isdigit() else None
            if place is not None:
                exchange = talk.exchanges[place]
                said = note(words.EDITING.format(number=place + 1))
                yield [*[gr.skip()] * 6, said, exchange.prompt, gr.skip(), exchange.key, gr.Button(visible=True)]
            return
        if "run" not in told:
            return

        def begin() -> tuple[Asked, Iterator[None], str]:
            asked, side = asking.press(space, talk, str(told["run"]), read_manner(values), str(request.session_hash))
            return asked, asking.carry_on(asked, side), ""

        for step in steps(str(request.session_hash), talk, first, second, begin):
            yield [*step[:7], gr.skip(), *step[8:]]  # the box keeps what is typed into it

    def halt(request: gr.Request) -> Any:
        asked = desk.of(str(request.session_hash))
        if asked is None:
            return note(words.NO_ANSWER, "warn")
        asked.stop()
        return gr.skip()

    def wipe(request: gr.Request, talk: Chat, first: str | None, second: str | None) -> list[Any]:
        asked = desk.leave(str(request.session_hash))
        if asked is not None:
            asked.stop()
        talk.clear()
        reload.write(space, str(request.session_hash), talk)
        return [*draw(talk, first, second), gr.skip(), talk, None, gr.Button(visible=False)]

    quiet: dict[str, Any] = {"show_progress": "hidden"}
    choices = [chat, left, right]
    gr.on([send.click, prompt.submit], sent, [prompt, *choices, editing, *manner], outputs, **STREAM)
    for button, text in zip(buttons, demo, strict=True):
        button.click(_with_text(sent, text), [*choices, *manner], outputs, **STREAM)
    repeat.click(repeated, [*choices, *manner], outputs, **STREAM)
    for piece in (pieces[1], pieces[2], pieces[4], pieces[5]):
        piece.click(hit, [*choices, *manner], outputs, **STREAM)
    stop.click(guarded(halt), None, change, **quiet)
    clear.click(guarded(wipe), choices, outputs, **quiet)
    leave.click(guarded(lambda: ["", None, gr.Button(visible=False), ""]), None, [prompt, editing, leave, change], **QUIET)
    for box, place in ((left, 0), (right, 3)):
        box.change(guarded(lambda chosen: shown.title_html(voice_of(chosen))), box, pieces[place], **QUIET)

    def known(first: str | None, second: str | None, before: list[str] | None, talk: Chat) -> list[Any]:
        """[left, right, the voices there are, the invitation of the right pane, the line between]; told is only what has changed.

        A new adapter takes the right pane of a chat that has not begun. In one that has, a voice that is gone stays chosen, and is named as gone.
        """
        there = space.voices()
        if there == before:
            return [gr.skip()] * 5
        left_now, right_now = chosen_now(talk, first, second, there, before)
        told = voice_choices(there)
        invitation = gr.skip() if talk.exchanges else shown.live_html(talk, 1, None, voice_of(right_now))
        were, now = (voice_of(first), voice_of(second)), (voice_of(left_now), voice_of(right_now))
        gone = (gone_words(now, there) or replaced_words(were, now, there)) if before is not None else ""
        line = shown.changed_html(talk) + note(gone, "warn") if gone else gr.skip()
        return [gr.Dropdown(choices=told, value=left_now), gr.Dropdown(choices=told, value=right_now), there, invitation, line]

    return panel, manner, known


def _with_text(sent: Any, text: str) -> Any:
    """A handler that sends a prompt of the deck: it begins a new conversation."""

    def pressed(request: gr.Request, talk: Chat, first: str | None, second: str | None, *values: Any) -> Iterator[list[Any]]:
        for step in sent(request, text, talk, first, second, None, *values, fresh=True):
            yield [*step[:7], gr.skip(), *step[8:]]  # the box keeps what is typed into it

    return pressed
