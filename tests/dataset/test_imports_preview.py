"""What would come in: every container and layout, doubles, tools, and the change that is made of a choice."""

import json
import socket
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workbench.dataset import hub, hub_child, imports, records, sources
from workbench.dataset.changes import Change
from workbench.dataset.formats import parse_row
from workbench.dataset.imports import preview_file, preview_hub, to_change
from workbench.errors import DataError
from workbench.schema import ToolSpec

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
NUMBERS = "The numbers are those of the items in the list."


def chat(request="q", answer="a", **more):
    return {"messages": [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]} | more


def line(value) -> str:
    return json.dumps(value, ensure_ascii=False)


@pytest.fixture
def look(tmp_path):
    """Write a file of this text or these bytes, and look at it."""

    def run(text, name="file.json", existing=()):
        path = tmp_path / "given"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return preview_file(path, name, existing)

    return run


def seen(preview):
    """Of every candidate: its line, its request or what is wrong, and what it is the same as."""
    return [(c.line, c.row.request if c.row else str(c.problem), c.duplicate) for c in preview.candidates]


TWO = [chat("один"), chat("два")]
TABLE = 'request,answer,status,id\nодин,a,,7\n\n"два\n""2""",a,approved\n'


@pytest.mark.parametrize(
    ("text", "name", "container", "lines", "notes"),
    [
        (f"{line(TWO[0])}\n\n{line(TWO[1])}", "x.json", "JSON lines", [1, 3], ()),
        (f"\ufeff\r\n{line(TWO[0])}\r\n{line(TWO[1])}\r\n", "x", "JSON lines", [2, 3], ()),
        (line(TWO), "x.jsonl", "JSON array", [1, 2], (NUMBERS,)),
        (json.dumps(TWO, indent=2), "x.json", "JSON array", [1, 2], (NUMBERS,)),
        (line({"data": TWO}), "x.json", "JSON array", [1, 2], (NUMBERS,)),
        (json.dumps({"version": "data", "a": {"data": [{}]}, "rows": TWO}, indent=1), "x.json", "JSON array", [1, 2], (NUMBERS,)),
        (json.dumps({"rows": TWO, "version": 1}, indent=1), "x.json", "JSON array", [1, 2],
         (NUMBERS, "Only the list under “rows” was read; the file's other keys were left out.")),
        (f"{json.dumps(TWO[0], indent=2)}\n{json.dumps(TWO[1], indent=2)}\n", "x.json", "JSON objects", [1, 2], ()),
        (f"[{line(TWO[0])}, {line(TWO[1])}", "x.json", "JSON array", [1, 2], (NUMBERS, "The list is never closed: the file seems to be cut off.")),
        (f"{line(TWO)} {line(TWO)}", "x.json", "JSON array", [1, 2], (NUMBERS, "What follows the end of the list was left out.")),
        ("Вопрос;Ответ\nодин;a\nдва;a\n", "x.csv", "CSV", [2, 3], ("A table with the columns Вопрос, Ответ, parted by a semicolon.",)),
        ("prompt\tresponse\nодин\ta\nдва\ta", "x.txt", "CSV", [2, 3], ("A table with the columns prompt, response, parted by a tab.",)),
        ("\n\nrequest,answer\nодин,a\nдва,a", "x", "CSV", [4, 5], ("A table with the columns request, answer, parted by a comma.",)),
    ],
)  # fmt: skip
def test_a_container_is_known_by_its_content(look, text, name, container, lines, notes):
    preview = look(text, name)
    assert (preview.name, preview.container, preview.notes) == (name, container, notes)
    assert seen(preview) == [(lines[0], "один", ""), (lines[1], "два", "")]
    assert (preview.usable, preview.problems, preview.duplicates, preview.broken_lines) == (2, 0, 0, 0)


def test_a_table_s_other_columns_are_the_row_s_review_and_extras(look):
    preview = look(TABLE, "x.csv")
    assert [(c.line, c.row) for c in preview.candidates] == [
        (2, parse_row(chat("один", id="7"))), (4, parse_row(chat('два\n"2"', status="approved"))),
    ]  # fmt: skip
    assert (preview.layout, preview.container) == ("request and answer", "CSV")


def test_a_table_may_hold_conversations_as_json_text(look):
    text = line(TWO[0]["messages"]).replace('"', '""')
    assert seen(look(f'messages,id\n"{text}",1\n', "x.csv")) == [(2, "один", "")]


def test_layouts_may_be_mixed(look):
    text = "\n".join([line(TWO[0]), line({"instruction": "два", "output": "a"}), line(chat("три"))])
    assert look(text).layout == "chat messages, Alpaca"


def test_doubles_are_told_with_the_set_s_rows_first(look):
    existing = [None, parse_row(chat("Один!"))]
    text = "\n".join(map(line, [chat("один"), chat("один", "b"), chat("ДВА"), chat("два"), chat("?!"), chat("?!")]))
    assert seen(look(text, existing=existing)) == [
        (1, "один", "same as row 2 of the set"), (2, "один", ""), (3, "ДВА", ""), (4, "два", "same as line 3"), (5, "?!", ""), (6, "?!", "same as line 5"),
    ]  # fmt: skip


def test_the_same_request_after_other_turns_is_no_double(look):
    before = [{"role": "user", "content": "Перевести?"}, {"role": "assistant", "content": "Точно?"}]
    text = "\n".join([line(chat("да")), line({"messages": [*before, *chat("да")["messages"]]})])
    assert look(text).duplicates == 0


def test_inline_tools_are_gathered_once(look):
    def tool(name, description):
        return {"type": "function", "function": {"name": name, "description": description, "parameters": SCHEMA}}

    tools = [[tool("a", "A"), "named"], line([tool("a", "A"), tool("b", "B")]), [tool("b", "other"), {"broken": 1}]]
    preview = look("\n".join(line(chat(str(i), tools=t)) for i, t in enumerate(tools)))
    assert preview.tools == (ToolSpec("a", "A", SCHEMA), ToolSpec("b", "B", SCHEMA))
    assert preview.notes == ("Described in more than one way, the first counts: b.",)


def test_problems_beyond_a_thousand_are_summed_up(look, monkeypatch):
    monkeypatch.setattr(imports, "MAX_PROBLEMS", 2)
    preview = look("\n".join(["{x"] * 5 + [line(chat())]))
    assert [c.line for c in preview.candidates] == [1, 2, 6]
    assert (preview.problems, preview.notes) == (5, ("3 more lines have problems; they are not listed and can't come along.",))


# -- the change ----------------------------------------------------------------------------------


@pytest.fixture
def mixed(look):
    return look("\n".join([line(chat("один")), "{broken", line(chat("один")), line(chat("три"))]), "in.jsonl")


def test_all_usable_rows_that_are_no_doubles_come_in(mixed):
    rows = tuple(parse_row(chat(r)) for r in ("один", "три"))
    assert to_change(mixed, None, keep_broken=False, replace=False) == Change(add=rows, what="2 rows came in from in.jsonl")
    assert to_change(mixed, None, keep_broken=True, replace=True) == Change(
        add=rows, add_raw=("{broken",), replace_all=True, what="2 rows came in from in.jsonl, and 1 broken line in place of the rows before",
    )  # fmt: skip


def test_what_was_chosen_comes_in_in_the_file_s_order(mixed):
    change = to_change(mixed, [3, 2], keep_broken=False, replace=False)
    assert [r.request for r in change.add] == ["один", "три"]
    assert to_change(mixed, {0}, keep_broken=False, replace=False).what == "1 row came in from in.jsonl"
    assert to_change(mixed, [], keep_broken=True, replace=False).what == "1 broken line came in from in.jsonl"


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ([], "No row of in.jsonl is chosen: nothing came in."),
        ([9], "in.jsonl has no record 10: look at the file again."),
        ([0, 1], "Line 2 of in.jsonl can't come in: not valid JSON: Expecting property name enclosed in double quotes at column 2. Take its tick away."),
    ],
)
def test_a_choice_that_can_t_come_in_is_refused(mixed, chosen, says):
    with pytest.raises(DataError) as caught:
        to_change(mixed, chosen, keep_broken=False, replace=True)
    assert str(caught.value) == says


def test_broken_items_of_an_array_never_come_along_as_lines(look):
    preview = look('[{"a": 1}, ' + line(chat()) + "]")
    assert preview.broken_lines == 0
    assert to_change(preview, None, keep_broken=True, replace=False).add_raw == ()


# -- Parquet and data sets ------------------------------------------------------------------------


def parquet(path, rows, schema=None):
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path


def test_nulls_that_a_table_made_up_are_no_part_of_the_rows(tmp_path):
    call = {"type": "function", "function": {"name": "x", "arguments": "{}"}}
    rows = [chat("один", id=5), {"messages": [*chat("два")["messages"][:1], {"role": "assistant", "content": None, "tool_calls": [call]}], "id": None}]
    preview = preview_file(parquet(tmp_path / "x.parquet", rows), "x.parquet")
    assert (preview.container, preview.layout, preview.problems) == ("Parquet", "chat messages", 0)
    first, second = (c.row for c in preview.candidates)
    assert first == parse_row(chat("один", id=5))
    assert (second.extras, second.answer.tool_calls[0].name, second.answer.extras.get("name")) == ({}, "x", None)


def test_times_come_as_text_and_bytes_are_left_out_and_said(tmp_path):
    from datetime import date

    path = parquet(tmp_path / "x.parquet", [{"request": "q", "answer": "a", "day": date(2024, 5, 6), "image": b"\0"}])
    preview = preview_file(path, "x.parquet")
    assert preview.candidates[0].row.extras == {"day": "2024-05-06"}
    assert preview.notes == ("The columns image hold bytes and were left out.",)


@pytest.mark.slow
def test_a_folder_and_a_file_on_this_machine_are_read(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text("\n".join(map(line, TWO)), encoding="utf-8")
    preview = preview_hub(str(tmp_path / "set"))
    assert (preview.name, preview.container, [r for _, r, _ in seen(preview)]) == ("set", "data set", ["один", "два"])
    preview = preview_hub(str(tmp_path / "set" / "train.jsonl"))
    assert (preview.name, preview.container) == ("train.jsonl", "JSON lines")
    with pytest.raises(DataError) as caught:
        preview_hub(str(tmp_path / "set"), "nosuch")
    assert str(caught.value).startswith("set has no split 'nosuch'")


@pytest.mark.slow
def test_reading_a_data_set_loads_no_library_of_tensors(tmp_path):
    (tmp_path / "train.jsonl").write_text("\n".join(map(line, TWO)), encoding="utf-8")
    code = (
        "import sys\nfrom workbench.dataset import hub_child\n"
        f"hub_child.main([{str(tmp_path)!r}, 'train', '', '9', '9999', '9999'])\n"
        "assert 'datasets' in sys.modules and not {'torch', 'tensorflow', 'jax'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and '{"end": 2, "more": false}' in done.stdout, done.stderr


@pytest.mark.slow
def test_only_the_first_rows_of_a_large_data_set_are_read_and_that_is_said(tmp_path, monkeypatch):
    (tmp_path / "train.jsonl").write_text("\n".join(line(chat(str(i))) for i in range(5)), encoding="utf-8")
    monkeypatch.setattr(hub, "HUB_ROWS", 3)
    preview = preview_hub(str(tmp_path))
    assert preview.usable == 3
    assert preview.notes == (f"Only the first 3 rows of {tmp_path.name} were read.",)


def test_a_folder_that_is_too_large_is_refused(tmp_path, monkeypatch):
    (tmp_path / "train.jsonl").write_text("x" * 11, encoding="utf-8")
    monkeypatch.setattr(hub, "MAX_FILE_BYTES", 10)
    with pytest.raises(DataError) as caught:
        preview_hub(str(tmp_path))
    assert str(caught.value) == f"The folder {tmp_path.name} holds more than 0 MiB: give one of its files."


@pytest.mark.parametrize("name", ["nothing", "../../nowhere", "a/b/c", "https://x.y/z", "a/..", "", "a b/c", "-x/y", "a/b;rm"])
def test_what_is_neither_here_nor_a_name_on_the_hub_is_refused_without_a_look_at_the_net(name, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", None)
    with pytest.raises(DataError, match="is neither a file or folder here nor a name on the hub: give a path, or owner/name.$"):
        preview_hub(name)


def test_without_a_network_one_sentence_says_so(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(DataError) as caught:
        preview_hub("owner/name")
    assert str(caught.value) == "owner/name was not fetched: huggingface.co can't be reached. Check the network, or give a file on this machine."
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError) as caught:
        preview_hub("owner/name")
    assert str(caught.value) == "owner/name was not fetched: HF_HUB_OFFLINE is set. Unset it, or give a file on this machine."


def test_a_data_set_of_the_hub_is_streamed_and_none_of_its_code_is_run(monkeypatch):
    import datasets

    asked = []

    def load(*args, **kwargs):
        asked.append((args, kwargs))
        return iter([chat("один", image=object()), chat("два", empty=None), chat("x" * 300)])

    monkeypatch.setattr(hub, "_check_reachable", lambda name: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(subprocess, "run", in_this_process)
    monkeypatch.setattr(hub, "MAX_RECORD_BYTES", 200)
    preview = preview_hub("owner/name", "test", config="part")
    assert asked == [(("owner/name", "part"), {"split": "test", "streaming": True})]
    assert seen(preview)[:2] == [(1, "line 1, image: object is no JSON value", ""), (2, "два", "")]
    assert str(seen(preview)[2][1]).startswith("line 3: ")
    assert preview.candidates[1].row == parse_row(chat("два"))


def in_this_process(command, **_):
    where, split, config, *limits = command[3:]
    lines = hub_child.read(where, split, config, *map(int, limits))
    return subprocess.CompletedProcess(command, 0, "".join(f"{text}\n" for text in lines).encode())


@pytest.mark.slow
def test_a_folder_whose_file_unpacks_to_gigabytes_is_refused_and_the_app_lives(tmp_path):
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 200_000, pa.int32()), pa.array(["x" * 20_000]))
    pq.write_table(pa.table({"text": text}), tmp_path / "train.parquet", compression="zstd", store_schema=False)
    assert (tmp_path / "train.parquet").stat().st_size < 5000
    with pytest.raises(DataError, match=f"^{tmp_path.name} was not read: (it unpacks to more than can be held|its reader broke off)"):
        preview_hub(str(tmp_path))


def test_a_data_set_that_never_comes_to_an_end_is_given_up(tmp_path, monkeypatch):
    (tmp_path / "train.jsonl").write_text(line(chat()), encoding="utf-8")
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(600)\n", encoding="utf-8")
    monkeypatch.setattr(hub, "READER", tmp_path / "slow.py")
    monkeypatch.setattr(hub, "SECONDS", 0.2)
    with pytest.raises(DataError, match="was not read: it took more than 0 seconds"):
        preview_hub(str(tmp_path))


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError('Unknown split "x". Should be one of [\'a\']'), "owner/name has no split 'train': Should be one of ['a']."),
        (ValueError("Config name is missing.\nPlease pick one"), "owner/name has several parts: name one under “part”."),
        (RuntimeError("Dataset scripts are no longer supported"), "owner/name is made by code of its own, which is never run here: download its files and give one of them."),
        (ConnectionError("x"), "owner/name was not fetched: the hub can't be reached. Check the network, or give a file on this machine."),
        (KeyError("x"), "owner/name could not be read (KeyError): 'x'"),
    ],
)
def test_what_the_library_raises_is_one_sentence(monkeypatch, error, says):
    import datasets

    def load(*args, **kwargs):
        raise error

    monkeypatch.setattr(hub, "_check_reachable", lambda name: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(subprocess, "run", in_this_process)
    with pytest.raises(DataError) as caught:
        preview_hub("owner/name")
    assert str(caught.value) == says


def test_the_limits_are_those_of_the_manual():
    assert (records.MAX_RECORDS, sources.MAX_RECORD_BYTES, imports.MAX_PROBLEMS, hub.HUB_ROWS) == (50_000, 2**20, 1000, 10_000)


def test_rows_that_differ_in_a_sign_are_no_duplicates(look):
    preview = look("\n".join(line(chat(request)) for request in ("Поставь 5", "Поставь -5", "поставь 5!")))
    assert [c.duplicate for c in preview.candidates] == ["", "", "same as line 1"]
