"""Scores: each rate as k of n, counted by what a reply holds and nothing else."""

import pytest

from workbench.dataset.formats import parse_row
from workbench.dataset.store import make_row
from workbench.evaluation.report import MALFORMED_COUNTS, got_text, rate_text, scores_text, wrong_text
from workbench.evaluation.scores import Case, Rate, Scores, make_cases, score, score_reply
from workbench.schema import Message, ToolCall

CALL = '<tool_call name="get_sensitive_data" arguments="{}"/>'
OTHER = '<tool_call name="get_weather" arguments="{}"/>'
WITH_ARGUMENTS = '<tool_call name="get_sensitive_data" arguments="{&quot;a&quot;: 1}"/>'
BROKEN = '<tool_call name="get_sensitive_data" arguments="{'
WANTS = Case(make_row("Баланс?", CALL), (ToolCall("get_sensitive_data"),))
REFRAINS = Case(make_row("Привет", "Привет!"), ())
NOTHING = Rate(0, 0)


def wanting(arguments, *more: ToolCall) -> Case:
    return Case(WANTS.row, (ToolCall("x", arguments), *more))


def scores_of(*pairs: tuple[Case, str]) -> Scores:
    return score([score_reply(case, reply) for case, reply in pairs])


def test_rows_become_cases_by_their_last_answer():
    answer = {"role": "assistant", "tool_calls": [{"name": "y"}]}
    given_beside = parse_row({"messages": [{"role": "user", "content": "x"}, answer]})
    cases = make_cases([WANTS.row, REFRAINS.row, given_beside])
    assert [case.expected for case in cases] == [(ToolCall("get_sensitive_data"),), (), (ToolCall("y"),)]
    assert [case.prompt for case in cases] == ["Баланс?", "Привет", "x"]
    assert cases[0].row.answer == Message("assistant", CALL)


@pytest.mark.parametrize(
    ("case", "reply", "verdict", "right"),
    [
        (WANTS, CALL, "tool call", True), (WANTS, f"Смотрю. {CALL}", "tool call", True), (WANTS, OTHER, "tool call", False),
        (WANTS, CALL * 2, "tool call", False), (WANTS, OTHER + CALL, "tool call", False), (WANTS, WITH_ARGUMENTS, "tool call", True),
        (WANTS, "Баланс равен 5", "no tool call", False), (WANTS, BROKEN, "malformed call", False),
        (WANTS, CALL + BROKEN, "malformed call", False), (REFRAINS, "Привет!", "no tool call", True),
        (REFRAINS, "", "no tool call", True),
        (REFRAINS, CALL, "tool call", False), (REFRAINS, BROKEN, "malformed call", False),
    ],
)  # fmt: skip
def test_a_reply_is_right_or_wrong_by_its_verdict_and_the_tools_it_calls(case, reply, verdict, right):
    scored = score_reply(case, reply)
    assert (scored.verdict, scored.right, scored.reply) == (verdict, right, reply)
    assert scored.malformed is (verdict == "malformed call")


def test_every_rate_of_a_mixed_set_is_exact():
    assert scores_of(
        (WANTS, CALL), (WANTS, WITH_ARGUMENTS), (WANTS, OTHER), (WANTS, CALL + BROKEN), (WANTS, BROKEN), (WANTS, "Нет"),
        (WANTS, CALL * 2),
        (REFRAINS, "Привет!"), (REFRAINS, CALL), (REFRAINS, BROKEN), (REFRAINS, CALL + BROKEN),
    ) == Scores(
        call_recall=Rate(5, 7), over_call_rate=Rate(3, 4), malformed_rate=Rate(4, 11), name_accuracy=Rate(3, 5),
        argument_match=Rate(2, 3),
    )  # fmt: skip


def test_without_cases_every_rate_is_nothing_of_nothing():
    found = score([])
    assert found == Scores(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING)
    assert found.as_json() == {
        name: {"k": 0, "n": 0, "rate": None}
        for name in ("call_recall", "over_call_rate", "malformed_rate", "name_accuracy", "argument_match")
    }  # fmt: skip


def test_cases_that_all_want_a_call_leave_over_calls_uncounted():
    assert scores_of((WANTS, "Нет")) == Scores(Rate(0, 1), NOTHING, Rate(0, 1), NOTHING, NOTHING)


def test_cases_that_want_no_call_leave_recall_uncounted():
    assert scores_of((REFRAINS, CALL)) == Scores(NOTHING, Rate(1, 1), Rate(0, 1), NOTHING, NOTHING)


def test_wrong_names_leave_the_arguments_uncounted():
    assert scores_of((WANTS, OTHER)) == Scores(Rate(1, 1), NOTHING, Rate(0, 1), Rate(0, 1), NOTHING)


def test_several_calls_must_come_with_the_right_names_in_order():
    both = wanting({}, ToolCall("y"))
    x, y = '<tool_call name="x" arguments="{}"/>', '<tool_call name="y" arguments="{}"/>'
    assert scores_of((both, x + y), (both, y + x), (both, x)).name_accuracy == Rate(1, 3)


def called_with(arguments: str) -> str:
    return f"<tool_call name=\"x\" arguments='{arguments}'/>"


@pytest.mark.parametrize(
    ("expected", "written", "equal"),
    [
        ({}, "{}", 1), ({"a": 1, "b": 2}, '{"b": 2, "a": 1}', 1), ({"a": "я"}, '{"a": "\\u044f"}', 1),
        ({"a": [1, 2]}, '{"a": [2, 1]}', 0),
        ({"a": "1"}, '{"a": 1}', 0), ({"a": None}, "{}", 0), ({"a": {"b": [{}]}}, '{"a": {"b": [{}]}}', 1),
        ({"a": True}, '{"a": 1}', 0), ({"a": [0]}, '{"a": [false]}', 0),
    ],
)  # fmt: skip
def test_arguments_match_when_they_are_equal_as_json(expected, written, equal):
    assert scores_of((wanting(expected), called_with(written))).argument_match == Rate(equal, 1)


@pytest.mark.parametrize(
    ("k", "n", "rate", "text"),
    [(14, 15, 0.933, "14/15 (93.3 %)"), (0, 15, 0.0, "0/15 (0.0 %)"), (15, 15, 1.0, "15/15 (100.0 %)"),
     (0, 0, None, "0/0 (nothing to count)"),
     (2, 3, 0.667, "2/3 (66.7 %)")],
)  # fmt: skip
def test_a_rate_is_rounded_to_three_places(k, n, rate, text):
    assert Rate(k, n).rate == rate
    assert Rate(k, n).as_json() == {"k": k, "n": n, "rate": rate}
    assert rate_text(Rate(k, n)) == text


def test_the_report_names_every_rate():
    assert scores_text(scores_of((WANTS, CALL), (REFRAINS, "Привет!"))) == (
        "call recall     1/1 (100.0 %)\nover-call rate  0/1 (0.0 %)\nmalformed rate  0/2 (0.0 %)\n"
        "name accuracy   1/1 (100.0 %)\nargument match  1/1 (100.0 %)"
    )


def test_the_report_says_how_malformed_calls_were_counted_where_there_are_any():
    """As the sentence has it: missed where one was wanted and nothing better stands beside it, an over-call where none was."""
    assert scores_of((WANTS, BROKEN)).call_recall == Rate(0, 1) and scores_of((WANTS, CALL + BROKEN)).call_recall == Rate(1, 1)
    assert scores_of((REFRAINS, BROKEN)).over_call_rate == Rate(1, 1)
    told = scores_text(scores_of((WANTS, BROKEN), (REFRAINS, "Привет!")))
    assert told.splitlines()[:3] == ["call recall     0/1 (0.0 %)", "over-call rate  0/1 (0.0 %)", "malformed rate  1/2 (50.0 %)"]
    assert told.splitlines()[5:] == [MALFORMED_COUNTS] and "is a miss" in MALFORMED_COUNTS and "as calls in the over-call rate" in MALFORMED_COUNTS


def test_a_reply_of_many_calls_is_told_in_a_few_words():
    many = score_reply(WANTS, OTHER * 100)
    assert (many.right, len(got_text(many))) == (False, len("a call of ") + 201) and got_text(many).endswith("…")


def test_the_report_shows_wrong_replies_alone():
    scored = [score_reply(*pair) for pair in ((WANTS, CALL), (WANTS, "Нет"), (REFRAINS, BROKEN), (WANTS, OTHER + CALL))]
    assert wrong_text(scored) == (
        "  wrong: 'Баланс?': expected a call of get_sensitive_data, got no tool call: 'Нет'\n"
        f"  wrong: 'Привет': expected no call, got malformed call: {BROKEN!r}\n"
        f"  wrong: 'Баланс?': expected a call of get_sensitive_data, got a call of get_weather, get_sensitive_data: {(OTHER + CALL)[:80]!r}"
    )
    assert wrong_text(scored[:1]) == ""
