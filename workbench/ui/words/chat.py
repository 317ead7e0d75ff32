"""The sentences of the Chat tab and of its call cards."""

from __future__ import annotations

# Call cards
TOOL_CALL, MALFORMED, RAW, COPY, COPIED, CANT_COPY = "tool call", "malformed call", "raw text", "Copy", "Copied", "Press Ctrl+C"
ARGUMENT, VALUE, TYPE, NO_ARGUMENTS = "Argument", "Value", "Type", "no arguments"
VALID, INVALID, UNKNOWN_TOOL = "valid", "not valid", "unknown tool"
ANY_VALUE, NOT_IN_SCHEMA, NOT_GIVEN = "any value", "not in the schema", "not given"
RUN_CALL = "Run the call"
WRITING_CALL = "a call is being written…"
MORE_ARGUMENTS = "{count:,} more arguments are not shown here; the raw text has them."
MORE_CALLS = "{count:,} more pieces of this reply are not shown here."
MORE_SIGNS = "…{count:,} more characters are not shown here"

# The chat
BASE, BASE_TITLE = "(base)", "Base"
LEFT, RIGHT, ADAPTED_TITLE, MERGED_TITLE = "Left pane", "Right pane", "Adapted · {name}", "Merged · {name}"
MERGED_CHOICE = "merged: {name}"
PROMPT = "Your message"
NEW_CONVERSATION = "New conversation: the models are not told what stands above."
REGENERATE, EDIT, EDIT_TITLE, LEAVE_EDIT = "Regenerate", "Edit", "Put this message into the box below, to send it again", "Don't edit"
EDITING = "Sending replaces message {number} and all that came after it."
NO_ANSWER = "No answer is being written."
NOTHING_TO_REPEAT = "There is nothing to answer again yet: ask something first."
GREEDY_REPEATS = "Greedy decoding gives the same reply again: switch Greedy off under “Sampling and calls” for another one."
GONE = "The adapter {name} is not there any more (deleted, or its run is training again): choose another one."
MERGED_GONE = "The merged model {name} is not there any more (deleted or renamed): choose another voice."
GONE_HERE, GONE_FOR = "“{name}” is not there any more: its pane is empty until there is another voice.", "“{name}” is not there any more: its pane has {now} now."
ACTIVE = "adapter active: moves the logits by up to {moved:.1f}"
CUT = "cut at the length limit of {limit:,} tokens: raise “Longest reply” under “Sampling and calls”"
STOPPED_BY_YOU = "stopped by you"
PAGE_WENT = "Broken off: the page was loaded anew while this was being written."
WENT_ON = "The chat as it stood before the page was loaded anew."
NOT_ASKED = "Not asked: no voice was chosen for this pane. No adapter yet? “2 Tune”, then “Start training”."
LOST = "What stood here before the page was loaded anew can't be shown: {why}"
FIGURES = "{tokens:,} tokens · {pace:.0f} tokens/s · first after {first:.1f} s"
STOPS, STOPS_HELP = "Stop sequences", "One a line: a reply ends before it. \\n stands for a new line."
TOO_MANY_STOPS = "At most {most} stop sequences of {longest} characters each: take some out."
ROW_ALONE = "The row holds this request alone, without what came before it."
TOO_LONG = "The request has {count:,} characters; {most:,} are allowed. Shorten it."

# The loop behind a call
WAYS = {"ask": "ask before each call", "run": "run calls at once", "show": "only show calls"}
WAY = "When a call comes"
FUNCTIONS, FUNCTIONS_HELP = "Python functions may answer", "Runs the functions of data/functions that tools name, each in a process of its own with limits."
WAITS_FOR_YOU = "waits for you: press “Run the call”"
ANSWERED, KNOWN, REFUSED, FAILED = "{name} answered", "known from an equal call", "{name} was not run", "{name} gave no answer"
FELL_BACK, LISTED = "needs a human", "put on the list below"
BOUND_NOTHING, BOUND_CHANGED = "bound calls: nothing had to be changed", "bound calls: changed in {count} place(s)"
BOUND_FIRST = "“{wanted}” became “{wrote}”"
RESULT_SECONDS, RESULT_AT_ONCE = "{seconds:.1f} s", "in less than 0.1 s"
NOT_RUNNABLE = "This call can't be run any more: the chat has gone on."
RUNNING = "running {name}…"

# Keeping a chat
KEEP_TITLE, KEEP, OPEN, KEEP_NAME, KEPT_CHATS = "Keep and export", "Keep this chat", "Open", "Name", "Kept chats"
DELETE, SURE_DELETE = "Delete", "Sure? Delete it"
DELETE_ASKED = "Press again to delete the kept chat {name}. What is on the screen stays."
DELETED = "The kept chat {name} was deleted. It stays in the bin (data/chats/.trash) until you empty that."
CHOOSE_KEPT = "Choose a kept chat first."
EXPORT_JSON, EXPORT_HTML = "Export as JSON", "Export as HTML"
KEPT_AS = "Kept as data/chats/{name}.json."
NAME_TAKEN = "There is a kept chat {name} already: choose another name, or open that one first."
NOTHING_TO_KEEP = "There is nothing to keep yet: ask something first."
STILL_GOING = "An answer is still being written: wait for its end, then keep or export the chat."
NO_SUCH_CHAT = "There is no kept chat {name!r} any more: choose another one."
BROKEN_CHAT = "The file {name}.json is no chat that can be opened: restore it, or take it away."
CHAT_TOO_LARGE = "The file {name}.json is larger than {most} MiB: it can't be opened here."
OPENED = "Opened {name}: {count} messages."
EXPORTED = "The file is ready."
HTML_TITLE, HTML_HEAD = "Chat with {model}", "{count} messages · saved {when}"

# Merging
MERGE_TITLE, MERGE, MERGE_NAME = "Merge into a model", "Merge", "Name of the new model"
MERGE_HELP = "Makes a model of its own of the right pane's adapter and its base, in models/: both panes then offer it, and --model merged:NAME takes it."
MERGE_WHICH = "Choose an adapter in the right pane: it is merged into its own base, and stays as it is."
MERGE_LEFT = "It goes on if this page is closed; the button on top stops it."
MERGED_NOW = (
    "{adapter} is merged: “{choice}” can be chosen in both panes now ({size:.1f} GiB in models/{name}). Its logits are the adapter's to within {rounding:.2g}."
)
MERGED_NONE = "No merged models yet. Choose an adapter in the right pane, give the new model a name, and press “Merge”."
MERGED_COLUMNS = ("Merged model", "Base", "Adapter", "On the disk", "")
MERGED_BROKEN, MERGED_LABEL = "its record can't be read", "Delete the merged model {name}"
MERGED_ASK = "Press again to delete the merged model {name} for good: {size} are freed, and no bin keeps it."
MERGE_AGAIN, MERGE_NEVER = "The adapter {adapter} stays: it can be merged again.", "Its adapter {adapter} is not here any more, so it can't be made again."
MERGED_BASE_OF = "What was trained on it can't answer without it: {runs}."
MERGED_DELETED = "The merged model {name} was deleted: {size} are free again."

# Answers for a person
HUMAN_TITLE, HUMAN_SOME = "Needs a human", "Needs a human ({count})"
HUMAN_NONE = "Nothing waits: every answer could be trusted so far, or a person has looked at it."
SETTLE, SETTLED = "I have looked at it", "Taken off the list."
HUMAN_REPLIES = "what the model said"
HUMAN_MORE = "{count} more are shown when these are settled."

# What changed between two panes
LEARNED, UNLEARNED, SAME_CALL, OTHER_ARGUMENTS = "learned to call", "stopped calling", "same call", "different arguments"
OTHER_CALLS, BOTH_TEXT, BROKE, MENDED, BOTH_BROKEN = "different calls", "both in text", "the call is malformed now", "the call is whole now", "malformed in both"
# The same where it is known whether the prompt should lead to a call
OVER_CALLS, OVER_NO_MORE, BOTH_OVER = "over-calls now", "over-calls no more", "over-calls in both"
MISSED, BOTH_MISSED = "the call is missed now", "the call is missed in both"
