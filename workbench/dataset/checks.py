"""What a set of rows holds, and where it would fool its owner: repeats, and prompts that stand on both sides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from workbench.calls.dialects import message_calls
from workbench.dataset.similar import NEAR, Pair, compare_between, compare_within, exactly, normalise
from workbench.schema import Example

__all__ = ["KEPT_APART", "NEAR", "Balance", "Pair", "balance", "exactly", "is_call", "leaks", "near_duplicates", "normalise"]

KEPT_APART = ("cases.jsonl", "demo.jsonl")  # files of prompts for measuring and showing, which no row may repeat


@dataclass(frozen=True)
class Balance:
    """How many rows teach a call and how many teach to answer in words."""

    calls: int
    texts: int

    @property
    def rows(self) -> int:
        return self.calls + self.texts


def is_call(row: Example) -> bool:
    """Whether the row's answer asks for at least one tool call."""
    return bool(message_calls(row.answer))


def balance(rows: Iterable[Example]) -> Balance:
    kinds = [is_call(row) for row in rows]
    return Balance(sum(kinds), len(kinds) - sum(kinds))


def near_duplicates(prompts: Sequence[str]) -> list[Pair]:
    """All pairs within `prompts` that are the same or nearly so."""
    return compare_within(prompts).pairs()


def leaks(prompts: Sequence[str], others: Sequence[str]) -> list[Pair]:
    """Pairs of a prompt in `prompts` and one in `others` that are the same or nearly so."""
    return compare_between(prompts, others)
