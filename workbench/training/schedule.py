"""When a run measures, answers and saves, and how its rows fall into forwards. Reckoned as the loop does it, without torch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from workbench.settings import Training

HEAVY = 256 * 2**20  # bytes of one save up to which a run saves after every epoch, whatever the time
SAVED_BYTES = 16  # a trained parameter's: itself in the adapter's file, and with AdamW's two moments in the checkpoint
MOST_ROWS = 20_000  # rows whose packing is reckoned: what comes after that differs only by its shuffling


def step_count(rows: int, training: Training) -> int:
    """Optimizer steps of a run: every epoch's rows in groups of `rows_per_step`, a smaller last group included."""
    return training.epochs * -(-rows // training.rows_per_step)


def saves_seldom(trainable: int, save_every: int) -> bool:
    """Whether a save of so many trained parameters is too heavy for every epoch; a number of steps that the user chose is always obeyed."""
    return not save_every and SAVED_BYTES * trainable > HEAVY


@dataclass(frozen=True)
class Schedule:
    """After which optimizer steps a run measures its loss, answers its validation rows, and saves a checkpoint."""

    validation: Sequence[int]
    answers: Sequence[int]
    checkpoints: Sequence[int]


@dataclass(frozen=True)
class Packing:
    """Forwards of an optimizer step, fewest and most, and the largest forward of the run (tokens, labels)."""

    fewest: int
    most: int
    largest_tokens: int
    largest_labels: int
    longest_row: int


def make_schedule(rows: int, held_back: int, training: Training) -> Schedule:
    """The schedule of a run over `rows` rows that keeps `held_back` others for measuring."""
    total = step_count(rows, training)
    epoch = total // training.epochs
    if not total:
        return Schedule((), (), ())
    ends = range(epoch, total + 1, epoch)
    validation = _every(training.evaluate_every, total, ends) if held_back else ()
    answers = _with_last(range(epoch * training.sample_every, total + 1, epoch * training.sample_every), total) if held_back and training.sample_every else ()
    return Schedule(validation, answers, _with_last(_every(training.save_every, total, ends), total))


def _every(steps: int, total: int, ends: range) -> range:
    return range(steps, total + 1, steps) if steps else ends


def _with_last(steps: range, total: int) -> Sequence[int]:
    return steps if steps and steps[-1] == total else (*steps, total)


def fires(steps: Sequence[int]) -> str:
    """As in `after steps 4, 8, … 40 (10×)`; `never` for none."""
    if not steps:
        return "never"
    if len(steps) == 1:
        return f"after step {steps[0]:,}"
    if len(steps) <= 3:
        return f"after steps {', '.join(f'{s:,}' for s in steps)}"
    return f"after steps {steps[0]:,}, {steps[1]:,}, … {steps[-1]:,} ({len(steps):,}×)"


def orders(rows: int, training: Training) -> Iterator[tuple[int, bool, list[int]]]:
    """(epoch from 0, last of its epoch?, places of its rows) for every optimizer step, rows shuffled anew by the seed each epoch."""
    order = list(range(rows))
    generator = random.Random(training.seed)
    for epoch in range(training.epochs):
        generator.shuffle(order)
        for start in range(0, rows, training.rows_per_step):
            yield epoch, start + training.rows_per_step >= rows, order[start : start + training.rows_per_step]


def within(group: Sequence[int], sizes: Sequence[int], budget: int) -> list[list[int]]:
    """The rows of `group` (places into `sizes`, tokens) by forward: in order, each of at most `budget` tokens; a longer row stands alone."""
    parts: list[list[int]] = []
    size = 0
    for row in group:
        if not parts or size + sizes[row] > budget:
            parts.append([])
            size = 0
        parts[-1].append(row)
        size += sizes[row]
    return parts


def forwards(group: Sequence[int], sizes: Sequence[int], labels: Sequence[int], budget: int) -> list[tuple[int, int]]:
    """(tokens, labels) of each forward of one step's rows."""
    return [(sum(sizes[i] for i in part), sum(labels[i] for i in part)) for part in within(group, sizes, budget)]


def make_packing(sizes: Sequence[int], labels: Sequence[int], training: Training) -> Packing:
    """How rows of `sizes` tokens with `labels` labels fall into forwards, shuffled and packed as the loop does it."""
    fewest, most, tokens, learned, seen = 0, 0, 0, 0, 0
    for _, _, group in orders(len(sizes), training):
        if seen >= MOST_ROWS:
            break
        seen += len(group)
        packs = forwards(group, sizes, labels, training.tokens_per_forward)
        fewest = min(fewest or len(packs), len(packs))
        most = max(most, len(packs))
        tokens = max(tokens, *(size for size, _ in packs))
        learned = max(learned, *(count for _, count in packs))
    return Packing(fewest, most, tokens, learned, max(sizes, default=0))
