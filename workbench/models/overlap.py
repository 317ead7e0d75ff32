"""What goes on beside the loading of a model: files are read ahead, the card wakes up, the tokenizer is built.

Importing the libraries keeps one core busy for seconds; none of this needs that core.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import itertools
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.models.hardware import host_memory_gib

if TYPE_CHECKING:
    import torch

READERS = 4  # threads
BLOCK = 8 * 2**20  # bytes read at a time


@contextlib.contextmanager
def read_ahead(paths: Sequence[Path]) -> Iterator[None]:
    """Within, threads read `paths` into the system's file cache, in order; leaving it ends them.

    Without enough free memory for the files nothing is read: they would push each other out.
    """
    try:
        blocks = [(path, at) for path in paths for at in range(0, path.stat().st_size, BLOCK)]
    except OSError:  # whoever loads them will say so
        blocks = []
    if host_memory_gib()[1] * 2**30 < 1.5 * BLOCK * len(blocks):
        blocks = []
    ended = threading.Event()
    turn = itertools.count()  # next() of it is one step, whichever thread takes it
    readers = [threading.Thread(target=_read, args=(blocks, turn, ended), name="reading ahead", daemon=True) for _ in range(min(READERS, len(blocks)))]
    for reader in readers:
        reader.start()
    try:
        yield
    finally:
        ended.set()
        for reader in readers:
            reader.join()


def _read(blocks: list[tuple[Path, int]], turn: Iterator[int], ended: threading.Event) -> None:
    buffer = bytearray(BLOCK)
    with contextlib.suppress(OSError):  # whoever loads them will say so
        while not ended.is_set() and (i := next(turn)) < len(blocks):
            path, at = blocks[i]
            with path.open("rb", buffering=0) as stream:
                stream.seek(at)
                stream.readinto(buffer)


def wake(device: torch.device) -> None:
    """Make the card's context and load its matrix products now; it takes some tenths of a second. Whoever computes first will say what is wrong."""
    import torch

    from workbench.models.side_stream import clear_workspaces

    cold = not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with contextlib.suppress(RuntimeError):
        square = torch.zeros((16, 16), device=device, dtype=torch.bfloat16)
        if cold:
            square @ square  # noqa: B018
            clear_workspaces()  # this thread's; there are no graphs yet


def wake_card() -> None:
    """Import torch, and `wake` the card that a base would be loaded on, if there is one."""
    try:
        import torch
    except ImportError:  # who needs it will say so
        return
    if torch.cuda.is_available():
        wake(torch.device("cuda", torch.cuda.current_device()))


@contextlib.contextmanager
def no_sweeps() -> Iterator[None]:
    """Within, Python looks for no cycles of garbage: imports make a million objects that stay, and looking at them takes a sixth of the time."""
    looking = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if looking:
            gc.enable()


def import_bitsandbytes() -> None:
    """Import bitsandbytes without torch's compiler, which takes a quarter of the time that all the libraries take.

    On import it compiles what it does on devices that it has no kernels for; CPUs and NVIDIA cards are not among them.
    """
    import torch

    if "bitsandbytes" in sys.modules:
        return
    compiler = torch.compile

    def as_it_is(function: Any = None, **_: Any) -> Any:
        return function if function is not None else as_it_is

    torch.compile = as_it_is  # type: ignore[assignment]
    try:
        with contextlib.suppress(ImportError):  # not everybody quantizes: transformers will say what is missing
            importlib.import_module("bitsandbytes")
    finally:
        torch.compile = compiler
