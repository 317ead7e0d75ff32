"""Cross-entropy without all logits at once: the head and the loss run over a few labels at a time, their gradient beside.

A vocabulary of 262k words makes the logits of 450 labels half a GiB a copy in fp32, and autograd keeps four. Here one
chunk's logits live at a time, and the gradient of the hidden states is made while they are there (the idea of Liger's
fused linear cross-entropy; the head is frozen, so it needs no gradient of its own).
"""

from __future__ import annotations

from typing import Any

import torch

from workbench.models.estimate import CHUNK
from workbench.models.offload import blocks

IN_CACHE = 2**18  # logits that are worked on at once on a CPU: 1 MiB in fp32, or one label's

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
    logits_CV, bent_CV = _bent(hidden_CH @ weight_VH.t(), softcap)
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


class _StreamedLoss(_HeadLoss):
    """The same with a head that waits in the host's memory: it comes by in blocks of words, twice where a gradient is wanted."""

    @staticmethod
    def forward(
        ctx: Any, hidden_LH: torch.Tensor, weight_VH: torch.Tensor, targets_L: torch.Tensor, weights_L: torch.Tensor, softcap: float | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        top_L = torch.full_like(weights_L, -torch.inf)
        sum_L, wanted_L = torch.zeros_like(weights_L), torch.zeros_like(weights_L)
        for start, block_BH in blocks(weight_VH, hidden_LH.device):
            logits_LB, _ = _bent(hidden_LH @ block_BH.t(), softcap)
            here_L = torch.maximum(top_L, logits_LB.amax(-1))
            sum_L = sum_L * (top_L - here_L).exp() + (logits_LB - here_L[:, None]).exp().sum(-1)
            top_L = here_L
            places_L, inside_L = _within(targets_L, start, len(block_BH))
            wanted_L += torch.where(inside_L, logits_LB.gather(1, places_L[:, None])[:, 0], 0.0)
        total_L = top_L + sum_L.log()
        losses_L = total_L - wanted_L
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(_streamed_gradient(hidden_LH, weight_VH, targets_L, weights_L, total_L, softcap))
        ctx.mark_non_differentiable(losses_L)
        return (losses_L * weights_L).sum(), losses_L


def _streamed_gradient(
    hidden_LH: torch.Tensor, weight_VH: torch.Tensor, targets_L: torch.Tensor, weights_L: torch.Tensor, total_L: torch.Tensor, softcap: float | None
) -> torch.Tensor:
    """The gradient of Σ weight · loss for the hidden states; `total_L` are the logarithms of the softmax's sums."""
    gradient_LH = torch.zeros_like(hidden_LH, dtype=torch.float32)
    for start, block_BH in blocks(weight_VH, hidden_LH.device):
        logits_LB, bent_LB = _bent(hidden_LH @ block_BH.t(), softcap)
        slope_LB = (logits_LB - total_L[:, None]).exp_()
        places_L, inside_L = _within(targets_L, start, len(block_BH))
        slope_LB.scatter_add_(1, places_L[:, None], -inside_L.to(slope_LB.dtype)[:, None])
        slope_LB *= weights_L[:, None]
        if bent_LB is not None:
            slope_LB *= 1 - bent_LB * bent_LB
        gradient_LH += slope_LB.to(block_BH.dtype) @ block_BH
    return gradient_LH.to(hidden_LH.dtype)


def _bent(logits: torch.Tensor, softcap: float | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(the logits in fp32, bound softly where the model does so; the tanh in that, or None)."""
    if not softcap:
        return logits.float(), None
    bent = torch.tanh(logits.float() / softcap)
    return bent * softcap, bent


def _within(targets_L: torch.Tensor, start: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(the targets' places in the block of words that begins at `start`, moved into it where they are not; whether they are)."""
    places_L = targets_L - start
    return places_L.clamp(0, size - 1), (places_L >= 0) & (places_L < size)


def head_loss(
    hidden_LH: torch.Tensor, weight_VH: torch.Tensor, targets_L: torch.Tensor, weights_L: torch.Tensor, softcap: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(Σ weight · cross-entropy, fp32 scalar; the L losses, nats, without a gradient) of the head `weight_VH` on hidden states.

    `weights_L` is 0 where a slot is empty. `softcap` is the model's bound on logits (Gemma 2): softcap · tanh(logit / softcap).
    """
    way = _HeadLoss if weight_VH.device == hidden_LH.device else _StreamedLoss
    total, losses_L = way.apply(hidden_LH, weight_VH, targets_L, weights_L, softcap)  # type: ignore[no-untyped-call]
    return total, losses_L


class _LossInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_LV: torch.Tensor, targets_L: torch.Tensor) -> torch.Tensor:
        learns, total = ctx.needs_input_grad[0], torch.zeros((), dtype=torch.float32)
        few = max(1, IN_CACHE // logits_LV.shape[1])
        for start in range(0, len(targets_L), few):
            part_CV, targets_C1 = logits_LV[start : start + few], targets_L[start : start + few, None]
            top_C1, wanted_C1 = part_CV.amax(-1, keepdim=True), part_CV.gather(1, targets_C1)
            sum_C1 = part_CV.sub_(top_C1).exp_().sum(-1, keepdim=True)
            total += (sum_C1.log() + top_C1 - wanted_C1).sum()
            if learns:
                part_CV.div_(sum_C1).scatter_add_(1, targets_C1, torch.full_like(wanted_C1, -1.0))
        ctx.slope_LV = logits_LV if learns else None
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        # The node outlives its backward, and must not keep these for the next pack's.
        slope_LV, ctx.slope_LV = ctx.slope_LV, None
        return slope_LV.mul_(gradients[0]), None


def loss_in_place(logits_LV: torch.Tensor, targets_L: torch.Tensor) -> torch.Tensor:
    """Summed cross-entropy (nats, fp32 scalar) of fp32 logits on a CPU, which are lost: their gradient is made where they stood, a few labels at a time.

    One copy of L × V numbers instead of four, and each label's numbers stay in the processor's cache from first to last. Has one backward.
    """
    total: torch.Tensor = _LossInPlace.apply(logits_LV, targets_L)  # type: ignore[no-untyped-call]
    return total
