"""The form of a new sweep: its lines read, what is wrong said beside them, and what the grid will take told before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from workbench.errors import DataError, InputError, RunError, SettingsError
from workbench.preset_store import SOURCE
from workbench.schema import Example
from workbench.settings import GROUPS, RunSettings, takes
from workbench.training.sweep import Folds, SweepSpec, cell_count, hours
from workbench.training.sweep_axes import NO_AXES, axis_values, setting_title
from workbench.training.sweep_report import seconds_per_step
from workbench.ui.forms import read_settings
from workbench.ui.highlight import facts, note
from workbench.ui.words import sweep as words
from workbench.workspace import Workspace

TUNE = "form:"  # no run's name holds a colon
LINES = 4  # settings that the form lets one compare
BEGIN_WITH = (("quantization.mode", "8-bit, 4-bit"), ("training.seed", "1, 2"), ("", ""), ("", ""))


@dataclass(frozen=True)
class Form:
    """What was typed: `lines` are (setting, values) as they stand there.

    `shared` is a run's name, `preset:KEY`, `TUNE` for the Tune form (then `tune` are its values) or empty for the defaults.
    """

    name: str
    folds: float | None
    shared: str
    lines: tuple[tuple[str, str], ...]
    tune: tuple[Any, ...] = ()

    @classmethod
    def of(cls, name: str, folds: Any, shared: str | None, *fields: Any) -> Form:
        paths, values, tune = fields[:LINES], fields[LINES : 2 * LINES], fields[2 * LINES :]
        return cls(name or "", folds, shared or "", tuple((path or "", text or "") for path, text in zip(paths, values, strict=True)), tuple(tune))


def setting_choices() -> list[tuple[str, str]]:
    """The settings that can be compared, by title, as a dropdown wants them."""
    found = [
        (str(cls.model_fields[name].title), f"{group}.{name}")
        for group, cls in GROUPS.items() for name in cls.model_fields if f"{group}.{name}" not in NO_AXES
    ]
    return [(words.NO_AXIS, ""), *found]


def shared_settings(space: Workspace, form: Form) -> RunSettings:
    """What all cells share; raises `RunError` for a run that is gone, `SettingsError` for a preset that is or a Tune form that is wrong."""
    if form.shared == TUNE:
        try:
            return read_settings(form.tune)
        except SettingsError as exc:
            raise SettingsError(words.TUNE_WRONG.format(reason=exc)) from exc
    if not form.shared or form.shared.startswith(SOURCE):
        return space.settings_from(form.shared or None)
    return space.runs.info(form.shared).settings


def shared_choices(space: Workspace) -> list[tuple[str, str]]:
    """What all cells can share, as a dropdown wants it: the defaults, the Tune form, presets, runs."""
    presets = [(words.A_PRESET.format(title=title), source) for title, source in space.presets.sources()]
    runs = [(words.A_RUN.format(name=name), name) for name in space.runs.names()]
    return [(words.DEFAULTS, ""), (words.TUNE_NOW, TUNE), *presets, *runs]


def read_lines(form: Form, settings: RunSettings) -> tuple[dict[str, tuple[Any, ...]], list[str]]:
    """The axes that can be used, and for every line what is wrong with it (empty if nothing is)."""
    axes: dict[str, tuple[Any, ...]] = {}
    wrong = []
    for path, text in form.lines:
        said = ""
        if path in axes:
            said = words.TWICE
        elif path and not text.strip():
            group, _, name = path.partition(".")
            said = words.NO_VALUES.format(takes=takes(GROUPS[group], name))
        elif path:
            try:
                axes[path] = axis_values(path, text, settings)
            except SettingsError as exc:
                said = str(exc)
        wrong.append(said)
    return axes, wrong


def read_form(space: Workspace, form: Form, name: str | None = None) -> tuple[SweepSpec, tuple[Example, ...]]:
    """The sweep that the form describes, and its rows; nothing is written. Raises `InputError` with one sentence."""
    settings = shared_settings(space, form)
    axes, wrong = read_lines(form, settings)
    if first := next((said for said in wrong if said), ""):
        raise SettingsError(first)
    if not axes:
        raise SettingsError(words.NO_AXES)
    if form.folds is None or form.folds != int(form.folds):
        raise SettingsError("The number of folds is no whole number: give one from 2 up.")
    rows = space.rows.read()
    if rows.problems:
        raise DataError(f"{len(rows.problems)} line(s) of {space.rows.path.name} can't be used ({rows.problems[0]}): mend or delete them on the Data tab first.")
    return space.make_sweep(
        name or form.name, rows.rows, settings, axes, folds=int(form.folds), seed=settings.training.seed, data_name=space.rows.path.name
    )


def start(space: Workspace, form: Form) -> SweepSpec:
    """Make the sweep's folder and begin; raises `WorkbenchError` with one sentence, and then nothing was made."""
    busy = space.sweeps.running()
    if busy:
        raise RunError(f"The sweep {busy} is still going on: stop it or wait for its end, then start the next.")
    spec, rows = read_form(space, form)
    store = space.sweeps.store
    store.create(spec, rows)
    space.sweeps.start(spec.name)
    return spec


def look(space: Workspace, form: Form) -> tuple[list[str], str]:
    """(a note for each line, empty where nothing is wrong; the plan, or why there is none) as HTML."""
    try:
        wrong = read_lines(form, shared_settings(space, form))[1]
        notes = [note(said, "bad") if said else "" for said in wrong]
        if any(wrong):
            return notes, ""
        spec, rows = read_form(space, form, name="a")  # a name that is missing yet is told at the start
        return notes, plan_html(space, spec, rows)
    except InputError as exc:
        return [""] * LINES, note(str(exc), "bad")


def plan_html(space: Workspace, spec: SweepSpec, rows: Sequence[Example]) -> str:
    """How many cells, how many rows each, how long."""
    folds = Folds(spec, rows)
    counts = [(setting_title(path), len(values)) for path, values in spec.axes.items()]
    held = [len(part) for part in folds.held_back()]
    return facts([
        ("grid", words.grid(counts, spec.folds, cell_count(spec.axes, spec.folds))),
        ("rows", words.fold_rows(len(rows), min(held), max(held))),
        ("optimizer steps in all", f"{folds.steps(spec):,}"),
        ("time", time_words(space, spec.model_name, folds.steps(spec))),
    ])  # fmt: skip


def planned_time(space: Workspace, spec: SweepSpec) -> str:
    """How long the sweep will take, as the plan told it."""
    return time_words(space, spec.model_name, Folds(spec, space.sweeps.store.rows(spec.name)).steps(spec))


def time_words(space: Workspace, model_name: str, steps: int) -> str:
    """How long so many optimizer steps take, by earlier sweeps of the model on such a machine, or else by its last run."""
    views = space.sweeps.store.views()
    pace = seconds_per_step(views, model_name, space.has_gpu)
    if pace is not None:
        return words.time_by_cells(hours(pace * steps), sum(len(v.done) for v in views if v.spec.model_name == model_name))
    for view in space.runs.views():
        on_gpu = view.started is not None and not view.started.device.startswith("CPU")
        if view.info.model_name == model_name and len(view.steps) > 1 and on_gpu == space.has_gpu:
            return words.time_by_runs(hours(median(s.seconds for s in view.steps[1:]) * steps), view.info.name)
    return words.TIME_UNKNOWN


def suggest_name(space: Workspace) -> str:
    """A free name, as in `sweep-3`."""
    taken = set(space.sweeps.store.names())
    return next(name for name in (f"sweep-{n}" for n in range(1, 100_000)) if name not in taken)


def check(space: Workspace, name: str | None) -> str:
    """The chosen sweep's name; raises `RunError` where there is none."""
    if not name or name not in space.sweeps.store.names():
        raise RunError(words.NO_SWEEP)
    return name
