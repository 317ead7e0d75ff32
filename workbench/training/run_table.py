"""All runs as lines of a table: read from their folders, kept until a file of theirs changes, sorted; `run_search` filters them."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workbench.dataset.formats import load_rows, rows_hash
from workbench.errors import InputError, RunError, WorkbenchError
from workbench.evaluation.scores import Rate
from workbench.files import safe_name
from workbench.settings import RunSettings
from workbench.training.calibration import measured_gib
from workbench.training.measured import SCORES, read_rates
from workbench.training.runs import AT_BEST, BEST, RunStore, RunView, State
from workbench.training.shelf import NOTE, read_note

LARGEST = 8 * 2**20  # bytes of a data file that is read to tell whether its rows have changed
WATCHED = ("run.json", "events.jsonl", SCORES, NOTE, "adapter_model.safetensors", f"{BEST}/adapter_model.safetensors")


@dataclass(frozen=True)
class RunRow:
    """A run in the table. Losses in nats per token, `seconds` of its training, memory in GiB, `created` in seconds since 1970.

    `data` says whether the file of rows is still as the run learned it: "same", "changed", "gone", or "" where that is not known.
    """

    name: str
    state: State
    created: float
    model: str
    data_name: str
    data_rows: int
    data_sha256: str
    data: str
    settings: RunSettings
    steps: int
    total_steps: int
    train_loss: float | None
    best_loss: float | None
    best_epoch: float | None
    rates: dict[str, Rate]
    seconds: float | None
    peak_gib: float | None
    note: str
    has_adapter: bool
    has_best: bool
    weights: str = "auto"
    """The base weights as they were in this run; "auto" before it began."""
    told: str = ""
    """What to call the state where its own word does not say all: that the run is stopping, say."""
    orphaned: bool = False

    @property
    def live(self) -> bool:
        return self.state in ("waiting", "running")

    @property
    def adapters(self) -> list[str]:
        """What the run is known by where two are compared: its name, and NAME@best where the best adapter is not the last."""
        return [self.name, self.name + AT_BEST] if self.has_best else [self.name]

    def rate(self, name: str) -> float | None:
        """One of the rates of the last evaluation, 0 to 1."""
        found = self.rates.get(name)
        return found.k / found.n if found is not None and found.n else None


SORTS: dict[str, Callable[[RunRow], Any]] = {
    "created": lambda r: r.created, "name": lambda r: r.name.lower(), "state": lambda r: r.state, "data": lambda r: (r.data_name.lower(), r.data_sha256),
    "quantization": lambda r: r.weights, "rank": lambda r: r.settings.lora.rank, "rate": lambda r: r.settings.training.learning_rate,
    "epochs": lambda r: r.settings.training.epochs, "loss": lambda r: r.best_loss, "recall": lambda r: r.rate("call_recall"),
    "over-calls": lambda r: r.rate("over_call_rate"), "time": lambda r: r.seconds, "memory": lambda r: r.peak_gib, "note": lambda r: r.note.lower() or None,
}  # fmt: skip


def sort_rows(rows: Iterable[RunRow], by: str, *, descending: bool) -> list[RunRow]:
    """The rows by one of `SORTS`, those without a value last either way; equal ones newest first."""
    newest = sorted(rows, key=lambda r: r.created, reverse=True)
    key = SORTS.get(by, SORTS["created"])
    known = [r for r in newest if key(r) is not None]
    return sorted(known, key=key, reverse=descending) + [r for r in newest if key(r) is None]


def row_of(store: RunStore, view: RunView, data: str = "") -> RunRow:
    """The line of one run."""
    info, steps = view.info, view.steps
    measured = [v for v in view.validations if math.isfinite(v.loss)]
    best = min(measured, key=lambda v: v.loss, default=None)
    name = view.folder.name
    return RunRow(
        name=name, state=view.state, created=info.created, model=info.model_name, data_name=info.data_name, data_rows=info.data_rows,
        data_sha256=info.data_sha256, data=data, settings=info.settings, steps=steps[-1].step if steps else 0,
        total_steps=view.started.total_steps if view.started else 0, train_loss=steps[-1].loss if steps else None,
        best_loss=best.loss if best else None, best_epoch=best.epoch if best else None, rates=read_rates(store, name),
        seconds=seconds_of(view), peak_gib=measured_gib(view), note=read_note(store, name), has_adapter=view.has_adapter, has_best=view.has_best,
        weights=weights_of(view), orphaned=view.orphaned,
    )  # fmt: skip


def weights_of(view: RunView) -> str:
    """How the base weights were held: what `auto` became on the device that the run was begun on."""
    quantization = view.info.settings.quantization
    if view.started is not None:
        quantization = quantization.resolved(not view.started.device.startswith("CPU"))
    return f"{quantization.mode} {quantization.type_4bit}" if quantization.mode == "4-bit" else quantization.mode


def seconds_of(view: RunView) -> float | None:
    """How long the run trained, as far as its events tell; pauses before a resume are not counted."""
    if view.ended is not None and view.ended.seconds:
        return view.ended.seconds
    if not view.steps or view.started is None:
        return None
    return max(0.0, view.steps[-1].time - view.started.time) if view.steps[-1].time >= view.started.time else None


class DataHashes:
    """SHA-256 of the rows that the files of a folder hold now, kept until a file changes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: dict[str, tuple[tuple[int, int], str | None]] = {}

    def compare(self, name: str, sha256: str) -> str:
        """How the file stands to the rows of that hash: "same", "changed", "gone", or "" where that can't be told."""
        try:
            path = self._folder / safe_name(name, what="file name")
            stat = path.stat()
        except InputError:
            return ""
        except OSError:
            return "gone"
        if stat.st_size > LARGEST:
            return ""
        stamp = (stat.st_mtime_ns, stat.st_size)
        if name not in self._kept or self._kept[name][0] != stamp:
            found: str | None = None
            with contextlib.suppress(WorkbenchError):
                found = rows_hash(load_rows(path).rows)
            self._kept[name] = (stamp, found)
        now = self._kept[name][1]
        return "" if now is None else "same" if now == sha256 else "changed"


class RunTable:
    """The lines of all runs. `read` costs a few file stats a run where nothing has changed; any number of pages share one table."""

    def __init__(self, store: RunStore, hashes: DataHashes) -> None:
        self._store, self._hashes = store, hashes
        self._kept: dict[str, tuple[Any, RunRow]] = {}
        self._rows: tuple[RunRow, ...] = ()
        self._version = 0
        self._lock = threading.Lock()

    def read(self) -> tuple[int, tuple[RunRow, ...]]:
        """(a number that is another one whenever something has changed, the rows, the newest file first)."""
        with self._lock:
            rows = []
            kept: dict[str, tuple[Any, RunRow]] = {}
            for name in self._store.names():
                with contextlib.suppress(RunError):  # broken: named by the store
                    kept[name] = self._row(name)
                    rows.append(kept[name][1])
            self._kept = kept
            if tuple(rows) != self._rows:
                self._rows, self._version = tuple(rows), self._version + 1
            return self._version, self._rows

    def _row(self, name: str) -> tuple[Any, RunRow]:
        before = self._kept.get(name)
        stamp = self._stamp(name)
        if before is not None and before[0] == stamp and not before[1].live:
            row = before[1]
            data = self._hashes.compare(row.data_name, row.data_sha256)
            return stamp, row if data == row.data else replace(row, data=data)
        view = self._store.view(name)
        return stamp, row_of(self._store, view, self._hashes.compare(view.info.data_name, view.info.data_sha256))

    def _stamp(self, name: str) -> tuple[Any, ...]:
        folder = self._store.folder / name
        found: list[Any] = []
        for file in WATCHED:
            try:
                stat = os.stat(folder / file)
                found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
            except OSError:
                found.append(None)
        return tuple(found)

