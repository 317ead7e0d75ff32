"""The panel of tools: its verbs, called without a server."""

import json
from dataclasses import replace

import gradio as gr
import pytest

from workbench.calls.tools import no_parameters
from workbench.dataset.changes import Change
from workbench.errors import ConflictError, DataError
from workbench.schema import Example, Message, ToolCall, ToolSpec
from workbench.ui.data import tools_panel as panel
from workbench.ui.data.tools_panel import Typed
from workbench.ui.words import tools as words

SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "description": "<b>Где</b>"}}, "required": ["city"]}
WEATHER = Typed("weather", "Погода", json.dumps(SCHEMA), '{"t": 21}')


def version(space) -> str:
    return space.tools.read().version


def add_rows(space, *rows):
    space.rows.change(Change(add=rows), space.rows.read().version)


def calling(name, **arguments):
    return Example((Message("user", f"Вызови {name} {len(arguments)}"), Message("assistant", "", (ToolCall(name, arguments),))))


def test_the_page_begins_with_the_first_tool_and_its_rows(workspace):
    view = panel.first(workspace)
    assert (view.opened, view.form.name, json.loads(view.form.parameters)) == ("get_sensitive_data", "get_sensitive_data", no_parameters())
    assert panel.choices(workspace, view.tools) == [("get_sensitive_data · 33 rows", "get_sensitive_data")]
    assert panel.list_html(workspace, view.tools) == ""
    assert not panel.is_unsaved(view.tools, view.opened, view.form)


def test_a_new_tool_is_saved_opened_and_changed(workspace):
    view = panel.save_tool(workspace, None, WEATHER, version(workspace))
    assert (view.opened, view.message, view.touched) == ("weather", "The tool “weather” was saved.", True)
    assert workspace.tools.read().tools["weather"] == ToolSpec("weather", "Погода", SCHEMA, {"t": 21})
    assert panel.choices(workspace, view.tools)[1] == ("weather · no row", "weather")
    changed = panel.save_tool(workspace, "weather", Typed("weather", " Погода сейчас ", "", ""), version(workspace))
    assert changed.tools.tools["weather"] == ToolSpec("weather", "Погода сейчас", no_parameters())


def test_a_new_tool_never_takes_the_place_of_another(workspace):
    with pytest.raises(DataError, match=r"^There is a tool 'get_sensitive_data' already: take another name, or open that one"):
        panel.save_tool(workspace, None, Typed("get_sensitive_data"), version(workspace))


def test_renaming_tells_of_the_rows_that_call_the_old_name(workspace):
    view = panel.save_tool(workspace, "get_sensitive_data", Typed("my_data"), version(workspace))
    assert view.message == "The tool “get_sensitive_data” is called “my_data” now. 33 rows still call “get_sensitive_data”: press “Rename it in the rows' calls too”."
    assert view.renaming == ("get_sensitive_data", "my_data")
    assert panel.list_html(workspace, view.tools) == (
        '<div class="wb-note warn" role="status">33 rows call what is not in the list: get_sensitive_data.</div>'
    )


def test_the_rows_calls_are_renamed_in_one_step_and_undone_in_one(workspace):
    before = workspace.rows.path.read_text(encoding="utf-8")
    view = panel.save_tool(workspace, "get_sensitive_data", Typed("my_data"), version(workspace))
    change = panel.plan_rename(workspace, view.renaming)
    assert (len(change.put), change.what) == (33, "33 rows call “my_data” instead of “get_sensitive_data”")
    rows = workspace.rows.change(change, workspace.rows.read().version)
    assert workspace.rows.path.read_text(encoding="utf-8") == before.replace('name=\\"get_sensitive_data\\"', 'name=\\"my_data\\"')
    assert panel.list_html(workspace, view.tools) == "" and not panel.plan_rename(workspace, view.renaming)
    workspace.rows.undo(rows.version)
    assert workspace.rows.path.read_text(encoding="utf-8") == before
    with pytest.raises(DataError, match="No tool is open"):
        panel.plan_rename(workspace, None)


def test_rejected_rows_are_counted_and_said_to_be(workspace):
    panel.save_tool(workspace, None, WEATHER, version(workspace))
    add_rows(workspace, calling("weather", city="Омск"), replace(calling("weather"), status="rejected"))
    view = panel.save_tool(workspace, "weather", replace(WEATHER, name="forecast"), version(workspace))
    assert view.message == "The tool “weather” is called “forecast” now. 2 rows, counting rejected ones, still call “weather”: press “Rename it in the rows' calls too”."


@pytest.mark.parametrize("schema", ["[]", "5", '{"type": "string"}'])
def test_parameters_that_are_no_object_s_schema_are_said_to_be_none(schema):
    assert "must be a JSON schema of an object" in panel.fields_html(schema)
    assert "must be a JSON schema" not in panel.fields_html("{}")


@pytest.mark.parametrize(("typed", "says"), [
    (Typed("a", "", "{"), r"^Parameters \(a JSON schema of an object\): not valid JSON: .* in line 1, column 2\. Nothing was saved\.$"),
    (Typed("a", "", "", "[1,\n2"), r"^Answer in a demonstration .*: not valid JSON: .* in line 2, column 2\."),
    (Typed("a", "", "", "NaN"), "NaN is not a JSON number"),
    (Typed("a", "", "[" * 100_000), "the nesting is too large"),
    (Typed("a b"), "^The tool 'a b' can't be used: name: "),
    (Typed("a", "", '{"type": "object", "properties": {"x": {"type": "strng"}}}'), r"parameters\.properties\.x\.type: "),
])  # fmt: skip
def test_what_can_t_be_saved_is_said_and_nothing_is_written(workspace, typed, says):
    before = workspace.tools.path.read_bytes()
    with pytest.raises(DataError, match=says):
        panel.save_tool(workspace, None, typed, version(workspace))
    assert workspace.tools.path.read_bytes() == before


def test_a_tool_that_rows_call_is_deleted_at_the_second_press_and_comes_back(workspace):
    before = workspace.tools.path.read_bytes()
    view = panel.delete_tool(workspace, "get_sensitive_data", version(workspace))
    assert view.message == "33 rows call “get_sensitive_data” and would name an unknown tool: press “Delete tool” again to delete it all the same."
    assert (view.opened, view.touched, list(view.tools.tools)) == ("get_sensitive_data", False, ["get_sensitive_data"])
    gone = panel.delete_tool(workspace, "get_sensitive_data", version(workspace), view.armed)
    assert (gone.opened, dict(gone.tools.tools), gone.touched) == (None, {}, True)
    assert words.EMPTY in panel.list_html(workspace, gone.tools)
    back = panel.undo(workspace, None, version(workspace))
    assert (list(back.tools.tools), workspace.tools.path.read_bytes()) == (["get_sensitive_data"], before)


def test_a_tool_that_no_row_calls_is_deleted_at_once_and_none_open_is_told(workspace):
    panel.save_tool(workspace, None, WEATHER, version(workspace))
    assert panel.delete_tool(workspace, "weather", version(workspace), "delete:other").opened is None
    with pytest.raises(DataError, match=r"^No tool is open"):
        panel.delete_tool(workspace, None, version(workspace))


def test_text_that_is_not_saved_is_let_go_at_the_second_press(workspace):
    typed = Typed("half", "", "{")
    view = panel.open_tool(workspace, "get_sensitive_data", None, typed)
    assert (view.opened, view.form, view.message) == (None, None, words.UNSAVED)
    assert panel.open_tool(workspace, "get_sensitive_data", None, typed, "open:other").form is None
    assert panel.open_tool(workspace, "get_sensitive_data", None, typed, view.armed).form.name == "get_sensitive_data"
    new = panel.open_tool(workspace, None, "get_sensitive_data", panel.first(workspace).form)
    assert (new.opened, new.form, new.message) == (None, Typed(parameters=json.dumps(no_parameters(), indent=2)), words.NEW_FORM)


def test_the_tools_that_rows_call_are_added_from_their_calls(workspace):
    own = [{"type": "function", "function": {"name": "mine", "parameters": {"type": "object", "properties": {}}}}]
    bad = calling("huge", **{f"argument_{i}_{'x' * 50}": 1 for i in range(900)})
    mine = calling("mine")
    add_rows(workspace, calling("send", to="Аня", sum=5), calling("send", to="Олег"), replace(mine, extras={"tools": own}), bad)
    assert panel.list_html(workspace, workspace.tools.read()) == (
        '<div class="wb-note warn" role="status">3 rows call what is not in the list: send, huge.</div>'
    )
    view = panel.add_seen(workspace, version(workspace))
    assert (view.opened, view.kind) == ("send", "warn")
    assert view.message.startswith("send was added as the rows call it: write what it does. The tool 'huge' can't be used: parameters: the schema is longer than 64 KiB.")
    assert view.tools.tools["send"].parameters == {
        "type": "object", "properties": {"to": {"type": "string"}, "sum": {"type": "integer"}}, "required": ["to"], "additionalProperties": False,
    }  # fmt: skip
    assert [label for label, _ in panel.choices(workspace, view.tools)] == ["get_sensitive_data · 33 rows", "send · 2 rows"]


def test_no_unknown_tool_is_told(workspace):
    with pytest.raises(DataError, match=r"^Every tool that rows call is in the list already\.$"):
        panel.add_seen(workspace, version(workspace))


def test_two_browsers_never_overwrite_each_other(workspace):
    stale = version(workspace)
    panel.save_tool(workspace, None, WEATHER, stale)
    for act in (lambda: panel.save_tool(workspace, None, Typed("x"), stale), lambda: panel.undo(workspace, None, stale)):
        with pytest.raises(ConflictError):
            act()


def handle(workspace, act, *args):
    return panel.handled(workspace, act)(*args)


def test_a_handler_fills_all_outputs_and_counts_a_change(workspace):
    values = handle(workspace, lambda o, v, a, t: panel.save_tool(workspace, o, t, v), None, version(workspace), "", "weather", "Погода", json.dumps(SCHEMA), "", 4)
    assert (len(values), values[0], values[3], values[4], values[11], values[12]) == (
        14, '<div class="wb-note ok" role="status">The tool “weather” was saved.</div>', version(workspace), "weather", 5, None,
    )  # fmt: skip
    assert "&lt;b&gt;Где&lt;/b&gt;" in values[10]


def test_what_went_wrong_is_said_escaped_and_the_form_stays_as_typed(workspace):
    values = handle(workspace, lambda o, v, a, t: panel.save_tool(workspace, o, t, v), None, "old", "", "<img src=x>", "", "", "", 4)
    assert values[0].startswith('<div class="wb-note bad" role="status">The tool &#x27;&lt;img src=x&gt;&#x27; can&#x27;t be used')
    assert values[3] == version(workspace)  # the next press is meant for what stands there now
    assert all(v == gr.skip() for v in values[6:12])


def test_a_broken_file_is_told_everywhere(workspace):
    workspace.tools.path.write_text("{")
    values = handle(workspace, lambda o, v, a, t: panel.first(workspace), None, "", "", "", "", "", "", 0)
    assert "tools.json is not valid JSON" in values[0]
    assert len(values) == 14


def test_the_fields_of_a_call_are_shown_escaped():
    shown = panel.fields_html(json.dumps({"type": "object", "properties": {"<i>": {"enum": ["<script>", "b"], "description": "x&y"}}, "required": ["<i>"]}))
    assert "<td>&lt;i&gt;</td><td>a choice: &lt;script&gt;, b</td><td>yes</td><td>x&amp;y</td>" in shown
    assert panel.fields_html("").startswith('<div class="wb-note warn"')
    assert words.NO_OBJECT.replace('"', "&quot;") in panel.fields_html("[]")
    assert words.NO_ARGUMENTS in panel.fields_html('{"type": "object"}')


def test_an_unusable_tool_of_the_file_is_named_in_the_list(workspace):
    workspace.tools.path.write_text('[{"name": "<b>"}]')
    assert "Tool 1 (&lt;b&gt;) can&#x27;t be used" in panel.list_html(workspace, workspace.tools.read())
