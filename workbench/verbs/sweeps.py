"""The verb that compares settings by cross-validation. Run again under the same name it goes on where it was left."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from workbench.dataset.formats import load_rows, refuse_problems
from workbench.engine.messages import FoldJob
from workbench.engine.sweeping import run_sweep
from workbench.errors import EngineError, RunError, SettingsError
from workbench.settings import apply_overrides
from workbench.training.statistics import Interval
from workbench.training.sweep import Cell, SweepSpec, hours
from workbench.training.sweep_answer import verdicts
from workbench.training.sweep_axes import read_axis
from workbench.training.sweep_report import METRICS, TABLE, Metric, Row, as_json, best, compare, table
from workbench.training.sweep_store import SweepStore
from workbench.training.sweep_view import CellDone, CellFailed, SweepView
from workbench.verbs.data import Result
from workbench.verbs.training import host, need_model, stop_on_signals
from workbench.workspace import Workspace

FOLDS, SEED = 5, 42
JSON_HELP = (
    "The JSON object: name, folder, state, reason, model, data, rows, folds, seeds, axes, cells {planned, done, failed}, "
    "combinations [{settings, label, done, failed, planned, METRIC {mean, low, high, k, n}}], best {METRIC: label or null}, "
    "comparisons [{axis, first, second, metric, sentence, difference, low, high, pairs, shown, better}], results and failures (a cell each). "
    f"The metrics: {', '.join(METRICS)}. Intervals are 95 %."
)


def sweep(space: Workspace, options: argparse.Namespace) -> Result:
    """Show, begin or go on with a sweep."""
    store = space.sweeps.store
    store.path(options.name)
    if options.show:
        return _told(store.view(options.name))
    view = _open(space, store, options)
    need_model(space, view.spec.model)
    if view.left:
        ended = _run(space, store, view.spec.name)
        if ended.state == "failed":
            raise EngineError(f"{ended.reason} Done are {len(store.view(view.spec.name).done)} of {len(view.cells)} cells; --show prints them.")
        if ended.reason:
            print(ended.reason, file=sys.stderr)
    return _told(store.view(view.spec.name))


def _open(space: Workspace, store: SweepStore, options: argparse.Namespace) -> SweepView:
    """The sweep of that name, made if there is none; raises `RunError` where it was begun otherwise than the options say."""
    known = options.name in store.names()
    if known and not (options.data or options.axis or options.set):
        return store.view(options.name)
    if options.data is None or not options.axis:
        raise SettingsError(f"There is no sweep named {options.name} yet: --data and at least one --axis tell what to compare." if not known else
                            "To go on with a sweep give its name alone, or all that it was begun with.")
    settings = apply_overrides(space.default_settings(), options.set)
    axes: dict[str, tuple[Any, ...]] = {}
    for text in options.axis:
        path, values = read_axis(text, settings)
        if path in axes:
            raise SettingsError(f"The axis {path} is given twice: put all its values into one --axis.")
        axes[path] = values
    loaded = load_rows(options.data)
    refuse_problems(loaded.problems, options.data.name)
    need_model(space, space.model)
    spec, rows = space.make_sweep(
        options.name, loaded.rows, settings, axes, folds=options.folds, seed=options.seed, data_name=options.data.name,
        max_cells=options.max_cells, lines=loaded.lines,
    )
    if not known:
        return store.create(spec, rows)
    view = store.view(options.name)
    if other := _differs(view.spec, spec):
        raise RunError(f"The sweep {spec.name} was begun with other {other}: take another name, or give what it was begun with.")
    return view


def _differs(known: SweepSpec, asked: SweepSpec) -> str:
    words = {"model": "base weights", "data_sha256": "rows", "settings": "settings", "axes": "axes", "folds": "folds", "seed": "seed of the folds"}
    before, now = known.model_dump(mode="json"), asked.model_dump(mode="json")
    return ", ".join(word for key, word in words.items() if before[key] != now[key])


def _run(space: Workspace, store: SweepStore, name: str) -> Any:
    work, report = host(space)
    say = report.progress

    def loading(text: str, share: float | None) -> None:
        if not text.startswith(("step ", "answered ", "measuring ")):  # the cells tell for themselves
            say(text, share)

    def do(job: FoldJob, label: str) -> Result:
        result: Result = work.do(job, report)
        return result

    def heard(cell: Cell, line: CellDone | CellFailed) -> None:
        now = store.view(name)
        found = (
            f"validation loss {line.loss:.4f}, {line.right[0]}/{line.right[1]} right, {line.seconds:.1f} s"
            if isinstance(line, CellDone) else f"failed: {line.reason}"
        )
        left = now.seconds_left()
        more = f"; {hours(left)} left" if left and now.left else ""
        print(f"cell {cell.number} of {len(now.cells)} ({cell.words()}): {found}{more}", file=sys.stderr, flush=True)

    report.progress = loading
    with stop_on_signals("stopping; the cells done so far are kept, the same command goes on with the rest") as stopped:
        report.stop = lambda: bool(stopped)
        return run_sweep(store, name, do, stop=report.stop, heard=heard)


# -- what is printed ------------------------------------------------------------------------------


def _told(view: SweepView) -> Result:
    print("\n".join(report_lines(view)))
    return as_json(view)


def report_lines(view: SweepView) -> list[str]:
    """The sweep as text: where it stands, the table, the answers, and every comparison of two values in loss, recall and over-calls."""
    spec, ended = view.spec, view.ended
    lines = [
        f"{spec.name}: {view.state}, {len(view.done)} of {len(view.cells)} cells, {spec.data_rows} rows of {spec.data_name}, "
        f"{spec.folds} folds, {spec.repeats} seed(s), {spec.model_name}"
    ]
    if ended and ended.reason:
        lines.append(ended.reason)
    rows = table(view)
    first = {key: best(view, METRICS[key]) for key in TABLE}
    head = ["settings", "cells", *(METRICS[key].title + (f" ({METRICS[key].unit})" if METRICS[key].unit else "") for key in TABLE)]
    body = [[row.label, f"{row.done}/{row.planned}", *(_cell(METRICS[key], row, first[key] == i) for key in TABLE)] for i, row in enumerate(rows)]
    widths = [max(len(line[k]) for line in [head, *body]) for k in range(len(head))]
    lines += ["", *("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in [head, *body])]
    if any(place is not None for place in first.values()):
        lines.append("* better than every other combination, each difference shown")
    for path in spec.compared:
        sentences = (c.sentence() for key in ("loss", "call_recall", "over_calls", "right") for c in compare(view, path, METRICS[key]))
        lines += ["", *(answer for answer, _ in verdicts(view, path)), *sentences]
    return lines


def _cell(metric: Metric, row: Row, is_best: bool) -> str:
    found = row.intervals[metric.key]
    if found is None:
        return "-"
    counts = "{}/{} ".format(*row.counts[metric.key]) if metric.counted else ""
    return f"{counts}{metric.text(found.mean)}{_span(metric, found)}{' *' if is_best else ''}"


def _span(metric: Metric, found: Interval) -> str:
    return "" if found.low is None or found.high is None else f" [{metric.text(found.low)}, {metric.text(found.high)}]"
