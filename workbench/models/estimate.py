"""How much memory a training run will take, by part, from the shapes of the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from workbench.models.shapes import OTHER_TOWERS, Shapes, adapted_shapes, lora_parameters, parameter_count
from workbench.settings import RunSettings

GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """GiB by part, at the peak of an optimizer step."""

    weights_gib: float
    adapter_gib: float
    activations_gib: float
    head_gib: float

    @property
    def total_gib(self) -> float:
        return self.weights_gib + self.adapter_gib + self.activations_gib + self.head_gib


def bytes_per_weight(settings: RunSettings, has_gpu: bool) -> float:
    """Of a quantized matrix: 4 bits plus its scales (one fp32 per 64 weights, or one 8-bit with double quantization)."""
    mode = settings.quantization.resolved(has_gpu).mode
    if mode == "4-bit":
        return 0.5 + (0.127 / 8 if settings.quantization.double else 4 / 64)
    return 1.0 if mode == "8-bit" else (2.0 if has_gpu else 4.0)


def estimate_memory(shapes: Shapes, settings: RunSettings, *, tokens: int, labels: int, has_gpu: bool) -> Memory:
    """The peak of one forward and backward over `tokens` tokens with `labels` labels.

    Weights: the linear layers as quantized, all else (embeddings, norms) in 16 or 32 bit. Adapter: parameter,
    gradient and AdamW's two moments, 4 bytes each. Head: logits and their gradient in fp32, and in the model's type.
    Activations: see `_activation_bytes`. Compared with measured peaks in benchmarks/RESULTS.md.
    """
    width = 2.0 if has_gpu else 4.0
    quantized = bytes_per_weight(settings, has_gpu)
    inside = sum(math.prod(s) for n, s in shapes.items() if n.endswith("_proj.weight") or ".fc" in n)
    weights = inside * quantized + (parameter_count(shapes) - inside) * width
    trainable = lora_parameters(shapes, settings.lora)
    vocabulary = max((s[0] for n, s in shapes.items() if "embed_tokens" in n or "lm_head" in n), default=0)
    return Memory(
        weights / GIB, trainable * 16 / GIB, tokens * _activation_bytes(shapes, settings, width, has_gpu) / GIB,
        labels * vocabulary * (8.0 + 2 * width) / GIB,
    )


def _activation_bytes(shapes: Shapes, settings: RunSettings, width: float, has_gpu: bool) -> float:
    """Bytes that autograd keeps for one token, summed over the decoder layers.

    Per adapted matrix its input in fp32 after dropout (4 bytes) and the dropout's mask (1), in 8-bit also the int8
    input (1). Per layer four norms over the hidden width (8 bytes a value), gate, up and their product, and queries,
    keys and values with their rotated copies in the model's type. With checkpointing only the layers' inputs stay,
    and one layer at a time is whole.
    """
    text = {n: s for n, s in shapes.items() if len(s) == 2 and not any(tower in n for tower in OTHER_TOWERS)}
    layers = sum(n.endswith("down_proj.weight") for n in text) or 1
    per_input = 4.0 + (1.0 if settings.lora.dropout else 0.0)
    if settings.quantization.resolved(has_gpu).mode == "8-bit":
        per_input += 1.0
    adapted = per_input * sum(into for n, (_, into) in adapted_shapes(text, settings.lora).items())
    outputs = {name: sum(s[0] for n, s in text.items() if n.endswith(f"{name}_proj.weight")) for name in ("q", "k", "gate", "down")}
    inner = 8.0 * 4 * outputs["down"] + width * (3 * outputs["gate"] + 3 * outputs["q"] + 4 * outputs["k"])
    if settings.training.checkpointing:
        return width * outputs["down"] + (adapted + inner) / layers
    return adapted + inner
