"""The rounds of the engine's queue: who comes next when pages ask at once, several times, and one after the other."""

from __future__ import annotations

from workbench.engine.turns import Turns, asked_by


def settle(turns: Turns, *pages: str) -> list[int]:
    """The rounds of jobs that these pages hand in, in that order."""
    found = []
    for page in pages:
        with asked_by(page):
            found.append(turns.settle())
    return found


def test_pages_that_ask_once_share_a_round() -> None:
    assert settle(Turns(), "a", "b", "c") == [0, 0, 0]


def test_each_further_job_of_a_page_waits_a_round_longer() -> None:
    assert settle(Turns(), "a", "a", "a", "b", "b") == [0, 1, 2, 0, 1]


def test_a_page_that_had_its_turn_comes_after_those_who_wait() -> None:
    turns = Turns()
    assert settle(turns, "a", "b") == [0, 0]
    turns.begin(0)
    assert settle(turns, "a", "c", "b", "a") == [1, 0, 1, 2]


def test_whoever_pauses_does_not_save_turns_up_and_owes_none() -> None:
    turns = Turns()
    settle(turns, "a")
    for settled in range(1, 6):
        with asked_by("b"):
            turns.settle()
        turns.begin(settled)
    assert settle(turns, "a", "new") == [5, 5]


def test_what_nobody_asked_for_belongs_to_the_round_being_served() -> None:
    turns = Turns()
    assert [turns.settle(), turns.settle()] == [0, 0]
    turns.begin(3)
    assert turns.settle() == 3


def test_asking_for_a_page_ends_with_its_block() -> None:
    turns = Turns()
    with asked_by("a"):
        with asked_by("b"):
            assert turns.settle() == 0
        assert turns.settle() == 0
        assert turns.settle() == 1
    assert turns.settle() == 0


def test_pages_that_are_gone_are_forgotten() -> None:
    turns = Turns()
    settle(turns, *(f"page {number}" for number in range(50)), "late", "late", "late")
    turns.begin(2)
    assert turns._last == {"late": 2}
