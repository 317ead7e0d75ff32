"""What the health of a set says: each finding exactly when it should come, with its rows, and what its mend would change."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.dataset import findings
from workbench.dataset.changes import Entry, RowSet, apply_change, to_entry
from workbench.dataset.checked import SIMILAR, Finding
from workbench.dataset.checks import Balance
from workbench.dataset.fixes import _as_schema
from workbench.dataset.formats import load_rows
from workbench.dataset.health import SEVERITIES, Health, check_health, load_kept_apart
from workbench.dataset.split import split_examples
from workbench.dataset.store import RowStore
from workbench.schema import Example, Message, RowProblem, ToolCall, ToolSpec

DATA = Path(__file__).resolve().parents[2] / "data"
SCHEMA = {"type": "object", "properties": {"count": {"type": "integer"}, "card": {"type": "string"}}, "required": ["count"], "additionalProperties": False}
TOOLS = {"look_up": ToolSpec("look_up"), "find": ToolSpec("find", parameters=SCHEMA)}
BROKEN = Entry("{broken", None, RowProblem(1, "line", "not valid JSON"))


def ask(request: str, *calls: ToolCall, answer: str = "Да", **fields: object) -> Example:
    """A row that makes the calls, or answers in words."""
    return replace(Example((Message("user", request), Message("assistant", "" if calls else answer, calls))), **fields)  # type: ignore[arg-type]


LOOK = ToolCall("look_up")
# 12 calls and 12 texts, like no other and about nothing in common.
FILLER = [ask(chr(0x4E00 + i) * 4, *([LOOK] if i % 2 else [])) for i in range(24)]


def check(*rows: Example | Entry, filler: bool = True, tools=TOOLS, others=None, **options) -> Health:
    entries = [row if isinstance(row, Entry) else to_entry(row) for row in (*rows, *(FILLER if filler else []))]
    return check_health(RowSet(tuple(entries), "v"), tools, others or {}, share=0.1, seed=42, **options)


def only(health: Health, kind: str) -> Finding:
    (found,) = [f for f in health.findings if f.kind == kind]
    return found


def kinds(health: Health) -> list[str]:
    return [f.kind for f in health.findings if f.kind != "unused-tool"]


def after(finding: Finding, *rows: Example | Entry) -> list[Example | None]:
    """The rows as the finding's mend leaves them, without the filler."""
    assert finding.fix is not None
    entries = [row if isinstance(row, Entry) else to_entry(row) for row in (*rows, *FILLER)]
    return [e.row for e in apply_change(finding.fix.change, entries)][: -len(FILLER)]


def test_the_shipped_rows_are_well():
    rows = RowStore(DATA / "examples.json").read()
    others = {name: load_rows(DATA / name).rows for name in ("cases.jsonl", "demo.jsonl")}
    health = check_health(rows, {"get_sensitive_data": ToolSpec("get_sensitive_data")}, others, share=0.1, seed=42)
    assert health.findings == ()
    assert (health.balance, health.per_tool, health.statuses, health.reviewed) == (Balance(33, 37), {"get_sensitive_data": 33}, {"draft": 70}, 0)
    assert (len(health.call_lengths), len(health.text_lengths), health.unit) == (33, 37, "characters")
    learned, held = split_examples(rows.rows, 0.1, 42)
    assert [i for i, side in enumerate(health.split) if side == "validation"] == held and len(held) == 7
    assert [i for i, side in enumerate(health.split) if side == "train"] == learned


def test_an_empty_set_has_no_findings():
    assert check(filler=False).findings == () and check(filler=False).split == ()


def test_the_filler_itself_is_well():
    assert kinds(check()) == []


def test_lengths_are_whole_rows_in_tokens_where_they_can_be_counted():
    health = check(filler=False, count_tokens=lambda texts: [len(t.split()) for t in texts])
    assert (health.call_lengths, health.unit) == ((), "tokens")
    health = check(ask("one two", LOOK), ask("one", answer="two three"), filler=False, count_tokens=lambda texts: [len(t.split()) for t in texts])
    assert (health.call_lengths, health.text_lengths) == ((5,), (3,))


def test_the_sides_of_the_split_are_told_for_every_line():
    rows = (ask("Раз", pin="validation"), ask("Два", status="rejected"), ask("Три", source="generated:x"), BROKEN, ask("Четыре", pin="train"))
    assert check(*rows).split[:5] == ("validation", "left out", "left out", "", "train")
    assert check(*rows, unreviewed="all").split[2] in ("train", "validation")
    assert check(*rows, unreviewed="approved").split[4] == "left out"


def test_broken_lines_can_be_deleted():
    found = only(check(BROKEN, ask("Раз"), BROKEN), "broken")
    assert (found.severity, found.title, found.places) == ("bad", "2 lines can't be used as rows.", (0, 2))
    assert found.fix is not None and found.fix.preview == ((0, "{broken", "deleted"), (2, "{broken", "deleted"))
    assert after(found, BROKEN, ask("Раз"), BROKEN) == [ask("Раз")]


def test_of_exact_repeats_a_reviewed_one_is_kept_else_the_first():
    rows = (ask("Раз"), ask(" Раз "), ask("Раз", status="approved"), ask("Два"), ask("Два"))
    found = only(check(*rows), "exact")
    assert (found.severity, found.title, found.places) == ("warn", "3 rows repeat another row word for word.", (0, 1, 2, 3, 4))
    assert after(found, *rows) == [rows[2], rows[3]]
    assert found.fix is not None and found.fix.preview[0] == (0, "Раз", "deleted; row 3 is kept")


def test_a_repeat_with_a_note_or_a_pin_is_kept_before_one_without():
    rows = (ask("Раз"), ask("Раз", note="checked with the bank"), ask("Два", source="generated:x"), ask("Два"))
    assert after(only(check(*rows), "exact"), *rows) == [rows[1], rows[3]]


def test_near_duplicates_are_told_without_a_mend():
    found = only(check(ask("Какой у меня баланс?"), ask("какой у меня Баланс")), "near")
    assert (found.severity, found.title, found.places, found.fix) == ("info", "2 rows ask nearly the same as another, in 1 group.", (0, 1), None)


def test_many_near_duplicates_are_a_warning():
    found = only(check(*(ask(f"Какой у меня баланс{mark}") for mark in "?!.,;:")), "near")
    assert (found.severity, found.title) == ("warn", "6 rows ask nearly the same as another, in 1 group: 20% of all rows.")


def test_the_same_words_after_other_turns_are_not_the_same_question():
    before = (Message("user", "Какой курс?"), Message("assistant", "Сто."))
    other = (Message("user", "Какая погода?"), Message("assistant", "Дождь."))
    first, second = ask("А вчера?", LOOK), ask("А вчера?")
    rows = (replace(first, messages=(*before, *first.messages)), replace(second, messages=(*other, *second.messages)))
    assert kinds(check(*rows)) == []
    assert kinds(check(rows[0], replace(second, messages=(*before, *second.messages)))) == ["contradiction", "near"]


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        (ask("Мой баланс", LOOK), ask("мой БАЛАНС!"), "contradiction"),
        (ask("Мой баланс", LOOK), ask("Мой баланс", ToolCall("find", {"count": 1})), "contradiction"),
        (ask("Мой баланс", ToolCall("find", {"count": 2})), ask("Мой баланс", ToolCall("find", {"count": 1})), "contradiction"),
        (ask("Какой у меня баланс", LOOK), ask("Какой у тебя баланс"), "near-miss"),
        (ask("Пять платежей покажи", ToolCall("find", {"count": 5})), ask("Шесть платежей покажи", ToolCall("find", {"count": 6})), None),
        (ask("Мой баланс", answer="Сто"), ask("мой баланс", answer="Двести"), None),
        (ask("Мой баланс", LOOK), ask("мой баланс", LOOK), None),
        (ask("Мой баланс", LOOK), ask("мой баланс", status="rejected"), None),
    ],
)  # fmt: skip
def test_like_requests_with_other_answers_are_told(first, second, kind):
    health = check(first, second)
    assert [f.kind for f in health.findings if f.kind in ("contradiction", "near-miss")] == ([kind] if kind else [])
    if kind:
        assert (only(health, kind).places, only(health, kind).severity) == ((0, 1), "bad" if kind == "contradiction" else "warn")


@pytest.mark.parametrize(
    ("first", "second"),
    [("Поставь -5 градусов", "Поставь 5 градусов"), ("Нужен C++?", "Нужен C"), ("Скидка 1.5", "Скидка 15"), ("Это 50%", "Это 50"), ("Ставь −5", "Ставь 5")],
)
def test_requests_that_differ_in_a_sign_or_a_symbol_are_no_contradiction(first, second):
    assert "contradiction" not in kinds(check(ask(first, ToolCall("find", {"count": -5})), ask(second, ToolCall("find", {"count": 5}))))
    assert "contradiction" not in kinds(check(ask(first, LOOK), ask(second)))
    assert only(check(ask(first, LOOK), ask(f" {first.upper()}!")), "contradiction").places == (0, 1)


def test_symbols_alone_between_two_requests_answered_differently_are_worth_a_look():
    assert only(check(ask("Нужен C++?", LOOK), ask("Нужен C")), "near-miss").places == (0, 1)


def test_long_requests_are_compared_to_their_end():
    long = "слово " * 200
    assert "contradiction" not in kinds(check(ask(long + "покажи", LOOK), ask(long + "скрой")))
    assert "contradiction" in kinds(check(ask(long + "покажи", LOOK), ask(long + "покажи")))


def test_a_call_and_the_answer_to_its_result_are_two_lessons_of_one_request():
    first = ask("Мой баланс", LOOK)
    second = replace(first, messages=(*first.messages, Message("tool", "5"), Message("assistant", "У вас 5.")))
    assert kinds(check(first, second)) == []
    assert kinds(check(second, replace(second, messages=(*second.messages[:3], Message("assistant", "", (LOOK,)))))) == ["contradiction", "near"]


def test_rows_with_other_tools_or_other_keys_in_a_turn_repeat_nothing():
    tool = {"type": "function", "function": {"name": "look_up"}}
    row = ask("Мой баланс", LOOK)
    others = (
        replace(row, extras={"tools": [tool]}), replace(row, extras={"tools": [tool, "find"]}),
        replace(row, messages=(replace(row.messages[0], extras={"name": "Аня"}), row.answer)),
        replace(row, messages=(row.messages[0], replace(row.answer, tool_calls=(replace(LOOK, extras={"strict": True}),)))),
    )
    assert "exact" not in kinds(check(row, *others))
    assert only(check(others[0], replace(others[0], messages=(row.messages[0], replace(row.answer, tool_calls=(replace(LOOK, id="c7"),))))), "exact").places == (0, 1)


def test_pins_that_put_like_rows_on_both_sides_are_told_and_taken_off():
    rows = (ask("Какой у меня баланс", pin="train"), ask("какой у меня баланс?", pin="validation"), ask("Какой у меня баланс."))
    found = only(check(*rows), "across")
    assert (found.severity, found.places) == ("bad", (0, 1, 2))
    assert [row.pin for row in after(found, *rows) if row] == ["", "", ""]
    assert found.fix is not None and found.fix.preview[1] == (1, "pinned to validation: какой у меня баланс?", "no pin")
    assert "across" not in kinds(check(*(replace(r, pin="train") for r in rows)))


def test_rows_of_the_cases_and_the_demonstration_are_leaks_and_can_be_rejected():
    rows = (ask("Что такое баланс карты"), ask("Что такое вклад"))
    found = only(check(*rows, others={"cases.jsonl": [ask("Кто ты?")], "demo.jsonl": [ask("что такое баланс карты?")]}), "leak")
    assert (found.severity, found.title, found.places) == ("bad", "1 row stands in demo.jsonl nearly word for word.", (0,))
    assert [row.status for row in after(found, *rows) if row] == ["rejected", "draft"]
    assert found.fix is not None
    assert found.fix.preview == ((0, "draft: Что такое баланс карты", "rejected: nearly “что такое баланс карты?” of demo.jsonl"),)
    rejected = [replace(rows[0], status="rejected"), rows[1]]
    assert kinds(check(*rejected, others={"demo.jsonl": [ask("что такое баланс карты?")]})) == []


def test_files_that_can_t_be_compared_are_told():
    found = only(check(uncompared={"cases.jsonl": "line 3 is not valid JSON."}), "unread")
    assert (found.severity, found.title, found.places) == ("warn", "The rows were not compared with cases.jsonl.", ())
    assert found.advice.startswith("line 3 is not valid JSON. Mend it: ")


def test_what_is_kept_apart_is_read_with_the_reasons_why_some_of_it_is_not(tmp_path):
    assert load_kept_apart(tmp_path) == ({}, {})
    (tmp_path / "cases.jsonl").write_bytes(b"\xff\xfe")
    shutil.copy(DATA / "demo.jsonl", tmp_path)
    found, reasons = load_kept_apart(tmp_path)
    assert (found, list(reasons)) == ({"demo.jsonl": load_rows(DATA / "demo.jsonl").rows}, ["cases.jsonl"])
    assert "UTF-8" in reasons["cases.jsonl"]


def test_wording_that_is_only_similar_to_a_test_is_worth_a_look():
    assert SIMILAR == 75.0
    found = only(check(ask("a" * 20), others={"cases.jsonl": [ask("a" * 16 + "bbbb")]}), "wording")
    assert (found.severity, found.fix, found.places) == ("info", None, (0,))
    assert kinds(check(ask("a" * 20), others={"cases.jsonl": [ask("a" * 14 + "bbbbbb")]})) == []


def test_calls_of_unknown_tools_are_told_with_a_guess():
    found = only(check(ask("Раз", ToolCall("lookup")), ask("Два", ToolCall("else"), LOOK)), "unknown-tool")
    assert (found.severity, found.title, found.places) == ("bad", "2 rows call lookup and else, which are no known tools.", (0, 1))
    assert found.advice.endswith("lookup may be meant as look_up.")
    assert only(check(ask("Раз", LOOK), tools={}), "unknown-tool").severity == "warn"


def test_tools_that_a_row_brings_along_are_known():
    own = {"type": "function", "function": {"name": "own", "parameters": SCHEMA}}
    rows = (ask("Раз", ToolCall("own", {"count": 1}), extras={"tools": [own]}), ask("Два", ToolCall("named"), extras={"tools": ["named"]}))
    assert kinds(check(*rows)) == []
    assert only(check(ask("Раз", ToolCall("own", {"count": "x"}), extras={"tools": [own]})), "schema").places == (0,)


def test_arguments_that_differ_by_type_alone_are_turned_into_the_schemas():
    tag = Message("assistant", 'Ищу. <tool_call name="find" arguments="{&quot;count&quot;: &quot;5&quot;, &quot;card&quot;: 12}"/>')
    rows = (
        ask("Раз", ToolCall("find", {"count": "7"}, as_text=False)), Example((Message("user", "Два"), tag)),
        ask("Три", ToolCall("find", {"count": "много"})), ask("Четыре", ToolCall("find", {"count": 3})),
    )  # fmt: skip
    found = only(check(*rows), "schema")
    assert (found.severity, found.title, found.places) == ("bad", "3 rows call a tool with arguments that break its schema.", (0, 1, 2))
    assert found.fix is not None
    assert found.fix.preview == ((0, 'find {"count": "7"}', 'find {"count": 7}'), (1, 'find {"count": "5", "card": 12}', 'find {"count": 5, "card": "12"}'))
    mended = after(found, *rows)
    assert mended[0] == ask("Раз", ToolCall("find", {"count": 7}, as_text=False))
    assert mended[1] is not None
    assert mended[1].answer.content == 'Ищу. <tool_call name="find" arguments="{&quot;count&quot;: 5, &quot;card&quot;: &quot;12&quot;}"/>'
    assert mended[2:] == [*rows[2:]]


def test_calls_that_would_take_too_long_to_check_are_told_as_unchecked(monkeypatch):
    monkeypatch.setattr(findings, "CHECK_WORK", 5000)
    many = ToolSpec("many", parameters={"type": "object", "properties": {"a": {"type": "array", "items": {"anyOf": [{"const": i} for i in range(500)]}}}})
    rows = [ask(name, ToolCall("many", {"a": [499] * (5 + i)})) for i, name in enumerate(("Раз", "Два", "Три"))]
    health = check(*rows, tools=TOOLS | {"many": many})
    assert (only(health, "unchecked").severity, only(health, "unchecked").title[:26]) == ("warn", "3 calls were not checked: ")
    assert "schema" not in kinds(health)


def test_arguments_that_no_type_mends_have_no_button():
    assert only(check(ask("Раз", ToolCall("find", {"count": 1, "more": 2})), ask("Два", ToolCall("find"))), "schema").fix is None


@pytest.mark.parametrize(
    ("kind", "given_value", "turned"),
    [
        ("integer", "5", 5), ("integer", " -12 ", -12), ("integer", 5.0, 5), ("integer", "5.5", "5.5"), ("integer", "05", "05"), ("integer", "٣", "٣"),
        ("integer", "9" * 400, "9" * 400), ("integer", 5.5, 5.5), ("number", "1.50", 1.5), ("number", "7", 7), ("number", "1e5", "1e5"), ("number", "nan", "nan"),
        ("boolean", "True", True), ("boolean", "да", "да"), ("boolean", 1, 1), ("string", 5, "5"), ("string", True, "true"), ("string", [1], [1]),
        ("string", None, None), ("null", "null", "null"),
    ],
)  # fmt: skip
def test_values_are_turned_only_where_nothing_is_lost(kind, given_value, turned):
    found = _as_schema({"a": [given_value]}, {"properties": {"a": {"type": "array", "items": {"type": kind}}}})
    assert found == {"a": [turned]} and type(found["a"][0]) is type(turned)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))
@settings(deadline=None)
def test_without_a_schema_for_it_no_value_is_touched(value):
    assert _as_schema({"a": value}, {"properties": {"b": {"type": "integer"}}}) == {"a": value}
    assert _as_schema(value, "no schema") == value


@pytest.mark.parametrize(
    ("calls", "texts", "kind", "severity", "title"),
    [
        (24, 0, "one-kind", "bad", "All 24 rows are calls."), (0, 24, "one-kind", "bad", "All 24 rows are text answers."),
        (25, 5, "imbalance", "warn", "25 of 30 rows are calls."), (5, 25, "imbalance", "warn", "5 of 30 rows are calls."),
        (21, 9, None, None, None), (9, 21, None, None, None),
    ],
)  # fmt: skip
def test_a_lopsided_set_is_told(calls, texts, kind, severity, title):
    health = check(*(ask(chr(0x5E00 + i) * 4, *([LOOK] if i < calls else [])) for i in range(calls + texts)), filler=False)
    assert kinds(health) == ([kind] if kind else [])
    if kind:
        assert (only(health, kind).severity, only(health, kind).title) == (severity, title)


def test_a_topic_of_calls_alone_names_its_word():
    rows = [ask(f"{words} баланс", LOOK) for words in ("мой", "нужен общий", "проверь накопительный", "семейный", "какой вчера был")]
    found = only(check(*rows), "topic")
    assert (found.severity, found.title, found.topic) == ("warn", "5 calls are about “баланс”, no text answer is: expect over-calls.", "баланс")
    assert (found.places, found.key, found.fix) == ((0, 1, 2, 3, 4), "topic:баланс", None)
    assert only(check(*rows[:4]), "topic").severity == "info"


def test_generated_drafts_wait_and_are_told():
    found = only(check(ask("Раз", source="generated:families"), ask("Два", source="generated:families", status="approved")), "review")
    assert (found.title, found.places, found.fix) == ("1 generated draft waits for review.", (0,), None)


def test_white_space_around_texts_is_trimmed_and_nothing_else():
    rows = (ask(" Раз\n", answer="Да "), ask("Два  раза"))
    found = only(check(*rows), "space")
    assert (found.title, found.places) == ("1 row has white space before or after a text.", (0,))
    assert found.fix is not None and found.fix.preview == ((0, '" Раз\\n"', '"Раз"'),)
    assert after(found, *rows) == [ask("Раз"), rows[1]]


def test_a_tool_that_no_row_calls_is_told():
    assert only(check(), "unused-tool").title == "No row calls find."
    assert check().per_tool == {"look_up": 12, "find": 0}


@pytest.mark.parametrize(("count", "severity"), [(1, "warn"), (2, "info"), (19, "info"), (20, None)])
def test_few_rows_are_told(count, severity):
    found = [f.severity for f in check(*FILLER[:count], filler=False).findings if f.kind == "few"]
    assert found == ([severity] if severity else [])


def test_the_worst_findings_come_first_and_every_place_is_a_line():
    rows = (BROKEN, ask(" Мой баланс", LOOK), ask("мой баланс"), ask("Раз", ToolCall("lost"), source="generated:x"), ask("Раз", ToolCall("find", {"count": "1"})))
    health = check(*rows)
    assert [SEVERITIES.index(f.severity) for f in health.findings] == sorted(SEVERITIES.index(f.severity) for f in health.findings)
    assert all(0 <= p < len(rows) + len(FILLER) for f in health.findings for p in f.places)
    assert len({f.key for f in health.findings}) == len(health.findings)


def test_rows_that_the_model_refuses_are_found_with_the_reasons():
    rows = [ask("один"), ask("два", status="rejected"), ask("три")]
    seen: list[list[int]] = []

    def refused(active):
        seen.append(list(active)[:3])
        return {0: "the template refuses the turns", 2: "the row has 900 tokens"}

    found = only(check(*rows, refused=refused), "unlearnable")
    assert seen == [[0, 2, 3]]  # a rejected row is no lesson anyway
    assert (found.severity, found.short, found.places) == ("bad", "2 can't be learned", (0, 2))
    assert found.title == "2 rows can't be learned: the template refuses the turns; the row has 900 tokens."
    one = only(check(*rows, refused=lambda active: {2: "the row has 900 tokens"}), "unlearnable")
    assert one.title == "1 row can't be learned: the row has 900 tokens." and one.advice.endswith("Row 3 is the first.")
    assert "unlearnable" not in kinds(check(*rows, refused=lambda active: {}))
