"""The Chat tab: one prompt, two panes, base and adapted streamed together, calls lit up, and the measurement."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from workbench.engine.client import Ticket
from workbench.engine.messages import TrainJob
from workbench.errors import InputError, WorkbenchError
from workbench.evaluation.report import TITLES, rate_text
from workbench.evaluation.scores import score, score_reply
from workbench.settings import Sampling
from workbench.ui import words
from workbench.ui.errors import sentence, shown
from workbench.ui.forms import read_sampling, sampling_components
from workbench.ui.header import time_left
from workbench.ui.highlight import empty, escape, facts, note, reply_html, verdict_chip, verdict_of
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


@dataclass
class Exchange:
    """A prompt with what each side said; a side is None where it was not asked."""

    prompt: str
    run: str | None
    base: Side = field(default_factory=Side)
    adapted: Side | None = None
    state: str = ""


def adapters(space: Workspace) -> list[str]:
    """The runs that left an adapter and are no longer training, newest first."""
    return [v.info.name for v in space.runs.views() if v.has_adapter and not v.live]


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
        reply = "" if waiting else reply_html(said.text, done=said.done)
        verdict = verdict_chip(verdict_of(said.text)) if said.judged else ""
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
    calls = tuple(verdict_of(s.text) == "tool call" for s in (turns[-1].base, turns[-1].adapted))
    return f'<div style="text-align:center"><span class="wb-chip">{escape(words.LEARNED[(calls[0], calls[1])])}</span></div>'


def waiting_words(space: Workspace, ticket: Ticket) -> str:
    """Why a reply has not begun: who holds the engine, and for how long."""
    if ticket.begun is not None:
        return ticket.progress + "…"
    holder = space.engine.status().holder
    if holder is None:
        return "waiting for the engine…"
    left = time_left(space, holder.job.run) if isinstance(holder.job, TrainJob) else None
    return f"waiting: {holder.label} holds the engine" + (f", {words.duration(left)} left" if left is not None else "")


def ask(space: Workspace, turns: list[Exchange], prompt: str, run: str | None, sampling: Sampling) -> tuple[Ticket, Exchange]:
    """Hand the prompt to the engine; raises `InputError` for an empty prompt or an unknown adapter."""
    if not prompt.strip():
        raise InputError(words.NO_PROMPT)
    if run and run not in adapters(space):
        raise InputError(f"The run {run[:60]} has no adapter to chat with: choose another one.")
    lanes = (False, True) if run else (False,)
    ticket = space.answer([{"role": "user", "content": prompt.strip()}], run=run or None, lanes=lanes, sampling=sampling)
    exchange = Exchange(prompt.strip(), run, adapted=Side() if run else None)
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
            side.foot = f"{reply['tokens']} tokens · {pace:.0f} tokens/s · first after {reply['first_token_seconds']:.1f} s{ended}"
        if exchange.adapted is not None and moved is not None:
            exchange.adapted.foot += f" · adapter active: it moves the logits by up to {moved:.1f}"
        exchange.state = words.EMPTY_REPLY
    except WorkbenchError as exc:
        exchange.state = str(exc)
        for side in sides:
            side.done, side.foot = bool(side.text), str(exc) if side.text else ""
    yield


@dataclass
class Room:
    """Who is waiting for which answer, by page, so that its Stop button finds it."""

    tickets: dict[str, Ticket] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, page: str, ticket: Ticket) -> None:
        with self.lock:
            self.tickets[page] = ticket

    def leave(self, page: str, ticket: Ticket | None = None) -> Ticket | None:
        """Take the page's ticket out; with `ticket`, only if it is that one."""
        with self.lock:
            if ticket is not None and self.tickets.get(page) is not ticket:
                return None
            return self.tickets.pop(page, None)

    def holds(self, page: str) -> bool:
        with self.lock:
            return page in self.tickets


def measure(space: Workspace, run: str | None, *, adapted: bool, begun: Callable[[Ticket], None] = lambda _: None) -> Iterator[str]:
    """Answers all cases and yields the progress, then the table of rates with every wrong reply.

    `begun` gets the job, for a Stop button. Closing the generator (the page was closed) stops the job too.
    """
    cases = space.cases("cases.jsonl")
    ticket = space.evaluate(cases, run=run, adapted=adapted, sampling=Sampling(max_new_tokens=64))
    begun(ticket)
    try:
        while not ticket.finished.is_set():
            yield note(f"{ticket.label}: {waiting_words(space, ticket)}")
            ticket.wait_change(1.0)
    finally:
        if not ticket.finished.is_set():
            space.engine.stop(ticket)
    scored = [score_reply(c, r) for c, r in zip(cases, ticket.wait()["replies"], strict=True)]
    scores = score(scored)
    if run and adapted:
        space.runs.write_scores(run, {"cases": len(cases), "file": "cases.jsonl"} | scores.as_json())
    wrong = "".join(
        note(f"{s.case.prompt} — expected {'a call' if s.case.expected else 'no call'}, got: {s.verdict}", "warn") for s in scored if not s.right
    )
    yield f"<b>{escape(run if run and adapted else words.BASE)}</b>" + facts((title, rate_text(getattr(scores, name))) for name, title in TITLES.items()) + wrong


# -- the tab -------------------------------------------------------------------------------------


def build(space: Workspace, opened: gr.Tab, timer: gr.Timer, current: gr.State) -> None:
    """The tab's components and their wires."""
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
    change = gr.HTML(elem_id="pane-change")
    with gr.Row(equal_height=True):
        prompt = gr.Textbox(show_label=False, placeholder=words.CHAT_PLACEHOLDER, lines=1, max_lines=4, scale=8, container=False, elem_id="prompt", autofocus=True)
        send = gr.Button(words.CHAT_SEND, variant="primary", min_width=80, scale=1, elem_id="send")
        stop = gr.Button(words.CHAT_STOP, min_width=60, scale=1, elem_id="stop-answer")
        clear = gr.Button(words.CHAT_CLEAR, min_width=60, scale=1, elem_id="clear-chat")
    with gr.Accordion("Sampling", open=False), gr.Row():
        sampling = sampling_components()
    with gr.Accordion("Measure on unseen prompts", open=False, elem_id="measure"):
        gr.Markdown(words.MEASURE_HELP)
        with gr.Row():
            measure_run = gr.Button(f"{words.MEASURE}: adapted", elem_id="measure-adapted")
            measure_base = gr.Button(f"{words.MEASURE}: base", elem_id="measure-base")
            measure_stop = gr.Button(words.CHAT_STOP, min_width=60, elem_id="measure-stop")
        with gr.Row():
            result_run, result_base = gr.HTML(elem_id="scores-adapted"), gr.HTML(elem_id="scores-base")

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

    def halt_measure(request: gr.Request) -> None:
        for with_adapter in (True, False):
            ticket = room.leave(measure_key(request, with_adapter))
            if ticket is not None:
                space.engine.stop(ticket)

    def wipe(request: gr.Request, chosen: str | None, history: list[Exchange]) -> list[Any]:
        ticket = room.leave(str(request.session_hash))
        if ticket is not None:
            space.engine.stop(ticket)
        history.clear()
        return [*panes([], chosen), "", []]

    def known(chosen: str | None, before: list[str] | None, history: list[Exchange]) -> list[Any]:
        names = adapters(space)
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

    timer.tick(shown(tick), [current, run, last, turns], [run, last, adapted], **quiet)
    opened.select(shown(known), [run, last, turns], [run, last, adapted], **quiet)
    measure_run.click(_measured(space, room, True), run, result_run, **stream)
    measure_base.click(_measured(space, room, False), run, result_base, **stream)
    measure_stop.click(shown(halt_measure), None, None, **quiet)


def _with_text(answer: Any, text: str) -> Any:
    def pressed(request: gr.Request, history: list[Exchange], chosen: str | None, *values: Any) -> Iterator[list[Any]]:
        yield from answer(request, text, history, chosen, *values)

    return pressed


def measure_key(request: gr.Request, with_adapter: bool) -> str:
    """Where the room keeps a page's measurement."""
    return f"{request.session_hash}/measure/{with_adapter}"


def _measured(space: Workspace, room: Room, with_adapter: bool) -> Any:
    def pressed(request: gr.Request, chosen: str | None) -> Iterator[str]:
        if with_adapter and (not chosen or chosen not in adapters(space)):
            yield note(words.CHAT_NO_ADAPTER, "warn")
            return
        try:
            key = measure_key(request, with_adapter)
            run = chosen if chosen in adapters(space) else None
            yield from measure(space, run, adapted=with_adapter, begun=lambda ticket: room.enter(key, ticket))
        except Exception as exc:
            yield note(sentence(exc), "bad")

    return pressed


def _demo_prompts(space: Workspace) -> list[str]:
    try:
        return [case.prompt for case in space.cases("demo.jsonl")]
    except WorkbenchError:
        return []
