"""What was proven of a base on this machine: that a faster way of computing gives what the plain one gives. Kept beside the model.

A process proves before it trusts, and that takes a second; the same code, libraries, card, weights and shape of adapter need it once.
Only what held is kept. A file that can't be read or written costs the next process its proofs again, nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import torch

from workbench.errors import WorkbenchError
from workbench.files import write_atomic
from workbench.models.fingerprint import provenance

FILE = ".proven.json"
MOST = 64  # proofs of one base, the latest
LONGEST = 2**16  # bytes of such a file: a longer one is not ours
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "liger-kernel", "triton", "pytorch-triton")
_CODE = ("models", "training")  # packages whose ways are proven
_PASSING = ("base_model_name_or_path", "revision", "inference_mode")  # of an adapter's config: they change nothing that is computed

Value = list[int]
_kept: weakref.WeakKeyDictionary[Any, tuple[Path, str]] = weakref.WeakKeyDictionary()  # base -> its folder, and what tells its weights from others


def remember_for(raw: Any, folder: Path, how: str) -> None:
    """From now on what is proven of that loaded base (a transformers model) is kept in its folder.

    `how` tells its weights from others made of the same files. Nothing is kept where those can't be told from later ones.
    """
    with contextlib.suppress(WorkbenchError, OSError):
        _kept[raw] = folder, f"{provenance(folder)} {how}"


def proven(raw: Any, what: str) -> Value | None:
    """What `prove` was told of it, here or in an earlier process; None if nothing."""
    if raw not in _kept:
        return None
    found = _read(_kept[raw][0]).get(_key(raw, what))
    return found if isinstance(found, list) and all(isinstance(one, int) for one in found) else None


def prove(raw: Any, what: str, value: Value) -> None:
    """`what` held for this base and the adapters that are on it; `value` says how. Of several processes of one run the first alone writes."""
    _note(raw, what, value)


def forget(raw: Any, what: str) -> None:
    """It held, and went wrong all the same: the next process proves it anew."""
    _note(raw, what, None)


def _note(raw: Any, what: str, value: Value | None) -> None:
    if raw not in _kept or os.environ.get("RANK", "0") != "0":
        return
    folder = _kept[raw][0]
    if not (folder / "config.json").is_file():  # the model was moved or deleted: its folder must not come back
        return
    known = _read(folder)
    key = _key(raw, what)
    known.pop(key, None)
    if value is not None:
        known[key] = value
    with contextlib.suppress(WorkbenchError, OSError):
        write_atomic(folder / FILE, json.dumps(dict(list(known.items())[-MOST:]), indent=1))


def adapters_of(raw: Any) -> str:
    """The shapes of the adapters on a base, the same text in every process."""
    configs = {name: {k: v for k, v in config.to_dict().items() if k not in _PASSING} for name, config in getattr(raw, "peft_config", {}).items()}
    return json.dumps(configs, sort_keys=True, default=lambda value: sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value))


def _read(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size <= LONGEST else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _key(raw: Any, what: str) -> str:
    return hashlib.sha256("\n".join((what, _kept[raw][1], adapters_of(raw), _here())).encode()).hexdigest()


@cache
def _here() -> str:
    """This machine's card, the libraries and our own code."""
    found = [torch.cuda.get_device_name(), str(torch.cuda.get_device_capability()), str(torch.version.cuda)] if torch.cuda.is_available() else ["cpu"]
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    digest = hashlib.sha256()
    home = Path(__file__).resolve().parent.parent
    for path in sorted(path for package in _CODE for path in (home / package).glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return "\n".join([*found, digest.hexdigest()])
