"""The verbs that train: a new run, or one that goes on from its checkpoint. They run in this process, as the engine would."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.dataset.formats import load_rows, refuse_problems
from workbench.engine.messages import TrainJob
from workbench.errors import DataError, ModelError
from workbench.models.catalog import is_hub_name
from workbench.models.overlap import ahead, lean, no_sweeps
from workbench.models.torch_start import alone
from workbench.settings import Quantization
from workbench.training import events
from workbench.training.resuming import reopen
from workbench.training.runs import AT_BEST
from workbench.verbs.data import Result
from workbench.workspace import Workspace

if TYPE_CHECKING:
    from workbench.training.ranks import Ranks


def train(space: Workspace, options: argparse.Namespace) -> Result:
    settings = space.settings_from(options.preset, options.set)
    space.runs.path(options.name)
    loaded = load_rows(options.data)
    refuse_problems(loaded.problems, options.data.name)
    if not loaded.rows:
        raise DataError(f"{options.data.name} holds no rows: there is nothing to learn.")
    need_model(space, space.model)  # a wrong path is told before a run's folder is made

    def create() -> TrainJob:
        return TrainJob(run=space.create_run(options.name, loaded.rows, settings, data_name=options.data.name, preset=options.preset).name)

    return _together(space, create, space.model, settings.quantization)


def resume(space: Workspace, options: argparse.Namespace) -> Result:
    info = space.runs.info(options.name)
    need_model(space, info.model)
    folder = _folder(space, info.model)
    step = 0

    def take_up() -> TrainJob:
        nonlocal step
        step = reopen(space.runs, info.name, base=folder)
        return TrainJob(run=info.name, resume=True)

    found = _together(space, take_up, info.model, info.settings.quantization)
    return {"resumed_from": step} | found


def _folder(space: Workspace, model: str) -> Path | None:
    """The model's folder; None for a hub's model that is still to be downloaded."""
    with contextlib.suppress(ModelError):
        return space.catalog.find(model)
    return None


def _together(space: Workspace, begin: Callable[[], TrainJob], model: str, quantization: Quantization) -> Result:
    """Begin a run on `model` and do it. Where a launcher started several processes the first one begins it, and the others train along and say nothing."""
    if alone():  # the usual case need not wait for torch to hear of a wrong name
        # Planning reads a tokenizer, which takes as long as importing torch and needs no Python.
        with ahead(_folder(space, model), quantization):
            with no_sweeps():
                job = begin()
            return _followed(space, job)
    from workbench.training.ranks import launched, leave

    ranks = launched()
    try:
        job = ranks.from_first(begin)
        if ranks.first:
            return _followed(space, job, ranks)
        host(space, ranks)[0].follow(job.run)
    finally:
        leave()
    raise SystemExit(0)


def _followed(space: Workspace, job: TrainJob, ranks: Ranks | None = None) -> Result:
    """Do the job here, say how it goes on standard error, and how it ended on standard output."""
    work, report = host(space, ranks)
    report.event = _say
    with stop_on_signals() as stopped:
        report.stop = lambda: bool(stopped)
        begun = time.time()
        result: Result = work.do(job, report)
    view = space.runs.view(job.run)
    print(f"{result['state']} after {result['step']} optimizer steps, {time.time() - begun:.0f} s; the adapter is in {view.folder}")
    if result["cause"] == "early stop":
        print(result["reason"])
    if result["adapter_difference"] is not None:
        print(f"the adapter is active: it moves the logits by up to {result['adapter_difference']:.2f}")
    if view.has_best:
        print(f"the best adapter, after step {view.best_step}, is {job.run}{AT_BEST}")
    losses = {
        "train_loss": view.steps[-1].loss if view.steps else None,
        "validation_loss": view.validations[-1].loss if view.validations else None,
    }
    best = {"best_adapter": f"{job.run}{AT_BEST}" if view.has_best else None}
    return {"name": job.run, "adapter": str(view.folder)} | result | losses | best


def need_model(space: Workspace, model: str) -> None:
    """Raise `ModelError` for a model that can't be had; a hub name may still be downloaded."""
    if not is_hub_name(model):
        space.catalog.find(model)


def host(space: Workspace, ranks: Ranks | None = None) -> tuple[Any, Any]:
    """(host, report) of this process; the report says on standard error what the job is doing."""
    # Imported here: the verbs that need no model answer without waiting for torch.
    with no_sweeps(), lean():
        from workbench.engine.jobs import Host, Report

    last = ""

    def say(text: str, share: float | None) -> None:
        nonlocal last
        if text != last:
            last = text
            print(text, file=sys.stderr, flush=True)

    found = Host(space.catalog, space.runs)
    if ranks is not None:
        found.ranks = ranks
    return found, Report(progress=say)


def _say(event: events.Event) -> None:
    if isinstance(event, events.Step):
        said = f"step {event.step}  loss {event.loss:.4f}  rate {event.learning_rate:.2e}  {event.tokens / event.seconds:.0f} tokens/s"
    elif isinstance(event, events.Validation):
        said = f"epoch {event.epoch:.0f}  validation loss {event.loss:.4f}"
    elif isinstance(event, events.Sampled):
        said = f"epoch {event.epoch:.0f}  answers {event.right} of {event.asked} right  ({event.seconds:.0f} s)"
    elif isinstance(event, events.Notice):
        said = event.text
    else:
        return
    print(said, file=sys.stderr, flush=True)


@contextlib.contextmanager
def stop_on_signals(said: str = "stopping after this step; the adapter so far is kept") -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of them: the loop stops between two steps. A second one kills."""
    seen: list[int] = []

    def note(number: int, frame: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)
        print(said, file=sys.stderr, flush=True)

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
