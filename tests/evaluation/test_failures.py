"""From a wrong reply to a draft row."""

import pytest

from workbench.dataset.store import RowStore
from workbench.errors import DataError, InputError
from workbench.evaluation.failures import add_drafts, row_of_miss, row_of_reply
from workbench.evaluation.scores import make_cases, score_reply

CALL = '<tool_call name="pay" arguments="{&quot;a&quot;: 1}"/>'


def test_a_missed_case_brings_its_own_right_answer(workspace):
    case = workspace.cases("cases.jsonl")[0]
    row = row_of_miss(score_reply(case, "Не  знаю\n"))
    assert (row.messages, row.status, row.source, row.note) == (case.row.messages, "draft", "from:evaluation", "the model said: Не знаю")
    assert row.awaits_review


def test_an_over_call_in_the_chat_becomes_the_other_pane_s_words():
    row = row_of_reply("Что такое баланс?", [CALL, "Это остаток. "], should="text", tools=["pay"])
    assert [m.content for m in row.messages] == ["Что такое баланс?", "Это остаток."]
    assert (row.source, row.note) == ("from:chat", f"the model said: {CALL}")


def test_a_missing_call_becomes_the_call_that_was_made_or_the_first_tool():
    assert row_of_reply("x", ["нет", CALL], should="call", tools=["get"]).answer.content == CALL
    assert row_of_reply("x", ["нет", "тоже"], should="call", tools=["get"]).answer.content == '<tool_call name="get" arguments="{}"/>'


def test_what_nobody_knows_is_left_to_a_person():
    with pytest.raises(InputError, match="Neither pane answered in words"):
        row_of_reply("x", [CALL, '<tool_call name="'], should="text", tools=["get"])
    with pytest.raises(InputError, match="no tool to call"):
        row_of_reply("x", ["нет"], should="call", tools=[])


def test_a_request_that_stands_in_the_set_is_not_added_again(tmp_path):
    store = RowStore(tmp_path / "rows.jsonl")
    row = row_of_reply("Мой баланс?", ["нет"], should="call", tools=["get"])
    rows, said = add_drafts(store, [row])
    assert (len(rows.entries), said.split(":")[0]) == (1, "Row 1 was added as a draft")
    with pytest.raises(DataError, match="row 1 asks the same already"):
        add_drafts(store, [row])


def test_a_request_with_another_sign_is_new(tmp_path):
    store = RowStore(tmp_path / "rows.jsonl")
    rows = [row_of_reply(prompt, ["нет"], should="call", tools=["get"]) for prompt in ("Поставь 5", "Поставь -5", "поставь 5!")]
    add_drafts(store, rows[:1])
    assert len(add_drafts(store, rows[1:])[0].entries) == 2


def test_the_cases_of_a_file_all_make_rows(workspace):
    cases = make_cases([c.row for c in workspace.cases("cases.jsonl")])
    rows, said = add_drafts(workspace.rows, [row_of_miss(score_reply(c, "")) for c in cases])
    assert len(rows.entries) == 100
    assert said.startswith("30 rows were added as drafts")
