"""One training run from start to end, on a loaded base, into its folder."""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from workbench.dataset.formats import load_rows, refuse_problems
from workbench.dataset.split import learnable, left_out, split_examples
from workbench.errors import AdapterError, DataError, WorkbenchError
from workbench.files import explain_os_error, write_atomic
from workbench.models.loading import ADAPTER, Base, prove_active, put_new_adapter
from workbench.schema import Example
from workbench.settings import Training
from workbench.training import events
from workbench.training.card import model_card
from workbench.training.encode import Encoded, encode_all
from workbench.training.loop import Outcome, train
from workbench.training.plan import step_count
from workbench.training.runs import RunStore


def run_training(base: Base, runs: RunStore, name: str, *, stop: Callable[[], bool]) -> events.Ended:
    """Train the run `name` (already created) and keep its adapter; returns how it ended.

    Every fault ends as an `Ended` event in the run's file before it is raised on.
    """
    begun = time.time()
    try:
        outcome, difference = _train(base, runs, name, stop)
    except (torch.OutOfMemoryError, MemoryError):
        raise  # the caller frees the card first, then marks the run
    except Exception as exc:
        if "can't allocate memory" in str(exc):
            raise  # the same, from torch's allocator for the CPU
        reason = explain_os_error(exc, runs.path(name)) if isinstance(exc, OSError) else str(exc)
        with contextlib.suppress(WorkbenchError, OSError):  # on a full disk even the mark may not fit
            runs.mark_failed(name, reason)
        if isinstance(exc, OSError):
            raise WorkbenchError(reason) from exc
        raise
    state = "stopped" if outcome.stopped else "finished"
    reason = ""
    if outcome.stopped:
        reason = f"stopped on request after {outcome.steps} optimizer steps" + ("" if outcome.steps else "; there is no adapter to keep")
    ended = events.Ended(state=state, reason=reason, step=outcome.steps, seconds=time.time() - begun, adapter_difference=difference)
    runs.append(name, ended)
    write_atomic(runs.path(name) / "README.md", model_card(runs.view(name)))
    return ended


def _train(base: Base, runs: RunStore, name: str, stop: Callable[[], bool]) -> tuple[Outcome, float | None]:
    info = runs.info(name)
    settings = info.settings
    loaded = load_rows(runs.path(name) / "rows.jsonl")
    refuse_problems(loaded.problems, info.data_name)
    learned, held_back = prepare(loaded.rows, base, settings.training, info.data_name)
    model = put_new_adapter(
        base, settings.lora, name=name, seed=settings.training.seed, checkpointing=settings.training.checkpointing,
        model_name=info.model_name,
    )
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if base.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(base.device)
    runs.append(name, events.Started(
        total_steps=step_count(len(learned), settings.training), epochs=settings.training.epochs,
        train_rows=len(learned), validation_rows=len(held_back), trainable_parameters=trainable,
        total_parameters=_total_parameters(base), device=_device_name(base.device),
    ))
    outcome = train(
        model, learned, held_back, settings.training, stop=stop,
        emit=lambda event: runs.append(name, event), save=lambda step: _save(base, runs, name, step),
    )
    model.eval()
    difference = prove_active(base) if outcome.steps else None
    if difference is not None:
        _check_saved(runs.path(name))
    return outcome, difference


def prepare(rows: Sequence[Example], base: Base, training: Training, where: str) -> tuple[list[Encoded], list[Encoded]]:
    """(training, validation) rows encoded and split, kinds and tools in proportion.

    Raises `DataError` for a bad row, and where too few rows or none are left to learn.
    """
    places = learnable(rows, training.unreviewed)
    usable = [rows[i] for i in places]
    encoded, problems = encode_all(usable, base.tokenizer, max_tokens=training.max_row_tokens, lines=[i + 1 for i in places])
    refuse_problems(problems, where)
    if len(usable) < 2:
        waiting = left_out(rows, training.unreviewed)
        raise DataError(f"{where} holds {len(usable)} usable row(s): add at least two before training." + (f" {waiting}" if waiting else ""))
    learned, held_back = split_examples(usable, training.validation_share, training.seed)
    if not learned:
        raise DataError(f"Every row of {where} is pinned to validation, so none is left to learn: take pins off on the Data tab.")
    whole = [e for e in encoded if e is not None]
    return [whole[i] for i in learned], [whole[i] for i in held_back]


def _save(base: Base, runs: RunStore, name: str, step: int) -> None:
    """Write the adapter beside the old one, then replace it file by file: a crash leaves one whole adapter."""
    folder = runs.path(name)
    scratch = folder / ".saving"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        base.model.save_pretrained(str(scratch), selected_adapters=[ADAPTER], safe_serialization=True, save_embedding_layers=False)
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            (scratch / ADAPTER / file).replace(folder / file)
    except SafetensorError as exc:
        # The library tells a full disk in words alone: "I/O error: No space left on device (os error 28)".
        number = re.search(r"os error (\d+)", str(exc))
        raise OSError(int(number[1]) if number else errno.EIO, str(exc)) from exc
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    runs.append(name, events.Saved(step=step))


def _check_saved(folder: Path) -> None:
    with safe_open(str(folder / "adapter_model.safetensors"), framework="pt") as stream:
        if not any(".lora_B." in key for key in stream.keys()):  # noqa: SIM118
            raise AdapterError(f"The adapter of {folder.name} was saved without its matrices: check the disk and train again.")


def _total_parameters(base: Base) -> int:
    """All parameters, adapter included; a packed 4-bit weight counts as the weights it stands for."""
    total = 0
    for parameter in base.model.parameters():
        state = getattr(parameter, "quant_state", None)
        total += state.shape.numel() if state is not None else parameter.numel()
    return total


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
