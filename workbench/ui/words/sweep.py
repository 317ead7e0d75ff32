"""The sentences of the panel of sweeps."""

from __future__ import annotations

EMPTY = "No sweep yet. A sweep trains the same rows under several settings, several times over, and tells which differences are more than chance."
