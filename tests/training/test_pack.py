"""Packing: exact ids, positions, slots and targets, and no row cut by the token budget."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.training.encode import IGNORED, Encoded
from workbench.training.pack import Pack, pack, pack_within

N = IGNORED
FIRST = Encoded((2, 10, 11, 12), (N, N, 11, 12))
SECOND = Encoded((2, 20, 21), (N, 20, N))
THIRD = Encoded((2, 30), (N, 30))


def test_one_row_is_itself_with_each_label_predicted_from_the_place_before():
    assert pack([FIRST]) == Pack(ids=(2, 10, 11, 12), positions=(0, 1, 2, 3), slots=(1, 2), targets=(11, 12))


def test_rows_stand_one_after_the_other_and_positions_begin_anew():
    assert pack([FIRST, SECOND, THIRD]) == Pack(
        ids=(2, 10, 11, 12, 2, 20, 21, 2, 30), positions=(0, 1, 2, 3, 0, 1, 2, 0, 1), slots=(1, 2, 4, 7), targets=(11, 12, 20, 30)
    )


def test_a_row_without_labels_adds_tokens_and_no_slot():
    assert pack([Encoded((5, 6), (N, N)), THIRD]) == Pack((5, 6, 2, 30), (0, 1, 0, 1), (2,), (30,))


def test_nothing_is_an_empty_pack():
    assert pack([]) == Pack((), (), (), ())


def test_a_row_whose_first_token_would_be_learned_is_refused():
    with pytest.raises(ValueError, match="a row's first token can't be learned: nothing stands before it"):
        pack([FIRST, Encoded((2, 3), (2, 3))])


@pytest.mark.parametrize(
    ("budget", "groups"),
    [(9, [[0, 1, 2]]), (100, [[0, 1, 2]]), (8, [[0, 1], [2]]), (7, [[0, 1], [2]]), (6, [[0], [1, 2]]), (4, [[0], [1], [2]]),
     (1, [[0], [1], [2]])],
)
def test_rows_are_grouped_up_to_the_budget_and_never_cut(budget, groups):
    rows = [FIRST, SECOND, THIRD]
    assert pack_within(rows, budget) == [pack([rows[i] for i in group]) for group in groups]


def test_no_rows_need_no_forward():
    assert pack_within([], 100) == []


def encoded(draw_labels: list[bool]) -> Encoded:
    ids = tuple(100 + i for i in range(len(draw_labels) + 1))
    return Encoded(ids, (N, *(i if wanted else N for i, wanted in zip(ids[1:], draw_labels, strict=True))))


ROWS = st.lists(st.lists(st.booleans(), max_size=8).map(encoded), max_size=8)


@settings(deadline=None)
@given(ROWS, st.integers(1, 30))
def test_every_token_and_label_is_in_exactly_one_pack(rows, budget):
    packs = pack_within(rows, budget)
    assert [i for p in packs for i in p.ids] == [i for row in rows for i in row.ids]
    assert [t for p in packs for t in p.targets] == [label for row in rows for label in row.labels if label != N]
    assert all(len(p.ids) <= budget or p.positions == tuple(range(len(p.ids))) for p in packs)


@settings(deadline=None)
@given(ROWS)
def test_a_slot_stands_right_before_its_target_in_the_same_row(rows):
    packed = pack(rows)
    for slot, target in zip(packed.slots, packed.targets, strict=True):
        assert packed.ids[slot + 1] == target
        assert packed.positions[slot + 1] == packed.positions[slot] + 1
