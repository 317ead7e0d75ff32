"""The next smaller plan: one change at a time, in an order that costs the answers least, until nothing is left."""

import pytest

from workbench.models.estimate import estimate_memory
from workbench.models.shapes import KNOWN, gemma3_shapes
from workbench.settings import RunSettings, apply_overrides
from workbench.training.smaller import next_smaller

SHAPES = gemma3_shapes(KNOWN["gemma-3-4b"])


def settings(*pairs: str) -> RunSettings:
    return apply_overrides(RunSettings(), pairs)


def differences(before: RunSettings, after: RunSettings) -> dict[str, object]:
    old, new = before.model_dump(), after.model_dump()
    return {f"{group}.{name}": value for group, values in new.items() for name, value in values.items() if old[group][name] != value}


def way_down(start: RunSettings, has_gpu: bool, **known: int) -> list[tuple[dict[str, object], str]]:
    """Every change from `start` to the smallest plan, with its sentence."""
    found, here = [], start
    while (made := next_smaller(here, has_gpu, **known)) is not None:
        found.append((differences(here, made[0]), made[1]))
        here = made[0]
        assert len(found) < 40
    return found


def test_on_a_gpu_the_weights_go_first_then_activations_then_the_adapter():
    changes = [change for change, _ in way_down(settings("quantization.mode=8-bit"), True, largest_forward=600, longest_row=60)]
    assert changes == [
        {"quantization.mode": "4-bit"}, {"training.checkpointing": True}, {"quantization.offload": True}, {"training.tokens_per_forward": 300},
        {"training.tokens_per_forward": 150}, {"lora.rank": 8, "lora.alpha": 16},
        {"lora.target_modules": ("q_proj", "k_proj", "v_proj", "o_proj")},
    ]  # fmt: skip


def test_on_a_cpu_the_weights_are_quantized_last():
    changes = [change for change, _ in way_down(settings(), False, largest_forward=300)]
    assert changes == [
        {"training.checkpointing": True}, {"training.tokens_per_forward": 150}, {"lora.rank": 8, "lora.alpha": 16},
        {"lora.target_modules": ("q_proj", "k_proj", "v_proj", "o_proj")}, {"quantization.mode": "4-bit"},
    ]  # fmt: skip


def test_auto_on_a_gpu_is_4_bit_already():
    assert differences(settings(), next_smaller(settings(), True)[0]) == {"training.checkpointing": True}


def test_a_budget_is_not_halved_where_that_changes_nothing():
    start = settings("training.checkpointing=true", "quantization.offload=true")
    assert next_smaller(start, True, largest_forward=600)[0].training.tokens_per_forward == 300
    assert next_smaller(start, True)[0].training.tokens_per_forward == 2048
    assert next_smaller(start, True, largest_forward=600, longest_row=400)[0].lora.rank == 8


def test_each_sentence_says_what_changes():
    sentences = [text for _, text in way_down(settings("quantization.mode=none"), True, largest_forward=600)]
    assert sentences[0].startswith("The base weights are held in 4 bit instead of 16 bit")
    assert sentences[1].startswith("Gradient checkpointing is turned on")
    assert sentences[2].startswith("The word embeddings and the head wait in the host's memory")
    assert sentences[3].startswith("The token budget goes from 4,096 to 300")
    assert sentences[-2].startswith("The rank goes from 16 to 8, alpha with it")
    assert sentences[-1].startswith("Only attention gets an adapter (q_proj, k_proj, v_proj, o_proj)")


@pytest.mark.parametrize("has_gpu", [True, False])
def test_every_change_is_estimated_to_take_less(has_gpu):
    here, tokens = settings("quantization.mode=none"), 600
    peaks = []
    while here is not None:
        forward = min(tokens, here.training.tokens_per_forward)
        peaks.append(estimate_memory(SHAPES, here, tokens=forward, labels=forward // 2, has_gpu=has_gpu).total_gib)
        made = next_smaller(here, has_gpu, largest_forward=forward, longest_row=60)
        here = made[0] if made else None
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == len(peaks) > 4


def test_alpha_keeps_its_ratio_and_never_falls_to_nothing():
    start = settings("training.checkpointing=true", "quantization.offload=true", "training.tokens_per_forward=128", "lora.rank=64", "lora.alpha=1")
    made = next_smaller(start, True)
    assert (made[0].lora.rank, made[0].lora.alpha) == (32, 1)


def test_dora_loses_its_dropout_after_what_costs_time_alone_and_itself_before_the_rank():
    changes = [change for change, _ in way_down(settings("lora.dora=true"), True, largest_forward=300)]
    assert changes == [
        {"training.checkpointing": True}, {"quantization.offload": True}, {"training.tokens_per_forward": 150},
        {"lora.dropout": 0.0}, {"lora.dora": False}, {"lora.rank": 8, "lora.alpha": 16},
        {"lora.target_modules": ("q_proj", "k_proj", "v_proj", "o_proj")},
    ]  # fmt: skip
    assert {"lora.dropout": 0.0} not in [c for c, _ in way_down(settings("lora.dora=true", "quantization.mode=none"), False)][:-1]


def test_own_ranks_shrink_with_the_common_one():
    start = settings(
        "training.checkpointing=true", "quantization.offload=true", "training.tokens_per_forward=128",
        "lora.attention_rank=64", "lora.attention_alpha=32", "lora.mlp_rank=4",
    )
    made, sentence = next_smaller(start, True)
    assert (made.lora.rank, made.lora.alpha) == (8, 16)
    assert (made.lora.attention_rank, made.lora.attention_alpha, made.lora.mlp_rank, made.lora.mlp_alpha) == (32, 16, 4, 0)
    assert sentence.startswith("The rank goes from 16 to 8, 64 to 32, alpha with it")


def test_fused_attention_counts_as_attention():
    start = settings("training.checkpointing=true", "quantization.offload=true", "training.tokens_per_forward=128", "lora.rank=8", "lora.target_modules=qkv_proj,down_proj")
    assert next_smaller(start, True)[0].lora.target_modules == ("qkv_proj",)
