"""A loaded model's decoder layers as plain values, for a decoding loop of our own: what each multiplies by, and how it attends.

Known are the layers of Gemma 3, Llama, Qwen2 and Qwen3; everything else is refused by name and decoded by transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workbench.models.adapters import SLOTS
from workbench.models.four_bit import four_bit
from workbench.models.loading import Base

LAYERS = ("Gemma3DecoderLayer", "LlamaDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer")
ROTARY = ("default", "linear", "llama3", "yarn")  # tables that don't change with the length


class UnsupportedError(Exception):
    """A model that the loop does not know; the message says what about it, as the end of "because …"."""


@dataclass(frozen=True)
class Part:
    """What one adapter adds to one linear layer: its matrices as peft holds them, B's scale, and the adapter's number (1 for the first slot)."""

    number: int
    a: Tensor
    b: Tensor
    scale: float


class Projection:
    """One linear layer: its base weights as they are loaded, and its parts of the adapters, if it has any.

    `a_RK` and `b_NR` are copies in the model's dtype (R the ranks of all adapters in a row, K inputs, N outputs), b already scaled. In
    fp32 they are exact; in bf16 they are rounded to 8 bits of mantissa, as every other weight of such a model is.
    """

    def __init__(self, module: Any, dtype: torch.dtype, adapters: int) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        self.tuner = module if isinstance(module, BaseTunerLayer) else None
        self.base: Callable[[Tensor], Tensor] = module if self.tuner is None else module.get_base_layer()
        written_out = four_bit(self.base)
        self.product = self.base if written_out is None else written_out.product  # for R rows without a gradient, by whatever is fastest here
        self.width: int = module.out_features
        self.parts = _parts(module, adapters) if self.tuner is not None else []
        self.owners = [part.number for part in self.parts for _ in range(part.a.shape[0])]
        self.rank = len(self.owners)
        self.a_RK = torch.empty(0)
        self.b_NR = torch.empty((self.width, self.rank), dtype=dtype, device=self.parts[0].b.device) if self.parts else torch.empty(0)

    def copies(self) -> Iterator[tuple[Tensor, Tensor, Part]]:
        """Where each part's A and B are copied to."""
        begun = 0
        for part in self.parts:
            end = begun + part.a.shape[0]
            yield self.a_RK[begun:end], self.b_NR[:, begun:end], part
            begun = end


def _parts(module: Any, adapters: int) -> list[Part]:
    slots = SLOTS[:adapters]
    if list(module.active_adapters) != [SLOTS[0]] or module.merged:
        raise UnsupportedError("its adapter is merged, or is not the only one")
    if any(slot in (getattr(module, "lora_variant", None) or {}) for slot in slots):
        raise UnsupportedError("its adapter is no plain LoRA (DoRA, say)")
    held = getattr(module, "lora_A", None)
    there = [(number, slot) for number, slot in enumerate(slots, 1) if slot in (held or ())]
    if held is None or any(module.lora_B[slot].bias is not None for _, slot in there):
        raise UnsupportedError("its adapter is of another kind than LoRA")
    return [Part(number, held[slot].weight, module.lora_B[slot].weight, float(module.scaling[slot])) for number, slot in there]


class Group:
    """Projections that read the same input: their A matrices lie joined, so that one product serves all. `owner_R` tells whose each of its rows is."""

    def __init__(self, members: list[Projection], dtype: torch.dtype) -> None:
        self.members = members
        self.adapted = [p for p in members if p.rank]
        self.rank = sum(p.rank for p in self.adapted)
        self.a_RK: Tensor | None = None
        self.owners = tuple(number for p in self.adapted for number in p.owners)
        if not self.adapted:
            return
        first = self.adapted[0].parts[0].a
        self.a_RK = torch.empty((self.rank, first.shape[1]), dtype=dtype, device=first.device)
        self.owner_R = torch.tensor(self.owners, dtype=torch.int32, device=first.device)
        begun = 0
        for projection in self.adapted:
            projection.a_RK = self.a_RK[begun : begun + projection.rank]
            begun += projection.rank


@dataclass(frozen=True)
class Layer:
    """One decoder layer. `after_attention` and `after_mlp` norm what is added to the residual stream (Gemma), or are None."""

    module: Any
    qkv: Group
    o: Group
    gate_up: Group
    down: Group
    before_attention: Any
    after_attention: Any | None
    before_mlp: Any
    after_mlp: Any | None
    q_norm: Any | None
    k_norm: Any | None
    act: Callable[[Tensor], Tensor]
    heads: int
    kv_heads: int
    head_dim: int
    scaling: float
    window: int  # columns that a token sees, itself included; 0: all
    rope: str | None  # the kind of its rotary table, where a model has several


@dataclass(frozen=True)
class Stack:
    """The whole model: embedding, layers, the last norm and the head. `eps`, `offset`, `activation` are what kernels need."""

    embed: Any
    layers: tuple[Layer, ...]
    norm: Any
    head: Any
    rotary: Any
    dtype: torch.dtype
    device: torch.device
    vocabulary: int
    eps: float
    offset: bool  # a norm multiplies by 1 + weight
    activation: str

    @property
    def projections(self) -> list[Projection]:
        return [p for layer in self.layers for group in (layer.qkv, layer.o, layer.gate_up, layer.down) for p in group.adapted]

    def copy_adapter(self) -> None:
        """Take the adapters' weights as they are now: training changes them in place. B is scaled on the way."""
        copies = [copy for projection in self.projections for copy in projection.copies()]
        if not copies:
            return
        torch._foreach_copy_([a_RK for a_RK, _, _ in copies], [part.a.detach() for _, _, part in copies])
        scaled = torch._foreach_mul([part.b.detach() for _, _, part in copies], [part.scale for _, _, part in copies])
        torch._foreach_copy_([b_NR for _, b_NR, _ in copies], scaled)

    def tables(self, columns: int) -> dict[str | None, tuple[Tensor, Tensor]]:
        """Cosines and sines (columns × D) of every kind of rotary table, as the model itself computes them."""
        positions = torch.arange(columns, device=self.device).unsqueeze(0)
        like = torch.empty(0, dtype=self.dtype, device=self.device)
        made = {}
        for kind in dict.fromkeys(layer.rope for layer in self.layers):
            cos, sin = self.rotary(like, positions) if kind is None else self.rotary(like, positions, kind)
            made[kind] = (cos[0].contiguous(), sin[0].contiguous())
        return made

    def kv_bytes(self, columns: int) -> int:
        """What the cache takes for one lane of so many columns."""
        return sum(2 * layer.kv_heads * layer.head_dim * ring(layer, columns) * self.dtype.itemsize for layer in self.layers)


def ring(layer: Layer, columns: int) -> int:
    """How many columns a layer's cache holds: all, or no more than its window."""
    return min(columns, layer.window) if layer.window else columns


def read_stack(base: Base) -> Stack:
    """The layers of `base`; raises `UnsupportedError` for a model that the loop does not know."""
    raw = base.raw
    text = next((m for m in (getattr(raw, "model", None), getattr(getattr(raw, "model", None), "language_model", None)) if hasattr(m, "layers")), None)
    if text is None or not all(hasattr(text, name) for name in ("embed_tokens", "norm", "rotary_emb")):
        raise UnsupportedError(f"{type(raw).__name__} is built in another way")
    names = {type(layer).__name__ for layer in text.layers}
    if not names <= set(LAYERS):
        raise UnsupportedError(f"{', '.join(sorted(names - set(LAYERS)))} is not one of the layers it knows")
    config = text.config
    _check(config, text.rotary_emb)
    dtype = text.embed_tokens.weight.dtype
    layers = tuple(_layer(layer, dtype, len(base.adapters)) for layer in text.layers[: config.num_hidden_layers])
    stack = Stack(
        embed=text.embed_tokens, layers=layers, norm=text.norm, head=raw.lm_head, rotary=text.rotary_emb, dtype=dtype,
        device=base.device, vocabulary=raw.lm_head.weight.shape[0], eps=config.rms_norm_eps,
        offset=names == {"Gemma3DecoderLayer"}, activation=getattr(config, "hidden_activation", None) or config.hidden_act,
    )
    _check_adapter(base, stack)
    return stack


def _check(config: Any, rotary: Any) -> None:
    if getattr(config, "attn_logit_softcapping", None) or getattr(config, "final_logit_softcapping", None):
        raise UnsupportedError("it caps its logits softly")
    if getattr(config, "use_bidirectional_attention", False):
        raise UnsupportedError("its attention looks ahead")
    kinds = rotary.rope_type.values() if isinstance(rotary.rope_type, dict) else [rotary.rope_type]
    if not set(kinds) <= set(ROTARY):
        raise UnsupportedError("its rotary table changes with the length")


def _check_adapter(base: Base, stack: Stack) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    known = {id(p.tuner) for p in stack.projections}
    for name, module in base.raw.named_modules():
        if isinstance(module, BaseTunerLayer) and id(module) not in known and ".vision" not in name and "vision_" not in name:
            raise UnsupportedError(f"its adapter also changes {name}")


def _layer(module: Any, dtype: torch.dtype, adapters: int) -> Layer:
    attention, mlp = module.self_attn, module.mlp
    gemma = hasattr(module, "pre_feedforward_layernorm")

    def group(*members: Any) -> Group:
        return Group([Projection(member, dtype, adapters) for member in members], dtype)

    head_dim = attention.head_dim
    heads = attention.config.num_attention_heads
    return Layer(
        module=module, qkv=group(attention.q_proj, attention.k_proj, attention.v_proj), o=group(attention.o_proj),
        gate_up=group(mlp.gate_proj, mlp.up_proj), down=group(mlp.down_proj),
        before_attention=module.input_layernorm, after_attention=module.post_attention_layernorm if gemma else None,
        before_mlp=module.pre_feedforward_layernorm if gemma else module.post_attention_layernorm,
        after_mlp=module.post_feedforward_layernorm if gemma else None,
        q_norm=getattr(attention, "q_norm", None), k_norm=getattr(attention, "k_norm", None), act=mlp.act_fn,
        heads=heads, kv_heads=heads // attention.num_key_value_groups, head_dim=head_dim, scaling=attention.scaling,
        window=getattr(attention, "sliding_window", None) or 0, rope=attention.layer_type if gemma else None,
    )
