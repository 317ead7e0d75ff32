"""Writing files so that a crash, a full disk or a second writer never costs what stood there before."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from workbench.errors import InputError, WorkbenchError

LONGEST_NAME = 64  # characters
_SAFE_NAME = re.compile(rf"[^\W_][\w.\-]{{0,{LONGEST_NAME - 1}}}")
_RESERVED = {"con", "prn", "aux", "nul", *(f"{d}{i}" for d in ("com", "lpt") for i in range(1, 10))}


def safe_name(name: str, *, what: str = "name", error: type[WorkbenchError] = InputError) -> str:
    """`name` if it may become a file or folder name; raises `error` otherwise.

    Letters, digits, `.`, `_` and `-`, 64 characters at most, beginning with a letter or a digit:
    no separator, no `..`, no hidden file, no Windows device.
    """
    text = str(name).strip()
    stem = text.split(".")[0].lower()
    if not _SAFE_NAME.fullmatch(text) or ".." in text or text.endswith(".") or stem in _RESERVED:
        raise error(
            f"The {what} {str(name)[:80]!r} can't be used: take 1 to 64 letters, digits, '.', '_' or '-', "
            "beginning with a letter or a digit."
        )
    return text


def free_name(wanted: str, taken: Callable[[str], bool]) -> str | None:
    """`wanted`, or the first of wanted-2, wanted-3 … that is not `taken`, cut to the length of a safe name; None where ten thousand are."""
    endings = ("", *(f"-{number}" for number in range(2, 10_000)))
    names = (wanted if not ending else wanted[: LONGEST_NAME - len(ending)].rstrip(".") + ending for ending in endings)
    return next((name for name in names if not taken(name)), None)


def stands(path: Path) -> bool:
    """Whether something stands at `path`, a link that leads nowhere included."""
    return path.exists() or path.is_symlink()


def into_bin(path: Path, folder: Path) -> str:
    """Move a file or folder to `folder`/KEY/ITS NAME; returns KEY, when that was (nanoseconds since 1970). A refusal of the disk changes nothing.

    Raises `OSError`, whose `filename` says what was refused.
    """
    key = str(time.time_ns())
    place = folder / key
    place.mkdir(parents=True)
    try:
        path.rename(place / path.name)
    except OSError:
        with contextlib.suppress(OSError):
            place.rmdir()
        raise
    return key


def in_bin(folder: Path) -> list[tuple[str, Path]]:
    """(key, path) of all that `into_bin` put there, the newest first."""
    found = []
    with contextlib.suppress(OSError):
        for place in folder.iterdir():
            if place.name.isascii() and place.name.isdigit():
                found += [(place.name, path) for path in place.iterdir()]
    return sorted(found, key=lambda pair: int(pair[0]), reverse=True)


def explain_os_error(exc: OSError, path: Path) -> str:
    """One sentence for a failed file operation: what happened to which path, and what to do."""
    if exc.errno == errno.ENOSPC:
        return f"The disk is full: {path} was not written and the old version is untouched. Free some space and try again."
    if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"There is no permission to use {path}. Change its rights or choose another place."
    if exc.errno == errno.ENOENT:
        return f"{path} does not exist. Check the path."
    return f"{path} could not be used: {exc.strerror or exc}."


def write_atomic(path: Path, data: str | bytes) -> None:
    """Replace `path` by `data` whole or not at all (temp file beside it, fsync, `os.replace`).

    Raises `WorkbenchError` with one sentence where the disk refuses; the old file stays.
    """
    raw = data.encode("utf-8") if isinstance(data, str) else data
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as stream:
            stream.write(raw)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes the file private; keep the rights the old file had, or the usual ones.
        os.chmod(temporary, path.stat().st_mode & 0o777 if path.exists() else 0o644)
        os.replace(temporary, path)
        temporary = None
    except OSError as exc:
        raise WorkbenchError(explain_os_error(exc, path)) from exc
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def make_last(path: Path) -> None:
    """fsync a file or (where the system can) a folder."""
    try:
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows wants the right to write
    except PermissionError:  # a folder, on Windows
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
