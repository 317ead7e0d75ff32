"""The charts: losses of a run, lengths of rows."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from workbench.training import events
from workbench.ui.theme import TRAIN_BLUE, VALIDATION_AMBER


def loss_chart(steps: Sequence[events.Step], validations: Sequence[events.Validation], total_steps: int, name: str) -> go.Figure:
    """Train loss per optimizer step (blue line), validation loss per epoch (amber diamonds).

    `uirevision` is the run's name, so that a zoom stays while new points come.
    """
    figure = go.Figure()
    figure.add_trace(go.Scatter(
        x=[s.step for s in steps], y=[s.loss for s in steps], mode="lines+markers", name="train loss",
        line={"color": TRAIN_BLUE, "width": 2}, marker={"size": 4},
        hovertemplate="step %{x}<br>train loss %{y:.4f}<extra></extra>",
    ))
    figure.add_trace(go.Scatter(
        x=[v.step for v in validations], y=[v.loss for v in validations], mode="lines+markers", name="validation loss",
        line={"color": VALIDATION_AMBER, "width": 2, "dash": "dot"}, marker={"size": 10, "symbol": "diamond"},
        customdata=[v.epoch for v in validations],
        hovertemplate="epoch %{customdata:.0f} (step %{x})<br>validation loss %{y:.4f}<extra></extra>",
    ))
    figure.update_layout(
        uirevision=name, height=360, margin={"l": 55, "r": 15, "t": 30, "b": 45}, hovermode="closest",
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", font={"color": "#64748b", "size": 13},
        legend={"orientation": "h", "y": 1.1, "x": 0}, showlegend=True,
    )
    grid = {"gridcolor": "rgba(100,116,139,.25)", "zeroline": False}
    figure.update_xaxes(title="optimizer step", range=[0.5, max(total_steps, 1) + 0.5], **grid)
    figure.update_yaxes(title="loss (nats per token)", rangemode="tozero", **grid)
    return figure


CALL_VIOLET, TEXT_GREEN = "#7c3aed", "#5b8a7a"
BARS = 30


def length_histogram(calls: Sequence[int], texts: Sequence[int], unit: str) -> go.Figure:
    """How long the rows are, in `unit`: calls (violet) stacked on text answers (green-grey), in at most `BARS` bars."""
    longest = max((*calls, *texts), default=0)
    width = max(1, -(-(longest + 1) // BARS))
    count = max(1, -(-(longest + 1) // width))
    figure = go.Figure()
    for name, lengths, colour in (("text answers", texts, TEXT_GREEN), ("calls", calls, CALL_VIOLET)):
        heights = [0] * count
        for length in lengths:
            heights[length // width] += 1
        figure.add_trace(go.Bar(
            x=[(i + 0.5) * width for i in range(count)], y=heights, width=width * 0.9, name=name, marker={"color": colour},
            customdata=[f"{i * width} to {(i + 1) * width - 1}" if width > 1 else str(i) for i in range(count)],
            hovertemplate=f"%{{y}} {name}<br>of %{{customdata}} {unit}<extra></extra>",
        ))
    figure.update_layout(
        barmode="stack", height=260, margin={"l": 45, "r": 10, "t": 25, "b": 40},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", font={"color": "#64748b", "size": 12},
        legend={"orientation": "h", "y": 1.15, "x": 0}, showlegend=True,
    )
    grid = {"gridcolor": "rgba(100,116,139,.25)", "zeroline": False}
    figure.update_xaxes(title=f"length of a row ({unit})", rangemode="tozero", **grid)
    figure.update_yaxes(title="rows", rangemode="tozero", **grid)
    return figure
