"""What makes an eager step cheaper on a CPU: fewer passes over memory around the same products, for the time of that step alone.

Half of a step of a small model is not matrix products there: drawing the dropout's masks one number at a time, reading and writing an
adapter's input and output once more each, attention over all pairs of a pack of which each row wants its own alone, and four copies of
the logits. Whether a model takes all this with the same losses and gradients is proven before anything is trained with it.
"""

from __future__ import annotations

import contextlib
import math
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from workbench.models.faults import named
from workbench.training.counted_dropout import recomputes
from workbench.training.fused_loss import loss_in_place
from workbench.training.pack import Pack
from workbench.training.static_batch import NotStaticError, raw_of
from workbench.training.step import inputs_of

ROWS = "workbench_rows"  # the attention's name in transformers' tables
CLOSE = 1e-3  # relative distance of a gradient matrix, and of a loss, from the plain way's


class CpuPass:
    """A way of one forward and backward (see `step.Way`). It leaves no trace outside of `around`."""

    def __init__(self, model: Any) -> None:
        self.layers: list[tuple[Any, Callable[..., Tensor]]] = [(m, types.MethodType(_adapted, m)) for m in model.modules() if _is_plain(m)]
        self.config: Any = raw_of(model).get_decoder().config
        self.by_rows = _by_rows(self.config)

    def signs(self) -> list[int]:
        """What tells this way from another that might be taken of the same model."""
        return [len(self.layers), int(self.by_rows)]

    @contextlib.contextmanager
    def around(self, packed: Pack) -> Iterator[None]:
        """Around a forward and its backward, in which a layer may be computed again."""
        for module, forward in self.layers:
            module.forward = forward
        was = self.config._attn_implementation
        if self._fits(packed):
            self.config._attn_implementation = ROWS
        try:
            yield
        finally:
            self.config._attn_implementation = was
            for module, _ in self.layers:
                del module.forward

    def loss_sum(self, model: Any, packed: Pack, device: torch.device) -> Tensor:
        """`step.loss_sum`, within `around`."""
        ends: dict[str, Any] = {"cu_seq_lens_q": _ends(packed)} if self._fits(packed) else {}
        output = model(**inputs_of(packed, device), use_cache=False, **ends)
        return loss_in_place(output.logits.flatten(0, 1).float(), torch.tensor(packed.targets, device=device))

    def _fits(self, packed: Pack) -> bool:
        """Whether attention can go row by row: in a row longer than the sliding window a token would see too much."""
        window = getattr(self.config, "sliding_window", None)
        return self.by_rows and (not window or max(packed.positions) < window)

    def prove(self, model: Any, packed: Pack) -> None:
        """Raises `NotStaticError` if on `packed` this way has not the plain loss and gradient. The model, its mode and its gradients stay."""
        device = torch.device("cpu")
        # What was not seen here is not trusted later.
        self.by_rows = self._fits(packed) and packed.positions.count(0) > 1
        learned = [p for p in model.parameters() if p.requires_grad]

        def told(loss: Tensor) -> list[Tensor | None]:
            return [loss.detach(), *torch.autograd.grad(loss, learned, allow_unused=True)]  # a tower's adapter never meets a text

        with _as_proven(model):
            logits_LV = model(**inputs_of(packed, device), use_cache=False).logits.flatten(0, 1)
            # In fp32 torch's own sum over a large vocabulary is the less exact one of the two.
            expected = told(cross_entropy(logits_LV.double(), torch.tensor(packed.targets), reduction="sum"))
            del logits_LV
            try:
                with self.around(packed):
                    found = told(self.loss_sum(model, packed, device))
            except Exception as exc:  # it hands its attention no rows, or keeps its logits for the backward
                raise NotStaticError(named(exc)) from exc
        apart = [_apart(a, b) for a, b in zip(found, expected, strict=True)]
        if not all(distance <= CLOSE for distance in apart):  # so that no number counts as too far
            raise NotStaticError(f"its loss or gradient is {max(apart):.2g} from the plain one")


def _apart(found: Tensor | None, expected: Tensor | None) -> float:
    """The relative distance of two tensors; both may be missing."""
    if found is None or expected is None:
        return 0.0 if found is expected else math.inf
    return float((found - expected).norm() / expected.norm().clamp(min=1e-12))


@contextlib.contextmanager
def _as_proven(model: Any) -> Iterator[None]:
    """Within, the adapter says something (a new one's B is zero, and would hide a wrong A) and nothing is dropped. Checkpointing stays on."""
    was_training = model.training
    model.train(was_training and recomputes(model))
    dropouts = [m for m in model.modules() if isinstance(m, nn.Dropout) and m.training]
    outer = [p for name, p in model.named_parameters() if ".lora_B." in name and p.requires_grad]
    was = [p.detach().clone() for p in outer]
    try:
        for dropout in dropouts:
            dropout.eval()
        with torch.no_grad():
            for p in outer:  # without a random number: the run's own must stay as they are
                p.copy_((0.1 * torch.arange(p.numel()) ** 2).sin().view_as(p) * 0.02)
        yield
    finally:
        with torch.no_grad():
            for p, value in zip(outer, was, strict=True):
                p.copy_(value)
        model.train(was_training)


# -- an adapter and its layer -----------------------------------------------------------------------


def _is_plain(module: Any) -> bool:
    """Whether it is peft's plain adapter on a frozen fp32 layer, with nothing added that `_adapted` does not know."""
    from peft.tuners.lora import Linear

    if type(module) is not Linear or "forward" in vars(module) or module.merged or module.disable_adapters or len(module.active_adapters) != 1:
        return False
    name, layer = module.active_adapters[0], module.base_layer
    if name not in module.lora_A or name in module.lora_variant or type(layer) is not nn.Linear:
        return False
    parts = (layer, module.lora_A[name], module.lora_B[name])
    frozen = not any(p.requires_grad for p in layer.parameters())
    known = all(part.weight.dtype == torch.float32 for part in parts) and all(part.bias is None for part in parts[1:])
    return frozen and known and type(module.lora_dropout[name]) in (nn.Dropout, nn.Identity)


def _adapted(self: Any, x: Tensor) -> Tensor:
    """The forward of peft's `lora.Linear`: W x + b + scaling · B A dropout(x)."""
    name, layer = self.active_adapters[0], self.base_layer
    dropout = self.lora_dropout[name]
    share = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
    made: Tensor = _Adapted.apply(x, layer.weight, layer.bias, self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name], share)  # type: ignore[no-untyped-call]
    return made


def kept_mask(like: Tensor, share: float) -> Tensor:
    """0 in about `share` of the places and 1 in the others, drawn by torch's generator, 16 bits a place: `bernoulli_` takes five times as long."""
    count = like.numel()
    drawn = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count].view_as(like)
    return torch.ge(drawn, round(share * 2**16) - 2**15, out=torch.empty_like(like))


class _Adapted(torch.autograd.Function):
    """W x + b + s · B A (m ∘ x) with the mask m of a dropout; x [..., I], W [O, I], A [r, I], B [O, r], s the scaling / (1 - share)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_RI: Tensor, b_OR: Tensor, scaling: float, share: float) -> Tensor:
        x_TI = x.reshape(-1, x.shape[-1])
        mask_TI = kept_mask(x_TI, share) if share else None
        inner_TR = (x_TI if mask_TI is None else x_TI * mask_TI) @ a_RI.t()
        scale = scaling / (1.0 - share)
        made_TO = x_TI @ weight_OI.t() if bias_O is None else torch.addmm(bias_O, x_TI, weight_OI.t())
        made_TO.addmm_(inner_TR, b_OR.t(), alpha=scale)
        ctx.save_for_backward(x_TI, mask_TI, inner_TR, weight_OI, a_RI, b_OR)
        ctx.scale, ctx.shape = scale, x.shape
        return made_TO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, mask_TI, inner_TR, weight_OI, a_RI, b_OR = ctx.saved_tensors
        slope_TO = gradients[0].reshape(-1, gradients[0].shape[-1])
        slope_TR = (slope_TO @ b_OR).mul_(ctx.scale)
        slope_b_RO = (inner_TR.t() @ slope_TO).mul_(ctx.scale)  # so and turned: a tall product takes twice as long
        slope_a_RI = slope_TR.t() @ (x_TI if mask_TI is None else x_TI * mask_TI)
        slope_x = None
        if ctx.needs_input_grad[0]:
            slope_TI = slope_TO @ weight_OI
            slope_TI = slope_TI.addmm_(slope_TR, a_RI) if mask_TI is None else slope_TI.addcmul_(slope_TR @ a_RI, mask_TI)
            slope_x = slope_TI.view(ctx.shape)
        return slope_x, None, None, slope_a_RI, slope_b_RO.t(), None, None


# -- attention --------------------------------------------------------------------------------------


def _ends(packed: Pack) -> Tensor:
    """Where rows begin in the pack, and its end."""
    return torch.tensor([*(i for i, position in enumerate(packed.positions) if position == 0), len(packed.positions)])


def _by_rows(config: Any) -> bool:
    """Whether the model's attention is one that `_rows_attention` can stand for; registers it."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if config._attn_implementation != "sdpa" or set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}:
        return False
    ALL_ATTENTION_FUNCTIONS.register(ROWS, _rows_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(ROWS, lambda *given, **more: None)
    return True


def _rows_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, dropout: float = 0.0, scaling: float | None = None,
    *, cu_seq_lens_q: Tensor, **more: Any,
) -> tuple[Tensor, None]:
    """Causal attention [1, heads, T, D] -> [1, T, heads, D] within each row of a pack; `cu_seq_lens_q` as transformers hands it to kernels for packs."""
    lengths: list[int] = cu_seq_lens_q.diff().tolist()
    shared = key.shape[1] != query.shape[1]
    rows = [
        scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=shared)
        for q, k, v in zip(*(torch.split(whole, lengths, 2) for whole in (query, key, value)), strict=True)
    ]
    return torch.cat(rows, 2).transpose(1, 2).contiguous(), None
