"""One optimizer step: forward and backward over packs, clipping, update."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch.nn.functional import cross_entropy

from workbench.settings import Training
from workbench.training.pack import Pack


def loss_sum(model: Any, packed: Pack, device: torch.device) -> torch.Tensor:
    """Summed cross-entropy (nats, fp32 scalar) over the pack's L labels.

    The head runs on the label slots alone (`logits_to_keep`): logits are [1, L, V], not [1, T, V].
    """
    return _losses(model, packed, device, "sum")


def inputs_of(packed: Pack, device: torch.device) -> dict[str, torch.Tensor]:
    """What a model is called with: ids and positions [1, T], and the L slots whose logits are wanted."""
    return {
        "input_ids": torch.tensor([packed.ids], device=device), "position_ids": torch.tensor([packed.positions], device=device),
        "logits_to_keep": torch.tensor(packed.slots, device=device),
    }


def _losses(model: Any, packed: Pack, device: torch.device, reduction: str) -> torch.Tensor:
    output = model(**inputs_of(packed, device), use_cache=False)
    logits_LV = output.logits.flatten(0, 1)  # a place picked out would have a gradient of zeros made for all
    return cross_entropy(logits_LV.float(), torch.tensor(packed.targets, device=device), reduction=reduction)


class Way(Protocol):
    """How a pack's forward and backward are computed."""

    def around(self, packed: Pack) -> contextlib.AbstractContextManager[None]:
        """Around both."""

    def loss_sum(self, model: Any, packed: Pack, device: torch.device) -> torch.Tensor:
        """As the function of this name, within `around`."""


class _Plain:
    """As transformers, peft and torch have it."""

    def around(self, packed: Pack) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def loss_sum(self, model: Any, packed: Pack, device: torch.device) -> torch.Tensor:
        return loss_sum(model, packed, device)


PLAIN: Way = _Plain()


@torch.no_grad()
def pack_losses(model: Any, packed: Pack, device: torch.device) -> torch.Tensor:
    """The cross-entropy (nats, fp32) of each of the pack's L labels."""
    return _losses(model, packed, device, "none")


def accumulate(model: Any, packs: Sequence[Pack], device: torch.device, labels: int | None = None, way: Way = PLAIN) -> float:
    """Adds the gradient of the summed loss over `packs`, divided by `labels`; returns that loss (nats per label).

    `labels` are those of the whole step (None: of `packs`): dividing by them, not pack by pack, makes the split into packs invisible.
    """
    labels = sum(len(p.targets) for p in packs) if labels is None else labels
    total = 0.0
    for packed in packs:
        with way.around(packed):
            loss = way.loss_sum(model, packed, device) / labels
            loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total


@torch.no_grad()
def mean_loss(
    model: Any, packs: Sequence[Pack], device: torch.device, stop: Callable[[], bool] = lambda: False, way: Way = PLAIN,
) -> float | None:
    """Mean cross-entropy (nats per label) without dropout, None if `stop`, asked between packs, came first; the model's mode is put back."""
    was_training = model.training
    model.eval()
    try:
        labels = sum(len(p.targets) for p in packs)
        total = 0.0
        for i, packed in enumerate(packs):
            if i and stop():
                return None
            with way.around(packed):
                total += float(way.loss_sum(model, packed, device))
        return total / labels
    finally:
        model.train(was_training)


def apply_gradient(optimizer: torch.optim.Optimizer, parameters: Sequence[torch.nn.Parameter], limit: float) -> float:
    """Clip to `limit` (0: no clipping), update, clear. Returns the gradient's norm before clipping."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit if limit > 0 else math.inf)
    value = float(norm)
    if math.isfinite(value):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return value


def rate_at(step: int, total: int, training: Training) -> float:
    """Learning rate of optimizer step `step` (from 0) of `total`: linear warm-up, then the scheduler.

    The curve of transformers' `get_cosine_schedule_with_warmup` and its linear and constant kin, moved
    by one step: theirs spends the first step, and nearly the last, at a rate of 0. On 40 steps that counts.
    """
    warmup = training.warmup_steps
    if step < warmup:
        return training.learning_rate * (step + 1) / (warmup + 1)
    if training.scheduler == "constant":
        return training.learning_rate
    done = (step - warmup) / max(1, total - warmup)
    share = 1.0 - done if training.scheduler == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return training.learning_rate * max(0.0, share)


class _AdamW(torch.optim.AdamW):
    """torch's own, without the wrappers that import torch's compiler to tell it to leave them alone: that takes a second, and nothing is compiled."""

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


def make_optimizer(parameters: Iterable[torch.nn.Parameter], training: Training, *, fused: bool, capturable: bool = False) -> torch.optim.AdamW:
    """AdamW over the adapter. Its state is small (8 bytes a parameter), so nothing is paged or held in 8 bit.

    `capturable` keeps the rate and the count of steps on the parameters' device, as a CUDA graph wants them.
    """
    held = list(parameters)
    rate = torch.tensor(training.learning_rate, device=held[0].device) if capturable else training.learning_rate
    return _AdamW(held, lr=rate, weight_decay=training.weight_decay, fused=fused, capturable=capturable)
