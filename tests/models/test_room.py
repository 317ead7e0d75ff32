"""The memory that a run may take: what is free, and what the engine holds for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from workbench.models import room
from workbench.models.hardware import Card
from workbench.settings import Quantization


def test_without_a_card_it_is_the_machine_s_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "host_memory_gib", lambda: (24.0, 10.0))
    assert room.find_room(False) == room.Room("this machine's memory", 24.0, 10.0)


def test_what_the_engine_holds_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "host_memory_gib", lambda: (24.0, 10.0))
    child = subprocess.Popen([sys.executable, "-c", "x = b'1' * 2**26; input()"], stdin=subprocess.PIPE)
    try:
        assert 10.0 < room.find_room(False, child.pid).free_gib < 11.0
    finally:
        child.communicate(b"\n")
    assert room.find_room(False, child.pid).free_gib == 10.0  # a process that is gone holds nothing


def test_never_more_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "card", lambda: Card("a card", 8.0, 7.0))
    monkeypatch.setattr(room, "_held_on_card", lambda pid: 3.0 if pid else 0.0)
    assert room.find_room(True, 1) == room.Room("a card", 8.0, 8.0)
    assert room.find_room(True) == room.Room("a card", 8.0, 7.0)


def test_a_card_that_vanished_leaves_the_machine_s_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "card", lambda: None)
    assert room.find_room(True).where == "this machine's memory"


def test_a_second_base_must_leave_room_to_load_and_to_answer() -> None:
    shapes = {"model.embed_tokens.weight": (1000, 64), "model.layers.0.self_attn.q_proj.weight": (64, 64)}
    assert room.weights_gib(shapes, Quantization(mode="none"), False) * 2**30 == 4 * (64_000 + 4096)
    assert room.weights_gib(shapes, Quantization(mode="8-bit"), True) * 2**30 == 2 * 64_000 + 4096
    assert room.fits_beside(1.0, 2.71) and not room.fits_beside(1.0, 2.69)
