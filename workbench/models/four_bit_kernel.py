"""4-bit weights written out in one Triton kernel. Imported only where Triton is (CUDA builds of torch bring it)."""

from __future__ import annotations

from typing import Any

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

VALUES = 8  # that one int32 holds
_WORDS = 512  # int32 that one program takes


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _write_out(  # type: ignore[no-untyped-def]
    packed, out, code, absmax, absmax_8bit, absmax_code, offset, words, PER: tl.constexpr, PER_OUTER: tl.constexpr, NESTED: tl.constexpr, WORDS: tl.constexpr,
):
    at = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    ok = at < words
    word = tl.load(packed + at, mask=ok, other=0)
    block = at // PER
    if NESTED:
        inner = tl.load(absmax_code + tl.load(absmax_8bit + block, mask=ok, other=0).to(tl.int32))
        scale = inner * tl.load(absmax + block // PER_OUTER, mask=ok, other=0.0) + tl.load(offset)
    else:
        scale = tl.load(absmax + block, mask=ok, other=0.0)
    place = tl.arange(0, 8)
    shift = (place // 2) * 8 + 4 - (place % 2) * 4  # of two values in a byte the upper bits are the first
    value = tl.load(code + ((word[:, None] >> shift[None, :]) & 15))
    tl.store(out + at[:, None].to(tl.int64) * 8 + place[None, :], (value * scale[:, None]).to(out.dtype.element_ty), mask=ok[:, None])


def write_out(packed: Tensor, state: Any) -> Tensor:
    """The N×K weights that `packed` holds, in the dtype of bitsandbytes' `state` (a QuantState); K · N is a multiple of 8."""
    out_NK = torch.empty(state.shape, dtype=state.dtype, device=packed.device)
    words = out_NK.numel() // VALUES
    outer = state.state2 if state.nested else state
    _write_out[(triton.cdiv(words, _WORDS),)](
        packed.view(-1).view(torch.int32), out_NK, state.code, outer.absmax, state.absmax, outer.code, state.offset if state.nested else state.absmax, words,
        PER=state.blocksize // VALUES, PER_OUTER=outer.blocksize, NESTED=state.nested, WORDS=_WORDS,
        num_warps=4, enable_fp_fusion=False,  # bitsandbytes rounds the product before it adds the offset
    )
    return out_NK
