"""How much memory a training run will take, by part, from the shapes of the weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from workbench.models.modules import TEXT, linear_modules, rank_of, tower_of
from workbench.models.shapes import Shapes, adapted_shapes, lora_parameters, parameter_count
from workbench.settings import RunSettings

GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """GiB by part, at the peak of an optimizer step."""

    weights_gib: float
    adapter_gib: float
    optimizer_gib: float
    activations_gib: float
    head_gib: float

    @property
    def total_gib(self) -> float:
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        """GiB by the part's plain name, in the order in which they are told."""
        return {name.removesuffix("_gib"): float(value) for name, value in asdict(self).items()}


def bytes_per_weight(settings: RunSettings, has_gpu: bool) -> float:
    """Of a quantized matrix: 4 bits plus its scales (one fp32 per 64 weights, or one 8-bit with double quantization)."""
    mode = settings.quantization.resolved(has_gpu).mode
    if mode == "4-bit":
        return 0.5 + (0.127 / 8 if settings.quantization.double else 4 / 64)
    return 1.0 if mode == "8-bit" else (2.0 if has_gpu else 4.0)


@dataclass(frozen=True)
class Kept:
    """What a forward keeps of each value for the backward pass, in bytes, and how many copies of a gated MLP's inner width."""

    adapter_input: float  # what an adapter multiplies, after dropout
    norm: float
    gate: float


EAGER = Kept(adapter_input=4.0, norm=8.0, gate=3.0)  # the adapter computes in fp32, a norm in four steps
CAPTURED = Kept(adapter_input=2.0, norm=8.0, gate=3.0)  # in a CUDA graph the adapter computes in bf16
FUSED = Kept(adapter_input=2.0, norm=2.0, gate=2.0)  # and Liger's norms and gated MLPs keep what they read
# What a captured step takes (training/static_batch, training/fused_loss), here because the promise and the step must agree.
GRAIN = 64  # tokens: it is filled up to a multiple of these
CHUNK = 128  # labels whose logits it holds at once: 128 × 262k in fp32 are 128 MiB
BLOCK = 2**14  # words of a head in the host's memory that are on the card at once: of a 4B in 16 bit 80 MiB


def is_captured(settings: RunSettings, has_gpu: bool) -> bool:
    """Whether these settings' steps can come from CUDA graphs; what the model itself hinders is not known here."""
    outliers = settings.quantization.resolved(has_gpu).mode == "8-bit" and settings.quantization.threshold > 0
    return has_gpu and settings.training.capture and not outliers and not settings.quantization.shard


def is_lean(settings: RunSettings, has_gpu: bool) -> bool:
    """Whether these settings' steps can go a CPU's cheap way (training/cpu_pass)."""
    return not has_gpu and settings.training.capture and not settings.quantization.shard


def fused_kernels() -> bool:
    """Whether Liger's kernels are installed beside this process."""
    return importlib.util.find_spec("liger_kernel") is not None


def estimate_memory(shapes: Shapes, settings: RunSettings, *, tokens: int, labels: int, has_gpu: bool, fused: bool | None = None) -> Memory:
    """The peak of one forward and backward over `tokens` tokens with `labels` labels.

    Weights: the linear layers as quantized, all else (embeddings, norms) in 16 or 32 bit. Adapter: parameters and their
    gradients; optimizer: AdamW's two moments; 4 bytes each. Head: logits and their gradient in fp32, and in the model's
    type, in a captured step of no more than 128 labels at once; on a CPU one copy of them. Activations: see `_activation_bytes`. `fused`: whether
    Liger is installed (None: asked here). Offloaded embeddings and head are not on the card, but for a block at a time. Compared with measured peaks in benchmarks/RESULTS.md.
    """
    width = 2.0 if has_gpu else 4.0
    kept_of, captured = EAGER, is_captured(settings, has_gpu)
    if captured:
        tokens = -(-tokens // GRAIN) * GRAIN
        kept_of = FUSED if (fused_kernels() if fused is None else fused) else CAPTURED
    inside = sum(out * into for out, into in linear_modules(shapes).values())
    weights = inside * bytes_per_weight(settings, has_gpu) + (parameter_count(shapes) - inside) * width
    trainable = lora_parameters(shapes, settings.lora)
    words = [s for n, s in shapes.items() if "embed_tokens" in n or "lm_head" in n]
    vocabulary = max((s[0] for s in words), default=0)
    # On a CPU the logits become their own gradient.
    head = labels * vocabulary * 4.0 if is_lean(settings, has_gpu) else min(labels, CHUNK if captured else labels) * vocabulary * (8.0 + 2 * width)
    if settings.quantization.offload and has_gpu and words:
        weights -= sum(out * into for out, into in words) * width
        if captured:  # a block of the head's words, its logits and their slope in fp32 and in the model's type
            head = min(BLOCK, vocabulary) * (labels * (8.0 + 2 * width) + max(into for _, into in words) * width)
    kept, moment = _activation_bytes(shapes, settings, tokens, width, has_gpu, kept_of)
    # A layer's moment never meets the logits: they are made after the last layer's forward, and are gone before a layer is
    # computed again. So only what the moment needs beyond the head's memory comes on top.
    return Memory(weights / GIB, trainable * 8 / GIB, trainable * 8 / GIB, (kept + max(0.0, moment - head)) / GIB, head / GIB)


def _activation_bytes(shapes: Shapes, settings: RunSettings, tokens: int, width: float, has_gpu: bool, kept_of: Kept) -> tuple[float, float]:
    """Bytes for `tokens` tokens, summed over the decoder layers: (what autograd keeps, what DoRA needs while one layer is computed).

    Per adapted matrix its input after dropout (`kept_of`) and the dropout's mask (1 byte), in 8-bit also the int8
    input (1), and its rank in fp32. Per layer its norms over the hidden width, gate, up and (unless fused) their
    product, and queries, keys and values with their rotated copies in the model's type. With checkpointing only the
    layers' inputs stay, and one layer at a time is whole: of DoRA's 32-bit matrices too there are one layer's at a time,
    which live and die with the layer that is computed again.
    """
    text = {n: s for n, s in shapes.items() if tower_of(n) == TEXT}
    layers = sum(n.endswith("down_proj.weight") for n in text) or 1
    adapted = adapted_shapes(text, settings.lora)
    mode = settings.quantization.resolved(has_gpu).mode
    per_input = kept_of.adapter_input + (1.0 if settings.lora.dropout else 0.0) + (1.0 if mode == "8-bit" else 0.0)
    per_token = sum(per_input * into + 4.0 * rank_of(path, settings.lora) for path, (_, into) in adapted.items())
    hidden, inner = _inner_widths(text, layers, width, kept_of)
    matrices, moment = 0.0, 0.0
    if settings.lora.dora:
        more, matrices = _dora_bytes(adapted, settings, width, exact=mode == "none" and not has_gpu)
        per_token += more
        moment = max((_dora_moment(out, into, width) for out, into in adapted.values()), default=0.0)
    if settings.training.checkpointing:
        return tokens * (width * hidden + (per_token + inner) / layers), matrices / layers + moment
    return tokens * (per_token + inner) + matrices, moment


def _inner_widths(text: Shapes, layers: int, width: float, kept_of: Kept) -> tuple[float, float]:
    """(values of all layers' inputs, bytes kept inside the layers without an adapter's own) for one token."""
    outputs = {
        name: sum(s[0] for n, s in text.items() if len(s) == 2 and n.endswith(f"{name}_proj.weight"))
        for name in ("q", "k", "qkv", "gate", "gate_up", "down")
    }
    hidden = outputs["down"] / layers
    normed = sum(s[0] for n, s in text.items() if len(s) == 1 and ".layers." in n and "norm" in n and s[0] == hidden)
    inner = kept_of.norm * (normed or 4 * outputs["down"]) + width * (
        kept_of.gate * (outputs["gate"] + 0.5 * outputs["gate_up"]) + 3 * outputs["q"] + 4 * outputs["k"] + 3 * outputs["qkv"]
    )
    return outputs["down"], inner


def _dora_bytes(adapted: Mapping[str, tuple[int, int]], settings: RunSettings, width: float, *, exact: bool) -> tuple[float, float]:
    """DoRA's own: (bytes a token, bytes that do not depend on tokens).

    Its product of the base and that of the adapter are kept. With dropout it multiplies the base's weights again with
    what is left of the input, and keeps them for that in 32 bit, unless they are held so (`exact`).
    """
    again = settings.lora.dropout > 0
    per_token = sum(out * ((4.0 if again else width) + 4.0) for out, _ in adapted.values())
    return per_token, 0.0 if exact or not again else sum(4.0 * out * into for out, into in adapted.values())


def _dora_moment(out: int, into: int, width: float) -> float:
    """Bytes that DoRA needs for a moment in one layer: a unit matrix, and the matrix as held, in 32 bit, and as adapted."""
    return 4.0 * into * into + (width + 16.0) * out * into
