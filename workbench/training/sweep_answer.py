"""What a sweep answers, in sentences for readers who are no statisticians. No torch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from workbench.training.sweep_axes import setting_words
from workbench.training.sweep_report import METRICS, Comparison, compare
from workbench.training.sweep_view import SweepView

ANSWERED = ("loss", "call_recall", "over_calls", "right")  # the figures that a verdict looks at
FEW_PAIRS = 10  # below, only large differences come out of the noise


def plain(found: Comparison) -> str:
    """One comparison of two values in one figure, as in `In validation loss 8-bit is better than 4-bit: lower by 0.520 on average, …`."""
    first, second, title = setting_words(found.path, found.first), setting_words(found.path, found.second), found.metric.title
    if found.difference is None:
        return f"{first} and {second} can't be compared in {title} yet: no fold is measured with both."
    interval = found.difference.interval
    if interval.low is None or interval.high is None:
        return f"{first} and {second} can't be told apart in {title} yet: one pair of cells says nothing about chance."
    if interval.mean == interval.low == interval.high == 0:
        return f"{first} and {second} have exactly the same {title} in all {interval.n} pairs of cells."
    pairs = f"{interval.n} pairs of cells"
    if interval.low == interval.high:  # no scatter to judge by: the signs decide
        judged = "more than chance" if found.difference.shown else "too few to rule out chance"
        return f"In {title} {second} was {_way(found, interval.mean)} than {first} in every one of {pairs}: {judged}."
    if found.difference.shown:
        better, other, sign = (second, first, 1) if found.winner == found.second else (first, second, -1)
        ends = sorted(abs(x) for x in (interval.low, interval.high))
        size = f"{_way(found, sign * interval.mean)} on average, and with 95 % confidence by {_size(found, ends[0])} to {_size(found, ends[1])}"
        return f"In {title} {better} is better than {other}: {size} ({pairs})."
    spread = f"anything from {_way(found, interval.low)} to {_way(found, interval.high)} fits these {pairs} (95 % confidence)"
    return f"In {title} no difference between {first} and {second} is shown: {second} was {_way(found, interval.mean)} on average, but {spread}."


def verdicts(view: SweepView, path: str) -> list[tuple[str, bool]]:
    """For every two values of an axis the question and its answer over all figures, and whether one of the two came out better in any."""
    by_metric = [compare(view, path, METRICS[key]) for key in ANSWERED]
    return [_verdict([comparisons[i] for comparisons in by_metric], view) for i in range(len(by_metric[0]))]


def _verdict(found: Sequence[Comparison], view: SweepView) -> tuple[str, bool]:
    first, second = (setting_words(found[0].path, value) for value in (found[0].first, found[0].second))
    question = f"Which is better, {first} or {second}?"
    measured = [c for c in found if c.difference is not None and c.difference.interval.n > 1]
    if not measured:
        return f"{question} Not known yet: at least two folds must be measured with both.", False
    shown = [c for c in measured if c.winner is not None]
    parts = [
        f"{setting_words(found[0].path, winner)} in {_list([c.metric.title for c in wins])}"
        for winner, group in itertools.groupby(sorted(shown, key=lambda c: c.winner == c.second), key=lambda c: c.winner) if (wins := list(group))
    ]
    rest = [c.metric.title for c in measured if c.winner is None]
    begin = "So far: " if view.left else ""
    if not shown:
        pairs = min(c.difference.interval.n for c in measured if c.difference is not None)
        few = f" {pairs} pairs of cells show only large differences: more folds or seeds tell more." if pairs < FEW_PAIRS else ""
        return f"{question} {'So far no' if view.left else 'No'} difference is shown in {_list(rest, 'or')}.{few}", False
    none = f"; no difference is shown in {_list(rest, 'or')}" if rest else ""
    return f"{question} {begin}{'it' if begin else 'It'} is {'; '.join(parts)}{none}.", True


def _way(found: Comparison, value: float) -> str:
    """As in `lower by 0.520` or `higher by 3.1 points`."""
    text = found.metric.text(abs(value))
    if not float(text):
        return "the same"
    return f"{'higher' if value > 0 else 'lower'} by {_size(found, abs(value))}"


def _size(found: Comparison, value: float) -> str:
    unit = " points" if found.metric.counted else f" {found.metric.unit}" if found.metric.unit in ("s", "GiB") else ""
    return f"{found.metric.text(value)}{unit}"


def _list(names: Sequence[str], word: str = "and") -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"
