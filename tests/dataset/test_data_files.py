"""The rows, the cases and the demo prompts that come with the workbench: counts, form, and no prompt on two sides."""

from itertools import combinations
from pathlib import Path

import pytest

from workbench.calls.dialects import message_calls
from workbench.dataset.checks import Balance, balance, is_call, leaks, near_duplicates, normalise
from workbench.dataset.formats import load_rows
from workbench.schema import ToolCall

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "examples": ROOT / "data" / "examples.json", "cases": ROOT / "data" / "cases.jsonl",
    "demo": ROOT / "data" / "demo.jsonl", "dev": ROOT / "benchmarks" / "dev_cases.jsonl",
}  # fmt: skip
CALL = '<tool_call name="get_sensitive_data" arguments="{}"/>'


def prompts(name: str) -> list[str]:
    return [row.request for row in load_rows(FILES[name]).rows]


@pytest.mark.parametrize(
    ("name", "calls", "texts"), [("examples", 33, 37), ("cases", 15, 15), ("demo", 4, 2)]
)
def test_the_files_hold_as_many_calls_and_texts_as_they_should(name, calls, texts):
    assert balance(load_rows(FILES[name]).rows) == Balance(calls, texts)


def test_the_development_cases_hold_both_kinds_in_equal_number():
    counts = balance(load_rows(FILES["dev"]).rows)
    assert counts.calls == counts.texts > 0


@pytest.mark.parametrize("name", FILES)
def test_every_line_is_a_usable_row_of_one_request_and_one_answer(name):
    loaded = load_rows(FILES[name])
    assert loaded.problems == ()
    assert {tuple(m.role for m in row.messages) for row in loaded.rows} == {("user", "assistant")}
    assert {row.status for row in loaded.rows} == {"draft"}


@pytest.mark.parametrize("name", FILES)
def test_the_only_call_is_get_sensitive_data_without_arguments(name):
    called = [row for row in load_rows(FILES[name]).rows if is_call(row)]
    assert {row.answer.content for row in called} == {CALL}
    assert all(message_calls(row.answer) == (ToolCall("get_sensitive_data"),) for row in called)
    assert all("tool_call" not in row.answer.content for row in load_rows(FILES[name]).rows if not is_call(row))


@pytest.mark.parametrize("name", FILES)
def test_no_two_prompts_of_a_file_ask_nearly_the_same(name):
    found = prompts(name)
    assert [(found[p.first], found[p.second]) for p in near_duplicates(found)] == []


@pytest.mark.parametrize(("first", "second"), list(combinations(FILES, 2)))
def test_no_prompt_stands_in_two_files_nor_one_nearly_like_it(first, second):
    left, right = prompts(first), prompts(second)
    assert {normalise(p) for p in left} & {normalise(p) for p in right} == set()
    assert [(left[p.first], right[p.second], round(p.similarity)) for p in leaks(left, right)] == []


def test_the_texts_to_learn_are_real_answers_and_not_one_phrase():
    texts = [row.answer.content for row in load_rows(FILES["examples"]).rows if not is_call(row)]
    assert len(set(texts)) == len(texts)
    assert min(len(t.split()) for t in texts) >= 2
