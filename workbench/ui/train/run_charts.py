"""The charts of runs: one as it goes on, and several laid over each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go

from workbench.training import events
from workbench.training.runs import RunView
from workbench.ui.charts import GRID, axis_title, calm
from workbench.ui.theme import TRAIN_BLUE, VALIDATION_AMBER
from workbench.ui.words import train as words

CALL_VIOLET, SLATE = "#8b5cf6", "#64748b"
POINTS = 1500  # of a curve that are drawn: a longer one keeps each stretch's lowest and highest
SMOOTHING = {words.SMOOTH_OFF: 0.0, words.SMOOTH_SOME: 0.6, words.SMOOTH_MUCH: 0.9}
# The colours of Okabe and Ito, which the colour-blind tell apart; dashes and marks tell the runs apart too.
RUN_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#8b7500", "#64748b")
DASHES, MARKS = ("solid", "dash", "dot", "dashdot"), ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "pentagon")

# Plotly's buttons stand in the margin on the right, one below the other: in a line they would cover the legend.
TOOLS: dict[str, Any] = {
    "orientation": "v", "bgcolor": "rgba(0,0,0,0)", "color": "rgba(100,116,139,.6)", "activecolor": SLATE,
    "remove": ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
}

Points = list[tuple[float, float | None]]


def smooth(values: Sequence[float | None], weight: float) -> list[float | None]:
    """The exponential moving average, free of the pull towards its start; a value that is no number is passed over.

    `weight` (0 to below 1) is how much of the average is kept at each step.
    """
    average, norm, made = 0.0, 0.0, list[float | None]()
    for value in values:
        if value is None:
            made.append(None)
            continue
        average = weight * average + (1 - weight) * value
        norm = weight * norm + (1 - weight)
        made.append(average / norm)
    return made


def thin(points: Points, limit: int = POINTS) -> Points:
    """At most `limit` of the points, in order: first, last, and the lowest and highest of each stretch, so that no spike is lost."""
    if len(points) <= limit:
        return points
    stretch = math.ceil((len(points) - 2) / max(1, (limit - 2) // 2))
    kept = [points[0]]
    for start in range(1, len(points) - 1, stretch):
        known = [p for p in points[start : min(start + stretch, len(points) - 1)] if p[1] is not None]
        if known:
            ends = {min(known, key=lambda p: p[1] or 0.0), max(known, key=lambda p: p[1] or 0.0)}
            kept += sorted(ends, key=lambda p: p[0])
    return [*kept, points[-1]]


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _curve(points: Points, name: str, colour: str, hover: str, **more: Any) -> go.Scatter:
    drawn = thin(points)
    line = {"color": colour, "width": 2} | more.pop("line", {})
    return go.Scatter(
        x=[x for x, _ in drawn], y=[y for _, y in drawn], name=name, line=line, hovertemplate=f"{hover}<extra></extra>",
        **{"mode": "lines+markers" if len(drawn) <= 120 else "lines", "marker": {"size": 4}} | more,
    )  # fmt: skip


# -- one run ---------------------------------------------------------------------------------------


def run_chart(view: RunView, kind: str = "loss", *, log: bool = False, smoothing: float = 0.0) -> go.Figure:
    """The chart of one run that is called `kind` (one of `words.CHARTS`; an unknown one is the loss).

    `uirevision` names run and chart, so that a zoom stays while new points come; that of x stays whatever is drawn along the
    steps, that of y as long as its scale does.
    """
    figure = go.Figure()
    made = {"rate": _rate, "gradient": _gradient, "speed": _speed, "memory": _memory}.get(kind, _loss)(figure, view, smoothing)
    total = view.started.total_steps if view.started else 1
    calm(figure, height=400, uirevision=f"{view.info.name}/{kind}", hovermode="closest", modebar=TOOLS, margin={"l": 60, "r": 70, "t": 30, "b": 42})
    figure.update_xaxes(title=axis_title(words.AXIS_STEP), uirevision=view.info.name, range=[-0.5 if view.samples else 0.5, max(total, 1) + 0.5], **GRID)
    _first_axis(figure, made, log, view.info.name)
    for event in view.standing:
        if isinstance(event, events.Resumed):
            figure.add_vline(event.step, line={"color": SLATE, "dash": "dot", "width": 1}, annotation={"text": words.RESUMED_AT, "font": {"size": 11}})
    return figure


def _steps(figure: go.Figure, view: RunView, value: Callable[[events.Step], float | None], name: str, hover: str, smoothing: float, colour: str = TRAIN_BLUE) -> None:
    points: Points = [(s.step, _number(value(s))) for s in view.steps]
    faint = {"opacity": 0.35} if smoothing else {}
    figure.add_trace(_curve(points, name, colour, f"{words.AXIS_STEP} %{{x}}<br>{hover}", **faint))
    if smoothing:
        averaged = list(zip([x for x, _ in points], smooth([y for _, y in points], smoothing), strict=True))
        figure.add_trace(_curve(averaged, words.SMOOTHED.format(name=name), colour, f"{words.AXIS_STEP} %{{x}}<br>{hover}", mode="lines"))


def _loss(figure: go.Figure, view: RunView, smoothing: float) -> str:
    _steps(figure, view, lambda s: s.loss, words.TRAIN_LOSS, f"{words.TRAIN_LOSS} %{{y:.4f}}", smoothing)
    measured: Points = [(v.step, _number(v.loss)) for v in view.validations]
    figure.add_trace(_curve(
        measured, words.VALIDATION_LOSS, VALIDATION_AMBER, f"epoch %{{customdata:.1f}} (step %{{x}})<br>{words.VALIDATION_LOSS} %{{y:.4f}}",
        line={"dash": "dot"}, marker={"size": 10, "symbol": "diamond"}, mode="lines+markers", customdata=[v.epoch for v in view.validations],
    ))  # fmt: skip
    samples = [s for s in view.samples if s.asked]
    if samples:
        figure.add_trace(go.Scatter(
            x=[s.step for s in samples], y=[100 * s.right / s.asked for s in samples], name=words.CALL_ACCURACY, yaxis="y2", mode="lines+markers",
            line={"color": CALL_VIOLET, "width": 2, "dash": "dash"}, marker={"size": 10, "symbol": "square", "color": CALL_VIOLET},
            customdata=[(s.epoch, s.right, s.asked) for s in samples],
            hovertemplate=f"epoch %{{customdata[0]:.1f}} (step %{{x}})<br>{words.CALL_ACCURACY}: %{{customdata[1]}} of %{{customdata[2]}}<extra></extra>",
        ))  # fmt: skip
        _second_axis(figure, words.AXIS_ACCURACY)
    best = best_step(view)
    at = next((v for v in view.validations if v.step == best), None)
    if at is not None and _number(at.loss) is not None:
        figure.add_trace(go.Scatter(
            x=[at.step], y=[at.loss], name=words.BEST_KEPT, mode="markers", hovertemplate=f"{words.BEST_KEPT}: step %{{x}}<extra></extra>",
            marker={"size": 18, "symbol": "circle-open", "color": VALIDATION_AMBER, "line": {"width": 2.5}},
        ))  # fmt: skip
    return words.AXIS_LOSS


def best_step(view: RunView) -> int | None:
    """The step whose adapter is kept as the best one."""
    if view.ended is not None and view.ended.best_step is not None:
        return view.ended.best_step
    return next((e.step for e in reversed(view.standing) if isinstance(e, events.Saved) and e.best), None)


def _first_axis(figure: go.Figure, title: str, log: bool, about: str) -> None:
    """The axis on the left; a zoom of it stays while it is `about` the same, on the same scale."""
    scale = {"type": "log"} if log else {"rangemode": "tozero"}
    figure.update_layout(yaxis=GRID | {"title": axis_title(title), "uirevision": f"{about}/{title}/{log}"} | scale)


def _second_axis(figure: go.Figure, title: str) -> None:
    figure.update_layout(yaxis2={
        "title": axis_title(title), "overlaying": "y", "side": "right", "range": [-3, 105], "ticksuffix": " %", "showgrid": False, "zeroline": False,
        "tickvals": [0, 25, 50, 75, 100], "fixedrange": True,
    })  # fmt: skip


def _rate(figure: go.Figure, view: RunView, smoothing: float) -> str:
    _steps(figure, view, lambda s: s.learning_rate, words.AXIS_RATE, "%{y:.2e}", 0.0)
    figure.update_yaxes(tickformat=".1e")
    return words.AXIS_RATE


def _gradient(figure: go.Figure, view: RunView, smoothing: float) -> str:
    _steps(figure, view, lambda s: s.gradient_norm, words.GRADIENT_NORM, "%{y:.3f}", smoothing)
    clip = view.info.settings.training.max_grad_norm
    if clip:
        figure.add_hline(clip, line={"color": VALIDATION_AMBER, "dash": "dash", "width": 1.5}, annotation={"text": words.CLIPPED.format(clip=f"{clip:g}")})
    return words.AXIS_GRADIENT


def _speed(figure: go.Figure, view: RunView, smoothing: float) -> str:
    _steps(figure, view, lambda s: s.tokens / s.seconds if s.seconds > 0 else None, words.CHARTS["speed"], "%{y:,.0f} tokens/s", smoothing)
    return words.AXIS_SPEED


def _memory(figure: go.Figure, view: RunView, smoothing: float) -> str:
    _steps(figure, view, lambda s: s.memory_gib, words.MEMORY_PEAK, "%{y:.2f} GiB", 0.0)
    used = [(float(s.step), 100 * s.gpu_use) for s in view.steps if s.gpu_use is not None]
    if used:
        shown = smooth([y for _, y in used], smoothing) if smoothing else [y for _, y in used]
        figure.add_trace(_curve(
            list(zip([x for x, _ in used], shown, strict=True)), words.GPU_USE, CALL_VIOLET, f"{words.AXIS_STEP} %{{x}}<br>%{{y:.0f}} %", yaxis="y2", line={"dash": "dot"},
        ))  # fmt: skip
        _second_axis(figure, words.GPU_USE)
    return words.AXIS_MEMORY


# -- several runs ----------------------------------------------------------------------------------


def overlay_chart(views: Sequence[RunView], curves: Sequence[str], *, along: str = "step", log: bool = False, smoothing: float = 0.0) -> go.Figure:
    """The chosen `curves` ("loss", "validation", "accuracy") of several runs, along optimizer steps ("step") or epochs ("epoch")."""
    figure = go.Figure()
    accuracy = False
    for number, view in enumerate(views):
        colour, mark, dash = (choices[number % len(choices)] for choices in (RUN_COLOURS, MARKS, DASHES))
        name = view.info.name
        group: dict[str, Any] = {"legendgroup": name}
        if "loss" in curves:
            points: Points = [(getattr(s, along), _number(s.loss)) for s in view.steps]
            points = list(zip([x for x, _ in points], smooth([y for _, y in points], smoothing), strict=True)) if smoothing else points
            figure.add_trace(_curve(points, _legend(name, words.TRAIN_LOSS), colour, f"%{{y:.4f}} {words.AT} %{{x:.4g}}", mode="lines", line={"width": 1.2}, opacity=0.7, **group))
        if "validation" in curves:
            measured: Points = [(getattr(v, along), _number(v.loss)) for v in view.validations]
            figure.add_trace(_curve(
                measured, _legend(name, words.VALIDATION_LOSS), colour, f"%{{y:.4f}} {words.AT} %{{x:.4g}}", mode="lines+markers",
                line={"dash": dash, "width": 2.5}, marker={"size": 9, "symbol": mark}, **group,
            ))  # fmt: skip
        samples = [s for s in view.samples if s.asked]
        if "accuracy" in curves and samples:
            accuracy = True
            asked: Points = [(getattr(s, along), 100 * s.right / s.asked) for s in samples]
            figure.add_trace(_curve(
                asked, _legend(name, words.CALL_ACCURACY), colour, f"%{{y:.0f}} % {words.AT} %{{x:.4g}}", mode="lines+markers",
                line={"dash": "dot", "width": 1.5}, marker={"size": 9, "symbol": f"{mark}-open"}, yaxis="y2", **group,
            ))  # fmt: skip
    calm(figure, height=340, uirevision="overlay", hovermode="closest", modebar=TOOLS, margin={"l": 60, "r": 70, "t": 10, "b": 42}, legend={"orientation": "h", "y": -0.2, "x": 0})
    if accuracy:
        _second_axis(figure, words.AXIS_ACCURACY)
    figure.update_xaxes(title=axis_title(words.AXIS_STEP if along == "step" else words.AXIS_EPOCH), uirevision=along, **GRID)
    _first_axis(figure, words.AXIS_LOSS, log, "overlay")
    return figure


def _legend(name: str, curve: str) -> str:
    # Plotly reads a little HTML in its texts: what a run is called must not be read as such.
    return f"{name.replace('<', '‹').replace('>', '›')} · {curve}"
