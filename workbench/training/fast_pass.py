"""What makes a captured pass cheaper on a card, for the time of that pass alone: fused kernels, and the adapter's products in bf16.

A training step of a small batch is bound by memory traffic of small kernels: a norm is seven of them, an activation two, and
peft reads and writes every input once more in fp32. Liger's kernels (Triton) make one of each, and one of ours writes 4-bit weights
out; under autocast the adapter multiplies in bf16 while its parameters, gradients' sums and moments stay in fp32, as the articles' own trainers do it.
Whether a model takes all this with the same losses is proven before anything is trained with it.
"""

from __future__ import annotations

import contextlib
import importlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch

from workbench.models.four_bit import four_bit
from workbench.models.overlap import lean
from workbench.models.torch_start import unspread

Forward = Callable[..., torch.Tensor]
_WANTED = ("LigerRMSNormFunction", "LigerGELUMulFunction", "LigerSiLUMulFunction")


class FastPass:
    """What helps, in two contexts: `autocast` around a forward, the instance itself around forward and backward.

    A layer that is computed again in the backward must find what its first time found. Neither leaves a trace outside.
    """

    def __init__(self, model: Any, dtype: torch.dtype, device: torch.device) -> None:
        self.half = device.type == "cuda" and dtype == torch.bfloat16
        self.fused: list[tuple[Any, Forward]] = _fused(model) if self.half else []
        self.written: list[tuple[Any, Forward]] = _written_out(model) if self.half else []
        # bitsandbytes' adapter layers leave casts to autocast by themselves, peft's plain ones when told.
        self.casting = [m for m in model.modules() if getattr(m, "cast_input_dtype_enabled", False)] if self.half else []

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        if not self.half:
            yield
            return
        for module, forward in (*self.fused, *self.written):
            module.forward = forward
        for module in self.casting:
            module.cast_input_dtype_enabled = False
        try:
            yield
        finally:
            for module, _ in (*self.fused, *self.written):
                del module.forward
            for module in self.casting:
                module.cast_input_dtype_enabled = True


    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """bf16 products in the forward; a layer computed again brings its own. Nothing on a CPU."""
        # Its cache would keep the cast of one pass, made inside a graph, for the next.
        return torch.autocast("cuda", torch.bfloat16, cache_enabled=False) if self.half else contextlib.nullcontext()


def _liger() -> Any:
    """Liger's functions, or None: it looks for a driver when it is imported, and whatever it lacks, the plain modules stay."""
    for leaner in (unspread, contextlib.nullcontext):  # it only tells such tensors from others; a release that wants more of them gets them
        with contextlib.suppress(Exception), lean(), leaner():
            found = importlib.import_module("liger_kernel.ops")
            if all(hasattr(found, name) for name in _WANTED):  # older releases have an empty package there
                return found
    return None


def _fused(model: Any) -> list[tuple[Any, Forward]]:
    """(module, its forward by a fused kernel) for the norms and gated MLPs that are known; none where Liger is not installed."""
    if (ops := _liger()) is None:
        return []
    found: list[tuple[Any, Forward]] = []
    for module in model.modules():
        if "forward" in vars(module):  # somebody else's hook
            continue
        if (norm := _norm(module)) is not None:
            eps, offset, casting = norm

            def normed(self: Any, x: torch.Tensor, eps: float = eps, offset: float = offset, casting: str = casting) -> Any:
                return ops.LigerRMSNormFunction.apply(x, self.weight, eps, offset, casting, False, None)

            found.append((module, types.MethodType(normed, module)))
        elif (act := _gate(module)) is not None:
            product = ops.LigerGELUMulFunction if act == "gelu" else ops.LigerSiLUMulFunction

            def gated(self: Any, x: torch.Tensor, product: Any = product) -> Any:
                return self.down_proj(product.apply(self.gate_proj(x), self.up_proj(x)))

            found.append((module, types.MethodType(gated, module)))
    return found


def _written_out(model: Any) -> list[tuple[Any, Forward]]:
    """(4-bit layer, its forward with the weights written out by one kernel) where that can be had."""
    return [(module, weights.learning) for module in model.modules() if "forward" not in vars(module) and (weights := four_bit(module)) is not None]


def _norm(module: Any) -> tuple[float, float, str] | None:
    """(epsilon, what is added to the weight, when it is cast) of an RMSNorm that is known, or None."""
    name = type(module).__name__
    eps = getattr(module, "eps", getattr(module, "variance_epsilon", None))
    weight = getattr(module, "weight", None)
    if eps is None or not isinstance(weight, torch.Tensor):
        return None
    if name in ("GemmaRMSNorm", "Gemma2RMSNorm", "Gemma3RMSNorm"):
        return float(eps), 1.0, "gemma"
    return (float(eps), 0.0, "llama") if name in ("LlamaRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "MistralRMSNorm") else None


def _gate(module: Any) -> str | None:
    """"gelu" (the tanh form) or "silu" for a gated MLP down(act(gate(x)) · up(x)) of a known class, or None."""
    if type(module).__name__ not in ("Gemma2MLP", "Gemma3MLP", "LlamaMLP", "Qwen2MLP", "Qwen3MLP", "MistralMLP"):
        return None
    config = getattr(module, "config", None)
    act = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    return {"gelu_pytorch_tanh": "gelu", "silu": "silu"}.get(str(act))
