"""Files made to hurt: each is refused in a sentence, or reported line by line with field and reason; the set on disk stays as it is."""

import gzip
import io
import json
import struct
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workbench.calls.dialects import message_text
from workbench.dataset import sources, strict, tables
from workbench.dataset.formats import dump_row, load_rows
from workbench.dataset.imports import preview_file, to_change
from workbench.dataset.store import RowStore
from workbench.errors import DataError
from workbench.training.encode import encode_all
from workbench.ui.data import files_panel

GOOD = {"messages": [{"role": "user", "content": "Привет"}, {"role": "assistant", "content": "Здравствуйте"}]}
LINE = json.dumps(GOOD, ensure_ascii=False)
SAVE = "save it as UTF-8 (in a text editor under “Save as”, in Excel as “CSV UTF-8”) and try again."
SET = (LINE + "\r\n" + '{"broken\n' + "\n" + LINE).encode()


def answer(**keys) -> str:
    return json.dumps({"messages": [GOOD["messages"][0], {"role": "assistant"} | keys]})


def call(**keys) -> str:
    return answer(content="", tool_calls=[keys])


def tag(arguments: str) -> str:
    return answer(content=f'<tool_call name="x" arguments="{arguments}"/>')


@pytest.fixture
def store(tmp_path):
    """A set on disk with a broken line, a blank one and mixed line ends; it must be the same bytes after the test."""
    path = tmp_path / "set" / "examples.json"
    path.parent.mkdir()
    path.write_bytes(SET)
    yield RowStore(path)
    assert path.read_bytes() == SET
    assert sorted(p.name for p in path.parent.iterdir()) == ["examples.json"]


@pytest.fixture
def look(tmp_path, store):
    """Write a file, and look at it as the panel does."""

    def run(raw, name="file.jsonl"):
        path = tmp_path / "given"
        path.write_bytes(raw if isinstance(raw, bytes) else raw.encode("utf-8"))
        return preview_file(path, name, [e.row for e in store.read().entries])

    return run


def parquet(rows) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("rows.jsonl", b"0" * 10**7)
    return out.getvalue()


REFUSED = {
    "empty": (b"", "file.jsonl", "file.jsonl is empty: nothing was read."),
    "blanks alone": (b" \r\n\t\n", "file.jsonl", "file.jsonl is empty: nothing was read."),
    "an empty list": (b"[ ]", "file.json", "file.json holds no rows: nothing was read."),
    "cp1251": (LINE.encode() + b"\n" + LINE.encode("cp1251"), "file.jsonl", f"file.jsonl is not UTF-8 (line 2): {SAVE}"),
    "Latin-1": ("request,answer\ncafé,thé\n".encode("latin-1"), "file.csv", f"file.csv is not UTF-8 (line 2): {SAVE}"),
    "UTF-16 with its mark": (LINE.encode("utf-16"), "file.jsonl", f"file.jsonl is UTF-16, not UTF-8: {SAVE}"),
    "UTF-16 without a mark": ('{"messages": []}'.encode("utf-16-le"), "file.jsonl", f"file.jsonl is UTF-16 without a mark, not UTF-8: {SAVE}"),
    "NUL bytes alone": (b"\0" * 5000, "file.jsonl", f"file.jsonl is UTF-16 without a mark, not UTF-8: {SAVE}"),
    "a cut-off character at the end": (LINE.encode()[:-3] + b"\xd0", "file.jsonl", f"file.jsonl is not UTF-8 (line 1): {SAVE}"),
    "an encoded lone surrogate": (b'{"a": "\xed\xa0\xbd"}', "file.jsonl", f"file.jsonl is not UTF-8 (line 1): {SAVE}"),
    "a ZIP archive": (archive(), "rows.jsonl", "rows.jsonl is a ZIP archive or an Excel file: unpack it, or save the sheet as CSV UTF-8."),
    "gzip": (gzip.compress(b"x"), "rows.jsonl", "rows.jsonl is packed with gzip: unpack it first."),
    "a PDF": (b"%PDF-1.7 x", "rows.csv", "rows.csv is a PDF: give a file of rows."),
    "prose": ("Просто текст.\nИ ещё.", "a.txt", "a.txt is neither JSON nor a table with a header row: give JSON lines, a JSON array, CSV or Parquet."),
    "HTML": ("<html><script>alert(1)</script>", "a.html", "a.html is neither JSON nor a table with a header row: give JSON lines, a JSON array, CSV or Parquet."),
    "a table without known columns": ("a,b\n1,2\n", "a.csv",
        "a.csv: the first line must name the columns request and answer (or question, prompt, запрос … and response, output, ответ …); found: a, b."),
    "a column twice": ("request,answer,Request\n1,2,3\n", "a.csv", 'a.csv: the column "Request" stands twice in the first line.'),
    "a table without rows": ("request,answer\n", "a.csv", "a.csv holds no rows: nothing was read."),
    "a header of a megabyte": ("request,answer," + "a," * 2**19, "a.csv", "a.csv is neither JSON nor a table with a header row: its first line is 1.0 MiB long."),
    "Parquet, cut off": (parquet([GOOD])[:200], "a.parquet", "a.parquet was not read: its description of itself is too long."),
    "Parquet, damaged": (b"PAR1" + b"\xff" * 64 + struct.pack("<I", 60) + b"PAR1", "a.parquet", "a.parquet was not read: it can't be read as Parquet (OSError)."),
    "Parquet, four bytes": (b"PAR1", "a.parquet", "a.parquet was not read: it can't be read as Parquet (OSError)."),
    "a name with a path": (b"", "../../x", "x is empty: nothing was read."),
    "a name with markup and a line break": (b"", "<img src=x onerror=alert(1)>\n.jsonl", "<img src=x onerror=alert(1)>�.jsonl is empty: nothing was read."),
    "a name of a thousand letters": (b"", "x" * 1000, "x" * 79 + "… is empty: nothing was read."),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_file_of_rows_is_refused_in_a_sentence(look, case):
    raw, name, says = REFUSED[case]
    with pytest.raises(DataError) as caught:
        look(raw, name)
    assert str(caught.value) == says


REPORTED = {
    "a line that is no JSON": ("x", "line", "not valid JSON: Expecting value at column 1"),
    "a raw NUL": ('{"a": "\0"}', "line", "not valid JSON: Invalid control character at at column 8"),
    "an escaped NUL": (answer(content="a\0"), "messages[1].content", "the text holds a NUL character; take it out"),
    "NaN": ('{"messages": [], "a": NaN}', "line", "not valid JSON: NaN is not a JSON number"),
    "minus Infinity": ('{"a": -Infinity}', "line", "not valid JSON: -Infinity is not a JSON number"),
    "a float that overflows": ('{"a": 1e999}', "line", "not valid JSON: the number 1e999 is too large"),
    "10,000 digits": ('{"a": ' + "7" * 10_000 + "}", "line", "not valid JSON: a whole number has 10000 digits; at most 4300 can be read"),
    "100,000 brackets": ('{"a": ' + "[" * 100_000, "line", "not valid JSON: the nesting is deeper than 64 levels"),
    "65 levels": (LINE[:-1] + ', "a": ' + "[" * 64 + "]" * 64 + "}", "a" + "[0]" * 63, "the nesting is deeper than 64 levels"),
    "a key twice": (LINE[:-1] + ', "messages": []}', "line", 'not valid JSON: the key "messages" stands twice in one object'),
    "a role twice": ('{"messages": [{"role": "user", "role": "assistant", "content": "x"}]}', "line", 'not valid JSON: the key "role" stands twice in one object'),
    "a lone surrogate": (answer(content="a\ud83d"), "messages[1].content", "the text holds half a character (a lone surrogate); type it again"),
    "a lone surrogate in a key": (LINE[:-1] + ', "\\ud83d": 1}', "�", "the text holds half a character (a lone surrogate); type it again"),
    "a lone surrogate as a role": ('{"messages": [{"role": "\\ud83d"}]}', "messages[0].role", "the text holds half a character (a lone surrogate); type it again"),
    "a line of a megabyte": (json.dumps(GOOD | {"a": "x" * 2**20}), "line", "the row has 1.0 MiB; at most 1 MiB can be read"),
    "an unknown role": ('{"messages": [{"role": "root", "content": "x"}]}', "messages[0].role", 'unknown role "root"; the roles are system, user, assistant, tool'),
    "a role that is a list": ('{"messages": [{"role": [], "content": "x"}]}', "messages[0].role", "unknown role []; the roles are system, user, assistant, tool"),
    "messages that are an object": ('{"messages": {"0": 1}}', "messages", "expected a non-empty list, found an object"),
    "a message that is a number": ('{"messages": [5]}', "messages[0]", "expected a JSON object, found a number"),
    "content in parts": ('{"messages": [{"role": "user", "content": [{"type": "text"}]}]}', "messages[0].content", "expected text, found a list"),
    "no user": ('{"messages": [{"role": "assistant", "content": "x"}]}', "messages", "there is no user turn"),
    "the user last": ('{"messages": [{"role": "user", "content": "x"}]}', "messages[0].role", "the last turn must be the assistant's: it is what the row teaches"),
    "a tag that breaks off": (answer(content='<tool_call name="x'), "messages[1].content", "malformed tool call: the call breaks off before it is closed"),
    "a tag with NaN": (tag("{&quot;a&quot;: NaN}"), "messages[1].content", "malformed tool call: the arguments are not a JSON object"),
    "a tag nested too deep": (tag("{&quot;a&quot;: " + "[" * 70 + "]" * 70 + "}"), "messages[1].content: arguments of x.a" + "[0]" * 63,
        "the nesting is deeper than 64 levels"),
    "a tool's name that holds a call": (call(name='x" arguments="{}"/><b>'), "messages[1].tool_calls[0]",
        "the tool's name \"x\\\" arguments=\\\"{}\\\"/><b>\" is not a name: it has 1 to 128 letters, digits, '_', '.' or '-', beginning with a letter or '_'"),
    "a tool's name with a space": (call(name="a b"), "messages[1].tool_calls[0]",
        "the tool's name \"a b\" is not a name: it has 1 to 128 letters, digits, '_', '.' or '-', beginning with a letter or '_'"),
    "arguments with a key twice": (call(name="x", arguments='{"a": 1, "a": 2}'), "messages[1].tool_calls[0].arguments",
        'the arguments are not valid JSON: the key "a" stands twice in one object'),
    "arguments with a NUL": (call(name="x", arguments='{"a": "\\u0000"}'), "messages[1].tool_calls[0].arguments.a", "the text holds a NUL character; take it out"),
    "arguments that overflow": (call(name="x", arguments='{"a": 1e999}'), "messages[1].tool_calls[0].arguments",
        "the arguments are not valid JSON: the number 1e999 is too large"),
    "tool_calls that are an object": (answer(content="x", tool_calls={}), "messages[1].tool_calls", "expected a list, found an object"),
    "tools that are a number": (LINE[:-1] + ', "tools": 5}', "tools", "expected a list, or a list as JSON text, found a number"),
    "tools as broken text": (LINE[:-1] + ', "tools": "[{"}', "tools",
        "expected a list, or a list as JSON text; the text is not valid JSON: Expecting property name enclosed in double quotes at column 3"),
    "a status of its own": (LINE[:-1] + ', "status": "<b>"}', "status", 'expected one of draft, approved, rejected, found "<b>"'),
    "a prototype": ('{"__proto__": {"messages": []}}', "line",
        "no conversation was found: expected messages, conversations, instruction and output, or request and answer; the keys are __proto__"),
    "Python, not JSON": ("{'messages': []}", "line", "not valid JSON: Expecting property name enclosed in double quotes at column 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", REPORTED)
def test_a_bad_line_is_reported_and_the_good_ones_around_it_come_in(look, case):
    bad, field, reason = REPORTED[case]
    preview = look(f"{json.dumps(GOOD)}\n{bad}\n{LINE}\n")
    assert [(p.line, p.field, p.reason) for c in preview.candidates if (p := c.problem)] == [(2, field, reason)]
    assert [c.row.request for c in preview.candidates if c.row] == ["Привет"] * 2
    files_panel.counts_html(preview).encode("utf-8")
    json.dumps(files_panel.table_values(preview, True), ensure_ascii=False).encode("utf-8")


BROKEN_TABLES = {
    "a quote that never ends": ('request,answer\nq,"a\n', [(2, "line", "a quote is opened and never closed")], 0),
    "a quote that never ends, a long one": ('request,answer\n"' + "a\n" * 10**5, [(2, "line", "a quote is opened and not closed within 131,072 characters")], 0),
    "a word after a quote": ('request,answer\n"q"x,a\nq,a\n', [(2, "line", "not valid CSV: ',' expected after '\"'")], 1),
    "too many cells": ("request,answer\nq,a,b\nq,a\n", [(2, "line", "the row has 3 cells; the first line names 2 columns")], 1),
    "an empty answer": ("request,answer\nq,\nq\nq,a\n", [(2, "answer", "the text is empty"), (3, "answer", "the text is empty")], 1),
    "a NUL": ("request,answer\nq,a\0\nq,a\n", [(2, "answer", "the text holds a NUL character; take it out")], 1),
    "a line of a megabyte": ("request,answer\nq,a\n" + "a" * 2**20 + ",b\nq,a\n", [(3, "line", "the row has 1.0 MiB; at most 1 MiB can be read")], 1),
}


@pytest.mark.parametrize("case", BROKEN_TABLES)
def test_a_broken_table_is_reported_line_by_line(look, case):
    text, problems, usable = BROKEN_TABLES[case]
    preview = look(text, "a.csv")
    assert [(p.line, p.field, p.reason) for c in preview.candidates if (p := c.problem)] == problems
    assert preview.usable == usable


BROKEN_ARRAYS = {
    "cut off": (f'[{LINE}, {{"messages": [', [(2, "line", "not valid JSON: Expecting value at column 15")]),
    "a comma too many": (f"[{LINE},]", [(2, "line", "not valid JSON: Expecting value at column 1")]),
    "two commas": (f"[{LINE},,{LINE}]", [(2, "line", "not valid JSON: Expecting value at column 1")]),
    "brackets that don't match": (f"[{LINE}, [{{]}}, {LINE}]", [(2, "line", "not valid JSON: Expecting property name enclosed in double quotes at column 3")]),
    "a text that never ends": (f'[{LINE}, {{"a": "{chr(92)}"]', [(2, "line", "not valid JSON: Unterminated string starting at at column 7")]),
    "numbers": (f"[{LINE}, 5, null]", [(2, "line", "expected a JSON object, found a number"), (3, "line", "expected a JSON object, found null")]),
    "an item of a megabyte": (f'[{LINE}, {{"a": "{"x" * 2**20}"}}, {LINE}]', [(2, "line", "the row has 1.0 MiB; at most 1 MiB can be read")]),
}


@pytest.mark.parametrize("case", BROKEN_ARRAYS)
def test_a_broken_array_is_reported_item_by_item(look, case):
    text, problems = BROKEN_ARRAYS[case]
    preview = look(text, "a.json")
    assert [(p.line, p.field, p.reason) for c in preview.candidates if (p := c.problem)] == problems
    assert preview.candidates[0].row is not None


def test_limits_hold_for_rows_values_lines_and_bytes(look, monkeypatch):
    monkeypatch.setattr(sources, "MAX_TABLE_LINES", 3)
    monkeypatch.setattr(sources, "MAX_VALUES", 40)
    monkeypatch.setattr("workbench.dataset.sources.MAX_RECORDS", 2)
    for text, says in [
        ("request,answer\n\n\n\nq,a\n", "a has more than 3 lines: split it into smaller files."),
        ("{}\n{}\n{}\n", "a holds more than 50,000 records: split it into smaller files."),
        ("[" + "{}," * 50 + "{}]", "a holds more than 2,500,000 objects and items, too many to read at once: split it into smaller files."),
        (LINE[:-1] + ', "a": [' + "0," * 50 + "0]}", "a holds more than 2,500,000 objects and items, too many to read at once: split it into smaller files."),
    ]:
        with pytest.raises(DataError) as caught:
            look(text, "a")
        assert str(caught.value) == says


def test_a_file_of_more_than_64_mib_and_a_device_are_refused(tmp_path):
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(64 * 2**20 + 1)
    with pytest.raises(DataError) as caught:
        preview_file(path, "big")
    assert str(caught.value) == f"{path} is larger than 64 MiB: split it into smaller files."
    with pytest.raises(DataError, match="^/dev/zero is not an ordinary file"):
        load_rows(type(path)("/dev/zero"))


def test_a_parquet_bomb_ends_in_a_sentence(look):
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 50_000, pa.int32()), pa.array(["x" * 2**20]))
    cells = pa.ListArray.from_arrays(pa.array([0, 50_000], pa.int32()), words)
    out = io.BytesIO()
    pq.write_table(pa.table({"request": ["a"], "answer": ["b"], "more": cells}), out, compression="zstd")
    assert len(out.getvalue()) < 10_000
    with pytest.raises(DataError, match="^a.parquet was not read: "):
        look(out.getvalue(), "a.parquet")


def test_parquet_with_too_many_rows_or_nan_is_told(look, monkeypatch):
    nan = parquet([{"request": "q", "answer": "a", "score": float("nan")}, {"request": "q", "answer": "a", "score": 1.0}])
    assert [str(c.problem) for c in look(nan, "a").candidates if c.problem] == ["line 1: not valid JSON: NaN is not a JSON number"]
    monkeypatch.setattr(tables, "MAX_RECORDS", 1)
    with pytest.raises(DataError) as caught:
        look(nan, "a")
    assert str(caught.value) == "a was not read: it holds more than 1 records: split it into smaller files."


PAYLOADS = ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "{{7*7}}", "${7*7}", "'; DROP TABLE rows; --", "=cmd|'/c calc'!A1", "javascript:alert(1)"]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_markup_and_scripts_are_text_to_the_letter(look, payload):
    preview = look(answer(content=payload), f"{payload}.jsonl")
    (row,) = to_change(preview, None, keep_broken=False, replace=False).add
    assert dump_row(row)["messages"][1]["content"] == payload
    shown = files_panel.counts_html(preview) + "".join(str(part) for part in files_panel.closed(f"{preview.name} {payload}", "bad")[1:2])
    assert "<script" not in shown and "<img" not in shown


@pytest.mark.parametrize("token", ["<end_of_turn>", "<start_of_turn>user", "<bos>", "<pad>"])
def test_control_tokens_come_in_as_text_and_are_refused_by_the_tokenizer(look, workspace, token):
    preview = look(answer(content=f"a{token}b"))
    row = preview.candidates[0].row
    assert message_text(row.answer) == f"a{token}b"
    encoded, problems = encode_all([row], workspace.tokenizer, max_tokens=2048)
    assert encoded == [None]
    assert [(p.line, p.field) for p in problems] == [(1, "messages[1].content")]
    assert token.removesuffix("user") in problems[0].reason


def test_broken_lines_that_come_along_keep_every_byte_and_harm_no_other(tmp_path):
    path = tmp_path / "examples.json"
    path.write_bytes(SET)
    store = RowStore(path)
    given = tmp_path / "given.jsonl"
    given.write_text("\n".join([LINE, *(bad for bad, _, _ in REPORTED.values() if len(bad) < 2**20), "{}"]), encoding="utf-8")
    preview = preview_file(given, "given.jsonl")
    before = store.read()
    after = store.change(to_change(preview, None, keep_broken=True, replace=False), before.version)
    assert [e.raw for e in after.entries[: len(before.entries)]] == [e.raw for e in before.entries]
    assert [e.raw for e in after.entries[len(before.entries) + 1 :]] == given.read_text(encoding="utf-8").split("\n")[1:]
    assert store.undo(after.version).version == before.version
    assert path.read_bytes() == SET


def test_the_limits_of_the_strict_reader():
    assert (strict.MAX_DEPTH, strict.MAX_DIGITS, strict.MAX_RECORD_BYTES, strict.MAX_LINES, strict.MAX_VALUES) == (64, 4300, 2**20, 200_000, 2_500_000)
    assert len(REFUSED) + len(REPORTED) + len(BROKEN_TABLES) + len(BROKEN_ARRAYS) >= 40
