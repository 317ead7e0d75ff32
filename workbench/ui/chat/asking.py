"""The verbs of a chat: ask both panes, follow their replies, go the way of a call, stop. No screen."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.calls.loop import LoopLimits, Ran, Step, ToolLoop
from workbench.calls.mocks import run_mock
from workbench.calls.prompting import Turn
from workbench.engine.client import Ticket
from workbench.engine.ticket import PICTURE
from workbench.engine.turns import asked_by
from workbench.errors import InputError, WorkbenchError
from workbench.schema import ToolCall, ToolSpec
from workbench.settings import Sampling
from workbench.ui import words as common
from workbench.ui.chat.talk import Chat, Exchange, Piece, Side, call_key, conversation
from workbench.ui.chat.voices import gone_words
from workbench.ui.chat.wanted import should_call
from workbench.ui.errors import sentence
from workbench.ui.header import waiting_words
from workbench.ui.words import chat as words
from workbench.workspace import Workspace

STILL = 0.5  # seconds after which what has not changed is yielded all the same: only then is a page that was closed let go
MAX_PROMPT = 100_000  # characters of one request
MAX_STOPS, MAX_STOP = 8, 100  # stop sequences, and characters of one


@dataclass(frozen=True)
class Manner:
    """How a chat is answered. `way` is what happens to calls: "ask" (each waits for a person), "run" or "show"."""

    sampling: Sampling = Sampling()
    stops: tuple[str, ...] = ()
    way: str = "ask"
    functions: bool = False
    """Whether the user's Python functions may answer for tools."""


@dataclass
class Asked:
    """What goes on for one page: an exchange, the job that asks both panes, all its jobs, whether it was told to stop, and whether more was asked for meanwhile.

    `page` is whose turns its jobs take.
    """

    space: Workspace
    chat: Chat
    exchange: Exchange
    manner: Manner
    page: str = ""
    first: Ticket | None = None
    tickets: list[Ticket] = field(default_factory=list)
    halted: bool = False
    pressed: bool = False

    def stop(self) -> None:
        """Stop every job of it, and what runs for it."""
        self.halted = True
        for ticket in list(self.tickets):
            if not ticket.finished.is_set():
                self.space.engine.stop(ticket)

    def submit(self, asked: Sequence[tuple[Side, list[Turn]]]) -> Ticket:
        """Hand in one job for sides, each with its conversation; one that comes after the stop is taken back at once."""
        sampling, stops = self.manner.sampling, self.manner.stops
        parts = []
        for weights in dict.fromkeys(side.weights for side, _ in asked):
            run, model, form_of = weights
            own = [(side, turns) for side, turns in asked if side.weights == weights]
            lanes = tuple(side.adapted for side, _ in own)
            parts.append(self.space.jobs.answer_job([turns for _, turns in own], run=run, lanes=lanes, sampling=sampling, stops=stops, model=model, form_of=form_of))
        with asked_by(self.page):
            ticket = self.space.jobs.answer_together(parts)
        self.tickets.append(ticket)
        if self.halted:
            self.stop()
        return ticket


@dataclass
class Desk:
    """What goes on for which page, so that its buttons find it; one thing a page."""

    going: dict[str, Asked] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, page: str, asked: Asked) -> None:
        with self.lock:
            self.going[page] = asked

    def leave(self, page: str, asked: Asked | None = None) -> Asked | None:
        """Take what goes on for a page out; with `asked`, only if it is that."""
        with self.lock:
            if asked is not None and self.going.get(page) is not asked:
                return None
            return self.going.pop(page, None)

    def of(self, page: str) -> Asked | None:
        return self.going.get(page)


def read_stops(text: str | None) -> tuple[str, ...]:
    r"""The stop sequences in a box, one a line (\n in it stands for a new line); raises `InputError` for too many, or too long ones."""
    found = tuple(dict.fromkeys(line.replace("\\n", "\n") for line in (text or "").splitlines() if line))
    if len(found) > MAX_STOPS or any(len(stop) > MAX_STOP for stop in found):
        raise InputError(words.TOO_MANY_STOPS.format(most=MAX_STOPS, longest=MAX_STOP))
    return found


def ask(space: Workspace, chat: Chat, prompt: str, voices: Sequence[str | None], manner: Manner, *, fresh: bool = False, page: str = "") -> Asked:
    """Hand a request of a page to the engine, for the voices of the left and the right pane ("" is the base, None asks nobody).

    With `fresh` it begins a new conversation: what was said before stays to be seen, and the models are not told of it.
    Raises `InputError` for an empty or endless request and for a voice that is not there, `WorkbenchError` where its calls can't be written.
    """
    text = prompt.strip()
    if not text:
        raise InputError(common.NO_PROMPT)
    if len(text) > MAX_PROMPT:
        raise InputError(words.TOO_LONG.format(count=len(text), most=MAX_PROMPT))
    if gone := gone_words(voices, space.voices()):
        raise InputError(gone)
    others = [voice for voice in voices if voice]
    begins = fresh or not chat.exchanges  # what was said before may change what a prompt should lead to
    exchange = Exchange(text, None, None, fresh=fresh and bool(chat.exchanges), should_call=should_call(space, text) if begins else None)
    asked = Asked(space, chat, exchange, manner, page)
    sides: list[Side | None] = []
    for voice in voices:
        # The base is asked in the form that the voice beside it learned: the same words for both.
        run = None if voice is None else voice or (others[0] if others else None)
        sides.append(None if voice is None else Side(voice, run, space.form(run).dialect.name, [Piece(limit=manner.sampling.max_new_tokens)]))
    asked.exchange.left, asked.exchange.right = sides
    before = Chat() if asked.exchange.fresh else chat
    told = [(side, conversation(before, pane, side.voice, space.form(side.run), text)) for pane, side in enumerate(sides) if side is not None]
    if told:
        asked.first = asked.submit(told)
    chat.take_up(asked.exchange)
    return asked


def follow(asked: Asked) -> Iterator[None]:
    """Yields whenever the exchange has changed, until it is over: the replies, then the way of their calls. Errors end as words in it.

    Closing the iterator stops what still goes on.
    """
    try:
        if asked.first is not None:
            yield from _answers(asked.space, asked.first, asked.exchange.asked())
        if asked.manner.way != "show":
            for side in asked.exchange.asked():
                if side.first.judged and not asked.halted:
                    yield from carry_on(asked, side)
    finally:
        asked.stop()


def _answers(space: Workspace, ticket: Ticket, sides: Sequence[Side]) -> Iterator[None]:
    """Yields whenever the newest reply of one of `sides` has changed, until all are whole."""
    pieces = [side.pieces[-1] for side in sides]
    while not ticket.finished.is_set():
        seen, begun = ticket.changes, any(ticket.texts)
        for piece, text in zip(pieces, ticket.texts, strict=False):
            piece.text = text
        for side in sides:
            side.state = waiting_words(space, ticket)
        yield
        ticket.wait_picture(seen, begun)
    try:
        result = ticket.wait()
        for side, piece, (reply, moved) in zip(sides, pieces, _replies(result, sides), strict=True):
            if isinstance(reply, str):  # this voice could not be asked; the other one answered
                piece.ended, piece.trouble, side.state = "failed", reply, reply
                continue
            piece.text, piece.ended, piece.tokens = reply["text"], reply["ended"], reply["tokens"]
            piece.seconds, piece.first_token_seconds = reply["seconds"], reply["first_token_seconds"]
            if bound := reply.get("constrained"):
                piece.changed, piece.changes = bound["changed"], tuple((change["wanted"], change["wrote"]) for change in bound["first"])
            side.moved = moved if side.voice else None
            side.state = common.EMPTY_REPLY
    except WorkbenchError as exc:
        for side, piece in zip(sides, pieces, strict=True):
            piece.ended, piece.trouble, side.state = "failed", str(exc), str(exc)
    yield


def _replies(result: dict[str, Any], sides: Sequence[Side]) -> list[tuple[dict[str, Any] | str, float | None]]:
    """Each side's reply, or why it has none, and by how much its adapter moves the logits."""
    if "parts" not in result:
        return [(reply, result["adapter_difference"]) for reply in result["replies"]]
    told: list[tuple[dict[str, Any] | str, float | None]] = []
    for weights, part in zip(dict.fromkeys(side.weights for side in sides), result["parts"], strict=True):
        lanes = sum(side.weights == weights for side in sides)
        replies = [part["error"]] * lanes if "error" in part else part["replies"]
        told += [(reply, part["adapter_difference"]) for reply in replies]
    return told


# -- the way of a call ----------------------------------------------------------------------------


class _WaitsError(Exception):
    """A call waits for a person."""


class _BrokeOffError(Exception):
    """A reply was broken off: the loop can't go on with it."""


def press(space: Workspace, chat: Chat, key: str, manner: Manner, page: str = "") -> tuple[Asked, Side]:
    """Confirm the call that a card's button names (exchange/pane/reply/call); raises `InputError` for one that can't be run any more."""
    try:
        exchange_key, pane, piece, place = (int(part) for part in key.split("/"))
    except ValueError:
        raise InputError(words.NOT_RUNNABLE) from None
    exchange = chat.newest
    if exchange is None or exchange.key != exchange_key or pane not in (0, 1):
        raise InputError(words.NOT_RUNNABLE)
    side = exchange.sides[pane]
    call = side.call_at(piece, place) if side is not None and piece == len(side.pieces) - 1 else None
    if side is None or call is None or side.loop != "waits":
        raise InputError(words.NOT_RUNNABLE)
    side.confirmed.add(call_key(call))
    return Asked(space, chat, exchange, manner, page), side


def carry_on(asked: Asked, side: Side) -> Iterator[None]:
    """Go the way of a side's calls as far as it goes without a person; yields whenever something has changed."""
    faults: list[BaseException] = []
    worker = threading.Thread(target=_go, args=(asked, side, faults), name="chat-loop", daemon=True)
    worker.start()
    drawn, at = None, 0.0
    while worker.is_alive():
        now = (side.state, side.loop, len(side.steps), [(len(piece.text), piece.ended) for piece in side.pieces])
        if now != drawn or time.monotonic() - at > STILL:
            drawn, at = now, time.monotonic()
            yield
        worker.join(PICTURE)
    for fault in faults:
        side.loop, side.trouble = "stopped", sentence(fault)
    yield


def _go(asked: Asked, side: Side, faults: list[BaseException]) -> None:
    try:
        _walk(asked, side)
    except _WaitsError:
        side.loop = "waits"
    except _BrokeOffError:
        side.loop = "stopped"
    except Exception as exc:  # told on the page: a thread's own error would be seen by nobody
        faults.append(exc)


def _walk(asked: Asked, side: Side) -> None:
    """The loop over a side, from its request on: what was said and run already is taken as it was."""
    space, manner = asked.space, asked.manner
    form, tools = space.form(side.run), space.tools.read().tools
    said, heard = iter(tuple(side.pieces)), list[Step]()
    ran = {call_key(step.call): step.result for step in side.steps if isinstance(step, Ran)}  # a chat that was read from a file has these alone, and no cache

    def answer(turns: list[Turn]) -> str:
        piece = next(said, None)
        return piece.text if piece is not None else _another(asked, side, turns)

    def run(tool: ToolSpec, call: ToolCall) -> str:
        if (key := call_key(call)) in ran:
            return ran[key]
        side.state = words.RUNNING.format(name=call.name)
        return run_mock(tool, call, functions=space.functions_dir if manner.functions else None, stop=lambda: asked.halted)

    def confirm(call: ToolCall) -> bool:
        if manner.way != "run" and call_key(call) not in side.confirmed:
            raise _WaitsError
        return True

    def tell(step: Step) -> None:
        if len(heard) < len(side.steps):  # it goes the way again: the step is known as it was the first time
            heard.append(side.steps[len(heard)])
            return
        heard.append(step)
        side.steps = tuple(heard)

    pane = 0 if asked.exchange.left is side else 1  # two sides that said the same are equal
    earlier = Chat([] if asked.exchange.fresh else asked.chat.exchanges[: asked.chat.place(asked.exchange.key)])
    turns = conversation(earlier, pane, side.voice, form, asked.exchange.prompt)
    trace = ToolLoop(form, tools, answer, run, LoopLimits(), asked.chat.cache, confirm, tell=tell, stop=lambda: asked.halted)(turns)
    side.loop = trace.ended
    if trace.needs_human and side.voice and not side.listed:
        space.review.add(asked.exchange.prompt, tuple(piece.text for piece in side.pieces), trace.reason, adapter=side.voice, dialect=side.dialect_name)
        side.listed = True


def _another(asked: Asked, side: Side, turns: list[Turn]) -> str:
    """The model's reply to what its tools answered."""
    side.pieces.append(Piece(limit=asked.manner.sampling.max_new_tokens))
    ticket = asked.submit([(side, turns)])
    for _ in _answers(asked.space, ticket, [side]):
        pass
    if not side.pieces[-1].judged:
        raise _BrokeOffError
    return side.pieces[-1].text
