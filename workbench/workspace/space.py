"""The folders and the services over them, built once and passed in. No torch, no gradio."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from workbench.calls.prompting import PLAIN, CallForm
from workbench.calls.tools import ToolStore
from workbench.dataset.formats import load_rows, refuse_problems, rows_hash
from workbench.dataset.split import learnable, left_out
from workbench.dataset.store import RowStore
from workbench.engine.client import Engine
from workbench.engine.sweeping import Sweeps
from workbench.errors import ModelError, RunError, SettingsError, WorkbenchError
from workbench.evaluation.scores import Case, make_cases
from workbench.models.catalog import DEMO, Catalog, display_name
from workbench.models.hardware import card
from workbench.models.modules import default_modules, module_tree
from workbench.models.room import Room, find_room
from workbench.models.shapes import Shapes, folder_shapes, gemma3_shapes, known_size
from workbench.models.tokenizer import ChatTokenizer, read_json
from workbench.preset_store import PresetStore
from workbench.presets import differences
from workbench.schema import Example, RowProblem, ToolSpec
from workbench.settings import Lora, RunSettings, Training, apply_overrides, suggested_rate
from workbench.training.call_form import may_tell, settle
from workbench.training.encode import Encoded, encode_all
from workbench.training.merged import model_form, voice_form
from workbench.training.plan import Plan, make_plan
from workbench.training.review import ReviewList
from workbench.training.runs import RunInfo, RunStore, RunView
from workbench.training.sweep import MAX_CELLS, SweepSpec, make_spec
from workbench.training.sweep_report import seconds_per_step
from workbench.training.sweep_store import SweepStore
from workbench.training.tracker import check_tracker
from workbench.workspace.jobs import Jobs
from workbench.workspace.row_health import RowHealth

ROOT = Path(__file__).resolve().parents[2]
NEWEST_RUNS = 40  # runs that a plan looks through for like ones


@dataclass
class Workspace:
    """One workbench: its data, its runs, its models, and the model it is open on."""

    root: Path = ROOT
    model: str = DEMO
    models_dir: Path | None = None
    jobs: Jobs = field(init=False, repr=False)
    row_health: RowHealth = field(init=False, repr=False)
    _encoded: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.jobs, self.row_health = Jobs(self), RowHealth(self)
        self.root = self.root.resolve()
        self.models_dir = self.models_dir or self.root / "models"
        # The engine runs elsewhere: a folder must be named whole.
        with contextlib.suppress(RuntimeError, OSError, ValueError):  # what is no path at all is told when it is looked for
            if self.model != DEMO and Path(self.model).expanduser().is_dir():
                self.model = str(Path(self.model).expanduser().resolve())

    @property
    def data_dir(self) -> Path:
        return self.root / "data"

    @cached_property
    def catalog(self) -> Catalog:
        assert self.models_dir is not None
        return Catalog(self.models_dir)

    @cached_property
    def rows(self) -> RowStore:
        return RowStore(self.data_dir / "examples.json")

    @cached_property
    def tools(self) -> ToolStore:
        return ToolStore(self.data_dir / "tools.json")

    @property
    def functions_dir(self) -> Path:
        """The user's Python functions that may answer for tools."""
        return self.data_dir / "functions"

    @property
    def chats_dir(self) -> Path:
        """The chats that were kept."""
        return self.data_dir / "chats"

    @cached_property
    def review(self) -> ReviewList:
        return ReviewList(self.data_dir / "review.jsonl")

    @cached_property
    def presets(self) -> PresetStore:
        return PresetStore(self.data_dir / "presets")

    @cached_property
    def runs(self) -> RunStore:
        return RunStore(self.root / "adapters")

    def adapters(self) -> list[str]:
        """The adapters of runs that are no longer training, newest first; NAME@best where the best is not the last."""
        return self.runs.adapters()

    def voices(self) -> list[str]:
        """What may answer beside the base: the adapters, then the merged models as merged:NAME."""
        return [*self.adapters(), *self.catalog.merged()]

    @cached_property
    def sweeps(self) -> Sweeps:
        return Sweeps(SweepStore(self.root / "sweeps"), lambda: self.engine)

    @cached_property
    def engine(self) -> Engine:
        return Engine(self.catalog.models_dir, self.runs.folder, self.runs)

    def form(self, voice: str | None) -> CallForm:
        """How the conversations and calls of an adapter or of merged:NAME are written; without one, those of the model that is open:
        the tag form without a word about tools, unless it is a merged one.
        """
        return voice_form(self.runs, self.catalog, voice) if voice else model_form(self.catalog, self.model)

    def form_of(self, settings: RunSettings, tokenizer: ChatTokenizer, model: str | None = None) -> CallForm:
        """The form that a run with these settings would learn; raises `SettingsError` where the model has no dialect of its own."""
        return settle(settings.training, tokenizer, self._told(settings.training), display_name(model or self.model))

    def _told(self, training: Training) -> tuple[ToolSpec, ...]:
        """The tools that prompts may tell; raises `DataError` where they would and can't be read."""
        return tuple(self.tools.read().tools.values()) if may_tell(training) else ()

    @property
    def model_name(self) -> str:
        return display_name(self.model)

    @cached_property
    def has_gpu(self) -> bool:
        return card() is not None

    def cases(self, name: str) -> list[Case]:
        """The evaluation cases in data/NAME; raises `DataError`. An unusable line is refused by name."""
        loaded = load_rows(self.data_dir / name)
        refuse_problems(loaded.problems, name)
        return make_cases(loaded.rows)

    @cached_property
    def tokenizer(self) -> ChatTokenizer:
        """The tokenizer of the model the workbench is open on; raises `ModelError` while the model is not here."""
        tokenizer = ChatTokenizer.load(self.catalog.find(self.model))
        tokenizer.backend  # noqa: B018  read it now
        return tokenizer

    def shapes(self, model: str) -> Shapes:
        """The model's weight shapes, from its files or from the table of known sizes; raises `ModelError`."""
        try:
            return folder_shapes(self.catalog.find(model))
        except ModelError:
            size = known_size(display_name(model))
            if size is None or (model != DEMO and Path(model).exists()):
                raise
            return gemma3_shapes(size)

    def default_settings(self, model: str | None = None) -> RunSettings:
        """The settings that a form or a command starts from: the declared ones, with the rate fit to the model's width
        and the target modules to its layers."""
        model = model or self.model
        lora = Lora()
        with contextlib.suppress(ModelError):
            lora = Lora(target_modules=default_modules(module_tree(self.shapes(model))))
        size = known_size(display_name(model))
        width = size.hidden if size else 0
        with contextlib.suppress(ModelError):
            config = read_json(self.catalog.find(model) / "config.json")
            width = (config.get("text_config") or config).get("hidden_size") or width
        if not isinstance(width, int) or width <= 0:
            return RunSettings(lora=lora)
        return RunSettings(lora=lora, training=Training(learning_rate=suggested_rate(width)))

    def settings_from(self, preset: str | None, overrides: Iterable[str] = ()) -> RunSettings:
        """The model's defaults, a preset's settings over them (by name, as `preset:NAME`, or by file), and `group.field=value` texts over both.

        Raises `SettingsError`. `presets.sources()` lists the presets as a choice beside runs.
        """
        defaults = self.default_settings()
        return apply_overrides(self.presets.find(preset).settings(defaults) if preset else defaults, overrides)

    def plan(self, rows: tuple[Example, ...], settings: RunSettings, model: str | None = None, lines: tuple[int, ...] = ()) -> Plan:
        """The plan of a run over the rows that it would learn; raises `ModelError` for an unknown model.

        `lines` are the rows' places in their file, for naming a bad one; without it rows count from 1.
        """
        model = model or self.model
        shapes = self.shapes(model)
        places = learnable(rows, settings.training.unreviewed)
        usable = [rows[i] for i in places]
        notes = [note for note in (left_out(rows, settings.training.unreviewed),) if note]
        encoded: list[Encoded] | None = None
        try:
            tokenizer = self._tokenizer_for(model)
            form = self.form_of(settings, tokenizer, model)
            found, problems = self._encode(rows, lines, places, tokenizer, settings.training.max_row_tokens, form)
            notes += [f"This row can't be learned: {p}. Mend or delete it before the run." for p in problems[:3]]
            if len(problems) > 3:
                notes.append(f"And {len(problems) - 3} more rows can't be learned.")
            kept = [(row, e) for row, e in zip(usable, found, strict=True) if e is not None]
            usable, encoded = [row for row, _ in kept], [e for _, e in kept]
        except ModelError:
            notes.append("The tokens can't be counted: the model's tokenizer is not on this machine yet.")
        return make_plan(
            shapes, settings, rows=usable, encoded=encoded, has_gpu=self.has_gpu, notes=notes, model_name=display_name(model),
            room=self.room(), earlier=self._newest_runs(),
        )

    def room(self) -> Room:
        """The memory that a run may take now."""
        engine: Engine | None = vars(self).get("engine")  # a plan starts none
        return find_room(self.has_gpu, engine.worker_pid() if engine else None)

    def _newest_runs(self) -> list[RunView]:
        """The runs that a plan learns from, newest first; a broken one is told on the Train tab."""
        found = []
        for name in self.runs.names()[:NEWEST_RUNS]:
            with contextlib.suppress(RunError):
                found.append(self.runs.view(name))
        return found

    def _encode(
        self, rows: tuple[Example, ...], lines: tuple[int, ...], places: list[int], tokenizer: ChatTokenizer, max_tokens: int, form: CallForm
    ) -> tuple[list[Encoded | None], list[RowProblem]]:
        """The rows in `places` encoded; the last answer is kept, since the plan is asked for at every click."""
        key = (rows, places, tokenizer.folder, max_tokens, form)
        kept = self._encoded  # read once: another page's plan may replace it meanwhile
        if kept is not None and kept[0][0] is rows and kept[0][1:] == key[1:]:
            encoded: tuple[list[Encoded | None], list[RowProblem]] = kept[1]
            return encoded
        named = [lines[i] if lines else i + 1 for i in places]
        encoded = encode_all([rows[i] for i in places], tokenizer, max_tokens=max_tokens, lines=named, form=form)
        self._encoded = (key, encoded)
        return encoded

    def _tokenizer_for(self, model: str) -> ChatTokenizer:
        try:
            return self.tokenizer if model == self.model else ChatTokenizer.load(self.catalog.find(model))
        except ModelError:
            if model == DEMO or known_size(model) is None:
                raise
            # All Gemma 3 share one tokenizer: the embedded model's counts for its big sisters.
            return ChatTokenizer.load(self.catalog.find(DEMO))

    def create_run(
        self, name: str, rows: tuple[Example, ...], settings: RunSettings, *, data_name: str, model: str | None = None, preset: str | None = None
    ) -> RunInfo:
        """A run's folder, ready to train; raises `RunError` for a bad or taken name. `preset` is what the settings started from."""
        check_tracker(settings)
        model = model or self.model
        form: CallForm | None = None
        with contextlib.suppress(ModelError):  # a model that is still to be downloaded: it is settled when the run begins
            form = self.form_of(settings, self._tokenizer_for(model), model)
        estimated: dict[str, float] = {}
        with contextlib.suppress(WorkbenchError):  # what can't be planned may still be trained, or is refused there
            estimated = self.plan(rows, settings, model).estimated_gib()
        return self.runs.create(
            name, model=model, model_name=display_name(model), rows=rows, data_name=data_name, settings=settings, estimated_gib=estimated,
            preset=self._origin(preset, settings), tools=self._told(settings.training), form=form,
        )

    def _origin(self, preset: str | None, settings: RunSettings) -> tuple[str, int]:
        """(the preset's title, how many settings are not its own); ("", 0) without one, or where it was deleted meanwhile."""
        if preset:
            with contextlib.suppress(SettingsError):
                found = self.presets.find(preset)
                return found.title, len(differences(settings, found.settings(self.default_settings())))
        return "", 0

    def make_sweep(
        self, name: str, rows: tuple[Example, ...], settings: RunSettings, axes: dict[str, tuple[Any, ...]], *, folds: int, seed: int, data_name: str,
        max_cells: int = MAX_CELLS, lines: tuple[int, ...] = (), model: str | None = None,
    ) -> tuple[SweepSpec, tuple[Example, ...]]:
        """A sweep that can be run, and its rows; nothing is written. Raises `InputError` with one sentence.

        `lines` are the rows' places in their file, for naming one that the model can't be taught.
        """
        model = model or self.model
        with contextlib.suppress(ModelError):  # a hub's model that is still to be downloaded: the first cell will tell
            places = learnable(rows, settings.training.unreviewed)
            tokenizer = self._tokenizer_for(model)
            form = self.form_of(settings, tokenizer, model)
            refuse_problems(self._encode(rows, lines, places, tokenizer, settings.training.max_row_tokens, form)[1], data_name)
        asked = {"training.dialect", "training.tools_in_prompt"} & axes.keys()  # then some cells may tell the tools
        told = self._told(settings.training.model_copy(update={"tools_in_prompt": "yes"}) if asked else settings.training)
        return make_spec(
            name, rows, model=model, model_name=display_name(model), data_name=data_name, data_sha256=rows_hash(rows), settings=settings, axes=axes,
            folds=folds, seed=seed, max_cells=max_cells, seconds_per_step=seconds_per_step(self.sweeps.store.views(), display_name(model), self.has_gpu),
            tools=told,
        )


def row_problems(tokenizer: ChatTokenizer, rows: tuple[Example, ...], max_tokens: int, form: CallForm = PLAIN) -> list[RowProblem]:
    """The rows that the model can't be taught, by place from 1."""
    return encode_all(rows, tokenizer, max_tokens=max_tokens, form=form)[1]
