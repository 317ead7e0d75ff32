"""The training loop. It knows no screen and no folder: it is given batches, and told where to report."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from workbench.errors import WorkbenchError
from workbench.settings import Training
from workbench.training import events
from workbench.training.encode import Encoded
from workbench.training.pack import Pack, pack_within
from workbench.training.plan import step_count
from workbench.training.step import accumulate, apply_gradient, make_optimizer, mean_loss, rate_at

Emit = Callable[[events.Event], None]


@dataclass(frozen=True)
class Outcome:
    """How the loop ended: after which optimizer step, and whether it was asked to stop."""

    steps: int
    stopped: bool


def batches(rows: Sequence[Encoded], training: Training) -> Iterator[tuple[int, bool, list[Pack]]]:
    """(epoch from 0, last of its epoch?, packs) for every optimizer step, rows shuffled anew by the seed each epoch."""
    order = list(range(len(rows)))
    generator = random.Random(training.seed)
    for epoch in range(training.epochs):
        generator.shuffle(order)
        for start in range(0, len(order), training.rows_per_step):
            group = [rows[i] for i in order[start : start + training.rows_per_step]]
            last = start + training.rows_per_step >= len(order)
            yield epoch, last, pack_within(group, training.tokens_per_forward)


def train(
    model: Any, rows: Sequence[Encoded], validation: Sequence[Encoded], training: Training, *,
    emit: Emit, stop: Callable[[], bool], save: Callable[[int], None],
) -> Outcome:
    """Train `model`'s trainable parameters in place on `rows`.

    `emit` gets every event, `stop` is asked between optimizer steps, `save(step)` keeps the adapter.
    Raises `WorkbenchError` when the loss or the gradient is no longer a finite number.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    device = parameters[0].device
    optimizer = make_optimizer(parameters, training, fused=device.type == "cuda")
    held_back = pack_within(validation, training.tokens_per_forward)
    total = step_count(len(rows), training)
    torch.manual_seed(training.seed)
    model.train()
    step = saved_at = 0
    per_epoch = total // training.epochs
    for epoch, epoch_ends, packs in batches(rows, training):
        if stop():
            break
        _one_step(model, optimizer, parameters, packs, training, step, total, (epoch, per_epoch), emit)
        step += 1
        if held_back and _fires(training.evaluate_every, step, epoch_ends):
            loss = mean_loss(model, held_back, device)
            emit(events.Validation(step=step, epoch=step / per_epoch, loss=loss))
        if _fires(training.save_every, step, epoch_ends):
            save(step)
            saved_at = step
    if saved_at < step:
        save(step)
    return Outcome(step, stopped=step < total)


def _fires(every: int, step: int, epoch_ends: bool) -> bool:
    return step % every == 0 if every else epoch_ends


def _one_step(
    model: Any, optimizer: torch.optim.Optimizer, parameters: Sequence[torch.nn.Parameter], packs: list[Pack],
    training: Training, step: int, total: int, place: tuple[int, int], emit: Emit,
) -> None:
    begun = time.perf_counter()
    rate = rate_at(step, total, training)
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss = accumulate(model, packs, parameters[0].device)
    norm = apply_gradient(optimizer, parameters, training.max_grad_norm)
    if not (abs(loss) < float("inf") and norm < float("inf")):
        raise WorkbenchError(
            f"The loss or the gradient of optimizer step {step + 1} is not a finite number: lower the learning rate "
            "or try other quantization. The adapter saved before it is kept."
        )
    emit(events.Step(
        step=step + 1, epoch=(step + 1) / place[1], loss=loss, learning_rate=rate, gradient_norm=norm,
        tokens=sum(len(p.ids) for p in packs), labels=sum(len(p.targets) for p in packs),
        seconds=time.perf_counter() - begun, memory_gib=memory_gib(parameters[0].device),
    ))


def memory_gib(device: torch.device) -> float:
    """Peak GiB the process took: on a GPU the allocator's peak, on a CPU its resident memory now."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**30
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**30
