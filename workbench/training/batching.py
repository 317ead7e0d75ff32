"""How rows are asked in batches, while a run trains and after a sweep's cell alike."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from workbench.calls.prompting import PLAIN, CallForm
from workbench.evaluation.scores import Case
from workbench.models.loading import Base

MOST_NEW_TOKENS = 256  # of a reply, however long an expected call is
SPARE = 8  # tokens beyond the longest expected call


def reply_tokens(base: Base, cases: Sequence[Case], least: int, form: CallForm = PLAIN) -> int:
    """Tokens that a reply may have: `least`, or more where an expected call is longer, since a call that is cut can't be right."""
    longest = max((len(base.tokenizer.ids(form.answer_text(c.row.answer))) for c in cases if c.expected), default=0)
    return min(MOST_NEW_TOKENS, max(least, longest + SPARE))


def alike(lengths: Sequence[int], budget: int, *, most: int = sys.maxsize) -> list[list[int]]:
    """Places of like lengths (tokens, the reply's room included) together: at most `budget` tokens a batch with their padding,
    and at most `most` places. What is longer than the budget by itself has a batch of its own.
    """
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if not groups or len(groups[-1]) == most or lengths[i] * (len(groups[-1]) + 1) > budget:
            groups.append([])
        groups[-1].append(i)
    return groups
