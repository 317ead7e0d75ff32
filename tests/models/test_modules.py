"""A model's linear layers from the names of its weights: grouped, counted, and adapted exactly as peft adapts them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from workbench.models.adapters import put_new_adapter
from workbench.models.loading import Base
from workbench.models.modules import (
    ModuleKind,
    default_modules,
    group_names,
    group_of,
    linear_modules,
    missing_modules,
    module_names,
    module_tree,
    name_of,
    own_values,
    target_regex,
    tower_of,
    whole_groups,
)
from workbench.models.shapes import KNOWN, adapted_shapes, folder_shapes, gemma3_shapes, lora_parameters
from workbench.models.tokenizer import ChatTokenizer
from workbench.settings import ALL_PROJECTIONS, Lora, Quantization

pytestmark = pytest.mark.slow

FOUR_B = gemma3_shapes(KNOWN["gemma-3-4b"])
COMMON = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "max_position_embeddings": 64,
}  # fmt: skip
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4}


def test_gemma_3_4b_s_layers_are_counted_by_group_and_tower():
    found = [(k.tower, k.group, k.name, k.count) for k in module_tree(FOUR_B)]
    assert found == [
        *[("text", "attention", name, 34) for name in ("q_proj", "k_proj", "v_proj", "o_proj")],
        *[("text", "MLP", name, 34) for name in ("gate_proj", "up_proj", "down_proj")],
        *[("vision", "attention", name, 27) for name in ("q_proj", "k_proj", "v_proj", "out_proj")],
        *[("vision", "MLP", name, 27) for name in ("fc1", "fc2")],
    ]
    assert sum(k.parameters for k in module_tree(FOUR_B) if k.name == "down_proj") == 34 * 2560 * 10_240


def test_the_names_to_choose_from_are_the_text_model_s_unless_towers_are_taken():
    tree = module_tree(FOUR_B)
    assert module_names(tree, text_only=True) == ALL_PROJECTIONS == default_modules(tree)
    assert module_names(tree, text_only=False) == (*ALL_PROJECTIONS, "out_proj", "fc1", "fc2")


def test_a_group_is_whole_where_all_its_names_are_chosen():
    tree = module_tree(FOUR_B)
    assert group_names(tree, text_only=True) == {"attention": ALL_PROJECTIONS[:4], "MLP": ALL_PROJECTIONS[4:]}
    assert group_names(tree, text_only=False)["MLP"] == (*ALL_PROJECTIONS[4:], "fc1", "fc2")
    assert whole_groups(tree, ALL_PROJECTIONS[:5], text_only=True) == ["attention"]
    assert whole_groups(tree, ALL_PROJECTIONS, text_only=True) == ["attention", "MLP"]
    assert whole_groups(tree, ALL_PROJECTIONS, text_only=False) == []


def test_names_that_no_layer_has_are_told():
    tree, lora = module_tree(FOUR_B), Lora(target_modules=("q_proj", "qkv_proj", "fc1"))
    assert missing_modules(tree, lora) == ("qkv_proj", "fc1")
    assert missing_modules(tree, lora.model_copy(update={"text_only": False})) == ("qkv_proj",)


PHI = {
    f"model.layers.{i}.{name}.weight": (8, 8)
    for i in range(2) for name in ("self_attn.o_proj", "self_attn.qkv_proj", "mlp.gate_up_proj", "mlp.down_proj")
}  # fmt: skip


def test_a_model_that_fuses_projections_starts_from_all_its_own_names():
    assert default_modules(module_tree(PHI)) == ("o_proj", "qkv_proj", "down_proj", "gate_up_proj")
    assert default_modules(module_tree({"lm_head.weight": (4, 4)})) == ALL_PROJECTIONS


def test_heads_embeddings_experts_and_norms_are_no_layers_to_choose():
    shapes = PHI | {
        "lm_head.weight": (9, 8), "model.embed_tokens.weight": (9, 8), "model.embed_tokens_per_layer.weight": (9, 8), "model.norm.weight": (8,),
        "model.layers.0.mlp.experts.0.up_proj.weight": (8, 8), "model.layers.0.mlp.experts.gate_up_proj": (4, 8, 8),
        "model.layers.0.conv.weight": (8, 8, 3), "transformer.wte.weight": (9, 8),
    }  # fmt: skip
    assert list(linear_modules(shapes)) == [name.removesuffix(".weight") for name in PHI]


@pytest.mark.parametrize(
    ("path", "group", "tower", "name"),
    [
        ("model.layers.0.self_attn.q_proj", "attention", "text", "q_proj"),
        ("model.layers.0.linear_attn.in_proj_qkvz", "attention", "text", "in_proj_qkvz"),
        ("transformer.h.0.attn.c_attn", "attention", "text", "c_attn"),
        ("model.layers.0.mlp.gate_up_proj", "MLP", "text", "gate_up_proj"),
        ("model.layers.0.feed_forward.w1", "MLP", "text", "w1"),
        ("model.language_model.layers.0.per_layer_input_gate", "other", "text", "per_layer_input_gate"),
        ("model.vision_tower.encoder.layers.0.self_attn.q_proj.linear", "attention", "vision", "q_proj"),
        ("model.visual.blocks.0.mlp.fc1", "MLP", "vision", "fc1"),
        ("model.audio_tower.layers.0.ffw_layer_1.linear", "MLP", "audio", "ffw_layer_1"),
        ("model.embed_vision.embedding_projection", "other", "vision", "embedding_projection"),
        ("layers.0.linear", "other", "text", "linear"),
    ],
)  # fmt: skip
def test_a_layer_is_known_by_its_path(path, group, tower, name):
    assert (group_of(path), tower_of(path), name_of(path)) == (group, tower, name)


def test_own_values_name_only_what_differs():
    paths = ["a.0.self_attn.q_proj", "a.0.mlp.up_proj", "v.vision_tower.self_attn.q_proj.linear"]
    assert own_values(paths, Lora()) == ({}, {})
    assert own_values(paths, Lora(rank=16, attention_rank=16, alpha=32, mlp_alpha=8)) == ({}, {r"mlp\.up_proj": 8})
    assert own_values(paths, Lora(attention_rank=4)) == ({r"self_attn\.q_proj": 4, r"self_attn\.q_proj\.linear": 4}, {})


def test_experts_are_never_matched():
    for lora in (Lora(), Lora(text_only=False)):
        assert not re.fullmatch(target_regex(lora), "model.layers.0.mlp.experts.0.up_proj")
        assert re.fullmatch(target_regex(lora), "model.layers.0.mlp.up_proj")


# -- the same layers as peft, on tiny models of every family ----------------------------------------


def tiny(kind: str):
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        Gemma3Config,
        Gemma3TextConfig,
        Gemma4Config,
        Gemma4TextConfig,
        LlamaConfig,
        MistralConfig,
        Phi3Config,
        Qwen2Config,
        Qwen3Config,
    )

    layers = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 8}
    gemma4 = COMMON | layers | {
        "global_head_dim": 8, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 40, "num_kv_shared_layers": 2,
    }  # fmt: skip
    tower = VISION | {"num_key_value_heads": 2, "head_dim": 16, "position_embedding_size": 16, "pooling_kernel_size": 1}
    configs = {
        "functiongemma": lambda: Gemma3TextConfig(**COMMON, **layers, query_pre_attn_scalar=8),
        "gemma3-vision": lambda: Gemma3Config(
            text_config=COMMON | layers | {"query_pre_attn_scalar": 8}, vision_config=VISION | {"image_size": 8}, mm_tokens_per_image=4,
            image_token_index=3, boi_token_index=3, eoi_token_index=3,
        ),
        "gemma4": lambda: Gemma4TextConfig(**gemma4),
        "gemma4-vision": lambda: Gemma4Config(text_config=gemma4, vision_config=tower, audio_config=None),
        "llama": lambda: LlamaConfig(**COMMON), "mistral": lambda: MistralConfig(**COMMON),
        "qwen2": lambda: Qwen2Config(**{k: v for k, v in COMMON.items() if k != "head_dim"}), "qwen3": lambda: Qwen3Config(**COMMON),
        "phi3": lambda: Phi3Config(**{k: v for k, v in COMMON.items() if k != "head_dim"}),
    }  # fmt: skip
    classes = AutoModelForImageTextToText if kind.endswith("vision") else AutoModelForCausalLM
    torch.manual_seed(1)
    return classes.from_config(configs[kind](), dtype=torch.float32)


FAMILIES = ("functiongemma", "gemma3-vision", "gemma4", "gemma4-vision", "llama", "mistral", "qwen2", "qwen3", "phi3")
CHOICES = {
    "text": Lora(rank=2), "towers too": Lora(rank=2, text_only=False),
    "own ranks": Lora(rank=2, attention_rank=3, mlp_rank=1, mlp_alpha=5, rslora=True), "dora": Lora(rank=2, dora=True, dropout=0.0),
    "its own": None,
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_the_count_from_headers_is_peft_s_own(family: str, tmp_path: Path, tiny_folder: Path) -> None:
    model = tiny(family)
    model.save_pretrained(tmp_path)
    shapes = folder_shapes(tmp_path)
    base = Base(model, ChatTokenizer.load(tiny_folder), tmp_path, Quantization(mode="none"))
    for name, lora in CHOICES.items():
        lora = lora or Lora(rank=2, target_modules=default_modules(module_tree(shapes)))
        adapted = put_new_adapter(base, lora, name="new", seed=1, checkpointing=False)
        assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == lora_parameters(shapes, lora) > 0, name
        layers = {n for n, m in adapted.get_base_model().named_modules() if hasattr(m, "lora_A")}
        assert len(layers) == len(adapted_shapes(shapes, lora)), name


def test_a_wrapped_tower_is_adapted_inside_its_wrapper():
    lora = Lora(rank=2, text_only=False)
    pattern = target_regex(lora, wrapped=True)
    assert re.fullmatch(pattern, "model.vision_tower.layers.0.self_attn.q_proj.linear")
    assert not re.fullmatch(pattern, "model.vision_tower.layers.0.self_attn.q_proj")
    assert re.fullmatch(pattern, "model.language_model.layers.0.self_attn.q_proj")


def test_the_first_kind_says_all_about_itself():
    assert module_tree(PHI)[0] == ModuleKind("o_proj", "attention", "text", 2, 128)
