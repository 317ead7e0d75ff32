"""Which 4-bit layers are written out by our kernel, and from how many rows. The kernel itself is proven in tests/gpu."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from bitsandbytes import functional

from workbench.models import four_bit
from workbench.models.adapters import put_new_adapter
from workbench.models.four_bit import FourBit
from workbench.models.loading import load_base
from workbench.settings import Lora, Quantization

DTYPE = torch.bfloat16


class Layer(bitsandbytes.nn.Linear4bit):
    """A layer as it lies on a card, on the CPU."""

    def __init__(self, *, kind: str = "nf4", double: bool = True, bias: torch.Tensor | None = None) -> None:
        super().__init__(128, 64, bias=False, compute_dtype=DTYPE)
        torch.manual_seed(0)
        packed, state = functional.quantize_4bit(torch.randn(64, 128, dtype=DTYPE), quant_type=kind, compress_statistics=double)
        self.weight = bitsandbytes.nn.Params4bit(packed, requires_grad=False, quant_state=state, bnb_quantized=True)
        if bias is not None:
            self.bias = torch.nn.Parameter(bias, requires_grad=False)
        self.called = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.called += 1
        return torch.nn.functional.linear(x, functional.dequantize_4bit(self.weight.data, self.weight.quant_state), self.bias)


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """bitsandbytes' own way in the kernel's place."""
    monkeypatch.setattr(four_bit, "_kernel", lambda: functional.dequantize_4bit)
    monkeypatch.setattr(four_bit, "_trusted", {})
    yield


def test_few_rows_go_by_bitsandbytes_and_many_by_the_kernel() -> None:
    layer: Any = Layer(bias=torch.ones(64, dtype=DTYPE))
    weights = FourBit(layer, 5)
    few, many = torch.randn(4, 128, dtype=DTYPE), torch.randn(5, 128, dtype=DTYPE)
    assert torch.equal(weights.product(few), layer(few)) and layer.called == 2
    assert torch.equal(weights.product(many), layer(many)) and layer.called == 3, "the layer was not asked by product this time"
    wide = many.float()
    with pytest.raises(RuntimeError):  # what the plain layer says of another dtype is left to it
        weights.product(wide)


def test_what_learns_by_it_gets_the_layer_s_gradient() -> None:
    layer: Any = Layer(bias=torch.ones(64, dtype=DTYPE))
    weights = FourBit(layer, 5)
    xs = [torch.randn(2, 3, 128, dtype=DTYPE, requires_grad=True)]
    xs.append(xs[0].detach().clone().requires_grad_())
    outs = [weights.learning(xs[0]), layer(xs[1])]
    assert torch.allclose(outs[0], outs[1], atol=0.05)
    for out in outs:
        out.sum().backward()
    assert torch.equal(*(x.grad for x in xs))  # type: ignore[arg-type]
    frozen = torch.randn(2, 128, dtype=DTYPE)
    assert not weights.learning(frozen).requires_grad, "the first layer's inputs want none"


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [True, False])
def test_a_layer_as_bitsandbytes_packs_it_is_readable(kind: str, double: bool) -> None:
    assert four_bit.readable(Layer(kind=kind, double=double))


def test_an_adapted_layer_is_not_taken_for_its_base(tiny_folder: Path) -> None:
    base = load_base(tiny_folder, Quantization(mode="4-bit"), keep=False)
    model = put_new_adapter(base, Lora(rank=4), name="test", seed=1, checkpointing=False)
    adapted = [module for module in model.modules() if type(module).__name__ == "Linear4bit" and hasattr(module, "base_layer")]
    assert adapted, "peft calls its own layer just so"
    assert not any(four_bit.readable(module) for module in adapted)


def test_what_the_kernel_does_not_know_is_left_to_bitsandbytes() -> None:
    assert four_bit.four_bit(torch.nn.Linear(4, 4)) is None
    assert not four_bit.readable(Layer(bias=torch.ones(64))), "a bias of another dtype"
    odd = Layer()
    odd.weight.quant_state.dtype = torch.float32
    assert not four_bit.readable(odd)
    odd = Layer()
    odd.weight.quant_state.offset = None
    assert not four_bit.readable(odd)
    odd = Layer()
    odd.weight.quant_state.shape = torch.Size((63, 128))
    assert not four_bit.readable(odd), "part of the matrix lies elsewhere"
    odd = Layer()
    odd.weight.quant_state = None
    assert not four_bit.readable(odd), "not quantized yet"


def test_a_kernel_that_gives_other_values_is_not_used_and_asked_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def wrong(packed: torch.Tensor, state: Any) -> torch.Tensor:
        asked.append(1)
        return functional.dequantize_4bit(packed, state) + 1

    weight = Layer().weight
    assert four_bit._trust(weight)
    monkeypatch.setattr(four_bit, "_trusted", {})
    monkeypatch.setattr(four_bit, "_kernel", lambda: wrong)
    assert not four_bit._trust(weight) and not four_bit._trust(weight) and len(asked) == 1


def test_a_kernel_that_fails_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(packed: torch.Tensor, state: Any) -> torch.Tensor:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(four_bit, "_kernel", lambda: broken)
    assert not four_bit._trust(Layer().weight)
