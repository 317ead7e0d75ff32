"""What a model, a row or a file says is shown, never run."""

import re

import pytest

from workbench.ui import highlight

EVIL = '<script>alert(1)</script><img src=x onerror="x()">'


@pytest.mark.parametrize(
    "made",
    [
        highlight.note(EVIL), highlight.empty(EVIL), highlight.facts([(EVIL, EVIL)]), highlight.chip(EVIL, "text"),
    ],
)
def test_markup_from_outside_is_escaped_everywhere(made):
    assert "<script" not in made
    assert "<img" not in made
    assert 'onerror="' not in made


# What gradio's page makes marks of in the help of a field, in its order.
MARKS = (r"`([^`]+)`", r"\[([^\]]+)\]\(([^)]+)\)", r"\*\*(.+?)\*\*", r"__(.+?)__", r"\*(.+?)\*", r"(?<![A-Za-z0-9_])_(.+?)_(?![A-Za-z0-9_])")


@pytest.mark.parametrize("text", ["`a`", "[press](http://x)", "**a**", "__a__ and x__b__ c", "*a* 2 * 3 * 4", "_a_", "я_a_", "(_a_b_)", "___a___", "[`_*a*_`](http://x)"])
def test_the_help_of_a_field_holds_no_marks(text):
    shown = highlight.help_text(text)
    assert not [mark for mark in MARKS if re.search(mark, shown)]


def test_the_help_of_a_field_stays_as_it_is_written():
    plain = "One of get_data, YYYY-MM: 1. (a|b) [c] #d, <e> & ~f ~ g_h"
    assert highlight.help_text(plain) == plain and highlight.help_text("2*3 `a`") == "2∗3 ˋaˋ"


@pytest.mark.parametrize(("text", "found"), [("Привет!", "no tool call"), ('<tool_call name="f" arguments="{}"/>', "tool call"), ("<tool_call", "malformed call")])
def test_the_verdict_is_the_dialects(text, found):
    assert highlight.verdict_of(text) == found
    assert found in highlight.verdict_chip(found)
