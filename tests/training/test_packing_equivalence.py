"""Packing changes nothing: rows in one sequence give the loss and the gradient of the rows one by one."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from workbench.models.adapters import put_new_adapter
from workbench.models.loading import Base, load_base
from workbench.settings import Lora, Quantization
from workbench.training.encode import IGNORED, Encoded
from workbench.training.pack import Pack, pack, pack_within
from workbench.training.step import accumulate, loss_sum, mean_loss

KINDS = ("gemma3", "llama", "qwen2", "qwen3")
CPU = torch.device("cpu")
PLAIN = Lora(rank=4, alpha=8, dropout=0.0)


def row(length: int, seed: int) -> Encoded:
    """Random ids with labels on the last third, and on a stretch in the middle as in a conversation."""
    generator = random.Random(seed)
    ids = tuple(generator.randrange(6, 262) for _ in range(length))
    learned = {*range(length // 4, length // 4 + 3), *range(length - length // 3, length)}
    return Encoded(ids, tuple(t if i in learned else IGNORED for i, t in enumerate(ids)))


# The tiny Gemma's sliding window is 16: rows shorter, as long, and several times longer stand side by side.
ROWS = [row(length, seed) for seed, length in enumerate((12, 61, 16, 40, 17, 90))]


@pytest.fixture(scope="module")
def base_of(tiny_model_folder: Callable[[str], Path]) -> Callable[[str], Base]:
    """A loaded tiny model with an adapter whose B is not zero, so that every matrix has a gradient."""
    made: dict[str, Base] = {}

    def build(kind: str) -> Base:
        if kind not in made:
            made[kind] = load_base(tiny_model_folder(kind), Quantization(mode="none"))
            model = put_new_adapter(made[kind], PLAIN, name="test", seed=1, checkpointing=False)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if ".lora_B." in name:
                        parameter.normal_(std=0.1)
            model.train()
        return made[kind]

    return build


def alone(model: Any, rows: Sequence[Encoded]) -> torch.Tensor:
    """The reference: each row by itself, logits at every place, labels shifted by hand; mean over all labels."""
    total, count = torch.zeros(()), 0
    for one in rows:
        logits_TV = model(input_ids=torch.tensor([one.ids]), use_cache=False).logits[0].float()
        assert logits_TV.shape[0] == len(one.ids)
        labels_T = torch.tensor(one.labels)
        total = total + cross_entropy(logits_TV[:-1], labels_T[1:], ignore_index=IGNORED, reduction="sum")
        count += int((labels_T[1:] != IGNORED).sum())
    return total / count


def gradient(model: Any, backward: Callable[[], Any]) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad(set_to_none=True)
    return found


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Relative distance of two gradients, matrix by matrix; the largest one."""
    assert ours.keys() == theirs.keys()
    assert all(float(g.norm()) > 0 for g in theirs.values())
    return max(float((ours[n] - theirs[n]).norm() / theirs[n].norm()) for n in theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_loss_equals_the_rows_one_by_one(base_of: Callable[[str], Base], kind: str) -> None:
    model = base_of(kind).model
    with torch.no_grad():
        expected = float(alone(model, ROWS))
        packed = float(loss_sum(model, pack(ROWS), CPU)) / sum(r.label_count for r in ROWS)
    assert packed == pytest.approx(expected, abs=1e-5)
    assert mean_loss(model, [pack(ROWS)], CPU) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_see_each_other_would_be_noticed(base_of: Callable[[str], Base], kind: str) -> None:
    """The proof that the test above can fail: positions that run on make later rows look at earlier ones."""
    model = base_of(kind).model
    whole = pack(ROWS)
    leaking = dataclasses.replace(whole, positions=tuple(range(len(whole.ids))))
    with torch.no_grad():
        difference = float((loss_sum(model, whole, CPU) - loss_sum(model, leaking, CPU)).abs()) / len(whole.targets)
    assert difference > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_packed_gradient_equals_the_rows_one_by_one(base_of: Callable[[str], Base], kind: str) -> None:
    model = base_of(kind).model
    expected = gradient(model, lambda: alone(model, ROWS).backward())
    assert distance(gradient(model, lambda: accumulate(model, [pack(ROWS)], CPU)), expected) < 1e-4


@pytest.mark.parametrize("tokens_per_forward", [16, 80, 150])
def test_a_step_split_into_several_packs_has_the_same_loss_and_gradient(
    base_of: Callable[[str], Base], tokens_per_forward: int
) -> None:
    model = base_of("gemma3").model
    packs = pack_within(ROWS, tokens_per_forward)
    assert len(packs) == {16: 6, 80: 3, 150: 2}[tokens_per_forward]
    losses: list[float] = []
    split = gradient(model, lambda: losses.append(accumulate(model, packs, CPU)))
    whole = gradient(model, lambda: losses.append(accumulate(model, [pack(ROWS)], CPU)))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert distance(split, whole) < 1e-4


def test_gradient_checkpointing_changes_no_gradient(tiny_folder: Path) -> None:
    found = []
    for checkpointing in (False, True):
        model = put_new_adapter(
            load_base(tiny_folder, Quantization(mode="none")), PLAIN, name="test", seed=1, checkpointing=checkpointing
        )
        with torch.no_grad():
            for name, parameter in sorted(model.named_parameters()):
                if ".lora_B." in name:
                    parameter.fill_(0.05)
        model.train()
        assert model.get_base_model().is_gradient_checkpointing is checkpointing
        found.append(gradient(model, lambda m=model: accumulate(m, [pack(ROWS)], CPU)))
    assert distance(found[1], found[0]) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_runs_on_the_label_slots_alone(base_of: Callable[[str], Base], kind: str) -> None:
    base = base_of(kind)
    packed = pack(ROWS)
    shapes: list[tuple[int, ...]] = []
    hook = base.raw.lm_head.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
    try:
        loss_sum(base.model, packed, CPU)
    finally:
        hook.remove()
    assert shapes == [(1, len(packed.targets), 262)]
    assert len(packed.targets) == sum(r.label_count for r in ROWS) < len(packed.ids)


def test_a_slot_stands_one_place_before_its_label() -> None:
    first = Encoded((7, 8, 9), (IGNORED, 8, IGNORED))
    second = Encoded((10, 11, 12, 13), (IGNORED, IGNORED, 12, 13))
    assert pack([first, second]) == Pack((7, 8, 9, 10, 11, 12, 13), (0, 1, 2, 0, 1, 2, 3), (0, 4, 5), (8, 12, 13))
