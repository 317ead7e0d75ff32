"""How often a large adapter is saved by itself: never so often that saving takes over a tenth of the run's time.

A captured run makes an epoch in a quarter of a second; writing a 4B's adapter, its checkpoint and its best takes five
times that. What is passed over is made up for: the best adapter waits on the device, and the run's end always saves.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import torch

from workbench.training.schedule import saves_seldom

SHARE = 0.1  # of the run's time that saving may take
EARLIEST = 10.0  # seconds of training that are made again in that time if they are lost: before them nothing is saved


class Cadence:
    """Whether a save that is due is worth its time now. A number of steps that the user chose is always obeyed."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], save_every: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.heavy = saves_seldom(sum(p.numel() for p in parameters), save_every)
        self.clock = clock
        self.ended = clock()
        self.took: float | None = None

    def lets(self) -> bool:
        """Whether to save now."""
        return not self.heavy or self.clock() - self.ended >= (EARLIEST if self.took is None else self.took * (1 - SHARE) / SHARE)

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Around a save: measures it."""
        begun = self.clock()
        yield
        self.ended = self.clock()
        self.took = self.ended - begun


@contextlib.contextmanager
def in_place(parameters: Sequence[torch.nn.Parameter], values: Sequence[torch.Tensor] | None) -> Iterator[None]:
    """Within, the parameters hold `values`, if there are any."""
    if values is None:
        yield
        return
    now = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        torch._foreach_copy_(list(parameters), list(values))
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(list(parameters), now)
