"""The jobs themselves, on one loaded base. The worker runs them in its process, the command line in its own."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from workbench.engine.messages import AnswerJob, EvaluateJob, GenerateJob, Holds, Job, LoadJob, TrainJob
from workbench.errors import AdapterError, EngineError, InputError, WorkbenchError
from workbench.models.catalog import Catalog, display_name
from workbench.models.constrained import Grammar
from workbench.models.decoding import Lane, Reply, generate
from workbench.models.loading import Base, load_base, put_saved_adapter
from workbench.settings import Quantization
from workbench.training.job import run_training
from workbench.training.runs import RunStore

MAX_PROMPT_TOKENS = 8192  # a pasted book must not take the engine down
BATCH = 10  # prompts answered at once in an evaluation
WRITERS = 4  # replies of generated rows that are written at once


@dataclass
class Report:
    """Where a job tells how it goes, and asks whether it should stop."""

    progress: Callable[[str, float | None], None] = lambda text, share: None
    texts: Callable[[list[str]], None] = lambda texts: None
    holds: Callable[[Holds], None] = lambda holds: None
    stop: Callable[[], bool] = lambda: False


@dataclass
class Host:
    """Owns the loaded base: one copy of the weights for every job, and one adapter on it at most."""

    catalog: Catalog
    runs: RunStore
    base: Base | None = None
    difference: float | None = None
    key: tuple[str, Quantization] | None = field(default=None)

    def do(self, job: Job, report: Report) -> dict[str, Any]:
        """Do one job and return its result as plain values.

        Raises `WorkbenchError` with one sentence. Out of memory frees everything before it is told.
        """
        try:
            if isinstance(job, LoadJob):
                self.ensure_base(job.model, job.quantization, report)
                return {}
            if isinstance(job, TrainJob):
                return self._train(job, report)
            if isinstance(job, AnswerJob):
                return self._answer(job, report)
            if isinstance(job, GenerateJob):
                return self._generate(job, report)
            return self._evaluate(job, report)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as exc:
            if not _is_out_of_memory(exc):
                raise
            traceback.clear_frames(exc.__traceback__)  # they still hold the step's tensors
            self.drop()
            self.tell(report)
            reason = (
                "The memory ran out: choose 4-bit base weights, a lower token budget or gradient checkpointing "
                "(Tune), or close what else uses the card."
            )
            if isinstance(job, TrainJob):
                self.runs.mark_failed(job.run, reason)
            raise EngineError(reason) from exc

    def ensure_base(self, model: str, quantization: Quantization, report: Report) -> Base:
        """The base that a job needs, loaded unless it is already there."""
        resolved = quantization.resolved(torch.cuda.is_available())
        if self.base is not None and self.key == (model, resolved):
            return self.base
        if self.base is not None:
            self.drop()
            self.tell(report)
        report.progress(f"looking for {display_name(model)}", None)
        folder = self.catalog.fetch(model, lambda text: report.progress(text, None))
        self.base = load_base(folder, resolved, say=lambda text: report.progress(text, None))
        self.key = (model, resolved)
        self.tell(report)
        return self.base

    def drop(self) -> None:
        """Forget the base and give its memory back."""
        self.base, self.key, self.difference = None, None, None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def tell(self, report: Report) -> None:
        """Report what is loaded now, or that nothing is."""
        if self.base is None or self.key is None:
            report.holds(Holds())
            return
        device = self.base.device
        report.holds(Holds(
            model=display_name(self.key[0]), quantization=self.key[1].mode, adapter=self.base.adapter,
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        ))

    def _train(self, job: TrainJob, report: Report) -> dict[str, Any]:
        info = self.runs.info(job.run)
        try:
            base = self.ensure_base(info.model, info.settings.quantization, report)
        except WorkbenchError as exc:
            self.runs.mark_failed(job.run, str(exc))
            raise
        report.progress(f"training {job.run}", None)
        self.difference = None  # what the last adapter was proven to do says nothing of this one
        ended = run_training(base, self.runs, job.run, stop=report.stop)
        self.difference = ended.adapter_difference
        self.tell(report)
        return {"state": ended.state, "step": ended.step, "seconds": ended.seconds, "reason": ended.reason,
                "adapter_difference": ended.adapter_difference}

    def ensure_adapter(self, job: AnswerJob | EvaluateJob | GenerateJob, report: Report) -> Base:
        """The base with the job's adapter on it (the run's own model and quantization), proven active."""
        if job.run is None:
            if isinstance(job, EvaluateJob) and job.adapted or isinstance(job, AnswerJob) and any(job.lanes):
                raise AdapterError("No adapter is named: choose the run whose adapter should answer.")
            return self.ensure_base(job.model, job.quantization, report)
        view = self.runs.view(job.run)
        if view.live:
            raise AdapterError(f"The run {job.run} is still training: wait for its end or stop it first.")
        base = self.ensure_base(view.info.model, view.info.settings.quantization, report)
        if base.adapter != job.run or self.difference is None:
            report.progress(f"putting the adapter {job.run} on", None)
            self.difference = put_saved_adapter(base, self.runs.path(job.run), job.run)
            self.tell(report)
        return base

    def _answer(self, job: AnswerJob, report: Report) -> dict[str, Any]:
        base = self.ensure_adapter(job, report)
        prompt = _prompt(base, job.turns)
        report.progress("answering", None)
        replies = generate(base, [Lane(prompt, adapted) for adapted in job.lanes], job.sampling, on_text=report.texts, stop=report.stop)
        return {"replies": [vars(r) for r in replies], "adapter_difference": self.difference if job.run else None}

    def _evaluate(self, job: EvaluateJob, report: Report) -> dict[str, Any]:
        base = self.ensure_adapter(job, report)
        prompts = [_prompt(base, turns) for turns in job.prompts]
        # Like lengths share a batch, so that little is padded.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        replies: dict[int, Reply] = {}
        for start in range(0, len(order), BATCH):
            if report.stop():
                raise WorkbenchError(f"The evaluation was stopped after {len(replies)} of {len(prompts)} prompts.")
            report.progress(f"answered {len(replies)} of {len(prompts)} prompts", len(replies) / len(prompts))
            chunk = order[start : start + BATCH]
            made = generate(base, [Lane(prompts[i], job.adapted) for i in chunk], job.sampling, stop=report.stop)
            if any(reply.ended == "stopped" for reply in made):
                raise WorkbenchError(f"The evaluation was stopped after {len(replies)} of {len(prompts)} prompts.")
            replies |= dict(zip(chunk, made, strict=True))
        return {"replies": [replies[i].text for i in range(len(prompts))],
                "adapter_difference": self.difference if job.run else None}

    def _generate(self, job: GenerateJob, report: Report) -> dict[str, Any]:
        """Replies that are bound to the job's form; a stop keeps those that were begun, marked as "stopped"."""
        base = self.ensure_adapter(job, report)
        prompts = [_prompt(base, turns) for turns in job.prompts]
        report.progress("reading the form that replies must have", None)
        grammar = Grammar(base, job.form)
        replies: list[Reply] = []
        for start in range(0, len(prompts), WRITERS):
            if report.stop():
                break
            report.progress(f"wrote {len(replies)} of {len(prompts)} replies", len(replies) / len(prompts))
            lanes = [Lane(ids, adapted=job.run is not None, bound=grammar.bound()) for ids in prompts[start : start + WRITERS]]
            # Another seed for each batch, or like prompts would get the same reply again.
            sampling = job.sampling.model_copy(update={"seed": (job.sampling.seed + start) % 2**31})
            replies += generate(base, lanes, sampling, on_text=report.texts, stop=report.stop)
        return {"replies": [vars(r) for r in replies], "adapter_difference": self.difference if job.run else None}


def _prompt(base: Base, turns: Sequence[dict[str, str]]) -> tuple[int, ...]:
    ids = tuple(base.tokenizer.prompt_ids(list(turns)))
    if len(ids) > MAX_PROMPT_TOKENS:
        raise InputError(f"The prompt has {len(ids):,} tokens; {MAX_PROMPT_TOKENS:,} are allowed here. Shorten it.")
    return ids


def _is_out_of_memory(exc: BaseException) -> bool:
    # torch's allocator for the CPU has no error class of its own.
    return isinstance(exc, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(exc)

