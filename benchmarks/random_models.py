"""Random models of Gemma 3's shapes: values don't change time or memory. Saved into a folder, or built on the device.

    python benchmarks/random_models.py 4b FOLDER models/gemma-3-270m
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def gemma3_config(name: str) -> Any:
    """The config of a Gemma 3 "270m", "1b", "4b" or "12b"; "tiny" is for trying a script on a CPU."""
    from transformers import Gemma3Config, Gemma3TextConfig

    from workbench.models.shapes import KNOWN, Gemma3Size

    size = KNOWN.get(f"gemma-3-{name}") or Gemma3Size(64, 2, 2, 1, 32, 128, 262_144, False)
    scaled = {"rope_type": "linear", "factor": 8.0} if size.vision else {"rope_type": "default"}
    text = {
        "hidden_size": size.hidden, "intermediate_size": size.intermediate, "num_hidden_layers": size.layers, "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads, "head_dim": size.head_dim, "vocab_size": size.vocabulary, "query_pre_attn_scalar": 256,
        "sliding_window": 1024 if size.vision else 512, "max_position_embeddings": 131_072 if size.vision else 32_768, "rms_norm_eps": 1e-6,
        "rope_parameters": {"full_attention": scaled | {"rope_theta": 1e6}, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}},
    }
    if not size.vision:
        return Gemma3TextConfig(**text)
    vision = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
              "image_size": 896, "patch_size": 14, "vision_use_head": False}
    return Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=256, tie_word_embeddings=True)


def make_random(name: str, folder: Path, tokenizer: Path) -> None:
    """A Gemma 3 of that size in bf16, saved: matrices N(0, 0.02), norms 0, the head tied. Values don't change time or memory."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(gemma3_config(name), dtype=torch.bfloat16)
    model.to_empty(device="cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.02) if parameter.dim() > 1 else torch.nn.init.zeros_(parameter)
    model.tie_weights()
    model.save_pretrained(folder)
    for file in TOKENIZER_FILES:
        shutil.copy(tokenizer / file, folder / file)


def random_base(name: str, mode: str, tokenizer: Path) -> Any:
    """A loaded base (`Base`) of that size without any file: `mode` is "none" or "4-bit" (NF4, double, as a run's default)."""
    import torch
    from transformers import AutoModelForCausalLM

    from workbench.models.loading import Base, pick_device, pick_dtype
    from workbench.models.tokenizer import ChatTokenizer
    from workbench.settings import Quantization

    device = pick_device()
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(gemma3_config(name), dtype=pick_dtype(device), attn_implementation="sdpa")
    if mode == "4-bit":
        _to_4bit(model, device)
    elif mode != "none":
        raise ValueError(f"{mode}: a random base is made in 4-bit or as it is")
    model.eval()
    model.requires_grad_(False)
    return Base(model, ChatTokenizer.load(tokenizer), tokenizer, Quantization(mode=mode))


def _to_4bit(model: Any, device: Any) -> None:
    """Every linear layer but the head as NF4, one after the other, so that little stands twice."""
    import bitsandbytes as bnb
    import torch

    for path in [p for p, m in model.named_modules() if isinstance(m, torch.nn.Linear) and not p.endswith("lm_head")]:
        layer = model.get_submodule(path)
        packed = bnb.nn.Linear4bit(
            layer.in_features, layer.out_features, layer.bias is not None, compute_dtype=layer.weight.dtype,
            compress_statistics=True, quant_type="nf4", device="meta",
        )
        packed.bias = layer.bias
        packed.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4", module=packed).to(device)
        if hasattr(packed, "support_avx512bf16_for_cpu"):
            packed.support_avx512bf16_for_cpu = False  # its repacked product drops gradients
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, packed)
    model.is_loaded_in_4bit = True  # peft asks


if __name__ == "__main__":
    make_random(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
