"""What a run tells while it goes on: one JSON object a line, appended, never rewritten."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from workbench.training.lines import append_line, read_lines


class _Event(BaseModel):
    # A loss that is no longer a number must reach the reader, not vanish as null.
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants")
    time: float = Field(default_factory=time.time, description="seconds since 1970")


class Started(_Event):
    type: Literal["started"] = "started"
    total_steps: int
    epochs: int
    train_rows: int
    validation_rows: int
    trainable_parameters: int
    total_parameters: int
    device: str


class Step(_Event):
    """One optimizer step: mean loss over its labels (nats), gradient norm before clipping, seconds, peak GiB."""

    type: Literal["step"] = "step"
    step: int
    epoch: float
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    labels: int
    seconds: float
    memory_gib: float
    gpu_use: float | None = None
    """Share (0 to 1) of the last second in which the card computed; None where there is no card or it does not tell."""


class Resumed(_Event):
    """The run goes on after `step` optimizer steps, from its checkpoint; steps told after it replace those of the same number."""

    type: Literal["resumed"] = "resumed"
    step: int


class SampleAnswer(BaseModel):
    """A validation row's prompt, what the model answered, and how that compares with the row."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    prompt: str
    expected: str
    """The row's own answer, in the dialect's text."""
    reply: str
    verdict: str
    right: bool


class Sampled(_Event):
    """The model answered its validation rows: `right` of `asked` called or kept from calling as the row does."""

    type: Literal["sampled"] = "sampled"
    step: int
    epoch: float
    right: int
    asked: int
    seconds: float = 0.0
    answers: tuple[SampleAnswer, ...] = ()
    """Three of them, the same rows at every epoch, calls and texts mixed."""


class Validation(_Event):
    type: Literal["validation"] = "validation"
    step: int
    epoch: float
    loss: float


class Saved(_Event):
    type: Literal["saved"] = "saved"
    step: int
    best: bool = False
    """Whether this adapter is the best so far by the run's `keep_best`."""


class Notice(_Event):
    """A line in plain words for the run's log."""

    type: Literal["notice"] = "notice"
    text: str


Cause = Literal["", "memory", "killed", "hang", "device", "not finite", "disk", "early stop"]


class Ended(_Event):
    """The last event of a run that ended by itself, was stopped, or failed with a reason.

    `cause` sorts the reason for the screen: a button that helps is offered by it.
    """

    type: Literal["ended"] = "ended"
    state: Literal["finished", "stopped", "failed"]
    reason: str = ""
    cause: Cause = ""
    step: int = 0
    best_step: int | None = None
    seconds: float = 0.0
    peak_memory_gib: float | None = None
    adapter_difference: float | None = None
    """Largest absolute difference of the logits with and without the adapter, on a probe prompt."""


Event = Annotated[Started | Resumed | Step | Validation | Sampled | Saved | Notice | Ended, Field(discriminator="type")]
_ADAPTER: TypeAdapter[Event] = TypeAdapter(Event)


def standing(happened: Iterable[Event]) -> tuple[Event, ...]:
    """What holds of `happened`: a resume voids the end before it and the steps after its checkpoint, with all told at them.

    A resume from step 0 begins anew and leaves notices alone.
    """
    kept: list[Event] = []
    for event in happened:
        if isinstance(event, Resumed):
            kept = [e for e in kept if not _void(e, event.step)]
        kept.append(event)
    return tuple(kept)


def _void(event: Event, step: int) -> bool:
    if isinstance(event, Ended):
        return True
    if isinstance(event, (Step, Validation, Sampled, Saved)):
        return event.step > step or step == 0
    return isinstance(event, Started) and step == 0


def append_event(path: Path, event: _Event) -> None:
    """Append one line, so that a killed process loses at most the line in hand; the last one of a run is on the disk then."""
    append_line(path, event, to_disk=isinstance(event, Ended))


def read_events(path: Path) -> list[Event]:
    """All whole events of a run; a half-written last line is left for the next read."""
    try:
        return read_lines(path, _ADAPTER)
    except FileNotFoundError:
        return []
