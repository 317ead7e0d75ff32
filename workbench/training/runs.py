"""Runs on disk: adapters/NAME/ with run.json (what was asked), events.jsonl (what happened) and the adapter.

Everything the screen and the command line show of a run is read from its folder, so a reload,
a second browser or a restart shows the same. No torch in here.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from workbench.calls.prompting import CallForm
from workbench.dataset.formats import dump_jsonl, rows_hash
from workbench.errors import AdapterError, RunError
from workbench.files import safe_name, write_atomic
from workbench.models.tokenizer import ChatTokenizer
from workbench.schema import Example, ToolSpec
from workbench.settings import RunSettings
from workbench.training import events
from workbench.training.call_form import CallRecord, first_record, form_in, read_record, settle, write_record
from workbench.training.run_view import BEST, CHECKPOINT, Owner, RunInfo, RunView, State, holds_adapter, state_of

__all__ = ["BEST", "CHECKPOINT", "AT_BEST", "Owner", "RunInfo", "RunStore", "RunView", "State", "run_of"]

AT_BEST = f"@{BEST}"  # NAME@best is the best adapter of run NAME
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "tokenizers")


def run_of(adapter: str) -> str:
    """The name of the run that an adapter belongs to: `NAME` and `NAME@best` are both of run NAME."""
    return adapter.removesuffix(AT_BEST)


class RunStore:
    """The runs under one adapters folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._cache: dict[str, tuple[tuple[int, int], tuple[events.Event, ...]]] = {}
        self._unwritten: dict[str, events.Ended] = {}

    def path(self, name: str) -> Path:
        """The run's folder, whether it exists or not; raises `RunError` for an unsafe name."""
        return self.folder / safe_name(name, what="run name", error=RunError)

    def create(
        self, name: str, *, model: str, model_name: str, rows: Sequence[Example], data_name: str, settings: RunSettings,
        estimated_gib: dict[str, float] | None = None, preset: tuple[str, int] = ("", 0), tools: Sequence[ToolSpec] = (), form: CallForm | None = None,
    ) -> RunInfo:
        """Make the run's folder with run.json, the rows it will learn and the form of its calls; raises `RunError` if the name is taken.

        `estimated_gib` is the plan's peak memory by part, under "total" all of it; `preset` the title of the one that the settings
        started from, and how many of them are not its own. `tools` are those that its prompts may tell; `form` is what the settings
        mean for the model, None while that is not here.
        """
        folder = self.path(name)
        try:
            folder.mkdir(parents=True)
        except FileExistsError as exc:
            raise RunError(f"There is already a run named {name}: choose another name.") from exc
        except OSError as exc:
            raise RunError(f"The run's folder {folder} can't be made: {exc.strerror}. Check the rights and the room of {self.folder}.") from exc
        record = first_record(settings.training, tools, form)
        info = RunInfo(
            name=folder.name, model=model, model_name=model_name, data_name=data_name, data_rows=len(rows),
            data_sha256=rows_hash(rows), dialect=record.dialect, settings=settings, owner=Owner.this_process(), versions=_versions(),
            estimated_gib=estimated_gib or {}, preset=preset[0], preset_changed=preset[1],
        )
        try:
            write_atomic(folder / "rows.jsonl", dump_jsonl(rows))
            write_record(folder, record)
            write_atomic(folder / "run.json", info.model_dump_json(indent=2))
        except Exception:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return info

    def info(self, name: str) -> RunInfo:
        """run.json of a run, under the folder's name; raises `RunError` for an unknown name or a broken file."""
        folder = self.path(name)
        if not (folder / "run.json").is_file():
            known = ", ".join(self.names()[:8]) or "none yet"
            raise RunError(f"There is no run named {name}; there are: {known}.")
        try:
            info = RunInfo.model_validate_json((folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValidationError, ValueError) as exc:
            raise RunError(f"The file {name}/run.json is broken: restore it or remove the run's folder.") from exc
        return info.model_copy(update={"name": folder.name})  # a folder copied or moved by hand is a run of its own name

    def rewrite_info(self, name: str, /, **changes: Any) -> RunInfo:
        """Change fields of run.json; the file keeps its time, by which runs are listed. Raises `WorkbenchError`."""
        path = self.path(name) / "run.json"
        info = self.info(name).model_copy(update=changes)
        times = path.stat()
        write_atomic(path, info.model_dump_json(indent=2))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        return info

    def adapter(self, adapter: str) -> tuple[RunView, Path]:
        """The run of the adapter named `NAME` or `NAME@best`, and the folder that holds it.

        Raises `RunError` for an unknown run and `AdapterError` for a best adapter that was not kept.
        """
        name = run_of(adapter)
        view = self.view(name)
        if adapter == name:
            return view, view.folder
        if not holds_adapter(view.folder / BEST):
            raise AdapterError(f"The run {name} kept no best adapter: take {name}, its last one.")
        return view, view.folder / BEST

    def form(self, adapter: str) -> CallForm:
        """How the adapter's conversations and calls are written; raises `RunError` for an unknown run or a record that can't be used."""
        info = self.info(run_of(adapter))
        return form_in(self.path(info.name), info.name, info.dialect)

    def settled_form(self, name: str, tokenizer: ChatTokenizer) -> CallForm:
        """`form`, settled by the model's tokenizer and noted in the run's folder if it was not yet; raises `SettingsError` as `settle` does."""
        info = self.info(name)
        record = read_record(self.path(name), name)
        if record is not None and record.settled:
            return self.form(name)
        form = settle(info.settings.training, tokenizer, record.specs() if record is not None else (), info.model_name)
        write_record(self.path(name), CallRecord.of(form))
        if info.dialect != form.dialect.name:
            self.rewrite_info(name, dialect=form.dialect.name)
        return form

    def adapters(self) -> list[str]:
        """The adapters that can answer, newest run first; a best adapter is listed where it is not the last one."""
        found = []
        for view in self.views():
            if not view.live:
                found += [view.info.name] * view.has_adapter + [view.info.name + AT_BEST] * view.has_best
        return found

    def names(self) -> list[str]:
        """All runs, newest first; a folder without run.json is not a run."""
        if not self.folder.is_dir():
            return []
        found: list[tuple[float, str]] = []
        for path in self.folder.glob("*/run.json"):
            with contextlib.suppress(OSError):  # taken away between the look and the question
                found.append((path.stat().st_mtime, path.parent.name))
        return [name for _, name in sorted(found, reverse=True)]

    def view(self, name: str) -> RunView:
        """The run as its folder tells it now; raises `RunError`."""
        info = self.info(name)
        folder = self.path(name)
        try:
            happened = self._events(name, folder / "events.jsonl")
        except OSError as exc:
            raise RunError(f"The events of run {name} can't be read: {exc.strerror}. Check the folder's rights.") from exc
        mark = self._unwritten.get(name)
        if mark is not None and not any(isinstance(e, (events.Ended, events.Resumed)) and e.time >= mark.time for e in happened):
            happened = (*happened, mark)
        return RunView(info, folder, happened, state_of(info, happened, folder))

    def _events(self, name: str, path: Path) -> tuple[events.Event, ...]:
        try:
            stat = path.stat()
        except FileNotFoundError:
            return ()
        key = (stat.st_size, stat.st_mtime_ns)
        cached = self._cache.get(name)
        if cached is None or cached[0] != key:
            cached = (key, tuple(events.read_events(path)))
            self._cache[name] = cached
        return cached[1]

    def views(self) -> list[RunView]:
        """All readable runs, newest first."""
        found = []
        for name in self.names():
            try:
                found.append(self.view(name))
            except RunError:
                continue  # named by `broken`
        return found

    def broken(self) -> list[str]:
        """One sentence for each run whose run.json can't be read."""
        sentences = []
        for name in self.names():
            try:
                self.info(name)
            except RunError as exc:
                sentences.append(str(exc))
        return sentences

    def append(self, name: str, event: events.Event) -> None:
        """Add one event to the run's file."""
        events.append_event(self.path(name) / "events.jsonl", event)

    def remove(self, name: str) -> None:
        """Take away a run that was never begun."""
        shutil.rmtree(self.path(name), ignore_errors=True)

    def mark_stopped(self, name: str, reason: str) -> None:
        """Close a run that was taken back before its first step, or before it went on."""
        view = self.view(name)
        if view.ended is None and not view.info.owner.is_foreign():
            self.append(name, events.Ended(
                state="stopped", reason=reason, step=view.steps[-1].step if view.steps else 0,
                best_step=view.best_step, peak_memory_gib=view.peak_memory_gib,
            ))

    def mark_failed(self, name: str, reason: str, cause: events.Cause = "") -> None:
        """Close a run whose process died: its last event says why.

        A run that has ended stays as it is, and so does one that a process we have nothing to do with is training.
        """
        view = self.view(name)
        if view.ended is None and not view.info.owner.is_foreign():
            last = view.steps[-1].step if view.steps else 0
            event = events.Ended(
                state="failed", reason=reason, cause=cause, step=last, best_step=view.best_step, peak_memory_gib=view.peak_memory_gib
            )
            # Kept here too: on a full disk the mark can't be written, and the run must not look alive for ever.
            self._unwritten[name] = event
            self.append(name, event)
            del self._unwritten[name]

    def write_scores(self, name: str, scores: dict[str, Any]) -> None:
        """Keep an evaluation's figures beside the adapter that it measured."""
        write_atomic(self.adapter(name)[1] / "scores.json", json.dumps(scores, ensure_ascii=False, indent=2))


def _versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
