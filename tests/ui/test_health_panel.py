"""The Health panel's verbs, called without a server: what is drawn, escaped, previewed and changed."""

import gradio as gr
import pytest

from workbench.dataset.changes import Change
from workbench.dataset.checks import Balance
from workbench.dataset.health import Finding, Fix, Health
from workbench.dataset.store import make_row
from workbench.errors import DataError
from workbench.ui.charts import BARS, length_histogram
from workbench.ui.data import health_panel as panel
from workbench.ui.words import health as words

CALL = '<tool_call name="get_sensitive_data" arguments="{}"/>'
EVIL = "<img src=x onerror=alert(1)>"
SKIPPED = gr.skip()


def finding(number: int, severity: str = "warn", **fields: object) -> Finding:
    return Finding(f"kind-{number}", severity, f"short {number}", f"title {number}", f"advice {number}", **fields)  # type: ignore[arg-type]


def health(*findings: Finding, **fields: object) -> Health:
    return Health(Balance(33, 37), split=("train",), findings=findings, **fields)  # type: ignore[arg-type]


@pytest.fixture
def messy(workspace):
    """A workbench whose set holds a repeat and four calls on a topic that no text answer touches."""
    rows = workspace.rows.read()
    first = rows.rows[0]
    new = [first, *(make_row(f"{words} ипотеку", CALL) for words in ("закрыть старую", "оформить семейную", "посчитать военную", "взять сельскую"))]
    workspace.rows.change(Change(add=tuple(new), what="rows were added"), rows.version)
    return workspace


def test_the_strip_is_one_line_of_chips_with_the_findings_numbers():
    assert panel.strip_html(health(finding(0, "bad"), finding(1, "info"))) == (
        '<div class="wb-strip"><span class="wb-chip call">33 calls</span> <span class="wb-chip text">37 texts</span> '
        '<button type="button" class="wb-chip bad" data-finding="0" title="title 0">▲ short 0</button> '
        '<button type="button" class="wb-chip " data-finding="1" title="title 1">● short 1</button></div>'
    )


def test_a_healthy_set_says_so_and_an_unchecked_one_that_it_is_being_checked():
    assert '<span class="wb-chip ok">Nothing to mend was found.</span>' in panel.strip_html(health())
    assert words.CHECKING in panel.strip_html(None)


def test_a_long_strip_tells_how_many_more_there_are():
    html = panel.strip_html(health(*(finding(i) for i in range(11))))
    assert html.count("data-finding") == 8 and "and 3 more" in html


def test_what_comes_from_rows_is_escaped_everywhere():
    evil = Finding("topic", "warn", EVIL, EVIL, EVIL, (0,), Fix(EVIL, Change(), ((0, EVIL, EVIL),)), EVIL)
    state = health(evil, per_tool={EVIL: 1}, statuses={EVIL: 1})
    for html in (panel.strip_html(state), panel.finding_html(evil), panel.facts_html(state), panel.preview_html(evil.fix)):
        assert "<img" not in html and "&lt;img" in html


def test_the_figures_tell_kinds_tools_statuses_sides_and_lengths():
    html = panel.facts_html(Health(
        Balance(2, 1), {"look_up": 2}, {"draft": 3}, call_lengths=(5, 9), text_lengths=(4,), unit="tokens", split=("train", "train", "validation"),
    ))  # fmt: skip
    assert html == (
        '<table class="wb-facts"><tr><td>Calls</td><td>2</td></tr><tr><td>Text answers</td><td>1</td></tr><tr><td>calls look_up</td><td>2</td></tr>'
        "<tr><td>draft</td><td>3</td></tr><tr><td>learned</td><td>2</td></tr><tr><td>held back</td><td>1</td></tr>"
        "<tr><td>shortest, median, longest row (tokens)</td><td>4 · 5 · 9</td></tr></table>"
    )


def test_the_chosen_finding_stays_chosen_and_the_worst_takes_its_place():
    state = health(finding(0, "bad", places=(3,)), finding(1))
    assert panel.draw(state, "kind-1")[0].value == "kind-1"
    drawn = panel.draw(state, "gone")
    assert (drawn[0].value, drawn[0].choices) == ("kind-0", [("▲ title 0", "kind-0"), ("▲ title 1", "kind-1")])
    assert (drawn[2].visible, drawn[3].visible, drawn[5].visible) == (True, False, False)
    assert panel.draw(health(), None)[0].visible is False
    assert len(panel.draw(None, None)) == len(drawn) == 8


def test_an_empty_set_says_that_there_is_nothing_to_check():
    assert words.EMPTY in panel.draw(Health(), None)[1]


def test_a_findings_rows_are_shown_in_the_grid(workspace):
    rows = workspace.rows.read()
    rows = workspace.rows.change(Change(add=(rows.rows[3],)), rows.version)
    found = next(f for f in workspace.row_health.of(rows).findings if f.kind == "exact")
    only, tabs = panel.show_rows(workspace, found.key)
    assert (only.version, only.places, tabs.selected) == (rows.version, (3, 70), "rows")
    rows = workspace.rows.change(Change(drop=frozenset({0})), rows.version)
    assert only.now(workspace, rows) == [2, 69]  # the same rows, where they stand now
    workspace.row_health.of(rows)
    assert panel.show_rows(workspace, "no such") == [gr.skip(), gr.skip()]


def test_a_mend_is_previewed_and_then_made_as_one_step(messy):
    before = messy.rows.read()
    table, button = panel.preview(messy, "exact", before.version)
    assert "deleted; row 1 is kept" in table and ">71<" in table
    assert (button.value, button.visible) == ("Apply: Delete 1 row", True)
    messy.rows.change(panel.plan_fix(messy, "exact", before.version), before.version)
    assert len(messy.rows.read().entries) == len(before.entries) - 1
    messy.rows.undo()
    assert messy.rows.read() == before


def test_no_call_rows_are_drafted_for_a_topic_as_they_were_previewed(messy):
    version = messy.rows.read().version
    key = next(f.key for f in messy.row_health.of(messy.rows.read()).findings if f.topic == "ипотеку")
    table, button = panel.preview(messy, key, version)
    assert button.value == "Apply: Draft 4 no-call rows on it"
    change = panel.plan_fix(messy, key, version)
    assert len(change.add) == 4 and all(row.awaits_review for row in change.add)
    assert all(panel.escape(row.request) in table for row in change.add)
    messy.rows.change(change, version)
    now = messy.rows.read()
    assert not any(f.topic == "ипотеку" for f in messy.row_health.of(now).findings)


def test_a_mend_for_rows_that_have_changed_since_is_refused(messy):
    seen = messy.rows.read()
    messy.rows.change(Change(drop=frozenset([0]), what="row 1 was deleted"), seen.version)
    with pytest.raises(DataError, match="The rows have changed"):
        panel.plan_fix(messy, "exact", seen.version)
    assert words.CHANGED in panel.preview(messy, "exact", seen.version)[0]


def test_a_finding_without_a_mend_says_so(workspace):
    with pytest.raises(DataError, match="no mechanical fix"):
        panel.fix_of(workspace, finding(0))
    with pytest.raises(DataError, match="rows have changed"):
        panel.fix_of(workspace, None)
    assert words.NO_FIX in panel.finding_html(finding(0))


def test_a_long_preview_is_cut_and_says_so():
    html = panel.preview_html(Fix("x", Change(), tuple((i, "a" * 500, "b") for i in range(103))))
    assert html.count("<tr") == 101 and "and 3 more" in html and "a" * 400 not in html


def test_the_histogram_stacks_calls_on_texts_in_whole_bars():
    figure = length_histogram([0, 59, 60, 119], [1, 119], "tokens")
    texts, calls = figure.data
    assert (texts.name, calls.name, len(calls.y)) == ("text answers", "calls", BARS)
    assert ([i for i, n in enumerate(calls.y) if n], sum(calls.y), texts.y[0], texts.y[-1]) == ([0, 14, 15, 29], 4, 1, 1)
    assert calls.customdata[1] == "4 to 7"
    assert [len(trace.y) for trace in length_histogram([], [], "tokens").data] == [1, 1]
    assert list(length_histogram([2], [], "tokens").data[1].y) == [0, 0, 1]
