"""What tells one base from another without reading all of its weights. No torch."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from workbench.errors import ModelError

SLICES, SLICE = 16, 4096  # pieces of every weight file that are read, and their bytes
MAX_HEADER = 100_000_000
_PASSING = ("transformers_version", "_name_or_path")  # of config.json: they change without the model


def fingerprint(folder: Path) -> str:
    """A SHA-256 (hex) over a model folder: its config, the weight files' sizes and headers, and slices of their data.

    Two models of one shape differ in the slices, so a fine-tuned sister is told apart. Reads about 64 KiB a file beside
    the headers. Raises `ModelError` where a file can't be read.
    """
    digest = hashlib.sha256()
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        digest.update(json.dumps({k: v for k, v in config.items() if k not in _PASSING}, sort_keys=True).encode())
        for path in sorted(folder.glob("*.safetensors")):
            _weigh(path, digest)
    except (OSError, ValueError, AttributeError, struct.error) as exc:
        raise ModelError(f"The files of the model {folder.name} can't be read: {exc}. Restore its folder.") from exc
    return digest.hexdigest()


def provenance(folder: Path) -> dict[str, Any]:
    """What tells the weights in a folder from others and from their later selves: the fingerprint reads samples alone, so each file's time (ns) goes with it.

    Raises `ModelError` where a file can't be read, `OSError` where one went meanwhile.
    """
    return {"fingerprint": fingerprint(folder), "made": {path.name: path.stat().st_mtime_ns for path in sorted(folder.glob("*.safetensors"))}}


def _weigh(path: Path, digest: hashlib._Hash) -> None:
    size = path.stat().st_size
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > min(MAX_HEADER, size):
            raise ValueError(f"{path.name} has no header")
        digest.update(f"{path.name} {size} ".encode() + stream.read(length))
        begin = 8 + length
        for k in range(SLICES):
            stream.seek(begin + (size - begin) * k // SLICES)
            digest.update(stream.read(SLICE))
