"""The whole page, built without a server."""

import gradio as gr


def test_quiet_events_tell_their_progress_to_no_component(whole_page):
    """Without it gradio's page takes a second a click: it updates all that ever showed progress at every event."""
    quiet = [event for event in whole_page.fns.values() if event.show_progress == "hidden"]
    sinks = {tuple(c.elem_id for c in event.show_progress_on) for event in quiet}
    assert len(quiet) > 60
    assert sinks == {()}


BOXES = (gr.Dropdown, gr.Radio, gr.Textbox, gr.Number, gr.Checkbox, gr.CheckboxGroup)


def test_every_box_of_data_tune_and_train_has_a_name_for_a_screen_reader(whole_page):
    """A label that is not shown is read out all the same; without one gradio calls the box "Dropdown"."""
    boxes = [block for block in whole_page.blocks.values() if isinstance(block, BOXES) and block.visible != "hidden"]
    assert len(boxes) > 90
    assert {box.elem_id for box in boxes if not box.label} <= {"prompt"}


def test_every_panel_of_the_data_tab_is_there(whole_page):
    ids = {block.elem_id for block in whole_page.blocks.values() if isinstance(getattr(block, "elem_id", None), str)}
    assert {"grid", "search", "health-strip", "import-file", "generate-start", "undo", "lesson", "bulk-apply", "chat-row-call", "misses"} <= ids
    assert any(isinstance(block, gr.Dataframe) for block in whole_page.blocks.values())
