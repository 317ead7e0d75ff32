"""Intervals against published tables and against a simulation with a known answer."""

import math
import random

import pytest

from workbench.training.statistics import Interval, mean_interval, paired, t_quantile, wilson


@pytest.mark.parametrize(
    ("df", "confidence", "t"),
    [  # the usual printed tables
        (1, 0.95, 12.7062), (2, 0.95, 4.3027), (4, 0.95, 2.7764), (9, 0.95, 2.2622), (14, 0.95, 2.1448), (19, 0.95, 2.0930),
        (30, 0.95, 2.0423), (120, 0.95, 1.9799), (100_000, 0.95, 1.9600), (4, 0.99, 4.6041), (10, 0.90, 1.8125), (1, 0.5, 1.0),
    ],
)  # fmt: skip
def test_the_t_quantiles_are_those_of_the_tables(df, confidence, t):
    assert t_quantile(df, confidence) == pytest.approx(t, abs=6e-5)


@pytest.mark.parametrize(("df", "confidence"), [(0, 0.95), (3, 1.0), (3, 0.0)])
def test_a_quantile_that_does_not_exist_is_refused(df, confidence):
    with pytest.raises(ValueError, match=r"^a t quantile wants"):
        t_quantile(df, confidence)


def test_a_mean_has_its_t_interval():
    found = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.7764451 * math.sqrt(2.5) / math.sqrt(5)
    assert (found.mean, found.n) == (3.0, 5)
    assert (found.low, found.high) == (pytest.approx(3 - half), pytest.approx(3 + half))


def test_folds_that_share_their_training_rows_widen_the_interval():
    plain, corrected = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0]), mean_interval([1.0, 2.0, 3.0, 4.0, 5.0], overlap=1 / 4)
    assert (corrected.high - corrected.mean) / (plain.high - plain.mean) == pytest.approx(math.sqrt((1 / 5 + 1 / 4) * 5))


def test_one_value_has_no_interval_and_none_is_an_error():
    assert mean_interval([2.5]) == Interval(2.5, None, None, 1)
    with pytest.raises(ValueError):
        mean_interval([])


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [  # the examples of Newcombe, Statistics in Medicine 17 (1998), method 3
        (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718), (20, 20, 0.8389, 1.0),
    ],
)  # fmt: skip
def test_a_share_has_wilsons_interval(k, n, low, high):
    found = wilson(k, n)
    assert (found.mean, found.n) == (k / n, n)
    assert (found.low, found.high) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))


def test_a_case_asked_again_narrows_nothing():
    once, thrice = wilson(8, 10), wilson(24, 30, repeats=3)
    assert (thrice.low, thrice.high) == (once.low, once.high)
    assert wilson(0, 0) is None


def test_pairs_are_told_apart_where_means_alone_overlap():
    first, second = [1.0, 2.0, 3.0, 4.0, 5.0], [1.1, 2.2, 3.1, 4.2, 5.1]
    found = paired(first, second)
    assert found.interval.mean == pytest.approx(0.14)
    assert found.interval.low > 0
    assert (found.shown, found.sign) == (True, 1)
    assert paired(second, first).sign == -1


def test_a_difference_within_chance_is_not_shown():
    found = paired([1.0, 2.0, 3.0], [1.2, 1.9, 3.0])
    assert (found.shown, found.sign) == (False, 0)
    assert found.interval.low < 0 < found.interval.high


def test_equal_differences_need_enough_pairs():
    assert not paired([0.0] * 5, [0.5] * 5).shown
    assert paired([0.0] * 6, [0.5] * 6).shown
    assert not paired([0.5] * 20, [0.5] * 20).shown
    assert not paired([0.0], [1.0]).shown


@pytest.mark.parametrize(("confidence", "pairs"), [(0.9, 5), (0.95, 6), (0.99, 8), (0.995, 9)])
def test_equal_differences_need_more_pairs_for_more_confidence(confidence, pairs):
    assert not paired([0.0] * (pairs - 1), [0.5] * (pairs - 1), confidence=confidence).shown
    assert paired([0.0] * pairs, [0.5] * pairs, confidence=confidence).shown


def test_unequal_sides_are_refused():
    with pytest.raises(ValueError):
        paired([1.0], [1.0, 2.0])


def test_the_interval_covers_the_truth_as_often_as_it_says():
    generator = random.Random(7)
    covered = 0
    for _ in range(2000):
        found = mean_interval([generator.gauss(3, 2) for _ in range(6)])
        covered += found.low < 3 < found.high
    assert 0.935 < covered / 2000 < 0.965
