"""A row in the form and back: untouched turns keep every key and letter, touched ones say what was typed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.calls.dialects import message_text
from workbench.dataset.draft import EMPTY, CallDraft, Draft, TurnDraft, draft_of, row_of, same
from workbench.dataset.formats import dump_row, parse_row
from workbench.errors import RowError

TAG = '<tool_call name="get_sensitive_data" arguments="{}"/>'


def row(*turns, **keys):
    return parse_row({"messages": [{"role": r, "content": c} if isinstance(c, str) else {"role": r} | c for r, c in turns]} | keys)


LITERAL = row(("user", "Мой баланс?"), ("assistant", TAG), id=7)
OPENAI = row(
    ("user", "Баланс?"),
    ("assistant", {"content": None, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}', "strict": True}}]}),
    ("tool", {"content": "5", "tool_call_id": "c1"}),
    ("assistant", "У вас 5."),
)


@pytest.mark.parametrize("before", [LITERAL, OPENAI, row(("user", "x"), ("assistant", f"текст {TAG} ещё"))])
def test_an_untouched_row_comes_back_as_it_was(before):
    assert row_of(draft_of(before), before) == before


def test_a_literal_call_stands_apart_from_its_text():
    assert draft_of(row(("user", "x"), ("assistant", f"Смотрю.\n{TAG}"))).turns[1] == TurnDraft("assistant", "Смотрю.", (CallDraft("get_sensitive_data", origin=0),), 1)


def test_text_after_a_call_stays_one_text():
    assert draft_of(row(("user", "x"), ("assistant", f"{TAG} вот"))).turns[1] == TurnDraft("assistant", f"{TAG} вот", (), 1)


def test_changed_arguments_of_an_openai_call_keep_its_id_and_keys():
    draft = draft_of(OPENAI)
    turn = replace(draft.turns[1], calls=(CallDraft("f", '{"a": 2}'),))
    changed = dump_row(row_of(replace(draft, turns=(draft.turns[0], turn, *draft.turns[2:])), OPENAI))["messages"]
    assert changed[1]["tool_calls"] == [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 2}', "strict": True}}]
    assert changed[2] == {"role": "tool", "content": "5", "tool_call_id": "c1"}


CALLS = [{"id": i, "type": "function", "function": {"name": n, "arguments": "{}"}} for i, n in (("c1", "f"), ("c2", "g"))]
TWO = row(("user", "x"), ("assistant", {"content": None, "tool_calls": CALLS}))


@pytest.mark.parametrize(
    ("calls", "ids"),
    [
        (lambda f, g: (g,), [("c2", "g")]), (lambda f, g: (g, f), [("c2", "g"), ("c1", "f")]), (lambda f, g: (f, g, CallDraft("h")), [("c1", "f"), ("c2", "g"), (None, "h")]),
        (lambda f, g: (CallDraft("h"), g), [(None, "h"), ("c2", "g")]), (lambda f, g: (CallDraft("f2"), CallDraft("g2")), [("c1", "f2"), ("c2", "g2")]),
        (lambda f, g: (f, replace(f, name="f2")), [("c1", "f"), (None, "f2")]), (lambda f, g: (replace(g, origin=9, name="h"),), [(None, "h")]),
    ],
)  # fmt: skip
def test_calls_keep_their_own_ids_when_others_come_and_go(calls, ids):
    draft = draft_of(TWO)
    turn = replace(draft.turns[1], calls=calls(*draft.turns[1].calls))
    assert [(c.id, c.name) for c in row_of(replace(draft, turns=(draft.turns[0], turn)), TWO).answer.tool_calls] == ids


def test_where_a_call_came_from_is_no_difference():
    draft = draft_of(TWO)
    assert same(draft, replace(draft, turns=(draft.turns[0], replace(draft.turns[1], calls=tuple(replace(c, origin=None) for c in draft.turns[1].calls)))))


def test_a_call_turned_into_words_leaves_no_call_behind():
    draft = draft_of(OPENAI)
    turn = TurnDraft("assistant", "Нет данных.", (), 1)
    changed = row_of(replace(draft, turns=(draft.turns[0], turn, *draft.turns[2:])), OPENAI)
    assert changed.messages[1].tool_calls == ()
    assert message_text(changed.messages[1]) == "Нет данных."


def test_a_new_row_is_written_as_the_tag():
    draft = Draft((TurnDraft("user", "Мой баланс?"), TurnDraft("assistant", "", (CallDraft("pay", '{"сумма": 5}'),))), note=" проверить ")
    made = row_of(draft)
    assert made.messages[1].content == '<tool_call name="pay" arguments="{&quot;сумма&quot;: 5}"/>'
    assert made.note == "проверить"


@pytest.mark.parametrize(("turns", "says"), [
    ((), "no turns"),
    ((TurnDraft("user", " "), TurnDraft("assistant", "x")), "turn 1, what the user says, is empty"),
    ((TurnDraft("user", "x"), TurnDraft("assistant", "")), "turn 2, the answer, is empty"),
    ((TurnDraft("user", "x"), TurnDraft("assistant", "", (CallDraft(""),))), "names no tool"),
    ((TurnDraft("user", "x"), TurnDraft("assistant", "", (CallDraft("f", "{oops"),))), "not valid JSON"),
    ((TurnDraft("user", "x"), TurnDraft("assistant", "", (CallDraft("f", "[1]"),))), "must be a JSON object"),
    ((TurnDraft("user", "x"), TurnDraft("user", "y")), "last turn must be the assistant's"),
])  # fmt: skip
def test_a_draft_that_makes_no_row_is_refused_by_name(turns, says):
    with pytest.raises(RowError, match=says):
        row_of(Draft(turns))


def test_line_ends_and_the_order_of_arguments_are_no_difference():
    one = Draft((TurnDraft("user", "a\r\nb"), TurnDraft("assistant", "", (CallDraft("f", '{"a": 1, "b": 2}'),))))
    other = Draft((TurnDraft("user", "a\nb", (), 0), TurnDraft("assistant", "", (CallDraft("f", '{"b":2,"a":1}', raw=True),))))
    assert same(one, other)
    assert not same(one, replace(other, note="x"))
    assert not same(EMPTY, one)


text = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(lambda t: t.strip() and "<tool_call" not in t)


@given(st.lists(st.tuples(text, text), min_size=1, max_size=3), st.sampled_from(["draft", "approved"]), st.dictionaries(st.sampled_from(["a", "b"]), st.integers()))
def test_any_row_survives_the_form(pairs, status, extras):
    before = row(*[turn for ask, answer in pairs for turn in (("user", ask), ("assistant", answer))], status=status, **extras)
    assert row_of(draft_of(before), before) == before
