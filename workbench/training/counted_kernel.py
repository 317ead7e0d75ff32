"""The counted dropout as one Triton kernel. Imported only where Triton is (CUDA builds of torch bring it)."""

from __future__ import annotations

import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

_THREADS = 1024  # values that one program of the kernel takes


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _drop(x, made, count, size, place, share, scale, THREADS: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * THREADS + tl.arange(0, THREADS)
    ok = at < size
    chance = tl.rand(tl.load(count) + place, at)
    kept = tl.load(x + at, mask=ok, other=0.0).to(tl.float32) * scale
    tl.store(made + at, tl.where(chance >= share, kept, 0.0).to(made.dtype.element_ty), mask=ok)


def drop(x: Tensor, count: Tensor, number: int, share: float) -> Tensor:
    """`counted_dropout.dropped` of a contiguous tensor on a CUDA device, with random numbers of its own (Philox)."""
    made = x.new_empty(x.shape)
    _drop[(-(-x.numel() // _THREADS),)](x, made, count, x.numel(), (number + 1) << 40, share, 1.0 / (1.0 - share), THREADS=_THREADS)
    return made
