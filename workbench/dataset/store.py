"""A set of rows in a file, edited in place: every change is written at once, whole, and can be taken back.

Lines that can't be read as rows are kept as they stand. A writer says which version of the file it
saw; if the file has changed since, nothing is written, a `ConflictError` says what changed, and the
change can be merged with the other one.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from pathlib import Path

from workbench.dataset.changes import Change as Change
from workbench.dataset.changes import Entry as Entry
from workbench.dataset.changes import RowSet as RowSet
from workbench.dataset.changes import apply_change, entries_of
from workbench.dataset.changes import to_entry as to_entry
from workbench.dataset.formats import MAX_FILE_BYTES, decode, dump_row, parse_row
from workbench.dataset.history import Merge, diff, merge_changes
from workbench.errors import ConflictError, DataError
from workbench.files import explain_os_error, write_atomic
from workbench.schema import Example, Message

UNDO_DEPTH = 100
SEEN_DEPTH = 50  # versions whose lines are remembered, so that a late writer can be merged
KEPT_LINES = 5_000_000  # lines that Undo, or the remembered versions, may hold in all; most of them are shared


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


@dataclass(frozen=True)
class _State:
    """A file as it stood: its lines, how they end, and its bytes where these say more than the lines do."""

    rows: RowSet
    end: str = "\n"
    odd: bytes | None = field(default=None, repr=False)

    def bytes(self) -> bytes:
        return _laid_out(self.rows.entries, self.end) if self.odd is None else self.odd


@dataclass(frozen=True)
class _Step:
    """A place to go back to (or forward), and the change in between in words."""

    state: _State
    what: str


class RowStore:
    """Reads and changes one file of rows. Safe for several threads; several browsers are told of each other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._undo: list[_Step] = []
        self._redo: list[_Step] = []
        self._state: _State | None = None  # the file as it stood when we last read or wrote it
        self._seen: OrderedDict[str, tuple[Entry, ...]] = OrderedDict()
        self._written = ""  # the version our own last change left

    def read(self) -> RowSet:
        """The file as it stands; an empty set if it does not exist; raises `DataError` if it can't be read."""
        with self._lock:
            return self._now().rows

    def changed_at(self) -> float:
        """When the file was last written, in seconds since 1970; 0 where there is none."""
        try:
            return self.path.stat().st_mtime
        except OSError:
            return 0.0

    def at(self, version: str) -> RowSet | None:
        """The rows as they stood at `version`, if they were shown not too long ago; None if they are not known any more."""
        with self._lock:
            now = self._now().rows
            if version == now.version:
                return now
            seen = self._seen.get(version)
            return RowSet(seen, version) if seen is not None else None

    def change(self, change: Change, version: str) -> RowSet:
        """Make `change`, as one write and one step for Undo, in the set as it stood at `version`.

        Raises `ConflictError` if the file is not as seen (`merge` finds a way), `RowError` for a place or a row
        that can't be, `WorkbenchError` if the disk refuses; nothing is written then.
        """
        with self._lock:
            now = self._now()
            if not self._same(version, now):
                raise ConflictError(self._conflict(version, now.rows))
            entries = apply_change(change, now.rows.entries, _known(now) if change.add_raw else None)
            if [e.raw for e in entries] == [e.raw for e in now.rows.entries]:
                return now.rows
            # What stood before a foreign change is no place to go back to: that change would be lost.
            earlier = self._undo if now.rows.version == self._written else []
            result = self._write(_laid_out(entries, now.end), entries, now.end)
            self._undo = _newest([*earlier, _Step(now, change.what)])
            self._redo = []
            return result

    def merge(self, change: Change, version: str, prefer: str = "both") -> Merge:
        """What `change`, made against `version`, comes to in the set as it stands: make it with `change(m.change, m.version)`.

        Where both sides touched one row, `prefer` decides: "both" keeps theirs and appends ours as a draft with a
        note, "ours" and "theirs" keep one of them. Raises `ConflictError` if the lines of `version` are not known
        any more and the change does more than add rows.
        """
        with self._lock:
            now = self._now()
            seen = now.rows.entries if self._same(version, now) else self._seen.get(version)
            if seen is None and (change.put or change.drop or change.replace_all):
                raise ConflictError(
                    f"{self.path.name} was changed elsewhere, and what you saw of it is not known any more (the workbench was started anew, "
                    "or it is too long ago): only new rows can be merged. Look at the rows as they are now and make your change again."
                )
            return merge_changes(change, seen, now.rows, prefer)

    def add(self, row: Example, version: str) -> RowSet:
        return self.change(Change(add=(row,), what="a row was added"), version)

    def replace(self, place: int, row: Example, version: str) -> RowSet:
        """Put `row` in place `place` (from 0). A row that did not change keeps its line byte for byte."""
        return self.change(Change(put={place: row}, what=f"row {place + 1} was changed"), version)

    def delete(self, place: int, version: str) -> RowSet:
        return self.change(Change(drop=frozenset({place}), what=f"row {place + 1} was deleted"), version)

    @property
    def undo_what(self) -> str | None:
        """The change that Undo would take back, in words (they may be empty); None if there is none."""
        return self._undo[-1].what if self._undo else None

    @property
    def redo_what(self) -> str | None:
        """The change that Redo would make again; None if there is none."""
        return self._redo[-1].what if self._redo else None

    @property
    def steps(self) -> tuple[str, ...]:
        """The changes that can be taken back, in words, the last one first."""
        return tuple(step.what for step in reversed(self._undo))

    def undo(self, version: str | None = None) -> RowSet:
        """Take the last change back; raises `DataError` if there is none, `ConflictError` if the file is not as seen."""
        return self._travel(self._undo, self._redo, version, "There is no change to take back.")

    def redo(self, version: str | None = None) -> RowSet:
        """Make the change again that was taken back last."""
        return self._travel(self._redo, self._undo, version, "There is no change to make again.")

    def _travel(self, source: list[_Step], target: list[_Step], version: str | None, nothing: str) -> RowSet:
        with self._lock:
            if not source:
                raise DataError(nothing)
            now = self._now()
            if now.rows.version != self._written or (version is not None and version != now.rows.version):
                raise ConflictError(f"{self.path.name} was changed elsewhere since: nothing was taken back, so that the other change is not lost.")
            step = source[-1]
            result = self._write(step.state.bytes(), step.state.rows.entries, step.state.end)
            source.pop()
            target.append(_Step(now, step.what))
            return result

    # -- the file -------------------------------------------------------------------------------------

    def _now(self) -> _State:
        """The file as it stands. A line that was known before is not parsed again."""
        raw = self._bytes()
        version = "" if raw is None else _hash(raw)
        if self._state is None or self._state.rows.version != version:
            text = decode(raw or b"", str(self.path))
            entries = entries_of(text, _known(self._state))
            self._set(raw or b"", RowSet(entries, version), "\r\n" if "\r\n" in text[:65536] else "\n")
        assert self._state is not None
        self._remember(self._state.rows)
        return self._state

    def _bytes(self) -> bytes | None:
        try:
            if self.path.is_dir():
                raise DataError(f"{self.path} is a folder: give a file of JSON lines.")
            if not self.path.exists():
                return None
            if self.path.stat().st_size > MAX_FILE_BYTES:
                raise DataError(f"{self.path} is larger than {MAX_FILE_BYTES // 2**20} MiB: split it into smaller files.")
            return self.path.read_bytes()
        except OSError as exc:
            raise DataError(explain_os_error(exc, self.path)) from exc

    def _write(self, raw: bytes, entries: tuple[Entry, ...], end: str) -> RowSet:
        if len(raw) > MAX_FILE_BYTES:
            raise DataError(f"{self.path.name} would become larger than {MAX_FILE_BYTES // 2**20} MiB and could not be read again: nothing was changed.")
        write_atomic(self.path, raw)
        rows = RowSet(entries, _hash(raw))
        self._set(raw, rows, end)
        self._remember(rows)
        self._written = rows.version
        return rows

    def _set(self, raw: bytes, rows: RowSet, end: str) -> None:
        plain = _laid_out(rows.entries, end) == raw
        self._state = _State(rows, end, None if plain else raw)

    # -- the versions that were shown -----------------------------------------------------------------

    def _remember(self, rows: RowSet) -> None:
        self._seen[rows.version] = rows.entries
        self._seen.move_to_end(rows.version)
        while len(self._seen) > 1 and (len(self._seen) > SEEN_DEPTH or sum(map(len, self._seen.values())) > KEPT_LINES):
            self._seen.popitem(last=False)

    def _same(self, version: str, now: _State) -> bool:
        """Whether the lines of `version` are those of today: another way of ending them is no other change."""
        if version == now.rows.version:
            return True
        seen = self._seen.get(version)
        return seen is not None and [e.raw for e in seen] == [e.raw for e in now.rows.entries]

    def _conflict(self, version: str, now: RowSet) -> str:
        seen = self._seen.get(version)
        what = f" ({diff(seen, now.entries).sentence()})" if seen is not None else ""
        return f"{self.path.name} was changed elsewhere since you opened it{what}: nothing was overwritten. Your change can be merged with the other one."


def _hash(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _known(state: _State | None) -> dict[str, Entry]:
    return {e.raw: e for e in state.rows.entries} if state is not None else {}


def _laid_out(entries: tuple[Entry, ...], end: str) -> bytes:
    return "".join(e.raw + end for e in entries).encode("utf-8")


def _newest(steps: list[_Step]) -> list[_Step]:
    """The last steps that may be kept: at least one."""
    steps = steps[-UNDO_DEPTH:]
    lines = 0
    for kept, step in enumerate(reversed(steps)):
        lines += len(step.state.rows.entries)
        if kept and lines > KEPT_LINES:
            return steps[-kept:]
    return steps
