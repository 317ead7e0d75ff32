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

# What changed between two panes
LEARNED, UNLEARNED, SAME_CALL, OTHER_ARGUMENTS = "learned to call", "stopped calling", "same call", "different arguments"
OTHER_CALLS, BOTH_TEXT, BROKE, MENDED, BOTH_BROKEN = "different calls", "both in text", "the call is malformed now", "the call is whole now", "malformed in both"
