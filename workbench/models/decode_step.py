"""The passes of decoding in plain torch: all prompts at once, then one token a lane at a time, over keys and values in place.

Shapes: B lanes, T tokens, H heads, G heads that share a key head, D a head's width, L columns, V words. Prompts are padded
on the left, so that all lanes write the same column; a lane's position is the column less its padding. A layer with a window of
W keeps W columns in a ring: column c lies in slot c mod W. Nothing here asks the device for a value, so that `step` can be captured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.models.decode_stack import Group, Layer, Stack, ring


class Cache:
    """Keys, values and the running inputs of at most `rows` lanes of at most `columns` tokens, at fixed addresses."""

    def __init__(self, stack: Stack, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns

        def zeros(layer: Layer) -> Tensor:  # not empty: a masked slot counts nothing only as long as it is a number
            return torch.zeros((rows, layer.kv_heads, ring(layer, columns), layer.head_dim), dtype=stack.dtype, device=stack.device)

        self.keys = [zeros(layer) for layer in stack.layers]
        self.values = [zeros(layer) for layer in stack.layers]
        self.tables = stack.tables(columns)
        self.ids_B = torch.zeros(rows, dtype=torch.long, device=stack.device)
        self.pad_B = torch.zeros(rows, dtype=torch.long, device=stack.device)
        self.column = torch.zeros(1, dtype=torch.long, device=stack.device)  # that the next token takes
        self.lane_B = torch.zeros(rows, dtype=torch.int32, device=stack.device)  # the number of the adapter that is on, 0 for none

    def begin(self, pad: Sequence[int], adapters: Sequence[int], width: int) -> None:
        """Empty the cache for lanes with so much padding each, the longest prompt being `width` tokens."""
        spare = self.rows - len(pad)
        torch._foreach_zero_([*self.keys, *self.values])
        self.pad_B.copy_(torch.tensor([*pad, *[0] * spare]))
        self.lane_B.copy_(torch.tensor([*adapters, *[0] * spare]))
        self.column.fill_(width)

    def keep(self, rows: Sequence[int]) -> None:
        """Only those rows go on, moved to the front in that order."""
        which = torch.tensor(list(rows), device=self.ids_B.device)
        for held in (*self.keys, *self.values, self.ids_B, self.pad_B, self.lane_B):
            held[: len(rows)].copy_(held.index_select(0, which))


class Prompt:
    """Attention of whole prompts among themselves; their keys and values go into the cache. With `masked` false none of them is padded."""

    def __init__(self, cache: Cache, rows: int, width: int, *, masked: bool) -> None:
        self.cache, self.width, self.rows = cache, width, rows
        device = cache.ids_B.device
        self.pad_B = cache.pad_B[: self.rows]
        self.at_T = torch.arange(width, device=device)
        self.positions_BT = (self.at_T - self.pad_B[:, None]).clamp(min=0)
        self.masked = masked
        self.masks: dict[int, Tensor | None] = {}
        self.slots: dict[int, Tensor] = {}

    def rotation(self, kind: str | None) -> tuple[Tensor, Tensor]:
        cos, sin = self.cache.tables[kind]
        return cos[self.positions_BT].unsqueeze(1), sin[self.positions_BT].unsqueeze(1)

    def mask(self, window: int) -> Tensor | None:
        """B×1×T×T, or None where every token sees all before it."""
        if window >= self.width:
            window = 0
        if window not in self.masks:
            back_TT = self.at_T[:, None] - self.at_T
            seen = back_TT >= 0
            if window:
                seen = seen & (back_TT < window)
            # Padding sees itself, or it would become NaN and, by way of its values, all the rest.
            seen_BTT = seen & (self.at_T >= self.pad_B[:, None])[:, None, :] | (back_TT == 0)
            self.masks[window] = seen_BTT.unsqueeze(1) if self.masked or window else None
        return self.masks[window]

    def into(self, slots: int) -> Tensor:
        """The slots that the last columns go into."""
        if slots not in self.slots:
            self.slots[slots] = self.at_T[-slots:] % slots
        return self.slots[slots]

    def attend(self, place: int, layer: Layer, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
        for held, new in ((self.cache.keys[place], k_BHTD), (self.cache.values[place], v_BHTD)):
            slots = held.shape[2]
            held[: self.rows].index_copy_(2, self.into(slots), new[:, :, -slots:])
        mask = self.mask(layer.window)
        shared = layer.heads // layer.kv_heads
        if shared > 1:
            k_BHTD, v_BHTD = k_BHTD.repeat_interleave(shared, 1), v_BHTD.repeat_interleave(shared, 1)
        made = F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, attn_mask=mask, is_causal=mask is None, scale=layer.scaling)
        return made.transpose(1, 2).flatten(2)


class _Token:
    """Attention of one token a lane to what the cache holds; `upto` is the highest column that may be held, plus one."""

    def __init__(self, cache: Cache, rows: int, upto: int) -> None:
        self.cache, self.rows, self.upto = cache, rows, upto
        self.pad_B1 = cache.pad_B[:rows, None]
        self.positions_B = cache.column - cache.pad_B[:rows]
        self.masks: dict[int, Tensor] = {}

    def rotation(self, kind: str | None) -> tuple[Tensor, Tensor]:
        cos, sin = self.cache.tables[kind]
        return cos.index_select(0, self.positions_B)[:, None, None], sin.index_select(0, self.positions_B)[:, None, None]

    def mask(self, slots: int) -> Tensor:
        """B×1×1×n: whether the column that lies in each slot belongs to the lane."""
        if slots not in self.masks:
            slot_n = torch.arange(min(self.upto, slots), device=self.pad_B1.device)
            column_n = self.cache.column - (self.cache.column - slot_n) % slots  # below 0 where nothing was written yet
            self.masks[slots] = (column_n >= self.pad_B1)[:, None, None]
        return self.masks[slots]

    def attend(self, place: int, layer: Layer, q_BH1D: Tensor, k_BH1D: Tensor, v_BH1D: Tensor) -> Tensor:
        keys, values = self.cache.keys[place][: self.rows], self.cache.values[place][: self.rows]
        slots = keys.shape[2]
        slot = self.cache.column % slots
        keys.index_copy_(2, slot, k_BH1D)
        values.index_copy_(2, slot, v_BH1D)
        used = min(self.upto, slots)
        # Heads that share a key head stand where queries stand: no key is copied.
        q_BHGD = q_BH1D.reshape(self.rows, layer.kv_heads, layer.heads // layer.kv_heads, layer.head_dim)
        made = F.scaled_dot_product_attention(q_BHGD, keys[:, :, :used], values[:, :, :used], attn_mask=self.mask(slots), scale=layer.scaling)
        return made.reshape(self.rows, 1, -1)


class Marks:
    """Which of the adapters' rows each lane uses."""

    def __init__(self, lane_B: Tensor) -> None:
        self.lane_B = lane_B
        self.made: dict[tuple[int, ...], Tensor] = {}

    def of(self, group: Group) -> Tensor:
        """B×R, or B×1 where all rows are the same adapter's; one tensor for all groups that are alike."""
        if group.owners not in self.made:
            self.made[group.owners] = self.lane_B[:, None] == (group.owner_R if len(set(group.owners)) > 1 else group.owner_R[:1])
        return self.made[group.owners]


def project(group: Group, x_BTK: Tensor, marks: Marks | None) -> list[Tensor]:
    """Every member's product with `x`; with an adapter's part in the lanes where it is on, unless `marks` is None."""
    made: list[Tensor] = []
    delta_BTR = None
    if marks is not None and group.a_RK is not None:
        # 0 in the lanes without it: their sums are the base's own, to the bit.
        delta_BTR = F.linear(x_BTK, group.a_RK) * marks.of(group).unsqueeze(1)
    begun = 0
    for member in group.members:
        y_BTN = member.base(x_BTK)
        if delta_BTR is not None and member.rank:
            y_BTN = y_BTN + F.linear(delta_BTR[..., begun : begun + member.rank], member.b_NR)
            begun += member.rank
        made.append(y_BTN)
    return made


def _rotate(x_BHTD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x_BHTD.chunk(2, -1)
    return x_BHTD * cos + torch.cat((-second, first), -1) * sin


def _pass(place: int, layer: Layer, x_BTC: Tensor, walk: Prompt | _Token, turn: tuple[Tensor, Tensor], marks: Marks | None) -> Tensor:
    lanes, tokens, _ = x_BTC.shape
    parts = project(layer.qkv, layer.before_attention(x_BTC), marks)
    q, k, v = (part.view(lanes, tokens, -1, layer.head_dim) for part in parts)
    if layer.q_norm is not None and layer.k_norm is not None:
        q, k = layer.q_norm(q), layer.k_norm(k)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    seen = walk.attend(place, layer, _rotate(q, *turn), _rotate(k, *turn), v)
    [branch] = project(layer.o, seen, marks)
    x_BTC = x_BTC + (layer.after_attention(branch) if layer.after_attention is not None else branch)
    gate, up = project(layer.gate_up, layer.before_mlp(x_BTC), marks)
    [branch] = project(layer.down, layer.act(gate) * up, marks)
    return x_BTC + (layer.after_mlp(branch) if layer.after_mlp is not None else branch)


def signs(layer: Layer, output: Tensor) -> None:
    """Whoever hooked onto the model's layer (a watchdog) hears that it was passed, though its own forward is not used."""
    module: Any = layer.module
    for number, hook in list(module._forward_hooks.items()):
        if number not in module._forward_hooks_with_kwargs:
            hook(module, (), output)


def _run(stack: Stack, ids_BT: Tensor, walk: Prompt | _Token, marks: Marks | None) -> Tensor:
    x_BTC = stack.embed(ids_BT)
    turns = {kind: walk.rotation(kind) for kind in walk.cache.tables}
    for place, layer in enumerate(stack.layers):
        x_BTC = _pass(place, layer, x_BTC, walk, turns[layer.rope], marks)
        signs(layer, x_BTC)
    logits: Tensor = stack.head(stack.norm(x_BTC[:, -1]))
    return logits


def prefill(stack: Stack, cache: Cache, ids_BT: Tensor, adapted: bool, *, masked: bool = True) -> Tensor:
    """Read prompts into the cache, which `begin` has made ready for them; the logits of each lane's first new token (B×V)."""
    lanes, width = ids_BT.shape
    return _run(stack, ids_BT, Prompt(cache, lanes, width, masked=masked), Marks(cache.lane_B[:lanes]) if adapted else None)


def begin(cache: Cache, prompts: Sequence[Sequence[int]], adapters: Sequence[int], width: int = 0) -> Tensor:
    """Empty the cache for prompts, each with the adapter of that number; their ids, padded on the left to `width` at least (B×T)."""
    width = max(width, *map(len, prompts))
    pad = [width - len(prompt) for prompt in prompts]
    cache.begin(pad, adapters, width)
    return torch.tensor([[0] * n + list(prompt) for n, prompt in zip(pad, prompts, strict=True)], device=cache.ids_B.device)


def step(stack: Stack, cache: Cache, rows: int, upto: int, adapted: bool) -> Tensor:
    """Pass the first `rows` lanes' tokens (`cache.ids_B`) and move on by a column; the logits that follow (B×V).

    `upto` bounds the columns looked at; where it is the whole cache the call does the same work each time. With `adapted`
    false no lane has an adapter on, and they are left out.
    """
    logits_BV = _run(stack, cache.ids_B[:rows, None], _Token(cache, rows, upto), Marks(cache.lane_B[:rows]) if adapted else None)
    cache.column.add_(1)
    return logits_BV
