"""A base whose word embeddings and head wait in the host's memory.

They are two fifths of a 4-bit 4B's weights, and a step needs little of them: some hundred rows of the embeddings, and the
head once or twice, which goes over to the card a block of words at a time.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from workbench.models.estimate import BLOCK

OWN_PAGES = 2**25  # bytes from which on glibc gives an allocation a mapping of its own, whatever was freed before


class HostEmbedding(torch.nn.Module):
    """An embedding whose table stays with the host; the rows that are looked up go to `device`."""

    def __init__(self, inner: torch.nn.Module, device: torch.device) -> None:
        super().__init__()
        # The model's first parameter: from it others tell the device that a model computes on.
        self.anchor = torch.nn.Parameter(torch.empty(0, device=device), requires_grad=False)
        self.inner, self.device = inner.to("cpu"), device

    @property
    def weight(self) -> Tensor:
        return self.inner.weight  # type: ignore[return-value]

    def on_host(self, ids: Tensor) -> Tensor:
        """The embeddings (…×H) of `ids`, both with the host."""
        rows: Tensor = self.inner(ids)
        return rows

    def forward(self, ids: Tensor) -> Tensor:
        return self.on_host(ids.cpu()).to(self.device)


class HostHead(torch.nn.Module):
    """A linear head without a bias whose matrix (V×H) stays with the host; it is multiplied by a block of words at a time."""

    def __init__(self, weight_VH: torch.nn.Parameter, device: torch.device) -> None:
        super().__init__()
        self.weight, self.device = weight_VH, device

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = _Streamed.apply(x, self.weight, self.device)  # type: ignore[no-untyped-call]
        return made


class _Streamed(torch.autograd.Function):
    """x · Wᵀ with W in the host's memory. The backward fetches the blocks again: those of the forward are gone by then."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_VH: Tensor, device: torch.device) -> Tensor:
        ctx.weight_VH, ctx.device = weight_VH, device
        return torch.cat([linear(x, block.to(x.dtype)) for _, block in blocks(weight_VH, device)], dim=-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        wanted = gradients[0]
        parts = [wanted[..., at : at + len(block)] @ block.to(wanted.dtype) for at, block in blocks(ctx.weight_VH, ctx.device)]
        return torch.stack(parts).sum(0), None, None


def blocks(weight_VH: Tensor, device: torch.device) -> Iterator[tuple[int, Tensor]]:
    """(its first word, block of at most `BLOCK` words on `device`) over a host's matrix. One buffer: a block is lost with the next."""
    buffer = torch.empty((min(BLOCK, weight_VH.shape[0]), weight_VH.shape[1]), dtype=weight_VH.dtype, device=device)
    for start in range(0, weight_VH.shape[0], BLOCK):
        source = weight_VH.detach()[start : start + BLOCK]
        yield start, buffer[: source.shape[0]].copy_(source, non_blocking=True)


def offload(model: Any, device: torch.device) -> None:
    """Move the embeddings and a plain head to the host's memory; a model with another head keeps both on the card.

    Where that memory can be locked, the card reads it directly.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if type(head) is not torch.nn.Linear or head.bias is not None or not isinstance(getattr(embedding, "weight", None), Tensor):
        return
    tied = embedding.weight is head.weight
    held = HostEmbedding(embedding, device)
    weight = held.inner.weight if tied else torch.nn.Parameter(head.weight.detach().to("cpu"), requires_grad=False)
    for one in {id(w): w for w in (held.weight, weight)}.values():
        _lock(one, device)
    model.set_input_embeddings(held)
    model.set_output_embeddings(HostHead(weight, device))


def host_parts(model: Any) -> tuple[HostEmbedding, HostHead] | None:
    """The embeddings and head of a model that keeps them with the host, or None."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    return (embedding, head) if isinstance(embedding, HostEmbedding) and isinstance(head, HostHead) else None


def _lock(weight: Tensor, device: torch.device) -> None:
    """Keep a tensor's memory where it is, so that the card reads it by itself; without it the copies are slower, and right.

    It is let go with the tensor: whatever gets that memory next could not be copied to the card any more. A small tensor shares
    its pages with others and goes into locked ones of its own.
    """
    size = weight.numel() * weight.element_size()
    if device.type != "cuda" or weight.is_pinned():
        return
    with contextlib.suppress(RuntimeError):
        if size < OWN_PAGES:
            weight.data = weight.data.pin_memory()
            return
        runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        if int(runtime.cudaHostRegister(weight.data_ptr(), size, 0)) == 0:
            weakref.finalize(weight, _unlock, runtime, weight.data_ptr()).atexit = False


def _unlock(runtime: Any, address: int) -> None:
    with contextlib.suppress(RuntimeError):  # the card is gone
        runtime.cudaHostUnregister(address)
