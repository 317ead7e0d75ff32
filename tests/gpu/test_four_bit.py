"""4-bit weights written out by our kernel are bitsandbytes' own, to the bit. Runs on the card, or else in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.gpu.on_triton import CARD, DEVICE, RUNS
from workbench.models import decode_fused, four_bit, loading
from workbench.models.adapters import put_new_adapter
from workbench.models.decode_stack import read_stack
from workbench.models.decode_step import Cache, begin, prefill, step
from workbench.models.four_bit_kernel import write_out
from workbench.models.loading import load_base
from workbench.settings import Lora, Quantization

bitsandbytes = pytest.importorskip("bitsandbytes")  # only now: it imports Triton
functional = bitsandbytes.functional
pytestmark = RUNS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16] if CARD else [torch.float16])  # the interpreter cuts bf16 off instead of rounding it
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (24, 200), (513, 320)])
def test_written_out_weights_are_bitsandbytes_own(rows: int, columns: int, kind: str, double: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(rows)
    plain = torch.randn(rows, columns, dtype=dtype, device=DEVICE)
    packed, state = functional.quantize_4bit(plain, quant_type=kind, compress_statistics=double)
    assert torch.equal(write_out(packed, state), functional.dequantize_4bit(packed, state))


def layer(dtype: torch.dtype = torch.bfloat16, *, bias: bool = False) -> Any:
    torch.manual_seed(0)
    made = bitsandbytes.nn.Linear4bit(128, 96, bias=bias, compute_dtype=dtype, quant_type="nf4").to(dtype)
    return made.to(DEVICE)


@pytest.mark.skipif(not CARD, reason="bitsandbytes quantizes a layer when it comes to a card")
@pytest.mark.parametrize("bias", [False, True])
def test_products_and_gradients_are_the_layer_s_own(bias: bool) -> None:
    module = layer(bias=bias)
    weights = four_bit.four_bit(module)
    assert weights is not None
    weights.fewest = 5
    for rows in (1, 4, 5, 40):
        x_RK = torch.randn(rows, 128, dtype=torch.bfloat16, device=DEVICE)
        with torch.no_grad():
            assert torch.allclose(weights.product(x_RK), module(x_RK), rtol=0.02, atol=0.02)
    xs = [torch.randn(1, 700, 128, dtype=torch.bfloat16, device=DEVICE, requires_grad=True)]
    xs.append(xs[0].detach().clone().requires_grad_())
    outs = [weights.learning(xs[0]), module(xs[1])]
    assert torch.allclose(outs[0], outs[1], rtol=0.02, atol=0.02)
    slope = torch.randn_like(outs[0])
    for out in outs:
        out.backward(slope)
    assert xs[0].grad is not None and xs[1].grad is not None and torch.equal(xs[0].grad, xs[1].grad)


@pytest.mark.parametrize("rows", [1, 6])
def test_a_whole_fused_step_of_a_4_bit_base_gives_the_plain_step_s_logits(tiny_model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(loading, "pick_dtype", lambda device: torch.bfloat16 if CARD else torch.float16)
    monkeypatch.setattr(four_bit, "_on_card", lambda weight: True)
    monkeypatch.setattr(four_bit, "_fewest", lambda device: 5)
    base = load_base(tiny_model_folder("qwen3"), Quantization(mode="4-bit"), keep=False)
    model = put_new_adapter(base, Lora(rank=4), name="r", seed=1, checkpointing=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
    model.eval()
    written: list[int] = []
    whole = four_bit.FourBit.whole
    monkeypatch.setattr(four_bit.FourBit, "whole", lambda self: [written.append(1), whole(self)][1])
    with torch.inference_mode():
        stack = read_stack(base)
        stack.copy_adapter()
        logits = []
        for way in (lambda cache: step(stack, cache, rows, 64, adapted=True), lambda cache: decode_fused.step(stack, cache, rows, adapted=True)):
            cache = Cache(stack, rows, 64)
            prompts = [(2, 40 + i, 41) for i in range(rows)]
            cache.ids_B[:rows].copy_(prefill(stack, cache, begin(cache, prompts, [i % 2 for i in range(rows)]), True).argmax(-1))
            logits.append(way(cache).float())
    assert len(written) == (3 * 7 if rows >= 5 else 0)
    plain_BV, fused_BV = (one - one.mean(-1, keepdim=True) for one in logits)
    assert float(torch.nn.functional.cosine_similarity(plain_BV, fused_BV, dim=-1).min()) > 0.99
