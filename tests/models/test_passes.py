"""Signs of progress from within a pass: every layer gives them, and the numbers stay what they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from workbench.models.adapters import put_new_adapter
from workbench.models.loading import Base, load_base
from workbench.models.passes import watch_passes
from workbench.settings import Lora, Quantization

NONE = Quantization(mode="none")
LAYERS = 3  # of the tiny models
IDS = torch.tensor([[2, 10, 11, 12]])


def gradients(base: Base) -> list[torch.Tensor]:
    base.model.train()
    torch.manual_seed(5)  # dropout
    base.model(input_ids=IDS).logits.float().square().mean().backward()
    found = [p.grad for p in base.model.parameters() if p.grad is not None]
    base.model.zero_grad()
    return found


@pytest.mark.parametrize(("checkpointing", "passes"), [(False, 2), (True, 3)], ids=["", "checkpointing"])
@pytest.mark.parametrize("kind", ["gemma3", "llama"])
def test_every_layer_tells_that_it_was_passed_forward_and_back(
    tiny_model_folder: Callable[[str], Path], kind: str, checkpointing: bool, passes: int
) -> None:
    base = load_base(tiny_model_folder(kind), NONE)
    put_new_adapter(base, Lora(rank=2), name="r1", seed=1, checkpointing=checkpointing)
    plain = gradients(base)
    signs: list[int] = []
    take_off = watch_passes(base.raw, lambda: signs.append(1))
    watched = gradients(base)
    # With checkpointing the backward pass goes through each layer once more; it may leave out what nobody needs of it.
    assert passes * LAYERS - (LAYERS if checkpointing else 0) <= len(signs) <= passes * LAYERS
    assert len(plain) > 10 and all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    signs.clear()
    with torch.inference_mode():
        base.model(input_ids=IDS)
    assert len(signs) == LAYERS
    take_off()
    gradients(base)
    assert len(signs) == LAYERS and not any(layer._forward_hooks for layer in base.raw.model.layers)


def test_a_model_with_a_vision_tower_tells_of_its_text_layers(tiny_model_folder: Callable[[str], Path]) -> None:
    base = load_base(tiny_model_folder("gemma3-vision"), NONE)
    signs: list[int] = []
    watch_passes(base.raw, lambda: signs.append(1))
    with torch.inference_mode():
        base.model(input_ids=IDS)
    assert len(signs) == LAYERS


def test_a_model_without_layers_tells_of_its_embeddings() -> None:
    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(20, 4)

        def get_input_embeddings(self) -> torch.nn.Module:
            return self.embed

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.embed(ids)
            return found

    model, signs = Flat(), list[int]()
    watch_passes(model, lambda: signs.append(1))
    with torch.no_grad():
        model(IDS)
    assert signs == [1]
    watch_passes(torch.nn.Linear(2, 2), lambda: signs.append(1))()  # one that has neither is left alone
