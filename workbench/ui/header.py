"""The line on top of every tab: model, who holds the engine, memory, and the buttons that stop the holder and free the memory."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

import gradio as gr

from workbench.engine.client import Ticket
from workbench.engine.messages import TrainJob, UnloadJob
from workbench.models.hardware import card, host_memory_gib
from workbench.ui import words
from workbench.ui.errors import shown
from workbench.ui.highlight import bar, escape
from workbench.ui.quiet import QUIET
from workbench.ui.words import demo as demo_words
from workbench.ui.words import engine as said
from workbench.workspace import Workspace

ASKED_TWICE = ("train", "fold")  # kinds of jobs that only a second press stops: hours may be in them
SURE_SECONDS = 6.0  # for which a first press is remembered
DEMO_LINK = f'<a class="wb-demo-link" href="./demo" target="_blank" rel="noopener" title="{escape(demo_words.LINK_HELP)}">{escape(demo_words.LINK)}</a>'
PATIENCE = 5.0  # seconds after a stop until ending it by force is offered


@dataclass(frozen=True)
class Offer:
    """What the two buttons say and do: for which job (its number), and whether they can be pressed."""

    number: int | None = None
    label: str = said.STOP
    act: Literal["", "stop", "end"] = ""
    can_free: bool = False
    freeing: int | None = None
    """The job (its number) that waits to free the memory: the button takes it back."""


@dataclass(frozen=True)
class Sure:
    """A first press that waits for its second: on which job, to do what, and when (`time.monotonic`)."""

    number: int
    act: str
    at: float


def header_html(space: Workspace) -> str:
    """One line of HTML; cheap enough to be asked for every second by every browser."""
    status = space.engine.status()
    queued = space.engine.queue()
    state, doing = {"idle": ("idle", said.READY)}.get(status.state, ("off", said.OFF))
    story = doing
    if status.holder is not None:
        state, doing = "busy", holder_words(space, status.holder)
        if status.waiting:
            doing += f" · {status.waiting} waiting"
        waiting = ", ".join(t.label for t in queued if t is not status.holder)
        story = f"{doing} (for {words.duration(status.holder.held())})" + (f": {waiting}" if waiting else "")
    elif status.last_fault:
        state, doing = "fault", status.last_fault
        story = doing
    holds = status.holds
    held = {"": said.NOT_LOADED, "none": "not quantized"}.get(holds.quantization, holds.quantization)
    adapter = f"adapter {holds.adapter}" if holds.adapter else said.NO_ADAPTER
    model = (holds.model or space.model_name) + (f" + {holds.also}" if holds.also else "")
    whole = " · ".join(word for word in (model, held, adapter, holds.device) if word)
    return (
        f'<div class="wb-head{" wb-held" if status.holder is not None else ""}"><span class="wb-title">{escape(words.TITLE)}</span>'
        f'<span class="wb-loaded" title="{escape(whole)}"><b>{escape(model)}</b> <span class="wb-dim">· {escape(held)} · {escape(adapter)}</span></span>'
        f'<span class="wb-grow" title="{escape(story)}"><span class="wb-dot {state}"></span>{escape(doing)}</span>{_memory(space)}{DEMO_LINK}</div>'
    )


def holder_words(space: Workspace, holder: Ticket) -> str:
    """Who holds the engine, how far it is, and for how long still where that is known."""
    left = space.engine.seconds_left(holder)
    share = f" {holder.share:.0%}" if holder.share is not None else ""
    how_far = holder.progress + share
    if holder.stop_asked:
        return f"{holder.label}: stopping"
    time_left = f"{words.duration(left)} left · " if left is not None else ""  # first: a long name is cut at its end
    # "training run x: training x" would say it twice.
    own = isinstance(holder.job, TrainJob) and (left is not None or holder.progress == holder.job.training)
    return time_left + (holder.label if own else f"{holder.label}: {how_far}")


def freeing_words(space: Workspace, ticket: Ticket) -> str:
    """That the memory is freed later, what that waits for, and the ways out."""
    return said.FREE_WAITS.format(why=waiting_words(space, ticket, said.FREE_WAYS))


def waiting_words(space: Workspace, ticket: Ticket, ways: str = said.TAKE_BACK) -> str:
    """Why a job has not begun: its place in the queue, who holds the engine, for how long still, and the ways out."""
    if ticket.begun is not None:
        left = ticket.seconds_left()
        return ticket.progress + (f" {ticket.share:.0%}" if ticket.share else "") + (f", {words.duration(left)} left" if left is not None else "") + "…"
    holder, place = space.engine.status().holder, space.engine.place(ticket)
    if holder is None or not place:
        return said.WAITING
    left = space.engine.seconds_left(holder)
    known = f", {words.duration(left)} left" if left is not None else ""
    return f"waiting, {said.in_queue(place)}: {holder.label} holds the engine for {words.duration(holder.held())}{known}. {ways}"


def offer(space: Workspace, sure: Sure | None) -> Offer:
    """What the buttons offer now; `sure` is this page's first press, if it still counts."""
    status = space.engine.status()
    asked = next((t for t in space.engine.queue() if isinstance(t.job, UnloadJob)), None)
    freeing = asked.number if asked is not None and asked.begun is None else None
    can_free = freeing is not None or (status.state != "off" and asked is None)
    holder = status.holder
    if holder is None:
        return Offer(can_free=can_free, freeing=freeing)
    if holder.stop_time is not None and time.monotonic() - holder.stop_time < PATIENCE:
        return Offer(holder.number, said.STOPPING, "", can_free, freeing)
    act: Literal["stop", "end"] = "stop" if holder.stop_time is None else "end"
    label = said.STOP if act == "stop" else said.END
    if sure is not None and (sure.number, sure.act) == (holder.number, act):
        label = said.SURE_STOP if act == "stop" else said.SURE_END
    return Offer(holder.number, label, act, can_free, freeing)


def press(space: Workspace, seen: Offer, sure: Sure | None) -> Sure | None:
    """Do what the button said. Returns the first press where a second is wanted, None where it was done or nothing was.

    Acts only on the job that the page had shown: another may hold the engine by now.
    """
    holder = space.engine.status().holder
    if holder is None or holder.number != seen.number or not seen.act:
        return None
    twice = seen.act == "end" or holder.job.kind in ASKED_TWICE
    if twice and (sure is None or (sure.number, sure.act) != (holder.number, seen.act)):
        return Sure(holder.number, seen.act, time.monotonic())
    if seen.act == "end":
        space.engine.end(holder)
    else:
        space.engine.stop(holder)
    return None


def press_free(space: Workspace, seen: Offer) -> str:
    """Free the memory, or take a waiting wish for it back; returns what there is to say of it at once, "" where the line says it."""
    waiting = next((t for t in space.engine.queue() if isinstance(t.job, UnloadJob)), None)
    if seen.freeing is not None:
        if waiting is not None and waiting.number == seen.freeing and waiting.begun is None:
            space.engine.stop(waiting)
            return said.FREE_TAKEN_BACK
        return ""
    if waiting is not None:  # another page was quicker
        return ""
    holder = space.engine.status().holder
    ticket = space.jobs.unload()
    return freeing_words(space, ticket) if holder is not None and ticket.begun is None else ""


def build(space: Workspace, timer: gr.Timer) -> None:
    """The line and its buttons, drawn anew where something changed."""
    with gr.Row(elem_classes="wb-headrow", equal_height=True):
        line = gr.HTML(header_html(space), elem_id="header")
        stop = gr.Button(said.STOP, size="sm", min_width=0, interactive=False, elem_id="stop-holder", elem_classes=["wb-off"])
        free = gr.Button(said.FREE, size="sm", min_width=0, interactive=False, elem_id="free-memory")
    seen, sure = gr.State(Offer()), gr.State(None)

    def draw(before: Offer, first: Sure | None) -> list[Any]:
        if first is not None and time.monotonic() - first.at > SURE_SECONDS:
            first = None
        now = offer(space, first)
        button: Any = gr.skip()
        if (now.label, now.act, now.number) != (before.label, before.act, before.number):
            warn = now.label in (said.SURE_STOP, said.SURE_END, said.END)
            button = gr.Button(now.label, interactive=bool(now.act), variant="stop" if warn else "secondary", elem_classes=[] if now.number else ["wb-off"])
        freeing: Any = gr.skip()
        if (now.can_free, now.freeing) != (before.can_free, before.freeing):
            freeing = gr.Button(said.FREE if now.freeing is None else said.FREE_BACK, interactive=now.can_free)
        return [header_html(space), button, freeing, now, first]

    def pressed(before: Offer, first: Sure | None) -> list[Any]:
        holder = space.engine.status().holder
        if before.number is not None and (holder is None or holder.number != before.number):
            gr.Info(said.CHANGED)
        return draw(before, press(space, before, first))

    def freed(before: Offer, first: Sure | None) -> list[Any]:
        if told := press_free(space, before):
            gr.Info(told, title="")
        return draw(before, first)

    outputs = [line, stop, free, seen, sure]
    timer.tick(shown(draw), [seen, sure], outputs, **QUIET)
    spoken: dict[str, Any] = QUIET | {"queue": True}  # a handler without the queue can't say anything beside its outputs
    stop.click(shown(pressed), [seen, sure], outputs, **spoken)
    free.click(shown(freed), [seen, sure], outputs, **spoken)


def _memory(space: Workspace) -> str:
    found = card() if space.has_gpu else None
    total, free = (found.total_gib, found.free_gib) if found else host_memory_gib()
    word = "GPU memory" if found else "memory"
    return f'<span class="wb-dim wb-memory">{word} {bar((total - free) / total)} {total - free:.1f} of {total:.0f} GiB</span>'
