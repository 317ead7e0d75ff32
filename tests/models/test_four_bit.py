"""Which 4-bit layers are written out by our kernel, and from how many rows. The kernel itself is proven in tests/gpu."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from bitsandbytes import functional

from workbench.models import decode_fused, four_bit, loading
from workbench.models.adapters import put_new_adapter
from workbench.models.decode_stack import read_stack
from workbench.models.decode_step import project
from workbench.models.four_bit import FourBit
from workbench.models.loading import load_base
from workbench.settings import Lora, Quantization

DTYPE = torch.bfloat16
SLOWER = "4-bit weights are written out by bitsandbytes, which is slower: our kernel can't be used"


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


def test_in_the_place_of_the_layer_s_forward_it_leaves_few_rows_to_that() -> None:
    layer: Any = Layer()
    layer.forward = FourBit(layer, 5).learning
    few, many = torch.randn(2, 2, 128, dtype=DTYPE), torch.randn(1, 5, 128, dtype=DTYPE)
    for x, plain in ((few, 1), (many, 1)):
        made = layer(x)
        assert layer.called == plain and torch.equal(made, torch.nn.functional.linear(x, functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)))


def test_from_how_many_rows_depends_on_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, rows in (((9, 0), 5), ((10, 3), 5), ((8, 0), 5), ((8, 9), 513), ((12, 0), 513)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, told=capability: told)
        four_bit._fewest.cache_clear()
        assert four_bit._fewest(torch.device("cuda")) == rows
    four_bit._fewest.cache_clear()


@pytest.mark.parametrize("adapted", [False, True])
def test_decoding_s_own_kernels_go_by_it_and_the_plain_step_does_not(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, adapted: bool) -> None:
    monkeypatch.setattr(loading, "pick_dtype", lambda device: DTYPE)
    monkeypatch.setattr(four_bit, "_on_card", lambda weight: True)
    monkeypatch.setattr(four_bit, "_fewest", lambda device: 5)
    base = load_base(tiny_folder, Quantization(mode="4-bit"), keep=False)
    if adapted:
        put_new_adapter(base, Lora(rank=4), name="test", seed=1, checkpointing=False)
    written: list[int] = []
    whole = FourBit.whole
    monkeypatch.setattr(FourBit, "whole", lambda self: [written.append(1), whole(self)][1])
    group = read_stack(base).layers[0].qkv
    for rows, times in ((4, 0), (5, 3)):
        x_RK = torch.randn(rows, 64, dtype=DTYPE)
        made = decode_fused._project(None, group, x_RK, None)
        assert len(written) == times
        plain = project(group, x_RK[None], None)
        assert len(written) == times and all(torch.allclose(one, other[0], atol=0.05) for one, other in zip(made, plain, strict=True))


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
    odd.weight.quant_state.shape = torch.Size((128, 64))
    assert not four_bit.readable(odd), "quantized the other way round"
    odd = Layer()
    odd.weight.quant_state = None
    assert not four_bit.readable(odd), "not quantized yet"


def test_a_kernel_that_gives_other_values_is_not_used_and_asked_only_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    asked: list[int] = []

    def wrong(packed: torch.Tensor, state: Any) -> torch.Tensor:
        asked.append(1)
        return functional.dequantize_4bit(packed, state) + 1

    weight = Layer().weight
    assert four_bit._trust(weight)
    monkeypatch.setattr(four_bit, "_trusted", {})
    monkeypatch.setattr(four_bit, "_kernel", lambda: wrong)
    with caplog.at_level(logging.WARNING):
        assert not four_bit._trust(weight) and not four_bit._trust(weight) and len(asked) == 1
    assert [record.getMessage() for record in caplog.records] == [f"{SLOWER} (its values differ)."]


def test_a_kernel_that_fails_is_not_used(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(packed: torch.Tensor, state: Any) -> torch.Tensor:
        raise RuntimeError("no such instruction\nat all")

    monkeypatch.setattr(four_bit, "_kernel", lambda: broken)
    with caplog.at_level(logging.WARNING):
        assert not four_bit._trust(Layer().weight)
    assert [record.getMessage() for record in caplog.records] == [f"{SLOWER} (RuntimeError: no such instruction)."]


def test_want_of_memory_says_nothing_of_the_kernel(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def full(packed: torch.Tensor, state: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    weight = Layer().weight
    with monkeypatch.context() as now, caplog.at_level(logging.WARNING):
        now.setattr(four_bit, "_kernel", lambda: full)
        assert not four_bit._trust(weight)
    assert four_bit._trust(weight) and not caplog.records, "asked again when there is memory"
