"""The passes of decoding with few kernels, for CUDA: the same sums as `decode_step`'s, some fifteen launches a layer instead of ninety for a token."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.models import triton_kernels
from workbench.models.decode_stack import Group, Layer, Stack
from workbench.models.decode_step import Cache, Marks, Prompt, signs
from workbench.models.faults import lost_to, named

ACTIVATIONS = ("gelu_pytorch_tanh", "silu")
WIDEST = 16_384  # of the residual stream: one program norms a whole row
OWN_PRODUCTS = 8  # rows; beyond them the adapter's products are left to cuBLAS
OWN_RANK = 64  # and beyond that rank the second ones
BESIDE = True  # whether a graph's first products go on a stream of their own
LIKE = 0.98  # cosine between the logits of both steps: bf16 noise is below 0.001, a wrong kernel is nowhere near


def _kernels() -> Any:
    return triton_kernels.kernels("workbench.models.decode_kernels")


def usable(stack: Stack) -> bool:
    """Whether the kernels fit the card and the model's shape."""
    if stack.device.type != "cuda" or torch.cuda.get_device_capability(stack.device) < (8, 0):
        return False
    layer_fits = all(layer.head_dim in (32, 64, 128, 256) for layer in stack.layers)
    width = stack.layers[0].before_attention.weight.numel()
    return layer_fits and width <= WIDEST and stack.activation in ACTIVATIONS and _kernels() is not None


def _project(kernels: Any, group: Group, x_BK: Tensor, marks: Marks | None) -> list[Tensor]:
    if marks is None or group.a_RK is None:
        return [member.product(x_BK) for member in group.members]
    own = x_BK.shape[0] <= OWN_PRODUCTS
    if own:
        delta_BR, join = _narrowed(kernels, group, x_BK, marks)
        made = [member.product(x_BK) for member in group.members]
        join()
    else:
        made = [member.product(x_BK) for member in group.members]
        delta_BR = F.linear(x_BK, group.a_RK) * marks.of(group)
    adapted = [(y_BN, member) for y_BN, member in zip(made, group.members, strict=True) if member.rank]
    if own and all(member.rank <= OWN_RANK for _, member in adapted):
        kernels.widen_([y_BN for y_BN, _ in adapted], delta_BR, [member.b_NR for _, member in adapted])
        return made
    begun = 0
    for y_BN, member in adapted:
        y_BN.addmm_(delta_BR[:, begun : begun + member.rank], member.b_NR.t())
        begun += member.rank
    return made


def _narrowed(kernels: Any, group: Group, x_BK: Tensor, marks: Marks) -> tuple[Tensor, Callable[[], None]]:
    """The adapters' first product, and what waits for it. In a graph it goes beside the base's products, which are longer and hide it."""
    if not (BESIDE and x_BK.is_cuda and torch.cuda.is_current_stream_capturing()):
        return kernels.narrow(x_BK, group.a_RK, marks.lane_B, group.owner_R), lambda: None
    main, beside = torch.cuda.current_stream(x_BK.device), _stream(x_BK.device)
    beside.wait_stream(main)
    with torch.cuda.stream(beside):  # what it allocates is only used again after it has waited for the main stream again
        delta_BR = kernels.narrow(x_BK, group.a_RK, marks.lane_B, group.owner_R)
    return delta_BR, lambda: main.wait_stream(beside)


@lru_cache(maxsize=8)
def _stream(device: torch.device) -> Any:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _through(stack: Stack, x_RC: Tensor, marks: Marks | None, attend: Callable[[int, Layer, Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """R tokens through all layers, normed for the head; `attend(place, layer, q, k, v)` turns queries and keys, keeps keys and values, and looks."""
    kernels = _kernels()
    eps, offset = stack.eps, stack.offset
    normed_RC: Tensor = kernels.join_norm(x_RC, None, None, stack.layers[0].before_attention, eps, offset)[1]
    for place, layer in enumerate(stack.layers):
        q, k, v = _project(kernels, layer.qkv, normed_RC, marks)
        [branch] = _project(kernels, layer.o, attend(place, layer, q, k, v), marks)
        x_RC, normed_RC = kernels.join_norm(x_RC, branch, layer.after_attention, layer.before_mlp, eps, offset)
        gate, up = _project(kernels, layer.gate_up, normed_RC, marks)
        [branch] = _project(kernels, layer.down, kernels.gated(gate, up, stack.activation), marks)
        following = stack.layers[place + 1].before_attention if place + 1 < len(stack.layers) else stack.norm
        x_RC, normed_RC = kernels.join_norm(x_RC, branch, layer.after_mlp, following, eps, offset)
        signs(layer, x_RC)
    return normed_RC


def prompt(stack: Stack, cache: Cache, ids_BT: Tensor, adapted: bool, *, masked: bool = True) -> Tensor:
    """As `decode_step.prefill`."""
    kernels = _kernels()
    lanes, tokens = ids_BT.shape
    walk = Prompt(cache, lanes, tokens, masked=masked)
    marks = Marks(cache.lane_B[:lanes, None].expand(lanes, tokens).reshape(-1)) if adapted else None
    positions_R = walk.positions_BT.reshape(-1)

    def attend(place: int, layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = kernels.turn_prompt(layer, q, k, positions_R, cache.tables[layer.rope], stack.eps, stack.offset)
        q, k, v = (part.view(lanes, tokens, -1, layer.head_dim).transpose(1, 2) for part in (q, k, v))
        seen: Tensor = walk.attend(place, layer, q, k, v)
        return seen.reshape(lanes * tokens, -1)

    normed_RC = _through(stack, stack.embed(ids_BT).view(lanes * tokens, -1), marks, attend)
    logits_BV: Tensor = stack.head(normed_RC.view(lanes, tokens, -1)[:, -1])
    return logits_BV


def step(stack: Stack, cache: Cache, rows: int, adapted: bool) -> Tensor:
    """As `decode_step.step` over the whole cache."""
    kernels = _kernels()

    def attend(place: int, layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen: Tensor = kernels.attend(layer, kernels.turn(layer, q, k, v, cache, place, stack.eps, stack.offset), cache, place)
        return seen

    normed_BC = _through(stack, stack.embed(cache.ids_B[:rows]), Marks(cache.lane_B[:rows]) if adapted else None, attend)
    logits_BV: Tensor = stack.head(normed_BC)
    cache.column.add_(1)
    return logits_BV


def agrees(fused: Callable[[], Tensor], plain_BV: Tensor, say: Callable[[str], None]) -> bool:
    """Whether the fused step can be trusted here: its logits point where the plain step's do. Says so where not.

    A lost device is raised; any other fault of a kernel only means that it is not used.
    """
    made: list[Tensor] = []
    if not runs(lambda: made.append(_centred(fused().float())), plain_BV.device, say):
        return False
    likeness = float(F.cosine_similarity(made[0], _centred(plain_BV.float()), dim=-1).min())
    if likeness >= LIKE:
        return True
    say(f"Decoding does without its own kernels and is slower: their logits differ from the model's (cosine {likeness:.3f}).")
    return False


def runs(fused: Callable[[], Any], device: torch.device, say: Callable[[str], None]) -> bool:
    """Whether the fused kernels can be made and launched at all; as `agrees` says it."""
    try:
        fused()
        torch.zeros(1, device=device).item()  # waits: a kernel's fault comes late
        return True
    except Exception as exc:
        if (lost := lost_to(device)) is not None:
            raise lost from exc
        say(f"Decoding does without its own kernels and is slower: {named(exc)}")
        return False


def _centred(logits_BV: Tensor) -> Tensor:
    return logits_BV - logits_BV.mean(-1, keepdim=True)
