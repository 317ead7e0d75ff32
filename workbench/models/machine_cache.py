"""What this machine was found out to be, kept for the next process: small JSON values in the user's cache folder, each with a stamp of what it rests on.

The folder may be deleted at any time, and one that can't be read or written costs the work again, nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchError
from workbench.files import write_atomic

NAME = "tool-call-workbench"
Stamp = list[str]


def folder() -> Path:
    """Where it is kept: below XDG_CACHE_HOME, or ~/.cache. Raises `RuntimeError` for a user without a home of their own."""
    said = os.environ.get("XDG_CACHE_HOME", "")
    home = Path(said) if os.path.isabs(said) else Path.home() / ".cache"
    if not home.is_absolute() or home.parent == Path(home.anchor):
        raise RuntimeError(f"{home} is nobody's cache folder")
    return home / NAME


def stamp(*paths: Path) -> Stamp:
    """What tells these files and folders from their later selves; raises `OSError` for one that is not there."""
    return [f"{path} {(found := path.stat()).st_size} {found.st_mtime_ns}" for path in paths]


def recall(name: str, made_of: Stamp) -> Any:
    """The value kept under `name`, None where there is none or it rests on something else."""
    try:
        kept = json.loads((folder() / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):
        return None
    return kept.get("value") if isinstance(kept, dict) and kept.get("made_of") == made_of else None


def keep(name: str, made_of: Stamp, value: Any) -> None:
    """Keep a JSON value under `name`."""
    with contextlib.suppress(WorkbenchError, OSError, RuntimeError):
        write_atomic(folder() / f"{name}.json", json.dumps({"made_of": made_of, "value": value}))
