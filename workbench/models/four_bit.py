"""4-bit base weights written out by one kernel instead of bitsandbytes' three, the same to the bit and faster, wherever many rows are multiplied by them.

bitsandbytes restores the blocks' scales (two kernels, mostly launches) and then writes the weights at half of the memory's pace. A few
rows it multiplies straight from four bits, which on cards with fast memory pays up to four rows, elsewhere up to some hundred (by its own
tables; of ours only an H100 was measured).
"""

from __future__ import annotations

import logging
import sys
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.models.faults import accelerator_fault, lost_to, named
from workbench.models.triton_kernels import kernels

_log = logging.getLogger(__name__)

FEWEST, FEWEST_ELSEWHERE = 5, 513  # rows from which writing out is faster

_trusted: dict[tuple[Any, ...], bool] = {}  # what weights are packed as -> whether the kernel gave bitsandbytes' values


def _kernel() -> Any:
    found = kernels("workbench.models.four_bit_kernel")
    return found and found.write_out


def _bitsandbytes() -> Any:
    """The library, if the loader of models has imported it; without it there are no such weights."""
    return sys.modules.get("bitsandbytes")


@cache
def _fewest(device: torch.device) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return FEWEST if major in (9, 10) or (major, minor) == (8, 0) else FEWEST_ELSEWHERE  # those with HBM: A100, H100 and H200, B200 and B300


class FourBit:
    """The weights of one 4-bit linear layer (N×K)."""

    def __init__(self, module: Any, fewest: int) -> None:
        """`fewest`: the rows from which the weights are written out; fewer go by the layer's own forward."""
        self.module, self.fewest = module, fewest
        self.dtype: torch.dtype = module.weight.quant_state.dtype

    def whole(self) -> Tensor:
        """The weights in their dtype, anew at each call."""
        weight = self.module.weight
        written: Tensor = _kernel()(weight.data, weight.quant_state)
        return written

    def product(self, x_RK: Tensor) -> Tensor:
        """What the layer gives for R rows, without a gradient."""
        if x_RK.shape[0] < self.fewest or x_RK.dtype != self.dtype:
            plain: Tensor = self.module(x_RK)
            return plain
        return F.linear(x_RK, self.whole(), self.module.bias)

    def learning(self, x: Tensor) -> Tensor:
        """What the layer gives for inputs [..., K] that may want a gradient; a bias gets none. It may stand in the place of the layer's forward."""
        if x.numel() < self.fewest * x.shape[-1]:
            plain: Tensor = type(self.module).forward(self.module, x)
            return plain
        made: Tensor = _Product.apply(x.to(self.dtype), self)  # type: ignore[no-untyped-call]
        return made.to(x.dtype)


class _Product(torch.autograd.Function):
    """x · Wᵀ and its gradient, with the weights written out for the time of each alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: FourBit) -> Tensor:
        ctx.weights = weights
        return F.linear(x, weights.whole(), weights.module.bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None]:
        return (gradients[0] @ ctx.weights.whole() if ctx.needs_input_grad[0] else None), None


def four_bit(module: Any) -> FourBit | None:
    """The weights of a 4-bit linear layer on a CUDA card, if they are packed in a way that the kernel was seen to read as bitsandbytes does; else None.

    The first look at each way of packing waits for the card: no place for it while a graph is captured.
    """
    if not readable(module) or not _on_card(module.weight) or _kernel() is None:
        return None
    return FourBit(module, _fewest(module.weight.device)) if _trust(module.weight) else None


def _on_card(weight: Tensor) -> bool:
    return weight.is_cuda


def readable(module: Any) -> bool:
    """Whether this is one of bitsandbytes' 4-bit layers (peft's adapted ones are called alike), and the kernel knows how its weights are packed.

    It knows whole blocks of whole words, their scales plain or restored from 8 bits.
    """
    if (home := _bitsandbytes()) is None or not isinstance(module, home.nn.Linear4bit):
        return False
    weight, bias = module.weight, module.bias
    state = getattr(weight, "quant_state", None)
    if state is None or tuple(state.shape) != (module.out_features, module.in_features) or state.code is None or state.dtype not in (torch.bfloat16, torch.float16):
        return False
    if bias is not None and bias.dtype != state.dtype:
        return False
    values = state.shape[0] * state.shape[1]
    scales = (state.state2.absmax, state.state2.code, state.offset) if state.nested else (state.absmax,)
    return (
        values % state.blocksize == 0 and state.blocksize % 8 == 0 and weight.is_contiguous() and weight.numel() * weight.element_size() * 2 == values
        and all(isinstance(held, Tensor) and held.dtype == torch.float32 for held in (state.code, *scales))
    )


def _trust(weight: Any) -> bool:
    state = weight.quant_state
    way = (weight.device, state.quant_type, state.blocksize, state.nested, state.state2.blocksize if state.nested else 0, state.dtype)
    if way not in _trusted:
        try:
            theirs = _bitsandbytes().functional.dequantize_4bit(weight.data, state)
            fault = "" if torch.equal(_kernel()(weight.data, state), theirs) else "its values differ"
        except Exception as exc:
            if accelerator_fault(exc) == "memory":  # which says nothing of the kernel: whoever looks next asks again
                return False
            if (lost := lost_to(weight.device)) is not None:
                raise lost from exc
            fault = named(exc)
        if fault:
            _log.warning("4-bit weights are written out by bitsandbytes, which is slower: our kernel can't be used (%s).", fault)
        _trusted[way] = not fault
    return _trusted[way]
