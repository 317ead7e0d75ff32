"""The panel that makes a model of its own of the right pane's adapter and its base, lists such models, and deletes one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from workbench.engine.using import trained_on
from workbench.errors import InputError, WorkbenchError
from workbench.models.catalog import display_name
from workbench.models.merge_plan import GIB
from workbench.training.merged import MergedModel, list_merged, read_record
from workbench.ui.chat.cards import CARDS_JS, visible
from workbench.ui.chat.keep_panel import SURE_SECONDS
from workbench.ui.chat.panel import ChatPanel
from workbench.ui.chat.voices import choice_words, voice_of
from workbench.ui.errors import sentence, shown
from workbench.ui.header import waiting_words
from workbench.ui.highlight import empty, escape, note, plain
from workbench.ui.quiet import QUIET, STREAM
from workbench.ui.words import chat as words
from workbench.workspace import Workspace

PAUSE = 0.5  # seconds between two looks at how far it is

Stamp = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class MergePanel:
    """What the tab needs of the panel: what a page has seen of the list, what is drawn, the drawing, and the events after which the voices may be others."""

    seen: gr.State
    outputs: list[Any]
    draw: Callable[[Seen], list[Any]]
    events: list[Any]


@dataclass(frozen=True)
class Seen:
    """What a page shows of the merged models, the one that a first press on Delete meant, and when that was."""

    stamp: Stamp | None = None
    meant: str = ""
    at: float = 0.0

    @property
    def sure(self) -> str:
        """The model that the next press deletes; "" where it is none, or the first press was too long ago."""
        return self.meant if time.monotonic() - self.at <= SURE_SECONDS else ""


def merge(space: Workspace, voice: str | None, name: str) -> Iterator[str]:
    """Merge an adapter; yields what there is to say, as HTML. Raises `WorkbenchError`.

    Whoever stops reading stops nothing: what is made is a file that all pages see.
    """
    if voice is None or voice not in space.adapters():
        raise InputError(words.MERGE_WHICH)
    ticket = space.jobs.merge(voice, name)
    while not ticket.finished.is_set():
        yield note(f"{ticket.label}: {waiting_words(space, ticket, '')} {words.MERGE_LEFT}")
        ticket.wait_change(1.0)
        ticket.finished.wait(PAUSE)
    done = ticket.wait()
    yield note(words.MERGED_NOW.format(
        adapter=voice, choice=choice_words(done["model"]), name=display_name(done["model"]), size=done["bytes"] / GIB, rounding=done["rounding"]
    ), "ok")  # fmt: skip


def delete(space: Workspace, model: str, before: Seen) -> tuple[str, Seen]:
    """A press on the Delete of merged:NAME: the first asks, the second deletes. Returns the sentence, and what is meant now. Raises `WorkbenchError`."""
    if before.sure == model:
        return words.MERGED_DELETED.format(name=display_name(model), size=size_words(space.jobs.delete_merged(model))), Seen()
    size = space.jobs.delete_merged(model, sure=False)  # what can't be is told before the second press
    adapter, lost = read_record(space.catalog.merged_folder(model)).adapter, trained_on(space.runs, model)
    asked = [
        words.MERGED_ASK.format(name=display_name(model), size=size_words(size)),
        (words.MERGE_AGAIN if adapter in space.adapters() else words.MERGE_NEVER).format(adapter=adapter),
        *([words.MERGED_BASE_OF.format(runs=", ".join(lost[:8]))] if lost else []),
    ]
    return " ".join(asked), Seen(meant=model, at=time.monotonic())


def list_html(models: Sequence[MergedModel], sure: str = "") -> str:
    """The merged models as a table, each with a button that deletes it; that of the model `sure` was pressed once."""
    if not models:
        return empty(words.MERGED_NONE)
    head = "".join(f"<th>{escape(title)}</th>" for title in words.MERGED_COLUMNS)
    return f'<table class="wb-runs wb-merged"><thead><tr>{head}</tr></thead><tbody>{"".join(_line(one, one.model == sure) for one in models)}</tbody></table>'


def _line(one: MergedModel, sure: bool) -> str:
    record = one.record
    made = (record.base, record.adapter) if record is not None else (words.MERGED_BROKEN, "–")
    button = (
        f'<button type="button" class="wb-small{" sure" if sure else ""}" data-do="delete" data-key="{escape(one.model)}" '
        f'aria-label="{escape(words.MERGED_LABEL.format(name=display_name(one.model)))}">{escape(words.SURE_DELETE if sure else words.DELETE)}</button>'
    )
    cells = [f"<b>{visible(display_name(one.model), 80)}</b>", *(visible(text, 80) for text in made), escape(size_words(one.bytes)), button]
    return f'<tr title="{escape(one.broken)}">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def size_words(count: int) -> str:
    """Bytes as a person reads them."""
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"


def stamp(space: Workspace) -> Stamp:
    """What tells the list of now from another one: each model, and when something came into its folder or went."""
    found = []
    for model in space.catalog.merged():
        with contextlib.suppress(WorkbenchError, OSError):
            found.append((model, space.catalog.merged_folder(model).stat().st_mtime_ns))
    return tuple(found)


def build(space: Workspace, panel: ChatPanel) -> MergePanel:
    """The panel's components and their wires."""
    seen = gr.State(Seen())
    with gr.Accordion(words.MERGE_TITLE, open=False, elem_id="chat-merge"):
        gr.Markdown(plain(words.MERGE_HELP))
        with gr.Row(equal_height=True, elem_classes="wb-runtop"):
            name = gr.Textbox(label=words.MERGE_NAME, max_lines=1, scale=3, min_width=180, elem_id="chat-merge-name")
            begin = gr.Button(words.MERGE, size="sm", min_width=110, scale=1, elem_id="chat-merge-begin")
        said = gr.HTML(elem_id="chat-merge-message", elem_classes="wb-tight")
        listed = gr.HTML(empty(words.MERGED_NONE), js_on_load=CARDS_JS, elem_id="chat-merged", elem_classes="wb-tight")

    def pressed(chosen: str | None, wanted: str) -> Iterator[str]:
        try:
            yield from merge(space, voice_of(chosen), wanted)
        except Exception as exc:
            yield note(sentence(exc), "warn")

    def draw(before: Seen) -> list[Any]:
        """[what was said, the list, what is seen of it]; skipped where neither the models nor what a first press meant have changed."""
        now, over = stamp(space), bool(before.meant) and not before.sure
        if now == before.stamp and not over:
            return [gr.skip()] * 3
        after = Seen(now) if over else replace(before, stamp=now)
        return ["" if over else gr.skip(), list_html(list_merged(space.catalog), after.sure), after]

    def hit(before: Seen, event: gr.EventData) -> list[Any]:
        told: dict[str, Any] = event._data or {}
        if told.get("do") != "delete":
            return [gr.skip()] * 3
        try:
            spoken, after = delete(space, str(told.get("key")), before)
            told_now = note(spoken, "warn" if after.meant else "ok")
        except WorkbenchError as exc:
            told_now, after = note(str(exc), "warn"), Seen()
        return [told_now, *draw(after)[1:]]  # none of what `delete` returns has a stamp: it is drawn

    begun = begin.click(pressed, [panel.right, name], said, **STREAM)
    gone = listed.click(shown(hit), seen, [said, listed, seen], **QUIET)
    return MergePanel(seen, [said, listed, seen], draw, [begun, gone])
