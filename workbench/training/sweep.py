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

from workbench.dataset.split import folds as make_folds
from workbench.dataset.split import learnable
from workbench.errors import DataError, RunError, SettingsError
from workbench.files import safe_name
from workbench.schema import Example
from workbench.settings import GROUPS, RunSettings, all_paths, apply_overrides, make_settings

SEED = "training.seed"  # the axis that repeats: its values are not compared but taken together
MAX_CELLS = 400
MAX_FOLDS = 100
# What would change nothing here, or would change what is measured on: an axis over it would show "no difference" for a wrong reason.
_ONCE = "every cell is measured once, at its end, and keeps no adapter"
_ROWS = "it decides which rows there are, and folds of other rows can't be compared"
NO_AXES = {
    "training.validation_share": "the folds decide which rows are held back",
    "training.evaluate_every": _ONCE, "training.save_every": _ONCE, "training.sample_every": _ONCE, "training.keep_best": _ONCE,
    "training.early_stopping": _ONCE, "training.tracker": "a sweep's cells are no runs",
    "training.unreviewed": _ROWS, "training.max_row_tokens": _ROWS,
}  # fmt: skip


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


def read_axis(text: str, settings: RunSettings) -> tuple[str, tuple[Any, ...]]:
    """An axis as the command line gives it, `lora.rank=8,16`; raises `SettingsError`."""
    path, equals, values = text.partition("=")
    if not equals:
        raise SettingsError(f"--axis takes group.field=value,value, as in quantization.mode=4-bit,8-bit; {text!r} is not of that form.")
    return path.strip(), axis_values(path.strip(), values, settings)


def axis_values(path: str, text: str, settings: RunSettings) -> tuple[Any, ...]:
    """The values of an axis, separated by commas; names within one value by plus signs, as in `q_proj+v_proj, q_proj`.

    Raises `SettingsError`, named by the setting, for an unknown one, a value out of its range, one value alone or one given twice.
    """
    if path not in all_paths():
        raise SettingsError(f"There is no setting {path or '(empty)'}. The settings are: {', '.join(all_paths())}.")
    if path in NO_AXES:
        raise SettingsError(f"{path} can't be compared in a sweep: {NO_AXES[path]}.")
    group, _, name = path.partition(".")
    listed = isinstance(getattr(getattr(settings, group), name), tuple)
    found = []
    for part in (p.strip() for p in text.split(",") if p.strip()):
        made = apply_overrides(settings, [f"{path}={part.replace('+', ',') if listed else part}"])
        found.append(getattr(made, group).model_dump(mode="json")[name])
    if len(found) < 2:
        given = f"one value ({value_text(found[0])})" if found else "no value"
        raise SettingsError(f"{path} has {given}: give two or more to compare, separated by commas.")
    for value in found:
        if found.count(value) > 1:
            raise SettingsError(f"{path} names {value_text(value)} twice: every value once.")
    if path == "quantization.mode" and "auto" in found:
        raise SettingsError("quantization.mode can't be auto in a sweep, which is one of the others: name none, 8-bit or 4-bit.")
    return tuple(found)


def value_text(value: Any) -> str:
    """A value as `axis_values` reads it."""
    if isinstance(value, (list, tuple)):
        return "+".join(str(v) for v in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def setting_words(path: str, value: Any) -> str:
    """A setting's value in a line: words stand for themselves (8-bit), numbers and switches bring their name (rank 16)."""
    text = value_text(value)
    if path == "quantization.mode":
        return text if text != "none" else "not quantized"
    return f"{path.partition('.')[2].replace('_', ' ')} {text}"


def make_spec(
    name: str, rows: Sequence[Example], *, model: str, model_name: str, data_name: str, data_sha256: str, settings: RunSettings,
    axes: Mapping[str, Sequence[Any]], folds: int = 5, seed: int = 42, max_cells: int = MAX_CELLS, seconds_per_step: float | None = None,
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
        raise DataError(f"{data_name} holds no row that a sweep could learn: add rows, or approve drafts on the Data tab.")
    spec = SweepSpec(
        name=name.strip(), model=model, model_name=model_name, data_name=data_name, data_rows=len(usable), data_sha256=data_sha256,
        settings=settings, axes={path: tuple(values) for path, values in axes.items()}, folds=folds, seed=seed, max_cells=max(1, max_cells),
    )
    _limit(spec, len(usable), seconds_per_step)
    for values in combinations(spec):
        settings_of(spec, values)
    Folds(spec, usable)  # raises where they can't be made
    return spec, usable


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
