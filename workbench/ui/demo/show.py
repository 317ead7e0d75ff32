"""A demonstration as it goes on, on one page: the deck, what was played of it, and the verbs. No screen."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from workbench.calls.dialects import Dialect, Verdict, dialect_named, verdict
from workbench.engine.client import Ticket
from workbench.engine.turns import asked_by
from workbench.errors import InputError, WorkbenchError
from workbench.evaluation.deck import Deck, DeckStore, Entry, Tally, deck_of, tally
from workbench.schema import ToolSpec
from workbench.settings import Sampling
from workbench.ui.header import waiting_words
from workbench.ui.words import demo as words
from workbench.workspace import Workspace


@dataclass
class Side:
    """One side's reply as far as it has come. `judged` where it is whole, or was cut at the length limit: then it says something of the model."""

    text: str = ""
    foot: str = ""
    done: bool = False
    judged: bool = False


@dataclass
class Played:
    """A prompt that was asked, with both replies."""

    entry: Entry
    dialect_name: str
    base: Side = field(default_factory=Side)
    adapted: Side = field(default_factory=Side)
    state: str = ""
    failed: str = ""

    @property
    def dialect(self) -> Dialect:
        return dialect_named(self.dialect_name)

    @property
    def judged(self) -> bool:
        return self.base.judged and self.adapted.judged

    def verdict(self, side: Side) -> Verdict:
        return verdict(self.dialect.parse(side.text))


@dataclass
class Show:
    """What a page shows: the deck, the place in it, and what was played with `run`."""

    deck: Deck = field(default_factory=Deck)
    run: str | None = None
    place: int = 0
    played: dict[int, Played] = field(default_factory=dict)
    sampling: Sampling = field(default_factory=Sampling)
    tools: dict[str, ToolSpec] = field(default_factory=dict)
    model: str = ""
    """The name of the base that `run` was trained on."""
    ticket: Ticket | None = None
    """The job in hand."""
    going: bool = False
    halted: bool = False
    said: str = ""
    """What the last press led to, where a sentence tells that."""

    @property
    def entry(self) -> Entry | None:
        return self.deck.entries[self.place] if self.place < len(self.deck.entries) else None

    def move(self, by: int) -> None:
        self.go(self.place + by)

    def go(self, place: int) -> None:
        """To that prompt, or the nearest there is."""
        self.place = max(0, min(place, len(self.deck.entries) - 1))

    def next_unplayed(self) -> int:
        """The place to play when “play” is pressed: this one, or where it was played already the next that was not; the one after it where all were."""
        length = len(self.deck.entries)
        places: list[int] = [self.place, *range(self.place + 1, length), *range(self.place)]
        for place in places:
            if place not in self.played or not self.played[place].judged:
                return place
        return (self.place + 1) % length if length else 0

    def scores(self) -> tuple[Tally, Tally] | None:
        """(base, adapted) over what was played whole; None where that is nothing."""
        whole = [played for played in self.played.values() if played.judged]
        if not whole:
            return None
        return tally((p.entry, p.verdict(p.base)) for p in whole), tally((p.entry, p.verdict(p.adapted)) for p in whole)


def deck_store(space: Workspace) -> DeckStore:
    """The workspace's deck; it begins with the six demo prompts."""
    return DeckStore(space.data_dir / "demo_deck.jsonl", lambda: deck_of(space.cases("demo.jsonl")))


def choose(space: Workspace, show: Show, run: str | None) -> None:
    """Show another adapter: what was played is put aside."""
    if run != show.run:
        stop(space, show)
        show.run, show.played = run or None, {}


def new_deck(space: Workspace, show: Show, deck: Deck) -> None:
    """Take up a deck: what was played is put aside."""
    stop(space, show)
    show.deck, show.played = deck, {}
    show.go(show.place)


def stop(space: Workspace, show: Show) -> bool:
    """Stop what is being played; False where nothing is."""
    show.halted = True
    ticket = show.ticket
    if ticket is not None and not ticket.finished.is_set():
        space.engine.stop(ticket)
    return show.going


def play(space: Workspace, show: Show, places: list[int], sampling: Sampling) -> Generator[None, None, None]:
    """Play the prompts in `places`, one after the other; yields whenever there is something new to see.

    Raises `InputError` where nothing can be played: no adapter, or another prompt is being played. Closing the iterator stops what goes on.
    """
    if show.going:
        raise InputError(words.STILL_PLAYING)
    there = space.adapters()
    if not show.run:
        raise InputError(words.CHOOSE if there else words.NO_ADAPTER)
    if show.run not in there:
        raise InputError(words.GONE.format(name=show.run[:60]))
    if sampling != show.sampling:  # replies made in other ways don't add up
        show.sampling, show.played = sampling, {}
    show.going, show.halted = True, False
    try:
        show.tools, show.model = dict(space.tools.read().tools), space.runs.adapter(show.run)[0].info.model_name
        for place in places:
            show.go(place)
            yield from _one(space, show, place)
            if show.halted or show.played[place].failed:
                return
    finally:
        stop(space, show)
        show.going, show.ticket = False, None


def _one(space: Workspace, show: Show, place: int) -> Generator[None, None, None]:
    form, entry = space.form(show.run), show.deck.entries[place]
    played = Played(entry, form.dialect.name)
    show.played[place] = played
    try:
        with asked_by(f"demonstration {id(show)}"):  # each page has a show of its own
            ticket = show.ticket = space.jobs.answer(form.ask(entry.prompt), run=show.run, lanes=(False, True), sampling=show.sampling)
        yield from _follow(space, ticket, played, show)
        result = ticket.wait()
        for side, reply in zip((played.base, played.adapted), result["replies"], strict=True):
            _take(side, reply)
        if result.get("adapter_difference") is not None:
            played.adapted.foot += " · " + words.ACTIVE.format(moved=result["adapter_difference"])
    except WorkbenchError as exc:
        played.failed = words.STOPPED if show.halted else str(exc)
        played.base.done = played.adapted.done = True
    played.state = ""
    yield


def _follow(space: Workspace, ticket: Ticket, played: Played, show: Show) -> Generator[None, None, None]:
    while not ticket.finished.is_set():
        seen, begun = ticket.changes, any(ticket.texts)
        for side, text in zip((played.base, played.adapted), ticket.texts, strict=False):
            side.text = text
        played.state = waiting_words(space, ticket)
        yield
        if show.halted and not ticket.finished.is_set():  # it may have been asked before there was a ticket
            space.engine.stop(ticket)
        ticket.wait_picture(seen, begun)


def _take(side: Side, reply: dict[str, Any]) -> None:
    """A finished reply, with its figures."""
    side.text, side.done, side.judged = reply["text"], True, reply["ended"] != "stopped"
    pace = reply["tokens"] / reply["seconds"] if reply["seconds"] else 0.0
    side.foot = words.FIGURES.format(tokens=reply["tokens"], pace=pace, first=reply["first_token_seconds"])
    if reply["ended"] in ("length", "stopped"):
        side.foot += f" · {words.CUT if reply['ended'] == 'length' else words.STOPPED}"
    if "constrained" in reply:
        changed = reply["constrained"]["changed"]
        side.foot += " · " + (words.BOUND_CHANGED.format(count=changed) if changed else words.BOUND_NOTHING)
