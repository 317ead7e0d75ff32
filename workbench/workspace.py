"""The folders and the services over them, built once and passed in. No torch, no gradio."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from workbench.calls.dialect import openai_of
from workbench.calls.prompting import PLAIN, CallForm
from workbench.calls.tools import ToolSet, ToolStore
from workbench.dataset.checks import KEPT_APART
from workbench.dataset.formats import load_rows, refuse_problems, rows_hash
from workbench.dataset.health import Health, check_health, load_kept_apart
from workbench.dataset.split import learnable, left_out
from workbench.dataset.store import RowSet, RowStore
from workbench.engine.client import Engine, Ticket
from workbench.engine.messages import AnswerJob, EvaluateJob, GenerateJob, LoadJob, MergeJob, TogetherJob, TrainJob, UnloadJob
from workbench.engine.sweeping import Sweeps
from workbench.engine.using import refuse_used
from workbench.errors import BusyError, DataError, ModelError, RunError, SettingsError, WorkbenchError, sentence_case
from workbench.evaluation.scores import Case, make_cases
from workbench.models.catalog import DEMO, Catalog, display_name
from workbench.models.hardware import card
from workbench.models.merge_plan import free_target, plan_merge
from workbench.models.modules import default_modules, module_tree
from workbench.models.room import Room, find_room
from workbench.models.shapes import Shapes, folder_shapes, gemma3_shapes, known_size
from workbench.models.tokenizer import ChatTokenizer, read_json
from workbench.preset_store import PresetStore
from workbench.presets import differences
from workbench.schema import Example, RowProblem, ToolSpec
from workbench.settings import Lora, RunSettings, Sampling, Training, apply_overrides, suggested_rate
from workbench.training.call_form import may_tell, settle
from workbench.training.encode import Encoded, encode_all, turns_before_answer
from workbench.training.merged import model_form, remove_merged, voice_form
from workbench.training.plan import Plan, make_plan
from workbench.training.resuming import check_resumable
from workbench.training.review import ReviewList
from workbench.training.runs import RunInfo, RunStore, RunView
from workbench.training.sweep import MAX_CELLS, SweepSpec, make_spec
from workbench.training.sweep_report import seconds_per_step
from workbench.training.sweep_store import SweepStore
from workbench.training.teachable import Teachable
from workbench.training.tracker import check_tracker

ROOT = Path(__file__).resolve().parent.parent
NEWEST_RUNS = 40  # runs that a plan looks through for like ones


@dataclass
class Workspace:
    """One workbench: its data, its runs, its models, and the model it is open on."""

    root: Path = ROOT
    model: str = DEMO
    models_dir: Path | None = None
    _encoded: Any = field(default=None, repr=False)
    _health: Any = field(default=None, repr=False)
    _checking: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _apart: Any = field(default=None, repr=False)
    teaching: Training = field(default_factory=Training, repr=False)
    """What the rows are shown and checked for: the dialect, whether tools are told, and a row's length, as chosen last under Tune."""
    _asked: Teachable | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
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

    def health(self, rows: RowSet) -> Health:
        """What the rows hold and what would fool their owner; the answer for one version is kept."""
        with self._checking:  # two pages on one large set need its answer once
            tools, (others, reasons), key = self._looked_at(rows)
            if self._health is None or self._health[0] != key:
                training, count = Training(), self._token_counts()
                found = check_health(
                    rows, tools.tools, others, share=training.validation_share, seed=training.seed, count_tokens=count, uncompared=reasons,
                    refused=self._teachable().refused if count else None,
                )
                self._health = (key, found)
            health: Health = self._health[1]
            return health

    def known_health(self, rows: RowSet) -> Health | None:
        """The health of these rows, if it was the last one asked for and nothing that it looked at has changed since."""
        kept = self._health
        return kept[1] if kept is not None and kept[0] == self._looked_at(rows)[2] else None

    def _looked_at(self, rows: RowSet) -> tuple[ToolSet, tuple[dict[str, tuple[Example, ...]], dict[str, str]], Any]:
        """The tools, the files that the rows must not repeat, and what tells their versions apart."""
        try:
            tools = self.tools.read()
        except DataError:  # told on its own panel; the rows are then looked at without schemas
            tools = ToolSet()
        stamps = []
        for name in KEPT_APART:
            with contextlib.suppress(OSError):
                stat = (self.data_dir / name).stat()
                stamps.append((name, stat.st_mtime_ns, stat.st_size))
        stamp = tuple(stamps)
        if self._apart is None or self._apart[0] != stamp:
            self._apart = (stamp, load_kept_apart(self.data_dir))
        return tools, self._apart[1], (rows.version, tools.version, stamp, self.taught)

    def _token_counts(self) -> Callable[[list[str]], list[int]] | None:
        try:
            backend = self.tokenizer.backend
        except ModelError:
            return None
        return lambda texts: [len(e.ids) for e in backend.encode_batch(texts, add_special_tokens=False)]

    def _teachable(self) -> Teachable:
        """What is asked whether rows can be learned; with the form of calls that a run would learn, or the plain one while that can't be settled."""
        try:
            form = self.taught_form()
        except WorkbenchError:  # a dialect that the model does not have is told under Tune
            form = PLAIN
        asked, most = self._asked, self.teaching.max_row_tokens
        if asked is None or asked.form != form or asked.max_tokens != most:
            asked = self._asked = Teachable(self.tokenizer, most, form)
        return asked

    @property
    def taught(self) -> tuple[str, str, int]:
        """What of `teaching` decides what a row teaches: dialect, tools in the prompt, tokens at most."""
        return self.teaching.dialect, self.teaching.tools_in_prompt, self.teaching.max_row_tokens

    def taught_form(self) -> CallForm:
        """The form of calls that a run with `teaching` would learn; raises `WorkbenchError` where that can't be settled."""
        return self.form_of(RunSettings(training=self.teaching), self.tokenizer)

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

    # -- jobs for the engine ----------------------------------------------------------------------

    def load_model(self) -> Ticket:
        """Begin to load the base, so that the first answer does not wait for it."""
        return self.engine.submit(LoadJob(model=self.model), f"loading {self.model_name}")

    def unload(self) -> Ticket:
        """Give the base's memory back, and with the engine's process all that the card keeps for it; the next job starts it anew."""
        return self.engine.submit(UnloadJob(leave=True), "freeing the memory")

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

    def begin_run(
        self, name: str, rows: tuple[Example, ...], settings: RunSettings, *, data_name: str, model: str | None = None, preset: str | None = None
    ) -> RunInfo:
        """Create a run and hand it to the engine; where that can't be, nothing is left of it and the name stays free. Raises `WorkbenchError`."""
        info = self.create_run(name, rows, settings, data_name=data_name, model=model, preset=preset)
        try:
            self.start_training(info.name)
        except WorkbenchError:
            self.runs.remove(info.name)
            raise
        return info

    def start_training(self, name: str) -> Ticket:
        """Train a created run; raises `BusyError` while another is being trained."""
        return self.engine.submit(TrainJob(run=name), f"training run {name}")

    def resume_training(self, name: str) -> Ticket:
        """Go on with a run from its checkpoint; raises `RunError` where it can't, `BusyError` while another is being trained.

        A run that had saved nothing begins anew. Until the engine takes it up the run stays as it is.
        """
        info = self.runs.info(name)
        held = self.engine.training()
        if held is not None:
            raise BusyError(f"{sentence_case(held.label)} is still going on: stop it or wait for its end, then resume {name}.")
        folder = None
        with contextlib.suppress(ModelError):  # the engine fetches it, or says why it can't
            folder = self.catalog.find(info.model)
        check_resumable(self.runs, name, base=folder)
        return self.engine.submit(TrainJob(run=name, resume=True), f"training run {name}")

    def answer(self, turns: list[dict[str, str]], *, run: str | None, lanes: tuple[bool, ...], sampling: Sampling) -> Ticket:
        """Answer a conversation, written in the `form` of `run`, with the base (False) and that run's adapter (True), together."""
        job = AnswerJob(turns=tuple(turns), lanes=lanes, run=run, model=self.model, sampling=sampling, tools=self.bound_tools(sampling))
        return self.engine.submit(job, "an answer")

    def answer_job(
        self, prompts: list[list[dict[str, str]]], *, run: str | None, lanes: tuple[bool, ...], sampling: Sampling, stops: tuple[str, ...] = (),
        model: str | None = None, form_of: str | None = None,
    ) -> AnswerJob:
        """`answer` where every lane has a conversation of its own; a reply also ends before one of the texts in `stops`.

        Without a `run` another `model` may answer, and in the form of another voice.
        """
        return AnswerJob(
            prompts=tuple(tuple(turns) for turns in prompts), stops=stops, lanes=lanes, run=run, form_of=form_of, model=model or self.model,
            sampling=sampling, tools=self.bound_tools(sampling),
        )

    def answer_together(self, parts: Sequence[AnswerJob]) -> Ticket:
        """Hand in the answers of one job, or of two whose voices answer together."""
        return self.engine.submit(parts[0] if len(parts) == 1 else TogetherJob(parts=(parts[0], parts[1])), "an answer")

    def bound_tools(self, sampling: Sampling) -> tuple[dict[str, Any], ...]:
        """The tools that calls are bound to, as OpenAI's interface describes them; none where the sampling leaves calls free."""
        return tuple(openai_of(tool) for tool in self.tools.read().tools.values()) if sampling.constrain else ()

    def evaluate(self, cases: list[Case], *, run: str | None, adapted: bool, sampling: Sampling, model: str | None = None) -> Ticket:
        """Answer every case with the adapter of `run`, with that run's base alone, or without a run with `model`, a merged one."""
        form = self.form(run or model)
        prompts = tuple(turns_before_answer(c.row, form) for c in cases)
        job = EvaluateJob(prompts=prompts, adapted=adapted, run=run, model=model or self.model, sampling=sampling, tools=self.bound_tools(sampling))
        return self.engine.submit(job, f"evaluating {run if adapted else display_name(model) if model else 'the base'}")

    def check_merge(self, adapter: str, name: str) -> RunInfo:
        """The run of an adapter that may be merged as merged:`name`; raises `WorkbenchError` for what can be seen to be impossible beforehand."""
        info = self.runs.adapter(adapter)[0].info
        free_target(self.catalog, name)
        source = None
        with contextlib.suppress(ModelError):  # a hub's model that is still to be downloaded
            source = self.catalog.find(info.model)
        if source is not None:
            plan_merge(self.catalog, source, name)
        return info

    def merge(self, adapter: str, name: str) -> Ticket:
        """Merge an adapter into its base as merged:`name`; raises at once as `check_merge` does."""
        self.check_merge(adapter, name)
        return self.engine.submit(MergeJob(run=adapter, name=name.strip()), f"merging {adapter}")

    def delete_merged(self, model: str, *, sure: bool = True) -> int:
        """Take merged:NAME off the disk for good, or unless `sure` nothing; returns its bytes. Raises `ModelError` for one that is used, gone, or not a merge's."""
        refuse_used(self.engine, self.runs, self.catalog, model, opened=self.model)
        return remove_merged(self.catalog, model, sure=sure)

    def generate(self, prompts: list[list[dict[str, str]]], form: dict[str, Any], *, run: str | None, sampling: Sampling) -> Ticket:
        """Write one reply per prompt that is JSON of `form` (a JSON schema), with the adapter of `run` or with the base alone."""
        job = GenerateJob(prompts=tuple(tuple(turns) for turns in prompts), form=form, run=run, model=self.model, sampling=sampling)
        return self.engine.submit(job, "writing rows")


def row_problems(tokenizer: ChatTokenizer, rows: tuple[Example, ...], max_tokens: int, form: CallForm = PLAIN) -> list[RowProblem]:
    """The rows that the model can't be taught, by place from 1."""
    return encode_all(rows, tokenizer, max_tokens=max_tokens, form=form)[1]
