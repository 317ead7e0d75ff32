"""What a set of rows holds, and where it would fool its owner: repeats, and prompts that stand on both sides."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz import fuzz, process

from workbench.calls.dialects import message_calls
from workbench.schema import Example

COMPARED = 3000  # prompts: beyond that all pairs take too long between two clicks
NEAR = 85.0  # rapidfuzz ratio (0 to 100) of normalised prompts from which two count as near-duplicates


@dataclass(frozen=True)
class Balance:
    """How many rows teach a call and how many teach to answer in words."""

    calls: int
    texts: int

    @property
    def rows(self) -> int:
        return self.calls + self.texts


@dataclass(frozen=True)
class Pair:
    """Two like prompts: their places (from 0) in the two lists compared, and how like they are (0 to 100)."""

    first: int
    second: int
    similarity: float


def is_call(row: Example) -> bool:
    """Whether the row's answer asks for at least one tool call."""
    return bool(message_calls(row.answer))


def balance(rows: Iterable[Example]) -> Balance:
    kinds = [is_call(row) for row in rows]
    return Balance(sum(kinds), len(kinds) - sum(kinds))


def normalise(prompt: str) -> str:
    """Lower case, ё as е, words only: what two prompts are compared by."""
    return " ".join(re.findall(r"\w+", prompt.casefold().replace("ё", "е")))


def near_duplicates(prompts: Sequence[str]) -> list[Pair]:
    """All pairs within `prompts` that are the same or nearly so."""
    pairs = _like(prompts, prompts)
    return [p for p in pairs if p.first < p.second]


def leaks(prompts: Sequence[str], others: Sequence[str]) -> list[Pair]:
    """Pairs of a prompt in `prompts` and one in `others` that are the same or nearly so."""
    return _like(prompts, others)


def _like(left: Sequence[str], right: Sequence[str]) -> list[Pair]:
    if not left or not right:
        return []
    # A prompt without words (an emoji) is compared as it stands.
    a, b = [normalise(p) or p for p in left], [normalise(p) or p for p in right]
    straight = process.cdist(a, b, scorer=fuzz.ratio, score_cutoff=NEAR)
    sorted_words = process.cdist(a, b, scorer=fuzz.token_sort_ratio, score_cutoff=NEAR)
    best = np.maximum(straight, sorted_words)
    return [Pair(int(i), int(k), float(best[i, k])) for i, k in np.argwhere(best >= NEAR)]
