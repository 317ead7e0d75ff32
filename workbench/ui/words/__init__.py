"""Every sentence of the screen, in one place, so that another language can follow."""

from __future__ import annotations

TITLE = "Tool-Call Workbench"
TAB_DATA, TAB_TUNE, TAB_TRAIN, TAB_CHAT = "1 Data", "2 Tune", "3 Train", "4 Chat"

# Data: the bench
GRID_HEADERS = ["✓", "#", "Request", "Answer", "Kind", "Status", "Split", "Finding"]
DATA_HELP = "Click a row to edit it on the right, or type into the grid. Every change is saved at once; Undo takes it back."
DATA_EMPTY = "No rows yet. Bring in a file (“Import and export”), let some be written (“Generate”), or write the first row on the right."
SAVED = "Saved."
NOTHING_CHANGED = "Nothing was changed."
KIND_CALL, KIND_TEXT, KIND_BROKEN = "call", "text", "broken"
UNDONE, REDONE = "Undone", "Made again"
UNSAVED = "The form holds text that is not saved: press Save (Ctrl+S), or New to let it go."
GRID_SHAPE = "Rows are added and deleted with the buttons, columns not at all: the grid was put back."
GRID_OLD = "The grid is too old to act on: press “Show all” to see the rows as they are now."
ROW_CHANGED = "The row has changed since it was opened: nothing was overwritten."
IF_MERGED = "If you merge, it stays as it is now, and yours comes in at the end as a draft with a note."
NOTHING_FOUND = "No row matches: change the filters, or press “Show all”."
NEW_ROW = "new row"
NO_ROW_CHOSEN = "No row is chosen: click a row in the grid first."
CANT_BE_USED = "this line can't be used"
BROKEN_LINE, MEND = "The line as it stands in the file", "Save the mended line"
STATUS, PIN, NOTE = "Review", "Split", "Note for people; the model never sees it"
PIN_NONE = "either side"
A_NUMBER, A_WHOLE_NUMBER = "a number", "a whole number"
LAST_ROW, FIRST_ROW = "That was the last of the rows found.", "That was the first of the rows found."
PIN_WORDS = {"train": "pin to training", "validation": "pin to validation"}
ANSWER_TEXT, ANSWER_CALL = "answers in words", "calls a tool"
PLACEHOLDERS = {
    "user": "What the user says", "assistant": "What the assistant answers", "system": "Instructions before the conversation",
    "tool": "What the tool gave back, as JSON or in words",
}
SAYS = {"user": "The user says", "assistant": "The assistant", "tool": "The tool's result"}
TAKE_OUT, ADD_CALL, ADD_TURN, TOOL = "Take out", "Another call", "Add a turn", "Tool"
ARGUMENTS_JSON, NO_ARGUMENTS = "Arguments (JSON)", "This tool takes no arguments."
UNKNOWN_TOOL = "This tool is not in data/tools.json: add it on the Tools panel."
ADD_ROW, SAVE_ROW, APPROVE, REJECT, NEXT, PREVIOUS = "Add row", "Save", "Approve", "Reject", "Next", "Previous"
DUPLICATE, NEW_EMPTY, DELETE_ROW = "Duplicate", "New", "Delete"
LESSON_TITLE = "What this row teaches"
LESSON_EMPTY = "Open a row to see what it teaches: the model's tokens, the learned ones coloured."
LESSON_FORM, LESSON_TOOLS = "{model} · dialect {dialect}", ", tools told"
LESSON_NO_MODEL = "What a row teaches needs the model's tokenizer."
LESSON_REFUSED = "This can't be learned yet:"
SHORTCUTS = "Keys: ↑ ↓ row · A approve · R reject · D duplicate · N new · E edit · / search · Ctrl+S save · Ctrl+Enter save and next"
SEARCH = "Search requests, answers, notes"
FILTERS = {  # what a screen reader calls the boxes above and below the grid
    "search": "Search", "filter-kind": "Kind", "filter-tool": "Tool", "filter-status": "Status", "filter-problem": "Finding", "filter-split": "Side of the split",
    "sort": "Order", "bulk-action": "What to do", "bulk-scope": "With which rows",
}  # fmt: skip
ANY_KIND, ANY_TOOL, ANY_STATUS, ANY_SIDE = "any kind", "any tool", "any status", "any side"
ANY_FINDING, SOME_FINDING = "any finding", "with a finding"
SIDE_WORDS = {"train": "training", "validation": "validation", "left out": "left out"}
SORT_WORDS = {"place": "file order", "request": "by request", "answer": "by answer", "status": "by status", "length": "longest first"}
SHOW_ALL, TICKED_ROWS, FOUND_ROWS, BULK_APPLY = "Show all", "the ticked rows", "all rows found", "Apply"
NOTHING_TO_DO = "No row is found, so nothing was changed: change the filters, or press “Show all”."
MANY_CALLS = "This answer makes several calls, which a cell shows by their names alone: edit it in the form on the right."
NOTHING_TICKED = "No row is ticked: tick rows in the first column, or choose “all rows found”."
NARROWED = "one finding's rows (“Show all” ends it)"
MINE_DROPPED = "Your change was dropped: the rows are as the other side left them."
MERGE, DROP_MINE = "Merge my change in", "Drop my change"
PANELS = {
    "rows": "Rows", "health": "Health", "files": "Import and export", "generate": "Generate", "tools": "Tools", "history": "Snapshots",
}

# Tune
TUNE_START = "Start training"
TUNE_NAME = "Run name"
TUNE_NAME_INFO = "The run's folder under adapters/. Letters, digits, '.', '_' and '-'."
GROUP_TITLES = {"quantization": "Quantization", "lora": "LoRA", "training": "Training"}
PLAN_TITLE = "The plan"

# Train
TRAIN_EMPTY = "No run yet. Open “2 Tune” and press “Start training”: the embedded model takes a few minutes on a CPU, seconds on a GPU."
STATE_WORDS = {
    "waiting": "waiting for the engine", "running": "training", "finished": "finished", "stopped": "stopped",
    "failed": "failed", "interrupted": "interrupted",
}

# Chat
CHAT_NO_ADAPTER = "No adapter yet. Train one first: “2 Tune”, then “Start training”."
CHAT_EMPTY = "Type a prompt or press one of the examples: base and adapted answer at once."
CHAT_PLACEHOLDER = "Ask something private or something general…"
CHAT_SEND, CHAT_STOP, CHAT_CLEAR = "Send", "Stop", "Clear"
BASE, ADAPTED = "Base", "Adapted"
NO_PROMPT = "Type a prompt first."
MEASURE = "Measure on the 30 cases"
MEASURE_HELP = "Answers every prompt of data/cases.jsonl (none of them is in the rows) and counts the calls."
MEASURE_BOUND = "Figures of bound calls are shown here and not kept beside the adapter."
ROW_CALL, ROW_TEXT = "→ row: should call", "→ row: should answer in words"
NO_REPLY_YET = "There is no whole reply yet: ask something, then turn it into a row."
MISSES, TAKE_MISSES = "Wrong replies", "Turn them into draft rows"
NO_MISS_PICKED = "No wrong reply is ticked."
MISS_LEAKS = "They stand in cases.jsonl too, which the health check will say: reword them before you train."
EMPTY_REPLY = "(the model ended without a word)"
STILL_ANSWERING = "An answer is still being written: wait for it, or press Stop."


def duration(seconds: float) -> str:
    """As in `1:40` or `12 s`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"
