"""When things fire and how rows fall into forwards: exactly as the loop does it."""

from __future__ import annotations

import random

import pytest

from workbench.settings import Training
from workbench.training.encode import IGNORED, Encoded
from workbench.training.loop import batches
from workbench.training.schedule import Packing, fires, make_packing, make_schedule


def training(**values) -> Training:
    return Training(**values)


@pytest.mark.parametrize(
    ("values", "validation", "answers", "checkpoints"),
    [
        ({}, [*range(4, 41, 4)], [*range(4, 41, 4)], [*range(4, 41, 4)]),
        ({"evaluate_every": 15}, [15, 30], [*range(4, 41, 4)], [*range(4, 41, 4)]),
        ({"save_every": 15}, [*range(4, 41, 4)], [*range(4, 41, 4)], [15, 30, 40]),
        ({"sample_every": 3}, [*range(4, 41, 4)], [12, 24, 36, 40], [*range(4, 41, 4)]),
        ({"sample_every": 0}, [*range(4, 41, 4)], [], [*range(4, 41, 4)]),
        ({"evaluate_every": 50, "save_every": 50, "sample_every": 50}, [], [40], [40]),
        ({"epochs": 1}, [4], [4], [4]),
    ],
)
def test_the_steps_after_which_something_happens(values, validation, answers, checkpoints):
    made = make_schedule(63, 7, training(**values))
    assert (list(made.validation), list(made.answers), list(made.checkpoints)) == (validation, answers, checkpoints)


def test_without_rows_held_back_nothing_is_measured_or_answered():
    made = make_schedule(63, 0, training())
    assert (list(made.validation), list(made.answers), list(made.checkpoints)) == ([], [], [*range(4, 41, 4)])
    assert [*make_schedule(0, 7, training()).checkpoints] == []


@pytest.mark.parametrize(
    ("steps", "text"),
    [((), "never"), ((40,), "after step 40"), ((4, 8, 12), "after steps 4, 8, 12"), (range(4, 41, 4), "after steps 4, 8, … 40 (10×)"),
     (range(1000, 10_001, 1000), "after steps 1,000, 2,000, … 10,000 (10×)")],
)  # fmt: skip
def test_steps_are_told_in_short(steps, text):
    assert fires(steps) == text


@pytest.mark.parametrize(("rows_per_step", "budget", "epochs"), [(16, 4096, 10), (16, 200, 10), (16, 60, 3), (5, 130, 7), (1, 16, 1), (1024, 300, 4)])
def test_the_packing_is_the_loop_s_own(rows_per_step, budget, epochs):
    dice = random.Random(rows_per_step)
    rows = []
    for _ in range(63):
        size = dice.randint(20, 90)
        learned = dice.randint(1, size - 1)
        rows.append(Encoded(tuple(range(size)), (IGNORED,) * (size - learned) + (1,) * learned))
    chosen = training(rows_per_step=rows_per_step, tokens_per_forward=budget, epochs=epochs)
    steps = [packs for *_, packs in batches(rows, chosen)]
    made = make_packing([len(r.ids) for r in rows], [r.label_count for r in rows], chosen)
    assert made == Packing(
        fewest=min(map(len, steps)), most=max(map(len, steps)), largest_tokens=max(len(p.ids) for packs in steps for p in packs),
        largest_labels=max(len(p.targets) for packs in steps for p in packs), longest_row=max(len(r.ids) for r in rows),
    )


def test_a_large_set_is_reckoned_over_its_first_epochs_alone():
    made = make_packing([10] * 15_000, [5] * 15_000, training(epochs=1000))
    assert (made.fewest, made.most, made.largest_tokens) == (1, 1, 160)
