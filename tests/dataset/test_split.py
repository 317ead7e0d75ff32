"""Which rows are held back: the wanted share, both kinds in proportion, the same rows for the same seed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.dataset.split import split_rows

SEVENTY = [True, False] * 35
KINDS = st.lists(st.booleans() | st.sampled_from(["a", "b"]), max_size=120)
SHARES = st.floats(0, 0.5)
SEEDS = st.integers(0, 2**31 - 1)


def test_seventy_rows_give_63_to_learn_and_7_held_back():
    learned, held = split_rows(SEVENTY, 0.1, 42)
    assert (len(learned), len(held)) == (63, 7)
    assert sorted(sum(SEVENTY[i] is kind for i in held) for kind in (True, False)) == [3, 4]


def test_the_same_seed_holds_back_the_same_rows_and_another_seed_others():
    assert split_rows(SEVENTY, 0.1, 42) == split_rows(SEVENTY, 0.1, 42)
    assert len({tuple(split_rows(SEVENTY, 0.1, seed)[1]) for seed in range(20)}) == 20


def test_the_held_back_rows_are_spread_over_the_whole_set():
    seen = {i for seed in range(100) for i in split_rows(SEVENTY, 0.1, seed)[1]}
    assert seen == set(range(70))


@pytest.mark.parametrize(
    ("calls", "texts", "share", "held_calls", "held_texts"),
    [(80, 20, 0.1, 8, 2), (9, 1, 0.2, 2, 0), (50, 50, 0.5, 25, 25), (30, 10, 0.1, 3, 1), (10, 0, 0.2, 2, 0), (1, 1, 0.5, 0, 1)],
)
def test_each_kind_is_held_back_in_proportion(calls, texts, share, held_calls, held_texts):
    kinds = [True] * calls + [False] * texts
    _, held = split_rows(kinds, share, 7)
    assert (sum(kinds[i] for i in held), sum(not kinds[i] for i in held)) == (held_calls, held_texts)


@pytest.mark.parametrize(
    ("rows", "share", "held"),
    [(0, 0.5, 0), (1, 0.5, 0), (2, 0.5, 1), (4, 0.1, 0), (5, 0.1, 0), (6, 0.1, 1), (70, 0, 0), (3, 1.0, 2)]
)
def test_a_row_is_always_left_to_learn(rows, share, held):
    learned, held_back = split_rows([True] * rows, share, 1)
    assert (len(learned), len(held_back)) == (rows - held, held)


@settings(deadline=None)
@given(KINDS, SHARES, SEEDS)
def test_every_row_is_on_exactly_one_side_in_order(kinds, share, seed):
    learned, held = split_rows(kinds, share, seed)
    assert sorted(learned + held) == list(range(len(kinds)))
    assert (learned, held) == (sorted(learned), sorted(held))
    assert len(held) == (min(round(share * len(kinds)), len(kinds) - 1) if kinds else 0)


@settings(deadline=None)
@given(KINDS, SHARES, SEEDS)
def test_no_kind_is_off_its_share_by_a_whole_row(kinds, share, seed):
    _, held = split_rows(kinds, share, seed)
    for kind in set(kinds):
        fair = len(held) * kinds.count(kind) / len(kinds)
        assert abs(sum(kinds[i] == kind for i in held) - fair) < 1
