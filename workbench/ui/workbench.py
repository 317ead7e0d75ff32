"""The page: a header, four tabs in the order of the work, and the timers that keep them true."""

from __future__ import annotations

import functools
from typing import Any

import gradio as gr

from workbench.ui import chat_tab, data_tab, header, train_tab, tune_tab, words
from workbench.workspace import Workspace


def build(space: Workspace) -> gr.Blocks:
    """The whole page over one workspace."""
    with gr.Blocks(title=words.TITLE, analytics_enabled=False, fill_width=True, delete_cache=(3600, 3600)) as page:
        timer = gr.Timer(1.0)
        header.build(space, timer)
        current = gr.State("data")  # the open tab: what nobody sees is not drawn anew every second
        with gr.Tabs(selected="data", elem_id="tabs") as tabs:
            with gr.Tab(words.TAB_DATA, id="data") as data:
                bench = data_tab.build(space, page)
            with gr.Tab(words.TAB_TUNE, id="tune") as tune:
                pass
            with gr.Tab(words.TAB_TRAIN, id="train") as train:
                runs = train_tab.build(space, timer, train, current)
            with gr.Tab(words.TAB_CHAT, id="chat") as chat:
                chat_tab.build(space, chat, timer, current, bench)
        # Built last, since its button opens the Train tab on the new run.
        with tune:
            tune_tab.build(space, page, tabs, tune, runs, current)
        quiet: dict[str, Any] = {"show_progress": "hidden"}
        for name, tab in (("data", data), ("tune", tune), ("train", train), ("chat", chat)):
            tab.select(functools.partial(str, name), None, current, queue=False, **quiet)
        quieten(page, bench.changed)
    return page


def quieten(page: gr.Blocks, sink: gr.components.Component) -> None:
    """Tell the progress of every event that shows none to one hidden component.

    At each event gradio's page updates the state of every component that ever was an output, and copies its value for
    that: with some hundred outputs a click took a second in the browser while the server answered in 20 ms.
    """
    for event in page.fns.values():
        if event.show_progress == "hidden":
            event.show_progress_on = [sink]
