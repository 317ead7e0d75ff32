"""A chat in two panes: what was asked, what each pane said, and the conversation that its model is asked with next. No screen."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from workbench.calls.dialects import Dialect, calls_in, dialect_named
from workbench.calls.loop import Ran, ResultCache, Said, Step
from workbench.calls.prompting import CallForm, Turn
from workbench.models.catalog import is_merged
from workbench.schema import ToolCall

KEPT = 40  # exchanges that a chat keeps


@dataclass
class Piece:
    """One reply as far as it has come. `ended` is "" while it is written, then "stop token", "length", "stopped" or "failed"."""

    text: str = ""
    ended: str = ""
    tokens: int = 0
    seconds: float = 0.0
    first_token_seconds: float = 0.0
    limit: int = 0
    """Tokens at which it is cut."""
    trouble: str = ""
    """Why it broke off, as a sentence."""
    changed: int | None = None
    """At how many tokens the form of calls forbade the likeliest one, where calls were bound."""
    changes: tuple[tuple[str, str], ...] = ()
    """The first of them: what the model wanted to write, and what it wrote."""

    @property
    def done(self) -> bool:
        return bool(self.ended)

    @property
    def judged(self) -> bool:
        """Whole, or cut at the length limit; a reply that was broken off says nothing of the model."""
        return self.ended in ("stop token", "length")

    @property
    def whole(self) -> bool:
        return self.ended == "stop token"


@dataclass
class Side:
    """What one pane said to a request: one reply, or several with the answers of tools between them.

    `voice` is the adapter's name, merged:NAME, or "" for the base; `run` names the voice whose form of calls was used, None for none:
    of an adapter its base was taken too.
    `loop` is how the loop behind a call stands: "", "waits", "answered", "stopped" or "needs a human".
    """

    voice: str = ""
    run: str | None = None
    dialect_name: str = "tag"
    pieces: list[Piece] = field(default_factory=lambda: [Piece()])
    steps: tuple[Step, ...] = ()
    state: str = ""
    loop: str = ""
    listed: bool = False
    moved: float | None = None
    """By how much the adapter was measured to move the logits."""
    confirmed: set[str] = field(default_factory=set)
    trouble: str = ""
    """Why the way of its calls broke off, as a sentence."""

    @property
    def adapted(self) -> bool:
        """Whether an adapter answers."""
        return bool(self.voice) and not is_merged(self.voice)

    @property
    def weights(self) -> tuple[str | None, str | None, str | None]:
        """What a job for it names: (an adapter's run, a model that is not the open one, the voice in whose form that one is asked)."""
        if not is_merged(self.run):
            return self.run, None, None
        return (None, self.voice, None) if self.voice else (None, None, self.run)

    @property
    def dialect(self) -> Dialect:
        return dialect_named(self.dialect_name)

    @property
    def first(self) -> Piece:
        """The reply to the request itself, before any tool has answered."""
        return self.pieces[0]

    def rounds(self) -> list[list[Step]]:
        """The steps that follow each reply."""
        found: list[list[Step]] = []
        for step in self.steps:
            if isinstance(step, Said):
                found.append([])
            elif found:
                found[-1].append(step)
        return found

    def call_at(self, piece: int, place: int) -> ToolCall | None:
        """A call of a reply, by its place; None if there is none."""
        if not 0 <= piece < len(self.pieces):
            return None
        calls = calls_in(self.dialect.parse(self.pieces[piece].text))
        return calls[place] if 0 <= place < len(calls) else None


@dataclass
class Exchange:
    """A request, and what the left and the right pane said; a side is None where it was not asked."""

    prompt: str
    left: Side | None = field(default_factory=Side)
    right: Side | None = None
    key: int = 0
    fresh: bool = False
    """Whether a new conversation begins with it."""
    should_call: bool | None = None
    """Whether it should lead to a call; None where that is not known."""

    @property
    def sides(self) -> tuple[Side | None, Side | None]:
        return self.left, self.right

    def asked(self) -> list[Side]:
        return [side for side in self.sides if side is not None]

    @property
    def judged(self) -> bool:
        """Whether every reply to the request itself says something of its model."""
        return all(side.first.judged for side in self.asked())


class Chat:
    """The exchanges of a page, in order. Told from another by identity alone: gradio compares states by their hash."""

    def __init__(self, exchanges: Sequence[Exchange] = ()) -> None:
        self.exchanges = list(exchanges)
        self.cache = ResultCache()
        self.tries = 0
        self.name = ""  # under which it is kept
        self.before = ""  # the page that it was taken over from, until it is written down anew
        self._keys = max((exchange.key for exchange in self.exchanges), default=0)  # a plain number: gradio copies the chat for each page

    @property
    def newest(self) -> Exchange | None:
        return self.exchanges[-1] if self.exchanges else None

    def take_up(self, exchange: Exchange) -> None:
        """Add an exchange under a key of its own; beyond `KEPT` the oldest goes."""
        exchange.key = self._next_key()
        if exchange.fresh:
            self.cache = ResultCache()
        self.exchanges.append(exchange)
        del self.exchanges[:-KEPT]

    def put_before(self, earlier: Chat) -> None:
        """Let this chat go on where another one stood. What was asked here meanwhile knew nothing of that: with it a new conversation begins."""
        if self.exchanges:
            self.exchanges[0].fresh = True
        for exchange in earlier.exchanges:
            exchange.key = self._next_key()
        self.exchanges[:0] = earlier.exchanges
        del self.exchanges[:-KEPT]
        self.name, self.tries = self.name or earlier.name, self.tries + earlier.tries

    def _next_key(self) -> int:
        self._keys += 1
        return self._keys

    def place(self, key: int | None) -> int | None:
        """The place of an exchange, from 0; None if it is not there any more."""
        return next((i for i, exchange in enumerate(self.exchanges) if exchange.key == key), None)

    def cut(self, place: int) -> None:
        """Let go of the exchange at a place and all after it."""
        del self.exchanges[place:]

    def current(self) -> list[Exchange]:
        """The exchanges of the conversation that goes on."""
        begun = max((i for i, exchange in enumerate(self.exchanges) if exchange.fresh), default=0)
        return self.exchanges[begun:]

    def clear(self) -> None:
        self.exchanges.clear()
        self.cache = ResultCache()
        self.tries, self.name = 0, ""


def conversation(chat: Chat, pane: int, voice: str, form: CallForm, prompt: str) -> list[Turn]:
    """What the model of a pane is asked with: what it said there itself, as its form writes it, then the new request.

    What another voice said in that pane is not put into its mouth. Raises `RowError` for a request that can't be written.
    """
    turns: list[Turn] = []
    for exchange in chat.current():
        side = exchange.sides[pane]
        said = spoken(side, form) if side is not None and side.voice == voice else []
        if said:
            turns += [*_asked(form, exchange.prompt, first=not turns), *said]
    return [*turns, *_asked(form, prompt, first=not turns)]


def spoken(side: Side, form: CallForm) -> list[Turn]:
    """The turns of a side's replies and of the tools' answers between them; empty where it said nothing. It ends with a reply."""
    turns: list[Turn] = []
    for piece, steps in itertools.zip_longest(side.pieces, side.rounds()):
        if piece is None or not piece.text.strip():
            break
        turns.append({"role": "assistant", "content": piece.text})
        turns += form.result_turns([(step.call, step.result) for step in steps or () if isinstance(step, Ran)])
    while turns and turns[-1]["role"] != "assistant":
        turns.pop()
    return turns


def _asked(form: CallForm, prompt: str, *, first: bool) -> list[Turn]:
    """A request's turn; the first one with what stands before it."""
    turns = form.ask(prompt)
    return turns if first else turns[-1:]


def call_key(call: ToolCall) -> str:
    """What equal calls have in common."""
    return json.dumps([call.name, dict(call.arguments)], sort_keys=True)
