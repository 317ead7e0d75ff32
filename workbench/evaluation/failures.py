"""From failures to rows: a reply that went wrong, or a case that was missed, as a draft with the right answer filled in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from workbench.calls.dialects import TAG, Dialect, calls_in, verdict
from workbench.dataset.changes import Change, RowSet
from workbench.dataset.checks import exactly
from workbench.dataset.store import RowStore
from workbench.errors import DataError, InputError, sentence_case
from workbench.evaluation.scores import Scored
from workbench.schema import Example, Message, ToolCall

FROM_CHAT, FROM_CASES = "from:chat", "from:evaluation"
NOTED = 200  # characters of a wrong reply that the row's note keeps


def row_of_miss(scored: Scored) -> Example:
    """The case's own conversation and right answer, with what the model said instead in the note."""
    return replace(scored.case.row, status="draft", source=FROM_CASES, pin="", note=_said(scored.reply))


def row_of_reply(prompt: str, replies: Sequence[str], *, should: str, tools: Sequence[str], dialect: Dialect = TAG) -> Example:
    """A row for a prompt whose answer should be a "call" or a "text"; `replies` are what the panes said, the adapted one first, in their
    `dialect`; the row's call is written as rows write theirs.

    The right answer is the first reply of that kind; for a call that nobody made, the first tool without arguments.
    Raises `InputError` where no answer in words is known: it is for a person to write.
    """
    parsed = [(reply, dialect.parse(reply)) for reply in replies]
    if should == "call":
        made = next((calls_in(s)[0] for _, s in parsed if verdict(s) == "tool call"), None)
        if made is None and not tools:
            raise InputError("There is no tool to call yet: add one on the Data tab, “Tools”.")
        answer = TAG.render(made or ToolCall(tools[0]))
    else:
        in_words = (reply.strip() for reply, s in parsed if verdict(s) == "no tool call" and verdict(TAG.parse(reply)) == "no tool call")
        said = next(filter(None, in_words), None)
        if said is None:
            raise InputError("Neither pane answered in words: write this row on the Data tab, with the answer you want.")
        answer = said
    wrong = next((reply for reply, _ in parsed if reply.strip() != answer), "")
    return Example((Message("user", prompt), Message("assistant", answer)), source=FROM_CHAT, note=_said(wrong))


def add_drafts(store: RowStore, rows: Sequence[Example]) -> tuple[RowSet, str]:
    """Append the rows whose request is new to the set; returns the set and what was done, in words.

    Raises `DataError` where all of them stand there already.
    """
    now = store.read()
    standing = {exactly(e.row.request): place for place, e in enumerate(now.entries, 1) if e.row is not None}
    new = [row for row in rows if exactly(row.request) not in standing]
    if not new:
        places = ", ".join(str(standing[exactly(row.request)]) for row in rows[:5])
        raise DataError(f"Nothing was added: row {places} asks the same already. Mend it on the Data tab." if rows else "There is no miss to add.")
    count = len(new)
    what = f"row {len(now.entries) + 1} was added as a draft" if count == 1 else f"{count} rows were added as drafts"
    after = store.change(Change(add=tuple(new), what=what), now.version)
    skipped = f" {len(rows) - count} stood there already." if len(rows) > count else ""
    return after, f"{sentence_case(what)}: look at it on the Data tab and approve it.{skipped}"


def _said(reply: str) -> str:
    text = " ".join(reply.split())
    return f"the model said: {text[:NOTED]}{'…' if len(text) > NOTED else ''}" if text else ""
