"""The row form's logic: fields made from a tool's schema, drafts read back, and what the buttons do."""

import json

import pytest

from workbench.dataset.changes import Change
from workbench.dataset.draft import EMPTY, CallDraft, Draft, TurnDraft, draft_of
from workbench.dataset.formats import dump_row
from workbench.errors import DataError, RowError
from workbench.schema import ToolSpec
from workbench.ui.data.editor import Form, delete, duplicate, follow, is_unsaved, mend_line, open_row, review, save
from workbench.ui.data.lesson import lesson_html
from workbench.ui.data.turns import answer_with, change_call, field_value, read_draft, shape_of, with_call, with_turn, without_turn

PAY = ToolSpec("pay", "", {
    "type": "object", "required": ["amount"], "additionalProperties": False,
    "properties": {"amount": {"type": "number"}, "currency": {"enum": ["RUB", "USD"]}, "urgent": {"type": "boolean"}, "tags": {"type": "array"}},
})  # fmt: skip
NOTE = ToolSpec("note", "", {"type": "object", "properties": {"name": {"type": "string"}, "count": {"type": "integer"}}})
TOOLS = {"get_sensitive_data": ToolSpec("get_sensitive_data"), "pay": PAY, "note": NOTE}


def call_draft(arguments: str, name: str = "pay", raw: bool = False) -> Draft:
    return Draft((TurnDraft("user", "Переведи"), TurnDraft("assistant", "", (CallDraft(name, arguments, raw),))))


def test_a_call_becomes_the_fields_of_its_schema():
    draft = call_draft('{"amount": 5, "urgent": true, "tags": ["a"]}')
    fields = shape_of(draft, TOOLS)[1].calls[0].fields
    assert [(f.name, f.kind, f.required) for f in fields] == [
        ("amount", "number", True), ("currency", "choice", False), ("urgent", "boolean", False), ("tags", "json", False),
    ]  # fmt: skip
    assert [field_value(f, draft.turns[1].calls[0].arguments) for f in fields] == ["5", None, "true", '["a"]']


@pytest.mark.parametrize("draft", [
    call_draft('{"unknown": 1}'), call_draft("{oops"), call_draft("{}", name="nobody"), call_draft('{"amount": 1}', raw=True),
    call_draft('{"amount": "5"}'), call_draft('{"currency": "EUR"}'), call_draft('{"urgent": "yes"}'),
    call_draft('{"amount": null}'), call_draft('{"name": ""}', name="note"), call_draft('{"name": ["a"]}', name="note"), call_draft('{"name": "a\\nb"}', name="note"),
    call_draft('{"count": 3.7}', name="note"),
])  # fmt: skip
def test_what_a_field_would_not_give_back_unchanged_is_one_box_of_json(draft):
    assert shape_of(draft, TOOLS)[1].calls[0].fields is None


def read(draft, *values, lenient=False):
    return read_draft(shape_of(draft, TOOLS), values, TOOLS, draft, lenient=lenient)


def test_the_fields_values_become_typed_arguments():
    draft = call_draft('{"amount": 5}')
    found = read(draft, "user", "Переведи 7", "assistant", "", "pay", 7.0, "USD", "false", '["x"]', "approved", "train", "важно")
    assert json.loads(found.turns[1].calls[0].arguments) == {"amount": 7, "currency": "USD", "urgent": False, "tags": ["x"]}
    assert (found.turns[0].text, found.status, found.pin, found.note) == ("Переведи 7", "approved", "train", "важно")


def test_a_missing_or_mistyped_argument_is_named():
    draft = call_draft('{"amount": 5}')
    with pytest.raises(RowError, match="amount"):
        read(draft, "user", "x", "assistant", "", "pay", None, "", "", "", "draft", "", "")
    with pytest.raises(RowError, match="tags"):
        read(draft, "user", "x", "assistant", "", "pay", 1, "", "", "[oops", "draft", "", "")


def test_a_change_of_the_form_does_not_wait_for_half_filled_fields():
    draft = call_draft('{"amount": 5}')
    found = read(draft, "user", "x", "assistant", "", "pay", None, "", "", "", "draft", "", "", lenient=True)
    assert found.turns[1].calls == (CallDraft("pay", '{"amount": 5}'),)


def test_the_answer_switches_between_words_and_a_call():
    called = answer_with(EMPTY, "call", TOOLS)
    assert called.turns[-1] == TurnDraft("assistant", "", (CallDraft("get_sensitive_data"),))
    assert answer_with(called, "text", TOOLS) == EMPTY


def test_turns_and_calls_come_and_go():
    longer = with_turn(EMPTY)
    assert [t.role for t in longer.turns] == ["user", "assistant", "user", "assistant"]
    called = with_turn(answer_with(EMPTY, "call", TOOLS))
    assert [t.role for t in called.turns] == ["user", "assistant", "tool", "assistant"]
    assert [t.role for t in with_turn(without_turn(called, 3)).turns] == ["user", "assistant", "tool", "assistant"]
    assert without_turn(longer, 1).turns == (EMPTY.turns[0], *EMPTY.turns)
    two = with_call(with_call(EMPTY, 1, TOOLS), 1, TOOLS)
    assert len(two.turns[1].calls) == 2
    assert change_call(two, 1, 0, CallDraft("pay")).turns[1].calls == (CallDraft("pay"), CallDraft("get_sensitive_data"))
    assert len(change_call(two, 1, 0, None).turns[1].calls) == 1


def test_saving_adds_a_new_row_or_puts_it_in_its_place(workspace):
    rows = workspace.rows.read()
    new = Draft((TurnDraft("user", "Как дела?"), TurnDraft("assistant", "Хорошо!")), "approved")
    assert [dump_row(r) for r in save(Form(), new).add] == [{
        "messages": [{"role": "user", "content": "Как дела?"}, {"role": "assistant", "content": "Хорошо!"}], "status": "approved",
    }]  # fmt: skip
    form = open_row(rows, 1)
    assert not save(form, form.draft)
    assert review(form, form.draft, "approved").put[1].status == "approved"
    assert review(form, form.draft, "rejected").what == "row 2 is rejected"
    assert duplicate(form, form.draft).add == (rows.rows[1],)
    assert delete(form).drop == {1}
    with pytest.raises(DataError, match="No row is chosen"):
        delete(Form())


def test_a_broken_line_is_mended_in_the_form(workspace):
    good = workspace.rows.path.read_text(encoding="utf-8").splitlines()[0]
    workspace.rows.path.write_text("{oops\n", encoding="utf-8")
    form = open_row(workspace.rows.read(), 0)
    assert form.broken == "{oops"
    with pytest.raises(RowError, match="still can't be used"):
        mend_line(form, "{oops")
    workspace.rows.change(mend_line(form, good), workspace.rows.read().version)
    assert workspace.rows.path.read_text(encoding="utf-8").strip() == good


def test_the_form_knows_what_is_unsaved(workspace):
    form = open_row(workspace.rows.read(), 0)
    assert not is_unsaved(form, None)
    assert not is_unsaved(form, draft_of(form.was))
    assert is_unsaved(form, Draft(form.draft.turns, note="новое"))
    changed = Form(Draft(form.draft.turns, note="новое"), 0, form.was)  # drawn anew with what was typed
    assert is_unsaved(changed, changed.draft)


def test_the_form_goes_along_with_its_row(workspace):
    form = open_row(workspace.rows.read(), 5)
    workspace.rows.change(Change(drop=frozenset({2})), workspace.rows.read().version)
    again = follow(workspace, form, None)
    assert (again.place, again.was) == (4, form.was)
    assert follow(workspace, again, None) is None
    assert follow(workspace, form, Draft(form.draft.turns, note="не сохранено")) is None
    workspace.rows.change(Change(drop=frozenset({4})), workspace.rows.read().version)
    assert follow(workspace, again, None).place is None


def test_the_lesson_shows_tokens_and_escapes_them(workspace):
    html = lesson_html(workspace, Draft((TurnDraft("user", "<img src=x onerror=alert(1)>"), TurnDraft("assistant", "да"))))
    assert "<img" not in html
    assert html.count("wb-learned") == 1
    assert "5 tokens learned" in html  # four bytes and the end of turn
    refused = lesson_html(workspace, Draft((TurnDraft("user", "x"), TurnDraft("assistant", " "))))
    assert "can&#x27;t be learned yet" in refused
