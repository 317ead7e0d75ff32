"""What a model, a row or a file says is shown, never run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.schema import ToolCall
from workbench.ui import highlight

EVIL = '<script>alert(1)</script><img src=x onerror="x()">'


@pytest.mark.parametrize(
    "made",
    [
        highlight.reply_html(EVIL, done=True),
        highlight.reply_html(f'<tool_call name="f" arguments="{{&quot;a&quot;: &quot;{EVIL.replace(chr(34), "")}&quot;}}"/>', done=True),
        highlight.reply_html(f"<tool_call {EVIL}", done=True),
        highlight.call_card(ToolCall(EVIL, {EVIL: EVIL}), EVIL),
        highlight.malformed_card(EVIL, EVIL), highlight.note(EVIL), highlight.empty(EVIL), highlight.facts([(EVIL, EVIL)]), highlight.chip(EVIL, "text"),
    ],
)
def test_markup_from_outside_is_escaped_everywhere(made):
    assert "<script" not in made
    assert "<img" not in made
    assert 'onerror="' not in made


@given(st.text(alphabet=st.sampled_from('<>"\'&abc/=_tool_call ')))
def test_no_text_makes_a_tag_of_its_own(text):
    made = highlight.reply_html(text, done=True)
    for tag in ("div", "span", "pre", "details", "summary"):
        made = made.replace(f"</{tag}>", "").replace(f"<{tag}>", "").replace(f"<{tag} class=", "").replace(f"<{tag} ", "")
    assert "<" not in made


def test_a_call_is_a_card_with_its_name_and_formatted_arguments():
    card = highlight.reply_html('Секунду. <tool_call name="get_sensitive_data" arguments="{&quot;год&quot;: 2026}"/>', done=True)
    assert 'data-call="get_sensitive_data"' in card
    assert "{\n  &quot;год&quot;: 2026\n}" in card
    assert "Секунду. " in card
    assert "raw text" in card


def test_a_half_written_call_is_malformed_only_when_the_reply_is_over():
    half = '<tool_call name="get_sens'
    assert "malformed" not in highlight.reply_html(half, done=False)
    assert "malformed call" in highlight.reply_html(half, done=True)


@pytest.mark.parametrize(("text", "found"), [("Привет!", "no tool call"), ('<tool_call name="f" arguments="{}"/>', "tool call"), ("<tool_call", "malformed call")])
def test_the_verdict_is_the_dialects(text, found):
    assert highlight.verdict_of(text) == found
    assert found in highlight.verdict_chip(found)
