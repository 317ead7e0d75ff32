"""What a captured pass replaces on a card: here Liger's functions stand as plain torch, written from its own documentation."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

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
    assert fast.replaced == [] and fast.casting == [], "on a CPU, or in fp32, nothing is replaced"
    fast = FastPass(model, torch.bfloat16, torch.device("cuda"))
    assert fast.replaced and fast.casting
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: torch.no_grad())
    with pytest.raises(RuntimeError, match="in the middle"), fast():
        assert all("forward" in vars(module) for module, _ in fast.replaced)
        assert not any(module.cast_input_dtype_enabled for module in fast.casting)
        raise RuntimeError("in the middle")
    assert not any("forward" in vars(module) for module, _ in fast.replaced)
    assert all(module.cast_input_dtype_enabled for module in fast.casting)


def test_without_liger_the_plain_modules_stay(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    assert fast_pass._fused(model_of(tiny_folder)) == []
