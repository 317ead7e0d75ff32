"""Taking a run up: who may train it now, and from where. No torch; the weights of a checkpoint are `checkpoint`'s."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from workbench.errors import ModelError, RunError, WorkbenchError
from workbench.files import explain_os_error
from workbench.models.fingerprint import fingerprint
from workbench.training import events
from workbench.training.holding import HeldError, held
from workbench.training.keeping import Best
from workbench.training.runs import CHECKPOINT, Owner, RunInfo, RunStore, RunView

STATE = "state.json"
CLAIM_SECONDS = 60  # a claim older than this was left by a process that died while it held it


class State(BaseModel):
    """checkpoint/state.json: where a run stands, beside the tensors in the file that it names.

    The order of rows is not in here: it follows from the seed and the step.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants")
    version: int = 1
    step: int
    seconds: float
    """Spent on the run so far, all attempts together."""
    best: Best | None = None
    since: tuple[float, ...] = ()
    """The measurements since the best."""
    asked_at: int = 0
    """The last step after which the model answered validation rows."""
    cut_at: int = 0
    """The step whose validation a stop cut short; 0 if it was not."""
    python_random: tuple[Any, ...]
    device: str
    tensors: str
    """Name of the safetensors file with the adapter (fp32), AdamW's state and torch's random state."""
    size: int
    """Bytes of that file."""


def read_state(folder: Path, name: str) -> State | None:
    """Where the run in `folder` stands; None if it has no checkpoint. Raises `RunError` for a broken one."""
    path = folder / CHECKPOINT / STATE
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise RunError(f"The checkpoint of run {name} can't be read: {exc.strerror}. Check the folder's rights.") from exc
    try:
        state = State.model_validate_json(raw)
        if state.version != 1:
            raise RunError(f"The checkpoint of run {name} was written by a newer workbench: resume it there, or start a new run.")
        # The name comes out of a file: it must not lead anywhere else.
        if Path(state.tensors).name != state.tensors or (path.parent / state.tensors).stat().st_size != state.size:
            raise broken(name)
    except (ValidationError, ValueError, OSError) as exc:
        raise broken(name) from exc
    return state


def broken(name: str) -> RunError:
    """The error for a checkpoint that can't be read."""
    return RunError(f"The checkpoint of run {name} is broken, so it can't be resumed: start a new run, or use the adapter it saved.")


def check_resumable(runs: RunStore, name: str, *, base: Path | None = None) -> int:
    """The step that the run would go on from, 0 for one without any saving; nothing is changed.

    `base` is the folder of the model it will be trained on, if it is here; it must be the one the run began on.
    Raises `RunError` for a run that is finished, live, or can't go on.
    """
    view = runs.view(name)
    if view.live:
        raise RunError(f"The run {name} is going on already: wait for its end, or stop it first." if view.info.owner.alive() else _ending(name))
    if view.state == "finished":
        raise RunError(f"The run {name} is finished: start a new one to train for longer.")
    step = _start_of(view)
    if base is not None:
        refuse_other_base(view.info, base)
    return step


def reopen(runs: RunStore, name: str, *, base: Path | None = None) -> int:
    """Take an ended or interrupted run up again, when it really goes on: this process answers for it now.

    Returns the step it goes on from; a run without any saving begins anew, from step 0. Refuses what `check_resumable`
    refuses, and then leaves the run as it is.
    """
    folder = runs.path(name)
    runs.info(name)
    with claimed(folder, name):
        step = check_resumable(runs, name, base=base)
        with alone_in_training(runs, name):  # its last worker may have told its end and be at the files still
            before = runs.info(name).owner
            runs.rewrite_info(name, owner=Owner.this_process())
            try:
                runs.append(name, events.Resumed(step=step))
                if not step:
                    runs.append(name, events.Notice(text="Nothing had been saved yet: the run begins anew from its first step."))
            except OSError as exc:
                with contextlib.suppress(WorkbenchError, OSError):  # or the run would look taken up for as long as this process lives
                    runs.rewrite_info(name, owner=before)
                raise WorkbenchError(explain_os_error(exc, folder)) from exc
    return step


def _start_of(view: RunView) -> int:
    name = view.info.name
    state = read_state(view.folder, name)
    if state is not None:
        return state.step
    if any(isinstance(e, events.Saved) for e in view.standing):
        raise RunError(f"The checkpoint of run {name} is missing, so it can't be resumed: start a new run, or use the adapter it saved.")
    return 0


def refuse_other_base(info: RunInfo, folder: Path) -> None:
    """Raise `RunError` if the model in `folder` is not the one that the run began on."""
    if info.base_fingerprint and fingerprint(folder) != info.base_fingerprint:
        raise RunError(
            f"The run {info.name} began on another {info.model_name}: the model's files have changed since, so it can't be resumed. "
            "Bring them back, or start a new run."
        )


def note_base(runs: RunStore, info: RunInfo, folder: Path) -> None:
    """Keep in run.json what tells this base from others; raises `RunError` if it is not the one the run began on."""
    if info.base_fingerprint:
        refuse_other_base(info, folder)
        return
    with contextlib.suppress(ModelError):  # a folder that can't be weighed can still be trained
        runs.rewrite_info(info.name, base_fingerprint=fingerprint(folder))


def take(runs: RunStore, name: str, *, resume: bool) -> RunView:
    """The run, if it may be trained by this process now; raises `RunError` otherwise, and leaves the run as it is.

    A run to resume that nobody has reopened is reopened here.
    """
    view = runs.view(name)
    if view.state == "waiting":
        return view
    if not resume:
        if view.live and not view.info.owner.alive():
            raise RunError(_ending(name))
        what = "is being trained already: wait for its end" if view.live else f"has {'been interrupted' if view.state == 'interrupted' else view.state} already: resume it"
        raise RunError(f"The run {name} {what}, or start a new one under another name.")
    reopen(runs, name)
    return runs.view(name)


@contextlib.contextmanager
def alone_in_training(runs: RunStore, name: str) -> Iterator[None]:
    """Nobody else trains the run meanwhile; raises `RunError` where somebody does, and leaves the run as it is."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held(runs.path(name)))
        except HeldError as exc:
            view = runs.view(name)
            if view.live and view.info.owner.alive():
                raise RunError(f"The run {name} is being trained already: wait for its end, or start a new one under another name.") from exc
            raise RunError(_ending(name)) from exc
        yield


def _ending(name: str) -> str:
    """What to say of a run that nobody answers for any more while its worker is at its last step."""
    return f"The old engine is still ending its step of the run {name}: try again in a moment."


@contextlib.contextmanager
def claimed(folder: Path, name: str) -> Iterator[None]:
    """Only one process at a time looks at a run's state and takes it up."""
    path = folder / ".reopening"
    try:
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > CLAIM_SECONDS:
                path.unlink()
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError as exc:
        raise RunError(f"The run {name} is being resumed by somebody else at this moment: look again in a minute.") from exc
    except OSError as exc:
        raise WorkbenchError(explain_os_error(exc, folder)) from exc
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
