"""A tool's new name in the rows: every call and mention of it, and not a letter more."""

from __future__ import annotations

from workbench.dataset.formats import dump_row, parse_row
from workbench.dataset.rename import rename_calls

USER = {"role": "user", "content": 'Вызови <tool_call name="a" arguments="{}"/>'}
TEXT = """Вот: <tool_call name="a" arguments='{"name": "a"}' />\n<tool_call name="ab" arguments="{}"/>"""


def test_calls_results_and_named_tools_are_renamed_where_they_stand() -> None:
    item = {"id": "c1", "type": "function", "function": {"name": "a", "arguments": '{"a":1}'}}
    value = {"messages": [USER, {"role": "assistant", "content": TEXT}, {"role": "tool", "content": "a", "name": "a"}, {"role": "assistant", "content": "", "tool_calls": [item]}],
             "tools": ["a", "ab"], "status": "rejected"}
    found = rename_calls({4: parse_row(value)}, "a", "new")
    item = item | {"function": {"name": "new", "arguments": '{"a":1}'}}
    assert dump_row(found[4]) == {
        "messages": [USER, {"role": "assistant", "content": TEXT.replace('name="a"', 'name="new"')}, {"role": "tool", "content": "a", "name": "new"},
                     {"role": "assistant", "content": "", "tool_calls": [item]}],
        "tools": ["new", "ab"], "status": "rejected",
    }


def test_rows_of_other_tools_and_those_that_bring_their_own_stay() -> None:
    call = {"role": "assistant", "content": '<tool_call name="a" arguments="{}"/>'}
    own = parse_row({"messages": [USER, call], "tools": [{"name": "a", "parameters": {}}]})
    other = parse_row({"messages": [USER, {"role": "assistant", "content": 'name="a"'}]})
    assert rename_calls({0: own, 1: other}, "a", "new") == {}
