"""Every sentence of the Train tab: one run as it goes on, all runs, and what tells two apart."""

from __future__ import annotations

PANELS = {"run": "Run", "runs": "Runs", "sweep": "Sweep"}

# -- charts
CHART_KIND, SMOOTHING, SAYS_WHEN, ALONG_LABEL, CURVES_LABEL = "What the chart shows", "Smoothing", "Answers from", "Along", "Curves"
CHARTS = {"loss": "loss, calls", "rate": "rate", "gradient": "gradient", "speed": "tokens/s", "memory": "memory"}
LOG_SCALE = "log scale"
SMOOTH_OFF, SMOOTH_SOME, SMOOTH_MUCH = "as measured", "smoothed", "smoother"
SMOOTHED = "{name}, smoothed"
TRAIN_LOSS, VALIDATION_LOSS, CALL_ACCURACY = "train loss", "validation loss", "call or text as it should be"
BEST_KEPT, RESUMED_AT, CLIPPED = "best adapter", "resumed", "clipped above {clip}"
MEMORY_PEAK, GPU_USE, GRADIENT_NORM = "memory, peak", "GPU in use", "gradient norm"
AXIS_STEP, AXIS_EPOCH, AXIS_LOSS, AXIS_ACCURACY = "optimizer step", "epoch", "loss (nats per token)", "call or text right"
AXIS_RATE, AXIS_GRADIENT, AXIS_SPEED, AXIS_MEMORY = "learning rate", "gradient norm before clipping", "tokens per second", "GiB"
AT = "at"

# -- one run
RUN = "Run"
STOP, RESUME, SMALLER = "Stop (keeps the adapter so far)", "Resume", "Start again smaller"
RESUMING = "{name} goes on from its checkpoint."
RESUME_WAITS = "{name} goes on from its checkpoint as soon as it is its turn."
NOTHING_TO_STOP = "No run is going on: there is nothing to stop."
STOP_TOLD = "{label} was asked to stop: it will end its step and keep the adapter."
TAKEN_BACK = "{label} was taken back before it began."
ENDED_EARLY_KEPT = " The best adapter is kept beside the last: {name} in Chat."
STOPPING, STOPPING_AFTER, STOPPING_SOON = "stopping", "after the step in hand; then it saves the adapter", "before its first step"
RESUME_CHIP, STARTING_CHIP = "waiting to go on", "starting"
ORPHAN_CHIP = "still finishing"
ORPHANED = "Its workbench was closed: it is still finishing the step in hand, saves and ends by itself. Then it can be resumed."
ELSEWHERE = "Another process (number {pid}) trains it: it can be stopped there."
NOT_RESUMABLE = "The run {name} can't be resumed: it has no checkpoint, or no steps are left."
SMALLER_STARTED = "The run {name} was started with the same rows. {what}"
NO_SMALLER = "Nothing smaller is left to try with this model: take a smaller one, or a machine with more memory."
INTERRUPTED = "The process that trained it is gone, so the run broke off. What was saved last is kept."
GO_ON, BEGIN_ANEW = "Press Resume: it goes on from its checkpoint.", "Nothing was saved yet: start a new run."
BUSY = "{label} is still going on: stop it or wait for its end."
CAUSES = {  # title, and what helps; {go_on} is the one way out: Resume where there is a checkpoint, a new run where there is none
    "memory": ("out of memory", "“Start again smaller” takes the same rows and the first of these settings that makes it smaller."),
    "killed": ("its process was killed", "{go_on} If it is killed again, give it a lower token budget (Tune)."),
    "hang": ("it no longer answered", "{go_on} If it hangs again, give it a lower token budget (Tune)."),
    "device": ("the accelerator failed", "{go_on} If it fails again at once, restart the machine's driver."),
    "not finite": ("the loss was no longer a number", "Lower the learning rate or the gradient clip, or take base weights with more bits. The last good adapter is kept."),
    "disk": ("the disk refused", "Free some space or mend the folder's rights. {go_on}"),
    "early stop": ("ended early", "The measurements no longer got better."),
}  # fmt: skip

# -- what it says now
SAYS_TITLE = "What it says now"
SAYS_NONE = "The first answers come before the first step, once the model is loaded."
SAYS_ENDED = "The run ended before the model was asked."
SAYS_OFF = "This run does not answer validation rows (Tune, “Answer validation rows every”)."
SAYS_NOBODY = "No validation rows: nothing is held back to be answered."
NEWEST = "newest"
EPOCH = "epoch {epoch:g}"
BEFORE = "before training"
SAYS_RIGHT = "{right} of {asked} validation rows called, or kept from calling, as they should"
FIRST_CALL = "It called for the first time {when}."
FIRST_IN = "after epoch {epoch:g} (step {step})"
FIRST_BEFORE = "before any training"
NO_CALL_YET = "None of the sampled rows that should call has called yet."
SHOULD_CALL, SHOULD_TEXT = "should call", "should answer in words"
RIGHT, WRONG = "✓ right", "✗ wrong"
EXPECTED = "the row's own answer"
NO_REPLY = "(nothing was said)"

# -- facts and log
ESTIMATE = "memory, estimated → measured"
ESTIMATE_VALUE = "{estimated:.1f} → {measured:.1f} GiB ({off:+.0%})"
TRACKED = "trackio show --project {project}"
SHOW_LOG = "What happened"

# -- the table of runs
FILTER_LABEL, STATE_LABEL = "Filter runs", "State"
FILTER, ANY_STATE = "Filter by words: name, data, note, 4-bit, or a setting and its value, as in: rank 8", "any state"
COLUMNS = (
    ("", "pick", "Ticked runs are drawn over each other below"), ("Run", "name", ""), ("State", "state", ""), ("Rows", "data", "What it learned from"),
    ("Weights", "quantization", "Base weights"), ("Rank", "rank", ""), ("Rate", "rate", "Learning rate"), ("Epochs", "epochs", ""),
    ("Val. loss", "loss", "Best validation loss, nats per token"), ("Recall", "recall", "Well-formed calls made of the calls that were wanted, on the evaluation cases"),
    ("Over-calls", "over-calls", "Calls made where none was wanted, malformed ones too"), ("Time", "time", ""),
    ("Memory", "memory", "Most memory it took, GiB"), ("Note", "note", ""),
)  # fmt: skip
ASKED_AS = "asked for as: {asked}"
DATA_MARKS = {"same": "", "changed": "▲ changed", "gone": "▲ gone", "": ""}
DATA_TITLES = {
    "same": "The file holds the rows that the run learned.", "changed": "The file's rows have changed since the run learned them.",
    "gone": "The file is no longer in data/.", "": "Whether the file has changed is not known.",
}  # fmt: skip
RUNS_EMPTY = "No runs yet. Open “2 Tune” and press “Start training”; every run stands here afterwards, to be compared."
NONE_FOUND = "No run matches the filter."
COUNTED = "{shown} of {total} runs"
MORE = "Only the first {shown} of {total} runs are listed: narrow them with the filter."
EXPORT_CSV, EXPORT_JSON = "Metrics as CSV", "Metrics as JSON"
NOTHING_TO_EXPORT = "There is no run to export."
EXPORTED = "{count} in {name}."

# -- the shelf
CHOOSE_RUN = "Click a run in the table to open it, rename it, note something on it or delete it."
SHOW_RUN, RENAME, SAVE_NOTE, DELETE, BRING_BACK = "Show its charts", "Rename", "Save the note", "Delete", "Bring back"
NEW_NAME, NOTE = "Name", "Note"
RENAMED, NOTED, BACK = "{name} is now named {new}.", "The note on {name} was saved.", "{name} is back."
DELETED_NOW = "{name} was deleted. It stays in the bin (adapters/.trash) until you empty that."
BACK_AS = "{name} is back under the name {new}: its own had been taken."
BIN = "Bin"

# -- comparing
COMPARE = {"overlay": "Overlay", "settings": "Settings side by side", "answers": "Answers side by side"}
CURVES = (("train loss", "loss"), ("validation loss", "validation"), ("call accuracy", "accuracy"))
ALONG = (("steps", "step"), ("epochs", "epoch"))
PICK_RUNS = "Tick runs in the table: they are drawn over each other here."
PICK_TWO = "Choose two runs."
FIRST_OF = "Only the first {count} ticked runs are drawn: more can't be told apart."
MORE_CASES = "Only the first {shown} of {total} cases are listed."
FIRST, SECOND = "First run", "Second run"
SAME_SETTINGS = "Both runs were asked the same."
SAME_REST = "{count} other settings are the same."
SETTING = "Setting"
WHICH = (("other verdicts", "verdict"), ("other words", "reply"), ("all cases", "all"))
WHICH_LABEL = "Show"
NOT_MEASURED = "No stored answers yet of: {names}."
MEASURE = "Measure what is missing"
NO_ADAPTER = "{name} left no adapter: it can't be measured."
ALL_MEASURED = "Both runs are measured already."
OTHER_FILES = "The runs were measured on different files or rows: only the {count} cases that both answered are compared."
RIGHT_OF = "{name}: {right} of {count} right"
NONE_DIFFER = {
    "verdict": "Both runs do the same on all {count} cases.", "reply": "Both runs say the same, word for word, on all {count} cases.",
    "all": "There is no case that both answered.",
}  # fmt: skip
CASE = "Case"
