"""A sweep as its folder tells it: the lines of results.jsonl, and what they say together. No torch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from workbench.training.runs import Owner
from workbench.training.sweep import SEED, Cell, SweepSpec, cell_key, cells

State = Literal["waiting", "running", "finished", "stopped", "failed", "interrupted"]
Counted = tuple[int, int]  # k of n


class SweepLine(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants")
    time: float = Field(default_factory=time.time, description="seconds since 1970")


class Begun(SweepLine):
    """Somebody began to run the sweep, or went on with it."""

    type: Literal["begun"] = "begun"
    owner: Owner


class CellDone(SweepLine):
    """A cell that was trained and measured. Losses in nats per label; counts are (k, n) over the rows held back."""

    type: Literal["done"] = "done"
    values: dict[str, Any]
    fold: int
    loss: float
    train_loss: float
    call_recall: Counted
    over_calls: Counted
    malformed: Counted
    right: Counted
    steps: int
    seconds: float
    peak_memory_gib: float
    device: str

    @property
    def key(self) -> str:
        return cell_key(self.values, self.fold)


class CellFailed(SweepLine):
    """A cell that failed, and why. `kind` is equal for failures of the same kind. It is tried again when the sweep goes on."""

    type: Literal["failed"] = "failed"
    values: dict[str, Any]
    fold: int
    reason: str
    kind: str

    @property
    def key(self) -> str:
        return cell_key(self.values, self.fold)


class Ended(SweepLine):
    type: Literal["ended"] = "ended"
    state: Literal["finished", "stopped", "failed", "interrupted"]
    reason: str = ""


Line = Annotated[Begun | CellDone | CellFailed | Ended, Field(discriminator="type")]
LINE: TypeAdapter[Line] = TypeAdapter(Line)


@dataclass(frozen=True)
class SweepView:
    """A sweep as it stands now. `stamp` changes whenever something was told."""

    spec: SweepSpec
    folder: Path
    lines: tuple[Line, ...]
    stamp: tuple[int, int]

    @cached_property
    def cells(self) -> list[Cell]:
        return cells(self.spec)

    @cached_property
    def done(self) -> dict[str, CellDone]:
        """The measured cells by key; a cell that was measured twice counts once, by its last result."""
        known = {cell.key for cell in self.cells}
        return {line.key: line for line in self.lines if isinstance(line, CellDone) and line.key in known}

    @cached_property
    def failed(self) -> dict[str, CellFailed]:
        """The cells whose last try failed."""
        found: dict[str, CellFailed] = {}
        for line in self.lines:
            if isinstance(line, CellFailed):
                found[line.key] = line
        return {key: line for key, line in found.items() if key not in self.done}

    @property
    def state(self) -> State:
        for line in reversed(self.lines):
            if isinstance(line, Ended):
                return line.state
            if isinstance(line, Begun):
                return "running" if line.owner.alive() else "interrupted"
        return "waiting"

    @property
    def ended(self) -> Ended | None:
        """How it ended the last time; None while it runs."""
        last = next((line for line in reversed(self.lines) if isinstance(line, (Begun, Ended))), None)
        return last if isinstance(last, Ended) else None

    @property
    def left(self) -> int:
        return len(self.cells) - len(self.done)

    @property
    def resumable(self) -> bool:
        return self.state != "running" and self.left > 0

    def seconds_left(self) -> float | None:
        """Estimated seconds that the cells to do still take; None before the first is done.

        Each takes the median of the cells done with its values (seeds aside), or else of all: four epochs take longer than one.
        """
        if not self.done:
            return None
        alike: dict[str, list[float]] = {}
        for line in self.done.values():
            alike.setdefault(_combination(line.values), []).append(line.seconds)
        usual = median(line.seconds for line in self.done.values())
        medians = {key: median(seconds) for key, seconds in alike.items()}
        return sum(medians.get(_combination(cell.values), usual) for cell in self.cells if cell.key not in self.done)


def _combination(values: Mapping[str, Any]) -> str:
    return cell_key({path: value for path, value in values.items() if path != SEED}, 0)
