"""The whole page, built without a server."""

import gradio as gr

from workbench.ui.workbench import build


def test_quiet_events_tell_their_progress_to_no_component(workspace):
    """Without it gradio's page takes a second a click: it updates all that ever showed progress at every event."""
    page = build(workspace)
    quiet = [event for event in page.fns.values() if event.show_progress == "hidden"]
    sinks = {tuple(c.elem_id for c in event.show_progress_on) for event in quiet}
    assert len(quiet) > 60
    assert sinks == {()}


def test_every_panel_of_the_data_tab_is_there(workspace):
    page = build(workspace)
    ids = {block.elem_id for block in page.blocks.values() if isinstance(getattr(block, "elem_id", None), str)}
    assert {"grid", "search", "health-strip", "import-file", "generate-start", "undo", "lesson", "bulk-apply", "chat-row-call", "misses"} <= ids
    assert any(isinstance(block, gr.Dataframe) for block in page.blocks.values())
