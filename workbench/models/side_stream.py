"""The one stream beside the default one on which everything is captured.

cuBLAS keeps 32 MiB of working space for each stream that it has met, as long as the process lives, and torch deals out thirty-two
streams in turn: a process in which each run took one of its own held 1.6 GiB that nobody used after some runs.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch


@functools.cache
def side_stream(device: torch.device) -> Any:
    """The stream of `device` for captures, the same one at every call."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def capturing(graph: torch.cuda.CUDAGraph, pool: Any, stream: Any) -> Iterator[None]:
    """What is called within is recorded into `graph` on `stream`; afterwards the thread is on the stream that it came from.

    torch's own context leaves it on `stream` where the end of a capture fails, and whatever comes after a failed capture would run there.
    """
    before = torch.cuda.current_stream(stream.device)
    try:
        # Other threads (a reader of the card's state) may call the driver meanwhile.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            yield
    finally:
        if torch.cuda.current_stream(stream.device) != before:
            torch.cuda.set_stream(before)


def clear_workspaces() -> None:
    """Give cuBLAS' working space back. Only where no CUDA graph will be replayed any more: a graph goes on using what it was captured with."""
    clear = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)
    if clear is not None and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        clear()
