"""The Chat tab: one prompt, two panes, base and adapted streamed together, calls lit up, and the measurement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from workbench.calls.dialects import Dialect, dialect_named
from workbench.dataset.store import RowSet
from workbench.engine.client import Ticket
from workbench.errors import InputError, WorkbenchError
from workbench.evaluation.failures import add_drafts, row_of_reply
from workbench.settings import Sampling
from workbench.ui import measure_panel, words
from workbench.ui.data.bench import Bench
from workbench.ui.errors import shown
from workbench.ui.forms import read_sampling, sampling_components
from workbench.ui.header import waiting_words
from workbench.ui.highlight import empty, escape, note, reply_html, verdict_chip, verdict_of
from workbench.ui.room import Room
from workbench.workspace import Workspace

KEPT = 20  # exchanges that a page keeps
PAUSE = 0.12  # seconds between two pictures of a stream: quick to the eye, light on the wire


@dataclass
class Side:
    """One pane's reply as far as it has come."""

    text: str = ""
    foot: str = ""
    done: bool = False
    judged: bool = False  # whole, or cut at the length limit; a reply that was broken off says nothing of the model
    whole: bool = False


@dataclass
class Exchange:
    """A prompt with what each side said; a side is None where it was not asked."""

    prompt: str
    run: str | None
    base: Side = field(default_factory=Side)
    adapted: Side | None = None
    state: str = ""
    dialect_name: str = "tag"

    @property
    def dialect(self) -> Dialect:
        """What both sides' replies are read as: the adapter's dialect."""
        return dialect_named(self.dialect_name)


def pane_html(title: str, kind: str, turns: Sequence[Exchange], side: str, invitation: str) -> str:
    """A pane: the newest exchange on top, older ones dimmed below it; without any, the invitation."""
    body = []
    for i, turn in enumerate(reversed(turns)):
        said: Side | None = getattr(turn, side)
        age = "" if i == 0 else " old"
        ask = f'<div class="wb-ask">{escape(turn.prompt)}</div>'
        if said is None:
            body.append(f'<div class="wb-turn{age}">{ask}<div class="wb-dim">{escape(words.CHAT_NO_ADAPTER)}</div></div>')
            continue
        waiting = f'<div class="wb-dim">{escape(turn.state)}</div>' if turn.state and not said.text else ""
        reply = "" if waiting else reply_html(said.text, done=said.done, dialect=turn.dialect)
        verdict = verdict_chip(verdict_of(said.text, turn.dialect)) if said.judged else ""
        body.append(f'<div class="wb-turn{age}">{ask}{waiting}{reply}<div class="wb-foot">{verdict}<span>{escape(said.foot)}</span></div></div>')
    content = "".join(body) or empty(invitation)
    return f'<div class="wb-pane {kind}"><h3>{escape(title)}</h3>{content}</div>'


def panes(turns: Sequence[Exchange], run: str | None) -> tuple[str, str]:
    """(base pane, adapted pane) as HTML."""
    title = f"{words.ADAPTED} · {run}" if run else words.ADAPTED
    invitation = words.CHAT_EMPTY if run else words.CHAT_NO_ADAPTER
    return pane_html(words.BASE, "base", turns, "base", words.CHAT_EMPTY), pane_html(title, "adapted", turns, "adapted", invitation)


def difference_html(turns: Sequence[Exchange]) -> str:
    """What changed between the panes in the newest exchange."""
    if not turns or turns[-1].adapted is None or not (turns[-1].base.judged and turns[-1].adapted.judged):
        return ""
    calls = tuple(verdict_of(s.text, turns[-1].dialect) == "tool call" for s in (turns[-1].base, turns[-1].adapted))
    return f'<div style="text-align:center"><span class="wb-chip">{escape(words.LEARNED[(calls[0], calls[1])])}</span></div>'


def ask(space: Workspace, turns: list[Exchange], prompt: str, run: str | None, sampling: Sampling) -> tuple[Ticket, Exchange]:
    """Hand the prompt to the engine; raises `InputError` for an empty prompt or an unknown adapter."""
    if not prompt.strip():
        raise InputError(words.NO_PROMPT)
    if run and run not in space.adapters():
        raise InputError(f"The run {run[:60]} has no adapter to chat with: choose another one.")
    lanes = (False, True) if run else (False,)
    form = space.form(run)
    ticket = space.answer(form.ask(prompt.strip()), run=run or None, lanes=lanes, sampling=sampling)
    exchange = Exchange(prompt.strip(), run, adapted=Side() if run else None, dialect_name=form.dialect.name)
    turns.append(exchange)
    del turns[:-KEPT]
    return ticket, exchange


def follow(space: Workspace, ticket: Ticket, exchange: Exchange) -> Iterator[None]:
    """Yields whenever `exchange` has changed, until the answer is whole. Errors end as words in the panes."""
    sides = [exchange.base] + ([exchange.adapted] if exchange.adapted else [])
    while not ticket.finished.is_set():
        for side, text in zip(sides, ticket.texts, strict=False):
            side.text = text
        exchange.state = waiting_words(space, ticket)
        yield
        ticket.wait_change(1.0)
        ticket.finished.wait(PAUSE)
    try:
        result = ticket.wait()
        replies, moved = result["replies"], result.get("adapter_difference")
        for side, reply in zip(sides, replies, strict=True):
            pace = reply["tokens"] / reply["seconds"] if reply["seconds"] else 0.0
            ended = {"length": f" · {words.CUT}", "stopped": f" · {words.HALTED}"}.get(reply["ended"], "")
            side.text, side.done, side.judged = reply["text"], True, reply["ended"] != "stopped"
            side.whole = side.judged and reply["ended"] != "length"
            side.foot = f"{reply['tokens']} tokens · {pace:.0f} tokens/s · first after {reply['first_token_seconds']:.1f} s{ended}"
        if exchange.adapted is not None and moved is not None:
            exchange.adapted.foot += f" · adapter active: it moves the logits by up to {moved:.1f}"
        exchange.state = words.EMPTY_REPLY
    except WorkbenchError as exc:
        exchange.state = str(exc)
        for side in sides:
            side.done, side.foot = bool(side.text), str(exc) if side.text else ""
    yield


# -- the tab -------------------------------------------------------------------------------------


def build(space: Workspace, opened: gr.Tab, timer: gr.Timer, current: gr.State, bench: Bench) -> None:
    """The tab's components and their wires. A reply may become a row of the set on the Data tab's `bench`."""
    room = Room()
    turns, last = gr.State([]), gr.State(None)
    demo = _demo_prompts(space)
    with gr.Row(equal_height=True):
        run = gr.Dropdown(choices=[], label="Adapter", min_width=170, scale=1, elem_id="chat-adapter", allow_custom_value=True)
        with gr.Row(scale=4, elem_id="demo-prompts"):
            buttons = [gr.Button(text, size="sm", min_width=120, elem_id=f"demo-{i}") for i, text in enumerate(demo)]
    with gr.Row():
        first, second = panes([], None)
        base = gr.HTML(first, elem_id="pane-base")
        adapted = gr.HTML(second, elem_id="pane-adapted")
    with gr.Row(equal_height=True, elem_classes="wb-bulk"):
        change = gr.HTML(elem_id="pane-change")
        to_call = gr.Button(words.ROW_CALL, size="sm", min_width=150, scale=0, elem_id="chat-row-call")
        to_text = gr.Button(words.ROW_TEXT, size="sm", min_width=190, scale=0, elem_id="chat-row-text")
    with gr.Row(equal_height=True):
        prompt = gr.Textbox(show_label=False, placeholder=words.CHAT_PLACEHOLDER, lines=1, max_lines=4, scale=8, container=False, elem_id="prompt", autofocus=True)
        send = gr.Button(words.CHAT_SEND, variant="primary", min_width=80, scale=1, elem_id="send")
        stop = gr.Button(words.CHAT_STOP, min_width=60, scale=1, elem_id="stop-answer")
        clear = gr.Button(words.CHAT_CLEAR, min_width=60, scale=1, elem_id="clear-chat")
    with gr.Accordion("Sampling", open=False), gr.Row():
        sampling = sampling_components()
    measure_panel.build(space, room, bench, run)

    def answer(request: gr.Request, text: str, history: list[Exchange], chosen: str | None, *values: Any) -> Iterator[list[Any]]:
        page = str(request.session_hash)
        if room.holds(page):
            yield [gr.skip(), gr.skip(), note(words.STILL_ANSWERING, "warn"), gr.skip(), gr.skip()]
            return
        try:
            ticket, exchange = ask(space, history, text, chosen, read_sampling(values))
        except WorkbenchError as exc:
            yield [gr.skip(), gr.skip(), note(str(exc), "warn"), history, gr.skip()]
            return
        room.enter(page, ticket)
        cleared: Any = ""
        try:
            for _ in follow(space, ticket, exchange):
                if not any(exchange is kept for kept in history):  # the chat was cleared meanwhile
                    yield [*panes(history, chosen), "", history, gr.skip()]
                    return
                yield [*panes(history, chosen), difference_html(history), history, cleared]
                cleared = gr.skip()
        finally:
            # The page was closed, or the answer is whole: what is still going on is stopped either way.
            if not ticket.finished.is_set():
                space.engine.stop(ticket)
            room.leave(page, ticket)

    def halt(request: gr.Request) -> Any:
        ticket = room.tickets.get(str(request.session_hash))
        if ticket is None:
            return note("No answer is being written.", "warn")
        space.engine.stop(ticket)
        return gr.skip()

    def wipe(request: gr.Request, chosen: str | None, history: list[Exchange]) -> list[Any]:
        ticket = room.leave(str(request.session_hash))
        if ticket is not None:
            space.engine.stop(ticket)
        history.clear()
        return [*panes([], chosen), "", []]

    def known(chosen: str | None, before: list[str] | None, history: list[Exchange]) -> list[Any]:
        names = space.adapters()
        if names == before:
            return [gr.skip()] * 3
        fresh = bool(names) and (not chosen or chosen not in names or (before is not None and names[0] not in before))
        now = names[0] if fresh else chosen
        return [gr.Dropdown(choices=names, value=now), names, gr.skip() if history else panes([], now)[1]]

    quiet: dict[str, Any] = {"show_progress": "hidden"}
    stream: dict[str, Any] = quiet | {"concurrency_limit": 20, "concurrency_id": "answers"}
    outputs = [base, adapted, change, turns, prompt]
    gr.on([send.click, prompt.submit], answer, [prompt, turns, run, *sampling], outputs, **stream)
    for button, text in zip(buttons, demo, strict=True):
        button.click(_with_text(answer, text), [turns, run, *sampling], outputs, **stream)
    stop.click(shown(halt), None, change, **quiet)
    clear.click(shown(wipe), [run, turns], [base, adapted, change, turns], **quiet)

    def tick(tab: str, *known_so_far: Any) -> list[Any]:
        # Reading every run's folder each second is for the tab that shows them.
        return known(*known_so_far) if tab == "chat" else [gr.skip()] * 3

    timer.tick(shown(tick), [current, run, last, turns], [run, last, adapted], queue=False, **quiet)
    opened.select(shown(known), [run, last, turns], [run, last, adapted], **quiet)
    for button, should in ((to_call, "call"), (to_text, "text")):
        button.click(shown(_with_answer(space, should)), [turns, *bench.inputs[1:]], [change, bench.version, bench.changed], **quiet)


def _with_text(answer: Any, text: str) -> Any:
    def pressed(request: gr.Request, history: list[Exchange], chosen: str | None, *values: Any) -> Iterator[list[Any]]:
        yield from answer(request, text, history, chosen, *values)

    return pressed


def row_from(space: Workspace, history: Sequence[Exchange], should: str) -> tuple[RowSet, str]:
    """Add the newest exchange to the set as a draft with the right answer filled in; raises `InputError` or `DataError`."""
    last = history[-1] if history else None
    # What was stopped, or failed, says nothing of the model: no answer can be taken from it.
    if last is None or not all(side.judged for side in (last.base, last.adapted) if side is not None):
        raise InputError(words.NO_REPLY_YET)
    sides = [side for side in (last.adapted, last.base) if side is not None]
    # A text that was cut at the length limit would teach to break off; what a call is taken from may have gone on.
    replies = [side.text for side in sides if side.whole or should == "call"]
    if not replies:
        raise InputError(words.NO_REPLY_YET)
    tools = list(space.tools.read().tools)
    return add_drafts(space.rows, [row_of_reply(last.prompt, replies, should=should, tools=tools, dialect=last.dialect)])


def _with_answer(space: Workspace, should: str) -> Any:
    def pressed(history: list[Exchange], count: float) -> list[Any]:
        try:
            rows, said = row_from(space, history, should)
        except WorkbenchError as exc:
            return [note(str(exc), "warn"), gr.skip(), gr.skip()]
        return [note(said, "ok"), rows.version, count + 1]

    return pressed


def _demo_prompts(space: Workspace) -> list[str]:
    try:
        return [case.prompt for case in space.cases("demo.jsonl")]
    except WorkbenchError:
        return []
