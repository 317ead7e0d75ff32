"""One run by several processes, as `accelerate launch` and `torchrun` start them: each with a share of every step's rows.

Every process holds the adapter whole; gradients are added up before each update, so all of them make the same step. The first one
(rank 0) alone measures, writes and speaks.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from workbench.errors import RunError

T = TypeVar("T")
PATIENCE = datetime.timedelta(minutes=30)  # that a process waits for another: the first may measure long


@dataclass(frozen=True)
class Ranks:
    """This process among those of its run."""

    rank: int = 0
    size: int = 1
    spread: bool = False
    """Whether the base is spread over the processes: then all must make the same passes."""

    @property
    def first(self) -> bool:
        """Whether it is the one that measures, writes and speaks."""
        return self.rank == 0

    def share(self, places: Sequence[int]) -> list[int]:
        """The places of a step's rows that are this process's: dealt in turns, none where there are fewer rows than processes."""
        return list(places[self.rank :: self.size])

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace tensors of one device by their sums over all processes, in place."""
        if self.size == 1:
            return
        flat = torch.cat([t.detach().float().reshape(-1) for t in tensors])
        torch.distributed.all_reduce(flat)
        for tensor, part in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
            tensor.detach().copy_(part.view_as(tensor))

    def count(self, number: int) -> int:
        """The sum of a number over all processes."""
        return sum(self._told(number))

    def from_first(self, work: Callable[[], T]) -> T:
        """What `work` gives in the first process, in all of them. What it raises there is raised there, and `RunError` in the others."""
        if self.size == 1:
            return work()
        told: list[Any] = [None, False]
        try:
            if self.first:
                told = [work(), True]
        finally:
            torch.distributed.broadcast_object_list(told, src=0)
        if not told[1]:
            raise RunError("The first process of the run gave up, and says why; this one ends with it.")
        found: T = told[0]
        return found


    def measured(self, work: Callable[[], T]) -> T:
        """`from_first` for work that passes the model: on a spread base all do it, and the first one's result counts."""
        if not self.spread:
            return self.from_first(work)
        found = work()
        return self.from_first(lambda: found)

    def most(self, number: int) -> int:
        """The largest of a number over all processes."""
        return max(self._told(number))

    def _told(self, number: int) -> list[int]:
        told = [number] * self.size
        if self.size > 1:
            torch.distributed.all_gather_object(told, number)
        return told


ALONE = Ranks()


def launched() -> Ranks:
    """This process's place among those that a launcher started (WORLD_SIZE, RANK, LOCAL_RANK), joined and on its card; `ALONE` without one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE
    on_card = torch.cuda.is_available()
    if on_card:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    # Objects go by gloo, through the host's memory.
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if on_card else "gloo", timeout=PATIENCE)
    return Ranks(torch.distributed.get_rank(), size)


def leave() -> None:
    """Part from the other processes, if there are any."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
