"""Embeddings and head in the host's memory. Here the device is the CPU too: the ways are those of a card, the copies go nowhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.models import decode_graphs
from workbench.models import offload as offloading
from workbench.models.adapters import put_new_adapter
from workbench.models.decoding import Lane, generate
from workbench.models.loading import Base, load_base
from workbench.models.offload import HostEmbedding, HostHead, blocks, host_parts, offload
from workbench.settings import Lora, Quantization, Sampling
from workbench.training.fused_loss import _HeadLoss, _StreamedLoss

CPU = torch.device("cpu")
KINDS = ("gemma3", "gemma3-vision", "llama", "qwen2")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that don't divide the tiny vocabulary."""
    monkeypatch.setattr(offloading, "BLOCK", 100)


def loaded(folder: Path) -> Base:
    return load_base(folder, Quantization(mode="none"))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[5, 9, 200, 17, 64]]), use_cache=False).logits


@pytest.mark.parametrize("kind", KINDS)
def test_an_offloaded_model_has_the_same_logits(tiny_model_folder: Callable[[str], Path], small_blocks: None, kind: str) -> None:
    model = loaded(tiny_model_folder(kind)).model
    before = logits(model)
    offload(model, CPU)
    parts = host_parts(model)
    assert parts is not None and isinstance(parts[0], HostEmbedding) and isinstance(parts[1], HostHead)
    assert (parts[0].weight is parts[1].weight) == bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["gemma3", "llama"])
def test_a_step_without_graphs_has_the_same_gradients(tiny_model_folder: Callable[[str], Path], small_blocks: None, kind: str) -> None:
    made = []
    for sparing in (False, True):
        base = loaded(tiny_model_folder(kind))
        model = put_new_adapter(base, Lora(rank=4, dropout=0.0), name="t", seed=1, checkpointing=False)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".lora_B." in name:
                    parameter.fill_(0.05)
        if sparing:
            offload(base.raw, CPU)
        ids = torch.tensor([[5, 9, 200, 17, 64]])
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        made.append([p.grad for p in model.parameters() if p.requires_grad])
    for ours, whole in zip(made[1], made[0], strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-6)


def test_a_head_with_a_bias_stays_where_it_is(tiny_model_folder: Callable[[str], Path]) -> None:
    model = loaded(tiny_model_folder("llama")).model
    head = model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
    offload(model, CPU)
    assert host_parts(model) is None and model.get_output_embeddings() is head


def test_the_blocks_of_a_head_are_all_of_it_in_order(small_blocks: None) -> None:
    weight = torch.arange(262 * 3, dtype=torch.float32).view(262, 3)
    seen = [(start, block.clone()) for start, block in blocks(weight, CPU)]
    assert [start for start, _ in seen] == [0, 100, 200]
    assert torch.equal(torch.cat([block for _, block in seen]), weight)


@pytest.mark.parametrize("kind", ["gemma3", "llama"])
def test_an_offloaded_model_answers_what_it_answered_by_our_own_loop(tiny_model_folder: Callable[[str], Path], small_blocks: None, kind: str) -> None:
    base = loaded(tiny_model_folder(kind))
    lanes = [Lane(tuple(base.tokenizer.prompt_ids([{"role": "user", "content": text}])), False) for text in ("Hello", "Где мой счёт?")]
    sampling, said = Sampling(max_new_tokens=12), list[str]()
    before = generate(base, lanes, sampling, say=said.append)
    offload(base.model, CPU)
    assert [r.text for r in generate(base, lanes, sampling, say=said.append)] == [r.text for r in before]
    assert said == [], "neither went by transformers"
    assert "in the host's memory" in decode_graphs._hinders(base)


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_the_streamed_loss_and_its_gradient_are_those_of_the_whole_head(small_blocks: None, softcap: float | None) -> None:
    torch.manual_seed(1)
    weight, targets, weights = torch.randn(262, 16), torch.tensor([0, 99, 100, 199, 200, 261]), torch.tensor([1.0, 0.5, 2.0, 0.0, 1.0, 3.0])
    made = []
    for way in (_HeadLoss, _StreamedLoss):
        torch.manual_seed(2)
        hidden = (3 * torch.randn(6, 16)).requires_grad_()
        total, losses = way.apply(hidden, weight, targets, weights, softcap)
        (2 * total).backward()
        made.append((total.detach(), losses, hidden.grad))
    for ours, whole in zip(made[1], made[0], strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-5, atol=1e-6)


def test_the_streamed_loss_without_a_gradient_reads_the_head_once(small_blocks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    monkeypatch.setattr("workbench.training.fused_loss.blocks", lambda *args: read.append(1) or blocks(*args))
    weight, targets, weights = torch.randn(262, 16), torch.tensor([3, 250]), torch.ones(2)
    for learns in (False, True):
        _StreamedLoss.apply(torch.randn(2, 16).requires_grad_(learns), weight, targets, weights, None)
    assert len(read) == 1 + 2


class Runtime:
    """CUDA's locks on the host's memory."""

    def __init__(self, refuses: bool = False) -> None:
        self.locked: list[int] = []
        self.refuses = refuses

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        self.locked += [] if self.refuses else [address]
        return int(self.refuses)

    def cudaHostUnregister(self, address: int) -> None:
        self.locked.remove(address)


@pytest.mark.parametrize("refuses", [False, True])
def test_locked_memory_is_let_go_with_its_tensor_and_small_tensors_are_copied(monkeypatch: pytest.MonkeyPatch, refuses: bool) -> None:
    """Left locked, it would go to another tensor one day, which could not be copied to the card."""
    runtime = Runtime(refuses)
    pinned: list[int] = []
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self.numel()) or self.clone())
    card = torch.device("cuda")
    small, large = (torch.nn.Parameter(torch.empty(size, dtype=torch.uint8), requires_grad=False) for size in (2**25 - 1, 2**25))
    for weight in (small, large):
        offloading._lock(weight, card)
    assert runtime.locked == ([] if refuses else [large.data_ptr()]) and pinned == [2**25 - 1]
    del weight
    view = large.detach()[:10]
    del large
    assert runtime.locked == [] and len(view) == 10
