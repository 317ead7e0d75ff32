"""What keeps gradio's table of a page's components as it is."""

from __future__ import annotations

import asyncio
import importlib
import sys
from concurrent.futures import ThreadPoolExecutor

import gradio as gr
import pytest
from gradio.state_holder import SessionState

from workbench.ui.quiet import MOST_STREAMS, STREAM, THREADS, keep_numbers, look_for_no_library


@pytest.mark.parametrize("answer", [gr.skip, lambda: gr.Number(label="another"), lambda: gr.update(visible=False), lambda: 3])
def test_a_component_that_an_event_changed_keeps_its_number_and_the_table_its_size(answer):
    keep_numbers()
    with gr.Blocks() as page:
        box = gr.Number(1, label="one")
        box.change(lambda value: answer(), box, box)
    session = SessionState(page)
    numbers = set(session.blocks_config.blocks)
    with ThreadPoolExecutor(1) as aside:  # a browser's test before this one may have left a loop running in our thread
        for _ in range(3):  # the second event reads what the first one wrote
            aside.submit(lambda: asyncio.run(page.process_api(page.fns[0], [2], state=session))).result()
    assert set(session.blocks_config.blocks) == numbers and session[box._id]._id == box._id


def test_it_is_done_once_however_many_pages_are_built():
    keep_numbers()
    once = SessionState.__setitem__
    keep_numbers()
    assert SessionState.__setitem__ is once


def test_no_page_that_follows_an_answer_waits_for_a_thread(whole_page):
    streams = [fn for fn in whole_page.fns.values() if fn.concurrency_id == STREAM["concurrency_id"]]
    assert len(streams) > 8 and {fn.concurrency_limit for fn in streams} == {MOST_STREAMS}
    assert MOST_STREAMS >= 100 and THREADS - MOST_STREAMS >= 40


def test_a_tab_s_timer_asks_for_that_tab_alone(whole_page):
    ticks = [timer for fn in whole_page.fns.values() for timer, event in fn.targets if event == "tick"]
    intervals = [whole_page.blocks[timer].value for timer in ticks]
    assert sorted(intervals) == [1.0, 1.0, 1.0, 2.0, 3.0]  # the header; the Train tab's two; the Chat tab; the demonstration page
    assert len(set(ticks)) == 4


def test_a_library_that_is_not_there_is_looked_for_once(monkeypatch):
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    asked = []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: asked.append(name))
    for _ in range(3):
        look_for_no_library()
        with pytest.raises(ImportError):
            importlib.import_module("matplotlib")
    assert asked == ["matplotlib"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: sys)
    del sys.modules["matplotlib"]
    look_for_no_library()
    assert "matplotlib" not in sys.modules
