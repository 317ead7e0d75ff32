"""Call cards: what a reply says, whether its calls are right, and that nothing in it can act on the page."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.calls.dialects import DIALECTS, TAG
from workbench.schema import ToolCall, ToolSpec
from workbench.ui.chat.cards import (
    SHOWN,
    SHOWN_HTML,
    SIGNS_A_MARK,
    brief_card,
    brief_malformed,
    brief_reply_html,
    call_card,
    difference,
    difference_html,
    malformed_card,
    reply_html,
    type_words,
    visible,
)

WEATHER = ToolSpec(
    "get_weather", "", {
        "type": "object", "required": ["city", "days"], "additionalProperties": False,
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "units": {"enum": ["C", "F"]}, "tags": {"type": "array", "items": {"type": "string"}}},
    },
)  # fmt: skip
TOOLS = {"get_weather": WEATHER}
RIGHT = ToolCall("get_weather", {"city": "Тверь", "days": 3})


class Seen(HTMLParser):
    """The elements of a piece of HTML, their attributes, and the text of its tables' cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.cells: list[str] = []
        self._cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self._cell = self._cell or tag == "td"
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag != "td"

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.cells[-1] += data


def test_a_right_call_shows_its_arguments_beside_their_types_and_can_be_run() -> None:
    card = call_card(RIGHT, TAG.render(RIGHT), tools=TOOLS, run_key="4/1")
    assert Seen(card).cells == ["city", "Тверь", "string", "✓", "days", "3", "integer", "✓"]
    assert ">valid<" in card and 'data-run="4/1"' in card and "<ul>" not in card


def test_every_wrong_argument_is_named_and_a_wrong_call_can_not_be_run() -> None:
    card = call_card(ToolCall("get_weather", {"city": 7, "mood": "x"}), "raw", tools=TOOLS, run_key="4/1")
    assert Seen(card).cells == ["city", "7", "string", "✗", "mood", "x", "not in the schema", "✗", "days", "not given", "integer", "✗"]
    for reason in ("“mood” is none of the tool's arguments", "“city” must be text, it is a whole number", "“days” is missing"):
        assert reason.replace("'", "&#x27;") in card
    assert "not valid" in card and "data-run" not in card


def test_an_unknown_tool_is_named_and_without_tools_nothing_is_said() -> None:
    assert "unknown tool" in call_card(ToolCall("nope"), "raw", tools=TOOLS) and "there is no tool “nope”" in call_card(ToolCall("nope"), "raw", tools=TOOLS)
    plain = call_card(ToolCall("nope"), "raw")
    assert "wb-chip" not in plain and "no arguments" in plain


@pytest.mark.parametrize(("schema", "said"), [
    ({"type": "string"}, "string"), ({"type": ["string", "null"]}, "string or null"), ({"enum": ["C", 2]}, 'one of "C", 2'),
    ({"type": "array", "items": {"type": "string"}}, "array of string"), ({}, "any value"), ({"$ref": "#/$defs/Day"}, "Day"), (True, "any value"),
])
def test_types_are_told_as_the_schema_says_them(schema: object, said: str) -> None:
    assert type_words(schema) == said


def test_a_reply_is_its_text_its_calls_and_its_malformed_pieces() -> None:
    text = f"Смотрю.\n{TAG.render(RIGHT)}\nИ ещё: <tool_call name="
    whole = reply_html(text, tools=TOOLS)
    assert [whole.count(mark) for mark in ("Смотрю.", 'data-call="get_weather"', "malformed call", "wb-cursor")] == [1, 1, 1, 0]
    streaming = reply_html(text, done=False, tools=TOOLS)
    assert "malformed call" not in streaming and "a call is being written" in streaming and "wb-cursor" in streaming


HOSTILE = [
    "<img src=x onerror=alert(1)>", "<script>alert(1)</script>", "![x](http://127.0.0.1/x.png)", '" onmouseover="alert(1)', "</pre></details><iframe src=x>",
    "${alert(1)} {{alert(1)}} {% raw %}", "\x1b[2J\x1b]0;title\x07", "a\u200bb\u202egnp.exe\u202c \ufeff\U000e0041", "\ud800 half",
]  # fmt: skip


@pytest.mark.parametrize("bad", HOSTILE)
def test_nothing_that_a_model_says_becomes_an_element_or_an_attribute(bad: str) -> None:
    call = ToolCall("get_weather", {"city": bad, bad: 1, "days": [bad]})
    html = call_card(call, bad, tools=TOOLS, run_key="1") + malformed_card(bad, bad) + reply_html(bad) + reply_html(bad, done=False)
    html += brief_card(ToolCall(bad.replace("\ud800", ""), {bad: bad}), bad) + brief_malformed(bad, bad) + brief_reply_html(bad) + brief_reply_html(f"<tool_call {bad}")
    seen = Seen(html)
    assert seen.tags <= {"div", "span", "table", "tr", "th", "td", "ul", "li", "details", "summary", "pre", "button"}
    assert not [name for name in seen.attributes if name.startswith("on") or name in ("src", "href", "style")]
    html.encode("utf-8")


def test_signs_that_are_not_seen_are_named_and_joiners_of_words_and_pictures_stay() -> None:
    assert visible("a\u202eb\x1b[0m") == 'a<span class="wb-odd">U+202E</span>b<span class="wb-odd">U+001B</span>[0m'
    assert visible("a\x00b\x01c") == 'a<span class="wb-odd">U+0000</span>b<span class="wb-odd">U+0001</span>c'
    assert visible("می\u200cخواهم 👨\u200d👩") == "می\u200cخواهم 👨\u200d👩"
    assert visible("pay\u200dpal") == 'pay<span class="wb-odd">U+200D</span>pal'
    assert visible("Привет,\n\tмир שלום") == "Привет,\n\tмир שלום"


def test_a_megabyte_and_ten_thousand_arguments_are_cut_and_say_so() -> None:
    assert len(visible("x" * 2**20)) < SHOWN + 200 and "1,028,576 more characters" in visible("x" * 2**20)
    call = ToolCall("get_weather", {f"a{i}": "x" * 1000 for i in range(10_000)})
    card = call_card(call, TAG.render(call), tools=TOOLS)
    assert len(card) < 400_000 and "9,940 more arguments" in card and "not checked" in card
    many = reply_html(TAG.render(ToolCall("get_weather")) * 5000)
    assert many.count("data-call") == 200 and "4,800 more pieces" in many


def test_what_is_copied_is_the_models_own_text() -> None:
    assert "data-raw" not in call_card(RIGHT, 'a "b"')
    assert 'data-raw="a\u202eb"' in call_card(RIGHT, "a\u202eb")


CALL, OTHER = TAG.render(RIGHT), TAG.render(ToolCall("get_weather", {"city": "Тверь", "days": 4}))
SWAPPED = TAG.render(ToolCall("get_weather", {"days": 3, "city": "Тверь"}))


@pytest.mark.parametrize(("left", "right", "said"), [
    ("Да", CALL, "learned to call"), (CALL, "Да", "stopped calling"), (CALL, SWAPPED, "same call"), (CALL, OTHER, "different arguments"),
    (CALL, TAG.render(ToolCall("other")), "different calls"), ("Да", "Нет", "both in text"), ("Да", "<tool_call name=", "the call is malformed now"),
    ("<tool_call name=", CALL, "the call is whole now"), ("<tool_call name=", "<tool_call ", "malformed in both"), ("<tool_call name=", "Да", "stopped calling"),
])
def test_what_changed_between_two_panes(left: str, right: str, said: str) -> None:
    assert difference(left, right) == said
    assert f">{said}</span>" in difference_html(left, right)


@pytest.mark.parametrize(("should", "left", "right", "said", "kind"), [
    (False, "Да", CALL, "over-calls now", "warn"), (False, "<tool_call name=", CALL, "over-calls now", "warn"), (False, CALL, "Да", "over-calls no more", "ok"),
    (False, CALL, CALL, "over-calls in both", "warn"), (False, CALL, OTHER, "over-calls in both", "warn"), (False, "Да", "Нет", "both in text", "text"),
    (False, "Да", "<tool_call name=", "the call is malformed now", "bad"), (True, "Да", CALL, "learned to call", "call"), (True, CALL, CALL, "same call", "call"),
    (True, CALL, "Да", "the call is missed now", "warn"), (True, "Да", "Нет", "the call is missed in both", "warn"),
])
def test_what_changed_is_judged_where_it_is_known_what_the_prompt_wants(should: bool, left: str, right: str, said: str, kind: str) -> None:
    assert difference(left, right, should_call=should) == said
    assert f'wb-chip {kind}' in difference_html(left, right, should_call=should)


def test_each_side_is_read_in_its_own_dialect() -> None:
    hermes = DIALECTS["hermes"]
    assert difference(CALL, hermes.render(RIGHT), right_dialect=hermes) == "same call"


def test_a_run_of_one_unseen_sign_has_one_mark_and_many_marks_cut_the_text() -> None:
    assert visible("a" + "\u202e" * 1200 + "b") == 'a<span class="wb-odd">U+202E ×1,200</span>b'
    assert visible("pay\u200d\u200dpal") == 'pay<span class="wb-odd">U+200D ×2</span>pal'
    shown = visible("\u202ea" * SHOWN)
    assert shown.count("wb-odd") == SHOWN // SIGNS_A_MARK
    assert shown.endswith(f'<span class="wb-dim">…{2 * SHOWN - 2 * SHOWN // SIGNS_A_MARK:,} more characters are not shown here</span>')


def test_no_piece_is_begun_once_a_reply_fills_the_page() -> None:
    call = TAG.render(ToolCall("get_sensitive_data"))
    shown = reply_html(("ж" * SHOWN + call) * 100)
    assert len(shown) < 1.2 * SHOWN_HTML
    begun = shown.count("wb-said-text") + shown.count("data-call=")
    assert f"{200 - begun} more pieces of this reply are not shown here." in shown


# -- replies that stand among many ----------------------------------------------------------------------


@given(st.text(alphabet=st.sampled_from('<>"\'&abc/=_tool_call ')))
def test_no_text_makes_a_tag_of_its_own(text: str) -> None:
    made = brief_reply_html(text)
    for tag in ("div", "span", "pre", "details", "summary"):
        made = made.replace(f"</{tag}>", "").replace(f"<{tag}>", "").replace(f"<{tag} class=", "").replace(f"<{tag} ", "")
    assert "<" not in made


def test_a_call_is_a_card_with_its_name_and_formatted_arguments() -> None:
    card = brief_reply_html('Секунду. <tool_call name="get_sensitive_data" arguments="{&quot;год&quot;: 2026}"/>')
    assert 'data-call="get_sensitive_data"' in card
    assert "{\n  &quot;год&quot;: 2026\n}" in card
    assert "Секунду. " in card
    assert "raw text" in card


def test_a_call_that_breaks_off_is_malformed_and_says_why() -> None:
    card = brief_reply_html('Да <tool_call name="get_sens')
    assert "malformed call</span> — the call breaks off before it is closed" in card and "&lt;tool_call name=&quot;get_sens</pre>" in card


def test_a_reply_among_many_is_cut_like_one_in_the_chat_and_its_unseen_signs_are_named() -> None:
    assert "1,028,576 more characters" in brief_reply_html("x" * 2**20) and "U+202E" in brief_reply_html("a\u202eb")
    many = brief_reply_html(TAG.render(ToolCall("f")) * 5000)
    assert many.count("data-call") == 200 and "4,800 more pieces" in many
