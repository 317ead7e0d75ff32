"""How much memory a run may take: what is free, and what this app's own engine would give back for it. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.models.estimate import bytes_per_weight
from workbench.models.hardware import card, host_memory_gib
from workbench.models.modules import linear_modules
from workbench.models.shapes import Shapes, parameter_count
from workbench.settings import Quantization, RunSettings

BESIDE_SHARE, BESIDE_GIB = 1.2, 1.5  # what a second base takes beyond its weights: loading and answering need some room of their own


@dataclass(frozen=True)
class Room:
    """The card, or the machine where there is none: its name, its memory, and how much of it a run may take (GiB)."""

    where: str
    total_gib: float
    free_gib: float


def find_room(has_gpu: bool, engine_pid: int | None = None) -> Room:
    """The room now. What the engine's process holds counts as free: a run takes its base over, or drops it."""
    found = card() if has_gpu else None
    if found is not None:
        return Room(found.name, found.total_gib, min(found.total_gib, found.free_gib + _held_on_card(engine_pid)))
    total, free = host_memory_gib()
    return Room("this machine's memory", total, min(total, free + _held_in_memory(engine_pid)))


def weights_gib(shapes: Shapes, quantization: Quantization, has_gpu: bool) -> float:
    """What a loaded base's weights take: the linear layers as quantized, the rest in 16 bit on a card and 32 on a CPU."""
    inside = sum(out * into for out, into in linear_modules(shapes).values())
    each = bytes_per_weight(RunSettings(quantization=quantization), has_gpu)
    return (inside * each + (parameter_count(shapes) - inside) * (2.0 if has_gpu else 4.0)) / 2**30


def fits_beside(weights: float, free: float) -> bool:
    """Whether a base of so many GiB may be loaded beside another one, with so many GiB free."""
    return free >= BESIDE_SHARE * weights + BESIDE_GIB


def _held_in_memory(pid: int | None) -> float:
    import psutil

    if pid is None:
        return 0.0
    try:
        return float(psutil.Process(pid).memory_info().rss) / 2**30
    except psutil.Error:
        return 0.0


def _held_on_card(pid: int | None) -> float:
    """GiB that the process holds on the card; 0 where the driver does not tell (in a container it may not)."""
    import pynvml

    if pid is None:
        return 0.0
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return 0.0
    try:
        held = 0
        for index in range(pynvml.nvmlDeviceGetCount()):
            processes = pynvml.nvmlDeviceGetComputeRunningProcesses(pynvml.nvmlDeviceGetHandleByIndex(index))
            held += sum(int(p.usedGpuMemory or 0) for p in processes if p.pid == pid)
        return held / 2**30
    except pynvml.NVMLError:
        return 0.0
    finally:
        pynvml.nvmlShutdown()
