"""The page: a header, four tabs in the order of the work, and the timers that keep them true; and beside it the page for demonstrations."""

from __future__ import annotations

import functools
from typing import Any

import gradio as gr

from workbench.ui import chat_tab, data_tab, header, train_tab, tune_tab, words
from workbench.ui.demo import page as demo
from workbench.ui.quiet import QUIET, quieten
from workbench.ui.tune import held
from workbench.ui.words import demo as demo_words
from workbench.workspace import Workspace

NEWS = 2.0  # seconds between two looks of the Chat tab for new adapters and answers that wait for a person

# A list's box cuts what is longer than itself, as names of runs are: the whole of it is told where the pointer rests on it.
WHOLE_JS = """
() => {
  if (window.wbWhole) return;
  window.wbWhole = true;
  document.addEventListener('mouseover', (event) => { const box = event.target.closest('input[role=combobox]'); if (box) box.title = box.value; });
}
"""


def build(space: Workspace) -> gr.Blocks:
    """All pages over one workspace."""
    with gr.Blocks(title=words.TITLE, analytics_enabled=False, fill_width=True, delete_cache=(3600, 3600)) as page:
        header.build(space, gr.Timer(1.0))
        # For the tabs that follow what goes on: while one is not open, nothing asks for it. Of each its own: ten browsers at one tab's
        # timer would have all that listens to it asked, a core's worth, and that beside an engine which computes on the same cores.
        timer, news = gr.Timer(1.0, active=False), gr.Timer(NEWS, active=False)
        kept = held.build()  # outside the tabs: one that is not open would not read it when the page is loaded
        current = gr.State("data")  # the open tab: what nobody sees is not drawn anew every second
        with gr.Tabs(selected="data", elem_id="tabs") as tabs:
            with gr.Tab(words.TAB_DATA, id="data") as data:
                bench = data_tab.build(space, page, data)
            with gr.Tab(words.TAB_TUNE, id="tune") as tune:
                pass
            with gr.Tab(words.TAB_TRAIN, id="train") as train:
                runs, wire_sweeps = train_tab.build(space, timer, train, current)
            with gr.Tab(words.TAB_CHAT, id="chat") as chat:
                chat_tab.build(space, chat, news, current, bench)
        # Built last, since its button opens the Train tab on the new run.
        with tune:
            wire_sweeps(tune_tab.build(space, page, tabs, tune, runs, current, timer, kept))
        for name, tab in (("data", data), ("tune", tune), ("train", train), ("chat", chat)):
            tab.select(functools.partial(_open, name), None, [current, timer, news], **QUIET)
        quieten(page)
        page.load(None, js=WHOLE_JS)
    with page.route(demo_words.TITLE, demo.PATH, show_in_navbar=False):
        demo.build(space)
        quieten(page)
        page.load(None, js=WHOLE_JS)
    page.current_page = ""  # what is drawn while it runs is the workbench's: gradio would put it on the page that was built last
    return page


def _open(name: str) -> list[Any]:
    return [name, gr.Timer(active=name == "train"), gr.Timer(active=name == "chat")]
