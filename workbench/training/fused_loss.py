"""Cross-entropy without all logits at once: the head and the loss run over a few labels at a time, their gradient beside.

A vocabulary of 262k words makes the logits of 450 labels half a GiB a copy in fp32, and autograd keeps four. Here one
chunk's logits live at a time, and the gradient of the hidden states is made while they are there (the idea of Liger's
fused linear cross-entropy; the head is frozen, so it needs no gradient of its own).
"""

from __future__ import annotations

from typing import Any

import torch

from workbench.models.estimate import CHUNK


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_LH: torch.Tensor, weight_VH: torch.Tensor, targets_L: torch.Tensor, weights_L: torch.Tensor, softcap: float | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        learns = ctx.needs_input_grad[0]
        gradient_LH = torch.empty_like(hidden_LH) if learns else None
        losses_L = torch.empty(hidden_LH.shape[0], dtype=torch.float32, device=hidden_LH.device)
        for start in range(0, hidden_LH.shape[0], CHUNK):
            part = slice(start, start + CHUNK)
            losses_L[part], gradient = _chunk(hidden_LH[part], weight_VH, targets_L[part], weights_L[part], softcap, learns=learns)
            if gradient_LH is not None and gradient is not None:
                gradient_LH[part] = gradient
        if gradient_LH is not None:
            ctx.save_for_backward(gradient_LH)
        ctx.mark_non_differentiable(losses_L)
        return (losses_L * weights_L).sum(), losses_L

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        (gradient_LH,) = ctx.saved_tensors
        return gradient_LH * gradients[0].to(gradient_LH.dtype), None, None, None, None


def _chunk(
    hidden_CH: torch.Tensor, weight_VH: torch.Tensor, targets_C: torch.Tensor, weights_C: torch.Tensor, softcap: float | None, *, learns: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(losses in nats [C], gradient of their weighted sum for the hidden states [C, H] or None)."""
    logits_CV = (hidden_CH @ weight_VH.t()).float()
    bent_CV = None
    if softcap:
        bent_CV = torch.tanh(logits_CV / softcap)
        logits_CV = bent_CV * softcap
    total_C = torch.logsumexp(logits_CV, dim=-1)
    losses_C = total_C - logits_CV.gather(1, targets_C[:, None])[:, 0]
    if not learns:
        return losses_C, None
    slope_CV = logits_CV.sub_(total_C[:, None]).exp_()
    slope_CV.scatter_add_(1, targets_C[:, None], torch.full_like(losses_C, -1.0)[:, None])
    slope_CV *= weights_C[:, None]
    if bent_CV is not None:
        slope_CV *= 1 - bent_CV * bent_CV
    return losses_C, slope_CV.to(weight_VH.dtype) @ weight_VH


def head_loss(
    hidden_LH: torch.Tensor, weight_VH: torch.Tensor, targets_L: torch.Tensor, weights_L: torch.Tensor, softcap: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(Σ weight · cross-entropy, fp32 scalar; the L losses, nats, without a gradient) of the head `weight_VH` on hidden states.

    `weights_L` is 0 where a slot is empty. `softcap` is the model's bound on logits (Gemma 2): softcap · tanh(logit / softcap).
    """
    total, losses_L = _HeadLoss.apply(hidden_LH, weight_VH, targets_L, weights_L, softcap)  # type: ignore[no-untyped-call]
    return total, losses_L
