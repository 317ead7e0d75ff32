"""Parsing a reply while it streams: every character is looked at once, however the text is cut into pieces.

A grammar is written as generators over a `Cursor`: one yields where it needs more text, and goes on when there is more.
Parsing a whole text is the same thing with one piece, so the two can't differ.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from workbench.calls.segments import MalformedSegment, OpenSegment, Segment, TextSegment

T = TypeVar("T")
Steps = Generator[None, None, T]
_SPACES = re.compile(r"\s*")


class Cursor:
    """The text that came, and the place `at` which the parser stands in it.

    What the parser has passed of the segment at hand is put aside when more text comes, so that a piece costs its own
    length only; `text` holds the rest. Places in a segment count characters from its beginning (`begun`, `size`).
    """

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.ended = False
        self.looked = 0  # characters taken up, those looked at again counted again
        self._kept: list[str] = []
        self._kept_size = 0
        self._from = 0

    def add(self, chunk: str) -> None:
        if self.at > self._from:
            self._kept.append(self.text[self._from : self.at])
            self._kept_size += self.at - self._from
        self.looked += len(self.text) - self.at + len(chunk)
        self.text = self.text[self.at :] + chunk
        self._from = self.at = 0

    def pass_over(self, chunk: str) -> None:
        """Take more text that is passed at once; only where all of `text` is."""
        self._kept += (self.text[self._from :], chunk) if self._from < self.at else (chunk,)
        self._kept_size += self.at - self._from + len(chunk)
        self.looked += len(chunk)
        self.text, self._from, self.at = "", 0, 0

    @property
    def begun(self) -> int:
        """How much of the segment is passed."""
        return self.size(self.at)

    def size(self, at: int) -> int:
        """The place `at` in `text`, counted from the segment's beginning."""
        return self._kept_size + at - self._from

    def piece(self) -> str:
        """The segment as far as it is passed."""
        return "".join([*self._kept, self.text[self._from : self.at]]) if self._kept else self.text[self._from : self.at]

    def pending(self) -> str:
        """The segment with all that came after it."""
        return "".join([*self._kept, self.text[self._from :]])

    def begin(self) -> None:
        """A new segment begins here."""
        if self._kept:
            self._kept, self._kept_size = [], 0
        self._from = self.at

    def rewind(self, size: int) -> None:
        """Back to `size` characters after the segment's beginning."""
        self.looked += self.begun - size
        if self._kept:
            self.text = self.pending()
            self._kept, self._kept_size, self._from = [], 0, 0
        self.at = self._from + size


@dataclass(frozen=True)
class Broken:
    """A piece that is no call: why, and where the search for its end goes on (`depth` brackets are open there)."""

    size: int
    reason: str
    depth: int = 0


class Grammar(ABC):
    """How the calls of a dialect stand in a text.

    `opening` is what begins one, at most `reach` characters long; it looks at nothing beyond itself. `heads` finds where a text's
    end may be the beginning of one: by its first character, or more exactly.
    """

    opening: re.Pattern[str]
    reach: int
    heads: re.Pattern[str]

    @abstractmethod
    def scan(self, cursor: Cursor) -> Steps[Broken | None]:
        """From an opening to behind the end of its piece; `Broken` if it has none."""

    @abstractmethod
    def recover(self, cursor: Cursor, broken: Broken) -> Steps[str]:
        """From `broken.size` to where a malformed piece ends; returns its reason. It must pass at least one character."""

    @abstractmethod
    def read(self, raw: str) -> Sequence[Segment] | None:
        """The segments of a whole piece, which join to it; None if it is text after all."""


class Stream:
    """One reply, fed piece by piece. Its parts are closed for good as soon as nothing that follows can change them."""

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._cursor = Cursor()
        self._closed: list[Segment] = []
        self._texts: list[str] = []  # of a text segment that may go on
        self._in_call = False
        self._run = self._parse()

    def feed(self, text: str) -> tuple[Segment, ...]:
        """Take the next piece of the reply; returns the segments that it closed, often none."""
        if self._cursor.ended:
            raise ValueError("the stream is closed")
        cursor, grammar = self._cursor, self._grammar
        if not self._in_call and cursor.at == len(cursor.text):
            tail = max(0, len(text) - grammar.reach + 1)
            if grammar.heads.search(text, tail) is None and grammar.opening.search(text) is None:
                cursor.pass_over(text)  # as the steps would have it, only sooner
                return ()
        before = len(self._closed)
        cursor.add(text)
        next(self._run)
        return tuple(self._closed[before:])

    def segments(self) -> tuple[Segment | OpenSegment, ...]:
        """All of the reply so far: the closed segments, and last the one that is still open. Takes as long as that one is."""
        if self._cursor.ended:
            return tuple(self._closed)
        rest = self._cursor.pending()
        if not self._in_call:
            rest = "".join([*self._texts, rest])
            return (*self._closed, OpenSegment(rest, False)) if rest else tuple(self._closed)
        before = "".join(self._texts)
        return (*self._closed, *([TextSegment(before)] if before else []), OpenSegment(rest, True))

    def close(self) -> tuple[Segment, ...]:
        """The reply is over: all of its segments, as the parse of the whole text gives them."""
        if not self._cursor.ended:
            self._cursor.ended = True
            self._cursor.add("")
            next(self._run, None)
        return tuple(self._closed)

    @property
    def looked(self) -> int:
        """Characters taken up so far, those that were looked at again counted again: the parser's work."""
        return self._cursor.looked

    def _parse(self) -> Steps[None]:
        cursor, grammar = self._cursor, self._grammar
        while True:
            found = yield from to_match(cursor, grammar.opening, grammar.reach, grammar.heads)
            if cursor.begun:
                self._texts.append(cursor.piece())
                cursor.begin()
            if found is None:
                return self._end_text()
            self._in_call = True
            broken = yield from grammar.scan(cursor)
            read: Sequence[Segment] | None
            if broken is None:
                read = grammar.read(cursor.piece())
            else:
                cursor.rewind(broken.size)
                reason = yield from grammar.recover(cursor, broken)
                read = (MalformedSegment(cursor.piece(), reason),)
            self._in_call = False
            if read is None:
                self._texts.append(cursor.piece())
            else:
                self._end_text()
                self._closed += read
            cursor.begin()

    def _end_text(self) -> None:
        if self._texts:
            self._closed.append(TextSegment("".join(self._texts)))
            self._texts = []


def parse(grammar: Grammar, text: str) -> tuple[Segment, ...]:
    """A whole reply as segments."""
    stream = Stream(grammar)
    stream.feed(text)
    return stream.close()


# -- steps that grammars are made of ----------------------------------------------------------------


def to_match(cursor: Cursor, pattern: re.Pattern[str], reach: int, heads: re.Pattern[str], *, wait: bool = False) -> Steps[re.Match[str] | None]:
    """To the next match of `pattern`, before it; None, and to the end, if none comes.

    A match is at most `reach` long; `heads` is as a grammar's. With `wait` it is only believed when `reach` characters
    are there: for patterns of which one alternative begins another.
    """
    while True:
        found = pattern.search(cursor.text, cursor.at)
        end = len(cursor.text)
        if found is not None and (cursor.ended or not wait or found.start() + reach <= end):
            cursor.at = found.start()
            return found
        if cursor.ended:
            cursor.at = end
            return None
        head = heads.search(cursor.text, max(cursor.at, end - reach + 1)) if found is None else found
        cursor.at = end if head is None else head.start()
        yield


def literal(cursor: Cursor, wanted: str) -> Steps[bool]:
    """Past `wanted` if it stands here; stays if not."""
    while not cursor.text.startswith(wanted, cursor.at):
        if cursor.ended or len(cursor.text) - cursor.at >= len(wanted) or not wanted.startswith(cursor.text[cursor.at :]):
            return False
        yield
    cursor.at += len(wanted)
    return True


def run_of(cursor: Cursor, characters: re.Pattern[str]) -> Steps[int]:
    """Past all that `characters` (a pattern that may match nothing) takes; how many those were."""
    count = 0
    while True:
        found = characters.match(cursor.text, cursor.at)
        if found is not None:
            count += found.end() - cursor.at
            cursor.at = found.end()
        if cursor.at < len(cursor.text) or cursor.ended:
            return count
        yield


def spaces(cursor: Cursor) -> Steps[int]:
    return run_of(cursor, _SPACES)


def character(cursor: Cursor) -> Steps[str]:
    """The character that stands here, "" at the end of the reply; stays before it."""
    while cursor.at == len(cursor.text) and not cursor.ended:
        yield
    return cursor.text[cursor.at : cursor.at + 1]


def to_bracket(cursor: Cursor, broken: Broken, pattern: re.Pattern[str], reach: int, heads: re.Pattern[str]) -> Steps[str]:
    """The end of a malformed piece that nothing closes but its brackets: behind its last one, or before the next opening.

    `pattern` finds openings and single brackets, `heads` the first characters of both.
    """
    depth = broken.depth
    while True:
        found = yield from to_match(cursor, pattern, reach, heads, wait=True)
        if found is None or (len(found.group()) > 1 and cursor.begun):
            return broken.reason
        cursor.at += len(found.group())
        depth += 1 if found.group() in "{[(" else -1
        if depth <= 0:
            return broken.reason
