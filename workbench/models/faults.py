"""Which exceptions of torch and its libraries mean that the memory ran out, and which that the card's context is lost."""

from __future__ import annotations

import errno
import re
import traceback
from typing import Literal

import torch
from safetensors import SafetensorError

AcceleratorFault = Literal["", "memory", "device"]

# torch's allocator for the CPU, C++ containers and cuBLAS have no error class of their own for this.
_MEMORY = re.compile(r"can(?:'|no)t allocate memory|std::bad_alloc|CUDA error: out of memory|CUDA out of memory|CU(BLAS|DNN)_STATUS_ALLOC_FAILED", re.IGNORECASE)
_DEVICE = re.compile(r"CUDA error|CUDA driver error|device-side assert|CU(BLAS|DNN)_STATUS_\w+|Triton Error \[CUDA\]")


def accelerator_fault(exc: BaseException) -> AcceleratorFault:
    """"memory" (it can be freed, the process goes on), "device" (no call on the card works any more), or "" for any other fault."""
    if isinstance(exc, (torch.OutOfMemoryError, MemoryError)) or isinstance(exc, OSError) and exc.errno == errno.ENOMEM:
        return "memory"
    if not isinstance(exc, (RuntimeError, SafetensorError)):
        return ""
    if _MEMORY.search(str(exc)):
        return "memory"
    return "device" if isinstance(exc, torch.AcceleratorError) or _DEVICE.search(str(exc)) else ""


def lost_to(device: torch.device) -> RuntimeError | None:
    """The error with which the card no longer answers in this process, or None if it does: a tiny computation tells."""
    try:
        torch.zeros(1, device=device).add_(1).item()
    except RuntimeError as exc:
        return exc
    return None


def first_line(exc: BaseException) -> str:
    """The gist of a library's error: its first line, and the second where the first only announces it."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    if not lines:
        return type(exc).__name__
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:300]


def named(exc: BaseException) -> str:
    """An error's class and its gist."""
    return f"{type(exc).__name__}: {first_line(exc)}"


def lets_go(exc: BaseException) -> None:
    """Clear the frames that an exception and what led to it passed through: they still hold the tensors of the step."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [exc]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        traceback.clear_frames(one.__traceback__)
        waiting += [one.__cause__, one.__context__]
