"""What a run keeps on disk while it goes on: the adapter (the last, the best) and the checkpoint that a resume needs.

Safetensors and JSON only. Every replacement is whole: a crash, a kill or a full disk leaves the old files or the new.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import os
import random
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from workbench.errors import AdapterError, RunError
from workbench.files import write_atomic
from workbench.models.adapters import ADAPTER
from workbench.models.loading import Base
from workbench.training.keeping import Keeper
from workbench.training.measured import ANSWERS, SCORES
from workbench.training.resuming import STATE, State, broken, read_state
from workbench.training.run_view import ADAPTER_FILES, BEST, CHECKPOINT

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # what AdamW knows of a parameter


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as it was read: where the run stands, and its tensors by name."""

    state: State
    tensors: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Moment:
    """What the loop hands over to be kept: where it stands, and whether this adapter is the best so far."""

    step: int
    model: Any
    optimizer: torch.optim.AdamW
    keeper: Keeper
    asked_at: int
    """The last step after which the model answered validation rows."""
    best: bool
    cut_at: int = 0
    """The step whose validation a stop cut short; 0 if it was not."""
    best_values: Sequence[torch.Tensor] | None = None
    """The best adapter's parameters, in the optimizer's order, where it is an earlier one than the model's."""
    final: bool = False
    """Whether the run is done with this: nothing is left to resume."""


def write_checkpoint(folder: Path, moment: Moment, *, seconds: float) -> int:
    """Replace the checkpoint of the run in `folder`; returns its size in bytes. Raises `OSError` where the disk refuses.

    The tensors go into a file of their own; state.json, replaced last and at once, says which one holds.
    """
    into = folder / CHECKPOINT
    into.mkdir(exist_ok=True)
    path = into / f"step-{moment.step}-{time.time_ns()}.safetensors"  # never a name that state.json may already hold
    device = next(moment.model.parameters()).device
    try:
        with _system_errors():
            save_file(_tensors(moment, device), str(path))
        _flush(path)
        state = State(
            step=moment.step, seconds=seconds, best=moment.keeper.best, since=tuple(moment.keeper.since), asked_at=moment.asked_at, cut_at=moment.cut_at,
            python_random=random.getstate(), device=device.type, tensors=path.name, size=path.stat().st_size,
        )
        write_atomic(into / STATE, state.model_dump_json())
    except BaseException:
        if not _named(into / STATE, path.name):
            path.unlink(missing_ok=True)
        raise
    for old in into.glob("*.safetensors"):
        if old != path:
            old.unlink(missing_ok=True)
    return state.size + (into / STATE).stat().st_size


def _named(state: Path, tensors: str) -> bool:
    """Whether state.json already says that the file `tensors` holds: an interruption may come right after it was replaced."""
    with contextlib.suppress(OSError):
        return f'"{tensors}"' in state.read_text(encoding="utf-8", errors="replace")
    return False


def _tensors(moment: Moment, device: torch.device) -> dict[str, torch.Tensor]:
    found = {"random/cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["random/cuda"] = torch.cuda.get_rng_state(device)
    for name, parameter in _trained(moment.model):
        found[f"adapter/{name}"] = parameter.detach().float().cpu().contiguous()
        known = moment.optimizer.state.get(parameter, {})
        for key in _MOMENTS:
            if key in known:
                found[f"{key}/{name}"] = known[key].detach().cpu().contiguous()
    return found


def _trained(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def read_checkpoint(folder: Path, name: str) -> Checkpoint | None:
    """The checkpoint of the run in `folder`, or None if it has none; raises `RunError` for a broken one."""
    state = read_state(folder, name)
    if state is None:
        return None
    try:
        return Checkpoint(state, load_file(str(folder / CHECKPOINT / state.tensors)))
    except (SafetensorError, OSError, ValueError) as exc:
        raise broken(name) from exc


def restore(checkpoint: Checkpoint, model: Any, optimizer: torch.optim.AdamW) -> None:
    """Put the adapter, AdamW and the random states back as they were; raises `RunError` where they don't fit the model."""
    trained = _trained(model)
    saved = {k.removeprefix("adapter/"): t for k, t in checkpoint.tensors.items() if k.startswith("adapter/")}
    if {n: tuple(p.shape) for n, p in trained} != {n: tuple(t.shape) for n, t in saved.items()}:
        raise RunError("The checkpoint's adapter does not fit the model: it is another model, or its layers are named otherwise. Start a new run.")
    # By the optimizer's own numbering, which follows the parameters it was given.
    names = {p: n for n, p in trained}
    order = [names[p] for group in optimizer.param_groups for p in group["params"]]
    moments = {
        i: {key: checkpoint.tensors[f"{key}/{n}"] for key in _MOMENTS if f"{key}/{n}" in checkpoint.tensors} for i, n in enumerate(order)
    }
    with torch.no_grad():
        for name, parameter in trained:
            parameter.copy_(saved[name])
    optimizer.load_state_dict({"state": {i: m for i, m in moments.items() if m}, "param_groups": optimizer.state_dict()["param_groups"]})
    version, words, gauss = checkpoint.state.python_random
    random.setstate((version, tuple(words), gauss))
    torch.set_rng_state(checkpoint.tensors["random/cpu"])
    device = trained[0][1].device
    if device.type == "cuda" and "random/cuda" in checkpoint.tensors:
        torch.cuda.set_rng_state(checkpoint.tensors["random/cuda"], device)


def save_adapter(base: Base, folder: Path, *, best: bool) -> None:
    """Replace the adapter in `folder`, or with `best` the one in its best/, by the one on the base; raises `OSError` where the disk refuses."""
    scratch = folder / ".saving"
    shutil.rmtree(scratch, ignore_errors=True)
    into = folder / BEST if best else folder
    try:
        with _system_errors(), _no_card(base.model):
            # peft takes the adapter's matrices from it; by itself it has every quantized matrix of the base described first.
            held = {name: p.detach() for name, p in base.model.named_parameters()}
            base.model.save_pretrained(str(scratch), selected_adapters=[ADAPTER], safe_serialization=True, save_embedding_layers=False, state_dict=held)
        _put(scratch / ADAPTER, into)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _no_card(model: Any) -> Iterator[None]:
    """Keep peft from writing its README: a run has its own."""
    vars(model)["create_or_update_model_card"] = lambda *args, **kwargs: None
    try:
        yield
    finally:
        del vars(model)["create_or_update_model_card"]


def copy_best(folder: Path) -> None:
    """Make the adapter in `folder` its best as well, which is quicker than to write it twice; raises `OSError` where the disk refuses."""
    into, scratch = folder / BEST, folder / ".saving"
    if into.is_dir() and _same(folder, into):
        return
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir()
        for file in ADAPTER_FILES:
            shutil.copyfile(folder / file, scratch / file)
        _put(scratch, into)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _put(made: Path, into: Path) -> None:
    """Replace the adapter in `into` by the one in `made`; what was measured of the old one goes first, unless the new one is the same."""
    into.mkdir(exist_ok=True)
    for file in ADAPTER_FILES:
        _flush(made / file)
    if not _same(made, into):
        for measured in (SCORES, ANSWERS):
            (into / measured).unlink(missing_ok=True)
    for file in ADAPTER_FILES:
        (made / file).replace(into / file)


def _same(new: Path, old: Path) -> bool:
    """Whether both folders hold one adapter; one whose matrices are alike differs if its scale does, so both files count."""
    return all((old / file).is_file() and filecmp.cmp(new / file, old / file, shallow=False) for file in ADAPTER_FILES)


def drop_checkpoint(folder: Path) -> None:
    """Take the checkpoint of a finished run away: nothing is left to resume."""
    (folder / CHECKPOINT / STATE).unlink(missing_ok=True)  # first, so that no reader meets a state without its tensors
    shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)


def check_saved(folder: Path) -> None:
    """Raise `AdapterError` if the adapter in `folder` lacks its matrices."""
    with safe_open(str(folder / "adapter_model.safetensors"), framework="pt") as stream:
        if not any(".lora_B." in key for key in stream.keys()):  # noqa: SIM118
            raise AdapterError(f"The adapter of {folder.name} was saved without its matrices: check the disk and train again.")


def _flush(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


@contextlib.contextmanager
def _system_errors() -> Iterator[None]:
    """The library tells a full disk in words alone ("I/O error: No space left on device (os error 28)"): as `OSError` again."""
    try:
        yield
    except SafetensorError as exc:
        number = re.search(r"os error (\d+)", str(exc))
        raise OSError(int(number[1]) if number else errno.EIO, str(exc)) from exc
