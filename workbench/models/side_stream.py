"""The one stream beside the default one on which everything is captured.

cuBLAS keeps 32 MiB of working space for each stream that it has met, as long as the process lives, and torch deals out thirty-two
streams in turn: a process in which each run took one of its own held 1.6 GiB that nobody used after some runs.
"""

from __future__ import annotations

import functools
from typing import Any

import torch


@functools.cache
def side_stream(device: torch.device) -> Any:
    """The stream of `device` for captures, the same one at every call."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def clear_workspaces() -> None:
    """Give cuBLAS' working space back. Only where no CUDA graph will be replayed any more: a graph goes on using what it was captured with."""
    clear = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)
    if clear is not None and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        clear()
