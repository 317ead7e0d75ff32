"""The panel “Import and export”, called without a server."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest

from workbench.dataset.imports import preview_file
from workbench.errors import DataError
from workbench.ui.data import files_panel as panel
from workbench.ui.data.bench import Bench
from workbench.ui.words import files as words

TOOL = {"type": "function", "function": {"name": "get_weather", "description": "W", "parameters": {"type": "object", "properties": {}}}}


def line(request, answer="Ответ", **more) -> str:
    return json.dumps({"conversations": [{"from": "human", "value": request}, {"from": "gpt", "value": answer}]} | more, ensure_ascii=False)


LINES = [line("новое", tools=json.dumps([TOOL])), '{"broken', line("новое"), line("Здравствуйте!", "Здравствуйте! Чем могу помочь?"), line("ещё <img src=x>")]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "in <b>.jsonl"
    path.write_text("\n".join(LINES), encoding="utf-8")
    return path


@pytest.fixture
def preview(workspace, file):
    return panel.look_file(workspace, str(file))


@pytest.fixture
def bench(workspace):
    """What the handlers need of a bench: the workspace, and its way to make a change."""
    found = SimpleNamespace(space=workspace)
    found.make = lambda change, version, count: Bench.make(found, change, version, count)
    return found


def many(tmp_path, count):
    path = tmp_path / "many.jsonl"
    path.write_text("\n".join([*(line(f"вопрос {i}") for i in range(count)), line("вопрос 0"), "{"]), encoding="utf-8")
    return preview_file(path, path.name)


def test_the_table_shows_what_would_come_in_and_what_is_wrong(preview):
    broken = "not valid JSON: Unterminated string starting at at column 2"
    assert panel.table_values(preview, True) == [
        [False, 2, '{"broken', "", "broken", broken],
        [True, 1, "новое", "Ответ", "text", ""],
        [False, 3, "новое", "Ответ", "text", "same as line 1"],
        [False, 4, "Здравствуйте!", "Здравствуйте! Чем могу помочь?", "text", "same as row 2 of the set"],
        [True, 5, "ещё <img src=x>", "Ответ", "text", ""],
    ]
    assert [row[0] for row in panel.table_values(preview, False)] == [False, True, True, True, True]


def test_broken_lines_stand_first_and_name_the_key_that_was_meant(workspace, tmp_path):
    """Below the table's fold nobody would find them."""
    path = tmp_path / "rows.jsonl"
    misspelt = '{"messages": [{"rolle": "<b>user", "content": "x"}]}'
    path.write_text("\n".join([*(line(f"вопрос {i}") for i in range(30)), misspelt, "{", line("ещё")]), encoding="utf-8")
    preview = panel.look_file(workspace, str(path))
    table = panel.table_values(preview, True)
    assert [row[1] for row in table] == [31, 32, *range(1, 31), 33]
    assert table[0][5] == 'messages[0].role: the key is missing; "rolle" is unknown here: was "role" meant?'
    assert table[1][5].startswith("not valid JSON: ")
    assert panel.chosen_places(preview, table, True) == [*range(30), 32]


def test_the_counts_stand_in_one_line_and_nothing_in_them_is_run(preview):
    found = panel.counts_html(preview)
    for part in ("<b>4 rows can come in</b>", ">1 problem<", ">2 duplicates<", ">layout ShareGPT<", ">JSON lines<"):
        assert part in found
    assert "&lt;b&gt;x" in panel.closed("<b>x", "bad")[1]


def test_a_long_file_shows_what_wants_a_look_first_and_all_that_is_chosen_comes_in(tmp_path):
    preview = many(tmp_path, 250)
    table = panel.table_values(preview, True)
    assert [row[1] for row in table[:4]] == [252, 251, 1, 2]
    assert len(table) == panel.LISTED
    assert "The table shows 200 of 252 records" in panel.counts_html(preview)
    assert panel.chosen_places(preview, table, True) == list(range(250))
    assert panel.take_label(preview, table, True, True) == "Bring in 250 rows and 1 broken line"
    assert len(panel.chosen_places(preview, panel.table_values(preview, False), False)) == 251


def test_ticks_count_by_number_even_in_a_sorted_table_and_never_for_a_broken_line(preview):
    table = list(reversed(panel.table_values(preview, True)))
    for row in table:
        row[0] = "true" if row[1] in (1, 2, 4) else False
    assert panel.chosen_places(preview, table, True) == [0, 3]
    assert panel.take_label(preview, table, True, False) == "Bring in 2 rows"


@pytest.mark.parametrize("table", [[], [[True, 1]] * 5])
def test_a_table_of_another_shape_is_refused(preview, table):
    with pytest.raises(DataError) as caught:
        panel.plan(preview, table, True, False, words.ADD)
    assert str(caught.value) == words.TABLE_SHAPE
    assert panel.take_label(preview, table, True, False) == "Bring in rows"


def test_chosen_rows_come_in_as_one_change_and_the_preview_closes(bench, preview):
    rows = bench.space.rows.read()
    out = panel.take(bench, preview, panel.table_values(preview, True), True, True, words.ADD, rows.version, 3)
    after = bench.space.rows.read()
    assert "Saved. 2 rows came in from in &lt;b&gt;.jsonl, and 1 broken line." in out[0]
    assert (out[1], out[2], out[4]) == (after.version, 4, None)
    assert [e.row and e.row.request for e in after.entries[70:]] == ["новое", "ещё <img src=x>", None]
    assert after.entries[72].raw == LINES[1]
    bench.space.rows.undo(after.version)
    assert bench.space.rows.read().entries == rows.entries


def test_replacing_puts_them_in_the_place_of_the_rows(bench, preview):
    panel.take(bench, preview, panel.table_values(preview, True), True, False, words.REPLACE, bench.space.rows.read().version, 0)
    assert [row.request for row in bench.space.rows.read().rows] == ["новое", "ещё <img src=x>"]


def test_nothing_chosen_or_nothing_seen_changes_nothing_and_keeps_the_preview(bench, preview):
    before = bench.space.rows.path.read_bytes()
    none = [[False, *row[1:]] for row in panel.table_values(preview, True)]
    for given, table, says in [(preview, none, "is chosen: nothing came in."), (None, [], words.NOTHING_SEEN)]:
        out = panel.take(bench, given, table, True, False, words.ADD, bench.space.rows.read().version, 0)
        assert says in out[0]
        assert len(out) == 13 and all(value == gr.skip() for value in out[1:])
    assert bench.space.rows.path.read_bytes() == before


def test_a_set_that_became_another_meanwhile_is_not_overwritten(bench, preview):
    out = panel.take(bench, preview, panel.table_values(preview, True), True, False, words.ADD, "stale", 0)
    assert out[3].version == "stale"
    assert [row.request for row in out[3].change.add] == ["новое", "ещё <img src=x>"]
    assert len(bench.space.rows.read().entries) == 70


def test_a_file_that_can_t_be_read_is_said_in_the_preview_s_place(workspace, tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes("запрос,ответ\n".encode("cp1251"))
    out = panel.guarded(lambda p: panel.opened(workspace, panel.look_file(workspace, p)))(str(path))
    assert out[0] is None
    assert "x.csv is not UTF-8 (line 1): save it as UTF-8" in out[1]
    with pytest.raises(DataError, match="Name a data set first"):
        panel.look_named(workspace, " ", "train", "")


def test_a_file_on_this_machine_is_read_by_its_path(workspace, file):
    assert panel.look_named(workspace, str(file), "train", "").usable == 4


def test_tools_that_the_rows_bring_along_are_offered_and_added_once(workspace, preview):
    opened = panel.opened(workspace, preview)
    assert "The rows bring along 1 tool not in data/tools.json: get_weather." in opened[6]["value"]
    assert opened[7]["visible"] is True
    assert panel.add_tools(workspace, panel.missing_tools(workspace, preview)) == "1 tool came into data/tools.json: get_weather."
    assert workspace.tools.read().tools["get_weather"].description == "W"
    assert panel.missing_tools(workspace, preview) == []
    assert panel.opened(workspace, preview)[7]["visible"] is False


@pytest.mark.parametrize("style", ["rows", "tag", "openai", "sharegpt", "parquet"])
def test_rows_go_out_in_every_style_and_come_in_again(workspace, style):
    path, said = panel.export_file(workspace, style, False)
    suffix = ".parquet" if style == "parquet" else ".jsonl"
    assert path.endswith(f"examples-{style}{suffix}")
    assert said.startswith(f"70 rows in examples-{style}{suffix}.")
    assert panel.look_file(workspace, path).duplicates == 70


def test_a_broken_book_of_tools_keeps_no_row_back(workspace):
    workspace.tools.path.write_text("{broken", encoding="utf-8")
    assert [panel.export_file(workspace, style, False)[1][:7] for style in ("rows", "openai", "parquet")] == ["70 rows"] * 3


def test_every_press_writes_a_file_of_its_own_and_old_ones_are_taken_away(workspace):
    first, second = (Path(panel.export_file(workspace, "rows", False)[0]) for _ in range(2))
    assert first != second and first.name == second.name and first.is_file()
    os.utime(first.parent, (0, 0))
    third = Path(panel.export_file(workspace, "rows", False)[0])
    assert [path.exists() for path in (first.parent, second, third)] == [False, True, True]


def test_only_approved_rows_go_out_where_asked(workspace):
    with pytest.raises(DataError) as caught:
        panel.export_file(workspace, "rows", True)
    assert str(caught.value) == words.NONE_APPROVED
    workspace.rows.path.write_text(LINES[1] + "\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        panel.export_file(workspace, "rows", True)
    assert str(caught.value) == words.NO_ROWS
    row = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}
    workspace.rows.path.write_text("\n".join([json.dumps(row), json.dumps(row | {"status": "approved"}), "{"]), encoding="utf-8")
    path, said = panel.export_file(workspace, "rows", True)
    assert said == "1 row in examples-rows.jsonl. 1 line that can't be read stayed behind."
    with open(path, encoding="utf-8") as file:
        assert [json.loads(text) for text in file] == [row | {"status": "approved"}]


def test_the_panel_can_be_built(workspace):
    with gr.Blocks() as page:
        own = [gr.HTML(), gr.State(""), gr.Number(), gr.State(None), gr.State(None)]
        with gr.Tabs() as tabs, gr.Tab("files"):
            panel.build(Bench(workspace, page, *own, tabs, gr.State("files")))
    ids = {block.elem_id for block in page.blocks.values()}
    assert {"import-file", "import-look", "import-table", "import-take", "import-cancel", "export", "export-file"} <= ids


def test_calls_of_a_tool_that_nobody_describes_are_told_before_they_come_in(workspace, tmp_path):
    file = tmp_path / "rows.jsonl"
    call = '<tool_call name=\\"weather\\" arguments=\\"{}\\"/>'
    turns = f'[{{"role": "user", "content": "Погода?"}}, {{"role": "assistant", "content": "{call}"}}]'
    file.write_text(f'{{"messages": {turns}}}\n', encoding="utf-8")
    seen = panel.look_file(workspace, str(file))
    assert panel.unknown_calls(workspace, seen) == ["weather"]
    assert "weather" in panel.opened(workspace, seen)[1]


def test_rows_that_replace_the_set_repeat_none_of_its_rows(workspace, tmp_path):
    file = tmp_path / "same.jsonl"
    lines = workspace.rows.path.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([*lines, lines[3]]) + "\n", encoding="utf-8")
    seen = panel.look_file(workspace, str(file))
    assert seen.duplicates == 71
    replacing = panel.as_taken(seen, words.REPLACE)
    assert [c.duplicate for c in replacing.candidates if c.duplicate] == ["same as line 4"]
    change = panel.plan(seen, panel.table_values(replacing, True), True, False, words.REPLACE)
    workspace.rows.change(change, workspace.rows.read().version)
    assert workspace.rows.path.read_text(encoding="utf-8").splitlines() == lines
