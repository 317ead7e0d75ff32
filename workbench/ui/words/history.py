"""The sentences of the panel of snapshots."""

from __future__ import annotations

TITLE = "History"
HELP = "A snapshot keeps the set as it stands under a name, in data/snapshots/. Compare two of them, or go back to one: Undo takes that back too."
EMPTY = "No snapshot yet. Give one a name and press “Save snapshot” before a large change."
HEADERS = ("Snapshot", "Rows", "Made")
NAME, NAME_HINT = "Name of the new snapshot", "before-import (empty: the time)"
NAME_INFO = "Letters, digits, - _ . and no blanks; 64 at most."
CHOSEN, AGAINST, NOW = "Snapshot", "Compare with", "the set as it stands now"
SAVE, COMPARE, RESTORE, DELETE, BACK = "Save snapshot", "Show what differs", "Go back to this snapshot", "Delete snapshot", "Bring the deleted one back"
NONE_CHOSEN = "No snapshot is chosen: choose one of the list first."
NONE_DELETED = "No snapshot was deleted here."
STALE = "The rows have changed since: press “Show what differs” again."
STEPS = "What Undo would take back, the last change first"
NO_STEPS = "Nothing was changed since the workbench was started."
CHANGED, ADDED, REMOVED = "changed", "added", "deleted"
UNNAMED = "a change"
MOVED = "Rows that did not change stand in another order."


def saved(name: str, rows: int) -> str:
    return f"The snapshot “{name}” keeps {rows} row{'' if rows == 1 else 's'}."


def deleted(name: str) -> str:
    return f"The snapshot “{name}” was deleted. “{BACK}” undoes it."


def brought_back(name: str) -> str:
    return f"The snapshot “{name}” is back."


def snapshot(name: str) -> str:
    """A snapshot within a sentence; the empty name stands for the set itself."""
    return f"“{name}”" if name else NOW


def from_to(before: str, after: str, sentence: str) -> str:
    return f"From {before} to {after}: {sentence}."


def row(place: int) -> str:
    return f"row {place + 1}"


def row_now(before: int, after: int) -> str:
    return row(after) if before == after else f"row {after + 1} (was row {before + 1})"


def more(count: int) -> str:
    return f"And {count} more {'row differs' if count == 1 else 'rows differ'}."


def more_lines(count: int) -> str:
    return f"… and {count} more lines"
