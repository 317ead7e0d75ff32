"""What merging an adapter into its base will take, asked before anything is loaded. No torch."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import InputError, ModelError
from workbench.files import explain_os_error, safe_name, stands
from workbench.models.catalog import MERGED, Catalog
from workbench.models.shapes import folder_shapes, parameter_count, weights_in
from workbench.models.tokenizer import read_json

GIB = 2**30
SPARE = GIB  # bytes that a merged model leaves free on the disk, and in memory while it is made
BESIDE = ("*.json", "*.jinja", "tokenizer.model", "LICENSE*", "LICENCE*", "NOTICE*", "TERMS*", "GEMMA*")  # what goes with the weights
_OWN = ("config.json",)  # written anew
_WIDTHS = {"F32": 4, "BF16": 2, "F16": 4}  # bytes; 16-bit floats of the narrow kind are merged and kept in 32 bit, in which nothing overflows


@dataclass(frozen=True)
class MergePlan:
    """Where the base lies, where the merged model will, and what it takes: bytes of weights, and of all that is written."""

    name: str
    source: Path
    target: Path
    stored: str
    """How the base's weights are stored: "F32", "BF16" or "F16"."""
    weights: int
    disk: int

    @property
    def model(self) -> str:
        """What the catalog calls it."""
        return MERGED + self.name


def free_target(catalog: Catalog, name: str) -> Path:
    """Where a merged model of that name will lie; raises `InputError` for a bad or a taken name."""
    safe = safe_name(name, what="name of the merged model")
    target = catalog.models_dir / safe
    if stands(target):
        raise InputError(f"There is already a model named {safe}: choose another name, or take its folder out of {catalog.models_dir.name}/ first.")
    return target


def plan_merge(catalog: Catalog, source: Path, name: str) -> MergePlan:
    """What merging into the base in `source` takes; raises `InputError` for a name or a base that can't be used and for a disk without the room."""
    target = free_target(catalog, name)
    if "quantization_config" in read_json(source / "config.json"):
        raise ModelError(f"The weights of {source.name} are stored quantized: merging needs them as they were before. Answer with the adapter itself.")
    stored = _stored(source)
    weights = parameter_count(folder_shapes(source)) * _WIDTHS[stored]
    plan = MergePlan(target.name, source, target, stored, weights, weights + sum(path.stat().st_size for path in files_beside(source)))
    free = _free_disk(catalog.models_dir)
    if free < plan.disk + SPARE:
        raise ModelError(
            f"The merged model {plan.name} takes {plan.disk / GIB:.1f} GiB, and {catalog.models_dir.name}/ has {free / GIB:.1f} GiB left"
            f" ({SPARE / GIB:.0f} GiB of it stays free): free some space and try again."
        )
    return plan


def files_beside(source: Path) -> list[Path]:
    """The files of a model folder that go with its weights into another one: tokenizer, chat template, licence."""
    found = {path for pattern in BESIDE for path in source.glob(pattern) if path.is_file()}
    # What is hidden is kept of that very model: what was proven of it.
    return sorted(path for path in found if path.name not in _OWN and not path.name.startswith(".") and not path.name.endswith(".index.json"))


def _free_disk(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(folder).free
    except OSError as exc:
        raise ModelError(explain_os_error(exc, folder)) from exc


def _stored(folder: Path) -> str:
    """The type that most of the weights are stored in; raises `ModelError` for one that can't be merged into."""
    counted: Counter[str] = Counter()
    for path in sorted(folder.glob("*.safetensors")):
        for dtype, shape in weights_in(path).values():
            counted[dtype] += math.prod(shape)
    found = counted.most_common(1)[0][0] if counted else "nothing"
    if found not in _WIDTHS:
        raise ModelError(f"The weights of {folder.name} are stored as {found}: merging needs a base in 32 or 16 bit. Answer with the adapter itself.")
    return found
