"""The base held in 4 and 8 bit: it loads, an adapter on it learns, and the weights stay what they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from workbench.errors import SettingsError
from workbench.models.adapters import prove_active, put_new_adapter, take_off_adapter
from workbench.models.loading import Base, load_base
from workbench.settings import ALL_PROJECTIONS, Lora, Quantization, Training
from workbench.training.encode import IGNORED, Encoded
from workbench.training.pack import Pack, pack
from workbench.training.step import accumulate, apply_gradient, make_optimizer

LORA = Lora(rank=4, alpha=8, dropout=0.0)
IDS = torch.tensor([[2, 4, 60, 61, 62, 63, 64, 5, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 80, 81]])
CHOICES = {
    "nf4": Quantization(mode="4-bit", type_4bit="nf4"),
    "nf4 without double quantization": Quantization(mode="4-bit", type_4bit="nf4", double=False),
    "fp4": Quantization(mode="4-bit", type_4bit="fp4"),
    "8-bit": Quantization(mode="8-bit"),
    "8-bit without outliers": Quantization(mode="8-bit", threshold=0.0),
}


@torch.no_grad()
def logits(base: Base) -> torch.Tensor:
    assert not base.model.training
    return base.model(input_ids=IDS, use_cache=False).logits


def rows() -> Pack:
    return pack([Encoded(ids := tuple(range(a, a + 24)), (*[IGNORED] * 9, *ids[9:])) for a in (20, 90)])


def gradient(base: Base) -> tuple[float, dict[str, torch.Tensor]]:
    base.model.train()
    loss = accumulate(base.model, [rows()], base.device)
    found = {n: p.grad.clone() for n, p in base.model.named_parameters() if p.grad is not None}
    base.model.zero_grad(set_to_none=True)
    base.model.eval()
    return loss, found


@pytest.mark.parametrize("kind", ["nf4", "fp4", "8-bit"])
def test_the_layers_hold_as_many_bits_as_asked(tiny_folder: Path, kind: str) -> None:
    chosen = CHOICES[kind]
    base = load_base(tiny_folder, chosen)
    assert base.quantization == chosen
    held = base.model.model.layers[0].mlp.up_proj
    assert type(held).__name__ == ("Linear8bitLt" if kind == "8-bit" else "Linear4bit")
    assert held.weight.numel() * held.weight.element_size() == 64 * 128 * (8 if kind == "8-bit" else 4) // 8
    if kind != "8-bit":
        assert (held.weight.quant_state.quant_type, held.weight.quant_state.nested) == (kind, True)
    assert base.model.lm_head.weight.dtype == torch.float32


@pytest.mark.parametrize("kind", CHOICES)
def test_every_matrix_of_an_adapter_learns_on_a_quantized_base(tiny_folder: Path, kind: str) -> None:
    base = load_base(tiny_folder, CHOICES[kind])
    put_new_adapter(base, LORA, name="new", seed=1, checkpointing=False)
    parameters = [p for p in base.model.parameters() if p.requires_grad]
    assert len(parameters) == 3 * 2 * len(ALL_PROJECTIONS) and {p.dtype for p in parameters} == {torch.float32}
    before = {n: p.detach().clone() for n, p in base.model.named_parameters() if ".lora_B." in n}
    base.model.train()
    assert 0 < accumulate(base.model, [rows()], base.device) < 20
    apply_gradient(make_optimizer(parameters, Training(learning_rate=0.01), fused=False), parameters, 0.3)
    assert [n for n, p in base.model.named_parameters() if n in before and torch.equal(p, before[n])] == []
    assert prove_active(base) > 0


@pytest.mark.parametrize("kind", CHOICES)
def test_an_answer_or_a_validation_between_two_steps_changes_no_gradient(tiny_folder: Path, kind: str) -> None:
    """Some CPU kernels rearrange a 4-bit weight on its first use outside training, and lose the gradient through it."""
    base = load_base(tiny_folder, CHOICES[kind])
    put_new_adapter(base, LORA, name="new", seed=1, checkpointing=False)
    first_loss, first = gradient(base)
    logits(base)
    second_loss, second = gradient(base)
    assert first_loss == pytest.approx(second_loss, rel=1e-6)
    assert first.keys() == second.keys() and len(first) == 3 * 2 * 7
    assert [n for n in first if not torch.allclose(first[n], second[n], rtol=1e-4, atol=1e-7)] == []


@pytest.mark.parametrize("kind", CHOICES)
def test_training_leaves_a_quantized_base_bit_identical(tiny_folder: Path, kind: str) -> None:
    base = load_base(tiny_folder, CHOICES[kind])
    before = logits(base)
    put_new_adapter(base, LORA, name="new", seed=1, checkpointing=False)
    gradient(base)
    take_off_adapter(base)
    assert torch.equal(logits(base), before)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_dora_learns_on_a_4_bit_base(tiny_folder: Path, dropout: float) -> None:
    base = load_base(tiny_folder, CHOICES["nf4"])
    put_new_adapter(base, Lora(rank=4, dora=True, dropout=dropout), name="new", seed=1, checkpointing=False)
    before = {n: p.detach().clone() for n, p in base.model.named_parameters() if "lora_magnitude_vector" in n or ".lora_B." in n}
    parameters = [p for p in base.model.parameters() if p.requires_grad]
    base.model.train()
    accumulate(base.model, [rows()], base.device)
    apply_gradient(make_optimizer(parameters, Training(learning_rate=0.01), fused=False), parameters, 0.3)
    assert len(before) == 3 * 7 * 2
    assert [n for n, p in base.model.named_parameters() if n in before and torch.equal(p, before[n])] == []
    assert prove_active(base) > 0


def test_dora_on_an_8_bit_base_is_refused_before_anything_is_put_on(tiny_folder: Path) -> None:
    base = load_base(tiny_folder, CHOICES["8-bit"])
    with pytest.raises(SettingsError, match="DoRA does not work on 8-bit base weights"):
        put_new_adapter(base, Lora(dora=True), name="new", seed=1, checkpointing=False)
    assert base.adapter is None


def test_quantization_is_an_approximation_of_the_base(tiny_folder: Path) -> None:
    exact = logits(load_base(tiny_folder, Quantization(mode="none")))
    eight, four = (
        float((logits(load_base(tiny_folder, Quantization(mode=m))) - exact).norm() / exact.norm()) for m in ("8-bit", "4-bit")
    )
    assert 0 < eight < four < 0.5


def test_auto_is_none_on_a_machine_without_a_card(tiny_folder: Path) -> None:
    expected = "4-bit" if torch.cuda.is_available() else "none"
    assert load_base(tiny_folder, Quantization()).quantization.mode == expected
