"""What the calls are about, and which topics no answer in words touches."""

import pytest

from workbench.dataset.topics import LEAST_CALLS, MOST_TOPICS, Topic, missing_no_call, stems
from workbench.schema import Example, Message, ToolCall


def call(request: str) -> Example:
    return Example((Message("user", request), Message("assistant", "", (ToolCall("look_up"),))))


def text(request: str) -> Example:
    return Example((Message("user", request), Message("assistant", "Да")))


BALANCE = [call("Какой у меня баланс?"), call("Покажи баланса остаток"), call("что с балансом карты")]


@pytest.mark.parametrize(
    ("request_text", "expected"),
    [
        ("Сколько у меня сейчас денег на СЧЁТЕ?", {"денег": "денег", "счет": "счёте"}),
        ("Покажи мои платежи, платежей", {"платеж": "платежи"}), ("What is my balance, balances?", {"balanc": "balance"}),
        ("Кто ты? 1500 ok, да!", {}), ("", {}),
    ],
)  # fmt: skip
def test_a_request_is_about_its_telling_words(request_text, expected):
    assert stems(request_text) == expected


def test_a_topic_of_calls_alone_is_found_with_its_calls_and_a_word_of_them():
    assert missing_no_call([text("Привет"), *BALANCE, text("Что такое вклад?")]) == [Topic("баланс", "баланс", 3, 0, (1, 2, 3))]


def test_one_text_answer_on_it_is_enough_for_a_small_topic():
    assert missing_no_call([*BALANCE, text("Что такое баланс?")]) == []


def test_almost_none_is_found_too_where_there_are_many_calls():
    many = [call(f"баланс {word}") for word in ("акции", "брокера", "вексель", "газа", "дома", "ёлки", "жены", "завода", "избы", "иглы", "кота", "лодки")]
    assert [(t.calls, t.texts) for t in missing_no_call([*many, text("Что такое баланс?")])] == [(12, 1)]
    assert missing_no_call([*many, text("Что такое баланс?"), text("Чем полезен баланс?")]) == []


def test_fewer_calls_than_three_or_three_percent_are_no_topic():
    assert LEAST_CALLS == 3
    assert missing_no_call(BALANCE[:2]) == []
    others = [call(f"{chr(0x4E00 + i) * 3}") for i in range(100)]
    assert missing_no_call([*BALANCE, *others]) == []


def test_two_words_of_one_wording_are_one_topic():
    rows = [call(f"закрыть ипотеку {word}") for word in ("мужа", "дочери", "племянника")]
    assert len(missing_no_call(rows)) == 1


def test_at_most_five_topics_are_told_the_largest_first():
    names = ["акции", "вексель", "газ", "дом", "елка", "жена", "завод"]
    rows = [call(f"{name} {chr(0x4E00 + 10 * i + k) * 3}") for i, name in enumerate(names) for k in range(3 + i)]
    found = missing_no_call(rows)
    assert [t.calls for t in found] == [9, 8, 7, 6, 5] and len(found) == MOST_TOPICS
