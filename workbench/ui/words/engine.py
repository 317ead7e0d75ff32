"""The sentences about who holds the engine."""

from __future__ import annotations

STOP, STOPPING, END = "Stop", "Stopping…", "End it now"  # what they stop stands beside them
SURE_STOP, SURE_END = "Press again to stop", "Sure? Steps are lost"
FREE = "Free memory"
READY, OFF = "ready", "engine not started"
NOT_LOADED = "weights not loaded"
NO_ADAPTER = "no adapter"
TAKE_BACK = "“Stop” here takes this request back; the button on top stops what holds the engine."
FREEING = "freeing the memory"
FREE_BACK = "Don't free yet"
FREE_WAITS = "Freeing the memory is {why}"
FREE_WAYS = "“Don't free yet” on top takes this back; the button beside it stops what holds the engine."
FREE_TAKEN_BACK = "The memory stays as it is."
CHANGED = "What held the engine has ended meanwhile: nothing was stopped."
WAITING = "waiting for the engine…"


def in_queue(place: int) -> str:
    """Where a request stands that others are before; `place` counts from 1."""
    return "next in the queue" if place == 1 else f"number {place} in the queue"
