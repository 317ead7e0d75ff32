"""Who trains a run at this moment: a lock that lives as long as the process that holds it, whoever answers for the run.

The worker of an app that was killed still ends its step: its lock says so when the run's owner is gone already. Where
the system or the disk has no such locks (Windows, some network disks) nothing is held, and nothing looks held.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOCK = ".training"
PATIENCE = 1.0  # seconds: somebody who only looks holds the lock for a moment too
_mine: set[tuple[int, int]] = set()
"""Device and inode of the lock files that this process holds."""


class HeldError(Exception):
    """Another process is training the run."""


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the run in `folder` while it is trained, as often within each other as it takes; raises `HeldError`."""
    handle = _locked(folder / LOCK)
    if handle is None:
        yield
        return
    key = _key(handle)
    _mine.add(key)
    try:
        yield
    finally:
        _mine.discard(key)
        with contextlib.suppress(OSError):
            (folder / LOCK).unlink()  # while it is still held: whoever opened it meanwhile sees that it is gone
        os.close(handle)


def held_elsewhere(folder: Path) -> bool:
    """Whether another process is training the run in `folder`."""
    locks = _locks()
    if locks is None:
        return False
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        if _key(handle) in _mine:
            return False
        locks.flock(handle, locks.LOCK_SH | locks.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def _locked(path: Path) -> int | None:
    """The handle of the lock file, locked; None where this process holds it already, or where nothing can be held."""
    locks, until = _locks(), time.monotonic() + PATIENCE
    while locks is not None:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            return None  # no such folder, or one that can't be written: what is done next says so
        try:
            if _key(handle) in _mine:
                os.close(handle)
                return None
            locks.flock(handle, locks.LOCK_EX | locks.LOCK_NB)
            if _is_at(handle, path):
                return handle
            os.close(handle)  # its holder took it away between the two calls
        except BlockingIOError as exc:
            os.close(handle)
            if time.monotonic() > until:
                raise HeldError from exc
            time.sleep(0.02)
        except OSError:
            os.close(handle)
            return None
    return None


def _key(handle: int) -> tuple[int, int]:
    stat = os.fstat(handle)
    return stat.st_dev, stat.st_ino


def _is_at(handle: int, path: Path) -> bool:
    try:
        stat = path.stat()
    except OSError:
        return False
    return (stat.st_dev, stat.st_ino) == _key(handle)


def _locks() -> Any:
    """The module with `flock`, or None: Windows has none."""
    try:
        return importlib.import_module("fcntl")
    except ImportError:
        return None
