"""The Health panel: what is wrong with the set, which rows it is about, and mends to look at before they are made."""

from __future__ import annotations

from collections import Counter
from typing import Any

import gradio as gr

from workbench.dataset.changes import Change
from workbench.dataset.families import no_call_rows
from workbench.dataset.health import Finding, Fix, Health
from workbench.errors import DataError
from workbench.ui.charts import length_histogram
from workbench.ui.data.bench import SMALL, Bench, Only
from workbench.ui.data.writing import kept_apart
from workbench.ui.errors import shown
from workbench.ui.highlight import chip, empty, escape, facts, note
from workbench.ui.quiet import QUIET
from workbench.ui.words import health as words
from workbench.workspace import Workspace

CHIPS = 8  # findings in the strip
PREVIEWED = 100  # lines of a preview
LONGEST = 400  # characters of a text in it
NEW_ROWS = 4  # no-call rows drafted at a time
CELL = "padding:3px 8px;vertical-align:top;overflow-wrap:anywhere;border:none;border-bottom:1px solid var(--wb-line)"
# A chip with a finding's number tells it on with its click.
STRIP_JS = """element.addEventListener('click', event => {
  const chip = event.target.closest('[data-finding]');
  if (chip) trigger('click', {finding: Number(chip.dataset.finding)});
});"""


def strip_html(health: Health | None) -> str:
    """One line of chips: calls against texts, and the findings, the worst first; a finding's chip carries its number."""
    if health is None:
        return f'<span class="wb-dim">{words.CHECKING}</span>'
    chips = [chip(f"{health.balance.calls:,} calls", "call"), chip(f"{health.balance.texts:,} texts", "text")]
    for number, finding in enumerate(health.findings[:CHIPS]):
        kind = "" if finding.severity == "info" else finding.severity
        chips.append(
            f'<button type="button" class="wb-chip {kind}" data-finding="{number}" title="{escape(finding.title)}">'
            f"{words.MARKS[finding.severity]} {escape(finding.short)}</button>"
        )
    if len(health.findings) > CHIPS:
        chips.append(f'<span class="wb-dim">{words.MORE.format(count=len(health.findings) - CHIPS)}</span>')
    if not health.findings and health.balance.rows:
        chips.append(chip(words.ALL_WELL, "ok"))
    return f'<div class="wb-strip">{" ".join(chips)}</div>'


def choices(health: Health) -> list[tuple[str, str]]:
    """The findings as choices: (title with its mark, key)."""
    return [(f"{words.MARKS[f.severity]} {f.title}", f.key) for f in health.findings]


def find(health: Health | None, key: str | None) -> Finding | None:
    """The finding that is called `key`, if it still stands."""
    return next((f for f in health.findings if f.key == key), None) if health is not None else None


def finding_html(finding: Finding | None) -> str:
    """A finding's title and advice."""
    if finding is None:
        return f'<div class="wb-dim">{words.NO_FINDING}</div>'
    kind = "" if finding.severity == "info" else finding.severity
    mend = "" if finding.fix or finding.topic else f'<div class="wb-dim">{words.NO_FIX}</div>'
    return f'{note(finding.title, kind)}<div class="wb-pad">{escape(finding.advice)}{mend}</div>'


def facts_html(health: Health) -> str:
    """The figures: rows per kind, tool, status and side of the split."""
    sides = Counter(health.split)
    lines = [("Calls", f"{health.balance.calls:,}"), ("Text answers", f"{health.balance.texts:,}")]
    lines += [(f"calls {name}", f"{count:,}") for name, count in health.per_tool.items()]
    lines += [(status, f"{count:,}") for status, count in sorted(health.statuses.items())]
    lines += [(name, f"{sides[side]:,}") for name, side in (("learned", "train"), ("held back", "validation"), ("left out", "left out")) if sides[side]]
    lengths = sorted((*health.call_lengths, *health.text_lengths))
    if lengths:
        lines.append((f"shortest, median, longest row ({health.unit})", f"{lengths[0]:,} · {lengths[len(lengths) // 2]:,} · {lengths[-1]:,}"))
    return facts(lines)


def fix_of(space: Workspace, finding: Finding | None) -> Fix:
    """The finding's mend; for a topic without no-call rows, drafts of such rows. Raises `DataError` where there is none."""
    if finding is None:
        raise DataError(words.CHANGED)
    if finding.fix is not None:
        return finding.fix
    if not finding.topic:
        raise DataError(words.NO_FIX)
    rows = space.rows.read()
    new = no_call_rows(finding.topic, NEW_ROWS, len(rows.entries), avoid=[*(row.request for row in rows.rows), *kept_apart(space)[0]])
    if not new:
        raise DataError(words.NO_NEW_ROWS.format(topic=finding.topic))
    first = len(rows.entries)
    preview = tuple((first + i, "", f"{row.request} → {row.answer.content}") for i, row in enumerate(new))
    return Fix(words.NEW_ROWS.format(count=len(new)), Change(add=tuple(new), what=words.ADDED.format(count=len(new), topic=finding.topic)), preview)


def preview_html(fix: Fix) -> str:
    """The fix's lines before and after, as a table."""
    head = "".join(f'<th align="left" style="{CELL};white-space:nowrap">{word}</th>' for word in words.PREVIEW_HEAD)
    body = "".join(
        f'<tr style="border:none"><td style="{CELL};white-space:nowrap">{place + 1}</td><td style="{CELL};white-space:pre-wrap" class="wb-dim">{escape(_cut(before))}</td>'
        f'<td style="{CELL};white-space:pre-wrap;min-width:6em">{escape(_cut(after))}</td></tr>'
        for place, before, after in fix.preview[:PREVIEWED]
    )
    more = f'<div class="wb-dim">{words.MORE.format(count=len(fix.preview) - PREVIEWED)}</div>' if len(fix.preview) > PREVIEWED else ""
    table = f'<table style="width:100%;border-collapse:collapse;border:none"><tr style="border:none">{head}</tr>{body}</table>'
    return f'<b>{escape(fix.label)}</b><div style="max-height:300px;overflow:auto">{table}</div>{more}'


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


# -- verbs -----------------------------------------------------------------------------------------


def draw(health: Health | None, key: str | None) -> list[Any]:
    """The panel for a set's health: the list, the chosen finding (the worst if `key` is gone), figures, histogram, no preview."""
    if health is None:
        return [gr.skip()] * 8
    found = find(health, key) or next(iter(health.findings), None)
    listed = gr.Radio(choices(health), value=found.key if found else None, visible=bool(health.findings))
    card = finding_html(found) if found else note(words.ALL_WELL, "ok")
    chart = length_histogram(health.call_lengths, health.text_lengths, health.unit)
    return [listed, card if health.split else empty(words.EMPTY), *_buttons(found), *no_preview(), facts_html(health), chart]


def _buttons(finding: Finding | None) -> list[Any]:
    can_fix = finding is not None and bool(finding.fix or finding.topic)
    return [gr.Button(visible=bool(finding and finding.places)), gr.Button(visible=can_fix)]


def no_preview() -> list[Any]:
    return ["", gr.Button(visible=False)]


def choose(health: Health | None, key: str | None) -> list[Any]:
    """The card, the buttons and no preview, for the finding that was chosen."""
    found = find(health, key)
    return [finding_html(found), *_buttons(found), *no_preview()]


def show_rows(space: Workspace, key: str | None) -> list[Any]:
    """What to narrow the grid to, and the grid's tab."""
    rows = space.rows.read()
    found = find(space.row_health.known(rows), key)
    if found is None or not found.places:
        return [gr.skip(), gr.skip()]
    return [Only(rows.version, found.places), gr.Tabs(selected="rows")]


def preview(space: Workspace, key: str | None, version: str) -> list[Any]:
    """The mend's table and its button, or why there is none."""
    try:
        fix = fix_of(space, _current(space, key, version))
    except DataError as exc:
        return [note(str(exc), "warn"), gr.Button(visible=False)]
    return [preview_html(fix), gr.Button(f"{words.APPLY}: {fix.label}", visible=True)]


def plan_fix(space: Workspace, key: str | None, version: str) -> Change:
    """The change that mends the chosen finding; raises `DataError` if the rows are no longer those that were looked at."""
    return fix_of(space, _current(space, key, version)).change


def _current(space: Workspace, key: str | None, version: str) -> Finding | None:
    rows = space.rows.read()
    if rows.version != version:
        raise DataError(words.CHANGED)
    return find(space.row_health.of(rows), key)


# -- the panel -------------------------------------------------------------------------------------


def build(bench: Bench) -> None:
    """The panel's components and their wires."""
    space = bench.space
    with gr.Row():
        with gr.Column(scale=5, min_width=380):
            listed = gr.Radio([], label=words.CHOOSE, elem_id="health-list", elem_classes="wb-findings")
        with gr.Column(scale=6, min_width=380):
            card = gr.HTML(elem_id="health-finding")
            with gr.Row():
                rows = gr.Button(words.SHOW_ROWS, size="sm", min_width=110, visible=False, elem_id="health-rows")
                look = gr.Button(words.PREVIEW, size="sm", min_width=110, visible=False, elem_id="health-preview")
            table = gr.HTML(elem_id="health-table")
            apply = gr.Button(words.APPLY, variant="primary", size="sm", visible=False, elem_id="health-apply")
    with gr.Row():
        with gr.Column(scale=5, min_width=380):
            chart = gr.Plot(label=words.LENGTHS, show_label=False, elem_id="health-lengths")
        with gr.Column(scale=6, min_width=380):
            figures = gr.HTML(elem_id="health-facts")

    def draw_now(key: str | None) -> list[Any]:
        now = space.rows.read()
        known = space.row_health.known(now)
        return draw(space.row_health.of(now) if known is None and len(now.entries) <= SMALL else known, key)

    everything = [listed, card, rows, look, table, apply, figures, chart]
    bench.drawn_when_seen("health", draw_now, [listed], everything)
    listed.input(shown(lambda key: choose(space.row_health.known(space.rows.read()), key)), listed, [card, rows, look, table, apply], **QUIET)
    rows.click(shown(lambda key: show_rows(space, key)), listed, [bench.only, bench.tabs], show_progress="hidden")
    look.click(shown(lambda key, version: preview(space, key, version)), [listed, bench.version], [table, apply], **QUIET)
    apply.click(bench.changing(lambda key, version: plan_fix(space, key, version)), [listed, bench.version, *bench.inputs], bench.outputs, **QUIET)
