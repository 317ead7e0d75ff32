"""Decoding's small steps as single Triton kernels: one token of a few lanes is bound by launches, not by arithmetic.

Imported only where Triton is (CUDA builds of torch bring it). All sums are in fp32; what transformers rounds to the model's
dtype between two of its kernels is rounded here too, but for the rotation, which is rounded once instead of three times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

MOST_SPLITS = 16  # parts of the columns that one head's attention is spread over
COLUMN_BLOCK = 32
WIDENED = 3  # products that one launch adds


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _normed(x, weight, at, ok, width, eps, OFFSET: tl.constexpr, kind: tl.constexpr):  # type: ignore[no-untyped-def]
    x = x * tl.rsqrt(tl.sum(x * x, 0) / width + eps)
    w = tl.load(weight + at, mask=ok, other=0.0).to(tl.float32)
    if OFFSET:  # Gemma
        return (x * (1.0 + w)).to(kind).to(tl.float32)
    return (x.to(kind).to(tl.float32) * w).to(kind).to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _join_norm(  # type: ignore[no-untyped-def]
    stream, branch, after, before, joined, out, width, eps,
    BRANCH: tl.constexpr, AFTER: tl.constexpr, OFFSET: tl.constexpr, BLOCK: tl.constexpr,
):
    at = tl.arange(0, BLOCK)
    ok = at < width
    begin = tl.program_id(0).to(tl.int64) * width
    kind = out.dtype.element_ty
    x = tl.load(stream + begin + at, mask=ok, other=0.0).to(tl.float32)
    if BRANCH:
        y = tl.load(branch + begin + at, mask=ok, other=0.0).to(tl.float32)
        if AFTER:
            y = _normed(y, after, at, ok, width, eps, OFFSET, kind)
        x = (x + y).to(kind).to(tl.float32)
        tl.store(joined + begin + at, x.to(kind), mask=ok)
    tl.store(out + begin + at, _normed(x, before, at, ok, width, eps, OFFSET, kind).to(kind), mask=ok)


def join_norm(stream_BC: Tensor, branch_BC: Tensor | None, after: Any, before: Any, eps: float, offset: bool) -> tuple[Tensor, Tensor]:
    """The residual stream with a branch added (normed by `after`, unless None), and that normed by `before` for the next branch."""
    rows, width = stream_BC.shape
    out_BC = torch.empty_like(stream_BC)
    joined_BC = stream_BC if branch_BC is None else torch.empty_like(stream_BC)
    _join_norm[(rows,)](
        stream_BC, stream_BC if branch_BC is None else branch_BC, before.weight if after is None else after.weight, before.weight,
        joined_BC, out_BC, width, eps, BRANCH=branch_BC is not None, AFTER=after is not None, OFFSET=offset,
        BLOCK=triton.next_power_of_2(width), num_warps=8,
    )
    return joined_BC, out_BC


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _turned(source, weight, target, cos, sin, eps, NORM: tl.constexpr, OFFSET: tl.constexpr, HALF: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.arange(0, HALF)
    kind = target.dtype.element_ty
    x = tl.load(source + at).to(tl.float32)
    y = tl.load(source + HALF + at).to(tl.float32)
    if NORM:
        scale = tl.rsqrt((tl.sum(x * x, 0) + tl.sum(y * y, 0)) / (2 * HALF) + eps)
        v = tl.load(weight + at).to(tl.float32)
        w = tl.load(weight + HALF + at).to(tl.float32)
        if OFFSET:
            x = (x * scale * (1.0 + v)).to(kind).to(tl.float32)
            y = (y * scale * (1.0 + w)).to(kind).to(tl.float32)
        else:
            x = ((x * scale).to(kind).to(tl.float32) * v).to(kind).to(tl.float32)
            y = ((y * scale).to(kind).to(tl.float32) * w).to(kind).to(tl.float32)
    tl.store(target + at, (x * tl.load(cos + at).to(tl.float32) - y * tl.load(sin + at).to(tl.float32)).to(kind))
    tl.store(target + HALF + at, (y * tl.load(cos + HALF + at).to(tl.float32) + x * tl.load(sin + HALF + at).to(tl.float32)).to(kind))


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _turn(  # type: ignore[no-untyped-def]
    q, k, v, q_out, keys, values, q_weight, k_weight, cos, sin, column, pad, eps, SLOTS,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, NORM: tl.constexpr, OFFSET: tl.constexpr, HALF: tl.constexpr,
):
    row = tl.program_id(0)
    head = tl.program_id(1)
    now = tl.load(column)
    turn = (now - tl.load(pad + row)) * (2 * HALF)
    if head < HEADS:
        place = (row * HEADS + head) * (2 * HALF)
        _turned(q + place, q_weight, q_out + place, cos + turn, sin + turn, eps, NORM, OFFSET, HALF)
    else:
        one = row * KV_HEADS + head - HEADS
        target = (one * SLOTS + now % SLOTS) * (2 * HALF)
        _turned(k + one * (2 * HALF), k_weight, keys + target, cos + turn, sin + turn, eps, NORM, OFFSET, HALF)
        at = tl.arange(0, 2 * HALF)
        tl.store(values + target + at, tl.load(v + one * (2 * HALF) + at))


def turn(layer: Any, q_BN: Tensor, k_BN: Tensor, v_BN: Tensor, cache: Any, place: int, eps: float, offset: bool) -> Tensor:
    """Norm and rotate queries and keys; keys and values go into the cache's current column. Returns the queries."""
    cos, sin = cache.tables[layer.rope]
    out_BN = torch.empty_like(q_BN)
    normed = layer.q_norm is not None
    _turn[(q_BN.shape[0], layer.heads + layer.kv_heads)](
        q_BN, k_BN, v_BN, out_BN, cache.keys[place], cache.values[place],
        layer.q_norm.weight if normed else q_BN, layer.k_norm.weight if normed else k_BN, cos, sin, cache.column, cache.pad_B, eps,
        cache.keys[place].shape[2], HEADS=layer.heads, KV_HEADS=layer.kv_heads, NORM=normed, OFFSET=offset, HALF=layer.head_dim // 2, num_warps=1,
    )
    return out_BN


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _turn_prompt(  # type: ignore[no-untyped-def]
    q, k, q_out, k_out, q_weight, k_weight, cos, sin, positions, eps,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, NORM: tl.constexpr, OFFSET: tl.constexpr, HALF: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    turn = tl.load(positions + row) * (2 * HALF)
    if head < HEADS:
        place = (row * HEADS + head) * (2 * HALF)
        _turned(q + place, q_weight, q_out + place, cos + turn, sin + turn, eps, NORM, OFFSET, HALF)
    else:
        place = (row * KV_HEADS + head - HEADS) * (2 * HALF)
        _turned(k + place, k_weight, k_out + place, cos + turn, sin + turn, eps, NORM, OFFSET, HALF)


def turn_prompt(layer: Any, q_RN: Tensor, k_RN: Tensor, positions_R: Tensor, tables: tuple[Tensor, Tensor], eps: float, offset: bool) -> tuple[Tensor, Tensor]:
    """Queries and keys of R tokens at their positions, normed and rotated."""
    cos, sin = tables
    q_out, k_out = torch.empty_like(q_RN), torch.empty_like(k_RN)
    normed = layer.q_norm is not None
    _turn_prompt[(q_RN.shape[0], layer.heads + layer.kv_heads)](
        q_RN, k_RN, q_out, k_out, layer.q_norm.weight if normed else q_RN, layer.k_norm.weight if normed else k_RN, cos, sin, positions_R, eps,
        HEADS=layer.heads, KV_HEADS=layer.kv_heads, NORM=normed, OFFSET=offset, HALF=layer.head_dim // 2, num_warps=1,
    )
    return q_out, k_out


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _attend_part(  # type: ignore[no-untyped-def]
    q, keys, values, column, pad, sums, tops, weights, scale, SLOTS,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, SPLITS: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
):
    row = tl.program_id(0)
    head = tl.program_id(1)
    split = tl.program_id(2)
    now = tl.load(column)
    first = tl.load(pad + row)
    used = tl.minimum(now + 1, SLOTS)
    chunk = tl.cdiv(tl.cdiv(used, SPLITS), BLOCK) * BLOCK
    begin = split * chunk
    end = tl.minimum(begin + chunk, used)
    at = tl.arange(0, DIM)
    query = tl.load(q + (row * HEADS + head) * DIM + at).to(tl.float32) * scale
    base = (row * KV_HEADS + head // (HEADS // KV_HEADS)).to(tl.int64) * SLOTS * DIM
    top = -1e30
    weight = 0.0
    total = tl.zeros([DIM], dtype=tl.float32)
    for start in range(begin, end, BLOCK):
        slot = start + tl.arange(0, BLOCK)
        inside = slot < end
        held = now - (now - slot + SLOTS) % SLOTS  # the column in that slot
        where = base + slot[:, None] * DIM + at[None, :]
        key = tl.load(keys + where, mask=inside[:, None], other=0.0).to(tl.float32)
        score = tl.where(inside & (held >= first), tl.sum(key * query[None, :], 1), float("-inf"))
        higher = tl.maximum(top, tl.max(score, 0))
        share = tl.exp(score - higher)
        fade = tl.exp(top - higher)
        value = tl.load(values + where, mask=inside[:, None], other=0.0).to(tl.float32)
        total = total * fade + tl.sum(share[:, None] * value, 0)
        weight = weight * fade + tl.sum(share, 0)
        top = higher
    part = (row * HEADS + head) * SPLITS + split
    tl.store(sums + part * DIM + at, total)
    tl.store(tops + part, top)
    tl.store(weights + part, weight)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _attend_join(sums, tops, weights, out, SPLITS: tl.constexpr, DIM: tl.constexpr):  # type: ignore[no-untyped-def]
    one = tl.program_id(0)
    part = one * SPLITS + tl.arange(0, SPLITS)
    at = tl.arange(0, DIM)
    top = tl.load(tops + part)
    share = tl.exp(top - tl.max(top, 0))
    weight = tl.sum(tl.load(weights + part) * share, 0)
    total = tl.sum(tl.load(sums + part[:, None] * DIM + at[None, :]) * share[:, None], 0)
    tl.store(out + one * DIM + at, (total / weight).to(out.dtype.element_ty))


def attend(layer: Any, q_BN: Tensor, cache: Any, place: int) -> Tensor:
    """Attention of each lane's token to its columns in the cache; work grows with the columns in use, not with the cache."""
    rows, dim = q_BN.shape[0], layer.head_dim
    splits = max(1, min(MOST_SPLITS, triton.next_power_of_2(max(1, 256 // (rows * layer.heads)))))
    sums = torch.empty((rows * layer.heads, splits, dim), dtype=torch.float32, device=q_BN.device)
    tops = torch.empty((rows * layer.heads, splits), dtype=torch.float32, device=q_BN.device)
    weights = torch.empty_like(tops)
    _attend_part[(rows, layer.heads, splits)](
        q_BN, cache.keys[place], cache.values[place], cache.column, cache.pad_B, sums, tops, weights, layer.scaling, cache.keys[place].shape[2],
        HEADS=layer.heads, KV_HEADS=layer.kv_heads, SPLITS=splits, DIM=dim, BLOCK=COLUMN_BLOCK, num_warps=4,
    )
    out_BN = torch.empty_like(q_BN)
    _attend_join[(rows * layer.heads,)](sums, tops, weights, out_BN, SPLITS=splits, DIM=dim, num_warps=4)
    return out_BN


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _gated(gate, up, out, width, GELU: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    ok = at < width
    begin = tl.program_id(0).to(tl.int64) * width
    kind = out.dtype.element_ty
    x = tl.load(gate + begin + at, mask=ok, other=0.0).to(tl.float32)
    y = tl.load(up + begin + at, mask=ok, other=0.0).to(tl.float32)
    if GELU:  # noqa: SIM108  a branch at compile time; 0.5 (1 + tanh z) is the sigmoid of 2z
        x = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    else:
        x = x * tl.sigmoid(x)
    tl.store(out + begin + at, (x.to(kind).to(tl.float32) * y).to(kind), mask=ok)


def gated(gate_BF: Tensor, up_BF: Tensor, activation: str) -> Tensor:
    """act(gate) · up."""
    rows, width = gate_BF.shape
    out_BF = torch.empty_like(gate_BF)
    _gated[(rows, triton.cdiv(width, 512))](gate_BF, up_BF, out_BF, width, GELU=activation == "gelu_pytorch_tanh", BLOCK=512, num_warps=4)
    return out_BF


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _narrow(x, a, lane, owner, out, width, RANK: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    rank = tl.program_id(1)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        ok = at < width
        left = tl.load(x + row * width + at, mask=ok, other=0.0).to(tl.float32)
        right = tl.load(a + rank * width + at, mask=ok, other=0.0).to(tl.float32)
        total += left * right
    kind = out.dtype.element_ty
    on = tl.load(lane + row) == tl.load(owner + rank)
    tl.store(out + row * RANK + rank, tl.where(on, tl.sum(total, 0), 0.0).to(kind))


def narrow(x_BK: Tensor, a_RK: Tensor, lane_B: Tensor, owner_R: Tensor) -> Tensor:
    """The adapters' first product, x·Aᵀ (B×R), and 0 in the rows of adapters that are not the lane's."""
    rows, width = x_BK.shape
    out_BR = torch.empty((rows, a_RK.shape[0]), dtype=x_BK.dtype, device=x_BK.device)
    block = min(4096, triton.next_power_of_2(width))
    _narrow[(rows, a_RK.shape[0])](x_BK, a_RK, lane_B, owner_R, out_BR, width, RANK=a_RK.shape[0], BLOCK=block, num_warps=8 if block > 2048 else 4)
    return out_BR


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _widened(delta, b, y, row, block, width, ACROSS, begin, RANK: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = block * BLOCK + tl.arange(0, BLOCK)
    rank = tl.arange(0, PADDED)
    inside = rank < RANK
    ok = at < width
    left = tl.load(delta + row * ACROSS + begin + rank, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(b + at[:, None] * RANK + rank[None, :], mask=ok[:, None] & inside[None, :], other=0.0).to(tl.float32)
    old = tl.load(y + row * width + at, mask=ok, other=0.0).to(tl.float32)
    tl.store(y + row * width + at, (old + tl.sum(right * left[None, :], 1)).to(y.dtype.element_ty), mask=ok)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _widen(  # type: ignore[no-untyped-def]
    delta, b0, y0, width0, b1, y1, width1, b2, y2, width2, ACROSS,
    R0: tl.constexpr, P0: tl.constexpr, R1: tl.constexpr, P1: tl.constexpr, R2: tl.constexpr, P2: tl.constexpr, MEMBERS: tl.constexpr, BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    first = tl.cdiv(width0, BLOCK)
    if MEMBERS == 1:
        _widened(delta, b0, y0, row, block, width0, ACROSS, 0, R0, P0, BLOCK)
    else:
        second = first + tl.cdiv(width1, BLOCK)
        if block < first:
            _widened(delta, b0, y0, row, block, width0, ACROSS, 0, R0, P0, BLOCK)
        elif block < second:
            _widened(delta, b1, y1, row, block - first, width1, ACROSS, R0, R1, P1, BLOCK)
        else:
            _widened(delta, b2, y2, row, block - second, width2, ACROSS, R0 + R1, R2, P2, BLOCK)


def widen_(ys: Sequence[Tensor], delta_BR: Tensor, bs: Sequence[Tensor]) -> None:
    """Add the adapter's second products in place, up to three at once: y += its part of delta · Bᵀ. A row of zeros stays as it was, to the bit."""
    members = len(ys)
    widths = [y.shape[1] for y in ys]
    ranks = [b.shape[1] for b in bs]
    told: list[Any] = []
    for place in range(WIDENED):  # what is beyond the last is named and never read
        i = min(place, members - 1)
        told += [bs[i], ys[i], widths[i]]
    ranks += [ranks[-1]] * (WIDENED - members)
    padded = [triton.next_power_of_2(rank) for rank in ranks]
    _widen[(ys[0].shape[0], sum(triton.cdiv(width, 128) for width in widths))](
        delta_BR, *told, delta_BR.shape[1], R0=ranks[0], P0=padded[0], R1=ranks[1], P1=padded[1], R2=ranks[2], P2=padded[2],
        MEMBERS=members, BLOCK=128, num_warps=4,
    )
