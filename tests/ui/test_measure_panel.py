"""The measurement's place in the room, so that Stop finds what runs."""

import threading
from types import SimpleNamespace

from workbench.ui import measure_panel
from workbench.ui.room import Room


class Slow:
    """A workspace whose jobs wait until they are stopped or finished by the test."""

    def __init__(self, space):
        self.tickets, self.stopped, self.engine = [], [], self
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
