"""The sentences of the panel of sweeps."""

from __future__ import annotations

EMPTY = "No sweep yet. A sweep trains the same rows under several settings, several times over, and tells which differences are more than chance."
TITLE = "New sweep"
HELP = (
    "Every combination of the values below is trained on all folds but one and measured on the fold held back, fold by fold. "
    "Seeds repeat everything on other folds."
)
NAME, NAME_INFO = "Name", "The sweep's folder under sweeps/."
FOLDS, FOLDS_INFO = "Folds", "Parts the rows are cut into."
SHARED, SHARED_INFO = "All other settings as in", "the defaults, or those of a run."
DEFAULTS = "the defaults"
SETTING, VALUES, NO_AXIS = "Setting", "Values to compare", "–"
VALUES_HINT = "with commas: 8, 16"
START, STOP, RESUME = "Start sweep", "Stop (keeps the cells done)", "Go on"
DELETE, BRING_BACK = "Delete sweep", "Bring back {name}"
SWEEP, METRIC, AXIS = "Sweep", "Figure", "Compared"
CSV, JSON = "Cells as CSV", "All as JSON"
STATE_WORDS = {
    "waiting": "not begun", "running": "running", "finished": "finished", "stopped": "stopped", "failed": "failed", "interrupted": "interrupted",
}
INTERRUPTED = "The process that ran it is gone. The cells done are kept: “Go on” does the rest."
NO_SWEEP = "No sweep is chosen: choose one of the list first."
NOTHING_DELETED = "No sweep was deleted here."
ROWS_CHANGED = "The rows have changed since: these figures are of the rows as they were, which the sweep keeps."
HEAD_SETTINGS, HEAD_CELLS = "settings", "cells"
BEST, BEST_HELP = "best", "better than every other combination, each difference shown"
INTERVALS = (
    "Intervals are 95 %. Of means they count in that folds share their training rows; of rates, that a row asked again with another seed is no new row. "
    "“best” stands only where the difference to every other combination is shown."
)
ONE_ONLY = "Nothing is compared: this sweep only repeats one combination with several seeds."
NO_VALUES = "Give the values to compare."
TWICE = "This setting is chosen twice: put all its values into one line."
NO_AXES = "Choose at least one setting with two or more values."
FAILED_CELLS = "{count} failed: {reason}"
ALREADY = "{label} holds the engine; a cell begins when it ends."


def started(name: str, cells: int) -> str:
    return f"The sweep {name} was started: {cells} cells."


def going_on(name: str, left: int) -> str:
    return f"The sweep {name} goes on: {left} cells are left."


def stopping(name: str) -> str:
    return f"{name}: the cell in hand is given up, those done are kept."


def deleted(name: str) -> str:
    return f"The sweep {name} was deleted. “{BRING_BACK.format(name=name)}” undoes it."


def brought_back(name: str) -> str:
    return f"The sweep {name} is back."


def grid(counts: list[tuple[str, int]], folds: int, cells: int) -> str:
    """As in `30 cells: 2 × base weights, 3 × seed, 5 folds`."""
    return f"{cells:,} cells: " + ", ".join(f"{n} × {title}" for title, n in counts) + f", {folds} folds"


def fold_rows(rows: int, held_low: int, held_high: int) -> str:
    held = f"{held_low}" if held_low == held_high else f"{held_low} or {held_high}"
    return f"{rows} rows; each cell learns from {rows - held_low if held_low == held_high else f'{rows - held_high} or {rows - held_low}'} and is measured on {held}"


def time_by_cells(text: str, count: int) -> str:
    return f"about {text}, by {count} measured cell{'' if count == 1 else 's'} of this model here"


def time_by_runs(text: str, name: str) -> str:
    return f"at least {text} by the pace of run {name}; measuring comes on top"


TIME_UNKNOWN = "not known yet: nothing was measured with this model here. The first cell will tell."
