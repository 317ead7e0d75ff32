"""What the machine has, asked without torch: the first NVIDIA card and the host's memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """An NVIDIA card's name and memory in GiB."""

    name: str
    total_gib: float
    free_gib: float


def card() -> Card | None:
    """The first NVIDIA card, or None where there is none or its driver does not answer."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
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
