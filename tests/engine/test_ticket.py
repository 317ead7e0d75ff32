"""When a page that follows a job draws its next picture."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from workbench.engine import ticket as tickets
from workbench.engine.messages import LoadJob
from workbench.engine.ticket import FULL, Ticket

SOON = 30.0  # a limit that only a fault reaches


@pytest.fixture
def ticket(monkeypatch: pytest.MonkeyPatch) -> Ticket:
    monkeypatch.setattr(tickets, "PICTURE", SOON)  # whoever pauses in vain does not come back
    monkeypatch.setattr(tickets, "LONGEST", 4 * SOON)
    return Ticket(1, LoadJob(model="m"), "loading m")


def comes_back(ticket: Ticket, seen: int, begun: bool, do: Callable[[], None] = lambda: None) -> bool:
    """Whether whoever waits comes back by what is done meanwhile (or was before)."""
    waiter = threading.Thread(target=ticket.wait_picture, args=(seen, begun), daemon=True)
    waiter.start()
    do()
    waiter.join(2.0)
    return not waiter.is_alive()


def texts(ticket: Ticket, text: str) -> Callable[[], None]:
    def told() -> None:
        ticket.texts = ("", text)
        ticket.touch()

    return told


def end(ticket: Ticket) -> None:
    ticket.finished.set()
    ticket.touch()


def test_a_first_text_is_not_kept_waiting(ticket: Ticket) -> None:
    seen = ticket.changes
    ticket.touch()  # its progress
    assert comes_back(ticket, seen, False, texts(ticket, "A"))


def test_what_changed_while_the_last_picture_was_drawn_is_not_lost(ticket: Ticket) -> None:
    seen, begun = ticket.changes, any(ticket.texts)
    texts(ticket, "A")()
    assert comes_back(ticket, seen, begun)
    seen = ticket.changes
    end(ticket)
    assert comes_back(ticket, seen, True)


def test_the_end_is_not_kept_waiting_by_the_pause(ticket: Ticket) -> None:
    texts(ticket, "A")()
    seen = ticket.changes
    texts(ticket, "AB")()
    assert comes_back(ticket, seen, True, lambda: end(ticket))


@pytest.mark.parametrize(("letters", "share"), [(0, 1.0), (FULL, 1.0), (2 * FULL, 2.0), (5 * FULL, 4.0)])
def test_the_longer_the_text_the_longer_the_pause_within_bounds(ticket: Ticket, monkeypatch: pytest.MonkeyPatch, letters: int, share: float) -> None:
    paused: list[float | None] = []
    monkeypatch.setattr(ticket.changed, "wait_for", lambda condition, timeout: paused.append(timeout))
    ticket.texts = ("", "a" * letters)
    ticket.wait_picture(ticket.changes, True)
    assert paused == [1.0, share * SOON]


def test_nothing_new_is_looked_at_again_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "PICTURE", 0.0)
    ticket, begun = Ticket(1, LoadJob(model="m"), "loading m"), time.monotonic()
    ticket.wait_picture(ticket.changes, False)
    assert time.monotonic() - begun >= 0.9
