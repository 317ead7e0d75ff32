"""The next smaller plan after one that did not fit: one change at a time, the cheapest for the answers first."""

from __future__ import annotations

from typing import Any

from workbench.settings import RunSettings

SMALLEST_BUDGET = 128  # tokens: below it a forward is all launches, and rows are rarely shorter than a few dozen tokens
SMALLEST_RANK = 8
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "out_proj")


def next_smaller(
    settings: RunSettings, has_gpu: bool, *, largest_forward: int | None = None, longest_row: int = 0
) -> tuple[RunSettings, str] | None:
    """The settings with one thing changed so that less memory is taken, and the sentence that says what; None when nothing is left.

    `largest_forward` (tokens of the largest forward that the run did or would do) keeps the token budget from being halved
    without any effect; `longest_row` (tokens) says when halving it no longer helps, since a row is never cut.
    On a GPU the base weights go first; on a CPU they are kept for last, since quantized arithmetic is slow there.
    """
    for change in (_four_bit, _checkpointing) if has_gpu else (_checkpointing,):
        if made := change(settings, has_gpu):
            return made
    return (
        _offload(settings, has_gpu) or _less_at_once(settings, largest_forward, longest_row)
        or _dora_dropout(settings, has_gpu) or _smaller_adapter(settings) or _four_bit(settings, has_gpu)
    )


def _changed(settings: RunSettings, group: str, **values: Any) -> RunSettings:
    return settings.model_copy(update={group: getattr(settings, group).model_copy(update=values)})


def _four_bit(settings: RunSettings, has_gpu: bool) -> tuple[RunSettings, str] | None:
    mode = settings.quantization.resolved(has_gpu).mode
    if mode == "4-bit":
        return None
    before = "8 bit" if mode == "8-bit" else "16 bit" if has_gpu else "32 bit"
    slower = "" if has_gpu else " A step takes longer on a CPU."
    return _changed(settings, "quantization", mode="4-bit"), (
        f"The base weights are held in 4 bit instead of {before}: the frozen matrices shrink most, and are a little less exact.{slower}"
    )


def _checkpointing(settings: RunSettings, has_gpu: bool) -> tuple[RunSettings, str] | None:
    if settings.training.checkpointing:
        return None
    return _changed(settings, "training", checkpointing=True), (
        "Gradient checkpointing is turned on: activations are computed again instead of kept. The result is the same, a step takes about a third longer."
    )


def _offload(settings: RunSettings, has_gpu: bool) -> tuple[RunSettings, str] | None:
    if not has_gpu or settings.quantization.offload:
        return None
    return _changed(settings, "quantization", offload=True), (
        "The word embeddings and the head wait in the host's memory: the result is the same, a step takes longer, and answers take many times longer."
    )


def _less_at_once(settings: RunSettings, largest_forward: int | None, longest_row: int) -> tuple[RunSettings, str] | None:
    budget = settings.training.tokens_per_forward
    half = min(budget, largest_forward or budget) // 2
    if half < max(SMALLEST_BUDGET, longest_row):
        return None
    return _changed(settings, "training", tokens_per_forward=half), (
        f"The token budget goes from {budget:,} to {half:,}: a step is done in more, smaller forwards. The result is the same, a step takes longer."
    )


def _dora_dropout(settings: RunSettings, has_gpu: bool) -> tuple[RunSettings, str] | None:
    exact = not has_gpu and settings.quantization.resolved(has_gpu).mode == "none"
    if not settings.lora.dora or not settings.lora.dropout or exact:
        return None
    return _changed(settings, "lora", dropout=0.0), (
        "The dropout goes to 0: with it, DoRA holds a 32-bit copy of the adapted matrices of the layer at work. The adapter learns rows by heart a little sooner."
    )


def _smaller_adapter(settings: RunSettings) -> tuple[RunSettings, str] | None:
    lora = settings.lora
    if lora.dora:
        return _changed(settings, "lora", dora=False), "DoRA is switched off: its products and its matrices for a moment go. At low ranks the adapter may learn less."
    ranks = {"rank": lora.rank, "attention_rank": lora.attention_rank, "mlp_rank": lora.mlp_rank}
    alphas = {"rank": "alpha", "attention_rank": "attention_alpha", "mlp_rank": "mlp_alpha"}
    changes: dict[str, int] = {}
    for name, rank in ranks.items():
        if rank > SMALLEST_RANK:
            changes[name] = max(SMALLEST_RANK, rank // 2)
            # alpha / rank is kept, so that the adapter acts as strongly as before; 0 stays "as the common one".
            if alpha := getattr(lora, alphas[name]):
                changes[alphas[name]] = max(1, round(alpha * changes[name] / rank))
    if changes:
        told = ", ".join(f"{ranks[name]} to {changes[name]}" for name in ranks if name in changes)
        return _changed(settings, "lora", **changes), (
            f"The rank goes from {told}, alpha with it: adapter, gradients and optimizer shrink, and the adapter can learn less."
        )
    attention = tuple(name for name in lora.target_modules if name in ATTENTION)
    if attention and attention != lora.target_modules:
        return _changed(settings, "lora", target_modules=attention), (
            f"Only attention gets an adapter ({', '.join(attention)}): fewer matrices keep their inputs, and the adapter can learn less."
        )
    return None
