"""A CPU's cheap passes against the plain ones: losses, gradients, dropout, and no trace left behind."""

from __future__ import annotations

import contextlib
import math
import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import Linear

from tests.training.test_packing_equivalence import ROWS, alone, distance, gradient
from tests.training.test_static_steps import ready, trainable
from workbench.models.adapters import put_new_adapter
from workbench.models.loading import load_base
from workbench.settings import Lora, Quantization, Training
from workbench.training import cpu_pass, stepper
from workbench.training.cpu_pass import CpuPass, kept_mask
from workbench.training.fused_loss import loss_in_place
from workbench.training.pack import Pack, pack
from workbench.training.static_batch import NotStaticError
from workbench.training.step import PLAIN, accumulate, make_optimizer, mean_loss
from workbench.training.stepper import EagerSteps, make_steps

CPU = torch.device("cpu")
SHORT = [row for row in ROWS if len(row.ids) <= 16]  # the tiny Gemma's window: here attention goes row by row


def lora(**more: Any) -> Lora:
    return Lora(**{"rank": 4, "alpha": 8, "dropout": 0.0} | more)


@pytest.mark.parametrize("kind", ["gemma3", "gemma3-wide", "gemma3-vision", "llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("rows", [ROWS, SHORT, SHORT[:1]], ids=["long rows", "short rows", "one row"])
def test_loss_and_gradient_are_those_of_the_rows_one_by_one(tiny_model_folder: Callable[[str], Path], kind: str, rows: Any) -> None:
    _, model = ready(tiny_model_folder(kind), lora())
    way = CpuPass(model)
    assert way.by_rows and len(way.layers) == sum(type(m) is Linear for m in model.modules()) > 0
    assert way._fits(pack(rows)) == (rows is not ROWS or kind in ("llama", "qwen2", "qwen3"))
    expected = gradient(model, lambda: alone(model, rows).backward())
    losses: list[float] = []
    found = gradient(model, lambda: losses.append(accumulate(model, [pack(rows)], CPU, way=way)))
    assert distance(found, expected) < 1e-5
    with torch.no_grad():
        assert losses == [pytest.approx(float(alone(model, rows)), rel=1e-6)]
        assert mean_loss(model, [pack(rows)], CPU, way=way) == pytest.approx(losses[0], rel=1e-6)


@pytest.mark.parametrize("more", [{"rank": 6, "attention_rank": 2, "attention_alpha": 5}, {"rslora": True}, {"dora": True}], ids=["own ranks", "rslora", "dora"])
def test_every_kind_of_adapter_learns_the_same(tiny_folder: Path, more: dict[str, Any]) -> None:
    _, model = ready(tiny_folder, lora(**more))
    way = CpuPass(model)
    assert bool(way.layers) == ("dora" not in more), "what is not known stays peft's"
    expected = gradient(model, lambda: accumulate(model, [pack(SHORT)], CPU))
    assert distance(gradient(model, lambda: accumulate(model, [pack(SHORT)], CPU, way=way)), expected) < 1e-5


@pytest.mark.parametrize("mode", ["4-bit", "8-bit"])
def test_a_quantized_base_keeps_its_layers_and_learns_the_same(tiny_model_folder: Callable[[str], Path], mode: str) -> None:
    _, model = ready(tiny_model_folder("gemma3-wide"), lora(), mode=mode)
    way = CpuPass(model)
    assert not way.layers and way.by_rows
    expected = gradient(model, lambda: accumulate(model, [pack(SHORT)], CPU))
    assert distance(gradient(model, lambda: accumulate(model, [pack(SHORT)], CPU, way=way)), expected) < (1e-5 if mode == "4-bit" else 0.05)


def test_a_bias_is_added(tiny_model_folder: Callable[[str], Path]) -> None:
    _, model = ready(tiny_model_folder("qwen2"), lora())
    biased = [m for m in model.modules() if type(m) is Linear and m.base_layer.bias is not None]
    assert biased, "Qwen 2's queries, keys and values have one"
    with torch.no_grad():
        for module in biased:
            module.base_layer.bias.normal_()
    way = CpuPass(model)
    expected = gradient(model, lambda: accumulate(model, [pack(SHORT)], CPU))
    assert distance(gradient(model, lambda: accumulate(model, [pack(SHORT)], CPU, way=way)), expected) < 1e-5


# -- dropout ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5, 0.9])
def test_the_mask_drops_its_share_anew_each_time_and_follows_the_seed(share: float) -> None:
    torch.manual_seed(3)
    like = torch.empty(301, 257)
    first, second = kept_mask(like, share), kept_mask(like, share)
    assert set(first.unique().tolist()) == {0.0, 1.0} and first.dtype == torch.float32
    for mask in (first, second):
        assert float(mask.mean()) == pytest.approx(1 - share, abs=5 * (share * (1 - share) / mask.numel()) ** 0.5)
        spread = mask.mean(0)  # every column, every row: no place is favoured by the way that four are drawn from one number
        assert float((spread - (1 - share)).abs().max()) < 6 * (share * (1 - share) / len(mask)) ** 0.5
    both = float(((first == 0) & (second == 0)).float().mean())
    assert both == pytest.approx(share**2, abs=6 * (share**2 / first.numel()) ** 0.5)
    neighbours = float(((first[:, 1:] == 0) & (first[:, :-1] == 0)).float().mean())
    assert neighbours == pytest.approx(share**2, abs=6 * (share**2 / first.numel()) ** 0.5)
    torch.manual_seed(3)
    assert torch.equal(kept_mask(like, share), first)


def test_what_was_dropped_is_dropped_in_the_backward_too(tiny_folder: Path) -> None:
    """Against peft's own layer with the same mask in its dropout's place."""
    _, model = ready(tiny_folder, lora(dropout=0.3))
    layer = next(m for m in model.modules() if type(m) is Linear)
    x = torch.randn(2, 5, layer.in_features, requires_grad=True)
    learned = [layer.lora_A["adapted"].weight, layer.lora_B["adapted"].weight]
    torch.manual_seed(9)
    ours = cpu_pass._adapted(layer, x)
    slope = torch.randn_like(ours)
    found = [ours, *torch.autograd.grad(ours, [x, *learned], slope)]
    torch.manual_seed(9)
    mask = kept_mask(x, 0.3) / 0.7

    class Same(torch.nn.Module):
        def forward(self, given: torch.Tensor) -> torch.Tensor:
            return given * mask

    layer.lora_dropout["adapted"] = Same()
    theirs = layer(x)
    for a, b in zip(found, [theirs, *torch.autograd.grad(theirs, [x, *learned], slope)], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    layer.eval()
    assert cpu_pass._adapted(layer, x).sub(layer.base_layer(x) + 2.0 * layer.lora_B["adapted"](layer.lora_A["adapted"](x))).abs().max() < 1e-5


def test_a_layer_that_is_computed_again_drops_the_same(tiny_folder: Path) -> None:
    found = []
    for checkpointing in (False, True):
        _, model = ready(tiny_folder, lora(dropout=0.5), checkpointing=checkpointing)
        way = CpuPass(model)
        torch.manual_seed(5)
        found.append(gradient(model, lambda m=model, w=way: accumulate(m, [pack(SHORT)], CPU, way=w)))  # type: ignore[misc]
    assert distance(found[1], found[0]) < 1e-5
    _, model = ready(tiny_folder, lora(dropout=0.5))
    torch.manual_seed(6)
    assert distance(gradient(model, lambda: accumulate(model, [pack(SHORT)], CPU, way=CpuPass(model))), found[0]) > 1e-2


# -- the loss ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [7, 300_000])
def test_the_loss_in_place_is_the_cross_entropy_and_more_exact_than_torchs(size: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, size) * 8
    targets = torch.tensor([0, size - 1, 3, 3, 2])
    exact = logits.double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(exact, targets, reduction="sum")
    expected.backward()  # type: ignore[no-untyped-call]
    ours = logits.clone().requires_grad_()
    (loss := loss_in_place(ours * 1.0, targets)).mul(0.5).backward()  # type: ignore[no-untyped-call]
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert ours.grad is not None and exact.grad is not None
    assert float((ours.grad.double() - exact.grad / 2).norm() / exact.grad.norm()) < 1e-6
    with torch.no_grad():
        assert float(loss_in_place(logits.clone(), targets)) == pytest.approx(float(expected), rel=1e-6)


# -- where it is taken, and what it leaves ----------------------------------------------------------


def test_the_logits_go_with_the_backward_not_with_the_loss() -> None:
    """A step of several packs would hold two packs' logits else."""
    logits = torch.randn(3, 50)
    gone = weakref.ref(logits.untyped_storage())
    kept = logits.requires_grad_() * 1.0
    seen = weakref.ref(kept)
    loss = loss_in_place(kept, torch.tensor([1, 2, 3]))
    del kept
    assert seen() is not None and gone() is not None
    loss.backward()  # type: ignore[no-untyped-call]
    assert seen() is None and loss.grad_fn is not None


def steps_of(model: Any, told: list[str], training: Training = Training()) -> EagerSteps:  # noqa: B008
    learned = trainable(model)
    made = make_steps(model, make_optimizer(learned, training, fused=True), learned, training, ROWS, [], told.append)
    assert isinstance(made, EagerSteps)
    return made


def test_it_is_proven_once_for_a_base_and_an_adapters_shape(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proofs: list[Any] = []
    monkeypatch.setattr(CpuPass, "prove", lambda self, *given, real=CpuPass.prove: (proofs.append(given), real(self, *given)))
    monkeypatch.setattr("workbench.training.stepper._shortest", lambda rows: SHORT)
    shutil.copytree(tiny_folder, tmp_path / "model")
    told: list[str] = []
    for rank in (4, 4, 5):
        base = load_base(tmp_path / "model", Quantization(mode="none"))
        model = put_new_adapter(base, lora(rank=rank), name="test", seed=1, checkpointing=False)
        assert isinstance(steps_of(model, told).way, CpuPass)
    assert len(proofs) == 2 and told == []


def test_off_is_off(tiny_folder: Path) -> None:
    _, model = ready(tiny_folder, lora())
    assert steps_of(model, [], Training(capture=False)).way is PLAIN


def test_it_leaves_no_trace_where_it_fails_either(tiny_folder: Path) -> None:
    _, model = ready(tiny_folder, lora())
    way, packed = CpuPass(model), pack(SHORT)
    random = torch.get_rng_state()
    way.prove(model, packed)
    assert torch.equal(torch.get_rng_state(), random) and model.training
    with pytest.raises(KeyboardInterrupt), way.around(packed):
        assert way.config._attn_implementation == cpu_pass.ROWS and any("forward" in vars(m) for m in model.modules())
        raise KeyboardInterrupt
    assert way.config._attn_implementation == "sdpa"
    assert not any("forward" in vars(m) for m in model.modules()) and all(p.grad is None for p in model.parameters())


@contextlib.contextmanager
def blind(monkeypatch: pytest.MonkeyPatch, model: Any) -> Iterator[None]:
    """Attention that sees across rows."""

    def across(module: Any, query: Any, key: Any, value: Any, mask: Any, *, cu_seq_lens_q: Any, real: Any = cpu_pass._rows_attention, **more: Any) -> Any:
        return real(module, query, key, value, mask, cu_seq_lens_q=cu_seq_lens_q[[0, -1]], **more)

    monkeypatch.setattr(cpu_pass, "_rows_attention", across)
    yield


@contextlib.contextmanager
def keeping(monkeypatch: pytest.MonkeyPatch, model: Any) -> Iterator[None]:
    """A head whose logits its own backward wants to see again."""
    hook = model.get_base_model().get_output_embeddings().register_forward_hook(lambda module, given, made: torch.tanh(made))
    yield
    hook.remove()


@pytest.mark.parametrize(("fault", "why"), [(blind, "from the plain one"), (keeping, "modified by an inplace operation")])
def test_what_it_does_not_suit_is_told_and_goes_the_plain_way(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, fault: Any, why: str) -> None:
    _, model = ready(tiny_folder, lora())
    told: list[str] = []
    with fault(monkeypatch, model):
        with pytest.raises(NotStaticError, match=why):
            CpuPass(model).prove(model, pack(SHORT))
        monkeypatch.setattr("workbench.training.stepper._shortest", lambda rows: SHORT)
        steps = steps_of(model, told)
        assert steps.way is PLAIN and len(told) == 1 and told[0].startswith("Without a CPU's cheaper passes, so slower: ")
        assert steps.step([pack(SHORT)], 1e-3)[0] > 0


def wrong_way_back(ctx: Any, *gradients: torch.Tensor, real: Any = cpu_pass._Adapted.backward) -> Any:
    x, weight, bias, a, *rest = real(ctx, *gradients)
    return x, weight, bias, -a, *rest


def no_number(ctx: Any, *gradients: torch.Tensor, real: Any = cpu_pass._Adapted.backward) -> Any:
    x, weight, bias, a, *rest = real(ctx, *gradients)
    return x, weight, bias, a * math.nan, *rest


@pytest.mark.parametrize("wrong", [wrong_way_back, no_number])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_new_adapters_proof_sees_what_its_zeros_would_hide(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, wrong: Any, checkpointing: bool) -> None:
    _, model = ready(tiny_folder, lora(dropout=0.4), fresh=True, checkpointing=checkpointing)
    CpuPass(model).prove(model, pack(SHORT))
    assert all(not p.any() for name, p in model.named_parameters() if ".lora_B." in name), "they are zero again"
    assert all(m.training for m in model.modules())
    monkeypatch.setattr(cpu_pass._Adapted, "backward", staticmethod(wrong))
    with pytest.raises(NotStaticError, match="from the plain one"):
        CpuPass(model).prove(model, pack(SHORT))


def test_an_adapter_that_no_text_meets_is_no_hindrance(tiny_model_folder: Callable[[str], Path]) -> None:
    _, model = ready(tiny_model_folder("gemma3-vision"), lora(text_only=False), fresh=True)
    assert any("vision" in name for name, p in model.named_parameters() if p.requires_grad)
    told: list[str] = []
    steps = steps_of(model, told)
    assert isinstance(steps.way, CpuPass) and told == [] and steps.step([pack(SHORT)], 1e-3)[0] > 0


@pytest.mark.parametrize(("most", "tokens"), [(16, 12), (27, 12), (28, 28), (44, 28), (45, 45), (4096, 45)])
def test_a_proof_is_no_larger_than_a_forward_of_the_run_and_has_few_labels(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, most: int, tokens: int
) -> None:
    proofs: list[Pack] = []
    monkeypatch.setattr(CpuPass, "prove", lambda self, model, packed: proofs.append(packed))
    _, model = ready(tiny_folder, lora())
    steps_of(model, [], Training(tokens_per_forward=most))
    assert [len(packed.ids) for packed in proofs] == [tokens] and 0 < len(proofs[0].slots) <= stepper.PROOF_LABELS


def test_few_labels_are_from_all_along_a_pack() -> None:
    few = stepper.few_labels(whole := pack(ROWS))
    assert len(few.slots) <= stepper.PROOF_LABELS < len(whole.slots) and set(few.slots) <= set(whole.slots) and few.slots[-1] > len(whole.ids) - 20
    assert stepper.few_labels(short := pack(SHORT[:1])) == short


def test_a_row_alone_says_nothing_of_rows_kept_apart(tiny_folder: Path) -> None:
    _, model = ready(tiny_folder, lora())
    way = CpuPass(model)
    way.prove(model, pack(SHORT[:1]))
    assert not way.by_rows


def test_rows_that_the_proof_has_not_seen_alone_are_not_trusted(tiny_folder: Path) -> None:
    _, model = ready(tiny_folder, lora())
    way = CpuPass(model)
    way.prove(model, pack(ROWS))
    assert not way.by_rows and way.layers and way.signs() != CpuPass(model).signs()
