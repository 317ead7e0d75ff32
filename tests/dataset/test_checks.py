"""What a set holds, and prompts that are the same in other words."""

import pytest

from workbench.dataset.checks import NEAR, Balance, Pair, balance, is_call, leaks, near_duplicates, normalise
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
