"""What a model is asked for, how its reply is read, and which rows are let in."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from workbench.calls.dialects import TAG
from workbench.dataset import generate as module
from workbench.dataset.generate import Request, admit, make_request, prompt, read_reply, reply_schema
from workbench.errors import InputError
from workbench.schema import Example, Message, ToolCall, ToolSpec

PRIVATE = ToolSpec("get_sensitive_data", "Private data", {"type": "object", "properties": {}, "additionalProperties": False})
FORECAST = ToolSpec("forecast", "Weather", {
    "type": "object", "required": ["city"], "$defs": {"city": {"enum": ["Oslo", "Bergen"]}},
    "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"type": "integer", "minimum": 1}},
})
CALLS, TEXTS = Request(PRIVATE, "call", "Russian", "баланс", 2), Request(PRIVATE, "text", "Russian", "баланс", 2)
CALL_TEXT = '<tool_call name="get_sensitive_data" arguments="{}"/>'


def row(request: str, answer: str = CALL_TEXT) -> Example:
    return Example((Message("user", request), Message("assistant", answer)))


def reply(*items: Any) -> str:
    return json.dumps({"rows": list(items)}, ensure_ascii=False)


def test_a_reply_of_the_form_becomes_draft_rows() -> None:
    rows, refused = read_reply(reply({"request": "  Мой баланс? "}, {"request": "Остаток?"}), CALLS, "gpt")
    assert refused == []
    assert [(r.request, r.answer.content, r.status, r.source) for r in rows] == [
        ("Мой баланс?", CALL_TEXT, "draft", "generated:model:gpt"), ("Остаток?", CALL_TEXT, "draft", "generated:model:gpt"),
    ]
    [texts], _ = read_reply(reply({"request": "Что такое баланс?", "answer": "Это остаток."}), TEXTS)
    assert (texts.answer.content, texts.source) == ("Это остаток.", "generated:model")


def test_arguments_are_written_into_the_call_and_checked() -> None:
    request = Request(FORECAST, "call", "English", "", 3)
    rows, refused = read_reply(reply(
        {"request": "Weather in Oslo", "arguments": {"city": "Oslo"}}, {"request": "In Rome?", "arguments": {"city": "Rome"}}, {"request": "Here?", "arguments": []},
    ), request)  # fmt: skip
    assert [r.answer.content for r in rows] == [TAG.render(ToolCall("forecast", {"city": "Oslo"}))]
    assert [r.request for r in refused] == ["In Rome?", "Here?"]
    assert "city" in refused[0].reason and refused[1].reason == "the arguments are not an object"


@pytest.mark.parametrize("fence", ["```json\n{}\n```", "```\n{}\n```", "\n```json \n{}\n```\n"])
def test_one_fence_around_the_whole_reply_is_taken_off(fence: str) -> None:
    assert len(read_reply(fence.replace("{}", reply({"request": "a"})), CALLS)[0]) == 1


@pytest.mark.parametrize("text", [
    "null", "[]", '{"rows": {}}', '{"rows": [], "more": 1}', "Here: " + reply({"request": "a"}), "```json\n" + reply({"request": "a"}) + "\n``` done",
    '{"rows": [{"request": NaN}]}', '{"rows": [], "rows": []}', "[" * 100_000, "'", '{"rows": [{"request": ' + "1" * 10_000 + "}]}",
])
def test_a_reply_of_another_form_is_refused_whole(text: str) -> None:
    rows, refused = read_reply(text, CALLS)
    assert rows == [] and len(refused) == 1 and refused[0].reason.startswith("the reply is not")


@pytest.mark.parametrize(("item", "reason"), [
    ({}, "expected an object with request"), ({"request": "a", "answer": "b"}, "expected an object with request"), ("a", "expected an object with request"),
    ({"request": 1}, "the request is not a text"), ({"request": "  "}, "the request is not a text"), ({"request": "x" * 301}, "longer than 300 characters"),
    ({"request": CALL_TEXT}, "the request holds a tool call's text"), ({"request": "<tool_call"}, "the request holds a tool call's text"),
    ({"request": "a\ud800"}, "half a character"),
])
def test_a_bad_item_is_refused_and_the_others_stay(item: Any, reason: str) -> None:
    rows, refused = read_reply(json.dumps({"rows": [item, {"request": "Мой баланс?"}]}), CALLS)
    assert [r.request for r in rows] == ["Мой баланс?"]
    assert len(refused) == 1 and reason in refused[0].reason


def test_an_answer_in_words_must_be_words() -> None:
    items = [{"request": "a", "answer": CALL_TEXT}, {"request": "b", "answer": ""}]
    assert [r.reason for r in read_reply(reply(*items), TEXTS)[1]] == ["the answer holds a tool call's text", "the answer is not a text"]


def test_rows_beyond_those_asked_for_and_endless_replies_are_refused() -> None:
    rows, refused = read_reply(reply(*({"request": f"вопрос {n}"} for n in range(4))), CALLS)
    assert len(rows) == 2 and [(r.request, r.reason) for r in refused] == [(f"вопрос {n}", "more rows than the 2 that were asked for") for n in (2, 3)]
    assert read_reply("x" * 1_000_001, CALLS) == ([], [module.Refused("", "the reply is longer than 1,000,000 characters")])


@pytest.mark.parametrize("request_", [CALLS, TEXTS, Request(FORECAST, "call", "English", "", 2)], ids=["call", "text", "arguments"])
def test_the_schema_takes_what_the_reader_takes(request_: Request) -> None:
    item: dict[str, Any] = {"request": "a"} | ({"answer": "b"} if request_.kind == "text" else {})
    if request_.tool is FORECAST:
        item["arguments"] = {"city": "Oslo", "days": 2}
    for bounded in (False, True):
        schema = reply_schema(request_, bounded=bounded)
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate({"rows": [item, item]}, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"rows": [item | {"odd": 1}]}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"rows": [item]}, reply_schema(request_, bounded=True))
    rows, refused = read_reply(json.dumps({"rows": [item]}), request_)
    assert len(rows) == 1 and refused == []


def test_the_prompt_names_what_is_wanted_and_shows_rows_of_the_same_kind() -> None:
    shown = [row("Мой остаток?"), row("Привет", "Здравствуйте!")]
    system, user = prompt(CALLS, shown, ["Где мои деньги?"])
    assert (system["role"], user["role"]) == ("system", "user")
    for part in ("get_sensitive_data", "Private data", "Write 2 different user requests in Russian about: баланс.", '{"rows": [{"request": "Мой остаток?"}]}', "- Где мои деньги?"):
        assert part in user["content"]
    assert "Привет" not in user["content"]
    assert '{"rows": [{"request": "Привет", "answer": "Здравствуйте!"}]}' in prompt(TEXTS, shown)[1]["content"]


def test_repeats_are_refused_with_what_they_repeat() -> None:
    new = [row("Какой у меня баланс?"), row("какой у меня баланс"), row("Сколько денег на карте?"), row("Покажи мой лимит"), row("Что с заказом?")]
    admitted = admit(new, [row("Сколько денег на карте")], ["Покажи мне мой лимит"])
    assert admitted.rows == (new[0], new[4])
    assert [(r.request, r.reason) for r in admitted.refused] == [
        ("какой у меня баланс", "repeats another new row, or nearly so: Какой у меня баланс?"),
        ("Сколько денег на карте?", "repeats a row of the set, or nearly so: Сколько денег на карте"),
        ("Покажи мой лимит", "repeats a prompt that is kept for measuring, or nearly so: Покажи мне мой лимит"),
    ]


def test_calls_are_checked_against_the_tools() -> None:
    wrong = row("Погода в Риме", TAG.render(ToolCall("forecast", {"city": "Rome"})))
    assert admit([wrong], [], [], [FORECAST]).rows == () and "city" in admit([wrong], [], [], [FORECAST]).refused[0].reason
    assert admit([row("Баланс?")], [], [], [FORECAST]).refused[0].reason == "there is no tool “get_sensitive_data”"
    assert admit([row("Привет", "Здравствуйте!")], [], [], [FORECAST]).refused == ()


@pytest.mark.parametrize(("change", "says"), [
    ({"kind": "odd"}, "must be call or text"), ({"count": 0}, "1 to 500, not 0"), ({"count": 501}, "not 501"), ({"language": " "}, "Name the language"),
    ({"topic": "x" * 501}, "topic is too long"),
])
def test_what_can_t_be_asked_for_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        make_request(**{"tool": PRIVATE, "kind": "call", "language": "Russian", "topic": "", "count": 3} | change)


def test_a_symbol_makes_a_short_request_another():
    assert len(admit([row("C"), row("C++?"), row("c!")], [], []).rows) == 2


@pytest.mark.parametrize(("text", "asked", "cut"), [
    ('{"rows": [{"request": "a"}, {"request": "b"}, {"request": "Как', ["a", "b"], ["Как"]), ('{"rows": [{"request": "a"}, {"req', ["a"], ['{"req']),
    ('{"rows": [{"request": "a"}, ', ["a"], []), ('{"rows": [{"request": "a"}', ["a"], []), ('{"rows": [{"request": "a"}]', ["a"], []),
    ('{"rows": [', [], [""]), ('```json\n{"rows": [{"request": "a"}, {"request": "b\\', ["a"], ["b"]), ('{"rows": [{"request": "a"}, {"request": "b"', ["a"], ["b"]),
])  # fmt: skip
def test_whole_rows_before_the_end_of_a_cut_reply_are_read(text: str, asked: list[str], cut: list[str]) -> None:
    rows, refused = read_reply(text, CALLS)
    assert [r.request for r in rows] == asked
    assert refused == [module.Refused(request, module.CUT) for request in cut]


@pytest.mark.parametrize("text", [
    '{"rows": [{"request": "a"} {"request": "b"}', '{"rows": [{"request": "a"}, {"request": b}, {"requ', '{"rows": [{"request": "a"}}', '{"rows": [{"request": "a"}] and so on',
    '{"rows": [{"request": "a"}, 12', '{"rows": [{"request": "a", "request": "b"}, {"requ', '{"more": 1, "rows": [{"request": "a"}, {"re', '{"rows": [{"request": NaN}, {"re',
])  # fmt: skip
def test_a_reply_that_is_wrong_rather_than_cut_is_refused_whole(text: str) -> None:
    rows, refused = read_reply(text, CALLS)
    assert rows == [] and len(refused) == 1 and refused[0].reason.startswith("the reply is not valid JSON")
