"""Which measurement of a run is its best so far, and whether it is worth going on. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict

from workbench.settings import Training

Measure = Literal["validation loss", "call accuracy"]


class Best(BaseModel):
    """The best measurement so far and the optimizer step after which it was taken."""

    model_config = ConfigDict(frozen=True)
    step: int
    value: float


@dataclass
class Keeper:
    """Judges measurements one by one. A tie goes to the earlier one; what is no number is never better."""

    measure: Measure | None
    """What is judged; None where nothing can be."""
    keeps: bool
    """Whether the best adapter is kept beside the last."""
    patience: int
    """Measurements without a better one after which the run ends; 0: never."""
    best: Best | None = None
    since: list[float] = field(default_factory=list)
    """The measurements since the best."""

    def take(self, measure: Measure, step: int, value: float) -> bool:
        """Take a measurement in; True if it is the best so far. Another measure than the judged one is passed over."""
        if measure != self.measure:
            return False
        if math.isfinite(value) and (self.best is None or self._beats(value, self.best.value)):
            self.best, self.since = Best(step=step, value=value), []
            return True
        self.since.append(value)
        return False

    def _beats(self, value: float, best: float) -> bool:
        return value < best if self.measure == "validation loss" else value > best

    @property
    def exhausted(self) -> bool:
        return self.patience > 0 and len(self.since) >= self.patience

    def sentence(self, step: int) -> str:
        """Why the run ends early after optimizer step `step`."""
        last = ", ".join(f"{v:.3f}" for v in self.since[-self.patience :])
        than = f"than {self.best.value:.3f} after step {self.best.step}" if self.best else "than none before"
        many = len(self.since) > 1
        which = f"the last {len(self.since)} measurements" if many else "the last measurement"
        return f"ended early after optimizer step {step}: {which} of {self.measure} ({last}) {'were' if many else 'was'} not better {than}"


def make_keeper(training: Training, *, validates: bool, asks: bool) -> tuple[Keeper, str]:
    """The keeper that the settings ask for, and one sentence where it can't be had as asked (else empty).

    `validates`: there are validation rows; `asks`: the model answers them now and then.
    """
    wanted = training.keep_best
    patience = training.early_stopping
    if wanted == "off" and not patience:
        return Keeper(None, False, 0), ""
    if not validates:
        what = "the best adapter can't be told from the last and only the last is kept" if wanted != "off" else "the run can't end early"
        if wanted != "off" and patience:
            what += ", and the run can't end early"
        return Keeper(None, False, 0), f"No row is held back, so {what}: raise the validation share."
    if wanted == "call accuracy" and not asks:
        return Keeper("validation loss", True, patience), (
            "The best adapter is kept by validation loss: call accuracy is not measured, since the model is never asked "
            "(“Answer validation rows every” is 0)."
        )
    return Keeper("call accuracy" if wanted == "call accuracy" else "validation loss", wanted != "off", patience), ""
