"""The tag dialect: exact text out, typed segments back, and nothing lost or guessed."""

import json
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workbench.calls.dialects import (
    DIALECTS,
    TAG,
    CallSegment,
    MalformedSegment,
    TextSegment,
    calls_in,
    message_calls,
    message_text,
    verdict,
)
from workbench.schema import Message, ToolCall

CALL = '<tool_call name="get_sensitive_data" arguments="{}"/>'
NO_FORM = 'the tag does not have the form name="…" arguments="…"/>'
BROKEN_OFF = "the call breaks off before it is closed"
NO_OBJECT = "the arguments are not a JSON object"

PIECES = st.sampled_from(
    ["<tool_call", CALL, ' name="', "x", '"', "'", "\\", "&quot;", "&amp;", "&", " arguments=", '="{}"', "{", "}", "/>", ">", "<",
     " ", "\n", "\u2028", "Привет", "{&quot;a&quot;: 1}", '{\\"a\\": 1}', "&#34;"]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=25).map("".join) | st.text(max_size=60)
LETTERS = st.text(st.sampled_from("аёЯ\"'<>&;\\/\n\t\u2028 q=") | st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | LETTERS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(LETTERS, inner, max_size=3), max_leaves=8,
)  # fmt: skip
OBJECTS = st.dictionaries(LETTERS, VALUES, max_size=4)


def the_call(text: str) -> ToolCall:
    (segment,) = TAG.parse(text)
    assert isinstance(segment, CallSegment), segment
    assert segment.raw == text
    return segment.call


def reasons(text: str) -> list[str]:
    return [s.reason for s in TAG.parse(text) if isinstance(s, MalformedSegment)]


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ({}, "{}"),
        ({"город": "Ростов"}, "{&quot;город&quot;: &quot;Ростов&quot;}"),
        ({"q": 'a"b'}, "{&quot;q&quot;: &quot;a\\&quot;b&quot;}"),
        ({"q": "<b>&amp;"}, "{&quot;q&quot;: &quot;&lt;b&gt;&amp;amp;&quot;}"),
        ({"q": "\\"}, "{&quot;q&quot;: &quot;\\\\&quot;}"),
        ({"q": "it's\n"}, "{&quot;q&quot;: &quot;it's\\n&quot;}"),
        ({"n": [1, 2.5, None, True]}, "{&quot;n&quot;: [1, 2.5, null, true]}"),
    ],
)
def test_a_call_is_written_exactly(arguments, written):
    call = ToolCall("get_sensitive_data", arguments)
    assert TAG.render(call) == f'<tool_call name="get_sensitive_data" arguments="{written}"/>'


def test_the_tag_is_the_first_dialect():
    assert next(iter(DIALECTS.items())) == ("tag", TAG)
    assert TAG.render(ToolCall("get_sensitive_data")) == CALL


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        (CALL, {}),
        ('<tool_call\n\tname="get_sensitive_data"   arguments="{}"  />', {}),
        ('<tool_call name="get_sensitive_data" arguments=\'{"a": 1}\'/>', {"a": 1}),
        ('<tool_call name="get_sensitive_data" arguments="{\\"a\\": \\"b\\"}"/>', {"a": "b"}),
        ('<tool_call name="get_sensitive_data" arguments="{&quot;a&quot;: &quot;b&quot;}"/>', {"a": "b"}),
        ('<tool_call name="get_sensitive_data" arguments="{&#34;a&#34;: &quot;я&amp;я&quot;}"/>', {"a": "я&я"}),
        ('<tool_call name="get_sensitive_data" arguments=" {} "/>', {}),
        ('<tool_call name="get_sensitive_data" arguments="{\n}"/>', {}),
    ],
)
def test_the_ways_people_write_a_call_are_read(text, arguments):
    assert the_call(text) == ToolCall("get_sensitive_data", arguments)


@pytest.mark.parametrize("name", ["a", "_x", "get.data-2", "a" * 128])
def test_a_tool_s_name_is_read(name):
    assert the_call(f'<tool_call name="{name}" arguments="{{}}"/>').name == name


@pytest.mark.parametrize("name", ["", " get", "get data", "2x", "a/b", "a" * 129])
def test_what_is_not_a_name_makes_the_call_malformed(name):
    text = f'<tool_call name="{name}" arguments="{{}}"/>'
    assert TAG.parse(text) == (MalformedSegment(text, f"the tool's name {name[:40]!r} is not a name"),)


@pytest.mark.parametrize(
    "arguments",
    ["", "[]", "1", "null", "{", "{a: 1}", "{&quot;a&quot;: NaN}", "{&quot;a&quot;: -Infinity}", "{} {}", "{&quot;a&quot;: 1,}"]
)
def test_arguments_that_are_no_json_object_make_the_call_malformed(arguments):
    text = f'<tool_call name="x" arguments="{arguments}"/>'
    assert TAG.parse(text) == (MalformedSegment(text, NO_OBJECT),)


@pytest.mark.parametrize(
    "arguments", ["[" * 200_000, "{&quot;a&quot;: " + "[" * 200_000, "{&quot;a&quot;: " + "9" * 10_000 + "}"],
    ids=["deep", "deep inside", "long number"],
)  # fmt: skip
def test_arguments_too_deep_or_too_long_to_read_are_malformed_not_a_crash(arguments):
    assert reasons(f'<tool_call name="x" arguments="{arguments}"/>') == [NO_OBJECT]


@pytest.mark.parametrize(
    "text",
    ["<tool_call>", "<tool_calls/>", "<tool_call/>", '<tool_call name="x"/>', '<tool_call name=x arguments="{}"/>',
     '<tool_call arguments="{}" name="x"/>', '<tool_call name="x" arguments="{}">', '<tool_call name="x"arguments="{}"/>',
     '<tool_call name="x" arguments="{}" id="1"/>',
     '<tool_call name="x" arguments="{"a": 1}"/>', '<tool_call name="x" arguments={}/>', '<tool_call {"name": "x"}</tool_call>'],
)  # fmt: skip
def test_a_tag_of_another_form_is_malformed(text):
    assert TAG.parse(text) == (MalformedSegment(text, NO_FORM),)


@pytest.mark.parametrize("end", range(len("<tool_call"), len(CALL)))
def test_a_call_that_is_half_written_is_malformed_wherever_it_stops(end):
    assert TAG.parse(CALL[:end]) == (MalformedSegment(CALL[:end], BROKEN_OFF),)


@pytest.mark.parametrize("end", range(1, len("<tool_call")))
def test_less_than_the_opening_is_only_text(end):
    assert TAG.parse(CALL[:end]) == (TextSegment(CALL[:end]),)


def test_a_half_written_call_does_not_swallow_the_next_one():
    broken = '<tool_call name="x" arguments={'
    whole = CallSegment(CALL, ToolCall("get_sensitive_data"))
    assert TAG.parse(f"{broken}{CALL}") == (MalformedSegment(broken, BROKEN_OFF), whole)


def test_text_around_calls_is_kept():
    assert TAG.parse(f"До {CALL}\n{CALL} после <b>") == (
        TextSegment("До "), CallSegment(CALL, ToolCall("get_sensitive_data")), TextSegment("\n"),
        CallSegment(CALL, ToolCall("get_sensitive_data")), TextSegment(" после <b>"),
    )  # fmt: skip


@pytest.mark.parametrize("text", ["tool_call", "<Tool_Call/>", "< tool_call/>", "&lt;tool_call/&gt;", "{}", "Привет!"])
def test_what_does_not_open_a_tag_is_text(text):
    assert TAG.parse(text) == (TextSegment(text),)


def test_no_text_has_no_segments():
    assert TAG.parse("") == ()


@settings(deadline=None, max_examples=400)
@given(TEXTS)
@example(CALL[:-1] + CALL)
def test_the_segments_join_to_the_exact_text(text):
    segments = TAG.parse(text)
    assert "".join(s.raw for s in segments) == text
    assert all(s.raw for s in segments)


@settings(deadline=None, max_examples=200)
@given(TEXTS)
def test_every_opening_becomes_a_call_or_a_malformed_piece(text):
    for segment in TAG.parse(text):
        assert segment.raw.startswith("<tool_call") is not isinstance(segment, TextSegment)
        assert not isinstance(segment, TextSegment) or "<tool_call" not in segment.raw


@settings(deadline=None, max_examples=300)
@given(OBJECTS)
def test_any_arguments_come_back_as_they_were(arguments):
    call = ToolCall("get_sensitive_data", arguments)
    assert the_call(TAG.render(call)) == call
    assert json.loads(json.dumps(the_call(TAG.render(call)).arguments)) == arguments


@settings(deadline=None, max_examples=100)
@given(OBJECTS, OBJECTS)
def test_two_written_calls_stay_two(first, second):
    calls = (ToolCall("a", first), ToolCall("b", second))
    assert calls_in(TAG.parse("\n".join(TAG.render(c) for c in calls))) == calls


def seconds_for(text: str) -> float:
    begun = time.perf_counter()
    assert sum(len(s.raw) for s in TAG.parse(text)) == len(text)
    return time.perf_counter() - begun


@pytest.mark.parametrize(
    "unit",
    ["<tool_call", "<tool_call ", '<tool_call name="x" arguments="', "<tool_call name=\"x\" arguments='", CALL[:-2],
     '<tool_call name="x" arguments="\\', "<tool_call\n\n\n\n", '<tool_call name="'],
)  # fmt: skip
def test_a_megabyte_of_openings_takes_time_in_proportion(unit):
    small, large = unit * (2**16 // len(unit)), unit * (2**20 // len(unit))
    # 16 times the text: 16 times the time if linear, 256 times if quadratic.
    assert seconds_for(large) < 80 * max(seconds_for(small), 0.025)


@pytest.mark.parametrize("tail", ["", '"', "'", "/>", '"/>'])
@pytest.mark.parametrize("head", ['<tool_call name="x" arguments="', "<tool_call name=\"x\" arguments='", "<tool_call"])
@pytest.mark.parametrize("fill", [" ", "\\", "a", "&quot;"])
def test_a_long_unfinished_call_takes_time_in_proportion(head, fill, tail):
    small, large = (head + fill * (size // len(fill)) + tail for size in (2**16, 2**20))
    assert seconds_for(large) < 80 * max(seconds_for(small), 0.025)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Привет!", "no tool call"), ("", "no tool call"), (CALL, "tool call"), (f"Смотрю. {CALL}{CALL}", "tool call"),
        (f"{CALL}<tool_call>", "malformed call"), ("<tool_call", "malformed call"),
    ],
)  # fmt: skip
def test_the_verdict_of_a_reply(text, expected):
    assert verdict(TAG.parse(text)) == expected


def test_calls_given_beside_the_text_are_written_into_it():
    message = Message("assistant", " Сейчас. \n", (ToolCall("get_sensitive_data"), ToolCall("x", {"a": 1})))
    assert message_text(message) == f'Сейчас.\n{CALL}\n<tool_call name="x" arguments="{{&quot;a&quot;: 1}}"/>'
    assert message_calls(message) == (ToolCall("get_sensitive_data"), ToolCall("x", {"a": 1}))


def test_a_call_without_text_is_the_whole_content():
    assert message_text(Message("assistant", "  ", (ToolCall("get_sensitive_data"),))) == CALL


def test_a_malformed_call_is_no_call():
    assert message_calls(Message("assistant", f"{CALL[:-2]}> {CALL}")) == (ToolCall("get_sensitive_data"),)
    assert message_calls(Message("assistant", "Привет")) == ()
