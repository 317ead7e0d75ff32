"""Rows in files: every bad input gets its line, field and reason; every good one comes back whole."""

import json
import os
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.calls.dialects import message_text
from workbench.dataset import formats, strict
from workbench.dataset.formats import (
    decode,
    dump_jsonl,
    dump_row,
    load_rows,
    parse_jsonl,
    parse_row,
    read_text,
    refuse_problems,
    row_tools,
    rows_hash,
)
from workbench.errors import DataError, RowError
from workbench.schema import Example, Message, RowProblem, ToolCall, ToolSpec

CALL = '<tool_call name="get_sensitive_data" arguments="{}"/>'
USER = {"role": "user", "content": "Какой у меня баланс?"}
ANSWER = {"role": "assistant", "content": CALL}
ROW = {"messages": [USER, ANSWER]}


def nested(depth: int):
    """Lists inside each other, `depth` of them."""
    value: list = []
    for _ in range(depth - 1):
        value = [value]
    return value


def line_of(value) -> str:
    return json.dumps(value, ensure_ascii=False)


def problem_with(text: str) -> tuple[str, str]:
    """The field and the reason of the only problem in a text of one line, and that the row is not used."""
    loaded = parse_jsonl(text)
    assert loaded.rows == ()
    (problem,) = loaded.problems
    assert problem.line == 1
    return problem.field, problem.reason


def with_answer(**keys) -> str:
    return line_of({"messages": [USER, {"role": "assistant"} | keys]})


def with_call(call) -> str:
    return with_answer(tool_calls=[call])


@pytest.mark.parametrize(
    ("text", "field", "reason"),
    [
        ("{", "line", "not valid JSON: Expecting property name enclosed in double quotes at column 2"),
        ("Привет", "line", "not valid JSON: Expecting value at column 1"),
        (line_of(ROW) + line_of(ROW), "line", f"not valid JSON: Extra data at column {len(line_of(ROW)) + 1}"),
        ("[" * 200_000, "line", "not valid JSON: the nesting is deeper than 64 levels"),
        ('{"messages": ' + "9" * 10_000 + "}", "line", "not valid JSON: a whole number has 10000 digits; at most 4300 can be read"),
        ('{"messages": 1e999}', "line", "not valid JSON: the number 1e999 is too large"),
        ('{"a": {"x": 1, "y": 2, "x": 1}}', "line", 'not valid JSON: the key "x" stands twice in one object'),
        (line_of(ROW | {"a": "x" * 2**20}), "line", "the row has 1.0 MiB; at most 1 MiB can be read"),
        (line_of(ROW | {"a": nested(64)}), "a" + "[0]" * 63, "the nesting is deeper than 64 levels"),
        (line_of(ROW | {"a": {"b": ["x", "\0"]}}), "a.b[1]", "the text holds a NUL character; take it out"),
        (line_of(ROW | {"a": {"\0": 1}}), "a.\ufffd", "the text holds a NUL character; take it out"),
        (line_of(ROW | {"tools": 5}), "tools", "expected a list, or a list as JSON text, found a number"),
        (line_of(ROW | {"tools": "{}"}), "tools", "expected a list, or a list as JSON text, found an object"),
        (line_of(ROW | {"tools": "[x"}), "tools",
         "expected a list, or a list as JSON text; the text is not valid JSON: Expecting value at column 2"),
        ("[1]", "line", "expected a JSON object, found a list"),
        ("null", "line", "expected a JSON object, found null"),
        ("3", "line", "expected a JSON object, found a number"),
        ("true", "line", "expected a JSON object, found true/false"),
        ('"x"', "line", "expected a JSON object, found a text"),
        ("{}", "messages", "the key is missing; a row needs a list of messages"),
        ('{"messages": []}', "messages", "expected a non-empty list, found an empty list"),
        ('{"messages": {}}', "messages", "expected a non-empty list, found an object"),
        ('{"messages": ["x"]}', "messages[0]", "expected a JSON object, found a text"),
        ('{"messages": [{"content": "x"}]}', "messages[0].role", "the key is missing"),
        ('{"messages": [{"rolle": "user", "content": "x"}]}', "messages[0].role", 'the key is missing; "rolle" is unknown here: was "role" meant?'),
        ('{"messages": [{"Role": "user", "content": "x", "id": 1}]}', "messages[0].role", 'the key is missing; "Role" is unknown here: was "role" meant?'),
        ('{"messages": [{"speaker": "user", "content": "x", "id": 1}]}', "messages[0].role", 'the key is missing; "speaker" is unknown here: was "role" meant?'),
        ('{"messages": [{"role": "user", "text": "x"}]}', "messages[0].content", 'the key is missing; "text" is unknown here: was "content" meant?'),
        ('{"messages": [{"role": "user", "a": 1, "b": 2, "c": 3, "d": 4, "e": 5}]}', "messages[0].content",
         'the key is missing; unknown here: "a", "b", "c", "d", …'),
        (line_of({"messages": [{"role": "user", "x" * 99: 1}]}), "messages[0].content", f'the key is missing; unknown here: "{"x" * 38}…'),
        ('{"messages": [{"role": "bot", "content": "x"}]}', "messages[0].role",
         'unknown role "bot"; the roles are system, user, assistant, tool'),
        ('{"messages": [{"role": ["user"], "content": "x"}]}', "messages[0].role",
         'unknown role ["user"]; the roles are system, user, assistant, tool'),
        (line_of({"messages": [USER, {"role": "x" * 99, "content": "x"}]}), "messages[1].role",
         f'unknown role "{"x" * 38}…; the roles are system, user, assistant, tool'),
        ('{"messages": [{"role": "user"}]}', "messages[0].content", "the key is missing"),
        ('{"messages": [{"role": "user", "content": null}]}', "messages[0].content", "expected text, found null"),
        ('{"messages": [{"role": "user", "content": 5}]}', "messages[0].content", "expected text, found a number"),
        ('{"messages": [{"role": "user", "content": ["x"]}]}', "messages[0].content", "expected text, found a list"),
        ('{"messages": [{"role": "user", "content": " \\n\\t"}]}', "messages[0].content", "the text is empty"),
        ('{"messages": [{"role": "user", "content": "a\\ud83d"}]}', "messages[0].content",
         "the text holds half a character (a lone surrogate); type it again"),
        (line_of({"messages": [ANSWER]}), "messages", "there is no user turn"),
        (line_of({"messages": [USER]}), "messages[0].role", "the last turn must be the assistant's: it is what the row teaches"),
        (line_of({"messages": [USER, ANSWER, USER]}), "messages[2].role",
         "the last turn must be the assistant's: it is what the row teaches"),
        (line_of(ROW | {"status": "done"}), "status", 'expected one of draft, approved, rejected, found "done"'),
        (line_of(ROW | {"status": None}), "status", "expected one of draft, approved, rejected, found null"),
        (with_answer(content="<tool_call"), "messages[1].content",
         "malformed tool call: the call breaks off before it is closed"),
        (with_answer(content='<tool_call name="x" arguments="[]"/>'), "messages[1].content",
         "malformed tool call: the arguments are not a JSON object"),
        (with_answer(content=CALL, tool_calls="x"), "messages[1].tool_calls", "expected a list, found a text"),
        (with_call("x"), "messages[1].tool_calls[0]", "the call has no function name"),
        (with_call({"function": {"arguments": "{}"}}), "messages[1].tool_calls[0]", "the call has no function name"),
        (with_call({"function": "x"}), "messages[1].tool_calls[0]", "the call has no function name"),
        (with_call({"name": " "}), "messages[1].tool_calls[0]", "the call has no function name"),
        (with_call({"name": "x", "arguments": "{"}), "messages[1].tool_calls[0].arguments", "the arguments are not valid JSON"),
        (with_call({"name": "x", "arguments": "[]"}), "messages[1].tool_calls[0].arguments",
         "expected a JSON object, found an empty list"),
        (with_call({"name": "x", "arguments": 1}), "messages[1].tool_calls[0].arguments",
         "expected a JSON object, found a number"),
        (with_answer(tool_calls=[]), "messages[1].content", "the key is missing"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named_by_field_and_reason(text, field, reason):
    assert problem_with(text) == (field, reason)


def test_arguments_nested_too_deep_are_a_problem_not_a_crash():
    deep = with_call({"name": "x", "arguments": "[" * 200_000})
    assert problem_with(deep) == ("messages[1].tool_calls[0].arguments", "the arguments are not valid JSON: the nesting is deeper than 64 levels")


@pytest.mark.parametrize(("arguments", "detail"), [
    ('{"a": NaN}', ": NaN is not a JSON number"), ('{"a": -1e999}', ": the number -1e999 is too large"),
    ('{"a": 1, "a": 2}', ': the key "a" stands twice in one object'), ("{'a': 1}", ""),
    ('{"a": ' + "1" * 5000 + "}", ": a whole number has 5000 digits; at most 4300 can be read"),
])  # fmt: skip
def test_the_arguments_text_is_held_to_the_same_rules(arguments, detail):
    assert problem_with(with_call({"name": "x", "arguments": arguments})) == (
        "messages[1].tool_calls[0].arguments", f"the arguments are not valid JSON{detail}",
    )  # fmt: skip


def test_arguments_written_in_the_tag_are_held_to_the_depth():
    tag = '<tool_call name="x" arguments="{&quot;a&quot;: ' + "[" * 64 + "]" * 64 + '}"/>'
    assert problem_with(with_answer(content=tag)) == (
        "messages[1].content: arguments of x.a" + "[0]" * 63, "the nesting is deeper than 64 levels",
    )  # fmt: skip


def test_values_that_no_file_can_hold_are_refused_by_field():
    for value, field, reason in [
        ({1: 2}, "x", "the key \"1\" is not a text"), (float("inf"), "x", "inf is not a JSON number"), (10**4301, "x", "a whole number has more than 4300 digits"),
        ([b"x"], "x[0]", "bytes is no JSON value"),
    ]:  # fmt: skip
        with pytest.raises(RowError) as caught:
            parse_row(ROW | {"x": value})
        assert (caught.value.field, caught.value.reason) == (field, reason)


def test_more_rows_or_values_than_can_be_held_are_refused_at_once(monkeypatch):
    monkeypatch.setattr(strict, "MAX_LINES", 3)
    with pytest.raises(DataError) as caught:
        parse_jsonl("x\n" * 4)
    assert str(caught.value) == "There are more than 3 rows: split the file into smaller ones."
    assert len(parse_jsonl("x\n\n" * 3).problems) == 3
    monkeypatch.setattr(formats, "MAX_VALUES", 10)
    with pytest.raises(DataError) as caught:
        parse_jsonl(line_of(ROW | {"x": [1] * 10}))
    assert str(caught.value) == "The file holds more than 2,500,000 objects and items, too many to read at once: split it into smaller files."


def test_a_number_that_json_does_not_know_is_a_problem():
    field, reason = problem_with(line_of(ROW)[:-1] + ', "score": NaN}')
    assert (field, reason.startswith("not valid JSON")) == ("line", True)


@pytest.mark.parametrize(
    "text",
    [json.dumps({"messages": [USER, {"role": "assistant", "tool_calls": [{"name": "x", "arguments": {"a": "\ud83d"}}]}]}),
     json.dumps(ROW | {"note": "\ud83d"}), json.dumps({"messages": [USER | {"name": "\ud83d"}, ANSWER]})],
)  # fmt: skip
def test_a_row_that_is_let_in_can_be_written_out(text):
    """Half a character anywhere is either named as a problem or written again without a crash."""
    loaded = parse_jsonl(text)
    assert len(loaded.rows) + len(loaded.problems) == 1
    assert parse_jsonl(dump_jsonl(loaded.rows).encode("utf-8").decode("utf-8")).rows == loaded.rows


def test_each_problem_has_its_own_line_and_no_good_row_is_lost():
    loaded = parse_jsonl("\n".join([line_of(ROW), "", "x", line_of(ROW | {"status": "approved"}), "  ", "{}", ""]))
    assert [row.status for row in loaded.rows] == ["draft", "approved"]
    assert loaded.lines == (1, 4)
    assert [(p.line, p.field) for p in loaded.problems] == [(3, "line"), (6, "messages")]
    assert str(RowProblem(4, "line", "not valid JSON")) == "line 4: not valid JSON"
    assert str(loaded.problems[1]) == "line 6, messages: the key is missing; a row needs a list of messages"


def test_an_empty_text_holds_nothing():
    assert parse_jsonl("") == parse_jsonl("\n \n\n") == formats.Loaded((), (), ())


def test_a_row_is_read_whole():
    system = {"role": "system", "content": "Помогай."}
    value = {"id": 7, "messages": [system, USER | {"name": "Аня"}, ANSWER], "status": "approved", "tags": ["a"]}
    assert parse_row(value) == Example(
        (Message("system", "Помогай."), Message("user", "Какой у меня баланс?", (), {"name": "Аня"}), Message("assistant", CALL)),
        "approved", extras={"id": 7, "tags": ["a"]},
    )  # fmt: skip


@pytest.mark.parametrize("arguments", ['{"город": "Ростов"}', {"город": "Ростов"}])
@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}])
def test_arguments_as_text_or_as_object_are_the_same_call(arguments, content):
    call = {"id": "c1", "type": "function", "function": {"name": "x", "arguments": arguments}}
    row = parse_row({"messages": [USER, {"role": "assistant", "tool_calls": [call]} | content]})
    answer = row.answer
    assert (answer.content, [(c.name, c.arguments, c.id) for c in answer.tool_calls]) == ("", [("x", {"город": "Ростов"}, "c1")])
    assert answer.tool_calls[0].as_text is isinstance(arguments, str)
    assert message_text(answer) == '<tool_call name="x" arguments="{&quot;город&quot;: &quot;Ростов&quot;}"/>'


def test_a_flat_call_without_arguments_is_read():
    row = parse_row({"messages": [USER, {"role": "assistant", "tool_calls": [{"name": "x"}]}]})
    (call,) = row.answer.tool_calls
    assert (call.name, call.arguments, call.id) == ("x", {}, None)


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "tool_calls": [{"id": "", "type": "function", "function": {"name": "x", "arguments": '{"a":1}', "strict": True}, "index": 0}]},
        {"tool_calls": [{"function": {"name": "x", "arguments": {"a": 1.0}}}]},
        {"content": "", "tool_calls": [{"name": "x", "arguments": "{}", "function_id": 3}]},
        {"content": "t", "tool_calls": [{"id": 5, "type": "custom", "function": {"name": "x"}}, {"id": None, "type": None, "name": "y"}]},
        {"content": "t", "tool_calls": None},
        {"content": "t", "tool_calls": [], "#form": {"content": "absent"}},
        {"content": "t", "tool_calls": [{"name": "x", "#form": {"flat": True}}]},
    ],
)
def test_every_form_of_a_call_comes_back_as_it_was(message):
    value = {"messages": [USER, {"role": "assistant"} | message, ANSWER]}
    assert json.dumps(dump_row(parse_row(value)), sort_keys=True) == json.dumps(value, sort_keys=True)


def test_a_changed_call_is_not_written_in_its_old_wording():
    row = parse_row({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{"name": "x", "arguments": '{"a":1}'}]}]})
    call = replace(row.answer.tool_calls[0], arguments={"a": 2})
    assert dump_row(Example((row.messages[0], replace(row.answer, content="t", tool_calls=(call,)))))["messages"][1] == {
        "role": "assistant", "content": "t", "tool_calls": [{"name": "x", "arguments": '{"a": 2}'}],
    }  # fmt: skip


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


@pytest.mark.parametrize("as_text", [False, True])
def test_a_row_s_tools_are_read_as_names_and_specifications(as_text):
    tools = ["a", {"type": "function", "function": {"name": "b", "description": "B", "parameters": SCHEMA}}, {"name": "c"}, {"name": ""}, 5]
    value = ROW | {"tools": line_of(tools) if as_text else tools}
    row = parse_row(value)
    assert row_tools(row) == ("a", ToolSpec("b", "B", SCHEMA), ToolSpec("c"))
    assert dump_row(row) == value
    with pytest.raises(RowError) as caught:
        row_tools(row, strict=True)
    assert (caught.value.field, caught.value.reason) == ("tools[3]", "the tool has no name")


def test_a_row_without_tools_has_none():
    assert row_tools(parse_row(ROW)) == row_tools(parse_row(ROW | {"tools": None})) == row_tools(parse_row(ROW | {"tools": " "})) == ()


def test_a_call_is_written_as_the_chat_format_has_it():
    row = Example((Message("user", "x"), Message("assistant", "", (ToolCall("x", {"город": "Р"}, "c1"), ToolCall("y")))))
    assert dump_row(row)["messages"][1] == {
        "role": "assistant", "content": "", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "x", "arguments": '{"город": "Р"}'}},
            {"type": "function", "function": {"name": "y", "arguments": "{}"}},
        ],
    }  # fmt: skip


def test_a_draft_is_written_without_a_status_and_the_file_s_other_keys_stay():
    row = parse_row(ROW | {"status": "draft", "id": 7})
    assert dump_row(row) == ROW | {"id": 7}
    assert dump_row(replace(row, status="rejected"))["status"] == "rejected"
    assert dump_jsonl([row]) == line_of(ROW | {"id": 7}) + "\n"
    assert dump_jsonl([]) == ""


def test_the_hash_is_that_of_the_rows_as_they_would_be_written():
    rows = [parse_row(ROW), parse_row(ROW | {"status": "approved"})]
    assert rows_hash(rows) == sha256(dump_jsonl(rows).encode()).hexdigest()
    assert rows_hash(rows) != rows_hash(rows[:1])


def test_line_separators_inside_a_string_end_no_line():
    text = "раз\u2028два\u2029три\u0085четыре\x0b"
    loaded = parse_jsonl(line_of({"messages": [USER | {"content": text}, ANSWER]}).replace("\\u000b", "\x0b") + "\n")
    assert loaded.problems[0].reason.startswith("not valid JSON: Invalid control character")
    loaded = parse_jsonl(line_of({"messages": [USER | {"content": text}, ANSWER]}) + "\n" + line_of(ROW))
    assert (loaded.lines, loaded.rows[0].request) == ((1, 2), text)


def test_crlf_lines_are_read_like_lf_lines():
    text = f"{line_of(ROW)}\n\nx\n{line_of(ROW)}\n"
    assert parse_jsonl(text.replace("\n", "\r\n")) == parse_jsonl(text)


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path):
    (tmp_path / "f").write_bytes(b"\xef\xbb\xbf" + line_of(ROW).encode())
    assert load_rows(tmp_path / "f").rows == (parse_row(ROW),)


def test_another_encoding_is_named_with_its_line(tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_bytes(line_of(ROW).encode() + b"\n" + line_of(ROW).encode("cp1251"))
    with pytest.raises(DataError) as caught:
        load_rows(path)
    assert str(caught.value) == f"{path} is not UTF-8 (line 2): save it as UTF-8 and try again."


@pytest.mark.parametrize(
    ("raw", "line"),
    [("Привет".encode("utf-16"), 1), (b"a\nb\n\xff", 3), (b"\n\n\xd0", 3), (b"\xef\xbb\xbfa\n\xff", 2), (b"\xef\xbb\xbf\xff", 1)],
)
def test_the_first_bad_byte_s_line_is_named(raw, line):
    with pytest.raises(DataError, match=rf"^f is not UTF-8 \(line {line}\)"):
        decode(raw, "f")


def test_a_missing_file_a_folder_and_a_huge_file_are_told(tmp_path, monkeypatch):
    (tmp_path / "big").write_text("x" * 11)
    monkeypatch.setattr(formats, "MAX_FILE_BYTES", 10)
    for name, sentence in {
        "none": "{} does not exist. Check the path.",
        ".": "{} is a folder: give a file of JSON lines.",
        "big": "{} is larger than 0 MiB: split it into smaller files.",
    }.items():
        with pytest.raises(DataError) as caught:
            read_text(tmp_path / name)
        assert str(caught.value) == sentence.format(tmp_path / name)


def test_a_file_without_the_right_to_read_is_not_said_to_be_unwritable(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, os.strerror(13))

    (tmp_path / "f").write_text("x")
    monkeypatch.setattr(type(tmp_path), "read_bytes", refuse)
    with pytest.raises(DataError) as caught:
        read_text(tmp_path / "f")
    assert "permission" in str(caught.value)
    assert "write" not in str(caught.value)


def test_problems_are_refused_with_the_first_three_and_a_count():
    problems = [RowProblem(n, "messages", "bad") for n in range(1, 6)]
    with pytest.raises(DataError) as caught:
        refuse_problems(problems, "f.jsonl")
    assert str(caught.value) == (
        "f.jsonl: 5 row(s) can't be learned: line 1, messages: bad; line 2, messages: bad; line 3, messages: bad (and 2 more). "
        "Mend or delete them, then start again."
    )
    refuse_problems([], "f.jsonl")


TEXT = st.text(st.sampled_from("\u2028\r\n\"\\<>&'Яё ") | st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=15)
PLAIN = TEXT.filter(lambda t: bool(t.strip()) and "<tool_call" not in t)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6,
)  # fmt: skip
CALLS = st.lists(
    st.builds(ToolCall, st.sampled_from(["get_data", "x.y-z"]), st.dictionaries(TEXT, JSON, max_size=2), st.none() | PLAIN),
    min_size=1, max_size=2,
).map(tuple)  # fmt: skip
MESSAGE_EXTRAS = st.dictionaries(TEXT, JSON, max_size=2).map(lambda d: {f"x{k}": v for k, v in d.items()})
ANSWERS = st.builds(Message, st.just("assistant"), PLAIN, st.just(()), MESSAGE_EXTRAS) | st.builds(
    Message, st.just("assistant"), st.just("") | PLAIN, CALLS, MESSAGE_EXTRAS
)
USERS = st.builds(Message, st.just("user"), PLAIN, st.just(()), MESSAGE_EXTRAS)
ROWS = st.builds(
    lambda pairs, status, extras: Example(tuple(m for pair in pairs for m in pair), status, extras=extras),
    st.lists(st.tuples(USERS, ANSWERS), min_size=1, max_size=2), st.sampled_from(["draft", "approved", "rejected"]),
    MESSAGE_EXTRAS,
)  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(st.lists(ROWS, max_size=3))
def test_rows_come_back_from_their_file_as_they_were(rows):
    loaded = parse_jsonl(dump_jsonl(rows))
    assert (loaded.rows, loaded.problems) == (tuple(rows), ())
    assert dump_jsonl(loaded.rows) == dump_jsonl(rows)


@settings(deadline=None, max_examples=150)
@given(st.lists(TEXT | st.sampled_from([line_of(ROW), "{}", "\n", '{"messages": [', "]}"]), max_size=12).map("".join))
def test_any_text_is_read_without_a_crash_and_every_line_is_accounted_for(text):
    loaded = parse_jsonl(text)
    written = [n for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    assert sorted([*loaded.lines, *(p.line for p in loaded.problems)]) == written
