"""The jobs that a workbench hands to its engine: loading, training, answering, measuring, merging, writing rows. No torch, no gradio."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.calls.dialect import openai_of
from workbench.engine.client import Ticket
from workbench.engine.messages import AnswerJob, EvaluateJob, GenerateJob, LoadJob, MergeJob, TogetherJob, TrainJob, UnloadJob
from workbench.engine.using import refuse_used
from workbench.errors import BusyError, ModelError, WorkbenchError, sentence_case
from workbench.evaluation.scores import Case
from workbench.models.catalog import display_name
from workbench.models.merge_plan import free_target, plan_merge
from workbench.schema import Example
from workbench.settings import RunSettings, Sampling
from workbench.training.encode import turns_before_answer
from workbench.training.merged import remove_merged
from workbench.training.resuming import check_resumable
from workbench.training.runs import RunInfo

if TYPE_CHECKING:
    from workbench.workspace.space import Workspace


@dataclass(frozen=True, eq=False)
class Jobs:
    """What a workbench asks of its engine. Each verb answers at once with the job's ticket, or raises what can be told beforehand."""

    space: Workspace

    def load_model(self) -> Ticket:
        """Begin to load the base, so that the first answer does not wait for it."""
        return self.space.engine.submit(LoadJob(model=self.space.model), f"loading {self.space.model_name}")

    def unload(self) -> Ticket:
        """Give the base's memory back, and with the engine's process all that the card keeps for it; the next job starts it anew."""
        return self.space.engine.submit(UnloadJob(leave=True), "freeing the memory")

    def begin_run(
        self, name: str, rows: tuple[Example, ...], settings: RunSettings, *, data_name: str, model: str | None = None, preset: str | None = None
    ) -> RunInfo:
        """Create a run and hand it to the engine; where that can't be, nothing is left of it and the name stays free. Raises `WorkbenchError`."""
        info = self.space.create_run(name, rows, settings, data_name=data_name, model=model, preset=preset)
        try:
            self.start_training(info.name)
        except WorkbenchError:
            self.space.runs.remove(info.name)
            raise
        return info

    def start_training(self, name: str) -> Ticket:
        """Train a created run; raises `BusyError` while another is being trained."""
        return self.space.engine.submit(TrainJob(run=name), f"training run {name}")

    def resume_training(self, name: str) -> Ticket:
        """Go on with a run from its checkpoint; raises `RunError` where it can't, `BusyError` while another is being trained.

        A run that had saved nothing begins anew. Until the engine takes it up the run stays as it is.
        """
        info = self.space.runs.info(name)
        held = self.space.engine.training()
        if held is not None:
            raise BusyError(f"{sentence_case(held.label)} is still going on: stop it or wait for its end, then resume {name}.")
        folder = None
        with contextlib.suppress(ModelError):  # the engine fetches it, or says why it can't
            folder = self.space.catalog.find(info.model)
        check_resumable(self.space.runs, name, base=folder)
        return self.space.engine.submit(TrainJob(run=name, resume=True), f"training run {name}")

    def answer(self, turns: list[dict[str, str]], *, run: str | None, lanes: tuple[bool, ...], sampling: Sampling) -> Ticket:
        """Answer a conversation, written in the `form` of `run`, with the base (False) and that run's adapter (True), together."""
        job = AnswerJob(turns=tuple(turns), lanes=lanes, run=run, model=self.space.model, sampling=sampling, tools=self.bound_tools(sampling))
        return self.space.engine.submit(job, "an answer")

    def answer_job(
        self, prompts: list[list[dict[str, str]]], *, run: str | None, lanes: tuple[bool, ...], sampling: Sampling, stops: tuple[str, ...] = (),
        model: str | None = None, form_of: str | None = None,
    ) -> AnswerJob:
        """`answer` where every lane has a conversation of its own; a reply also ends before one of the texts in `stops`.

        Without a `run` another `model` may answer, and in the form of another voice.
        """
        return AnswerJob(
            prompts=tuple(tuple(turns) for turns in prompts), stops=stops, lanes=lanes, run=run, form_of=form_of, model=model or self.space.model,
            sampling=sampling, tools=self.bound_tools(sampling),
        )

    def answer_together(self, parts: Sequence[AnswerJob]) -> Ticket:
        """Hand in the answers of one job, or of two whose voices answer together."""
        return self.space.engine.submit(parts[0] if len(parts) == 1 else TogetherJob(parts=(parts[0], parts[1])), "an answer")

    def bound_tools(self, sampling: Sampling) -> tuple[dict[str, Any], ...]:
        """The tools that calls are bound to, as OpenAI's interface describes them; none where the sampling leaves calls free."""
        return tuple(openai_of(tool) for tool in self.space.tools.read().tools.values()) if sampling.constrain else ()

    def evaluate(self, cases: list[Case], *, run: str | None, adapted: bool, sampling: Sampling, model: str | None = None) -> Ticket:
        """Answer every case with the adapter of `run`, with that run's base alone, or without a run with `model`, a merged one."""
        form = self.space.form(run or model)
        prompts = tuple(turns_before_answer(c.row, form) for c in cases)
        job = EvaluateJob(prompts=prompts, adapted=adapted, run=run, model=model or self.space.model, sampling=sampling, tools=self.bound_tools(sampling))
        return self.space.engine.submit(job, f"evaluating {run if adapted else display_name(model) if model else 'the base'}")

    def check_merge(self, adapter: str, name: str) -> RunInfo:
        """The run of an adapter that may be merged as merged:`name`; raises `WorkbenchError` for what can be seen to be impossible beforehand."""
        info = self.space.runs.adapter(adapter)[0].info
        free_target(self.space.catalog, name)
        source = None
        with contextlib.suppress(ModelError):  # a hub's model that is still to be downloaded
            source = self.space.catalog.find(info.model)
        if source is not None:
            plan_merge(self.space.catalog, source, name)
        return info

    def merge(self, adapter: str, name: str) -> Ticket:
        """Merge an adapter into its base as merged:`name`; raises at once as `check_merge` does."""
        self.check_merge(adapter, name)
        return self.space.engine.submit(MergeJob(run=adapter, name=name.strip()), f"merging {adapter}")

    def delete_merged(self, model: str, *, sure: bool = True) -> int:
        """Take merged:NAME off the disk for good, or unless `sure` nothing; returns its bytes. Raises `ModelError` for one that is used, gone, or not a merge's."""
        refuse_used(self.space.engine, self.space.runs, self.space.catalog, model, opened=self.space.model)
        return remove_merged(self.space.catalog, model, sure=sure)

    def generate(self, prompts: list[list[dict[str, str]]], form: dict[str, Any], *, run: str | None, sampling: Sampling) -> Ticket:
        """Write one reply per prompt that is JSON of `form` (a JSON schema), with the adapter of `run` or with the base alone."""
        job = GenerateJob(prompts=tuple(tuple(turns) for turns in prompts), form=form, run=run, model=self.space.model, sampling=sampling)
        return self.space.engine.submit(job, "writing rows")
