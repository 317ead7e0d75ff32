"""The line on top of every tab: model, what the engine does, memory."""

from __future__ import annotations

from workbench.engine.client import Ticket
from workbench.engine.messages import TrainJob
from workbench.errors import WorkbenchError
from workbench.models.hardware import card, host_memory_gib
from workbench.ui import words
from workbench.ui.highlight import bar, escape
from workbench.workspace import Workspace


def header_html(space: Workspace) -> str:
    """One line of HTML; cheap enough to be asked for every second by every browser."""
    status = space.engine.status()
    if status.holder is not None:
        state, doing = "busy", f"{status.holder.label}: {status.holder.progress}"
        if isinstance(status.holder.job, TrainJob):
            left = time_left(space, status.holder.job.run)
            doing = f"training run {status.holder.job.run}" + (f", {words.duration(left)} left" if left is not None else f": {status.holder.progress}")
        if status.waiting:
            doing += f" · {status.waiting} waiting"
    elif status.last_fault:
        state, doing = "fault", status.last_fault
    else:
        state, doing = ("idle", "ready") if status.state == "idle" else ("off", "engine not started")
    holds = status.holds
    held = {"": "weights not loaded", "none": "not quantized"}.get(holds.quantization, holds.quantization)
    loaded = held + (f" · {holds.device}" if holds.device else "")
    adapter = f"adapter {holds.adapter}" if holds.adapter else "no adapter on"
    return (
        f'<div class="wb-head"><span class="wb-title">{escape(words.TITLE)}</span>'
        f"<span><b>{escape(holds.model or space.model_name)}</b> <span class='wb-dim'>· {escape(loaded)} · {escape(adapter)}</span></span>"
        f'<span class="wb-grow" title="{escape(doing)}"><span class="wb-dot {state}"></span>{escape(doing)}</span>{_memory(space)}</div>'
    )


def time_left(space: Workspace, run: str) -> float | None:
    """Seconds that a run still takes; None where that is not known (yet)."""
    try:
        return space.runs.view(run).seconds_left()
    except WorkbenchError:  # its folder was taken away while it trained
        return None


def waiting_words(space: Workspace, ticket: Ticket) -> str:
    """Why a reply has not begun: who holds the engine, and for how long."""
    if ticket.begun is not None:
        return ticket.progress + "…"
    holder = space.engine.status().holder
    if holder is None:
        return "waiting for the engine…"
    left = time_left(space, holder.job.run) if isinstance(holder.job, TrainJob) else None
    return f"waiting: {holder.label} holds the engine" + (f", {words.duration(left)} left" if left is not None else "")


def _memory(space: Workspace) -> str:
    found = card() if space.has_gpu else None
    total, free = (found.total_gib, found.free_gib) if found else host_memory_gib()
    word = "GPU memory" if found else "memory"
    return f"<span class='wb-dim'>{word} {bar((total - free) / total)} {total - free:.1f} of {total:.0f} GiB</span>"
