"""What a model, a row or a file says is shown, never run."""

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


@pytest.mark.parametrize(("text", "found"), [("Привет!", "no tool call"), ('<tool_call name="f" arguments="{}"/>', "tool call"), ("<tool_call", "malformed call")])
def test_the_verdict_is_the_dialects(text, found):
    assert highlight.verdict_of(text) == found
    assert found in highlight.verdict_chip(found)
