"""The sentences of the panel of sweeps."""

from __future__ import annotations

EMPTY = (
    "No sweep yet. A sweep trains the same rows under several settings, several times over, and tells which differences are more than chance. "
    "To begin, choose on the left what to compare (8-bit against 4-bit stands there already), look at the plan, and press “Start sweep”."
)
HELP = (
    "A cell is one training: the rows are cut into folds, and every combination of the values is trained on all folds but one and measured on "
    "the one held back, fold by fold. Several seeds repeat everything on other folds, which makes the intervals narrower."
)
NAME, FOLDS = "Name of the new sweep", "Folds"
SHARED = "All other settings as in"
DEFAULTS, TUNE_NOW, A_PRESET, A_RUN = "the defaults", "the Tune form as it stands", "preset: {title}", "run: {name}"
TUNE_WRONG = "The Tune form can't be used. {reason}"
SETTING, VALUES, NO_AXIS = "Setting", "Values to compare", "–"
SETTING_N, VALUES_N = "Setting {number}", "Values to compare of setting {number}"
VALUES_HINT = "with commas: 8, 16"
START, STOP, RESUME = "Start sweep", "Stop (keeps what is done)", "Go on ({left} left)"
DELETE, BRING_BACK = "Delete sweep", "Bring back {name}"
SWEEP, METRIC, AXIS = "Sweep", "Figure in the chart", "Compared setting"
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
READING = (
    "How to read it: a faint dot is one cell, a mark the mean, its bar (in the table: the numbers in brackets) the 95 % interval, where the mean would "
    "most likely lie on other rows of this kind. Bars that overlap decide nothing: the sentences compare the same fold with the same fold, which is "
    "sharper. The intervals allow for folds sharing their training rows, and a row asked again with another seed counts once. "
    "“best” stands only where the difference to every other combination is more than chance."
)
METRIC_HELP = {
    "loss": "How surprised the model is by the right answers of the rows held back, in nats per token: lower is better.",
    "call_recall": "Well-formed calls made, of the rows held back that want one: higher is better.",
    "over_calls": "Calls made, malformed ones too, of the rows held back that want none: lower is better.",
    "right": "Rows held back that were answered by a call where one is wanted, and in words where none is: higher is better.",
    "malformed": "Replies that hold a broken call: lower is better.",
    "seconds": "Training and measuring one cell.", "peak_memory_gib": "The most memory that a cell took.",
}
ONE_ONLY = "Nothing is compared: this sweep only repeats one combination with several seeds."
NO_VALUES = "Give two or more values, with commas. It takes {takes}."
TWICE = "This setting is chosen twice: put all its values into one line."
NO_AXES = "Choose at least one setting with two or more values."
FAILED_CELLS = "{count} failed: {reason}"
WAITS, STOPPING = "waiting for its turn", "stopping"
HOLDS, HOLDS_MANY = "{label} has the engine; this sweep goes on when it has ended.", "{label} has the engine, and {count} more stand before this sweep."
ELSEWHERE = "Another process runs it (the command line, perhaps): it is stopped there. What it measures shows here."
LEFT, LEFT_LATER, LEFT_UNKNOWN = "about {time} left", "about {time} to go", "time left: known after the first cell"


def started(name: str, cells: int, time: str) -> str:
    return f"The sweep {name} was started: {cells} cells; time: {time}"


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


TIME_UNKNOWN = "not known yet: nothing was measured with this model here; the first cell will tell."
