"""The chart of a sweep: a figure for every combination, with its 95 % interval and the folds it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from workbench.training.sweep_axes import setting_words
from workbench.training.sweep_report import Metric, Row, table
from workbench.training.sweep_view import SweepView
from workbench.ui.charts import GRID, axis_title, calm

# The colours of Okabe and Ito, which the colour-blind tell apart; the marks tell the values apart too.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#8b7500", "#64748b")
MARKS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "pentagon")
SPREAD = 0.56  # of the room between two ticks that the compared values share


def sweep_chart(view: SweepView, metric: Metric, axis: str | None) -> go.Figure:
    """`metric` of every combination, the values of `axis` side by side in colours, the other axes along x."""
    rows = table(view)
    values: Sequence[Any] = view.spec.axes[axis] if axis else (None,)
    groups = list(dict.fromkeys(_rest(row, axis) for row in rows))
    figure = go.Figure()
    for k, value in enumerate(values):
        own = [row for row in rows if axis is None or row.values[axis] == value]
        offset = (k - (len(values) - 1) / 2) * SPREAD / len(values)
        colour, mark = COLOURS[k % len(COLOURS)], MARKS[k % len(MARKS)]
        name = setting_words(axis, value) if axis else "all cells"
        places = {row.label: groups.index(_rest(row, axis)) + offset for row in own}
        figure.add_trace(_folds(view, metric, own, places, colour))
        figure.add_trace(_means(metric, own, places, name, colour, mark))
    figure.update_xaxes(tickvals=list(range(len(groups))), ticktext=groups, range=[-0.6, len(groups) - 0.4], showgrid=False, zeroline=False)
    figure.update_yaxes(title=axis_title(metric.title + (f" ({metric.unit})" if metric.unit else "")), **GRID)
    return calm(figure, height=330, uirevision=f"{view.spec.name}/{metric.key}/{axis}", hovermode="closest")


def _rest(row: Row, axis: str | None) -> str:
    return ", ".join(setting_words(path, value) for path, value in row.values.items() if path != axis) or " "


def _means(metric: Metric, rows: Sequence[Row], places: dict[str, float], name: str, colour: str, mark: str) -> go.Scatter:
    known = [(row, interval) for row in rows if (interval := row.intervals[metric.key]) is not None]
    means = [interval.mean * metric.scale for _, interval in known]
    ups = [(i.high - i.mean) * metric.scale if i.high is not None else 0.0 for _, i in known]
    downs = [(i.mean - i.low) * metric.scale if i.low is not None else 0.0 for _, i in known]
    spans = [
        f"{metric.text(i.low)} to {metric.text(i.high)}" if i.low is not None and i.high is not None else "one value only" for _, i in known
    ]
    return go.Scatter(
        x=[places[row.label] for row, _ in known], y=means, mode="markers", name=name, marker={"color": colour, "symbol": mark, "size": 11},
        error_y={"type": "data", "symmetric": False, "array": ups, "arrayminus": downs, "color": colour, "thickness": 2, "width": 7},
        customdata=[[row.label, row.done, span] for (row, _), span in zip(known, spans, strict=True)],
        hovertemplate=f"%{{customdata[0]}}<br>{metric.title} %{{y:.{metric.digits}f}}<br>95 %: %{{customdata[2]}}<br>%{{customdata[1]}} cells<extra></extra>",
    )  # fmt: skip


def _folds(view: SweepView, metric: Metric, rows: Sequence[Row], places: dict[str, float], colour: str) -> go.Scatter:
    """Every cell as a faint dot beside its mean."""
    points = [
        (places[row.label] - 0.05, value * metric.scale, cell.words())
        for row in rows for cell in view.cells
        if all(cell.values[path] == v for path, v in row.values.items())
        and (done := view.done.get(cell.key)) is not None and (value := metric.of(done)) is not None
    ]  # fmt: skip
    return go.Scatter(
        x=[x for x, _, _ in points], y=[y for _, y, _ in points], mode="markers", showlegend=False, marker={"color": colour, "size": 5, "opacity": 0.35},
        customdata=[label for _, _, label in points], hovertemplate=f"%{{customdata}}<br>%{{y:.{metric.digits}f}}<extra></extra>",
    )
