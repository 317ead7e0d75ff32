"""Whether a prompt should lead to a call, where the workbench's own files know it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from workbench.calls.dialects import message_calls
from workbench.errors import WorkbenchError
from workbench.schema import Example
from workbench.workspace import Workspace

CASES = ("demo.jsonl", "cases.jsonl")


def should_call(space: Workspace, prompt: str) -> bool | None:
    """As the demo prompts, the evaluation cases and the rows have it, in this order; None where none of them is this prompt alone."""
    for row in _known(space):
        if row.request == prompt and [message.role for message in row.messages if message.role != "system"] == ["user", "assistant"]:
            return bool(message_calls(row.answer))
    return None


def _known(space: Workspace) -> Iterator[Example]:
    for name in CASES:
        with contextlib.suppress(WorkbenchError):  # a file that can't be read is told where it is shown
            yield from [case.row for case in space.cases(name)]
    with contextlib.suppress(WorkbenchError):
        yield from (row for row in space.rows.read().rows if row.status != "rejected" and not row.awaits_review)
