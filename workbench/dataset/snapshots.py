"""Named states of a set, kept as files beside it: saved, compared, gone back to, deleted and brought back."""

from __future__ import annotations

import hashlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from workbench.dataset.changes import Change, Entry, entries_of
from workbench.dataset.formats import read_text
from workbench.dataset.history import Diff, diff
from workbench.dataset.store import RowStore
from workbench.errors import DataError
from workbench.files import explain_os_error, safe_name, write_atomic

NOW = ""  # in place of a snapshot's name: the set as it stands
LONGEST_NAME = 64  # characters
KEPT_DELETED = 20  # deleted snapshots that can still be brought back


@dataclass(frozen=True)
class Snapshot:
    """`rows` counts its lines, readable or not; `made` is in seconds since 1970; `version` is the SHA-256 of its file."""

    name: str
    rows: int
    made: float
    version: str


def _checked(name: str) -> str:
    """`name` as a file's name; raises `DataError` that says which rule it breaks."""
    try:
        return safe_name(name, what="snapshot name", error=DataError)
    except DataError:
        text = str(name).strip()
    shown = f"The snapshot name {text[:80]!r} can't be used"
    if len(text) > LONGEST_NAME:
        raise DataError(f"The snapshot name has {len(text)} characters, {LONGEST_NAME} are allowed: shorten it.")
    if re.fullmatch(r"[^\W_][\w.-]*", text) and ".." not in text and not text.endswith("."):
        raise DataError(f"{shown}: Windows keeps names like {text.split('.')[0]!r} for devices. Take another one, as in {text.split('.')[0]}-1.")
    raise DataError(f"{shown}: take letters, digits, '-', '_' and '.', no blanks, beginning with a letter or a digit and not ending with a point.")


class SnapshotStore:
    """The snapshots of one set, in snapshots/SET/NAME.jsonl beside its file."""

    def __init__(self, rows: RowStore) -> None:
        self.rows = rows
        self.folder = rows.path.parent / "snapshots" / rows.path.stem
        self._counted: dict[tuple[Path, int, int], Snapshot] = {}

    def list(self) -> list[Snapshot]:
        """All snapshots, the newest first; raises `DataError` if the folder can't be read."""
        try:
            files = [p for p in self.folder.glob("*.jsonl") if p.is_file() and not p.name.startswith(".")]
            found = [self._look(path) for path in files]
        except OSError as exc:
            raise DataError(explain_os_error(exc, self.folder)) from exc
        return sorted(found, key=lambda s: (-s.made, s.name))

    def save(self, name: str) -> Snapshot:
        """Keep the set as it stands under `name`; raises `DataError` for a bad or taken name, or a set without rows."""
        path = self._path(name)
        entries = self.rows.read().entries
        if not entries:
            raise DataError("The set holds no rows: there is nothing to keep.")
        if path.stem.casefold() in {p.stem.casefold() for p in self.folder.glob("*.jsonl")}:
            raise DataError(f"There is a snapshot {path.stem!r} already: take another name, or delete that one first.")
        write_atomic(path, "".join(e.raw + "\n" for e in entries))
        return self._look(path)

    def restore(self, name: str) -> Change:
        """The change that puts the set back to what it was at the snapshot; Undo takes it back like any other."""
        self._existing(name)
        lines = tuple(e.raw for e in self.entries(name))
        if not lines:
            raise DataError(f"The snapshot {name!r} holds no rows: the set was left as it is.")
        return Change(add_raw=lines, replace_all=True, what=f"the set was put back to the snapshot “{name}”")

    def entries(self, name: str) -> tuple[Entry, ...]:
        """The lines of a snapshot, or of the set as it stands (`NOW`)."""
        now = self.rows.read().entries
        if name == NOW:
            return now
        return entries_of(read_text(self._existing(name)), {e.raw: e for e in now})

    def diff(self, before: str, after: str) -> Diff:
        """What became of the set between two snapshots; either may be `NOW`."""
        return diff(self.entries(before), self.entries(after))

    def delete(self, name: str) -> None:
        """Put a snapshot aside: `bring_back` undoes it, as long as no more than `KEPT_DELETED` others were deleted since."""
        path = self._existing(name)
        aside = self._aside(path.stem)
        try:
            aside.parent.mkdir(exist_ok=True)
            os.replace(path, aside)
            os.utime(aside, (time.time(), aside.stat().st_mtime))  # the time of access tells when it was deleted
            for old in sorted(aside.parent.glob("*.jsonl"), key=lambda p: p.stat().st_atime, reverse=True)[KEPT_DELETED:]:
                old.unlink()
        except OSError as exc:
            raise DataError(explain_os_error(exc, path)) from exc

    def bring_back(self, name: str) -> Snapshot:
        """Take back a deletion; raises `DataError` if there is no such deleted snapshot, or its name is taken again."""
        path = self._path(name)
        if path.exists():
            raise DataError(f"There is a snapshot {path.stem!r} again: delete or keep that one.")
        try:
            os.replace(self._aside(path.stem), path)
        except OSError as exc:
            raise DataError(f"The deleted snapshot {path.stem!r} is not here any more.") from exc
        return self._look(path)

    def _aside(self, name: str) -> Path:
        return self.folder / ".deleted" / f"{name}.jsonl"

    def _path(self, name: str) -> Path:
        return self.folder / f"{_checked(name)}.jsonl"

    def _existing(self, name: str) -> Path:
        path = self._path(name)
        if not path.is_file():
            raise DataError(f"There is no snapshot {path.stem!r} any more: choose one of the list.")
        return path

    def _look(self, path: Path) -> Snapshot:
        """What a file says of itself; files that did not change are not read again."""
        stat = path.stat()
        key = (path, stat.st_mtime_ns, stat.st_size)
        if key not in self._counted:
            raw = path.read_bytes()
            rows = sum(1 for line in raw.split(b"\n") if line.strip())
            self._counted[key] = Snapshot(path.stem, rows, stat.st_mtime, hashlib.sha256(raw).hexdigest())
        return self._counted[key]
