"""Runs that spare a card's memory: the dropout that is computed again, and embeddings and head that wait with the host."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.models.adapters import put_new_adapter
from workbench.models.loading import load_base
from workbench.models.offload import host_parts
from workbench.settings import Lora, Quantization, Training
from workbench.training.counted_dropout import CountedDropout, dropped
from workbench.training.encode import IGNORED, Encoded
from workbench.training.loop import batches
from workbench.training.step import make_optimizer
from workbench.training.stepper import make_graphed

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="wants a CUDA card")
CARD = torch.device("cuda")


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_the_kernel_drops_about_the_asked_share_and_the_same_again(share: float) -> None:
    x = torch.ones(640, 2560, dtype=torch.bfloat16, device=CARD)
    count = torch.tensor(7, device=CARD)
    made = dropped(x, count, 3, share)
    assert float((made == 0).float().mean()) == pytest.approx(share, abs=4 * (share * (1 - share) / x.numel()) ** 0.5)
    assert torch.equal(dropped(x, count, 3, share), made)
    for other in (dropped(x, count + 1, 3, share), dropped(x, count, 4, share)):
        agree = float(((other == 0) == (made == 0)).float().mean())
        assert agree == pytest.approx(share**2 + (1 - share) ** 2, abs=0.01)


def test_the_kernel_s_gradient_passes_where_the_value_did() -> None:
    x = torch.randn(64, 300, device=CARD, requires_grad=True)
    made = CountedDropout(0.3, 5, torch.tensor(11, device=CARD)).train()(x)
    made.sum().backward()
    assert x.grad is not None and torch.equal(x.grad == 0, made == 0)


def row(length: int, seed: int) -> Encoded:
    generator = random.Random(seed)
    ids = tuple(generator.randrange(6, 262) for _ in range(length))
    return Encoded(ids, tuple(t if i >= length - length // 3 else IGNORED for i, t in enumerate(ids)))


ROWS = [row(length, seed) for seed, length in enumerate((12, 61, 16, 40, 17, 90, 25, 33))]
TRAINING = Training(epochs=3, rows_per_step=4, warmup_steps=1, learning_rate=1e-2)


def losses(folder: Path, *, sparing: bool, dropout: float) -> list[float]:
    base = load_base(folder, Quantization(mode="4-bit", offload=sparing), keep=False)
    assert (host_parts(base.raw) is not None) is sparing
    model: Any = put_new_adapter(base, Lora(rank=4, alpha=8, dropout=dropout), name="t", seed=1, checkpointing=sparing)
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    steps = make_graphed(model, make_optimizer(parameters, TRAINING, fused=True, capturable=True), parameters, TRAINING, ROWS, ROWS)
    torch.manual_seed(3)
    made = [steps.step(packs, TRAINING.learning_rate)[0] for _, _, packs in batches(ROWS, TRAINING)]
    return [*made, steps.mean_loss([packs[0] for _, _, packs in batches(ROWS, TRAINING)][:1], lambda: False) or 0.0]


@pytest.mark.parametrize("kind", ["gemma3", "llama"])
def test_a_captured_run_that_spares_memory_learns_what_another_does(tiny_model_folder: Callable[[str], Path], kind: str) -> None:
    folder = tiny_model_folder(kind)
    assert losses(folder, sparing=True, dropout=0.0) == pytest.approx(losses(folder, sparing=False, dropout=0.0), rel=0.02)


def test_with_dropout_two_such_runs_are_the_same_run(tiny_folder: Path) -> None:
    first, second = (losses(tiny_folder, sparing=True, dropout=0.3) for _ in range(2))
    assert first == second
