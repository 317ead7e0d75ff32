"""The grid's verbs, called without a server."""

import json
from dataclasses import replace

import gradio as gr
import pytest

from workbench.dataset.changes import Change
from workbench.errors import DataError, RowError
from workbench.schema import Example, Message, ToolCall
from workbench.ui import words
from workbench.ui.data import grid as panel
from workbench.ui.data import rows_panel
from workbench.ui.data.bench import Bench, refusal
from workbench.ui.data.editor import Editor, Form, neighbour, open_row, review

OPENAI = {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": "{}"}}]}]}


def rows(space):
    return space.rows.read()


def lines(space) -> list[str]:
    return space.rows.path.read_text(encoding="utf-8").splitlines()


def grid(space, places=None):
    now = rows(space)
    return panel.grid_values(now, range(len(now.entries)) if places is None else places, panel.marks(space, now))


def test_the_grid_shows_every_line_with_its_kind_and_side(workspace):
    workspace.row_health.of(rows(workspace))
    cells = grid(workspace)
    assert len(cells) == 70
    assert cells[0][:6] == [False, 1, "Сколько денег сейчас на моём счёте?", "→ get_sensitive_data", "call", "draft"]
    assert [line[6] for line in cells].count("validation") == 7
    assert [line[6] for line in cells].count("training") == 63


def test_typing_into_the_grid_changes_those_rows_alone_in_one_step(workspace):
    before = lines(workspace)
    cells = grid(workspace)
    cells[3][2], cells[5][5] = "Добрый вечер!", "approved"
    workspace.rows.change(panel.edit_cells(rows(workspace), cells), rows(workspace).version)
    after = lines(workspace)
    assert [i for i in range(70) if before[i] != after[i]] == [3, 5]
    assert json.loads(after[3])["messages"][0]["content"] == "Добрый вечер!"
    assert json.loads(after[5])["status"] == "approved"
    workspace.rows.undo(rows(workspace).version)
    assert lines(workspace) == before


def test_a_page_of_the_grid_finds_its_rows_by_their_number(workspace):
    cells = grid(workspace, [60, 12])
    cells[0][2] = "другой вопрос"
    change = panel.edit_cells(rows(workspace), cells)
    assert list(change.put) == [60]
    assert change.put[60].request == "другой вопрос"


def test_a_tick_alone_changes_nothing(workspace):
    cells = grid(workspace)
    cells[4][0] = True
    assert not panel.edit_cells(rows(workspace), cells)
    assert panel.ticked(cells) == [4]


@pytest.mark.parametrize(("column", "value", "says"), [
    (2, " ", "request is empty"), (3, "", "answer is empty"), (5, "odd", "status must be"), (3, '<tool_call name="f"', "malformed tool call"),
])  # fmt: skip
def test_a_bad_cell_is_refused_by_name(workspace, column, value, says):
    cells = grid(workspace)
    cells[1][column] = value
    with pytest.raises(RowError, match=says):
        panel.edit_cells(rows(workspace), cells)


def test_columns_and_rows_of_its_own_are_refused(workspace):
    cells = grid(workspace)
    with pytest.raises(DataError, match="columns not at all"):
        panel.edit_cells(rows(workspace), [line[:-1] for line in cells])
    with pytest.raises(DataError, match="added and deleted with the buttons"):
        panel.edit_cells(rows(workspace), [*cells, [False, "", "", "", "", "", "", ""]])


def test_approving_a_row_given_as_tool_calls_keeps_its_form(workspace):
    workspace.rows.path.write_text(json.dumps(OPENAI) + "\n", encoding="utf-8")
    cells = grid(workspace)
    assert cells[0][3] == "→ f"
    cells[0][5] = "approved"
    workspace.rows.change(panel.edit_cells(rows(workspace), cells), rows(workspace).version)
    assert json.loads(lines(workspace)[0]) == OPENAI | {"status": "approved"}


def test_a_broken_line_is_shown_with_its_problem_and_not_edited_in_the_grid(workspace):
    workspace.rows.path.write_text(lines(workspace)[0] + "\n{oops\n", encoding="utf-8")
    cells = grid(workspace)
    assert cells[1][:5] == [False, 2, "{oops", "", "broken"]
    assert "not valid JSON" in cells[1][7]
    cells[1][2] = "x"
    with pytest.raises(RowError, match="mend it in the form"):
        panel.edit_cells(rows(workspace), cells)


@pytest.mark.parametrize(("action", "check"), [
    ("approve", lambda new: [r["status"] for r in new] == ["approved", "approved"]),
    ("reject", lambda new: [r["status"] for r in new] == ["rejected", "rejected"]),
    ("pin to validation", lambda new: [r["pin"] for r in new] == ["validation", "validation"]),
])  # fmt: skip
def test_a_bulk_action_touches_the_ticked_rows_in_one_step(workspace, action, check):
    before = lines(workspace)
    workspace.rows.change(panel.bulk(rows(workspace), action, [2, 9]), rows(workspace).version)
    after = lines(workspace)
    assert [i for i in range(70) if before[i] != after[i]] == [2, 9]
    assert check([json.loads(after[2]), json.loads(after[9])])
    workspace.rows.undo(rows(workspace).version)
    assert lines(workspace) == before


def test_bulk_delete_and_duplicate(workspace):
    before = lines(workspace)
    workspace.rows.change(panel.bulk(rows(workspace), "duplicate", [0]), rows(workspace).version)
    assert json.loads(lines(workspace)[-1]) == json.loads(before[0])
    workspace.rows.change(panel.bulk(rows(workspace), "delete", [0, 70]), rows(workspace).version)
    assert lines(workspace) == before[1:]


def test_a_bulk_action_on_nothing_or_of_no_known_name_is_refused(workspace):
    with pytest.raises(DataError, match="No row is ticked"):
        panel.bulk(rows(workspace), "approve", [])
    with pytest.raises(DataError, match="no bulk action 'burn'"):
        panel.bulk(rows(workspace), "burn", [1])
    assert panel.bulk(rows(workspace), "take the pin off", [1]) == Change(what=words.NOTHING_CHANGED)


def test_the_filters_know_findings_and_sides_once_the_set_was_checked(workspace):
    now = rows(workspace)
    copy = replace(now.rows[0], status="draft")
    now = workspace.rows.change(Change(add=(copy,)), now.version)
    workspace.row_health.of(now)
    assert panel.found(workspace, rows(workspace), "", "", "", "", "exact", "", "place", None) == [0, 70]
    sides = [len(panel.found(workspace, rows(workspace), "", "", "", "", "", side, "place", None)) for side in ("train", "validation", "left out")]
    assert sides == [64, 7, 0]


def test_the_grid_says_what_it_shows(workspace):
    now = rows(workspace)
    assert "70 of 70 rows" in rows_panel.where_html(now, range(70), 0, False)
    assert "101–200 of 250 found" in rows_panel.where_html(now, range(250), 1, False)
    assert words.NARROWED in rows_panel.where_html(now, [1], 0, True)
    assert words.NOTHING_FOUND in rows_panel.where_html(now, [], 0, False)


def test_next_and_previous_walk_the_rows_found():
    assert [neighbour([2, 5, 9], 5, 1), neighbour([2, 5, 9], 5, -1), neighbour([2, 5, 9], 9, 1), neighbour([2, 5, 9], 2, -1)] == [9, 2, None, None]
    assert [neighbour([2, 5], 3, 1), neighbour([2, 5], None, 1), neighbour([], 3, 1)] == [5, 2, None]
    assert [neighbour([2, 5], 7, 1), neighbour([2, 5], 3, -1), neighbour([9, 4, 2], 4, 1)] == [None, 2, 2]  # never back to the first


def test_the_form_of_a_place_that_is_gone_is_empty(workspace):
    now = rows(workspace)
    assert open_row(now, 500).place is None
    assert open_row(now, 3).place == 3
    assert hash(Form()) != hash(Form())


@pytest.mark.parametrize(("typed", "content"), [
    ("→ get_sensitive_data", '<tool_call name="get_sensitive_data" arguments="{}"/>'),
    ('→ pay {"a": 1}', '<tool_call name="pay" arguments="{&quot;a&quot;: 1}"/>'),
    ("Просто текст", "Просто текст"),
])  # fmt: skip
def test_a_call_is_typed_into_the_grid_as_it_is_shown(workspace, typed, content):
    cells = grid(workspace)
    cells[1][3] = typed
    assert panel.edit_cells(rows(workspace), cells).put[1].answer.content == content
    cells[1][3] = "→ pay {oops"
    with pytest.raises(RowError, match="not valid JSON"):
        panel.edit_cells(rows(workspace), cells)


def test_a_text_too_long_for_a_cell_is_edited_in_the_form(workspace):
    long = Change(add=(replace(rows(workspace).rows[1], messages=(Message("user", "я" * 1500), Message("assistant", "да"))),))
    workspace.rows.change(long, rows(workspace).version)
    cells = grid(workspace)
    assert len(cells[70][2]) == panel.CELL
    assert not panel.edit_cells(rows(workspace), cells)
    cells[70][3] = "нет"
    assert panel.edit_cells(rows(workspace), cells).put[70].request == "я" * 1500
    cells[70][2] = "коротко"
    with pytest.raises(RowError, match="too long for a cell"):
        panel.edit_cells(rows(workspace), cells)


def test_several_calls_are_shown_by_their_names_and_edited_in_the_form(workspace):
    calls = (ToolCall("pay", {"a": 1}), ToolCall("look_up"))
    both = Example((Message("user", "Заплати и проверь"), Message("assistant", "", calls)))
    workspace.rows.change(Change(add=(both,)), rows(workspace).version)
    cells = grid(workspace)
    assert cells[70][3] == "→ pay, look_up"
    assert not panel.edit_cells(rows(workspace), cells)
    cells[70][3] = "→ pay, check"
    with pytest.raises(RowError) as caught:
        panel.edit_cells(rows(workspace), cells)
    assert str(caught.value) == words.MANY_CALLS
    cells[70][3] = "Готово"
    assert panel.edit_cells(rows(workspace), cells).put[70].answer.content == "Готово"


def test_all_rows_found_where_none_is_has_a_sentence_of_its_own(workspace):
    with pytest.raises(DataError, match=r"^No row is found, so nothing was changed"):
        panel.bulk(rows(workspace), "approve", [], found_all=True)


@pytest.fixture
def bench(workspace):
    with gr.Blocks() as page:
        made = Bench(workspace, page, gr.HTML(), gr.State(), gr.Number(), gr.State(), gr.State(), gr.Tabs(), gr.State(""), {})
    yield made


ALL = ["", "", "", "", "", "", "place", None]


def test_a_bulk_action_that_was_done_is_not_armed_any_more(workspace, bench):
    now = rows(workspace)
    cells = grid(workspace)
    refused = rows_panel.do_bulk(bench)(cells, "delete", "ticked", now.version, *ALL, now.version, 0)
    assert "No row is ticked" in refused[0] and refused[4:] == [gr.skip(), gr.skip()]
    cells[3][0] = True
    done = rows_panel.do_bulk(bench)(cells, "delete", "ticked", now.version, *ALL, now.version, 0)
    assert len(rows(workspace).entries) == 69 and done[4:] == ["approve", "ticked"]


def editor_of(bench, workspace):
    return Editor(bench, gr.State(), gr.Number(), gr.State(), gr.HTML(), lambda *v: panel.found(workspace, rows(workspace), *v), [])


def approve(editor, place, *query):
    now = editor.bench.space.rows.read()
    form = open_row(now, place)
    return editor.change(lambda f, d: review(f, d, "approved"), "next")(form, form.draft, now.version, 0, *query)


def test_approving_goes_on_among_the_rows_found_and_never_back_to_the_first(workspace, bench):
    editor, drafts = editor_of(bench, workspace), ["Здравствуйте", "", "", "draft", "", "", "place", None]
    found = panel.found(workspace, rows(workspace), *drafts)
    assert len(found) >= 1
    wider = ["", "", "", "draft", "", "", "place", None]
    assert approve(editor, 4, *wider)[4].place == 5  # row 5 left the rows found; the next one is opened
    said = approve(editor, 69, *wider)
    assert words.LAST_ROW in said[0] and "Row 70 is approved." in said[0]
    assert said[4].place == 69 and said[4].draft.status == "approved"
    only = approve(editor, found[-1], *drafts)
    assert words.LAST_ROW in only[0] and only[4].place == found[-1]


def test_the_grid_turns_to_the_page_of_a_row_that_was_opened_not_to_one_that_was_only_drawn_anew(workspace, bench):
    workspace.rows.change(Change(add=tuple(replace(rows(workspace).rows[0], note=str(i)) for i in range(60))), rows(workspace).version)
    form = open_row(rows(workspace), 120)
    assert rows_panel.page_with(bench, form, 0, [*ALL, 0]) == 1
    assert rows_panel.page_with(bench, form.redrawn(form.draft), form.visit, [*ALL, 0]) == 0
    assert rows_panel.page_with(bench, form, 0, ["", "text", "", "", "", "", "place", None, 0]) == 0  # the filters hide it
    assert rows_panel.page_with(bench, Form(), 0, [*ALL, 1]) == 1


@pytest.mark.parametrize(("reason", "said"), [
    ("turn 1, what the user says, is empty", "Turn 1, what the user says, is empty."), ("Done.", "Done."), ("Press “Undo”", "Press “Undo”."), ("так?", "Так?"),
])  # fmt: skip
def test_a_refusal_is_a_whole_sentence(reason, said):
    assert f">{said}<" in refusal(reason)
