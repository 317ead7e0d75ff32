"""The measurement's place in the room, so that Stop finds what runs."""

import threading
from types import SimpleNamespace

import gradio as gr

from workbench.calls.prompting import PLAIN
from workbench.evaluation.report import MALFORMED_COUNTS
from workbench.ui import measure_panel
from workbench.ui.room import Room
from workbench.workspace.jobs import Jobs


class Slow:
    """A workspace whose jobs wait until they are stopped or finished by the test."""

    def __init__(self, space):
        self.tickets, self.stopped = [], []
        self.engine = self.jobs = self
        self.cases, self.adapters, self.runs, self.form = space.cases, space.adapters, space.runs, space.form

    def evaluate(self, cases, **_):
        self.tickets.append(SimpleNamespace(finished=threading.Event(), label="evaluating", wait_change=lambda _: None, wait=lambda: {"replies": [""] * len(cases)}))
        return self.tickets[-1]

    def stop(self, ticket):
        self.stopped.append(ticket)
        ticket.finished.set()


def test_a_measurement_leaves_the_room_when_it_ends_and_a_second_press_stops_the_first(workspace, monkeypatch):
    monkeypatch.setattr(measure_panel, "waiting_words", lambda *_: "waiting")
    space, room, page = Slow(workspace), Room(), SimpleNamespace(session_hash="page")
    key = measure_panel.measure_key(page, False)
    press = measure_panel._measured(space, room, False)
    first, second = press(page, None), press(page, None)
    next(first)
    next(second)
    assert (space.stopped, room.tickets[key]) == (space.tickets[:1], space.tickets[1])
    list(first)
    assert room.tickets[key] is space.tickets[1]
    space.tickets[1].finished.set()
    list(second)
    assert room.tickets == {}


def test_a_merged_model_is_measured_in_its_own_form_and_keeps_nothing_beside_a_run(workspace, monkeypatch):
    asked = []
    done = {"replies": ["x"] * len(workspace.cases("cases.jsonl")), "adapter_difference": None}
    ticket = SimpleNamespace(finished=threading.Event(), label="evaluating", wait=lambda: done)
    ticket.finished.set()
    monkeypatch.setattr(type(workspace), "voices", lambda self: ["merged:mine"])
    monkeypatch.setattr(type(workspace), "form", lambda self, voice: asked.append(voice) or PLAIN)
    monkeypatch.setattr(Jobs, "evaluate", lambda self, cases, **how: asked.append(how) or ticket)
    monkeypatch.setattr(measure_panel, "keep_measurement", None)
    press = measure_panel._measured(workspace, Room(), True)
    shown = list(press(SimpleNamespace(session_hash="page"), "merged:mine"))
    assert "<b>mine</b>" in shown[0][0] and asked[0] == "merged:mine"
    assert (asked[1]["run"], asked[1]["adapted"], asked[1]["model"]) == (None, False, "merged:mine")


def test_the_panel_says_how_malformed_calls_are_counted(workspace):
    with gr.Blocks() as page:
        measure_panel.build(workspace, Room(), SimpleNamespace(changed=gr.State(0), version=gr.State("")), gr.Dropdown())
    assert any(MALFORMED_COUNTS in block.value for block in page.blocks.values() if isinstance(block, gr.Markdown))
