"""Every sentence of the Health panel."""

from __future__ import annotations

MARKS = {"bad": "▲", "warn": "▲", "info": "●"}
FINDINGS = {
    "broken": "can't be used", "unlearnable": "can't be learned", "exact": "exact repeat", "near": "near-duplicate", "near-miss": "near miss", "contradiction": "contradiction",
    "across": "across the split", "leak": "leak", "wording": "worded like a test", "unknown-tool": "unknown tool", "schema": "breaks the schema",
    "topic": "topic without no-call rows", "review": "awaits review", "space": "stray white space",
}
ALL_WELL = "Nothing to mend was found."
EMPTY = "No rows yet: there is nothing to check."
CHECKING = "The set is being checked…"
CHOOSE = "Findings, the worst first"
NO_FINDING = "Choose a finding on the left."
SHOW_ROWS, PREVIEW, APPLY = "Show the rows", "Preview the fix", "Apply"
NEW_ROWS = "Draft {count} no-call rows on it"
ADDED = "{count} no-call rows on “{topic}” were added as drafts: read them before they are learned"
NO_NEW_ROWS = "No further wording on “{topic}” is known: write the rows by hand."
NO_FIX = "There is no mechanical fix for this: it wants a person's judgement."
CHANGED = "The rows have changed since this was found: look at the findings again."
MORE = "and {count:,} more"
PREVIEW_HEAD = ("Row", "Before", "After")
FACTS = "Figures"
LENGTHS = "Row lengths"
