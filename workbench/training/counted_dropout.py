"""Dropout whose mask is computed, not kept: the same one again when a layer is computed a second time.

Gradient checkpointing computes every layer twice and must drop the same inputs both times. torch does that by keeping the
generator's state on the host, which a CUDA graph can't; here the mask follows from a count on the device, drawn anew for
every pass, from the layer's number and the place in the tensor. It saves the masks' memory, too.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from workbench.models.triton_kernels import kernels

_MIX = (0x7FEB352D, -0x7B935975)  # of the integer hash "lowbias32" (C. Wellons, 2018); the second is 0x846CA68B as a signed number


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, count: Tensor, number: int, share: float) -> Tensor:
        ctx.count, ctx.number, ctx.share = count, number, share
        return dropped(x, count, number, share)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return dropped(gradients[0].contiguous(), ctx.count, ctx.number, ctx.share), None, None, None


def dropped(x: Tensor, count: Tensor, number: int, share: float) -> Tensor:
    """`x` with about `share` of its values 0 and the others divided by 1 - share. `count` is an int64 tensor of one value."""
    if x.is_cuda and (found := kernels("workbench.training.counted_kernel")) is not None:
        made: Tensor = found.drop(x, count, number, share)
        return made
    hashed = torch.arange(x.numel(), dtype=torch.int32, device=x.device)
    hashed += (count * 0x9E3779B1 + number * 0x85EBCA77).bitwise_and(0xFFFFFFFF).sub(2**31).to(torch.int32)
    for shift, factor in ((16, _MIX[0]), (15, _MIX[1])):
        hashed ^= (hashed >> shift) & (2 ** (32 - shift) - 1)
        hashed *= factor
    hashed ^= (hashed >> 16) & 0xFFFF
    kept = (hashed & 0x7FFFFFFF) >= int(share * 2**31)
    return torch.where(kept.view(x.shape), x / (1.0 - share), torch.zeros((), dtype=x.dtype, device=x.device))


class CountedDropout(torch.nn.Module):
    """Stands where an adapter's dropout stood; `count` is shared by all of a model's."""

    def __init__(self, share: float, number: int, count: Tensor) -> None:
        super().__init__()
        self.p, self.number = share, number
        self.count = count  # no buffer: it is nobody's state

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.p:
            return x
        made: Tensor = _Drop.apply(x.contiguous(), self.count, self.number, self.p)  # type: ignore[no-untyped-call]
        return made


def recomputes(model: Any) -> bool:
    """Whether the model's layers are computed again in the backward (gradient checkpointing)."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


class Recomputation:
    """Gradient checkpointing as a CUDA graph takes it, until `take_off`: counted dropouts, and no random state kept."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self._checkpoints = [(m, m._gradient_checkpointing_func) for m in model.modules() if hasattr(m, "_gradient_checkpointing_func")]
        for module, _ in self._checkpoints:
            module._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
        self.count = torch.zeros((), dtype=torch.int64, device=device)
        self._stood: list[tuple[Any, str, Any]] = []
        for module in model.modules():
            held: Any = getattr(module, "lora_dropout", None)
            for name, dropout in list(held.items()) if isinstance(held, torch.nn.ModuleDict) else []:
                if isinstance(dropout, torch.nn.Dropout):
                    counted = CountedDropout(dropout.p, len(self._stood), self.count)
                    self._stood.append((held, name, dropout))
                    held[name] = counted.train(dropout.training)

    def draw(self) -> None:
        """Another count for the next pass, from torch's own generator: a resumed run draws what an uninterrupted one does."""
        self.count.fill_(int(torch.randint(2**31, ())))

    def take_off(self) -> None:
        for held, name, dropout in self._stood:
            held[name] = dropout.train(held[name].training)
        for module, function in self._checkpoints:
            module._gradient_checkpointing_func = function
        self._stood, self._checkpoints = [], []
