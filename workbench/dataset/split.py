"""Which rows are learned and which are held back: seeded, and the kinds in their proportion on both sides."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence


def split_rows(kinds: Sequence[Hashable], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices (training, validation) of rows whose kinds are given, each list in ascending order.

    The validation side gets round(share · n) rows, shared out among the kinds by largest remainder;
    at least one row is left to learn. 70 rows at 0.1 give 63 and 7.
    """
    wanted = min(round(share * len(kinds)), len(kinds) - 1) if kinds else 0
    by_kind: dict[Hashable, list[int]] = {}
    for i, kind in enumerate(kinds):
        by_kind.setdefault(kind, []).append(i)
    quota = {kind: wanted * len(members) / len(kinds) for kind, members in by_kind.items()}
    count = {kind: int(q) for kind, q in quota.items()}
    for kind in sorted(quota, key=lambda k: (count[k] - quota[k], str(k)))[: wanted - sum(count.values())]:
        count[kind] += 1
    generator = random.Random(seed)
    held: set[int] = set()
    for kind in sorted(by_kind, key=str):
        held.update(generator.sample(by_kind[kind], count[kind]))
    return [i for i in range(len(kinds)) if i not in held], sorted(held)
