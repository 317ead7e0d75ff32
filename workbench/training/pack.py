"""Several rows as one sequence: no padding, each row blind to the others.

Positions restart at 0 with every row. Given that (and no attention mask, no cache) transformers
builds the block-diagonal causal mask itself, sliding windows included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.training.encode import IGNORED, Encoded
from workbench.training.schedule import within


@dataclass(frozen=True)
class Pack:
    """One forward pass. `ids` and `positions` have length T; `slots` and `targets` length L, the labels.

    `slots[i]` is the place whose output predicts `targets[i]`: one before the label's own place.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    slots: tuple[int, ...]
    targets: tuple[int, ...]


def pack(rows: Sequence[Encoded]) -> Pack:
    """All `rows` in one sequence, in order. Raises `ValueError` if a row's first token carries a label."""
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    targets: list[int] = []
    for row in rows:
        if row.labels[0] != IGNORED:
            raise ValueError("a row's first token can't be learned: nothing stands before it")
        start = len(ids)
        ids.extend(row.ids)
        positions.extend(range(len(row.ids)))
        for k, label in enumerate(row.labels):
            if label != IGNORED:
                slots.append(start + k - 1)
                targets.append(label)
    return Pack(tuple(ids), tuple(positions), tuple(slots), tuple(targets))


def pack_within(rows: Sequence[Encoded], tokens_per_forward: int) -> list[Pack]:
    """`rows` as few packs, each of at most `tokens_per_forward` tokens; a longer row stands alone."""
    parts = within(range(len(rows)), [len(row.ids) for row in rows], tokens_per_forward)
    return [pack([rows[i] for i in part]) for part in parts]
