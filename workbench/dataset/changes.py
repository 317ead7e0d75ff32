"""The lines of a set and a change to them, as values: a change can be shown before it is made, made, taken back, and merged with another's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from workbench.dataset.formats import dump_row, parse_jsonl
from workbench.errors import DataError, RowError
from workbench.schema import Example, RowProblem


@dataclass(frozen=True)
class Entry:
    """One line of the file: its exact text, and the row it holds or the problem with it."""

    raw: str
    row: Example | None
    problem: RowProblem | None = None


@dataclass(frozen=True)
class RowSet:
    """All lines of a file as they stood at `version` (SHA-256 of the file; empty where there was no file)."""

    entries: tuple[Entry, ...]
    version: str

    @cached_property
    def rows(self) -> tuple[Example, ...]:
        return tuple(e.row for e in self.entries if e.row is not None)

    @property
    def problems(self) -> tuple[RowProblem, ...]:
        return tuple(e.problem for e in self.entries if e.problem is not None)


@dataclass(frozen=True)
class Change:
    """What to do with the lines of a set. Places count from 0 in the set as its maker saw it.

    put: rows to stand in places; drop: places to take away; add: rows to append; add_raw: lines to append as they
    are, readable or not; replace_all: everything that stood there goes first. `what` tells it in words, in the past
    tense and without a full stop, as in "row 3 was deleted".
    """

    put: Mapping[int, Example] = field(default_factory=dict)
    drop: frozenset[int] = frozenset()
    add: tuple[Example, ...] = ()
    add_raw: tuple[str, ...] = ()
    replace_all: bool = False
    what: str = ""

    def __bool__(self) -> bool:
        return bool(self.put or self.drop or self.add or self.add_raw or self.replace_all)


def line_of(row: Example) -> str:
    """The line that is written for a row."""
    return json.dumps(dump_row(row), ensure_ascii=False)


def to_entry(row: Example) -> Entry:
    """A row as it will be read back from the line written for it; raises `RowError` where it could not be."""
    entry = read_entry(line_of(row))
    if entry.problem is not None:
        raise RowError(entry.problem.reason, entry.problem.field)
    return entry


def read_entry(raw: str, line: int = 1) -> Entry:
    """One line of a file; `line` is its number, from 1."""
    loaded = parse_jsonl(raw)
    if loaded.rows:
        return Entry(raw, loaded.rows[0])
    return Entry(raw, None, replace(loaded.problems[0], line=line))


def entries_of(text: str, known: Mapping[str, Entry] | None = None) -> tuple[Entry, ...]:
    """Every non-empty line of a JSONL text, usable or not. Lines that stand in `known` are not parsed again."""
    known = known or {}
    return tuple(_at_line(known.get(raw) or read_entry(raw), line) for line, raw in _lines(text))


def apply_change(change: Change, entries: Sequence[Entry], known: Mapping[str, Entry] | None = None) -> tuple[Entry, ...]:
    """The lines after `change`; a row that did not change keeps its line. Raises `RowError` for a place or row that can't be."""
    base = () if change.replace_all else tuple(entries)
    for place in sorted({*change.put, *change.drop}):
        check_place(place, base)
        if place in change.put and place in change.drop:
            raise RowError(f"row {place + 1} can't be changed and deleted at once", "line")
    stay = [_put(change.put[i], e) if i in change.put else e for i, e in enumerate(base) if i not in change.drop]
    new = [to_entry(row) for row in change.add]
    return numbered([*stay, *new, *entries_of(_joined(change.add_raw), known)])


def numbered(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """The lines as the file will hold them, each problem with the number of its line there."""
    found = list(entries)
    if found and found[0].raw.startswith("\ufeff"):
        # In front of a file it is the byte-order mark, which is no part of the line.
        found[:1] = entries_of(found[0].raw.lstrip("\ufeff"))
    return tuple(_at_line(e, line) for line, e in enumerate(found, 1))


def check_place(place: int, entries: Sequence[Entry]) -> None:
    """Raise `RowError` for a place (from 0) that the set does not have."""
    if not 0 <= place < len(entries):
        raise RowError(f"there is no row {place + 1}; the set has {len(entries)}", "line")


def _put(row: Example, entry: Entry) -> Entry:
    # Values that compare as equal may still be written otherwise (1, 1.0 and true): the lines decide.
    if entry.row is not None and row == entry.row and line_of(row) == line_of(entry.row):
        return entry
    return to_entry(row)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The non-empty lines with their numbers. Only a line feed ends one: JSON texts may hold other separators as they are."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.rstrip("\r")


def _joined(lines: Sequence[str]) -> str:
    text = "\n".join(lines)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as exc:
        line = text[: exc.start].count("\n") + 1
        raise DataError(f"Line {line} of the new lines holds half a character (a lone surrogate): nothing was added.") from exc
    return text


def _at_line(entry: Entry, line: int) -> Entry:
    if entry.problem is None or entry.problem.line == line:
        return entry
    return replace(entry, problem=replace(entry.problem, line=line))
