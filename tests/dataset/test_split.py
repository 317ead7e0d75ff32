"""Which rows are held back: the wanted share, kinds and tools in proportion, like rows together, pins respected."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.dataset.split import folds, learnable, left_out, split_examples, stratum
from workbench.errors import DataError
from workbench.schema import Example, Message, ToolCall

SHARES = st.floats(0, 0.5)
SEEDS = st.integers(0, 2**31 - 1)
TOOLS = st.lists(st.sampled_from(["", "look_up", "transfer"]), max_size=120)
WAITING = "generated:families"


def row(number: int, tool: str = "", **fields: str) -> Example:
    """A row that calls `tool`, or answers in words; its request is like no other's."""
    answer = Message("assistant", "", (ToolCall(tool),)) if tool else Message("assistant", "Да")
    return Example((Message("user", chr(0x4E00 + number) * 3), answer), **fields)


def rows(tools: list[str]) -> list[Example]:
    return [row(i, tool) for i, tool in enumerate(tools)]


def ask(request: str, tool: str = "", pin: str = "") -> Example:
    return Example((Message("user", request), row(0, tool).answer), pin=pin)


SEVENTY = rows(["look_up", ""] * 35)
PUBLISHED = [3, 12, 15, 16, 28, 31, 35]


@st.composite
def grouped_sets(draw):
    """Rows, some of them pinned, and disjoint groups of their places."""
    given_rows = [row(i, draw(st.sampled_from(["", "a", "b"])), pin=draw(st.sampled_from(["", "", "", "train", "validation"]))) for i in range(draw(st.integers(0, 60)))]
    places = draw(st.permutations(range(len(given_rows))))
    groups = []
    while len(places) > 1 and draw(st.booleans()):
        size = draw(st.integers(2, 6))
        groups.append(sorted(places[:size]))
        places = places[size:]
    return given_rows, groups


def test_seventy_rows_give_63_to_learn_and_7_held_back():
    learned, held = split_examples(SEVENTY, 0.1, 42)
    assert (len(learned), len(held)) == (63, 7)
    assert sorted(Counter(stratum(SEVENTY[i]) for i in held).values()) == [3, 4]


def test_a_seeds_split_is_the_one_that_published_figures_rest_on():
    assert split_examples(SEVENTY, 0.1, 42)[1] == PUBLISHED


def test_the_same_seed_holds_back_the_same_rows_and_another_seed_others():
    assert split_examples(SEVENTY, 0.1, 42) == split_examples(SEVENTY, 0.1, 42)
    assert len({tuple(split_examples(SEVENTY, 0.1, seed)[1]) for seed in range(20)}) == 20


def test_the_held_back_rows_are_spread_over_the_whole_set():
    assert {i for seed in range(100) for i in split_examples(SEVENTY, 0.1, seed)[1]} == set(range(70))


@pytest.mark.parametrize(
    ("calls", "texts", "share", "held_calls", "held_texts"),
    [(80, 20, 0.1, 8, 2), (9, 1, 0.2, 2, 0), (50, 50, 0.5, 25, 25), (30, 10, 0.1, 3, 1), (10, 0, 0.2, 2, 0), (1, 1, 0.5, 0, 1)],
)
def test_each_kind_is_held_back_in_proportion(calls, texts, share, held_calls, held_texts):
    given_rows = rows(["look_up"] * calls + [""] * texts)
    _, held = split_examples(given_rows, share, 7)
    found = Counter(stratum(given_rows[i]) for i in held)
    assert (found["look_up"], found[""]) == (held_calls, held_texts)


@pytest.mark.parametrize(
    ("count", "share", "held"),
    [(0, 0.5, 0), (1, 0.5, 0), (2, 0.5, 1), (4, 0.1, 0), (5, 0.1, 0), (6, 0.1, 1), (70, 0, 0), (3, 1.0, 2)]
)
def test_a_row_is_always_left_to_learn(count, share, held):
    learned, held_back = split_examples(rows(["look_up"] * count), share, 1)
    assert (len(learned), len(held_back)) == (count - held, held)


@settings(deadline=None)
@given(TOOLS, SHARES, SEEDS)
def test_without_groups_and_pins_the_share_is_exact_and_no_tool_is_off_it_by_a_whole_row(tools, share, seed):
    learned, held = split_examples(rows(tools), share, seed, [])
    assert sorted(learned + held) == list(range(len(tools)))
    assert (learned, held) == (sorted(learned), sorted(held))
    assert len(held) == (min(round(share * len(tools)), len(tools) - 1) if tools else 0)
    for tool in set(tools):
        assert abs(sum(tools[i] == tool for i in held) - len(held) * tools.count(tool) / len(tools)) < 1


@settings(deadline=None)
@given(grouped_sets(), SHARES, SEEDS)
def test_every_row_is_on_one_side_and_pins_and_groups_hold(case, share, seed):
    given_rows, groups = case
    learned, held = split_examples(given_rows, share, seed, groups)
    assert sorted(learned + held) == list(range(len(given_rows)))
    assert (learned, held) == split_examples(given_rows, share, seed, groups)
    side = dict.fromkeys(learned, "train") | dict.fromkeys(held, "validation")
    assert all(side[i] == r.pin for i, r in enumerate(given_rows) if r.pin)
    pinned_away = all(r.pin != "train" for r in given_rows) and any(r.pin for r in given_rows)
    for group in groups:
        pins = {given_rows[i].pin for i in group} - {""}
        if len(pins) < 2 and not pinned_away:
            assert len({side[i] for i in group}) == 1


@settings(deadline=None)
@given(grouped_sets(), SHARES, SEEDS)
def test_the_share_is_exact_where_rows_without_a_group_allow(case, share, seed):
    given_rows, groups = case
    given_rows = [Example(r.messages) for r in given_rows]
    _, held = split_examples(given_rows, share, seed, groups)
    wanted = min(round(share * len(given_rows)), len(given_rows) - 1) if given_rows else 0
    singles = len(given_rows) - sum(map(len, groups))
    assert len(held) == wanted if singles >= wanted else len(held) <= wanted


def test_like_requests_stand_on_one_side():
    given_rows = [*rows(["", "look_up"] * 8), *(ask(f"Какой у меня баланс{mark}", "look_up") for mark in "?!.,")]
    for seed in range(30):
        _, held = split_examples(given_rows, 0.3, seed)
        assert len(held) == 6
        assert len({i in held for i in range(16, 20)}) == 1
    assert {16 in split_examples(given_rows, 0.3, seed)[1] for seed in range(30)} == {True, False}


def test_a_pin_takes_the_rest_of_its_group_along():
    given_rows = [*rows([""] * 8), ask("Привет", pin="validation"), ask("привет!"), ask("Пока", pin="train"), ask("пока!")]
    for seed in range(20):
        learned, held = split_examples(given_rows, 0.25, seed)
        assert {8, 9} <= set(held) and {10, 11} <= set(learned) and len(held) == 3


def test_where_the_pins_of_a_group_disagree_each_is_respected_and_the_rest_is_learned():
    given_rows = [*rows([""] * 7), ask("Привет", pin="validation"), ask("привет!", pin="train"), ask("ПРИВЕТ")]
    learned, held = split_examples(given_rows, 0.1, 3)
    assert (7 in held, 8 in learned, 9 in learned) == (True, True, True)


def test_pins_beyond_the_share_are_kept():
    given_rows = [row(i, pin="validation" if i < 5 else "") for i in range(10)]
    assert split_examples(given_rows, 0.1, 1) == ([5, 6, 7, 8, 9], [0, 1, 2, 3, 4])


def test_rows_that_only_follow_a_pin_are_left_to_learn_where_nothing_else_is():
    assert split_examples([ask("Привет", pin="validation"), ask("привет!")], 0.5, 1) == ([1], [0])
    assert split_examples([ask("Привет", pin="validation"), ask("Пока", pin="validation")], 0.5, 1) == ([], [0, 1])


def test_a_row_counts_for_the_first_tool_it_calls():
    several = Message("assistant", "", (ToolCall("b"), ToolCall("a")))
    assert [stratum(row(0, "look_up")), stratum(row(0)), stratum(Example((Message("user", "x"), several)))] == ["look_up", "", "b"]


REVIEWED = [row(0), row(1, source=WAITING), row(2, status="approved", source=WAITING), row(3, status="rejected"), row(4, source="import:rows.csv")]


@pytest.mark.parametrize(("unreviewed", "places"), [("handwritten", [0, 2, 4]), ("all", [0, 1, 2, 4]), ("approved", [2])])
def test_which_drafts_are_learned_is_a_setting_and_rejected_rows_never_are(unreviewed, places):
    assert learnable(REVIEWED, unreviewed) == places


@pytest.mark.parametrize(
    ("count", "unreviewed", "says"),
    [
        (0, "handwritten", ""), (1, "all", ""),
        (1, "handwritten", "1 generated draft waits for review and is left out: approve it on the Data tab, or set Unreviewed rows to “all”."),
        (12, "handwritten", "12 generated drafts wait for review and are left out: approve them on the Data tab, or set Unreviewed rows to “all”."),
        (1, "approved", "1 draft is not approved and is left out: approve it on the Data tab, or set Unreviewed rows to “all”."),
        (3, "approved", "3 drafts are not approved and are left out: approve them on the Data tab, or set Unreviewed rows to “all”."),
    ],
)  # fmt: skip
def test_rows_that_are_left_out_are_told(count, unreviewed, says):
    assert left_out([row(0, status="approved"), row(1, status="rejected"), *(row(2 + i, source=WAITING) for i in range(count))], unreviewed) == says


def test_ten_thousand_rows_in_groups_are_split_whole():
    draw = random.Random(5)
    groups = [list(range(i, i + draw.randint(2, 5))) for i in range(0, 5000, 5)]
    learned, held = split_examples(rows(["look_up", ""] * 5000), 0.1, 1, groups)
    assert (len(learned), len(held)) == (9000, 1000)


def test_five_folds_hold_every_row_back_once_kinds_in_proportion():
    made = folds(SEVENTY, 5, 42)
    assert sorted(i for _, held in made for i in held) == list(range(70))
    assert all(sorted([*learned, *held]) == list(range(70)) for learned, held in made)
    assert [Counter(stratum(SEVENTY[i]) for i in held) for _, held in made] == [{"look_up": 7, "": 7}] * 5


def test_uneven_kinds_still_give_even_folds():
    made = folds(rows([*["look_up"] * 33, *[""] * 37]), 5, 1)
    assert sorted(len(held) for _, held in made) == [14] * 5
    assert {sum(i < 33 for i in held) for _, held in made} == {6, 7}


def test_the_seed_decides_the_folds():
    assert folds(SEVENTY, 5, 1) == folds(SEVENTY, 5, 1)
    assert folds(SEVENTY, 5, 1) != folds(SEVENTY, 5, 2)


def test_near_duplicates_are_held_back_together():
    like = [ask(f"Какой баланс у карты номер {n}?") for n in (1, 2, 3)]
    made = folds([*like, *rows(["look_up", ""] * 5)], 4, 3)
    assert [held for _, held in made if {0, 1, 2} & set(held)] == [held for _, held in made if {0, 1, 2} <= set(held)]


def test_pins_hold_in_every_fold():
    given_rows = rows([*["look_up"] * 4, *[""] * 4])
    given_rows[0] = row(0, "look_up", pin="train")
    given_rows[1] = row(1, "look_up", pin="validation")
    made = folds(given_rows, 3, 5)
    assert all(0 in learned and 0 not in held for learned, held in made)
    assert all(1 not in learned for learned, _ in made)
    assert sum(1 in held for _, held in made) == 1


@given(grouped_sets(), st.integers(2, 8), SEEDS)
@settings(max_examples=150, deadline=None)
def test_folds_are_whole_and_apart(made, k, seed):
    given_rows, groups = made
    try:
        found = folds(given_rows, k, seed, groups)
    except DataError:
        return
    held = [i for _, fold in found for i in fold]
    assert len(held) == len(set(held))
    assert all(fold and learned and not set(learned) & set(fold) for learned, fold in found)
    assert {i for i, r in enumerate(given_rows) if r.pin == "validation"} <= set(held)
    for learned, fold in found:
        assert not {i for i, r in enumerate(given_rows) if r.pin == "train"} & set(fold)
        for group in (g for g in groups if not any(given_rows[i].pin for i in g)):
            assert not (set(group) & set(fold) and set(group) & set(learned))


@pytest.mark.parametrize(
    ("given_rows", "k", "sentence"),
    [
        (SEVENTY, 1, r"^1 fold\(s\) can't be compared: take at least 2\.$"),
        (rows(["look_up", ""]), 3, r"^3 folds want at least 3 rows .* there are 2 to hold back \(of 2 rows\)\. Take fewer folds"),
        ([ask("Какой баланс?"), ask("Какой баланс ?"), ask("Курс евро")], 3, r"there are 2 to hold back \(of 3 rows\)"),
        ([*rows(["", ""]), row(2, pin="train")], 3, r"there are 2 to hold back \(of 3 rows, and 1 pinned to training\)"),
        ([row(0, pin="validation"), row(1, pin="validation"), row(2)], 3, r"learn from no row|^A fold would"),
    ],
)  # fmt: skip
def test_folds_that_can_t_be_made_are_refused(given_rows, k, sentence):
    with pytest.raises(DataError, match=sentence):
        folds(given_rows, k, 42)
