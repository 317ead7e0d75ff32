"""The Data tab's verbs, called without a server."""

import json

import pytest

from workbench.errors import ConflictError, DataError, RowError
from workbench.ui import data_tab, words


def version(workspace) -> str:
    return workspace.rows.read().version


def lines(workspace) -> list[str]:
    return workspace.rows.path.read_text(encoding="utf-8").splitlines()


def test_the_grid_shows_every_line_with_its_kind(workspace):
    grid = data_tab.grid_values(workspace.rows.read())
    assert len(grid) == 70
    assert grid[0] == [1, "Сколько денег сейчас на моём счёте?", '<tool_call name="get_sensitive_data" arguments="{}"/>', "call", "draft", ""]
    assert grid[1][3] == "text"


def test_adding_a_row_writes_it_at_once_and_opens_it(workspace):
    view = data_tab.add_row(workspace, "Как дела?", "Хорошо!", "approved", version(workspace))
    assert (view.place, view.rows.version) == (70, version(workspace))
    assert json.loads(lines(workspace)[-1]) == {
        "messages": [{"role": "user", "content": "Как дела?"}, {"role": "assistant", "content": "Хорошо!"}], "status": "approved",
    }  # fmt: skip


@pytest.mark.parametrize(("request_text", "answer", "status", "says"), [
    (" ", "x", "draft", "request is empty"), ("x", "", "draft", "answer is empty"), ("x", "y", "odd", "status must be"),
    ("x", '<tool_call name="f"', "draft", "malformed tool call"),
])  # fmt: skip
def test_a_bad_row_is_refused_and_nothing_is_written(workspace, request_text, answer, status, says):
    before = lines(workspace)
    with pytest.raises(RowError, match=says):
        data_tab.add_row(workspace, request_text, answer, status, version(workspace))
    assert lines(workspace) == before


def test_typing_into_the_grid_saves_the_changed_rows_and_only_them(workspace):
    before = lines(workspace)
    cells = data_tab.grid_values(workspace.rows.read())
    cells[3][1], cells[5][4] = "Добрый вечер!", "approved"
    view = data_tab.edit_cells(workspace, cells, version(workspace))
    after = lines(workspace)
    assert view.message == f"{words.SAVED} 2 row(s) changed."
    assert [i for i in range(70) if before[i] != after[i]] == [3, 5]
    assert json.loads(after[3])["messages"][0]["content"] == "Добрый вечер!"
    assert json.loads(after[5])["status"] == "approved"


def test_two_browsers_never_overwrite_each_other(workspace):
    stale = version(workspace)
    data_tab.add_row(workspace, "первый", "ответ", "draft", stale)
    with pytest.raises(ConflictError, match="changed elsewhere"):
        data_tab.save_row(workspace, 0, "второй", "ответ", "draft", stale)
    assert len(lines(workspace)) == 71


def test_saving_a_row_given_as_tool_calls_unchanged_keeps_its_form(workspace):
    row = {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": "{}"}}]}]}
    workspace.rows.path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    _, request, kind, answer, status = data_tab.form_values(workspace.rows.read(), 0)
    assert (kind, answer) == ("tool call", '<tool_call name="f" arguments="{}"/>')
    data_tab.save_row(workspace, 0, request, answer, "approved", version(workspace))
    saved = json.loads(lines(workspace)[0])
    assert saved["messages"][1]["tool_calls"][0]["function"]["name"] == "f"
    assert saved["status"] == "approved"


def test_a_broken_line_is_shown_with_its_problem_and_can_be_mended(workspace):
    good = lines(workspace)[0]
    workspace.rows.path.write_text(good + "\n{oops\n", encoding="utf-8")
    grid = data_tab.grid_values(workspace.rows.read())
    assert grid[1][:4] == [2, "{oops", "", "broken"]
    assert "not valid JSON" in grid[1][5]
    data_tab.save_row(workspace, 1, "вопрос", "ответ", "draft", version(workspace))
    assert workspace.rows.read().problems == ()
    assert lines(workspace)[0] == good


def test_the_strip_names_what_would_fool_the_curator(workspace):
    view = data_tab.add_row(workspace, "Мой доступ активен", "да", "draft", version(workspace))
    strip = data_tab.counts_html(workspace, view.rows)
    assert "71 rows" in strip
    assert "row 71 stands in demo.jsonl too" in strip


def test_export_then_import_is_the_same_file(workspace):
    before = workspace.rows.path.read_bytes()
    file = data_tab.export_file(workspace)
    data_tab.import_file(workspace, file, False, version(workspace))
    assert workspace.rows.path.read_bytes() == before


def test_a_file_of_another_encoding_is_refused_and_the_rows_stay(workspace, tmp_path):
    before = workspace.rows.path.read_bytes()
    file = tmp_path / "cp1251.jsonl"
    file.write_bytes('{"messages": "привет"}'.encode("cp1251"))
    with pytest.raises(DataError, match="not UTF-8"):
        data_tab.import_file(workspace, str(file), True, version(workspace))
    assert workspace.rows.path.read_bytes() == before


def test_a_row_added_in_the_grid_itself_is_refused_with_the_way_to_do_it(workspace):
    before = lines(workspace)
    cells = [*data_tab.grid_values(workspace.rows.read()), ["", "", "", "", "", ""]]
    with pytest.raises(DataError, match="buttons on the right"):
        data_tab.edit_cells(workspace, cells, version(workspace))
    assert lines(workspace) == before


def test_a_broken_line_is_mended_as_json_too(workspace):
    good = lines(workspace)[0]
    workspace.rows.path.write_text("{oops\n", encoding="utf-8")
    with pytest.raises(RowError, match="still can't be used"):
        data_tab.save_row(workspace, 0, "{oops", "", "draft", version(workspace))
    data_tab.save_row(workspace, 0, good, "", "draft", version(workspace))
    assert data_tab.grid_values(workspace.rows.read())[0][3] == "call"


def test_undo_leaves_a_foreign_change_alone_even_two_steps_back(workspace):
    data_tab.add_row(workspace, "своя", "да", "draft", version(workspace))
    with workspace.rows.path.open("a", encoding="utf-8") as file:
        file.write(lines(workspace)[0].replace("Сколько", "Чужая строка: сколько") + "\n")
    data_tab.add_row(workspace, "ещё одна", "да", "draft", version(workspace))
    workspace.rows.undo(version(workspace))
    with pytest.raises(DataError, match="no change to take back"):
        workspace.rows.undo(version(workspace))
    assert "Чужая строка" in lines(workspace)[-1]


def test_a_column_taken_away_in_the_grid_is_refused(workspace):
    before = lines(workspace)
    cells = [line[:1] + line[2:] for line in data_tab.grid_values(workspace.rows.read())]
    with pytest.raises(DataError, match="columns not at all"):
        data_tab.edit_cells(workspace, cells, version(workspace))
    assert lines(workspace) == before


def test_an_edit_told_twice_is_no_conflict_and_one_step_of_undo(workspace):
    before, seen = lines(workspace), version(workspace)
    cells = data_tab.grid_values(workspace.rows.read())
    cells[1][1], cells[3][1] = "раз", "два"
    data_tab.edit_cells(workspace, cells, seen)
    assert data_tab.edit_cells(workspace, cells, seen).message == ""
    workspace.rows.undo(version(workspace))
    assert lines(workspace) == before
