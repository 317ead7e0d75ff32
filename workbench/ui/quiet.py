"""Keeping gradio's page from redrawing everything at every click, and from losing one. Measured with benchmarks/data_screen.py."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.state_holder import SessionState

QUIET: dict[str, Any] = {"show_progress": "hidden", "queue": False}  # quick verbs answer the click itself, without the detour over the queue

# What streams until an answer is whole. Such a handler only waits, and takes a thread for that: a page that found none free would
# see nothing, not even its place among those that wait for the engine.
MOST_STREAMS = 100
STREAM: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": MOST_STREAMS, "concurrency_id": "answers"}
THREADS = MOST_STREAMS + 40  # for `launch`: the quick verbs' own beside them

# Gradio's page notes, when an event ends, its state at each of the event's inputs (it means streams from a microphone
# or a camera), never forgets one, and from then on updates every component noted at every step of every event, each
# found by a walk over the whole page: a form of thirty fields that was read once costs each later click 0.4 s.
# Nothing here streams its input, so the notes are not taken. If the class is not found, the page works as it would without.
QUIET_JS = """
async () => {
  const url = performance.getEntriesByType('resource').map((e) => e.name).find((name) => /\\/statustracker-[^/]*\\.js$/.test(name));
  if (!url) return;
  for (const found of Object.values(await import(url))) {
    const proto = found?.prototype;
    if (!proto?.resolve_args || proto.wbQuiet) continue;
    const all = proto.resolve_args;
    proto.resolve_args = function (...given) { return all.apply(this, given).filter((status) => status.type !== 'input'); };
    proto.wbQuiet = window.wbQuiet = true;
  }
}
"""


def quieten(page: gr.Blocks) -> None:
    """Tell the progress of every event that shows none to no component, take no notes at inputs (see `QUIET_JS`), and keep every component's number."""
    keep_numbers()
    look_for_no_library()
    page.load(None, js=QUIET_JS)
    for event in page.fns.values():
        if event.show_progress == "hidden":
            event.show_progress_on = []


def keep_numbers() -> None:
    """Let a component that an event changed keep its number in its page's table.

    For each value that changes a component, `gr.skip()` among them, gradio puts a copy with a number of its own in the
    component's place, and the next event that reads the component adds the copy to the table under that number. So the
    table grows for as long as a page is open; and where a form is drawn at that moment, the drawing, which walks the
    table, fails ("dictionary changed size during iteration"): the row after an approved one did not come.
    """
    put = SessionState.__setitem__
    if getattr(put, "keeps_numbers", False):
        return

    def kept(self: SessionState, key: int, value: Any) -> None:
        if isinstance(value, Block):
            value._id = key
        put(self, key, value)

    kept.keeps_numbers = True  # type: ignore[attr-defined]
    SessionState.__setitem__ = kept  # type: ignore[method-assign]


def look_for_no_library() -> None:
    """Let gradio not look for matplotlib twice at each event where it is not installed: the search through all folders is a fifth of a quick event."""
    if "matplotlib" not in sys.modules and importlib.util.find_spec("matplotlib") is None:
        sys.modules["matplotlib"] = None  # type: ignore[assignment]
