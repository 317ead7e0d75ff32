"""A sweep as HTML: where it stands, its table, its comparisons. All that a sweep says is escaped."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from workbench.dataset.formats import rows_hash
from workbench.engine.sweeping import Sweeps
from workbench.errors import WorkbenchError
from workbench.training.sweep_report import METRICS, TABLE, Metric, Row, best, compare, table
from workbench.training.sweep_view import SweepView
from workbench.ui import words as common
from workbench.ui.highlight import bar, chip, escape, note
from workbench.ui.words import sweep as words
from workbench.workspace import Workspace

STATE_KIND = {"waiting": "warn", "running": "warn", "finished": "ok", "stopped": "text", "failed": "bad", "interrupted": "bad"}
REASONS = 3  # of failed cells that are told


def progress_html(sweeps: Sweeps, view: SweepView) -> str:
    """State, cells done, what the cell in hand is at, time left, the bar; and for one that ended, why."""
    done, total = len(view.done), len(view.cells)
    parts = [f"<b>{escape(view.spec.name)}</b>", chip(words.STATE_WORDS[view.state], STATE_KIND[view.state]), f"{done} of {total} cells"]
    ticket = sweeps.ticket if sweeps.running() == view.spec.name else None
    share = 0.0
    if view.state == "running" and ticket is not None:
        parts.append(escape(ticket.progress))
        share = ticket.share or 0.0
    left = view.seconds_left()
    if view.state == "running" and left is not None:
        parts.append(f"<b>about {common.duration(left * (1 - share / max(1, view.left)))} left</b>")
    line = "".join(f"<span>{part}</span>" for part in parts)
    return f'<div class="wb-runline">{line}</div>' + bar((done + share) / total if total else 0.0, "run") + _outcome(view)


def _outcome(view: SweepView) -> str:
    if view.state == "interrupted":
        return note(words.INTERRUPTED, "bad")
    ended = view.ended
    made = note(_sentence(ended.reason), "bad" if ended.state == "failed" else "warn") if ended and ended.reason else ""
    reasons = Counter(failed.reason for failed in view.failed.values())
    return made + "".join(note(words.FAILED_CELLS.format(count=n, reason=reason), "bad") for reason, n in reasons.most_common(REASONS))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


@dataclass(frozen=True)
class Drawn:
    """A sweep's table and its sentences as HTML."""

    table: str
    sentences: str


def draw(space: Workspace, view: SweepView, metric: Metric, axis: str | None) -> Drawn:
    """The table of all combinations, and `metric` compared between the values of `axis`."""
    rows = table(view)
    first = {key: best(view, METRICS[key]) for key in TABLE}
    head = "".join(f"<th>{escape(title)}</th>" for title in (words.HEAD_SETTINGS, words.HEAD_CELLS, *(_title(METRICS[key]) for key in TABLE)))
    body = "".join(_line(row, {key for key in TABLE if first[key] == i}) for i, row in enumerate(rows))
    changed = note(words.ROWS_CHANGED, "warn") if rows_changed(space, view) else ""
    made = f'{changed}<div style="overflow-x:auto"><table class="wb-runs"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    sentences = "".join(note(c.sentence(), "ok" if c.winner is not None else "") for c in compare(view, axis, metric)) if axis else note(words.ONE_ONLY)
    return Drawn(made, sentences + f'<div class="wb-dim">{escape(words.INTERVALS)}</div>')


def rows_changed(space: Workspace, view: SweepView) -> bool:
    """Whether the set that the sweep was taken from holds other rows now; False where it was another file."""
    if view.spec.data_name != space.rows.path.name:
        return False
    try:
        return rows_hash(space.rows.read().rows) != view.spec.data_sha256
    except WorkbenchError:
        return False


def _title(metric: Metric) -> str:
    return metric.title + (f", {metric.unit}" if metric.unit in ("s", "GiB") else "")


def _line(row: Row, firsts: set[str]) -> str:
    failed = f" {chip(f'{row.failed} failed', 'bad')}" if row.failed else ""
    done = f'<span style="white-space:nowrap">{row.done} / {row.planned}</span>{failed}'
    cells = [f"<b>{escape(row.label)}</b>", done, *(_cell(row, METRICS[key], key in firsts) for key in TABLE)]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _cell(row: Row, metric: Metric, is_best: bool) -> str:
    found = row.intervals[metric.key]
    if found is None:
        return "–"
    main = "{}/{}".format(*row.counts[metric.key]) if metric.counted else metric.text(found.mean)
    span = f"[{metric.text(found.low)}, {metric.text(found.high)}]" if found.low is not None and found.high is not None else ""
    under = f"{metric.text(found.mean)} % {span}" if metric.counted else span
    star = f' <span title="{escape(words.BEST_HELP)}">{chip(words.BEST, "ok")}</span>' if is_best else ""
    return f'{main}{star}<br><span class="wb-dim" style="white-space:nowrap;font-size:11px">{under}</span>'
