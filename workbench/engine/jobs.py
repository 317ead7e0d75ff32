"""The jobs themselves, on one loaded base. The worker runs them in its process, the command line in its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from workbench.calls.dialect import Dialect
from workbench.calls.prompting import PLAIN, CallForm
from workbench.calls.tools import parse_specs
from workbench.dataset.formats import load_rows, refuse_problems
from workbench.engine.bases import Bases, Report, computing, no_sign, weigh
from workbench.engine.messages import AnswerJob, EvaluateJob, FoldJob, GenerateJob, Job, LoadJob, MergeJob, TrainJob, UnloadJob
from workbench.errors import AdapterError, DataError, EngineError, InputError, WorkbenchError
from workbench.models.catalog import display_name
from workbench.models.decoding import Bound, Lane, Reply, generate, release, room_for
from workbench.models.faults import accelerator_fault, lets_go
from workbench.models.loading import Base, put_saved_adapter, take_off_adapter
from workbench.models.watched import StoppedLoadingError
from workbench.training import events
from workbench.training.batching import alike
from workbench.training.call_form import settle
from workbench.training.fold import run_fold
from workbench.training.job import follow_training, run_training, stopped_words
from workbench.training.merged import model_form, voice_form
from workbench.training.ranks import ALONE, Ranks
from workbench.training.resuming import alone_in_training, take
from workbench.training.runs import RunInfo, RunStore

__all__ = ["FaultError", "Host", "Report"]

MAX_PROMPT_TOKENS = 8192  # a pasted book must not take the engine down
BATCH = 10  # prompts answered at once in an evaluation, at most
BATCH_TOKENS = 16_384  # of such a batch at most, its padding and the room for the replies included: what a training step holds by default
CARD_BATCH = 128  # the same on a card, where its free memory allows
KEPT_BYTES = 2**30  # a decoding cache up to this size outlives its evaluation
WRITERS = 4  # replies of generated rows that are written at once
OUT_OF_MEMORY = (
    "The memory ran out: choose 4-bit base weights, a lower token budget or gradient checkpointing "
    "(Tune), or close what else uses the card."
)
TWO_TOO_MANY = "The memory ran out with two models loaded. From now on there is one at a time: ask again."


class FaultError(EngineError):
    """The memory ran out, or the card failed. `cause` says which; after "device" this process can't use the card any more."""

    def __init__(self, reason: str, cause: events.Cause) -> None:
        super().__init__(reason)
        self.cause = cause


@dataclass
class Host(Bases):
    """Does the jobs, one at a time, on the bases that it holds."""

    runs: RunStore
    ranks: Ranks = ALONE
    """Its place among the processes of one run, where a launcher started several."""

    def do(self, job: Job, report: Report) -> dict[str, Any]:
        """Do one job and return its result as plain values.

        Raises `WorkbenchError` with one sentence: `FaultError` where the memory ran out (everything is freed before it
        is told) or the card failed. Either way a run is marked with it.
        """
        def stop() -> bool:
            self._got_on()
            return report.stop()

        self._sign, self._phase = report.sign, computing()
        self._got_on()
        try:
            return self._do(job, replace(report, stop=stop))
        except StoppedLoadingError as exc:
            lets_go(exc)
            self.drop()
            self.tell(report)
            raise
        except Exception as exc:
            cause = accelerator_fault(exc)
            if not cause:
                if not isinstance(exc, (WorkbenchError, ImportError)):
                    # Nobody foresaw it: a library may have left its hooks on the base (peft does in a mixed batch), so the next job gets a new one.
                    lets_go(exc)
                    self.drop()
                    self.tell(report)
                raise
            two = cause == "memory" and self.beside is not None
            self.one_only = self.one_only or two
            reason = TWO_TOO_MANY if two else OUT_OF_MEMORY if cause == "memory" else (
                f"The card failed ({str(exc).splitlines()[0][:200]}), and what was on it is lost. The next job gets a fresh process."
            )
            if cause == "memory":
                lets_go(exc)
                self.drop()
                self.tell(report)
            if isinstance(job, TrainJob):
                with contextlib.suppress(WorkbenchError, OSError):  # the fault must be told, whatever became of the folder
                    self.runs.mark_failed(job.run, reason, cause)
            raise FaultError(reason, cause) from exc
        finally:
            self._watching.close()
            self._sign = no_sign

    def _do(self, job: Job, report: Report) -> dict[str, Any]:
        if isinstance(job, LoadJob):
            self.ensure_base(job.model, job.quantization, report)
            return {}
        if isinstance(job, UnloadJob):
            self.drop()
            self.tell(report)
            return {"allocated_bytes": torch.cuda.memory_allocated() if torch.cuda.is_available() else 0}
        if isinstance(job, TrainJob):
            with alone_in_training(self.runs, job.run):
                return self._train(job, report)
        if isinstance(job, AnswerJob):
            return self._answer(job, report)
        if isinstance(job, GenerateJob):
            return self._generate(job, report)
        if isinstance(job, FoldJob):
            return self._fold(job, report)
        if isinstance(job, MergeJob):
            from workbench.engine.merging import run_merge

            return run_merge(self, job, report)
        return self._evaluate(job, report)

    def _train(self, job: TrainJob, report: Report) -> dict[str, Any]:
        info = take(self.runs, job.run, resume=job.resume).info  # a refusal leaves the run as it is
        try:
            base = self.ensure_base(info.model, info.settings.quantization, report)
        except StoppedLoadingError:
            with contextlib.suppress(WorkbenchError, OSError):
                when = stopped_words("while the model was being loaded", left=report.left())
                self.runs.mark_stopped(job.run, f"{when}; what was downloaded so far is kept")
            raise
        except WorkbenchError as exc:
            with contextlib.suppress(WorkbenchError, OSError):  # on a full disk even the mark may not fit: the reason must be told
                self.runs.mark_failed(job.run, str(exc))
            raise
        report.progress(f"training {job.run}", None)
        self.difference = None  # what the last adapter was proven to do says nothing of this one
        release()
        ended = run_training(base, self.runs, job.run, stop=report.stop, resume=job.resume, tell=report.event, left=report.left, ranks=self.ranks)
        self.difference, self.written = ended.adapter_difference, _written(self.runs.path(job.run))
        if not ended.step:
            take_off_adapter(base)  # nothing was learned and nothing kept: the base is bare, and is said to be
        self.tell(report)
        return {"state": ended.state, "step": ended.step, "seconds": ended.seconds, "reason": ended.reason,
                "cause": ended.cause, "best_step": ended.best_step, "adapter_difference": ended.adapter_difference}

    def follow(self, run: str) -> None:
        """Train along in a process that is not the first of the run's."""
        settings = self.runs.info(run)
        follow_training(self.ensure_base(settings.model, settings.settings.quantization, Report()), self.runs, run, self.ranks)

    def ensure_adapter(self, job: AnswerJob | EvaluateJob | GenerateJob, report: Report) -> Base:
        """The base with the job's adapter on it (the run's own model and quantization), proven active."""
        if job.run is None:
            if isinstance(job, EvaluateJob) and job.adapted or isinstance(job, AnswerJob) and any(job.lanes):
                raise AdapterError("No adapter is named: choose the run whose adapter should answer.")
            return self.ensure_base(job.model, job.quantization, report, beside=True)
        info, folder = self.finished_adapter(job.run)
        base = self.ensure_base(info.model, info.settings.quantization, report, beside=True)
        written = _written(folder)  # another process may have trained the run on, or a new one of that name
        if base.adapter != job.run or self.difference is None or self.written != written:
            report.progress(f"putting the adapter {job.run} on", None)
            self.refuse_other_base(base.folder, info, job.run, self.weighed)
            self.difference = None
            self.difference, self.written = put_saved_adapter(base, folder, job.run), written
            self.tell(report)
        return base

    def finished_adapter(self, adapter: str) -> tuple[RunInfo, Path]:
        """The run of an adapter, and the folder that holds it; raises `AdapterError` while it is being trained, `RunError` for an unknown one."""
        view, folder = self.runs.adapter(adapter)
        if view.live:
            raise AdapterError(f"The run {view.info.name} is still training: wait for its end or stop it first.")
        return view.info, folder

    def refuse_other_base(self, base: Path, info: RunInfo, adapter: str, weighed: str | None = None) -> str:
        """The fingerprint of the base in a folder (`weighed`, where it is known).

        Raises `AdapterError` for an adapter that was trained on other weights: it would answer, and wrongly. Older runs did not note theirs.
        """
        weighed = weigh(base) if weighed is None else weighed
        if info.base_fingerprint and weighed and info.base_fingerprint != weighed:
            raise AdapterError(
                f"The adapter {adapter} was trained on another base: {info.model_name} (fingerprint {info.base_fingerprint[:8]}), and what is there now is "
                f"{base.name} ({weighed[:8]}), with other weights. Bring the old model's files back, or train a new run on this one."
            )
        return weighed

    def _form(self, job: AnswerJob | EvaluateJob) -> CallForm:
        """How the conversations of a job are written: as its adapter, its merged model or the voice that it names was taught, or as a base that nothing was."""
        voice = job.run or (job.form_of if isinstance(job, AnswerJob) else None)
        return voice_form(self.runs, self.catalog, voice) if voice is not None else model_form(self.catalog, job.model)

    def _answer(self, job: AnswerJob, report: Report) -> dict[str, Any]:
        base = self.ensure_adapter(job, report)
        form = self._form(job)
        dialect = form.dialect
        prompts = [_prompt(base, turns, form) for turns in job.prompts] or [_prompt(base, job.turns, form)] * len(job.lanes)
        bound = self._bound(base, job, dialect, report)
        report.progress("answering", None)
        lanes = [Lane(prompt, adapted, bound()) for prompt, adapted in zip(prompts, job.lanes, strict=True)]
        stops = (*dialect.stops, *job.stops)
        replies = generate(base, lanes, job.sampling, on_text=report.texts, stop=report.stop, say=_says(report), keep=dialect.control, stops=stops)
        told = [vars(reply) | _bent(lane) for reply, lane in zip(replies, lanes, strict=True)]
        return {"replies": told, "adapter_difference": self.difference if job.run else None}

    def _bound(self, base: Base, job: AnswerJob | EvaluateJob, dialect: Dialect, report: Report) -> Callable[[], Bound | None]:
        """Makes what binds the calls of a reply; nothing where the job leaves them free."""
        if not job.sampling.constrain:
            return lambda: None
        from workbench.models.call_bound import CallGrammar  # its compiler takes a while, and few need it

        report.progress("reading the tools that calls are bound to", None)
        return CallGrammar(base, dialect, parse_specs(list(job.tools))).bound

    def _evaluate(self, job: EvaluateJob, report: Report) -> dict[str, Any]:
        base = self.ensure_adapter(job, report)
        form = self._form(job)
        dialect = form.dialect
        prompts = [_prompt(base, turns, form) for turns in job.prompts]
        bound = self._bound(base, job, dialect, report)
        replies: dict[int, Reply] = {}
        bent: dict[int, dict[str, Any]] = {}
        lengths = [len(p) + job.sampling.max_new_tokens for p in prompts]
        budget, most = _batch(base, lengths)
        for chunk in alike(lengths, budget, most=most):
            if report.stop():
                raise WorkbenchError(f"The evaluation was stopped after {len(replies)} of {len(prompts)} prompts.")
            report.progress(f"answered {len(replies)} of {len(prompts)} prompts", len(replies) / len(prompts))
            lanes = [Lane(prompts[i], job.adapted, bound()) for i in chunk]
            made = generate(base, lanes, job.sampling, stop=report.stop, say=_says(report), keep=dialect.control, stops=dialect.stops)
            if any(reply.ended == "stopped" for reply in made):
                raise WorkbenchError(f"The evaluation was stopped after {len(replies)} of {len(prompts)} prompts.")
            replies |= dict(zip(chunk, made, strict=True))
            bent |= {i: _bent(lane) for i, lane in zip(chunk, lanes, strict=True)}
        release(above=KEPT_BYTES)
        told = {"constrained": [bent[i]["constrained"] for i in range(len(prompts))]} if job.sampling.constrain else {}
        return {"replies": [replies[i].text for i in range(len(prompts))],
                "adapter_difference": self.difference if job.run else None} | told

    def _generate(self, job: GenerateJob, report: Report) -> dict[str, Any]:
        """Replies that are bound to the job's form; a stop keeps those that were begun, marked as "stopped"."""
        from workbench.models.constrained import Grammar  # its compiler takes a while, and only this job needs it

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
            replies += generate(base, lanes, sampling, on_text=report.texts, stop=report.stop, say=_says(report))
        return {"replies": [vars(r) for r in replies], "adapter_difference": self.difference if job.run else None}

    def _fold(self, job: FoldJob, report: Report) -> dict[str, Any]:
        """One cell of a sweep; the base stays for the next one, without an adapter."""
        base = self.ensure_base(job.model, job.settings.quantization, report)
        loaded = load_rows(Path(job.rows))
        refuse_problems(loaded.problems, Path(job.rows).name)
        if max((*job.learned, *job.held), default=-1) >= len(loaded.rows):
            raise DataError(f"The file {Path(job.rows).name} holds fewer rows than when the sweep began: begin a new sweep.")
        form = settle(job.settings.training, base.tokenizer, parse_specs(list(job.tools)), display_name(job.model))
        self.difference = None  # the adapter that was on the base goes
        release()
        try:
            found = run_fold(base, loaded.rows, job.learned, job.held, job.settings, stop=report.stop, tell=report.progress, form=form)
        finally:
            self.tell(report)
        return found.as_json() if found is not None else {"stopped": True}


def _bent(lane: Lane) -> dict[str, Any]:
    """What the bound of a finished reply changed: at how many steps it forbade the likeliest token; nothing for a free reply."""
    if lane.bound is None:
        return {}
    from workbench.models.call_bound import CallBound

    assert isinstance(lane.bound, CallBound)
    count, first = lane.bound.changes()
    return {"constrained": {"changed": count, "first": [vars(change) for change in first]}}


def _written(folder: Path) -> int | None:
    try:
        return (folder / "adapter_model.safetensors").stat().st_mtime_ns
    except OSError:
        return None


def _prompt(base: Base, turns: Sequence[dict[str, str]], form: CallForm = PLAIN) -> tuple[int, ...]:
    ids = tuple(base.tokenizer.prompt_ids(turns, allowed=form.dialect.control))
    most = min(MAX_PROMPT_TOKENS, _context(base) - 1)
    if len(ids) > most:
        raise InputError(f"The prompt has {len(ids):,} tokens; {most:,} are allowed here. Shorten it, or begin a new conversation.")
    return ids


def _context(base: Base) -> int:
    """Tokens that the model was made for; as many as are allowed anyway where it does not say."""
    config = getattr(base.raw.config, "text_config", base.raw.config)
    known = getattr(config, "max_position_embeddings", None)
    return known if isinstance(known, int) and known > 1 else MAX_PROMPT_TOKENS + 1


def _batch(base: Base, lengths: Sequence[int]) -> tuple[int, int]:
    """Tokens and prompts at most in a batch of an evaluation, by the card's free memory where there is a card."""
    if base.device.type != "cuda" or not lengths:
        return BATCH_TOKENS, BATCH
    most = room_for(base, max(lengths), most=CARD_BATCH)
    return most * max(lengths), most


def _says(report: Report) -> Callable[[str], None]:
    """Where decoding says that it goes a slower way: in the job's progress."""
    return lambda text: report.progress(text, None)
