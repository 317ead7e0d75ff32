"""Dropout by a count: the same mask again for a layer that is computed a second time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.models.adapters import put_new_adapter
from workbench.models.loading import load_base
from workbench.settings import Lora, Quantization
from workbench.training.counted_dropout import CountedDropout, Recomputation, dropped, recomputes

CPU = torch.device("cpu")


def count(value: int) -> torch.Tensor:
    return torch.tensor(value)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_about_the_asked_share_is_dropped_and_the_rest_keeps_the_mean(share: float) -> None:
    x = torch.ones(400, 250)
    made = dropped(x, count(7), 3, share)
    assert made.unique().tolist() == pytest.approx([0.0, 1 / (1 - share)])
    # 100,000 draws: four standard errors.
    assert float((made == 0).float().mean()) == pytest.approx(share, abs=4 * (share * (1 - share) / x.numel()) ** 0.5)
    by_row, by_column = (made == 0).float().mean(1), (made == 0).float().mean(0)
    assert float(by_row.std()) < 1.3 * (share * (1 - share) / 250) ** 0.5 and float(by_column.std()) < 1.3 * (share * (1 - share) / 400) ** 0.5


def test_the_mask_follows_from_count_number_and_place_alone() -> None:
    x = torch.randn(64, 64)
    mask = dropped(x, count(7), 3, 0.5) == 0
    assert torch.equal(dropped(torch.randn(64, 64), count(7), 3, 0.5) == 0, mask)
    for other in (dropped(x, count(8), 3, 0.5), dropped(x, count(7), 4, 0.5), dropped(x, count(2**30 + 7), 3, 0.5)):
        agree = float(((other == 0) == mask).float().mean())
        assert agree == pytest.approx(0.5, abs=4 * 0.5 / 64)


def test_the_gradient_passes_where_the_value_did() -> None:
    x = torch.randn(3, 5, 8, requires_grad=True)
    layer = CountedDropout(0.4, 1, count(11)).train()
    made = layer(x)
    made.sum().backward()
    assert torch.equal(x.grad == 0, made == 0)
    assert float(x.grad.max()) == pytest.approx(1 / 0.6)
    assert torch.equal(layer.eval()(x), x)


def adapted(folder: Path, *, checkpointing: bool) -> Any:
    base = load_base(folder, Quantization(mode="none"), keep=False)
    model = put_new_adapter(base, Lora(rank=4, alpha=8, dropout=0.3), name="x", seed=1, checkpointing=checkpointing)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.2)
    return model.train()


def gradients(model: Any) -> list[torch.Tensor]:
    ids = torch.tensor([[5, 9, 200, 17, 64, 3, 8]])
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    made = [p.grad.clone() for p in model.parameters() if p.requires_grad]
    model.zero_grad(set_to_none=True)
    return made


@pytest.mark.parametrize("kind", ["gemma3", "llama"])
def test_layers_computed_again_drop_what_they_dropped(tiny_model_folder: Callable[[str], Path], kind: str) -> None:
    folder = tiny_model_folder(kind)
    made = []
    for checkpointing in (False, True):
        torch.manual_seed(5)
        model = adapted(folder, checkpointing=checkpointing)
        assert recomputes(model) is checkpointing
        again = Recomputation(model, CPU)
        torch.manual_seed(6)
        again.draw()
        first = gradients(model)
        again.draw()
        made.append((first, gradients(model)))
    for kept, computed in zip(made[0], made[1], strict=True):
        for one, other in zip(kept, computed, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(made[0][0][0], made[0][1][0]), "another count is another mask"


def test_what_stood_before_is_put_back(tiny_folder: Path) -> None:
    model = adapted(tiny_folder, checkpointing=True)
    before = {name: type(m) for name, m in model.named_modules()}
    functions = [m._gradient_checkpointing_func for m in model.modules() if hasattr(m, "_gradient_checkpointing_func")]
    again = Recomputation(model, CPU)
    assert sum(isinstance(m, CountedDropout) for m in model.modules()) == sum(kind is torch.nn.Dropout and ".lora_dropout." in n for n, kind in before.items())
    model.eval()
    again.take_off()
    assert {name: type(m) for name, m in model.named_modules()} == before
    assert [m._gradient_checkpointing_func for m in model.modules() if hasattr(m, "_gradient_checkpointing_func")] == functions
    assert not any(m.training for m in model.modules())
