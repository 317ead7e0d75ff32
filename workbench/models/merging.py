"""An adapter merged into its base: a model of its own, in a folder that holds all that a model needs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError

from workbench.errors import AdapterError, InputError, ModelError
from workbench.files import explain_os_error, make_last
from workbench.models.adapters import probe_logits, put_saved_adapter
from workbench.models.catalog import MERGED_RECORD
from workbench.models.faults import first_line
from workbench.models.hardware import host_memory_gib
from workbench.models.loading import Base, load_unquantized, pick_device
from workbench.models.merge_plan import GIB, SPARE, MergePlan, files_beside

SHARD = "4GB"  # of weights in one file
LOST = 0.5  # the share of the adapter's effect that storing may cost at most
_UNFINISHED = ".merging-"
_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float32}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Merged:
    """Logits on the probe: how far the adapter moves them from the base's, and how far the merged model is from the adapter's."""

    adapter_difference: float
    rounding: float


def place_for(plan: MergePlan) -> torch.device | None:
    """The card where its free memory holds the whole base, else the CPU where the host's does; None where neither does."""
    needed, card = plan.weights + SPARE, pick_device()
    if card.type == "cuda" and torch.cuda.mem_get_info(card)[0] >= needed:
        return card
    return torch.device("cpu") if host_memory_gib()[1] * GIB >= needed else None


def merge_adapter(plan: MergePlan, adapter: Path, name: str, device: torch.device, *, say: Say, heed: Callable[[], None]) -> tuple[Base, Merged]:
    """The base with the adapter in `adapter` (a run's `name`) added to its weights, and what was measured of it.

    `heed` is called between two steps and may raise. Raises `AdapterError` for an adapter that does not fit, or whose effect the
    stored type of the base would swallow.
    """
    base = load_unquantized(plan.source, _TYPES[plan.stored], device, say=say)
    heed()
    say(f"putting the adapter {name} on")
    moved = put_saved_adapter(base, adapter, name)
    adapted = probe_logits(base)
    heed()
    say(f"merging {name} into {plan.source.name}")
    try:
        base.model = base.model.merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError, TypeError, AttributeError) as exc:
        if isinstance(exc, torch.OutOfMemoryError):
            raise
        raise AdapterError(f"The adapter {name} can't be merged: {first_line(exc)}. Answer with the adapter itself.") from exc
    base.adapters = ()
    heed()
    rounding = float((probe_logits(base) - adapted).abs().max())
    if not rounding <= LOST * moved:
        raise AdapterError(
            f"The adapter {name} can't be merged into {plan.source.name}: stored in {plan.stored}, the logits would be off by up to {rounding:.3g}, and the "
            f"adapter moves them by {moved:.3g}. Answer with the adapter itself, or train it for longer."
        )
    return base, Merged(moved, rounding)


def save_merged(base: Base, plan: MergePlan, record: str, *, say: Say, heed: Callable[[], None]) -> None:
    """Write the merged model with its tokenizer, template and `record` (JSON text); the folder appears only when it is whole.

    Raises `InputError` where the name was taken meanwhile and `ModelError` where the disk refuses: then nothing of it is left.
    """
    say(f"writing {plan.name}")
    try:
        with _unfinished(plan.target.parent) as made:
            base.model.save_pretrained(str(made), max_shard_size=SHARD)
            heed()
            (made / "generation_config.json").unlink(missing_ok=True)  # the loaded one has nothing of the model's own; the base's follows
            for path in files_beside(plan.source):
                shutil.copyfile(path, made / path.name)
            _without_paths(made / "config.json")
            (made / MERGED_RECORD).write_text(record, encoding="utf-8")
            for path in sorted(made.iterdir()):
                path.chmod(0o644)  # the library's weights are its writer's alone
                make_last(path)
            make_last(made)
            heed()
            try:
                made.rename(plan.target)
            except OSError as exc:
                if plan.target.exists():
                    raise InputError(f"There is a model named {plan.name} by now: choose another name.") from exc
                raise
            make_last(plan.target.parent)
    except SafetensorError as exc:  # the library tells what the disk refused as a text alone
        raise ModelError(f"The merged model {plan.name} could not be written: {exc}. Nothing of it is left; free some space and try again.") from exc
    except OSError as exc:
        raise ModelError(f"{explain_os_error(exc, plan.target)} Nothing of the merged model is left.") from exc


@contextlib.contextmanager
def _unfinished(models_dir: Path) -> Iterator[Path]:
    """A folder to write into, gone afterwards unless it was renamed; what killed processes have left of theirs goes too."""
    import psutil

    for left in models_dir.glob(f"{_UNFINISHED}*"):
        number = left.name.removeprefix(_UNFINISHED)
        if not number.isdigit() or int(number) == os.getpid() or not psutil.pid_exists(int(number)):
            shutil.rmtree(left, ignore_errors=True)
    made = models_dir / f"{_UNFINISHED}{os.getpid()}"
    made.mkdir()
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _without_paths(config: Path) -> None:
    """The folder goes round: where the base lay on this machine must not."""
    told = json.loads(config.read_text(encoding="utf-8"))
    for values in (told, told.get("text_config")):
        if isinstance(values, dict):
            values.pop("_name_or_path", None)
    config.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
