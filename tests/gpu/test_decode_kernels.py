"""The Triton kernels of decoding: the fused step gives the logits of the plain one. Runs on the card, or else in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.gpu.on_triton import CARD, RUNS
from workbench.models import decode_fused, loading
from workbench.models.adapters import SLOTS, probe, prove_active, put_new_adapter
from workbench.models.decode_stack import Stack, read_stack
from workbench.models.decode_static import difference_made
from workbench.models.decode_step import Cache, begin, prefill, step
from workbench.models.decoding import Lane, generate, release
from workbench.models.loading import Base, load_base
from workbench.settings import Lora, Quantization, Sampling

pytestmark = RUNS
PROMPTS = ((2, 40, 41), tuple(range(30, 75)), (2, 99))  # the second is far longer than the window of 16
COLUMNS = 64


def adapted_base(folder: Path, monkeypatch: pytest.MonkeyPatch, *, second: bool = False) -> Base:
    """A tiny base in fp32 with an adapter that does something, and another one beside it of another rank and fewer layers."""
    monkeypatch.setattr(loading, "pick_dtype", lambda device: torch.float32)  # also on a card: what is compared is the sums
    base = load_base(folder, Quantization(mode="none"), keep=False)
    model = put_new_adapter(base, Lora(rank=6, alpha=12), name="r", seed=1, checkpointing=False)
    if second:
        from peft import LoraConfig

        model.add_adapter(SLOTS[1], LoraConfig(r=3, lora_alpha=3, target_modules=["q_proj", "v_proj", "down_proj"]))
        base.adapters = ("r", "s")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.2)
    model.eval()
    return base


@pytest.mark.parametrize("kind", ["gemma3", "llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("adapted", [[0, 1, 1], [2, 0, 1]])
def test_the_fused_step_gives_the_plain_step_s_logits_token_after_token(
    tiny_model_folder: Callable[[str], Path], kind: str, adapted: list[int], monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = adapted_base(tiny_model_folder(kind), monkeypatch, second=2 in adapted)
    with torch.inference_mode():
        stack = read_stack(base)
        stack.copy_adapter()
        caches = [begun(stack, adapted) for _ in range(2)]
        for _ in range(2):
            plain_BV = step(stack, caches[0], 3, COLUMNS, adapted=True)
            fused_BV = decode_fused.step(stack, caches[1], 3, adapted=True)
            assert torch.allclose(plain_BV, fused_BV, rtol=1e-3, atol=1e-3), float((plain_BV - fused_BV).abs().max())
            for cache in caches:
                cache.ids_B[:3].copy_(plain_BV.argmax(-1))
        for ours, theirs in zip(caches[0].keys + caches[0].values, caches[1].keys + caches[1].values, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["gemma3", "llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("adapted", [[0, 1, 1], [0] * 3, [2, 0, 1]])
def test_the_fused_reading_of_prompts_gives_the_plain_one_s_logits_and_cache(
    tiny_model_folder: Callable[[str], Path], kind: str, adapted: list[int], monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = adapted_base(tiny_model_folder(kind), monkeypatch, second=2 in adapted)
    with torch.inference_mode():
        stack = read_stack(base)
        stack.copy_adapter()
        plain, fused = (Cache(stack, 4, COLUMNS) for _ in range(2))
        plain_BV = prefill(stack, plain, begin(plain, PROMPTS, adapted), any(adapted))
        fused_BV = decode_fused.prompt(stack, fused, begin(fused, PROMPTS, adapted), any(adapted))
        assert torch.allclose(plain_BV, fused_BV, rtol=1e-3, atol=1e-3), float((plain_BV - fused_BV).abs().max())
        for ours, theirs in zip(plain.keys + plain.values, fused.keys + fused.values, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3)
        assert torch.equal(plain.column, fused.column)


@pytest.mark.parametrize("widths", [(40,), (130, 40), (130, 64, 300)])
def test_the_adapter_s_products_are_added_in_one_launch_each_to_its_own(widths: tuple[int, ...]) -> None:
    kernels: Any = decode_fused._kernels()
    device = "cuda" if CARD else "cpu"
    made = torch.Generator(device).manual_seed(0)
    ranks = [3, 16, 5][: len(widths)]
    delta_BR = torch.randn(2, sum(ranks), device=device, generator=made)
    ys = [torch.randn(2, width, device=device, generator=made) for width in widths]
    bs = [torch.randn(width, rank, device=device, generator=made) for width, rank in zip(widths, ranks, strict=True)]
    wanted = [y + part @ b.t() for y, part, b in zip(ys, delta_BR.split(ranks, 1), bs, strict=True)]
    kernels.widen_(ys, delta_BR, bs)
    for y, right in zip(ys, wanted, strict=True):
        assert torch.allclose(y, right, rtol=1e-4, atol=1e-4)


def begun(stack: Stack, adapted: list[int]) -> Cache:
    cache = Cache(stack, 4, COLUMNS)
    cache.ids_B[:3].copy_(prefill(stack, cache, begin(cache, PROMPTS, adapted), any(adapted)).argmax(-1))
    return cache


def test_a_lane_without_the_adapter_keeps_its_sums_to_the_bit() -> None:
    kernels: Any = decode_fused._kernels()
    device = "cuda" if CARD else "cpu"
    y_BN = torch.randn(2, 40, device=device)
    before_BN = y_BN.clone()
    lane_B, owner_R = torch.tensor([0, 1], dtype=torch.int32, device=device), torch.ones(6, dtype=torch.int32, device=device)
    delta_BR = kernels.narrow(torch.randn(2, 64, device=device), torch.randn(6, 64, device=device), lane_B, owner_R)
    kernels.widen_([y_BN], delta_BR, [torch.randn(40, 6, device=device)])
    assert torch.equal(y_BN[0], before_BN[0]) and not torch.equal(y_BN[1], before_BN[1])


def test_kernels_that_disagree_are_left_out_and_it_is_said() -> None:
    said: list[str] = []
    plain_BV = torch.tensor([[1.0, 2.0, 5.0]])
    assert decode_fused.agrees(lambda: plain_BV + 0.001, plain_BV, said.append) and said == []
    assert not decode_fused.agrees(lambda: -plain_BV, plain_BV, said.append)
    assert said == ["Decoding does without its own kernels and is slower: their logits differ from the model's (cosine -1.000)."]

    def broken() -> torch.Tensor:
        raise RuntimeError("no compiler\nat hand")

    assert not decode_fused.agrees(broken, plain_BV, said.append)
    assert said[1] == "Decoding does without its own kernels and is slower: RuntimeError: no compiler"


@pytest.mark.skipif(not CARD, reason="a decoder is kept on a card alone")
def test_the_kept_decoder_tells_what_the_adapter_changes_as_two_forwards_do(tiny_model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    base = adapted_base(tiny_model_folder("gemma3"), monkeypatch)
    lanes, sampling = [Lane(prompt, True) for prompt in PROMPTS], Sampling(max_new_tokens=3)
    for _ in range(3):  # the third time prompts are read by a graph
        generate(base, lanes, sampling)
    told = difference_made(base, probe(base))
    assert told is not None and told == pytest.approx(prove_active(base), rel=1e-2)
    with torch.no_grad():
        for name, parameter in base.model.named_parameters():
            if ".lora_B." in name:
                parameter.zero_()
    assert difference_made(base, probe(base)) == 0.0, "the weights are taken as they are now"
    release()
