"""What a sweep says: a row for each combination of settings, and pairs of values compared on the same folds and seeds. No torch."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

from workbench.training.statistics import CONFIDENCE, Difference, Interval, mean_interval, paired, wilson
from workbench.training.sweep import combinations
from workbench.training.sweep_axes import setting_words
from workbench.training.sweep_view import CellDone, SweepView


@dataclass(frozen=True)
class Metric:
    """A figure of a cell. `better` is 1 where more is better and -1 where less is; `counted` figures are k of n.

    `scale` and `digits` are for showing: rates are shown in percent, their differences in points.
    """

    key: str
    title: str
    better: int
    counted: bool
    unit: str
    scale: float = 1.0
    digits: int = 3

    def of(self, cell: CellDone) -> float | None:
        """The cell's figure; None where there was nothing to count."""
        value = getattr(cell, self.key)
        if self.counted:
            return value[0] / value[1] if value[1] else None
        return float(value)

    def text(self, value: float) -> str:
        return f"{value * self.scale:.{self.digits}f}"

    def signed(self, value: float) -> str:
        """With its sign, the minus as typography wants it; zero has none."""
        text = f"{value * self.scale:+.{self.digits}f}"
        return text.lstrip("+-") if not float(text) else text.replace("-", "−")


METRICS = {
    m.key: m for m in (
        Metric("loss", "validation loss", -1, False, "nats per token"),
        Metric("call_recall", "call recall", 1, True, "%", 100, 1),
        Metric("over_calls", "over-call rate", -1, True, "%", 100, 1),
        Metric("right", "right decisions", 1, True, "%", 100, 1),
        Metric("malformed", "malformed calls", -1, True, "%", 100, 1),
        Metric("seconds", "time of a cell", -1, False, "s", 1, 1),
        Metric("peak_memory_gib", "peak memory", -1, False, "GiB", 1, 2),
    )
}  # fmt: skip
TABLE = ("loss", "call_recall", "over_calls", "right", "malformed", "seconds", "peak_memory_gib")


@dataclass(frozen=True)
class Row:
    """One combination: how many of its cells are done or failed, and each metric's interval (None where nothing was measured)."""

    values: Mapping[str, Any]
    label: str
    done: int
    failed: int
    planned: int
    intervals: Mapping[str, Interval | None]
    counts: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Comparison:
    """Two values of an axis: `second` minus `first` in one metric, on the same folds and seeds; None without a pair."""

    path: str
    first: Any
    second: Any
    metric: Metric
    difference: Difference | None

    @property
    def winner(self) -> Any | None:
        """The better value, where a difference is shown."""
        sign = self.difference.sign * self.metric.better if self.difference else 0
        return {1: self.second, -1: self.first}.get(sign)

    def sentence(self) -> str:
        """As in `8-bit minus 4-bit: validation loss −0.012 [−0.051, +0.027]: no difference shown by these 20 pairs.`"""
        first, second = setting_words(self.path, self.first), setting_words(self.path, self.second)
        head = f"{second} minus {first}: {self.metric.title}"
        if self.difference is None:
            return f"{head}: no pair is measured yet."
        found, unit = self.difference.interval, " points" if self.metric.counted else ""
        mean = self.metric.signed(found.mean) + unit
        if found.low is None or found.high is None:
            return f"{head} {mean}: one pair tells nothing of chance."
        pairs = f"these {found.n} pairs"
        span = f"[{self.metric.signed(found.low)}, {self.metric.signed(found.high)}]"
        if self.difference.shown:
            return f"{head} {mean} {span}: {second if self.winner == self.second else first} is better, shown by {pairs}."
        if found.mean == found.low == found.high == 0:
            return f"{head}: the same in all {found.n} pairs."
        return f"{head} {mean} {span}: no difference shown by {pairs}."


def overlap(view: SweepView) -> float:
    """What the folds' shared training rows add to the variance of a mean: held back / learned (see `mean_interval`)."""
    return 1 / (view.spec.folds - 1)


def table(view: SweepView) -> list[Row]:
    """Every combination of the compared axes; a sweep over seeds alone has one row."""
    return [_row(view, values) for values in combinations(view.spec)]


def _row(view: SweepView, values: Mapping[str, Any]) -> Row:
    own = [cell.key for cell in view.cells if all(cell.values[path] == value for path, value in values.items())]
    done = [view.done[key] for key in own if key in view.done]
    counts = {m.key: _sum(getattr(d, m.key) for d in done) for m in METRICS.values() if m.counted}
    # The same rows are asked again with every seed: what the second time adds is not counted as new rows.
    repeats = -(-len(done) // view.spec.folds)
    intervals = {
        m.key: wilson(*counts[m.key], repeats=repeats) if m.counted
        else _above_zero(mean_interval([x for d in done if (x := m.of(d)) is not None], overlap=overlap(view))) if done else None
        for m in METRICS.values()
    }  # fmt: skip
    label = ", ".join(setting_words(path, value) for path, value in values.items()) or "as set"
    return Row(values, label, len(done), sum(key in view.failed for key in own), len(own), intervals, counts)


def _above_zero(found: Interval) -> Interval:
    """No loss, time or memory lies below zero, however few cells tell of it."""
    return found if found.low is None else replace(found, low=max(0.0, found.low))


def _sum(pairs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    both = list(pairs)
    return sum(k for k, _ in both), sum(n for _, n in both)


def compare(view: SweepView, path: str, metric: Metric) -> list[Comparison]:
    """Every two values of an axis, each fold of each seed one pair; over other axes a pair's two sides are averaged first."""
    return [
        Comparison(path, first, second, metric, _difference(view, {path: first}, {path: second}, metric))
        for first, second in itertools.combinations(view.spec.axes[path], 2)
    ]


def best(view: SweepView, metric: Metric) -> int | None:
    """The place of the combination that is better than every other one, each difference shown; None where none is.

    The confidence of each comparison is raised for their number (Bonferroni), so that all hold together with 95 %.
    """
    rows = table(view)
    known = [(i, row.intervals[metric.key]) for i, row in enumerate(rows)]
    means = [(interval.mean * metric.better, i) for i, interval in known if interval is not None]
    if len(rows) < 2 or len(means) < len(rows):
        return None
    place = max(means, key=lambda pair: (pair[0], -pair[1]))[1]
    confidence = 1 - (1 - CONFIDENCE) / (len(rows) - 1)
    for i, row in enumerate(rows):
        found = _difference(view, row.values, rows[place].values, metric, confidence) if i != place else None
        if i != place and (found is None or found.sign * metric.better <= 0):
            return None
    return place


def _difference(
    view: SweepView, first: Mapping[str, Any], second: Mapping[str, Any], metric: Metric, confidence: float = CONFIDENCE
) -> Difference | None:
    """Cells with the values `second` minus those with `first`, all else equal."""
    values = {cell.key: metric.of(view.done[cell.key]) for cell in view.cells if cell.key in view.done}
    pairs: dict[tuple[int, int], list[tuple[float, float]]] = {}
    twins = {(cell.repeat, cell.fold, _rest(cell.values, second)): cell for cell in view.cells if _has(cell.values, second)}
    for cell in view.cells:
        twin = twins.get((cell.repeat, cell.fold, _rest(cell.values, first))) if _has(cell.values, first) else None
        if twin is None:
            continue
        a, b = values.get(cell.key), values.get(twin.key)
        if a is not None and b is not None:
            pairs.setdefault((cell.repeat, cell.fold), []).append((a, b))
    if not pairs:
        return None
    left = [fmean(a for a, _ in both) for both in pairs.values()]
    right = [fmean(b for _, b in both) for both in pairs.values()]
    return paired(left, right, overlap=overlap(view), confidence=confidence)


def _has(values: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(values[path] == value for path, value in wanted.items())


def _rest(values: Mapping[str, Any], without: Mapping[str, Any]) -> str:
    return repr([(path, value) for path, value in values.items() if path not in without])


def seconds_per_step(views: Iterable[SweepView], model_name: str, on_gpu: bool) -> float | None:
    """The median time of a cell by its optimizer steps, measuring included, from all sweeps of that model on such a machine."""
    found = [
        d.seconds / d.steps for view in views if view.spec.model_name == model_name
        for d in view.done.values() if d.steps and (d.device != "CPU") == on_gpu
    ]
    return median(found) if found else None


# -- to take away ---------------------------------------------------------------------------------


def as_json(view: SweepView) -> dict[str, Any]:
    """The whole sweep as plain values: its state, a row per combination with intervals, all comparisons, every cell."""
    ended, rows = view.ended, table(view)
    return {
        "name": view.spec.name, "folder": str(view.folder), "state": view.state, "reason": ended.reason if ended else "",
        "model": view.spec.model_name, "data": view.spec.data_name, "rows": view.spec.data_rows, "folds": view.spec.folds,
        "seeds": list(view.spec.seeds), "axes": {path: list(values) for path, values in view.spec.axes.items()},
        "cells": {"planned": len(view.cells), "done": len(view.done), "failed": len(view.failed)},
        "combinations": [_combination(row) for row in rows],
        "best": {m.key: rows[place].label if (place := best(view, m)) is not None else None for m in METRICS.values()},
        "comparisons": [_comparison(c) for path in view.spec.compared for m in METRICS.values() for c in compare(view, path, m)],
        "results": [cell.model_dump(exclude={"type"}) for cell in view.done.values()],
        "failures": [cell.model_dump(exclude={"type"}) for cell in view.failed.values()],
    }  # fmt: skip


def _combination(row: Row) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for m in METRICS.values():
        interval = row.intervals[m.key]
        figures[m.key] = None if interval is None else {"mean": interval.mean, "low": interval.low, "high": interval.high}
        if interval is not None and m.counted:
            figures[m.key] |= {"k": row.counts[m.key][0], "n": row.counts[m.key][1]}
    return {"settings": dict(row.values), "label": row.label, "done": row.done, "failed": row.failed, "planned": row.planned} | figures


def _comparison(c: Comparison) -> dict[str, Any]:
    made: dict[str, Any] = {"axis": c.path, "first": c.first, "second": c.second, "metric": c.metric.key, "sentence": c.sentence()}
    if c.difference is not None:
        found = c.difference.interval
        made |= {"difference": found.mean, "low": found.low, "high": found.high, "pairs": found.n, "shown": c.difference.shown, "better": c.winner}
    return made


def as_csv(view: SweepView) -> str:
    """Every measured cell a line: its settings, fold, losses, counts as two columns each, time and memory."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    counted = [m.key for m in METRICS.values() if m.counted]
    plain = ["loss", "train_loss", "steps", "seconds", "peak_memory_gib", "device"]
    writer.writerow([*view.spec.axes, "fold", *plain, *(f"{key}_{part}" for key in counted for part in ("k", "n"))])
    for cell in view.cells:
        if (done := view.done.get(cell.key)) is not None:
            values = [" ".join(map(str, v)) if isinstance(v, list) else v for v in cell.values.values()]
            writer.writerow([*values, cell.fold + 1, *(getattr(done, key) for key in plain), *(x for key in counted for x in getattr(done, key))])
    return out.getvalue()
