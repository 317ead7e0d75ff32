"""What holds for every dialect: nothing lost, nothing guessed, the same result however the reply is cut, and work in proportion to its length."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workbench.calls.dialects import DIALECTS, CallSegment, DialectError, MalformedSegment, OpenSegment, TextSegment, calls_in
from workbench.schema import ToolCall

EVERY = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
PIECES = st.sampled_from(
    ["<tool_call", "<tool_call>", "</tool_call>", ' name="', "x", '"', "'", "\\", "&quot;", "&amp;", " arguments=", '="{}"', "{", "}", "[", "]",
     "(", ")", "/>", ">", "<", " ", "\n", "\u2028", "Привет", ",", ":", "1", "-1.5e3", "true", "None", "NaN", "=", '{"function": "f", "arguments": {',
     '{"name": "f", "', 'parameters": {', 'arguments": {', '"a": ', '"b"', "}}", "<start_function_call>", "<end_function_call>", "<escape>",
     "<|tool_call>", "<tool_call|>", '<|"|>', "call:", "f{", "a:", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[f(", "a=", "```tool_code",
     "```", "[{", "}]", '\\"', "\\u00e9", "\\ud800", '<tool_call name="f" arguments="{}"/>', '<tool_call>{"name": "f", "arguments": {}}</tool_call>',
     '{"function": "f", "arguments": {"a": "b"}}', '{"name": "f", "parameters": {"a": [1]}}', '[TOOL_CALLS][{"name": "f", "arguments": {}}]',
     '[TOOL_CALLS]f[ARGS]{"a": 1}', "<start_function_call>call:f{a:<escape>b<escape>}<end_function_call>", '<|tool_call>call:f{a:1}<tool_call|>',
     "[f(a=1), g(b='c')]", "```tool_code\nf(a=[1])\n```"]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=25).map("".join) | st.text(max_size=60)
CUTS = st.lists(st.integers(0, 7), min_size=1, max_size=40)

LETTERS = st.text(st.sampled_from("аёЯ\"'<>&;\\/\n\t\u2028 q={}[]():,`") | st.characters(exclude_categories=["Cs"]), max_size=12)
KEYS = st.from_regex(r"[a-zа-я_][a-zа-я0-9_]{0,8}", fullmatch=True).filter(lambda k: k not in ("as", "if", "in", "is", "or"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | LETTERS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8,
)  # fmt: skip
CALLS = st.builds(ToolCall, st.from_regex(r"[a-z_][a-z0-9_]{0,10}", fullmatch=True).filter(str.isidentifier), st.dictionaries(KEYS, VALUES, max_size=4))


def streamed(dialect, text, sizes):
    """The segments of `text` fed in pieces of these lengths, over and over, and the pictures between."""
    stream, at, told = dialect.stream(), 0, []
    for turn in range(len(sizes) * len(text)):  # a round brings a character at least
        if at >= len(text):
            break
        size = max(sizes[turn % len(sizes)], 1 if turn % len(sizes) == 0 else 0)
        told += stream.feed(text[at : at + size])
        at += size
        picture = stream.segments()
        assert "".join(s.raw for s in picture) == text[:at]
        assert all(not isinstance(s, OpenSegment) for s in picture[:-1])
        assert picture[: len(told)] == tuple(told)
    assert at >= len(text)
    closed = stream.close()
    assert closed[: len(told)] == tuple(told)
    assert stream.segments() == closed
    return closed


@EVERY
@settings(deadline=None, max_examples=150)
@given(text=TEXTS, sizes=CUTS)
@example(text="<tool_call>", sizes=[0] * 12)
@example(text="[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\", \"arguments\": {}}] t", sizes=[3])
def test_any_text_comes_back_whole_and_alike_however_it_is_cut(dialect, text, sizes):
    whole = dialect.parse(text)
    assert "".join(s.raw for s in whole) == text
    assert all(s.raw for s in whole)
    assert not any(isinstance(a, TextSegment) and isinstance(b, TextSegment) for a, b in zip(whole, whole[1:], strict=False))
    assert streamed(dialect, text, sizes) == whole
    assert streamed(dialect, text, [1]) == whole


@EVERY
@settings(deadline=None, max_examples=100)
@given(call=CALLS)
def test_a_written_call_is_read_as_it_was(dialect, call):
    try:
        text = dialect.render(call)
    except DialectError:
        assert dialect.name in ("functiongemma", "gemma4", "gemma-python")  # a marker in a text, a keyword of Python
        return
    (segment,) = dialect.parse(text)
    assert isinstance(segment, CallSegment), segment
    assert segment == CallSegment(text, call)
    assert list(segment.call.arguments) == list(call.arguments)


@EVERY
@settings(deadline=None, max_examples=60)
@given(calls=st.lists(CALLS, min_size=1, max_size=4), before=st.sampled_from(["", "Смотрю.\n", "a < b {x} [1] `c` "]), after=st.sampled_from(["", "\nГотово. </b>"]))
def test_the_calls_of_a_turn_are_read_with_the_text_around_them(dialect, calls, before, after):
    try:
        text = before + dialect.render_calls(calls) + after
    except DialectError:
        return
    segments = dialect.parse(text)
    assert calls_in(segments) == tuple(calls)
    assert not any(isinstance(s, MalformedSegment) for s in segments)
    assert segments[0].raw.startswith(before) and segments[-1].raw.endswith(after)


CALL = ToolCall("get_weather", {"город": "Ростов", "дни": 3, "tags": ["a", "b"]})


@EVERY
def test_a_call_that_streams_is_open_until_its_last_character(dialect):
    text = dialect.render(CALL)
    stream = dialect.stream()
    assert stream.segments() == ()
    for i, letter in enumerate(text[:-1]):
        assert stream.feed(letter) == ()
        (last,) = stream.segments()
        assert isinstance(last, OpenSegment) and last.raw == text[: i + 1]
    assert last.in_call
    assert stream.feed(text[-1]) + stream.close() == (CallSegment(text, CALL), CallSegment(text, CALL))
    with pytest.raises(ValueError, match="closed"):
        stream.feed("x")


@EVERY
def test_a_half_written_call_is_malformed_and_breaks_off(dialect):
    text = dialect.render(CALL)
    for end in range(len(text) * 2 // 3, len(text)):
        (segment,) = dialect.parse(text[:end])
        assert segment == MalformedSegment(text[:end], "the call breaks off before it is closed")


@EVERY
def test_a_call_after_a_half_written_one_is_still_found(dialect):
    text = dialect.render(CALL)
    for cut in range(len(text) // 2, len(text) - 1):
        segments = dialect.parse(f"{text[:cut]}\n{text}")
        assert isinstance(segments[0], MalformedSegment), (cut, segments)
        if dialect.name in ("json", "llama3-json", "mistral", "mistral-args", "gemma-python"):
            continue  # nothing but brackets closes these: what follows may stand inside of the broken one
        assert calls_in(segments) == (CALL,), cut


@EVERY
def test_ten_thousand_arguments_are_read(dialect):
    call = ToolCall("f", {f"a{i}": i for i in range(10_000)})
    assert calls_in(dialect.parse(dialect.render(call))) == (call,)


@EVERY
def test_a_megabyte_without_a_space_is_read(dialect):
    call = ToolCall("f", {"a": "я" * 2**20})
    assert calls_in(dialect.parse("x" * 2**20 + dialect.render(call))) == (call,)


def nested(depth):
    value = []
    for _ in range(depth - 1):
        value = [value]
    return ToolCall("f", {"a": value})


@EVERY
def test_nesting_is_bounded_on_both_sides(dialect):
    assert calls_in(dialect.parse(dialect.render(nested(96)))) == (nested(96),)
    with pytest.raises(DialectError, match="nested deeper than 97 levels"):
        dialect.render(nested(97))
    text = dialect.render(nested(20)).replace("[" * 19, "[" * 200_000)
    assert calls_in(dialect.parse(text)) == ()
    assert isinstance(dialect.parse(text)[0], MalformedSegment)


@EVERY
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_json_is_not_written(dialect, value):
    with pytest.raises(DialectError, match="can't write a value that is no JSON"):
        dialect.render(ToolCall("f", {"a": [value]}))


@EVERY
@pytest.mark.parametrize("name", ["", "a b", "2x", 'a"b', "a" * 129, "f(", "<escape>"])
def test_a_name_that_is_none_is_not_written(dialect, name):
    for write in (lambda: dialect.render(ToolCall(name)), lambda: dialect.render_result(ToolCall(name), "1")):
        with pytest.raises(DialectError, match=f"the dialect “{dialect.name}” can't write the tool name"):
            write()


UNITS = [
    "<tool_call", "<tool_call>", '<tool_call>{"', '<tool_call>{"a":"', '<tool_call name="x" arguments="', '{"function":', '{"function": "',
    '{"name": "f", "parameters": {"a": "', "{", "[", '{"', '["', "[[", "<|python_tag|>", "<|python_tag|>{", "[TOOL_CALLS]", "[TOOL_CALLS][",
    '[TOOL_CALLS][{"', "[TOOL_CALLS]f[ARGS]", '[TOOL_CALLS]f[ARGS]{"a":"', "<start_function_call>", "<start_function_call>call:f{a:<escape>",
    "<start_function_call>call:f{a:<escape>x", "<|tool_call>call:f{", '<|tool_call>call:f{a:<|"|>', "<escape>", "[f(", "[f(a=", '[f(a="', "[f(a='",
    "[f(a=[", "```tool_code", '```tool_code\nf(a="', "```", "[f(a=1),", '"', "\\", "'", " ", "\n", "a", "&quot;"
]  # fmt: skip


@EVERY
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("tail", ["", '"', "}]"])
def test_hostile_text_is_gone_over_a_few_times_at_most(dialect, unit, tail):
    looked = []
    for size in (2**13, 2**14):
        stream = dialect.stream()
        stream.feed(unit * (size // len(unit)) + tail)
        stream.close()
        looked.append(stream.looked)
    assert looked[1] <= 5 * 2**14 and looked[1] <= 2.2 * looked[0] + 1000
