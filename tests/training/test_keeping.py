"""The best measurement, ties, patience, and what is said where nothing can be measured."""

from __future__ import annotations

import math

import pytest

from workbench.settings import Training
from workbench.training.keeping import Best, Keeper, Measure, make_keeper

ONLY_LAST = "No row is held back, so the best adapter can't be told from the last and only the last is kept"


def judged(measure: Measure, *values: float, patience: int = 0) -> tuple[list[bool], Keeper]:
    keeper = Keeper(measure, True, patience)
    return [keeper.take(measure, step, value) for step, value in enumerate(values, start=1)], keeper


@pytest.mark.parametrize(
    ("measure", "values", "better", "best"),
    [
        ("validation loss", (3.0, 2.0, 2.5, 1.0), [True, True, False, True], Best(step=4, value=1.0)),
        ("validation loss", (3.0, 2.0, 2.0), [True, True, False], Best(step=2, value=2.0)),
        ("call accuracy", (0.5, 0.25, 0.75, 0.75), [True, False, True, False], Best(step=3, value=0.75)),
        ("call accuracy", (0.0, 0.0), [True, False], Best(step=1, value=0.0)),
        ("validation loss", (math.nan, 2.0, math.nan, -math.inf), [False, True, False, False], Best(step=2, value=2.0)),
    ],
)  # fmt: skip
def test_the_best_is_kept_and_a_tie_goes_to_the_earlier(measure: Measure, values: tuple[float, ...], better: list[bool], best: Best) -> None:
    found, keeper = judged(measure, *values)
    assert (found, keeper.best) == (better, best)
    assert not keeper.exhausted, "without patience a run goes on"


def test_another_measure_is_passed_over() -> None:
    keeper = Keeper("call accuracy", True, 1)
    assert not keeper.take("validation loss", 1, 0.1)
    assert (keeper.best, keeper.since) == (None, [])


def test_patience_ends_after_so_many_measurements_without_a_better_one() -> None:
    _, keeper = judged("validation loss", 3.0, 1.0, 1.5, patience=2)
    assert not keeper.exhausted
    keeper.take("validation loss", 4, 1.25)
    assert keeper.exhausted
    assert keeper.sentence(4) == (
        "ended early after optimizer step 4: the last 2 measurements of validation loss (1.500, 1.250) were not better than 1.000 after step 2"
    )


def test_the_sentence_of_one_measurement() -> None:
    _, keeper = judged("call accuracy", 0.5, 0.5, patience=1)
    assert keeper.sentence(2) == (
        "ended early after optimizer step 2: the last measurement of call accuracy (0.500) was not better than 0.500 after step 1"
    )


@pytest.mark.parametrize(
    ("settings", "validates", "asks", "made", "said"),
    [
        ({}, True, True, ("validation loss", True, 0), ""),
        ({"keep_best": "call accuracy", "early_stopping": 3}, True, True, ("call accuracy", True, 3), ""),
        ({"keep_best": "off"}, True, True, (None, False, 0), ""),
        ({"keep_best": "off", "early_stopping": 2}, True, True, ("validation loss", False, 2), ""),
        ({"keep_best": "off"}, False, False, (None, False, 0), ""),
        ({"keep_best": "call accuracy"}, True, False, ("validation loss", True, 0), "The best adapter is kept by validation loss: call accuracy is not measured"),
        ({}, False, False, (None, False, 0), f"{ONLY_LAST}: raise"),
        ({"early_stopping": 2}, False, False, (None, False, 0), f"{ONLY_LAST}, and the run can't end early"),
        ({"keep_best": "off", "early_stopping": 2}, False, False, (None, False, 0), "No row is held back, so the run can't end early: raise"),
    ],
)  # fmt: skip
def test_the_settings_make_the_keeper_or_say_why_not(settings: dict[str, object], validates: bool, asks: bool, made: tuple[object, ...], said: str) -> None:
    keeper, notice = make_keeper(Training(**settings), validates=validates, asks=asks)  # type: ignore[arg-type]
    assert (keeper.measure, keeper.keeps, keeper.patience) == made
    assert notice.startswith(said) and bool(notice) is bool(said)
