"""A set of rows in a file, edited in place: every change is written at once, whole, and can be taken back.

Lines that can't be read as rows are kept as they stand. A writer says which version of the file it
saw; if the file has changed since, nothing is written and a `ConflictError` tells so.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from workbench.dataset.formats import dump_row, parse_jsonl, parse_row, read_text
from workbench.errors import ConflictError, DataError, RowError
from workbench.files import write_atomic
from workbench.schema import Example, Message, RowProblem

UNDO_DEPTH = 100


@dataclass(frozen=True)
class Entry:
    """One line of the file: its exact text, and the row it holds or the problem with it."""

    raw: str
    row: Example | None
    problem: RowProblem | None = None


@dataclass(frozen=True)
class RowSet:
    """All lines of a file as they stood at `version` (SHA-256 of the file)."""

    entries: tuple[Entry, ...]
    version: str

    @cached_property
    def rows(self) -> tuple[Example, ...]:
        return tuple(e.row for e in self.entries if e.row is not None)

    @property
    def problems(self) -> tuple[RowProblem, ...]:
        return tuple(e.problem for e in self.entries if e.problem is not None)


def to_entry(row: Example) -> Entry:
    """A row as the line that will be written for it."""
    return Entry(json.dumps(dump_row(row), ensure_ascii=False), row)


def entries_of(text: str) -> tuple[Entry, ...]:
    """Every non-empty line of a JSONL text, usable or not."""
    loaded = parse_jsonl(text)
    rows = dict(zip(loaded.lines, loaded.rows, strict=True))
    problems = {p.line: p for p in loaded.problems}
    return tuple(
        Entry(line.rstrip("\r"), rows.get(n), problems.get(n)) for n, line in enumerate(text.split("\n"), 1) if line.strip()
    )


def make_row(request: str, answer: str, status: str = "draft", was: Example | None = None) -> Example:
    """A row from the grid's or the form's fields; raises `RowError`.

    Changing a longer conversation touches its last request and its answer alone.
    """
    if was is None:
        was = Example((Message("user", request), Message("assistant", answer)))
    messages = list(was.messages)
    place = max(i for i, m in enumerate(messages) if m.role == "user")
    messages[place] = replace(messages[place], content=request)
    if answer != messages[-1].content:
        # The answer was typed anew: what it says now counts, not the calls given beside the old one.
        messages[-1] = replace(messages[-1], content=answer, tool_calls=())
    return parse_row(dump_row(replace(was, messages=tuple(messages), status=status)))


class RowStore:
    """Reads and changes one file of rows. Safe for several threads; several browsers are told of each other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._undo: list[tuple[Entry, ...]] = []
        self._redo: list[tuple[Entry, ...]] = []
        self._cache: RowSet | None = None
        self._written = ""  # the version our own last change left

    def read(self) -> RowSet:
        """The file as it stands; an empty set if it does not exist; raises `DataError` if it can't be read."""
        with self._lock:
            if not self.path.exists():
                return RowSet((), "")
            text = read_text(self.path)
            version = hashlib.sha256(text.encode("utf-8")).hexdigest()
            if self._cache is None or self._cache.version != version:
                self._cache = RowSet(entries_of(text), version)
            return self._cache

    def add(self, row: Example, version: str) -> RowSet:
        return self._change(version, lambda entries: (*entries, to_entry(row)))

    def replace(self, place: int, row: Example, version: str) -> RowSet:
        """Put `row` in place `place` (from 0). A row that did not change keeps its line byte for byte."""
        return self.replace_many({place: row}, version)

    def replace_many(self, rows: Mapping[int, Example], version: str) -> RowSet:
        """Put several rows in their places (from 0) in one write, which is one step for Undo."""
        def change(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
            for place in rows:
                _check_place(place, entries)
            return tuple(to_entry(rows[i]) if i in rows and rows[i] != e.row else e for i, e in enumerate(entries))

        return self._change(version, change)

    def delete(self, place: int, version: str) -> RowSet:
        def change(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
            _check_place(place, entries)
            return (*entries[:place], *entries[place + 1 :])

        return self._change(version, change)

    def import_text(self, text: str, version: str, *, keep: bool) -> RowSet:
        """Add the lines of a JSONL text to the set (`keep`) or put them in its place; broken lines come along, named."""
        new = entries_of(text)
        if not new:
            raise DataError("The file holds no rows: nothing was imported.")
        return self._change(version, lambda entries: (*entries, *new) if keep else new)

    def undo(self, version: str | None = None) -> RowSet:
        """Take the last change back; raises `DataError` if there is none, `ConflictError` if the file is not as seen."""
        return self._travel(self._undo, self._redo, version, "There is no change to take back.")

    def redo(self, version: str | None = None) -> RowSet:
        """Make the change again that was taken back last."""
        return self._travel(self._redo, self._undo, version, "There is no change to make again.")

    def _travel(self, source: list[tuple[Entry, ...]], target: list[tuple[Entry, ...]], version: str | None, nothing: str) -> RowSet:
        with self._lock:
            if not source:
                raise DataError(nothing)
            now = self.read()
            if now.version != self._written or (version is not None and version != now.version):
                raise ConflictError(f"{self.path.name} was changed elsewhere since: nothing was taken back, so that the other change is not lost.")
            result = self._write(source[-1])
            source.pop()
            target.append(now.entries)
            return result

    def _change(self, version: str, change: Callable[[tuple[Entry, ...]], tuple[Entry, ...]]) -> RowSet:
        with self._lock:
            now = self.read()
            if version != now.version:
                raise ConflictError(
                    f"{self.path.name} was changed elsewhere since you opened it: nothing was overwritten. "
                    "The rows shown now are the new ones; make your change again."
                )
            entries = change(now.entries)
            if entries == now.entries:
                return now
            # What stood before a foreign change is no place to go back to: that change would be lost.
            earlier = self._undo if now.version == self._written else []
            result = self._write(entries)
            self._undo = [*earlier, now.entries][-UNDO_DEPTH:]
            self._redo = []
            return result

    def _write(self, entries: tuple[Entry, ...]) -> RowSet:
        end = "\r\n" if self.path.exists() and b"\r\n" in self.path.read_bytes()[:65536] else "\n"
        write_atomic(self.path, "".join(e.raw + end for e in entries))
        self._cache = None
        result = self.read()
        self._written = result.version
        return result


def _check_place(place: int, entries: tuple[Entry, ...]) -> None:
    if not 0 <= place < len(entries):
        raise RowError(f"there is no row {place + 1}; the set has {len(entries)}", "line")
