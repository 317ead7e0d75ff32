"""What a sweep is: a grid over a few settings, each combination trained on the same folds of the rows. No torch."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from workbench.calls.dialect import openai_of
from workbench.dataset.split import folds as make_folds
from workbench.dataset.split import learnable, stratum
from workbench.errors import DataError, RunError, SettingsError
from workbench.files import safe_name
from workbench.schema import Example, ToolSpec
from workbench.settings import GROUPS, RunSettings, make_settings
from workbench.training.sweep_axes import setting_words

SEED = "training.seed"  # the axis that repeats: its values are not compared but taken together
MAX_CELLS = 400
MAX_FOLDS = 100


class SweepSpec(BaseModel):
    """sweep.json: what is compared. `axes` gives each setting's values as JSON knows them; `settings` is what all cells share."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())
    name: str
    model: str
    model_name: str
    data_name: str
    data_rows: int
    data_sha256: str
    settings: RunSettings
    axes: dict[str, tuple[Any, ...]]
    folds: int = Field(5, ge=2, le=MAX_FOLDS)
    seed: int = Field(42, ge=0, le=2**31 - 1, description="decides the folds; each value of training.seed has folds of its own")
    max_cells: int = Field(MAX_CELLS, ge=1)
    tools: tuple[dict[str, Any], ...] = Field((), description="those that prompts may tell, as OpenAI's interface describes them")
    created: float = Field(default_factory=time.time)

    @property
    def compared(self) -> list[str]:
        """The axes whose values are compared with one another."""
        return [path for path in self.axes if path != SEED]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(self.axes.get(SEED, (self.settings.training.seed,)))

    @property
    def repeats(self) -> int:
        return len(self.seeds)


@dataclass(frozen=True)
class Cell:
    """One training of a sweep. `values` are the axes' values here, `fold` counts from 0, `repeat` is the seed's place among the seeds."""

    number: int
    values: Mapping[str, Any]
    fold: int
    repeat: int

    @cached_property
    def key(self) -> str:
        """What tells it from the sweep's other cells, whatever their order."""
        return cell_key(self.values, self.fold)

    def words(self) -> str:
        """As in `8-bit, rank 16, seed 7, fold 2`."""
        return ", ".join([setting_words(path, value) for path, value in self.values.items()] + [f"fold {self.fold + 1}"])


def cell_key(values: Mapping[str, Any], fold: int) -> str:
    return json.dumps([sorted(values.items()), fold], ensure_ascii=False)


def cells(spec: SweepSpec) -> list[Cell]:
    """All cells, those of equal quantization in a row: the base is loaded once for each. Then seed by seed, fold by fold.

    So combinations are soon comparable on the same folds, long before the sweep is through.
    """
    outer = [path for path in spec.axes if path.startswith("quantization.")]
    inner = [path for path in spec.axes if path not in outer and path != SEED]
    found: list[Cell] = []
    for base, (repeat, seed), fold, rest in itertools.product(_grid(spec, outer), enumerate(spec.seeds), range(spec.folds), _grid(spec, inner)):
        values = base | rest | ({SEED: seed} if SEED in spec.axes else {})
        found.append(Cell(len(found) + 1, {path: values[path] for path in spec.axes}, fold, repeat))
    return found


def combinations(spec: SweepSpec) -> list[dict[str, Any]]:
    """The values of the compared axes, every combination once, in the order of the axes."""
    return _grid(spec, spec.compared)


def _grid(spec: SweepSpec, paths: Sequence[str]) -> list[dict[str, Any]]:
    return [dict(zip(paths, picked, strict=True)) for picked in itertools.product(*(spec.axes[p] for p in paths))]


def settings_of(spec: SweepSpec, values: Mapping[str, Any]) -> RunSettings:
    """The shared settings with a cell's values in them; raises `SettingsError`."""
    made = {group: getattr(spec.settings, group).model_dump() for group in GROUPS}
    for path, value in values.items():
        group, _, name = path.partition(".")
        made[group][name] = value
    return make_settings(made)


class Folds:
    """The folds of a sweep's rows, made once for each of its seeds."""

    def __init__(self, spec: SweepSpec, rows: Sequence[Example]) -> None:
        from workbench.dataset.similar import near_groups

        groups = near_groups([row.request for row in rows])
        self._of = [make_folds(rows, spec.folds, spec.seed + repeat, groups) for repeat in range(spec.repeats)]

    def of(self, cell: Cell) -> tuple[list[int], list[int]]:
        """Places (learned, held back) of a cell."""
        return self._of[cell.repeat][cell.fold]

    def held_back(self) -> list[list[int]]:
        """The places held back by every fold of every seed."""
        return [held for made in self._of for _, held in made]

    def steps(self, spec: SweepSpec) -> int:
        """Optimizer steps of the whole sweep."""
        from workbench.training.plan import step_count

        return sum(step_count(len(self.of(cell)[0]), settings_of(spec, cell.values).training) for cell in cells(spec))


def make_spec(
    name: str, rows: Sequence[Example], *, model: str, model_name: str, data_name: str, data_sha256: str, settings: RunSettings,
    axes: Mapping[str, Sequence[Any]], folds: int = 5, seed: int = 42, max_cells: int = MAX_CELLS, seconds_per_step: float | None = None,
    tools: Sequence[ToolSpec] = (),
) -> tuple[SweepSpec, tuple[Example, ...]]:
    """A sweep that can be run, with the rows it is run on: those of `rows` that training would learn or hold back.

    `seconds_per_step`, if it is known, tells how long a grid that is too large would take.
    Raises `RunError`, `SettingsError` or `DataError` with one sentence.
    """
    safe_name(name, what="sweep's name", error=RunError)
    if not axes:
        raise SettingsError("A sweep compares settings: give at least one with two or more values, as in quantization.mode=4-bit,8-bit.")
    if not 2 <= folds <= MAX_FOLDS:
        raise SettingsError(f"The number of folds can't be {folds}: it takes a whole number from 2 to {MAX_FOLDS}.")
    if not 0 <= seed < 2**31:
        raise SettingsError(f"The seed of the folds can't be {seed}: it takes a whole number from 0 to {2**31 - 1}.")
    usable = tuple(rows[i] for i in learnable(rows, settings.training.unreviewed))
    if not usable:
        held = f"none of the {len(rows)} rows of {data_name} can be learned" if rows else f"{data_name} holds no rows"
        raise DataError(f"There is nothing to compare on: {held}. Add rows on the Data tab, or approve its drafts.")
    spec = SweepSpec(
        name=name.strip(), model=model, model_name=model_name, data_name=data_name, data_rows=len(usable), data_sha256=data_sha256,
        settings=settings, axes={path: tuple(values) for path, values in axes.items()}, folds=folds, seed=seed, max_cells=max(1, max_cells),
        tools=tuple(openai_of(tool) for tool in tools),
    )
    _limit(spec, len(usable), seconds_per_step)
    for values in combinations(spec):
        try:
            settings_of(spec, values)
        except SettingsError as exc:
            named = ", ".join(setting_words(path, value) for path, value in values.items()) or "what all cells share"
            raise SettingsError(f"The grid holds a combination that can't be trained ({named}). {exc}") from exc
    Folds(spec, usable)  # raises where they can't be made
    _kinds(usable, folds)
    return spec, usable


def _kinds(rows: Sequence[Example], folds: int) -> None:
    """Refuse folds of which some would hold back no call, or calls alone: there the call recall or the over-calls can't be counted."""
    calls = sum(bool(stratum(row)) for row in rows)
    for count, kind, figure in ((calls, "call a tool", "call recall"), (len(rows) - calls, "answer in words", "over-call rate")):
        if 0 < count < folds:
            fewer = f"take {count} folds or fewer, or add" if count > 1 else "add"
            raise DataError(
                f"{folds} folds want at least {folds} rows that {kind}, one to hold back in each, or its {figure} can't be counted; "
                f"there {'is' if count == 1 else 'are'} {count}: {fewer} such rows on the Data tab."
            )


def _limit(spec: SweepSpec, rows: int, seconds_per_step: float | None) -> None:
    from workbench.training.plan import step_count

    count = cell_count(spec.axes, spec.folds)
    if count <= spec.max_cells:
        return
    time_needed = ""
    if seconds_per_step is not None:
        steps = step_count(rows - rows // spec.folds, spec.settings.training)
        time_needed = f", about {hours(count * steps * seconds_per_step)} by what was measured here"
    raise SettingsError(
        f"This grid has {count:,} cells{time_needed}; {spec.max_cells:,} are allowed. Take fewer values, fewer seeds or fewer folds."
    )


def cell_count(axes: Mapping[str, Sequence[Any]], folds: int) -> int:
    count = folds
    for values in axes.values():
        count *= len(values)
    return count


def hours(seconds: float) -> str:
    """As in `40 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
