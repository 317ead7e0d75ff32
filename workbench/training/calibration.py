"""What earlier runs on this machine teach a plan: how long a step takes, and how far the memory estimate is off. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.settings import RunSettings
from workbench.training import events
from workbench.training.run_view import RunView

NEWEST = 5  # runs that are read: an older driver or an older version of this code says less
FEWEST_STEPS = 3  # a run with fewer says nothing: its first step warms up
ALIKE = 1.3  # steps whose tokens differ by less are as long as each other
AGREE = 0.25  # runs that differ by less tell one time
LEAST, MOST = 0.5, 2.0  # an estimate is not bent further: beyond it, something else was measured


@dataclass(frozen=True)
class Kind:
    """What makes runs comparable: the model by its name, how its weights are held, and where they train."""

    model_name: str
    mode: str
    checkpointing: bool
    dora: bool
    device: str

    @classmethod
    def of(cls, model_name: str, settings: RunSettings, device: str) -> Kind:
        """`device` is a card's name, or what a run tells of a CPU, as in `CPU, 2 threads`; a GPU is anything else."""
        place = device_class(device)
        mode = settings.quantization.resolved(place != "CPU").mode
        return cls(model_name, mode, settings.training.checkpointing, settings.lora.dora, place)


@dataclass(frozen=True)
class TimeEstimate:
    """Seconds of a run, at least and at most as earlier ones make expect, from which runs, and how sure in words."""

    low_seconds: float
    high_seconds: float
    runs: tuple[str, ...]
    sure: str


@dataclass(frozen=True)
class Correction:
    """By what the estimated memory is multiplied: measured / estimated over `runs`, the median."""

    ratio: float
    runs: tuple[str, ...]
    spread: float
    """Largest of the runs' ratios over the smallest; 1 for a single run."""


@dataclass(frozen=True)
class Comparison:
    """A run's peak memory as planned and as measured, GiB. `parts` are the plan's, uncorrected."""

    planned_gib: float
    measured_gib: float
    parts: dict[str, float]

    @property
    def ratio(self) -> float:
        """Measured over planned: above 1, the plan promised too little."""
        return self.measured_gib / self.planned_gib


def device_class(device: str) -> str:
    """`CPU` for every CPU, else the card's name."""
    return "CPU" if device == "CPU" or device.startswith("CPU,") else device


def kind_of(view: RunView) -> Kind | None:
    """What a run is comparable with; None until it has begun."""
    if view.started is None:
        return None
    return Kind.of(view.info.model_name, view.info.settings, view.started.device)


def measured_gib(view: RunView) -> float | None:
    """The most memory that a run told; None before its first step."""
    told = view.ended.peak_memory_gib if view.ended else None
    return told if told is not None else view.peak_memory_gib


def estimate_against_measured(view: RunView) -> Comparison | None:
    """The plan's memory beside the measured peak; None where either is not known (yet)."""
    estimated, measured = view.info.estimated_gib, measured_gib(view)
    if not estimated.get("total") or not measured:
        return None
    return Comparison(estimated["total"], measured, {name: gib for name, gib in estimated.items() if name != "total"})


def memory_correction(views: Iterable[RunView], kind: Kind) -> Correction | None:
    """How the estimate fared on this kind of device with weights held so; None without such a run (views newest first).

    Runs of the same model tell where there are any; else those of others do.
    """
    same: dict[str, float] = {}
    others: dict[str, float] = {}
    for view in views:
        other, compared = kind_of(view), estimate_against_measured(view)
        if other is None or compared is None or (other.device, other.mode) != (kind.device, kind.mode):
            continue
        if raw := sum(compared.parts.values()):
            (same if other.model_name == kind.model_name else others)[view.info.name] = compared.measured_gib / raw
    found = dict(list((same or others).items())[:NEWEST])
    if not found:
        return None
    ratio = min(MOST, max(LEAST, statistics.median(found.values())))
    return Correction(ratio, tuple(found), max(found.values()) / min(found.values()))


def time_estimate(views: Iterable[RunView], kind: Kind, *, steps: int, tokens: int | None, steps_an_epoch: int) -> TimeEstimate | None:
    """Seconds for `steps` optimizer steps over `tokens` tokens in all; None without a run of the same kind (views newest first).

    Where steps are as long as theirs, a step's time tells; where they are not, the truth lies between the time a step and the
    time a token, since a GPU is often bound by launches and a CPU never. What runs did besides steps comes on top per epoch.
    """
    low, high, names, longer = [], [], [], False
    for view in views:
        timed = _timed_steps(view)
        if kind_of(view) != kind or view.state not in ("finished", "stopped") or len(timed) < FEWEST_STEPS:
            continue
        by_step = statistics.median(s.seconds for s in timed) * steps
        by_token = statistics.median(s.seconds / max(1, s.tokens) for s in timed) * tokens if tokens else by_step
        beyond = _beyond_steps(view) * steps / max(1, steps_an_epoch)
        low.append(min(by_step, by_token) + beyond)
        high.append(max(by_step, by_token) + beyond)
        theirs = statistics.mean(s.tokens for s in timed)
        longer = longer or bool(tokens) and not 1 / ALIKE < (tokens or 0) / max(1, steps) / max(1.0, theirs) < ALIKE
        names.append(view.info.name)
        if len(names) == NEWEST:
            break
    if not names:
        return None
    apart = max(high) / max(min(low), 1e-9) - 1
    if longer or apart > AGREE:
        return TimeEstimate(min(low), max(high), tuple(names), _how_sure(apart, len(names), longer))
    # Each run has a low and a high reading: the middle of each tells, so that one odd run does not.
    return TimeEstimate(statistics.median(low), statistics.median(high), tuple(names), _how_sure(apart, len(names), longer))


def _timed_steps(view: RunView) -> Sequence[events.Step]:
    """The steps whose time tells: all but the first of the run, which warms up."""
    return view.steps[1:]


def _beyond_steps(view: RunView) -> float:
    """Seconds an epoch that went into measuring, answering and saving; 0 for a resumed run, whose pause can't be told apart."""
    if view.started is None or not view.steps or any(isinstance(e, events.Resumed) for e in view.happened):
        return 0.0
    wall = view.steps[-1].time - view.started.time
    epochs = max(1.0, view.steps[-1].epoch)
    return max(0.0, wall - sum(s.seconds for s in view.steps)) / epochs


def _how_sure(apart: float, runs: int, longer: bool) -> str:
    if longer:
        return "their steps were of other lengths, so this is a span"
    if runs == 1:
        return "one run only, so take it as a hint"
    return f"they agree within {apart:.0%}" if apart <= AGREE else f"they differ by {apart:.0%}, so this is a span"


def as_json(estimate: TimeEstimate | None) -> dict[str, Any] | None:
    """The estimate as plain values; None stays None."""
    if estimate is None:
        return None
    return {
        "low_seconds": round(estimate.low_seconds, 1), "high_seconds": round(estimate.high_seconds, 1),
        "runs": list(estimate.runs), "sure": estimate.sure,
    }
