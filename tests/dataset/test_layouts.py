"""Other people's records: each layout as a row, and every problem named by the record's own field."""

import json

import pytest

from workbench.calls.dialects import message_text
from workbench.dataset.formats import dump_row
from workbench.dataset.layouts import detect, read_record
from workbench.errors import RowError

CALL = {"name": "get_weather", "arguments": {"city": "Ростов"}}
TAG = '<tool_call name="get_weather" arguments="{&quot;city&quot;: &quot;Ростов&quot;}"/>'
HERMES = f"<tool_call>\n{json.dumps(CALL, ensure_ascii=False)}\n</tool_call>"


def said(row):
    """Each turn's role and what the model reads there."""
    return [(m.role, message_text(m)) for m in row.messages]


def read(record):
    return read_record(record, detect(record))


def shared(*turns, **more):
    return {"conversations": [{"from": sender, "value": value} for sender, value in turns]} | more


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


@pytest.mark.parametrize(
    ("record", "layout", "turns"),
    [
        ({"messages": [user("q"), assistant("a")]}, "chat", [("user", "q"), ("assistant", "a")]),
        ({"messages": json.dumps([user("q"), assistant("a")])}, "chat", [("user", "q"), ("assistant", "a")]),
        ({"messages": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "sharegpt", [("user", "q"), ("assistant", "a")]),
        ({"conversations": [user("q"), assistant("a")]}, "sharegpt", [("user", "q"), ("assistant", "a")]),
        (shared(("system", "s"), ("human", "q"), ("gpt", "a")), "sharegpt", [("system", "s"), ("user", "q"), ("assistant", "a")]),
        (shared(("human", "q"), ("gpt", "a"), system="s"), "sharegpt", [("system", "s"), ("user", "q"), ("assistant", "a")]),
        (shared(("human", "q"), ("gpt", "a"), system=""), "sharegpt", [("user", "q"), ("assistant", "a")]),
        (shared(("user", "q"), ("function_call", json.dumps(CALL)), ("observation", "5"), ("gpt", "a")), "sharegpt",
         [("user", "q"), ("assistant", TAG), ("tool", "5"), ("assistant", "a")]),
        (shared(("human", "q"), ("function_call", json.dumps([CALL, CALL]))), "sharegpt", [("user", "q"), ("assistant", f"{TAG}\n{TAG}")]),
        (shared(("human", "q"), ("gpt", f"Сейчас.\n{HERMES}\n{HERMES}")), "sharegpt", [("user", "q"), ("assistant", f"Сейчас.\n{TAG}\n{TAG}")]),
        ({"messages": [user("q"), assistant(HERMES)]}, "chat", [("user", "q"), ("assistant", TAG)]),
        ({"instruction": "q", "input": "", "output": "a"}, "alpaca", [("user", "q"), ("assistant", "a")]),
        ({"instruction": "q", "input": "x", "output": "a", "system": "s", "history": [["1", "2"]]}, "alpaca",
         [("system", "s"), ("user", "1"), ("assistant", "2"), ("user", "q\nx"), ("assistant", "a")]),
        ({"instruction": "q", "context": "x", "response": "a"}, "alpaca", [("user", "q\nx"), ("assistant", "a")]),
        ({"request": "q", "answer": "a"}, "pairs", [("user", "q"), ("assistant", "a")]),
        ({"Prompt": "q", "Completion": "a", "system": "s"}, "pairs", [("system", "s"), ("user", "q"), ("assistant", "a")]),
        ({"Вопрос": "q", "Ответ": "a"}, "pairs", [("user", "q"), ("assistant", "a")]),
        ({"input": "q", "output": "a"}, "pairs", [("user", "q"), ("assistant", "a")]),
        ({"prompt": [user("q")], "completion": [assistant("a")]}, "pairs", [("user", "q"), ("assistant", "a")]),
        ({"query": "q", "answers": json.dumps([CALL])}, "calls", [("user", "q"), ("assistant", TAG)]),
        ({"query": "q", "answers": [{"type": "function", "function": CALL}]}, "calls", [("user", "q"), ("assistant", TAG)]),
    ],
)  # fmt: skip
def test_each_layout_becomes_a_row(record, layout, turns):
    assert detect(record) == layout
    assert said(read(record)) == turns


@pytest.mark.parametrize(
    "record",
    [shared(("human", "q"), ("gpt", "a")), {"instruction": "q", "output": "a"}, {"question": "q", "response": "a"}, {"query": "q", "answers": [CALL]}],
)
def test_the_record_s_other_keys_stay(record):
    more = {"id": 7, "tools": json.dumps([{"name": "get_weather"}]), "nested": {"a": [1, None]}}
    row = read(record | more | {"status": "approved", "note": "n", "pin": "train", "source": "s"})
    assert (row.status, row.note, row.pin, row.source, row.extras) == ("approved", "n", "train", "s", more)


def test_a_turn_s_other_keys_stay():
    row = read({"conversations": [{"from": "human", "value": "q", "weight": 0}, {"from": "gpt", "value": "a", "loss": True}]})
    assert [m.extras for m in row.messages] == [{"weight": 0}, {"loss": True}]


def test_a_shared_call_keeps_its_other_keys():
    row = read(shared(("human", "q"), ("function_call", json.dumps(CALL | {"id": "c1"}))))
    (call,) = row.answer.tool_calls
    assert (call.name, call.arguments, call.as_text, call.extras["function"]) == ("get_weather", {"city": "Ростов"}, False, {"id": "c1"})
    assert dump_row(row)["messages"][1]["tool_calls"] == [{"type": "function", "function": CALL | {"id": "c1"}}]


@pytest.mark.parametrize(
    ("record", "field", "reason"),
    [
        ([1], "line", "expected a JSON object, found a list"),
        ({"a": 1, "b": 2}, "line", "no conversation was found: expected messages, conversations, instruction and output, or request and answer; the keys are a, b"),
        ({}, "line", "no conversation was found: expected messages, conversations, instruction and output, or request and answer; the keys are none"),
        (shared(("martian", "q")), "conversations[0].from",
         'unknown sender "martian"; the senders are system, human, user, gpt, assistant, chatgpt, model, bot, function_call, tool_call, observation, tool, function_response'),
        ({"conversations": [{"from": "human"}]}, "conversations[0].value", "the key is missing"),
        ({"conversations": [{"from": "human", "velue": "q"}]}, "conversations[0].value", 'the key is missing; "velue" is unknown here: was "value" meant?'),
        ({"conversations": [{"rolle": "user", "content": "q"}]}, "conversations[0].role", 'the key is missing; "rolle" is unknown here: was "role" meant?'),
        ({"conversations": [{"from": "human", "value": 5}]}, "conversations[0].value", "expected text, found a number"),
        ({"conversations": []}, "conversations", "expected a non-empty list, found an empty list"),
        ({"conversations": ["x"]}, "conversations[0].content", "expected a JSON object, found a text"),
        (shared(("human", "q"), ("gpt", " ")), "conversations[1].value", "the text is empty"),
        (shared(("human", "q"), ("function_call", "x")), "conversations[1].value", "the call is not valid JSON: Expecting value at column 1"),
        (shared(("human", "q"), ("function_call", "[]")), "conversations[1].value", "expected a call as a JSON object, found an empty list"),
        (shared(("human", "q"), ("function_call", "{}")), "conversations[1].value.tool_calls[0]", "the call has no function name"),
        (shared(("human", "q"), ("gpt", "<tool_call>{broken}</tool_call>")), "conversations[1].value",
         'malformed tool call: the tag does not have the form name="…" arguments="…"/>'),
        (shared(("human", "q")), "conversations[0].from", "the last turn must be the assistant's: it is what the row teaches"),
        ({"instruction": "q", "output": ""}, "output", "the text is empty"),
        ({"instruction": "", "output": "a"}, "instruction", "the text is empty"),
        ({"instruction": 5, "output": "a"}, "instruction", "expected text, found a number"),
        ({"instruction": "q", "output": "a", "history": [["x"]]}, "history[0]", "expected a list of two texts, the request and the answer"),
        ({"instruction": "q", "output": "a", "history": [["x", None]]}, "history[0][1]", "expected text, found null"),
        ({"instruction": "q", "output": "a", "history": 5}, "history", "expected a list, found a number"),
        ({"question": "q", "response": None}, "response", "expected text, found null"),
        ({"Запрос": "", "Ответ": "a"}, "Запрос", "the text is empty"),
        ({"request": "q", "answer": "<tool_call"}, "answer", "malformed tool call: the call breaks off before it is closed"),
        ({"request": "q", "answer": "a", "status": "done"}, "status", 'expected one of draft, approved, rejected, found "done"'),
        ({"query": "q", "answers": "[]"}, "answers", "expected a list of calls, found an empty list"),
        ({"query": "q", "answers": "[{"}, "answers",
         "the text is not valid JSON: Expecting property name enclosed in double quotes at column 3"),
        ({"query": "q", "answers": [{"arguments": {}}]}, "answers.tool_calls[0]", "the call has no function name"),
        ({"messages": "[x"}, "messages", "the text is not valid JSON: Expecting value at column 2"),
        ({"messages": [assistant("a")]}, "messages", "there is no user turn"),
    ],
)  # fmt: skip
def test_a_problem_is_named_by_the_record_s_own_field(record, field, reason):
    with pytest.raises(RowError) as caught:
        read(record)
    assert (caught.value.field, caught.value.reason) == (field, reason)


def test_a_million_tags_that_never_close_are_told_quickly():
    content = "<tool_call>" * 90_000
    with pytest.raises(RowError) as caught:
        read({"messages": [user("q"), assistant(content)]})
    assert caught.value.field == "messages[1].content"
