"""The verb that lists the runs and writes their metrics into a file."""

from __future__ import annotations

import argparse
from pathlib import Path

from workbench.errors import InputError
from workbench.files import write_atomic
from workbench.training.export_metrics import finite, metrics_csv, metrics_json, run_values
from workbench.training.run_table import DataHashes, RunRow, RunTable
from workbench.verbs.data import Result
from workbench.workspace import Workspace

HEAD = ("run", "state", "rows", "weights", "rank", "rate", "val. loss", "recall", "over-calls", "seconds", "GiB")


def runs(space: Workspace, options: argparse.Namespace) -> Result:
    """List all runs, or the one that `--name` names; `--export` writes every figure as CSV or JSON, by the file's ending."""
    rows = RunTable(space.runs, DataHashes(space.data_dir)).read()[1]
    if options.name:
        space.runs.view(options.name)  # says what is wrong with it
        rows = tuple(row for row in rows if row.name == options.name)
    views = [space.runs.view(row.name) for row in rows]
    if options.export:
        _check_target(options.export, options.force)
        as_csv = options.export.suffix.lower() == ".csv"
        write_atomic(options.export, metrics_csv(views) if as_csv else metrics_json(space.runs, views))
    lines = [HEAD, *(_line(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    broken = [] if options.name else space.runs.broken()
    for sentence in broken:
        print(f"broken: {sentence}")
    if options.export:
        print(f"{len(views)} run(s) written to {options.export}")
    kept = ("name", "state", "created", "model", "data", "settings", "note", "seconds", "peak_memory_gib", "rates")
    listed = [{k: v for k, v in run_values(space.runs, view).items() if k in kept} | _more(row) for view, row in zip(views, rows, strict=True)]
    return {"runs": finite(listed), "broken": broken, "export": str(options.export) if options.export else None}


def _check_target(path: Path, force: bool) -> None:
    if path.suffix.lower() not in (".csv", ".json"):
        raise InputError(f"The file {path} must end in .csv or .json: the ending says what is written.")
    if path.exists() and not force:
        raise InputError(f"{path} exists already: give another name, or --force to replace it.")


def _more(row: RunRow) -> Result:
    return {"steps": row.steps, "train_loss": row.train_loss, "best_validation_loss": row.best_loss, "rows_now": row.data}


def _line(row: RunRow) -> tuple[str, ...]:
    def share(name: str) -> str:
        found = row.rate(name)
        return "–" if found is None else f"{100 * found:.0f} %"

    s, mark = row.settings, {"changed": " (changed since)", "gone": " (gone)"}.get(row.data, "")
    return (
        row.name, row.state, f"{row.data_rows} from {row.data_name}{mark}", row.weights, str(s.lora.rank), f"{s.training.learning_rate:g}",
        "–" if row.best_loss is None else f"{row.best_loss:.4f}", share("call_recall"), share("over_call_rate"),
        "–" if row.seconds is None else f"{row.seconds:.0f}", "–" if row.peak_gib is None else f"{row.peak_gib:.1f}",
    )  # fmt: skip
