"""Rows handed out and brought in again: what the model is taught stays to the letter, and nothing else is lost either."""

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.calls.dialects import message_text
from workbench.dataset.exports import EXPORTS, export, literal_row, openai_row
from workbench.dataset.formats import dump_row, parse_row
from workbench.dataset.imports import preview_file
from workbench.dataset.turns import FORM
from workbench.errors import DataError
from workbench.schema import Example, ToolSpec

TAG = '<tool_call name="x" arguments="{&quot;a&quot;: 1}"/>'
USER = {"role": "user", "content": "q"}
CALL = {"id": "c1", "type": "function", "function": {"name": "x", "arguments": '{"a": 1}'}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def row_with(**answer) -> Example:
    return parse_row({"messages": [USER, {"role": "assistant"} | answer]})


def taught(row):
    return [(m.role, message_text(m)) for m in row.messages]


def again(rows, style, folder, tools=None):
    """The rows after they were handed out in this style and brought in again."""
    made = export(rows, style, tools)
    path = folder / f"again{made.suffix}"
    path.write_bytes(made.data)
    preview = preview_file(path, path.name)
    assert preview.problems == 0, [str(c.problem) for c in preview.candidates if c.problem]
    return [c.row for c in preview.candidates]


def test_there_are_five_styles():
    assert {key: style.suffix for key, style in EXPORTS.items()} == {
        "rows": ".jsonl", "tag": ".jsonl", "openai": ".jsonl", "sharegpt": ".jsonl", "parquet": ".parquet",
    }  # fmt: skip
    with pytest.raises(DataError) as caught:
        export([], "xml")
    assert str(caught.value) == "There is no export 'xml': choose one of rows, tag, openai, sharegpt, parquet."


def test_literal_calls_become_tool_calls_and_back():
    literal = row_with(content=f"Сейчас.\n{TAG}\n{TAG}")
    called = openai_row(literal)
    assert dump_row(called)["messages"][1] == {
        "role": "assistant", "content": "Сейчас.", "tool_calls": [{"type": "function", "function": CALL["function"]}] * 2,
    }  # fmt: skip
    assert literal_row(called) == literal


def test_ids_and_other_keys_survive_the_way_over_literal_text():
    plain = row_with(content="t", tool_calls=[CALL, {k: CALL[k] for k in ("type", "function")}])
    assert literal_row(plain).answer.extras == {"tool_call_ids": ["c1", None]}
    assert openai_row(literal_row(plain)) == plain
    odd = row_with(content="", tool_calls=[CALL | {"index": 0}])
    assert literal_row(odd).answer.extras == {"tool_call_items": [CALL | {"index": 0}]}
    assert openai_row(literal_row(odd)) == odd


def test_ids_stay_with_their_calls_where_some_were_literal_already():
    row = row_with(content=TAG, tool_calls=[CALL])
    assert literal_row(row).answer.extras == {"tool_call_ids": [None, "c1"]}
    assert [c.id for c in openai_row(literal_row(row)).answer.tool_calls] == [None, "c1"]
    assert [c.id for c in openai_row(row).answer.tool_calls] == [None, "c1"]


def test_an_item_that_was_edited_in_the_text_is_not_brought_back():
    row = literal_row(row_with(content="", tool_calls=[CALL | {"index": 0}]))
    edited = replace(row, messages=(row.messages[0], replace(row.answer, content=TAG.replace("1", "2"))))
    (call,) = openai_row(edited).answer.tool_calls
    assert (call.arguments, call.id, call.extras) == ({"a": 2}, None, {})


@pytest.mark.parametrize(
    "content",
    [f"{TAG} и ещё", f"{TAG}\n\n{TAG}", f"а {TAG}", TAG.replace("&quot;", '\\"'), TAG.replace("/>", " />"), f"{TAG}{TAG}",
     '<tool_call name="x" arguments="{&quot;a&quot;:1}"/>', '<tool_call name="x" arguments="{&quot;a&quot;: 1E2}"/>'],
)  # fmt: skip
def test_wording_that_tool_calls_can_t_carry_stays_literal_and_is_counted(content):
    row = row_with(content=content)
    assert openai_row(row) == row
    assert export([row, row_with(content="t")], "openai").notes == (
        "1 row(s) keep a call as literal text: as tool_calls its wording would not come back to the letter.",
    )


def test_a_user_s_words_are_never_taken_for_a_call():
    row = parse_row({"messages": [{"role": "user", "content": TAG}, {"role": "assistant", "content": "a"}]})
    assert openai_row(row) == row


def test_openai_s_style_writes_the_schemas_of_tools_that_rows_name():
    row = replace(row_with(content="a"), extras={"tools": ["x", "unknown", {"name": "z"}]})
    made = export([row], "openai", {"x": ToolSpec("x", "X", SCHEMA)})
    assert json.loads(made.data)["tools"] == [
        {"type": "function", "function": {"name": "x", "description": "X", "parameters": SCHEMA}}, "unknown", {"name": "z"},
    ]  # fmt: skip
    assert made.notes == ("Not in data/tools.json, so only named: unknown.",)
    as_text = replace(row, extras={"tools": '["x"]'})
    assert json.loads(export([as_text], "openai", {"x": ToolSpec("x", "X", SCHEMA)}).data)["tools"][0]["function"]["name"] == "x"


def test_openai_s_style_is_openai_s_form():
    row = row_with(content=None, tool_calls=[{"name": "x", "arguments": {"a": 1}}])
    assert dump_row(openai_row(row))["messages"][1] == {
        "role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "x", "arguments": '{"a": 1}'}}],
    }  # fmt: skip


def test_openai_s_style_gives_every_call_an_id_and_every_result_its_call_s(tmp_path):
    bare = {k: CALL[k] for k in ("type", "function")}
    row = parse_row({"messages": [
        USER, {"role": "assistant", "content": "", "tool_calls": [bare, CALL, bare]}, {"role": "tool", "content": "5"}, {"role": "tool", "content": "6"},
        {"role": "tool", "content": "7", "tool_call_id": "own"}, {"role": "tool", "content": "8"}, {"role": "assistant", "content": TAG},
    ]})  # fmt: skip
    turns = json.loads(export([row], "openai").data)["messages"]
    assert [c["id"] for c in turns[1]["tool_calls"]] == ["call_2_1", "c1", "call_2_3"]
    assert [t.get("tool_call_id") for t in turns[2:6]] == ["call_2_1", "c1", "own", None]
    assert [c["id"] for c in turns[6]["tool_calls"]] == ["call_7_1"]
    (back,) = again([row], "openai", tmp_path)
    assert [c.id for c in back.messages[1].tool_calls] == [None, "c1", None]
    assert [m.extras.get("tool_call_id") for m in back.messages[2:6]] == [None, "c1", "own", None]  # c1 is the file's own: it stays
    assert again([back], "openai", tmp_path) == [back]
    assert taught(back) == taught(row)


@pytest.mark.parametrize("given", ["call_2_2", "call_aXb", "call_2_10"])
def test_an_id_that_the_export_would_not_make_is_the_file_s_own(tmp_path, given):
    value = {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [CALL | {"id": given}]}, {"role": "tool", "content": "5", "tool_call_id": given},
                          {"role": "assistant", "content": "a"}]}
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(value), encoding="utf-8")
    (candidate,) = preview_file(path, path.name).candidates
    assert dump_row(candidate.row) == value
    assert again([candidate.row], "openai", tmp_path) == [candidate.row]


def test_sharegpt_has_calls_and_tools_as_its_readers_want_them():
    value = {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "5"}, {"role": "assistant", "content": "a"}],
             "tools": ["x"], "system": "own", "status": "approved"}  # fmt: skip
    record = json.loads(export([parse_row(value)], "sharegpt").data)
    assert [(t["from"], t["value"]) for t in record["conversations"]] == [
        ("human", "q"), ("function_call", '{"name": "x", "arguments": {"a": 1}}'), ("observation", "5"), ("gpt", "a"),
    ]  # fmt: skip
    assert (record["tools"], record["status"], record["workbench_extras"]) == ('["x"]', "approved", {"system": "own", "tools": ["x"]})
    mixed = json.loads(export([row_with(content="t", tool_calls=[CALL])], "sharegpt").data)["conversations"][1]
    assert (mixed["from"], mixed["value"]) == ("gpt", f"t\n{TAG}")


def test_what_was_edited_in_a_sharegpt_file_counts(tmp_path):
    data = export([row_with(content="t", tool_calls=[CALL])], "sharegpt").data.decode()
    (tmp_path / "x.jsonl").write_text(data.replace('"value": "t', '"value": "neu'), encoding="utf-8")
    row = preview_file(tmp_path / "x.jsonl", "x").candidates[0].row
    assert (row.answer.content, row.answer.tool_calls) == (f"neu\n{TAG}", ())


def test_parquet_is_read_by_datasets_and_counts_as_its_columns_say(tmp_path):
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [replace(row_with(content="t", tool_calls=[CALL]), note="n", extras={"tools": ["x"], "odd": [1, "a", None]}), row_with(content="b")]
    path = tmp_path / "x.parquet"
    path.write_bytes(export(rows, "parquet").data)
    loaded = datasets.load_dataset("parquet", data_files=str(path), split="train", streaming=True)
    first = next(iter(loaded))
    assert first["messages"][1] == {"role": "assistant", "content": "t", "tool_calls": [CALL]}
    assert (first["tools"], first["note"], first["status"]) == ('["x"]', "n", "draft")
    table = pq.read_table(path).to_pylist()
    table[1]["note"] = "edited"
    pq.write_table(pa.Table.from_pylist(table), path)
    preview = preview_file(path, "x.parquet")
    assert [c.row.note for c in preview.candidates] == ["n", "edited"]
    assert preview.candidates[0].row == rows[0]
    assert preview.notes == ("Some rows' columns were edited since the export: the columns count there, not “workbench_row”.",)


@pytest.mark.parametrize("style", list(EXPORTS))
def test_no_rows_make_an_empty_file(style):
    assert len(export([], style).data) == 0 if style != "parquet" else export([], style).data.startswith(b"PAR1")


# -- import → export → import ---------------------------------------------------------------------

TEXT = st.text(st.sampled_from("\u2028\r\n\"\\<>&'Яё \U0001f600") | st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
PLAIN = TEXT.filter(lambda t: bool(t.strip()) and "<tool_call" not in t)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=5,
)  # fmt: skip
ARGUMENTS = st.dictionaries(TEXT, JSON, max_size=2)
NAMES = st.sampled_from(["get_data", "x.y-z"])
ODD = st.dictionaries(TEXT.map(lambda t: f"x{t}") | st.sampled_from(["from", "value", "weight", FORM, "tool_call_ids", "workbench_turn"]), JSON, max_size=2)
WRITTEN = ARGUMENTS | ARGUMENTS.map(lambda a: json.dumps(a, ensure_ascii=False)) | ARGUMENTS.map(lambda a: json.dumps(a, separators=(",", ":")))
FUNCTIONS = st.builds(lambda name, arguments: {"name": name, "arguments": arguments}, NAMES, WRITTEN)
ITEMS = (
    FUNCTIONS
    | st.builds(lambda f: {"type": "function", "function": f}, FUNCTIONS)
    | st.builds(lambda f, i, more: {"id": i, "type": "function", "function": f} | more, FUNCTIONS, TEXT, st.just({}) | ODD)
)
LITERALS = st.lists(PLAIN | st.sampled_from([TAG, TAG + "\n", " ", TAG.replace("&quot;", '\\"')]), min_size=1, max_size=4).map("".join)
LITERALS = LITERALS.filter(lambda t: bool(t.strip()))
ANSWERS = (
    st.builds(lambda c, more: {"role": "assistant", "content": c} | more, LITERALS, st.just({}) | ODD)
    | st.builds(lambda calls: {"role": "assistant", "tool_calls": calls}, st.lists(ITEMS, min_size=1, max_size=2))
    | st.builds(lambda c, calls: {"role": "assistant", "content": c, "tool_calls": calls}, st.none() | st.just("") | LITERALS, st.lists(ITEMS, min_size=1, max_size=2))
)
USERS = st.builds(lambda c, more: {"role": "user", "content": c} | more, LITERALS, st.just({}) | ODD)
RESULTS = st.builds(lambda c, i: {"role": "tool", "content": c, "tool_call_id": i, "name": "x"}, PLAIN, TEXT)
RESULTS = RESULTS | st.builds(lambda c: {"role": "tool", "content": c}, PLAIN)
TOOLS = st.just({}) | st.sampled_from([{"tools": ["x"]}, {"tools": '["x"]'}, {"tools": [{"name": "x", "parameters": SCHEMA}]}, {"tools": None}])
EXTRAS = st.dictionaries(
    TEXT.map(lambda t: f"x{t}") | st.sampled_from(["conversations", "system", "instruction", "request", "workbench_row", "workbench_extras"]), JSON, max_size=2,
)  # fmt: skip
REVIEW = st.fixed_dictionaries({}, optional={
    "status": st.sampled_from(["approved", "rejected"]), "note": TEXT, "pin": st.sampled_from(["train", "validation"]), "source": TEXT,
})  # fmt: skip
CHATS = st.builds(
    lambda turns, tools, extras, review: {"messages": [m for turn in turns for m in turn]} | extras | tools | review,
    st.lists(st.tuples(USERS, ANSWERS) | st.tuples(USERS, ANSWERS, RESULTS, ANSWERS), min_size=1, max_size=2), TOOLS, EXTRAS, REVIEW,
)  # fmt: skip
QUIET = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]}


@settings(max_examples=60, **QUIET)
@given(st.lists(CHATS, min_size=1, max_size=3))
def test_rows_come_back_the_same_from_every_exact_style(tmp_path, values):
    rows = [parse_row(v) for v in values]
    assert [json.dumps(dump_row(r), sort_keys=True) for r in rows] == [json.dumps(v, sort_keys=True) for v in values]
    for style in ("rows", "sharegpt"):
        assert again(rows, style, tmp_path) == rows


@settings(max_examples=8, **QUIET)
@given(st.lists(CHATS, min_size=1, max_size=8))
def test_rows_come_back_the_same_from_parquet(tmp_path, values):
    rows = [parse_row(v) for v in values]
    assert again(rows, "parquet", tmp_path) == rows


@settings(max_examples=60, **QUIET)
@given(st.lists(CHATS, min_size=1, max_size=3), st.lists(st.sampled_from(["rows", "tag", "openai", "sharegpt"]), min_size=1, max_size=4))
def test_no_way_through_the_styles_changes_what_is_taught_or_the_row_s_own_keys(tmp_path, values, styles):
    rows = [parse_row(v) for v in values]
    turned = rows
    for style in styles:
        turned = again(turned, style, tmp_path)
        assert again(turned, style, tmp_path) == turned, style
    for row, other in zip(rows, turned, strict=True):
        assert taught(row) == taught(other)
        assert (row.status, row.note, row.pin, row.source, row.extras) == (other.status, other.note, other.pin, other.source, other.extras)


ORDINARY = st.builds(
    lambda f, i: ({} if i is None else {"id": i}) | {"type": "function", "function": {"name": f["name"], "arguments": f["arguments"]}},
    st.builds(lambda n, a: {"name": n, "arguments": json.dumps(a, ensure_ascii=False)}, NAMES, ARGUMENTS), st.none() | TEXT,
)  # fmt: skip


@settings(max_examples=60, **QUIET)
@given(st.builds(lambda text, calls: row_with(content=text, tool_calls=calls), st.just("") | PLAIN.map(str.strip), st.lists(ORDINARY, min_size=1, max_size=3)))
def test_openai_over_the_tag_and_back_is_the_same_row(tmp_path, row):
    (over,) = again([row], "tag", tmp_path)
    assert over.answer.tool_calls == ()
    assert again([over], "openai", tmp_path) == [row]


RECORDS = (
    st.builds(lambda q, a: {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}, PLAIN, LITERALS)
    | st.builds(lambda q, f: {"conversations": [{"from": "user", "value": q}, {"from": "function_call", "value": json.dumps(f)}], "system": "s"}, PLAIN, FUNCTIONS)
    | st.builds(lambda q, i, a: {"instruction": q, "input": i, "output": a, "history": [["1", "2"]]}, PLAIN, st.just("") | TEXT, LITERALS)
    | st.builds(lambda q, a: {"question": q, "response": a, "id": 5}, PLAIN, LITERALS)
    | st.builds(lambda q, f: {"query": q, "answers": [f], "tools": "[]"}, PLAIN, FUNCTIONS)
)


@settings(max_examples=50, **QUIET)
@given(st.lists(RECORDS, min_size=1, max_size=3))
def test_every_layout_comes_back_the_same_after_it_came_in(tmp_path, values):
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(json.dumps(v) for v in values), encoding="utf-8")
    preview = preview_file(path, path.name)
    rows = [c.row for c in preview.candidates if c.row is not None]
    assert len(rows) == len(values)
    for style in ("rows", "sharegpt"):
        assert again(rows, style, tmp_path) == rows
    for style in ("tag", "openai"):
        assert [taught(r) for r in again(rows, style, tmp_path)] == [taught(r) for r in rows]
