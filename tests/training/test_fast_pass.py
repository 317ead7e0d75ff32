"""What a captured pass replaces on a card: here Liger's functions stand as plain torch, written from its own documentation."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.models import four_bit, loading
from workbench.models.adapters import put_new_adapter
from workbench.models.loading import load_base
from workbench.settings import Lora, Quantization
from workbench.training import fast_pass
from workbench.training.fast_pass import FastPass


class _Norm:
    @staticmethod
    def apply(x: torch.Tensor, weight: torch.Tensor, eps: float, offset: float, casting: str, in_place: bool, row_mode: Any) -> torch.Tensor:
        assert not in_place, "the input is still needed by the residual"
        spread = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps)
        if casting == "gemma":
            return (spread * (offset + weight.float())).to(x.dtype)
        assert casting == "llama"
        return (offset + weight) * spread.to(x.dtype)


class _Gelu:
    @staticmethod
    def apply(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.gelu(gate, approximate="tanh") * up


class _Silu:
    @staticmethod
    def apply(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(gate) * up


@pytest.fixture
def liger(monkeypatch: pytest.MonkeyPatch) -> None:
    ops = types.ModuleType("liger_kernel.ops")
    vars(ops).update(LigerRMSNormFunction=_Norm, LigerGELUMulFunction=_Gelu, LigerSiLUMulFunction=_Silu)
    monkeypatch.setitem(sys.modules, "liger_kernel", types.ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.ops", ops)


@pytest.fixture
def written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """4-bit layers as on a card, in bf16, with bitsandbytes' own way in the kernel's place; nothing else is replaced."""
    from bitsandbytes import functional

    monkeypatch.setattr(four_bit, "_kernel", lambda: functional.dequantize_4bit)
    monkeypatch.setattr(four_bit, "_on_card", lambda weight: True)
    monkeypatch.setattr(four_bit, "_fewest", lambda device: 5)
    monkeypatch.setattr(four_bit, "_trusted", {})
    monkeypatch.setattr(loading, "pick_dtype", lambda device: torch.bfloat16)
    monkeypatch.setattr(fast_pass, "_fused", lambda model: [])


def model_of(folder: Path) -> Any:
    return put_new_adapter(load_base(folder, Quantization(mode="none")), Lora(rank=4, dropout=0.0), name="test", seed=1, checkpointing=False)


@pytest.mark.usefixtures("liger")
@pytest.mark.parametrize(("kind", "norms"), [("gemma3", 3 * 6 + 1), ("llama", 3 * 2 + 1), ("qwen2", 3 * 2 + 1), ("qwen3", 3 * 4 + 1)])
def test_every_norm_and_every_gated_mlp_is_replaced_by_an_equal(tiny_model_folder: Callable[[str], Path], kind: str, norms: int) -> None:
    model = model_of(tiny_model_folder(kind))
    found = fast_pass._fused(model)
    names = [type(module).__name__ for module, _ in found]
    assert sum(name.endswith("RMSNorm") for name in names) == norms
    assert sum(name.endswith("MLP") for name in names) == 3
    generator = torch.Generator().manual_seed(0)
    for module, forward in found:
        width = module.weight.shape[0] if hasattr(module, "weight") else 64
        x = torch.randn(2, 5, width, generator=generator)
        assert torch.allclose(forward(x), module(x), atol=1e-5), type(module).__name__


@pytest.mark.usefixtures("liger")
def test_the_model_is_as_it_was_after_a_pass_even_one_that_failed(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(tiny_folder)
    fast = FastPass(model, torch.float32, torch.device("cpu"))
    assert fast.fused == fast.written == fast.casting == [], "on a CPU, or in fp32, nothing is replaced"
    fast = FastPass(model, torch.bfloat16, torch.device("cuda"))
    assert fast.fused and fast.casting
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: torch.no_grad())
    with pytest.raises(RuntimeError, match="in the middle"), fast():
        assert all("forward" in vars(module) for module, _ in fast.fused)
        assert not any(module.cast_input_dtype_enabled for module in fast.casting)
        raise RuntimeError("in the middle")
    assert not any("forward" in vars(module) for module, _ in fast.fused)
    assert all(module.cast_input_dtype_enabled for module in fast.casting)


@pytest.mark.usefixtures("written_out")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_4_bit_layer_under_an_adapter_is_written_out_and_learns_the_same(tiny_folder: Path, checkpointing: bool) -> None:
    base = load_base(tiny_folder, Quantization(mode="4-bit"), keep=False)
    model = put_new_adapter(base, Lora(rank=4, dropout=0.0), name="test", seed=1, checkpointing=checkpointing)
    model.train()
    fast = FastPass(model, torch.bfloat16, torch.device("cuda"))
    fast.casting = []  # there is no autocast for the card here
    under = {id(module.base_layer) for module in model.modules() if hasattr(module, "base_layer")}
    assert len(under) == 3 * 7 and {id(module) for module, _ in fast.written} == under
    ids = torch.randint(4, 60, (1, 40), generator=torch.Generator().manual_seed(0))
    learned = []
    for around in (contextlib.nullcontext(), fast()):
        with around:
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        model.zero_grad(set_to_none=True)
        learned.append((loss.detach(), gradients))
    (plain, plain_gradients), (ours, our_gradients) = learned
    assert torch.allclose(plain, ours, rtol=0.01) and len(plain_gradients) == len(our_gradients) == 2 * len(under)
    one, other = (torch.cat([g.flatten() for g in gradients]) for gradients in (plain_gradients, our_gradients))
    assert float(torch.nn.functional.cosine_similarity(one, other, dim=0)) > 0.999


def test_without_liger_the_plain_modules_stay(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    assert fast_pass._fused(model_of(tiny_folder)) == []


def test_with_an_older_liger_the_plain_modules_stay(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "liger_kernel", types.ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.ops", types.ModuleType("liger_kernel.ops"))
    assert fast_pass._fused(model_of(tiny_folder)) == []
