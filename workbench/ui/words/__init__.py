"""Every sentence of the screen, in one place, so that another language can follow."""

from __future__ import annotations

TITLE = "Tool-Call Workbench"
TAB_DATA, TAB_TUNE, TAB_TRAIN, TAB_CHAT = "1 Data", "2 Tune", "3 Train", "4 Chat"

# Data
GRID_HEADERS = ["#", "Request", "Answer", "Kind", "Status", "Problem"]
DATA_HELP = "Click a row to edit it on the right, or type into the grid. Every change is saved at once; Undo takes it back."
DATA_EMPTY = "No rows yet. Import a JSONL file, or write the first row on the right and press “Add as new row”."
SAVED = "Saved."
NOTHING_CHANGED = "Nothing was changed."
KIND_CALL, KIND_TEXT, KIND_BROKEN = "call", "text", "broken"
UNDONE, REDONE = "The last change was taken back.", "The change was made again."
ROWS_CHANGED = "The rows changed: click your row again, or add this as a new one"
UNSAVED = "The form holds text that is not saved: press “Save row”, “Add as new row” or “Clear the form” first."
GRID_SHAPE = "Rows are added and deleted with the buttons on the right, columns not at all: the grid was put back."
NEW_ROW = "new row"

# Tune
TUNE_START = "Start training"
TUNE_NAME = "Run name"
TUNE_NAME_INFO = "The run's folder under adapters/. Letters, digits, '.', '_' and '-'."
GROUP_TITLES = {"quantization": "Quantization", "lora": "LoRA", "training": "Training"}
PLAN_TITLE = "The plan"

# Train
TRAIN_EMPTY = "No run yet. Open “2 Tune” and press “Start training”: the embedded model takes a few minutes on a CPU, seconds on a GPU."
TRAIN_STOP = "Stop (keeps the adapter so far)"
STATE_WORDS = {
    "waiting": "waiting for the engine", "running": "training", "finished": "finished", "stopped": "stopped",
    "failed": "failed", "interrupted": "interrupted",
}
INTERRUPTED = "The process that trained it is gone, so the run broke off. What was saved last is kept; start a new run to train again."

# Chat
CHAT_NO_ADAPTER = "No adapter yet. Train one first: “2 Tune”, then “Start training”."
CHAT_EMPTY = "Type a prompt or press one of the examples: base and adapted answer at once."
CHAT_PLACEHOLDER = "Ask something private or something general…"
CHAT_SEND, CHAT_STOP, CHAT_CLEAR = "Send", "Stop", "Clear"
BASE, ADAPTED = "Base", "Adapted"
NO_PROMPT = "Type a prompt first."
LEARNED = {
    (False, True): "learned to call", (True, False): "stopped calling", (True, True): "both call", (False, False): "neither calls",
}
MEASURE = "Measure on the 30 cases"
MEASURE_HELP = "Answers every prompt of data/cases.jsonl (none of them is in the rows) and counts the calls."
EMPTY_REPLY = "(the model ended without a word)"
STILL_ANSWERING = "An answer is still being written: wait for it, or press Stop."
CUT = "cut at the length limit"
HALTED = "stopped by you"


def duration(seconds: float) -> str:
    """As in `1:40` or `12 s`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"
