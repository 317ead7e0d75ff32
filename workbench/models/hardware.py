"""What the machine has, asked without torch: the first NVIDIA card and the host's memory."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import Any


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

    chosen = _visible()
    if chosen is None:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handle = _handle(chosen)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return Card(str(pynvml.nvmlDeviceGetName(handle)), int(memory.total) / 2**30, int(memory.free) / 2**30)
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _visible() -> str | None:
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    return chosen if chosen and chosen != "-1" else None


def _handle(chosen: str) -> Any:
    import pynvml

    return pynvml.nvmlDeviceGetHandleByIndex(int(chosen)) if chosen.isdigit() else pynvml.nvmlDeviceGetHandleByUUID(chosen)


@functools.cache
def _kept_handle() -> Any:
    """The card's handle, opened once a process and kept: it is asked at every optimizer step."""
    import pynvml

    chosen = _visible()
    if chosen is None:
        return None
    try:
        pynvml.nvmlInit()
        return _handle(chosen)
    except pynvml.NVMLError:
        return None


def gpu_use() -> float | None:
    """Share (0 to 1) of the last moment in which the card computed; None without a card, or where it does not tell (MIG)."""
    import pynvml

    handle = _kept_handle()
    if handle is None:
        return None
    try:
        return float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
    except pynvml.NVMLError:
        return None


def host_memory_gib() -> tuple[float, float]:
    """(total, available) host memory in GiB."""
    import psutil

    memory = psutil.virtual_memory()
    return memory.total / 2**30, memory.available / 2**30
