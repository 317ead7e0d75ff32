"""Runs as files for other programs: every figure of every step as CSV, or all that is known of the runs as JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from workbench.training import events
from workbench.training.calibration import measured_gib
from workbench.training.measured import read_rates
from workbench.training.run_table import seconds_of
from workbench.training.runs import RunStore, RunView
from workbench.training.shelf import read_note

COLUMNS = (
    "run", "what", "step", "epoch", "time", "loss", "learning_rate", "gradient_norm", "tokens", "labels", "seconds", "memory_gib", "gpu_use",
    "right", "asked",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@")  # what a spreadsheet takes for the beginning of a formula


def metrics_csv(views: Iterable[RunView]) -> str:
    """One line for each step, validation and answered validation rows; the columns are `COLUMNS`, times in seconds since 1970."""
    made = io.StringIO()
    writer = csv.DictWriter(made, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for view in views:
        for event in view.standing:
            if isinstance(event, (events.Step, events.Validation, events.Sampled)):
                writer.writerow(_line(view, event))
    return made.getvalue()


def _line(view: RunView, event: events.Step | events.Validation | events.Sampled) -> dict[str, Any]:
    told = {name: value for name, value in event.model_dump().items() if name in COLUMNS and value is not None}
    return {"run": plain_cell(view.info.name), "what": event.type} | told


def plain_cell(text: str) -> str:
    """`text` in one line, for a cell that a spreadsheet must not run: what looks like a formula begins with an apostrophe."""
    line = " ".join(text.split())
    return f"'{line}" if line.startswith(_FORMULA) else line


def metrics_json(store: RunStore, views: Iterable[RunView]) -> str:
    """What was asked, what happened and what was measured, run by run. A figure that is not finite is the text "nan" or "inf"."""
    return json.dumps({"runs": [finite(run_values(store, view)) for view in views]}, ensure_ascii=False, indent=1, allow_nan=False)


def run_values(store: RunStore, view: RunView) -> dict[str, Any]:
    """All that is known of a run, as plain values."""
    info, name = view.info, view.folder.name
    kept = {"step": events.Step, "validation": events.Validation, "sampled": events.Sampled}
    return {
        "name": info.name, "state": view.state, "created": info.created, "model": info.model_name,
        "data": {"name": info.data_name, "rows": info.data_rows, "sha256": info.data_sha256}, "settings": info.settings.model_dump(mode="json"),
        "versions": info.versions, "note": read_note(store, name), "seconds": seconds_of(view), "peak_memory_gib": measured_gib(view),
        "ended": view.ended.model_dump(exclude={"type"}) if view.ended else None,
        "rates": {title: rate.as_json() for title, rate in read_rates(store, name).items()},
    } | {
        f"{what}s" if what != "sampled" else "samples": [e.model_dump(exclude={"type"}) for e in view.standing if isinstance(e, cls)]
        for what, cls in kept.items()
    }  # fmt: skip


def finite(value: Any) -> Any:
    """`value` with each figure that is not finite as text: JSON knows none of them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, (list, tuple)) else value
