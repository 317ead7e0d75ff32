"""Rows from families of wordings: seeded, in both kinds, never nearly the same, with right arguments."""

from __future__ import annotations

import json
import random
import re

import pytest

from tests.conftest import REPOSITORY
from workbench.calls.dialects import TAG, message_calls
from workbench.calls.tools import call_problems
from workbench.dataset.argument_values import fill
from workbench.dataset.checks import is_call, leaks, near_duplicates
from workbench.dataset.families import FAMILIES, find_topic, generate, no_call_rows, topics
from workbench.dataset.formats import dump_row, load_rows, parse_row
from workbench.dataset.wordings import plural
from workbench.errors import InputError
from workbench.schema import Example, ToolCall, ToolSpec

PRIVATE = ToolSpec("get_sensitive_data")
KEYS = [f.key for f in FAMILIES]
KINDS = {f.key: f.kind for f in FAMILIES}
RUSSIAN = {"question", "command", "fragment", "polite", "terse", "definition", "howto", "near-miss", "greeting", "thanks", "smalltalk", "word"}
FORECAST = ToolSpec("forecast", "Weather", {
    "type": "object", "required": ["city", "days"], "properties": {
        "city": {"type": "string", "enum": ["Oslo", "Bergen"]}, "days": {"type": "integer", "minimum": 2, "maximum": 4, "title": "Days"},
        "detailed": {"type": "boolean"}, "hours": {"type": "array", "items": {"enum": ["06", "12", "18"]}, "minItems": 2},
    },
})


def said(rows: list[Example]) -> list[str]:
    return [row.request for row in rows]


@pytest.mark.parametrize("key", KEYS)
def test_each_family_writes_sound_draft_rows_of_its_kind(key: str) -> None:
    rows = generate(PRIVATE, families=[key], count=30, seed=3)
    assert len(rows) >= 8
    for row in rows:
        assert (row.status, row.source, row.awaits_review) == ("draft", f"generated:families:{key}", True)
        assert is_call(row) == (KINDS[key] == "call")
        assert parse_row(dump_row(row)) == row
        assert not re.search(r"[{}]|\s\s|\s[.,?!]|[.?!,]{2}", row.request), row.request
        assert row.request == row.request.strip() and (row.answer.content == '<tool_call name="get_sensitive_data" arguments="{}"/>') == is_call(row)


def test_all_families_together_are_shared_out_evenly_and_repeat_nothing() -> None:
    rows = generate(PRIVATE, families=[], count=260, seed=1)
    assert len(rows) == 260
    assert {KINDS[row.source.rpartition(":")[2]] for row in rows} == {"call", "text"}
    counts = {key: sum(row.source.endswith(f":{key}") for row in rows) for key in KEYS}
    assert counts["kazakh-text"] == 8 and all(count in (10, 11) for key, count in counts.items() if key != "kazakh-text")
    assert near_duplicates(said(rows)) == []


def test_a_seed_repeats_the_rows_and_another_gives_others() -> None:
    first = generate(PRIVATE, families=["question", "typos"], count=40, seed=7)
    assert generate(PRIVATE, families=["question", "typos"], count=40, seed=7) == first
    assert len(set(said(first)) & set(said(generate(PRIVATE, families=["question", "typos"], count=40, seed=8)))) < 20


def test_nothing_repeats_the_rows_of_the_set_or_the_prompts_that_are_kept_for_measuring() -> None:
    names = ("examples.json", "cases.jsonl", "demo.jsonl")
    avoid = [row.request for name in names for row in load_rows(REPOSITORY / "data" / name).rows]
    rows = generate(PRIVATE, families=[], count=400, seed=2, avoid=avoid)
    assert len(rows) == 400 and leaks(said(rows), avoid) == []
    assert leaks(said(generate(PRIVATE, families=[], count=400, seed=2)), avoid) != [], "without it some would"


def test_russian_families_are_written_in_russian_letters_and_the_latin_ones_are_not() -> None:
    for key in RUSSIAN:
        for row in generate(PRIVATE, families=[key], count=60, seed=4):
            assert re.search("[а-яё]", row.request.lower()), row.request
    for key in ("translit", "english", "german", "spanish", "translit-text", "english-text", "german-text", "spanish-text"):
        assert not any(re.search("[а-яё]", text.lower()) for text in said(generate(PRIVATE, families=[key], count=60, seed=4)))


def test_topics_narrow_the_rows_and_any_form_of_a_word_finds_its_topic() -> None:
    assert len(topics()) == 16 and topics()[:2] == ["баланс", "карта"]
    assert [find_topic(w)["title"] for w in ("балансом", "баланс", "карт", "Ипотеку", "кэшбэка", "баллы")] == [  # type: ignore[index]
        "баланс", "баланс", "карта", "кредит", "бонусы", "бонусы",
    ]
    assert find_topic("погода") is None
    rows = generate(PRIVATE, families=["english", "german"], topics=["пароль"], count=8, seed=1)
    assert all(re.search("username|password|login|Passwort|Benutzername", text) for text in said(rows)) and len(rows) == 8


def test_a_topic_that_a_person_types_is_worded_in_the_nominative_and_never_gets_an_invented_answer() -> None:
    calls = [f.key for f in FAMILIES if f.kind == "call"]
    rows = generate(ToolSpec("forecast"), families=calls, topics=["прогноз погоды"], count=40, seed=1)
    assert {row.source.rpartition(":")[2] for row in rows} == set(calls)
    plain = [row for row in rows if row.source.rpartition(":")[2] not in ("typos", "translit")]
    assert all("прогноз погоды" in text.lower() for text in said(plain))
    assert generate(PRIVATE, families=["definition", "howto"], topics=["погода"], count=5, seed=1) == []


def test_words_about_a_word_are_answered_right() -> None:
    rows = {row.request: row.answer.content for row in generate(PRIVATE, families=["word"], topics=["погода"], count=10, seed=1)}
    assert rows["Сколько букв в слове «погода»?"] == "В слове «погода» 6 букв."
    assert rows["Напиши слово «погода» заглавными буквами."] == "ПОГОДА"
    assert rows["С какой буквы начинается слово «погода»?"] == "С буквы «п»."
    assert rows["На какую букву заканчивается слово «погода»?"] == "На букву «а»."
    assert [plural(n, "буква", "буквы", "букв") for n in (1, 2, 5, 11, 12, 21, 24)] == [
        "буква", "буквы", "букв", "букв", "букв", "буква", "буквы",
    ]


@pytest.mark.parametrize("word", ["баланс", "балансе", "карт", "погода"])
def test_no_call_rows_speak_of_the_topic_and_need_no_call(word: str) -> None:
    rows = no_call_rows(word, 6, seed=1)
    assert len(rows) == 6
    assert not any(is_call(row) for row in rows) and near_duplicates(said(rows)) == []
    if word != "погода":
        assert [row.source.rpartition(":")[2] for row in rows[:4]] == ["definition", "howto", "near-miss", "word"]
        assert word[:4] in rows[0].request and word[:4] in rows[2].request, "those that name the topic come first"


def test_arguments_follow_the_schema_and_are_named_in_the_request() -> None:
    rows = generate(FORECAST, families=["command", "polite", "english", "typos"], topics=["прогноз погоды", "дождь"], count=24, seed=5)
    assert len(rows) == 24
    seen = set()
    for row in rows:
        [call] = message_calls(row.answer)
        assert call_problems(call, {"forecast": FORECAST}) == []
        seen |= set(call.arguments)
        for value in call.arguments.values():
            spoken = {True: ("да", "yes"), False: ("нет", "no")}[value] if isinstance(value, bool) else (", ".join(value),) if isinstance(value, list) else (str(value),)
            assert any(word in row.request for word in spoken), (row.request, value)
    assert seen == {"city", "days", "detailed", "hours"}


def test_a_required_argument_without_any_hint_of_a_value_is_refused_by_name() -> None:
    tool = ToolSpec("find", "", {"type": "object", "required": ["query"], "properties": {"query": {"type": "string"}}})
    with pytest.raises(InputError, match="The tool find needs query, and its schema gives no value"):
        generate(tool, families=["command"], count=1, seed=1)


@pytest.mark.parametrize(("schema", "allowed"), [
    ({"type": "integer", "minimum": 3, "maximum": 4}, {3, 4}), ({"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 6}, {4, 5}),
    ({"type": "integer", "multipleOf": 5, "minimum": 6, "maximum": 15}, {10, 15}), ({"type": "number", "minimum": 0.5, "maximum": 1}, {0.5, 1.0}),
    ({"type": "number", "minimum": 0.7, "maximum": 0.9}, {0.7}), ({"type": "integer", "maximum": -3, "minimum": -4}, {-3, -4}), ({"const": "x"}, {"x"}),
    ({"type": ["string", "null"], "default": "USD"}, {"USD"}),
    ({"type": "string", "examples": ["a", {}, None]}, {"a"}),
])
def test_values_keep_to_what_the_schema_names(schema: dict, allowed: set) -> None:
    tool = ToolSpec("f", "", {"type": "object", "required": ["v"], "properties": {"v": schema}})
    rows = generate(tool, families=["question", "command"], count=40, seed=1)
    assert {message_calls(row.answer)[0].arguments["v"] for row in rows} == allowed
    assert all(TAG.render(ToolCall("f", message_calls(row.answer)[0].arguments)) == row.answer.content for row in rows)


@pytest.mark.parametrize(("change", "says"), [
    ({"families": ["odd"]}, "no family of wordings called 'odd'"), ({"count": 0}, "must be 1 to 2000, not 0"), ({"count": 2001}, "not 2001"),
    ({"topics": ["<tool_call"]}, "The topic '<tool_call' can't be used"), ({"topics": [" "]}, "can't be used"), ({"topics": ["x" * 61]}, "can't be used"),
])
def test_what_can_t_be_asked_for_is_refused_in_one_sentence(change: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        generate(PRIVATE, **{"families": ["question"], "count": 3, "seed": 1} | change)


def test_braces_in_a_typed_topic_are_only_text() -> None:
    rows = generate(PRIVATE, families=["command"], topics=["{sum} {0} {ask.__class__}"], count=3, seed=1)
    assert all("{sum} {0} {ask.__class__}" in text for text in said(rows))


def test_every_public_answer_is_short_and_every_topic_has_its_forms() -> None:
    value = json.loads((REPOSITORY / "workbench" / "dataset" / "families_topics.json").read_text(encoding="utf-8"))
    for topic in value.values():
        assert len(topic["asks"]) >= 7 and len(topic["things"]) == 4 and {len(t) for t in topic["things"]} == {4}
        for pool in ("definitions", "howto", "near"):
            assert len(topic[pool]) == 3
            assert all(len(answer) <= 130 and answer.endswith(".") for _, answer in topic[pool]), topic[pool]


@pytest.mark.parametrize("schema", [
    {"type": "integer", "minimum": 1e308, "multipleOf": 1e-5}, {"type": "number", "minimum": -1e308, "maximum": 1e308, "multipleOf": 1e-300},
    {"type": "integer", "minimum": float("inf")},
])  # fmt: skip
def test_bounds_that_no_number_can_be_counted_in_are_refused_in_words_or_left_out(schema):
    properties = {"a": schema, "b": {"const": 1}}
    with pytest.raises(InputError, match="^The tool f needs a, and no value can be found within its bounds"):
        fill(ToolSpec("f", "", {"properties": properties, "required": ["a"]}), random.Random(1))
    assert fill(ToolSpec("f", "", {"properties": properties, "required": ["b"]}), random.Random(1)) == ({"b": 1}, ["b: 1"])
