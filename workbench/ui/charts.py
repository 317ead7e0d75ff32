"""What every chart shares, and the chart of row lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

GRID = {"gridcolor": "rgba(100,116,139,.25)", "zeroline": False}


def calm(figure: go.Figure, *, height: int = 360, size: int = 13, **layout: Any) -> go.Figure:
    """The figure without a ground of its own, so that it stands on the page, light or dark; a legend in one line on top."""
    figure.update_layout(**{
        "height": height, "margin": {"l": 55, "r": 15, "t": 30, "b": 45}, "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": "#64748b", "size": size}, "legend": {"orientation": "h", "y": 1.1, "x": 0}, "showlegend": True,
    } | layout)  # fmt: skip
    return figure


def axis_title(text: str, size: int = 13) -> dict[str, Any]:
    """An axis' title in the letters of the rest: plotly's own are a fifth larger."""
    return {"text": text, "font": {"size": size}}


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
    figure.update_xaxes(title=axis_title(f"length of a row ({unit})", 12), rangemode="tozero", **GRID)
    figure.update_yaxes(title=axis_title("rows", 12), rangemode="tozero", **GRID)
    return calm(figure, height=260, size=12, barmode="stack", margin={"l": 45, "r": 10, "t": 25, "b": 40}, legend={"orientation": "h", "y": 1.15, "x": 0})
