"""Names and shapes of a model's weights without its weights: from safetensors headers, or a table of known sizes."""

from __future__ import annotations

import json
import math
import operator
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import ModelError
from workbench.models.modules import Group, group_of, is_wrapped, linear_modules, rank_of, target_regex
from workbench.settings import Lora

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Gemma3Size:
    """The figures of a Gemma 3 config.json that decide the weights' shapes."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    vision: bool


KNOWN: dict[str, Gemma3Size] = {
    "gemma-3-270m": Gemma3Size(640, 18, 4, 1, 256, 2048, 262_144, False),
    "gemma-3-1b": Gemma3Size(1152, 26, 4, 1, 256, 6912, 262_144, False),
    "gemma-3-4b": Gemma3Size(2560, 34, 8, 4, 256, 10_240, 262_208, True),
    "gemma-3-12b": Gemma3Size(3840, 48, 16, 8, 256, 15_360, 262_208, True),
    "gemma-3-27b": Gemma3Size(5376, 62, 32, 16, 128, 21_504, 262_208, True),
}


def known_size(model: str) -> Gemma3Size | None:
    """The table's entry for a name such as `gemma-3-4b-it` or `google/gemma-3-4b-pt`."""
    name = model.rsplit("/", 1)[-1].lower()
    return KNOWN.get(re.sub(r"-(it|pt)$", "", name))


def gemma3_shapes(size: Gemma3Size) -> dict[str, tuple[int, ...]]:
    """Every weight of a Gemma 3 of that size (the head is tied to the embedding and not counted twice)."""
    prefix = "model.language_model." if size.vision else "model."
    h, q, kv, d, i = size.hidden, size.heads * size.head_dim, size.kv_heads * size.head_dim, size.head_dim, size.intermediate
    shapes: dict[str, tuple[int, ...]] = {f"{prefix}embed_tokens.weight": (size.vocabulary, h), f"{prefix}norm.weight": (h,)}
    layer: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (q, h), "self_attn.k_proj": (kv, h), "self_attn.v_proj": (kv, h), "self_attn.o_proj": (h, q),
        "self_attn.q_norm": (d,), "self_attn.k_norm": (d,),
        "mlp.gate_proj": (i, h), "mlp.up_proj": (i, h), "mlp.down_proj": (h, i),
        "input_layernorm": (h,), "post_attention_layernorm": (h,), "pre_feedforward_layernorm": (h,), "post_feedforward_layernorm": (h,),
    }
    for n in range(size.layers):
        shapes |= {f"{prefix}layers.{n}.{name}.weight": shape for name, shape in layer.items()}
    return shapes | (_siglip_shapes(h) if size.vision else {})


def _siglip_shapes(text_hidden: int) -> dict[str, tuple[int, ...]]:
    """The SigLIP so400m tower (896 px, patches of 14) and its projector, as Gemma 3 4B to 27B carry it."""
    h, i, tower = 1152, 4304, "model.vision_tower.vision_model."
    shapes: dict[str, tuple[int, ...]] = {
        f"{tower}embeddings.patch_embedding.weight": (h, 3, 14, 14), f"{tower}embeddings.patch_embedding.bias": (h,),
        f"{tower}embeddings.position_embedding.weight": (4096, h),
        f"{tower}post_layernorm.weight": (h,), f"{tower}post_layernorm.bias": (h,),
        "model.multi_modal_projector.mm_input_projection_weight": (h, text_hidden),
        "model.multi_modal_projector.mm_soft_emb_norm.weight": (h,),
    }
    matrices: dict[str, tuple[int, ...]] = {f"self_attn.{name}": (h, h) for name in ("q_proj", "k_proj", "v_proj", "out_proj")}
    matrices |= {"mlp.fc1": (i, h), "mlp.fc2": (h, i)}
    for n in range(27):
        layer = f"{tower}encoder.layers.{n}."
        for name, shape in matrices.items():
            shapes |= {f"{layer}{name}.weight": shape, f"{layer}{name}.bias": (shape[0],)}
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{layer}{norm}.weight": (h,), f"{layer}{norm}.bias": (h,)}
    return shapes


def folder_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Every weight in a folder's safetensors files, read from their headers alone; raises `ModelError`."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} holds no .safetensors file; other weight formats can run code and are not loaded.")
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        shapes |= {name: shape for name, (_, shape) in weights_in(file).items()}
    return shapes


def weights_in(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """(stored type, shape) of every weight in a safetensors file, from its header alone; raises `ModelError`."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > 2**28:
                raise ValueError("header too long")
            header = json.loads(stream.read(length))
        return {name: (entry["dtype"], tuple(map(operator.index, entry["shape"]))) for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as exc:
        raise ModelError(f"{file} is not a whole safetensors file: fetch the model again.") from exc


def parameter_count(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def adapted_shapes(shapes: Shapes, lora: Lora) -> dict[str, tuple[int, int]]:
    """The matrices ([out, in]) that get an adapter."""
    linear = linear_modules(shapes)
    pattern = re.compile(target_regex(lora, wrapped=is_wrapped(linear)))
    return {path: shape for path, shape in linear.items() if pattern.fullmatch(path)}


def lora_parameters(shapes: Shapes, lora: Lora) -> int:
    """Trainable parameters: rank · (in + out) for each adapted matrix (A is rank × in, B is out × rank), with DoRA its out lengths too."""
    return sum(parameters for _, parameters in adapted_groups(shapes, lora).values())


def adapted_groups(shapes: Shapes, lora: Lora) -> dict[Group, tuple[int, int]]:
    """(layers that get an adapter, their trainable parameters) for each group that has any."""
    found: dict[Group, tuple[int, int]] = {}
    for path, (out, into) in adapted_shapes(shapes, lora).items():
        layers, parameters = found.get(group_of(path), (0, 0))
        found[group_of(path)] = (layers + 1, parameters + rank_of(path, lora) * (out + into) + (out if lora.dora else 0))
    return found
