"""What the engine's jobs use, runs and merged models, so that it can't be taken away now."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from workbench.engine.client import Engine
from workbench.engine.messages import Job, TogetherJob
from workbench.errors import ModelError, RunError
from workbench.models.catalog import MERGED, Catalog, is_merged
from workbench.training.runs import RunStore, run_of


def runs_used(engine: Engine) -> set[str]:
    """The runs whose adapter, or form of calls, a job in hand or waiting needs."""
    jobs = [part for ticket in engine.queue() for part in _parts(ticket.job)]
    named = [getattr(job, field, None) for job in jobs for field in ("run", "form_of")]
    return {run_of(name) for name in named if isinstance(name, str) and not is_merged(name)}


def _parts(job: Job) -> tuple[Job, ...]:
    return job.parts if isinstance(job, TogetherJob) else (job,)


def refuse_used(engine: Engine, runs: RunStore, catalog: Catalog, model: str, *, opened: str) -> None:
    """Raise `ModelError`, which says what to end first, where merged:NAME is `opened` (the model that the workbench is open on), named by a job in hand
    or waiting, trained on by a run, or loaded. Nothing is said of one that is not there."""
    folder = catalog.merged_folder(model)
    name, place = folder.name, folder.resolve()

    def same(other: str | None) -> bool:
        """Whether the name of a model, or the whole path of its folder, means this one."""
        return other is not None and (other == MERGED + name or Path(other).resolve() == place)

    if same(opened):
        raise ModelError(f"This workbench is open on the merged model {name}: start it with another --model, then delete it.")
    for ticket in engine.queue():
        if any(_names(job, runs, same) for job in _parts(ticket.job)):
            raise ModelError(f"A job is using the merged model {name} ({ticket.label}): wait for its end, or stop it.")
    for view in runs.views():
        if view.live and same(view.info.model):
            raise ModelError(f"The run {view.info.name} is training on the merged model {name}: stop it or wait for its end.")
    holds = engine.status().holds
    if name in (holds.model, holds.also):
        raise ModelError(f"The merged model {name} is loaded: press “Free memory” on top, then delete it.")


def _names(job: Job, runs: RunStore, same: Callable[[str | None], bool]) -> bool:
    """Whether a job asks for the model: by its own name, or by an adapter that was trained on it."""
    if any(same(getattr(job, field, None)) for field in ("model", "form_of")):
        return True
    run = getattr(job, "run", None)
    if isinstance(run, str):
        with contextlib.suppress(RunError):  # its folder was taken away meanwhile
            return same(runs.info(run_of(run)).model)
    return False


def trained_on(runs: RunStore, model: str) -> list[str]:
    """The runs whose adapters were trained on merged:NAME and can't answer without it, the newest first."""
    return [view.info.name for view in runs.views() if view.info.model == model]
