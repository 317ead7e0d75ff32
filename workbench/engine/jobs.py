"""The jobs themselves, on one loaded base. The worker runs them in its process, the command line in its own."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from workbench.calls.tools import parse_specs
from workbench.dataset.formats import load_rows, refuse_problems
from workbench.engine.answering import run_answer, run_evaluation, run_generation, run_together
from workbench.engine.bases import Bases, Proven, Report, computing, no_sign, weigh
from workbench.engine.messages import AnswerJob, FoldJob, GenerateJob, Job, LoadJob, MergeJob, TogetherJob, TrainJob, UnloadJob
from workbench.errors import AdapterError, DataError, EngineError, WorkbenchError
from workbench.models.adapters import put_adapter_beside, put_saved_adapter, take_off_adapter
from workbench.models.catalog import display_name
from workbench.models.decoding import release
from workbench.models.faults import accelerator_fault, lets_go
from workbench.models.loading import Base
from workbench.models.watched import StoppedLoadingError
from workbench.training import events
from workbench.training.call_form import settle
from workbench.training.fold import run_fold
from workbench.training.job import follow_training, run_training, stopped_words
from workbench.training.ranks import ALONE, Ranks
from workbench.training.resuming import alone_in_training, take
from workbench.training.runs import RunInfo, RunStore

__all__ = ["FaultError", "Host", "Report"]

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
            self.got_on()
            return report.stop()

        self._sign, self._phase = report.sign, computing()
        self.got_on()
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
            return run_answer(self, job, report)
        if isinstance(job, TogetherJob):
            return run_together(self, job, report)
        if isinstance(job, GenerateJob):
            return run_generation(self, job, report)
        if isinstance(job, FoldJob):
            return self._fold(job, report)
        if isinstance(job, MergeJob):
            from workbench.engine.merging import run_merge

            return run_merge(self, job, report)
        return run_evaluation(self, job, report)

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
        report.progress(job.training, None)
        self.proven = {}  # what the last adapter was proven to do says nothing of this one
        release()
        ended = run_training(base, self.runs, job.run, stop=report.stop, resume=job.resume, tell=report.event, left=report.left, ranks=self.ranks)
        if ended.adapter_difference is not None:
            self.proven = {job.run: Proven(ended.adapter_difference, _written(self.runs.path(job.run)))}
        if not ended.step:
            take_off_adapter(base)  # nothing was learned and nothing kept: the base is bare, and is said to be
        self.tell(report)
        return {"state": ended.state, "step": ended.step, "seconds": ended.seconds, "reason": ended.reason,
                "cause": ended.cause, "best_step": ended.best_step, "adapter_difference": ended.adapter_difference}

    def follow(self, run: str) -> None:
        """Train along in a process that is not the first of the run's."""
        settings = self.runs.info(run)
        follow_training(self.ensure_base(settings.model, settings.settings.quantization, Report()), self.runs, run, self.ranks)

    def ensure_adapters(self, names: Sequence[str], report: Report) -> Base:
        """The base of these adapters (of one base, two at most) with them on it, each proven active."""
        found = {name: self.finished_adapter(name) for name in names}
        info = found[names[0]][0]
        base = self.ensure_base(info.model, info.settings.quantization, report, beside=True)
        written = {name: _written(folder) for name, (_, folder) in found.items()}  # another process may have trained the run on, or a new one of that name
        there = [name for name in names if name in base.adapters and name in self.proven and self.proven[name].written == written[name]]
        if len(there) == len(names):
            return base
        stays = base.adapter if base.adapter in there else None
        try:
            for name in names:
                if name == stays:
                    continue
                report.progress(f"putting the adapter {name} on", None)
                info, folder = found[name]
                self.refuse_other_base(base.folder, info, name, self.weighed)
                self.proven = {known: proof for known, proof in self.proven.items() if known == stays}
                moved = put_saved_adapter(base, folder, name) if stays is None else put_adapter_beside(base, folder, name)
                self.proven = {**self.proven, name: Proven(moved, written[name])}
                stays = stays or name
        finally:  # one that failed has left the base bare, or the first one alone
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

    def _fold(self, job: FoldJob, report: Report) -> dict[str, Any]:
        """One cell of a sweep; the base stays for the next one, without an adapter."""
        base = self.ensure_base(job.model, job.settings.quantization, report)
        loaded = load_rows(Path(job.rows))
        refuse_problems(loaded.problems, Path(job.rows).name)
        if max((*job.learned, *job.held), default=-1) >= len(loaded.rows):
            raise DataError(f"The file {Path(job.rows).name} holds fewer rows than when the sweep began: begin a new sweep.")
        form = settle(job.settings.training, base.tokenizer, parse_specs(list(job.tools)), display_name(job.model))
        self.proven = {}  # the adapters that were on the base go
        release()
        try:
            found = run_fold(base, loaded.rows, job.learned, job.held, job.settings, stop=report.stop, tell=report.progress, form=form)
        finally:
            self.tell(report)
        return found.as_json() if found is not None else {"stopped": True}


def _written(folder: Path) -> int | None:
    try:
        return (folder / "adapter_model.safetensors").stat().st_mtime_ns
    except OSError:
        return None
