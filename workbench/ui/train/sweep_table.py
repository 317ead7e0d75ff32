"""A sweep as HTML: where it stands, its table, its comparisons. All that a sweep says is escaped."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from workbench.dataset.formats import rows_hash
from workbench.engine.sweeping import Sweeps
from workbench.errors import WorkbenchError, sentence_case
from workbench.training.sweep import hours
from workbench.training.sweep_answer import plain, verdicts
from workbench.training.sweep_report import METRICS, TABLE, Metric, Row, best, compare, table
from workbench.training.sweep_view import SweepView
from workbench.ui.highlight import bar, chip, escape, note
from workbench.ui.words import sweep as words
from workbench.workspace import Workspace

STATE_KIND = {"waiting": "warn", "running": "warn", "finished": "ok", "stopped": "text", "failed": "bad", "interrupted": "bad"}
COSTS = ("s", "GiB")  # the units of what a cell took
REASONS = 3  # of failed cells that are told
MOST_ANSWER = 170  # pixels: an axis of many values has many pairs, and the table must stay in sight


def progress_html(sweeps: Sweeps, view: SweepView) -> str:
    """State, cells done, what the cell in hand is at, time left, the bar; and for one that ended, why."""
    done, total = len(view.done), len(view.cells)
    here, running, share = sweeps.running() == view.spec.name, view.state == "running", 0.0
    state = words.STOPPING if here and sweeps.stopping else words.STATE_WORDS[view.state]
    parts = [f"<b>{escape(view.spec.name)}</b>", chip(state, STATE_KIND[view.state]), f"{done} of {total} cells"]
    before: tuple[str, ...] = ()
    ticket = sweeps.ticket if here else None
    if running and ticket is not None:
        before = sweeps.waits_for()
        parts.append(chip(words.WAITS, "warn") if before else escape(ticket.progress))
        share = ticket.share or 0.0
    parts.append(_left(view, share))
    line = "".join(f"<span>{part}</span>" for part in parts if part)
    said = "" if here or not running else note(words.ELSEWHERE)
    if before:
        text = words.HOLDS_MANY if len(before) > 1 else words.HOLDS
        said = note(sentence_case(text.format(label=before[0], count=len(before) - 1)), "warn")
    return f'<div class="wb-runline">{line}</div>' + bar((done + share) / total if total else 0.0, "run") + said + _outcome(view)


def _left(view: SweepView, share: float) -> str:
    """How long the cells to do still take, by those measured; `share` is how far the one in hand is."""
    seconds = view.seconds_left()
    if not view.left or (seconds is None and view.state != "running"):
        return ""
    if seconds is None:
        return escape(words.LEFT_UNKNOWN)
    time = hours(seconds * (1 - share / view.left))
    return f"<b>{escape((words.LEFT if view.state == 'running' else words.LEFT_LATER).format(time=time))}</b>"


def _outcome(view: SweepView) -> str:
    if view.state == "interrupted":
        return note(words.INTERRUPTED, "bad")
    ended = view.ended
    made = note(_sentence(ended.reason), "bad" if ended.state == "failed" else "warn") if ended and ended.reason else ""
    reasons = Counter(failed.reason for failed in view.failed.values())
    return made + "".join(note(words.FAILED_CELLS.format(count=n, reason=reason), "bad") for reason, n in reasons.most_common(REASONS))


def _sentence(text: str) -> str:
    return sentence_case(text) + ("" if text.endswith(".") else ".")


@dataclass(frozen=True)
class Drawn:
    """A sweep's answer, its table and its sentences as HTML."""

    answer: str
    table: str
    sentences: str


def draw(space: Workspace, view: SweepView, metric: Metric, axis: str | None) -> Drawn:
    """What the sweep answers about `axis`, the table of all combinations, and `metric` compared between the values of `axis`."""
    rows = table(view)
    first = {key: best(view, METRICS[key]) for key in TABLE}
    titles = "".join(f'<th scope="col" title="{escape(words.METRIC_HELP[key])}">{escape(_title(METRICS[key]))}</th>' for key in TABLE)
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in (words.HEAD_SETTINGS, words.HEAD_CELLS)) + titles
    body = "".join(_line(row, {key for key in TABLE if first[key] == i}) for i, row in enumerate(rows))
    changed = note(words.ROWS_CHANGED, "warn") if rows_changed(space, view) else ""
    made = f'{changed}<div style="overflow-x:auto"><table class="wb-runs"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    answer = "".join(note(said, "ok" if shown else "") for said, shown in verdicts(view, axis)) if axis else note(words.ONE_ONLY)
    sentences = "".join(note(plain(c), "ok" if c.winner is not None else "") for c in compare(view, axis, metric)) if axis else ""
    return Drawn(f'<div style="max-height:{MOST_ANSWER}px;overflow-y:auto">{answer}</div>', made, sentences + f'<div class="wb-dim">{escape(words.READING)}</div>')


def rows_changed(space: Workspace, view: SweepView) -> bool:
    """Whether the set that the sweep was taken from holds other rows now; False where it was another file."""
    if view.spec.data_name != space.rows.path.name:
        return False
    try:
        return rows_hash(space.rows.read().rows) != view.spec.data_sha256
    except WorkbenchError:
        return False


def _title(metric: Metric) -> str:
    return metric.title + (f", {metric.unit}" if metric.unit in COSTS else "")


def _line(row: Row, firsts: set[str]) -> str:
    failed = f" {chip(f'{row.failed} failed', 'bad')}" if row.failed else ""
    done = f'<span style="white-space:nowrap">{row.done} / {row.planned}</span>{failed}'
    cells = [f'<b style="white-space:nowrap">{escape(row.label)}</b>', done, *(_cell(row, METRICS[key], key in firsts) for key in TABLE)]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _cell(row: Row, metric: Metric, is_best: bool) -> str:
    found = row.intervals[metric.key]
    if found is None:
        return "–"
    main = "{}/{}".format(*row.counts[metric.key]) if metric.counted else metric.text(found.mean)
    sure = metric.unit not in COSTS  # what a cell took is told, not judged
    span = "" if not sure else f"[{metric.text(found.low)}, {metric.text(found.high)}]" if found.low is not None and found.high is not None else ""
    under = f"{metric.text(found.mean)} % {span}" if metric.counted else span
    star = f' <span title="{escape(words.BEST_HELP)}">{chip(words.BEST, "ok")}</span>' if is_best else ""
    return f'{main}{star}<br><span class="wb-dim" style="white-space:nowrap;font-size:11px">{under}</span>'
