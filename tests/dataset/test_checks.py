"""What a set holds, and prompts that are the same in other words."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz import fuzz

from workbench.dataset import similar
from workbench.dataset.checks import NEAR, Balance, Pair, balance, exactly, is_call, leaks, near_duplicates, normalise
from workbench.dataset.store import make_row
from workbench.schema import Example, Message, ToolCall

CALL = '<tool_call name="get_sensitive_data" arguments="{}"/>'


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Message("assistant", CALL), True), (Message("assistant", f"Сейчас. {CALL}"), True),
        (Message("assistant", "", (ToolCall("x"),)), True), (Message("assistant", "Да"), False),
        (Message("assistant", "get_sensitive_data"), False),
    ],
)  # fmt: skip
def test_a_row_is_a_call_if_its_last_answer_calls(answer, expected):
    assert is_call(Example((Message("user", "x"), Message("assistant", CALL), Message("user", "y"), answer))) is expected


def test_a_call_earlier_in_the_conversation_does_not_count():
    earlier = (Message("user", CALL), Message("assistant", CALL), Message("user", CALL))
    assert is_call(Example((*earlier, Message("assistant", "Да")))) is False


def test_the_balance_counts_calls_and_texts():
    rows = [make_row("a", CALL), make_row("b", "Да"), make_row("c", CALL), make_row("d", CALL)]
    assert balance(rows) == Balance(calls=3, texts=1)
    assert (balance(rows).rows, balance([])) == (4, Balance(0, 0))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("  Ещё ОДИН, раз?! ", "еще один раз"), ("Счёт №5", "счет 5"), ("a_b-c", "a_b c"), ("STRASSE straße", "strasse strasse"),
     ("?!", "")],
)
def test_prompts_are_compared_by_their_words(prompt, expected):
    assert normalise(prompt) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("  Ещё «ОДИН», (раз)?! ", "еще один раз"), ("Поставь -5!", "поставь -5"), ("от 10-15 до 20 - 30", "от 10 15 до 20 30"), ("Курс: 1.5, 2,5 и 3.", "курс 1.5 2,5 и 3"),
        ("C++ или C#?", "c + + или c #"), ("50% в 12:30", "50 % в 12:30"), ("−5 –7", "-5 -7"), ("кто-то", "кто то"), ("👍", "👍"), ("?!", "?!"), (".5", ".5"), ("5G", "5g"),
    ],
)  # fmt: skip
def test_what_must_be_the_same_keeps_signs_points_and_symbols(prompt, expected):
    assert exactly(prompt) == expected


@pytest.mark.parametrize(
    ("first", "second", "similarity"),
    [
        ("Какой у меня счёт?", "какой у меня СЧЕТ", 100.0),
        ("Какой у меня баланс?", "Баланс у меня какой", 100.0),
        ("Какой у меня баланс", "Какой у тебя баланс", 100 * (1 - 4 / 38)),
    ],
)
def test_like_prompts_are_found_with_how_like_they_are(first, second, similarity):
    (pair,) = near_duplicates(["Привет", first, "Пока", second])
    assert (pair.first, pair.second) == (1, 3)
    assert pair.similarity == pytest.approx(similarity, abs=1e-4)


@pytest.mark.parametrize(
    ("first", "second"), [("Какой у меня баланс", "Что такое баланс"), ("Покажи мой счёт", "Покажи мой договор"), ("Да", "Нет")]
)
def test_unlike_prompts_are_let_alone(first, second):
    assert near_duplicates([first, second]) == []


def test_the_line_is_drawn_at_85_of_100():
    assert NEAR == 85.0
    assert near_duplicates(["a" * 20, "a" * 17 + "bbb"]) == [Pair(0, 1, 85.0)]
    assert near_duplicates(["a" * 20, "a" * 16 + "bbbb"]) == []


def test_prompts_without_words_are_not_all_the_same():
    assert near_duplicates(["👍", "👎"]) == []


def test_every_pair_is_told_once_and_no_prompt_is_its_own_twin():
    assert [(p.first, p.second) for p in near_duplicates(["Привет", "привет!", "ПРИВЕТ"])] == [(0, 1), (0, 2), (1, 2)]
    assert near_duplicates(["Привет"]) == near_duplicates([]) == []


def test_leaks_stand_between_two_lists_only():
    assert leaks(["Привет", "привет", "Пока"], ["Нет", "пока!"]) == [Pair(2, 1, 100.0)]
    assert leaks([], ["x"]) == leaks(["x"], []) == []


# -- exact among many ------------------------------------------------------------------------------


def brute_force(left: list[str], right: list[str], cutoff: float) -> dict[tuple[int, int], float]:
    """Every pair measured one by one."""
    found = {}
    others = [similar.compared(text) for text in right]
    for i, a in enumerate(map(similar.compared, left)):
        for k, b in enumerate(others):
            score = max(fuzz.ratio(a, b), fuzz.token_sort_ratio(a, b))
            if score >= cutoff:
                found[i, k] = score
    return found


def measured(pairs: list[Pair]) -> dict[tuple[int, int], float]:
    """The pairs as a dictionary that compares with one of floats."""
    assert len({(p.first, p.second) for p in pairs}) == len(pairs)
    return {(p.first, p.second): pytest.approx(p.similarity, abs=1e-3) for p in pairs}


def random_prompts(count: int, seed: int) -> list[str]:
    """Russian-looking requests, many of them nearly others."""
    draw = random.Random(seed)
    words = ["покажи", "сколько", "мой", "баланс", "счёт", "карта", "перевод", "кредит", "лимит", "договор", "тариф", "что", "такое"]
    prompts: list[str] = []
    for _ in range(count):
        if prompts and draw.random() < 0.4:
            old = list(draw.choice(prompts))
            old[draw.randrange(len(old))] = draw.choice("абвгдежз ")
            prompts.append("".join(old))
        else:
            prompts.append(" ".join(draw.choice(words) + draw.choice(["", "а", "у", "ом"]) for _ in range(draw.randint(1, 8))))
    return prompts


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("cutoff", [75.0, 85.0, 100.0])
def test_every_like_pair_among_hundreds_is_found_as_if_all_were_measured(seed, cutoff, monkeypatch):
    monkeypatch.setattr(similar, "BLOCK", 64)
    prompts = random_prompts(300, seed)
    expected = {(i, k): score for (i, k), score in brute_force(prompts, prompts, cutoff).items() if i < k}
    assert len(expected) > 4
    assert measured(similar.compare_within(prompts, cutoff).pairs()) == expected
    assert measured(similar.compare_between(prompts[:200], prompts[150:], cutoff)) == brute_force(prompts[:200], prompts[150:], cutoff)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.text(alphabet="аб вёЁ.😀\u0301ß", max_size=14), max_size=12), st.lists(st.text(max_size=8), max_size=6), st.sampled_from([50.0, 75.0, 85.0]))
def test_any_prompts_are_compared_as_if_all_pairs_were_measured(prompts, others, cutoff):
    everything = [*prompts, *others]
    expected = {(i, k): score for (i, k), score in brute_force(everything, everything, cutoff).items() if i < k}
    assert measured(similar.compare_within(everything, cutoff).pairs()) == expected
    assert measured(similar.compare_between(prompts, others, cutoff)) == brute_force(prompts, others, cutoff)


def test_rare_characters_and_many_repeats_of_one_rule_no_like_pair_out(monkeypatch):
    similar.forget()
    monkeypatch.setattr(similar, "CHARACTERS", 3)
    monkeypatch.setattr(similar, "FEATURES", 2)
    draw = random.Random(1)
    prompts = ["".join(draw.choice("абвгдежзик") for _ in range(9)) for _ in range(150)]
    expected = {(i, k): score for (i, k), score in brute_force(prompts, prompts, 70.0).items() if i < k}
    assert expected
    assert measured(similar.compare_within(prompts, 70.0).pairs()) == expected
    similar.forget()


def test_groups_are_chains_of_like_prompts_in_order():
    prompts = ["Пока", "a" * 20, "a" * 18 + "bb", "a" * 16 + "bbbb", "пока!", "Нет"]
    assert near_duplicates(prompts) == [Pair(0, 4, 100.0), Pair(1, 2, 90.0), Pair(2, 3, 90.0)]
    assert similar.near_groups(prompts) == [[0, 4], [1, 2, 3]]
    assert similar.near_groups([]) == similar.near_groups(["x"]) == []


def test_beyond_the_kept_pairs_the_groups_are_still_whole(monkeypatch):
    monkeypatch.setattr(similar, "KEPT_PAIRS", 10)
    monkeypatch.setattr(similar, "MEASURED", 7)
    prompts = [*(f"Покажи операцию {i:03d} по карте" for i in range(40)), *(f"Совсем другая просьба {i:02d}" for i in range(9))]
    found = similar.compare_within(prompts)
    assert (found.complete, found.measured) == (False, True)
    assert found.groups() == [list(range(40)), list(range(40, 49))]
    assert len(found.pairs()) == 10


def test_ten_thousand_equal_prompts_are_one_group_and_a_bounded_list():
    found = similar.compare_within(["Привет"] * 10_000)
    assert found.groups() == [list(range(10_000))]
    assert len(found.pairs()) == similar.KEPT_PAIRS


def test_long_prompts_must_also_share_half_of_their_words():
    draw = random.Random(3)
    letters = "абвгдежзик"
    first = ["".join(draw.choice(letters) for _ in range(6)) for _ in range(60)]
    nearly = [*first[:57], "совсем", "другой", "конец"]
    broken = [word[:2] + "о" + word[3:] for word in first]
    assert near_duplicates([" ".join(first), " ".join(nearly)]) == [Pair(0, 1, pytest.approx(fuzz.ratio(" ".join(first), " ".join(nearly)), abs=1e-3))]
    assert near_duplicates([" ".join(first), " ".join(broken)]) == []


def test_what_comes_late_in_a_very_long_prompt_does_not_count():
    assert near_duplicates(["а" * 1000 + "б" * 500, "а" * 1000 + "в" * 900]) == [Pair(0, 1, 100.0)]


def test_a_set_that_would_take_too_long_says_so(monkeypatch):
    monkeypatch.setattr(similar, "MOST_WORK", 1000.0)
    similar.forget()
    assert similar.compare_within([f"Покажи операцию {i}" for i in range(9)]).measured is False
    similar.forget()
