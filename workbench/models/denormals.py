"""Numbers below 1e-38 as zero while a CPU learns: what a model has grown sure of leaves such gradients, and a processor multiplies them half as fast.

It is a state of each thread, which its helpers have from it when they are made, at its first parallel work. They do nothing but torch's
work and keep it; the thread itself, which computes for Python as well, has it for the time of a step alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

PARALLEL = 2**20  # numbers that torch shares among its threads


def prepare_helpers() -> None:
    """Make this thread's helpers with it; without effect where they were made already."""
    with as_zero():
        torch.ones(PARALLEL).exp_()


@contextlib.contextmanager
def as_zero() -> Iterator[None]:
    """Within, this thread has it."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
