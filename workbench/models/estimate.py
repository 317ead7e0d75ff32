"""How much memory a training run will take, by part, from the shapes of the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from workbench.models.shapes import Shapes, adapted_shapes, lora_parameters
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

    Weights: the linear layers as quantized, all else (embeddings, norms, towers' convolutions) in 16 or 32 bit.
    Adapter: parameter, gradient and AdamW's two moments, 4 bytes each. Activations: what autograd keeps for
    each adapted matrix (the input in the model's type, and in fp32 before and after dropout, its output,
    and the layer's own intermediate values). Head: logits and their gradient in fp32, and in the model's type.
    """
    width = 2.0 if has_gpu else 4.0
    quantized = bytes_per_weight(settings, has_gpu)
    linear = {n: s for n, s in shapes.items() if n.endswith("_proj.weight") or ".fc" in n}
    inside = sum(math.prod(s) for s in linear.values())
    weights = inside * quantized + (sum(math.prod(s) for s in shapes.values()) - inside) * width
    trainable = lora_parameters(shapes, settings.lora)
    targets = [s for n, s in adapted_shapes(shapes, settings.lora).items() if "layers" in n]
    per_input = width + (12.0 if settings.lora.dropout else 4.0)
    per_token = sum(into * per_input + out * (width + 4.0) for out, into in targets)
    if settings.training.checkpointing:
        per_token /= 8
    vocabulary = max((s[0] for n, s in shapes.items() if "embed_tokens" in n or "lm_head" in n), default=0)
    return Memory(weights / GIB, trainable * 16 / GIB, tokens * per_token / GIB, labels * vocabulary * (8.0 + 2 * width) / GIB)
