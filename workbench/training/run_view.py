"""What is known of a run: what it was asked to do, who answers for it, and the state its events amount to. No torch."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from workbench.settings import RunSettings
from workbench.training import events
from workbench.training.holding import held_elsewhere

State = Literal["waiting", "running", "finished", "stopped", "failed", "interrupted"]
CHECKPOINT, BEST = "checkpoint", "best"  # folders of a run: what a resume needs, and the best adapter
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


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

    def is_foreign(self) -> bool:
        """Whether it is alive and neither this process nor its parent nor its child: the app and its engine are one."""
        import psutil

        if not self.alive() or self.pid in (os.getpid(), os.getppid()):
            return False
        try:
            return bool(psutil.Process(self.pid).ppid() != os.getpid())
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
    preset: str = ""
    """The title of the preset that the settings started from; empty where none was chosen, or where nobody knows."""
    preset_changed: int = 0
    """How many settings are not that preset's."""

    @property
    def preset_told(self) -> str:
        """As in `Best quality, 2 changed`; empty where there is no preset to tell of."""
        return f"{self.preset}, {self.preset_changed} changed" if self.preset and self.preset_changed else self.preset


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
    def orphaned(self) -> bool:
        """Whether it goes on although whoever answered for it is gone: its worker ends the step in hand and saves."""
        return self.live and not self.info.owner.alive()

    @property
    def elsewhere(self) -> bool:
        """Whether a process that this one has nothing to do with trains it."""
        return self.live and self.info.owner.is_foreign()

    @property
    def has_adapter(self) -> bool:
        return holds_adapter(self.folder)

    @property
    def best_step(self) -> int | None:
        """The optimizer step whose adapter is kept as the best; None where none is."""
        return next((e.step for e in reversed(self.standing) if isinstance(e, events.Saved) and e.best), None)

    @property
    def has_best(self) -> bool:
        """Whether there is a best adapter that is not the last one."""
        last = next((e.step for e in reversed(self.standing) if isinstance(e, events.Saved)), None)
        return self.best_step is not None and self.best_step != last and holds_adapter(self.folder / BEST)

    @property
    def peak_memory_gib(self) -> float | None:
        """The most memory that a step told, GiB; None before the first."""
        return max((s.memory_gib for s in self.steps), default=None)

    @property
    def resumable(self) -> bool:
        """Whether there is a checkpoint to go on from, and steps left to do."""
        return self.state in ("stopped", "failed", "interrupted") and (self.folder / CHECKPOINT / "state.json").is_file()

    def seconds_left(self) -> float | None:
        """Estimated seconds to the last step: the steps' own mean time, and what comes with an epoch (answers, measuring, saving).

        Counted since the last start, so that a pause before a resume does not weigh in.
        """
        started = self.started
        steps = [s for s in self.steps if started is not None and s.time >= started.time]
        if not steps or started is None or self.state != "running":
            return None
        last = steps[-1]
        own = sum(s.seconds for s in steps)
        over = sum(abs(s.epoch - round(s.epoch)) < 1e-6 for s in steps[:-1])  # epochs whose end has been seen in full
        beyond = last.time - (steps[0].time - steps[0].seconds) - own
        # Before the first epoch's end, the answers given before the first step tell what those of an epoch will take.
        extra = max(0.0, beyond) / over if over else next((s.seconds for s in reversed(self.samples)), 0.0)
        left = own / len(steps) * (started.total_steps - last.step) + extra * (started.epochs + 1 - math.ceil(last.epoch - 1e-6))
        return max(0.0, left - (time.time() - last.time))


def holds_adapter(folder: Path) -> bool:
    return all((folder / file).is_file() for file in ADAPTER_FILES)


def state_of(info: RunInfo, happened: tuple[events.Event, ...], folder: Path) -> State:
    """The state that the events amount to; a run whose owner is gone goes on while another process still trains it."""
    begun = False
    for event in reversed(happened):
        if isinstance(event, events.Ended):
            return event.state
        if isinstance(event, events.Resumed):
            break
        begun = begun or isinstance(event, events.Started)
    if not info.owner.alive() and not held_elsewhere(folder):
        return "interrupted"
    return "running" if begun else "waiting"
