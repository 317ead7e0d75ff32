"""4-bit weights written out by our kernel are bitsandbytes' own, to the bit. Runs on the card, or else in Triton's interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.gpu.on_triton import CARD, DEVICE, RUNS
from workbench.models import four_bit
from workbench.models.four_bit_kernel import write_out

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
