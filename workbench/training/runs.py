"""Runs on disk: adapters/NAME/ with run.json (what was asked), events.jsonl (what happened) and the adapter.

Everything the screen and the command line show of a run is read from its folder, so a reload,
a second browser or a restart shows the same. No torch in here.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workbench.dataset.formats import dump_jsonl, rows_hash
from workbench.errors import RunError
from workbench.files import safe_name, write_atomic
from workbench.schema import Example
from workbench.settings import RunSettings
from workbench.training import events

State = Literal["waiting", "running", "finished", "stopped", "failed", "interrupted"]
CHECKPOINT, BEST = "checkpoint", "best"  # folders of a run: what a resume needs, and the best adapter
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "tokenizers")


class Owner(BaseModel):
    """The process that answers for a run: its number, and when it began (a number alone is used again)."""

    model_config = ConfigDict(frozen=True)
    pid: int
    started: float

    @classmethod
    def this_process(cls) -> Owner:
        import psutil

        return cls(pid=os.getpid(), started=psutil.Process().create_time())

    def alive(self) -> bool:
        import psutil

        try:
            process = psutil.Process(self.pid)
            return bool(abs(process.create_time() - self.started) < 1 and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return False


class RunInfo(BaseModel):
    """run.json: what a run was asked to do. `model` is how it was named: demo, a folder, or a hub name."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())
    name: str
    model: str
    model_name: str
    data_name: str
    data_rows: int
    data_sha256: str
    dialect: str = "tag"
    settings: RunSettings = RunSettings()
    created: float = Field(default_factory=time.time)
    owner: Owner
    """Who answers for the run now: who created it, or who resumed it last."""
    versions: dict[str, str] = {}
    estimated_gib: dict[str, float] = {}
    """The plan's peak memory by part, under "total" all of it; empty where no plan was made."""
    base_fingerprint: str = ""
    """`models.fingerprint` of the base as it was when the run began; empty until its files were here."""


@dataclass(frozen=True)
class RunView:
    """A run as it stands now: what was asked, all events so far, and the state they amount to."""

    info: RunInfo
    folder: Path
    happened: tuple[events.Event, ...]
    state: State

    @cached_property
    def standing(self) -> tuple[events.Event, ...]:
        """The events without those that a resume made void; `happened` keeps them all, for the log."""
        return events.standing(self.happened)

    @property
    def steps(self) -> list[events.Step]:
        return [e for e in self.standing if isinstance(e, events.Step)]

    @property
    def validations(self) -> list[events.Validation]:
        return [e for e in self.standing if isinstance(e, events.Validation)]

    @property
    def samples(self) -> list[events.Sampled]:
        return [e for e in self.standing if isinstance(e, events.Sampled)]

    @property
    def started(self) -> events.Started | None:
        """How the run began, as its last start told it: a resume may find another device."""
        return next((e for e in reversed(self.standing) if isinstance(e, events.Started)), None)

    @property
    def ended(self) -> events.Ended | None:
        return next((e for e in reversed(self.standing) if isinstance(e, events.Ended)), None)

    @property
    def live(self) -> bool:
        return self.state in ("waiting", "running")

    @property
    def has_adapter(self) -> bool:
        return (self.folder / "adapter_model.safetensors").is_file() and (self.folder / "adapter_config.json").is_file()

    @property
    def resumable(self) -> bool:
        """Whether there is a checkpoint to go on from, and steps left to do."""
        return self.state in ("stopped", "failed", "interrupted") and (self.folder / CHECKPOINT / "state.json").is_file()

    def seconds_left(self) -> float | None:
        """Estimated seconds to the last step, from the mean pace so far (validations and saving included)."""
        steps, started = self.steps, self.started
        if not steps or started is None or self.state != "running":
            return None
        pace: float = (steps[-1].time - started.time) / steps[-1].step
        return max(0.0, pace * (started.total_steps - steps[-1].step) - (time.time() - steps[-1].time))


class RunStore:
    """The runs under one adapters folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._cache: dict[str, tuple[tuple[int, int], tuple[events.Event, ...]]] = {}
        self._unwritten: dict[str, events.Ended] = {}

    def path(self, name: str) -> Path:
        """The run's folder, whether it exists or not; raises `RunError` for an unsafe name."""
        return self.folder / safe_name(name, what="run name", error=RunError)

    def create(self, name: str, *, model: str, model_name: str, rows: Sequence[Example], data_name: str, settings: RunSettings) -> RunInfo:
        """Make the run's folder with run.json and the rows it will learn; raises `RunError` if the name is taken."""
        folder = self.path(name)
        try:
            folder.mkdir(parents=True)
        except FileExistsError as exc:
            raise RunError(f"There is already a run named {name}: choose another name.") from exc
        except OSError as exc:
            raise RunError(f"The run's folder {folder} can't be made: {exc.strerror}.") from exc
        info = RunInfo(
            name=folder.name, model=model, model_name=model_name, data_name=data_name, data_rows=len(rows),
            data_sha256=rows_hash(rows), settings=settings, owner=Owner.this_process(), versions=_versions(),
        )
        try:
            write_atomic(folder / "rows.jsonl", dump_jsonl(rows))
            write_atomic(folder / "run.json", info.model_dump_json(indent=2))
        except Exception:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return info

    def info(self, name: str) -> RunInfo:
        """run.json of a run; raises `RunError` for an unknown name or a broken file."""
        folder = self.path(name)
        if not (folder / "run.json").is_file():
            known = ", ".join(self.names()[:8]) or "none yet"
            raise RunError(f"There is no run named {name}; there are: {known}.")
        try:
            return RunInfo.model_validate_json((folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValidationError, ValueError) as exc:
            raise RunError(f"The file {name}/run.json is broken: restore it or remove the run's folder.") from exc

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
        return RunView(info, folder, happened, _state(info, happened))

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
        """Close a run that was taken back before its first step."""
        if self.view(name).ended is None:
            self.append(name, events.Ended(state="stopped", reason=reason))

    def mark_failed(self, name: str, reason: str, cause: events.Cause = "") -> None:
        """Close a run whose process died: its last event says why. A run that has ended stays as it is."""
        view = self.view(name)
        if view.ended is None:
            last = view.steps[-1].step if view.steps else 0
            event = events.Ended(state="failed", reason=reason, cause=cause, step=last)
            # Kept here too: on a full disk the mark can't be written, and the run must not look alive for ever.
            self._unwritten[name] = event
            self.append(name, event)
            del self._unwritten[name]

    def write_scores(self, name: str, scores: dict[str, Any]) -> None:
        """Keep an evaluation's figures beside the adapter."""
        write_atomic(self.path(name) / "scores.json", json.dumps(scores, ensure_ascii=False, indent=2))


def _state(info: RunInfo, happened: tuple[events.Event, ...]) -> State:
    begun = False
    for event in reversed(happened):
        if isinstance(event, events.Ended):
            return event.state
        if isinstance(event, events.Resumed):
            break
        begun = begun or isinstance(event, events.Started)
    if not info.owner.alive():
        return "interrupted"
    return "running" if begun else "waiting"


def _versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
