"""What keeps gradio's table of a page's components as it is."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import gradio as gr
import pytest
from gradio.state_holder import SessionState

from workbench.ui.quiet import keep_numbers


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
