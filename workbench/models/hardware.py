"""What the machine has, asked without torch: the first NVIDIA card and the host's memory."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """An NVIDIA card's name and memory in GiB."""

    name: str
    total_gib: float
    free_gib: float


def card() -> Card | None:
    """The NVIDIA card that torch would take first, or None where there is none or its driver does not answer.

    Follows CUDA_VISIBLE_DEVICES (a number or a UUID; empty hides every card), as torch does.
    """
    import pynvml

    chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if not chosen or chosen == "-1":
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(int(chosen)) if chosen.isdigit() else pynvml.nvmlDeviceGetHandleByUUID(chosen)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return Card(str(pynvml.nvmlDeviceGetName(handle)), int(memory.total) / 2**30, int(memory.free) / 2**30)
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def host_memory_gib() -> tuple[float, float]:
    """(total, available) host memory in GiB."""
    import psutil

    memory = psutil.virtual_memory()
    return memory.total / 2**30, memory.available / 2**30
