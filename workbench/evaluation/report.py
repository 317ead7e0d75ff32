"""Scores and replies as plain text, for the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.evaluation.scores import Rate, Scored, Scores
from workbench.schema import ToolCall

SHOWN = 200  # characters of the names of tools: a reply may hold any number of calls
TITLES = {
    "call_recall": "call recall", "over_call_rate": "over-call rate", "malformed_rate": "malformed rate",
    "name_accuracy": "name accuracy", "argument_match": "argument match",
}

MALFORMED_COUNTS = "Malformed calls count for nothing in call recall (a reply without a well-formed call is a miss) and as calls in the over-call rate."


def rate_text(rate: Rate) -> str:
    """As in `14/15 (93.3 %)`."""
    return f"{rate.k}/{rate.n}" + (f" ({100 * rate.k / rate.n:.1f} %)" if rate.n else " (nothing to count)")


def scores_text(scores: Scores) -> str:
    """A line for each rate, and how malformed calls were counted where there are any."""
    lines = [f"{title:15} {rate_text(getattr(scores, name))}" for name, title in TITLES.items()]
    return "\n".join([*lines, MALFORMED_COUNTS] if scores.malformed_rate.k else lines)


def wrong_text(scored: Sequence[Scored]) -> str:
    """One line for each wrong reply: what was asked, what was expected, what came."""
    lines = [
        f"  wrong: {s.case.prompt!r}: expected {expected_text(s)}, got {got_text(s)}: {s.reply[:80]!r}" for s in scored if not s.right
    ]
    return "\n".join(lines)


def expected_text(scored: Scored) -> str:
    """What should have come: "no call", or "a call of NAME"."""
    return f"a call of {_names(scored.case.expected)}" if scored.case.expected else "no call"


def got_text(scored: Scored) -> str:
    """What came: its verdict, and the tools that were called."""
    return f"a call of {_names(scored.calls)}" if scored.verdict == "tool call" else scored.verdict


def _names(calls: Sequence[ToolCall]) -> str:
    names = ", ".join(call.name for call in calls)
    return names if len(names) <= SHOWN else f"{names[:SHOWN]}…"


@dataclass(frozen=True)
class Bent:
    """What binding calls changed in `of` replies: tokens where the likeliest one was forbidden, and the rows that have one."""

    tokens: int
    rows: int
    of: int

    @classmethod
    def of_replies(cls, told: Iterable[Mapping[str, Any]]) -> Bent:
        """From what each reply tells as "constrained"."""
        counts = [int(one["changed"]) for one in told]
        return cls(sum(counts), sum(count > 0 for count in counts), len(counts))

    def text(self) -> str:
        return f"calls were bound: that changed {self.tokens} tokens in {self.rows} of {self.of} replies"

    def as_json(self) -> dict[str, int]:
        return {"tokens_changed": self.tokens, "rows_changed": self.rows}
