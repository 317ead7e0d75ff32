"""A pack in buffers of a fixed size, with the masks as tensors: the shape of the work does not depend on the rows.

A CUDA graph replays the same kernels on the same memory, so every step's rows must fit the same T tokens and L labels.
What is left over is padding that no token sees and whose loss counts 0.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from workbench.models.estimate import GRAIN
from workbench.models.faults import accelerator_fault, named
from workbench.models.offload import HostEmbedding, host_parts
from workbench.training.fast_pass import FastPass
from workbench.training.fused_loss import head_loss
from workbench.training.pack import Pack

LABEL_GRAIN = 32  # labels are rounded up to this, tokens to GRAIN: aligned masks, and fewer kinds of steps
CAPTURE_COSTS = 10.0  # optimizer steps' worth of time that one more graph takes to capture


class NotStaticError(Exception):
    """This model can't be run on fixed buffers, or gives other losses there; the sentence says why."""


@dataclass(frozen=True, order=True)
class Size:
    """T tokens and L labels."""

    tokens: int
    labels: int

    def holds(self, packed: Pack) -> bool:
        return len(packed.ids) <= self.tokens and len(packed.slots) <= self.labels


def size_of(tokens: int, labels: int) -> Size:
    """The smallest size on the grain that holds so many."""
    return Size(-(-tokens // GRAIN) * GRAIN, -(-max(1, labels) // LABEL_GRAIN) * LABEL_GRAIN)


def choose_sizes(packs: Iterable[tuple[int, int]]) -> list[Size]:
    """The sizes to capture for packs of these (tokens, labels), ascending.

    Each pack takes the smallest that holds it. One more size saves padding and costs a capture: the sum of both is the
    least possible over all cuts of the sorted lengths (dynamic programming; a step's time is taken as its tokens).
    """
    most_labels: dict[int, int] = {}
    count: Counter[int] = Counter()
    for tokens, labels in packs:
        size = size_of(tokens, labels)
        count[size.tokens] += 1
        most_labels[size.tokens] = max(most_labels.get(size.tokens, 0), size.labels)
    lengths = sorted(count)
    best: list[tuple[float, list[int]]] = [(0.0, [])]
    for end in range(1, len(lengths) + 1):
        top = lengths[end - 1]
        options = []
        for begin in range(end):
            steps = sum(count[n] for n in lengths[begin:end])
            options.append((best[begin][0] + top * (steps + CAPTURE_COSTS), [*best[begin][1], end]))
        best.append(min(options))
    ends = best[-1][1]
    begins = [0, *ends][: len(ends)]
    return [Size(lengths[end - 1], max(most_labels[n] for n in lengths[begin:end])) for begin, end in zip(begins, ends, strict=True)]


class Buffers:
    """The inputs of one forward at a fixed size, on the model's device."""

    def __init__(self, size: Size, device: torch.device, embedding: HostEmbedding | None = None) -> None:
        """With an `embedding` that waits with the host its rows are looked up there, and go over with the ids."""
        self.size, self.device, self._embedding = size, device, embedding
        self.embedded_1TH: torch.Tensor | None = None
        host = torch.zeros(2 * size.tokens + 2 * size.labels, dtype=torch.long)
        self._host = host.pin_memory() if device.type == "cuda" else host
        self._all = torch.zeros_like(host, device=device)
        self.ids_1T, self.positions_1T, self.slots_L, self.targets_L = self._parts(self._all)
        self._weights = torch.zeros(size.labels, dtype=torch.float32)
        self._weights = self._weights.pin_memory() if device.type == "cuda" else self._weights
        self.weights_L = torch.zeros(size.labels, dtype=torch.float32, device=device)
        self._copied = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def _parts(self, whole: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        t, n = self.size.tokens, self.size.labels
        return whole[:t][None], whole[t : 2 * t][None], whole[2 * t : 2 * t + n], whole[2 * t + n :]

    def fill(self, packed: Pack, weight: float) -> None:
        """Put `packed` in, its labels counting `weight` each. The rest is padding: rows of one token, labels that count 0.

        On a GPU the copy is only queued when this returns, behind what uses the buffers now.
        """
        if self._copied is not None:
            self._copied.synchronize()  # the copy before this one may still be reading the host's side
        self._host.zero_()
        self._weights.zero_()
        ids, positions, slots, targets = self._parts(self._host)
        ids[0, : len(packed.ids)] = torch.tensor(packed.ids)
        positions[0, : len(packed.positions)] = torch.tensor(packed.positions)
        slots[: len(packed.slots)] = torch.tensor(packed.slots)
        targets[: len(packed.targets)] = torch.tensor(packed.targets)
        self._weights[: len(packed.slots)] = weight
        self._all.copy_(self._host, non_blocking=True)
        if self._embedding is not None:
            rows_1TH = self._embedding.on_host(ids)
            if self.embedded_1TH is None:
                self.embedded_1TH = torch.empty_like(rows_1TH, device=self.device)
            self.embedded_1TH.copy_(rows_1TH)
        self.weights_L.copy_(self._weights, non_blocking=True)
        if self._copied is not None:
            self._copied.record()


def block_masks(positions_T: torch.Tensor, window: int | None, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """(full, sliding) masks [1, 1, T, T], added to the attention scores: 0 where a token may look, the least number elsewhere.

    A row begins wherever the position is 0; no token sees another row, or what comes after it. In the sliding mask it
    sees the last `window` places, itself among them; without a window (or a T within it) that is the same tensor.
    """
    places_T = torch.arange(positions_T.shape[0], device=positions_T.device)
    rows_T = torch.cumsum(positions_T == 0, dim=0)
    allowed = (rows_T[:, None] == rows_T[None]) & (places_T[:, None] >= places_T[None])

    def additive(seen: torch.Tensor) -> torch.Tensor:
        shut = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=seen.device)
        return torch.where(seen, torch.zeros_like(shut), shut)[None, None]

    full = additive(allowed)
    if not window or window >= positions_T.shape[0]:
        return full, full
    return full, additive(allowed & (places_T[:, None] - places_T[None] < window))


def raw_of(model: Any) -> Any:
    """The transformers model itself, without peft's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


class StaticForward:
    """A causal language model's loss from fixed buffers: its decoder with explicit masks, then the head in chunks."""

    def __init__(self, model: Any, by_kind: bool | None = None, fast: bool = True) -> None:
        """`by_kind`: whether the decoder takes its masks as a dict of kinds (None: as its config says); `fast`: whether by fused kernels."""
        raw = raw_of(model)
        head: Any = raw.get_output_embeddings()
        self.decoder: Any = raw.get_decoder()
        parts = host_parts(raw)
        if parts is None and (type(head) is not torch.nn.Linear or head.bias is not None or head.weight.requires_grad):
            raise NotStaticError("its output layer is not a plain frozen one")
        self.embedding: HostEmbedding | None = parts[0] if parts is not None else None
        self.config: Any = self.decoder.config
        self.weight_VH: torch.Tensor = head.weight
        self.softcap: float | None = getattr(self.config, "final_logit_softcapping", None)
        self.kinds: set[str] = set(getattr(self.config, "layer_types", None) or ())
        if self.kinds - {"full_attention", "sliding_attention"}:
            raise NotStaticError(f"it has layers of a kind unknown here ({', '.join(sorted(self.kinds))})")
        self.by_kind: bool = bool(self.kinds) if by_kind is None else by_kind
        self.fast: FastPass | None = FastPass(model, self.weight_VH.dtype, next(raw.parameters()).device) if fast else None

    def signs(self) -> list[int]:
        """What tells this way from another that might be taken of the same model: masks by kind or not, fast or not, the modules with a fused kernel,
        the layers whose weights are written out, those that leave casts to autocast. Where a kernel can't be had, it is another way."""
        fast = self.fast
        return [int(self.by_kind), int(fast is not None), *([len(fast.fused), len(fast.written), len(fast.casting)] if fast is not None else [])]

    def buffers(self, size: Size, device: torch.device) -> Buffers:
        """The inputs of a forward of that size."""
        return Buffers(size, device, self.embedding)

    def around(self) -> contextlib.AbstractContextManager[None]:
        """Around a call, and its backward."""
        return self.fast() if self.fast is not None else contextlib.nullcontext()

    def __call__(self, buffers: Buffers) -> tuple[torch.Tensor, torch.Tensor]:
        """(Σ weight · loss, the L losses in nats)."""
        window = getattr(self.config, "sliding_window", None)
        full, sliding = block_masks(buffers.positions_1T[0], window, self.weight_VH.dtype)
        masks = {"full_attention": full, "sliding_attention": sliding}
        mask: Any = {k: masks[k] for k in self.kinds} if self.by_kind else sliding
        words = {"input_ids": buffers.ids_1T} if buffers.embedded_1TH is None else {"inputs_embeds": buffers.embedded_1TH}
        with self.fast.autocast() if self.fast is not None else contextlib.nullcontext():
            output = self.decoder(**words, position_ids=buffers.positions_1T, attention_mask=mask, use_cache=False)
        hidden_LH = output.last_hidden_state[0].index_select(0, buffers.slots_L)
        return head_loss(hidden_LH, self.weight_VH, buffers.targets_L, buffers.weights_L, self.softcap)


@torch.no_grad()
def prove_same(model: Any, packs: Sequence[Pack], reference: Any, device: torch.device) -> StaticForward:
    """The model's static forward, proven on `packs` to give the L losses of `reference(pack)`; raises `NotStaticError` if it does not.

    A model may do more between its decoder and its loss than is known here (scaled logits, say), or take masks otherwise.
    In bf16 a label's loss may differ by rounding alone.
    """
    was_training = model.training
    model.eval()
    try:
        forward = StaticForward(model)
        exact = forward.weight_VH.dtype == torch.float32
        faults: list[str] = []
        ways = [(by_kind, fast) for fast in dict.fromkeys((forward.fast, None)) for by_kind in dict.fromkeys((forward.by_kind, False))]
        for forward.by_kind, forward.fast in ways:
            try:
                if (fault := _differs(forward, packs, reference, device, exact=exact)) is None:
                    return forward
            except Exception as exc:  # it takes its masks in another form, or a fused kernel does not suit it
                if accelerator_fault(exc):
                    raise
                fault = named(exc)
            faults.append(fault)
        raise NotStaticError(faults[0])
    finally:
        model.train(was_training)


def _differs(forward: StaticForward, packs: Sequence[Pack], reference: Any, device: torch.device, *, exact: bool) -> str | None:
    for packed in packs:
        buffers = forward.buffers(size_of(len(packed.ids) + 1, len(packed.slots)), device)  # + 1: padding is always among it
        buffers.fill(packed, 1.0)
        with forward.around():
            ours_L = forward(buffers)[1][: len(packed.slots)]
        apart_L = (ours_L - reference(packed)).abs()
        worst, mean = float(apart_L.max()), float(apart_L.mean())
        if not (worst <= (1e-3 if exact else 0.5) and mean <= (1e-4 if exact else 0.05)):
            return f"its losses there differ by {mean:.2g} on average, {worst:.2g} at most"
    return None
