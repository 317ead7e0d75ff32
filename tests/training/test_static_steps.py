"""Steps on fixed buffers, as a CUDA graph replays them: here without the graph, against the eager steps."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from workbench.models.adapters import put_new_adapter
from workbench.models.faults import accelerator_fault
from workbench.models.loading import Base, load_base
from workbench.models.offload import offload
from workbench.settings import Lora, Quantization, Training
from workbench.training import captured, stepper
from workbench.training.captured import CaptureError, GraphedSteps, Graphs
from workbench.training.encode import IGNORED, Encoded
from workbench.training.fused_loss import head_loss
from workbench.training.loop import batches
from workbench.training.pack import Pack, pack, pack_within
from workbench.training.static_batch import NotStaticError, Size, block_masks, choose_sizes, prove_same, size_of
from workbench.training.step import make_optimizer, pack_losses
from workbench.training.stepper import EagerSteps, StepsWithFallback, make_graphed, make_steps

CPU = torch.device("cpu")
KINDS = ("gemma3", "gemma3-vision", "llama", "qwen2", "qwen3")


def row(length: int, seed: int) -> Encoded:
    generator = random.Random(seed)
    ids = tuple(generator.randrange(6, 262) for _ in range(length))
    return Encoded(ids, tuple(t if i >= length - length // 3 else IGNORED for i, t in enumerate(ids)))


# The tiny Gemma's sliding window is 16: rows shorter, as long, and longer.
ROWS = [row(length, seed) for seed, length in enumerate((12, 61, 16, 40, 17, 90, 25, 33))]
TRAINING = Training(epochs=2, rows_per_step=4, warmup_steps=1, learning_rate=1e-2, tokens_per_forward=120)


def ready(
    folder: Path, lora: Lora = Lora(rank=4, alpha=8, dropout=0.0), *, mode: str = "none", checkpointing: bool = False, fresh: bool = False,  # noqa: B008
) -> tuple[Base, Any]:
    """A base with an adapter that says something, or with a `fresh` one."""
    base = load_base(folder, Quantization(mode=mode), keep=False)  # type: ignore[arg-type]
    model = put_new_adapter(base, lora, name="test", seed=1, checkpointing=checkpointing)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name and not fresh:
                parameter.normal_(std=0.1)
    model.train()
    return base, model


def trainable(model: Any) -> list[torch.nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def graphed(model: Any, training: Training = TRAINING, validation: Sequence[Encoded] = ROWS[:3]) -> GraphedSteps:
    optimizer = make_optimizer(trainable(model), training, fused=True, capturable=True)
    return make_graphed(model, optimizer, trainable(model), training, ROWS, validation, record=False)


def eager(model: Any, training: Training = TRAINING) -> EagerSteps:
    return EagerSteps(model, make_optimizer(trainable(model), training, fused=True), trainable(model), training.max_grad_norm)


def run(steps: Any, training: Training = TRAINING) -> list[tuple[float, float]]:
    return [steps.step(packs, training.learning_rate) for _, _, packs in batches(ROWS, training)]


@pytest.mark.parametrize("kind", KINDS)
def test_steps_on_fixed_buffers_are_the_eager_steps(tiny_model_folder: Callable[[str], Path], kind: str) -> None:
    _, model = ready(tiny_model_folder(kind))
    start = [p.detach().clone() for p in trainable(model)]
    expected = run(eager(model))
    learned = [p.detach().clone() for p in trainable(model)]
    assert any(float((a - b).abs().max()) > 1e-2 for a, b in zip(start, learned, strict=True))
    with torch.no_grad():
        for parameter, value in zip(trainable(model), start, strict=True):
            parameter.copy_(value)
    found = run(graphed(model))
    assert len(found) == 4
    for (loss, norm), (loss_expected, norm_expected) in zip(found, expected, strict=True):
        assert loss == pytest.approx(loss_expected, rel=1e-5)
        assert norm == pytest.approx(norm_expected, rel=1e-4)
    for parameter, value in zip(trainable(model), learned, strict=True):
        assert torch.allclose(parameter, value, atol=2e-4)


def test_the_validation_loss_is_the_eager_one_and_leaves_the_mode_and_the_gradients_alone(tiny_folder: Path) -> None:
    _, model = ready(tiny_folder)
    ours, plain = graphed(model), eager(model)
    packs = pack_within(ROWS[:3], TRAINING.tokens_per_forward)
    assert ours.mean_loss(packs, lambda: False) == pytest.approx(plain.mean_loss(packs, lambda: False), rel=1e-6)
    assert model.training
    assert all(p.grad is None or not p.grad.any() for p in trainable(model))
    one_by_one = [pack([r]) for r in ROWS[:3]]
    assert ours.mean_loss(one_by_one, lambda: True) is None, "a stop between packs"


def test_capturing_changes_no_random_number(tiny_folder: Path) -> None:
    _, model = ready(tiny_folder)
    ours = graphed(model)
    packs = next(iter(batches(ROWS, TRAINING)))[2]
    torch.manual_seed(7)
    before = torch.get_rng_state()
    ours._ready(packs, learns=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(g.any() for g in ours.update.gradients)
    assert all(float(state["step"]) == 0 for state in ours.update.optimizer.state.values())


def test_a_gradient_that_is_not_finite_changes_neither_the_adapter_nor_its_moments(tiny_folder: Path) -> None:
    _, model = ready(tiny_folder)
    ours = graphed(model)
    packs = next(iter(batches(ROWS, TRAINING)))[2]
    ours.step(packs, 1e-3)
    before = [p.detach().clone() for p in trainable(model)]
    moments = [s["exp_avg"].clone() for s in ours.update.optimizer.state.values()]
    # After this step's forward the gradients hold a number that is none.
    ours.update.gradients[0].view(-1)[0] = math.inf
    ours.update()
    assert not math.isfinite(float(ours.update.norm))
    assert all(torch.equal(p, b) for p, b in zip(trainable(model), before, strict=True))
    assert all(torch.equal(s["exp_avg"], m) for s, m in zip(ours.update.optimizer.state.values(), moments, strict=True))
    assert not any(g.any() for g in ours.update.gradients), "the next step begins clean"
    loss, norm = ours.step(packs, 1e-3)
    assert math.isfinite(loss) and math.isfinite(norm)


def test_masks_let_a_token_see_its_own_row_up_to_itself_and_the_window() -> None:
    positions = torch.tensor([0, 1, 2, 0, 1, 0, 0])  # rows of 3 and 2 tokens, then padding, each token alone
    full, sliding = block_masks(positions, 2, torch.float32)
    sees = [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0],
        [0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 1],
    ]
    assert full.shape == (1, 1, 7, 7)
    assert (full[0, 0] == 0).int().tolist() == sees
    sees[2] = [0, 1, 1, 0, 0, 0, 0]
    assert (sliding[0, 0] == 0).int().tolist() == sees
    assert float(full.min()) == torch.finfo(torch.float32).min
    assert block_masks(positions, None, torch.float32)[1] is not None
    same = block_masks(positions, 7, torch.float32)
    assert same[0] is same[1], "a window as long as the buffer cuts nothing"


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_the_loss_in_chunks_is_cross_entropy_with_its_gradient(softcap: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.training.fused_loss.CHUNK", 4)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(11, 8, generator=generator, requires_grad=True)
    weight = torch.randn(30, 8, generator=generator)
    targets = torch.randint(0, 30, (11,), generator=generator)
    weights = torch.tensor([0.5] * 9 + [0.0] * 2)
    total, losses = head_loss(hidden, weight, targets, weights, softcap)
    total.backward()  # type: ignore[no-untyped-call]
    ours = hidden.grad
    hidden.grad = None
    logits = hidden @ weight.t()
    logits = torch.tanh(logits / softcap) * softcap if softcap else logits
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    (expected * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert torch.allclose(losses, expected, rtol=1e-6)
    assert total.item() == pytest.approx((expected * weights).sum().item(), rel=1e-6)
    assert ours is not None and hidden.grad is not None
    assert torch.allclose(ours, hidden.grad, rtol=1e-4, atol=1e-6)


def test_sizes_are_rounded_up_and_few_where_rows_are_alike() -> None:
    assert size_of(1, 0) == Size(64, 32)
    assert size_of(64, 32) == Size(64, 32)
    assert size_of(65, 33) == Size(128, 64)
    assert choose_sizes([]) == []
    # 40 steps of 560 to 640 tokens: one more graph would cost more than it saves.
    assert choose_sizes([(560 + 2 * i, 200 + i) for i in range(40)]) == [Size(640, 256)]
    # 100 short steps and 100 long ones: two graphs.
    assert choose_sizes([(100, 40)] * 100 + [(2000, 90)] * 100) == [Size(128, 64), Size(2048, 96)]
    # A single long one among many short: its own graph as well, the short ones are not padded to it.
    assert choose_sizes([(100, 200)] * 30 + [(4000, 10)]) == [Size(128, 224), Size(4032, 32)]


def test_a_model_that_bends_its_logits_in_an_unknown_way_is_not_captured(tiny_model_folder: Callable[[str], Path]) -> None:
    _, model = ready(tiny_model_folder("llama"))
    with pytest.raises(NotStaticError, match="its losses there differ by"):
        prove_same(model, [pack(ROWS[:2])], lambda packed: pack_losses(model, packed, CPU) * 1.1, CPU)
    assert model.training


def test_rows_that_would_see_each_other_are_found_out(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, model = ready(tiny_folder)

    def leaky(positions: torch.Tensor, window: int | None, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        causal = torch.full((len(positions), len(positions)), torch.finfo(dtype).min).triu(1)[None, None]
        return causal, causal

    monkeypatch.setattr("workbench.training.static_batch.block_masks", leaky)
    with pytest.raises(NotStaticError, match="its losses there differ"):
        prove_same(model, [pack(ROWS[:2])], lambda packed: pack_losses(model, packed, CPU), CPU)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_with_layers_computed_again_and_the_head_with_the_host_are_the_plain_steps(
    tiny_model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("workbench.models.offload.BLOCK", 100)
    made = []
    for sparing in (False, True):
        base, model = ready(tiny_model_folder(kind))
        if sparing:
            offload(base.raw, CPU)
            base.raw.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.train()
        steps = graphed(model)
        assert (steps.again is not None) is sparing
        made.append([*run(steps), (steps.mean_loss([pack(ROWS[:3])], lambda: False), 0.0)])
    for (loss, norm), (spared, spared_norm) in zip(*made, strict=True):
        assert (spared, spared_norm) == (pytest.approx(loss, rel=1e-4), pytest.approx(norm, rel=1e-3))


def test_each_pass_has_a_mask_of_its_own_and_a_resumed_run_the_same_ones(tiny_folder: Path) -> None:
    base = load_base(tiny_folder, Quantization(mode="none"), keep=False)
    model = put_new_adapter(base, Lora(rank=4, alpha=8, dropout=0.3), name="test", seed=1, checkpointing=True)
    steps = graphed(model.train())
    assert steps.again is not None
    torch.manual_seed(3)
    counts = []
    for _, _, packs in batches(ROWS, TRAINING):
        state = torch.get_rng_state()
        steps.step(packs, 0.0)
        counts.append(int(steps.again.count))
    assert len(set(counts)) == len(counts)
    torch.set_rng_state(state)
    steps.step(packs, 0.0)
    assert int(steps.again.count) == counts[-1]


def test_a_second_run_on_a_base_is_not_proven_again_unless_its_adapter_is_another(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proofs: list[int] = []
    proof = stepper.prove_same
    monkeypatch.setattr(stepper, "prove_same", lambda *args: proofs.append(1) or proof(*args))
    base = load_base(tiny_folder, Quantization(mode="none"), keep=False)
    for rank, known in ((4, 1), (4, 1), (8, 2)):
        model = put_new_adapter(base, Lora(rank=rank, alpha=8, dropout=0.0), name="test", seed=1, checkpointing=False)
        steps = graphed(model.train())
        assert len(proofs) == known
        packs = [pack(ROWS[:3])]
        assert steps.step(packs, 0.0)[0] == pytest.approx(eager(model).step(packs, 0.0)[0], rel=1e-5)


def test_8_bit_with_a_threshold_is_named_as_what_hinders(tiny_folder: Path) -> None:
    base = load_base(tiny_folder, Quantization(mode="8-bit", threshold=6.0))
    model = put_new_adapter(base, Lora(rank=4, dropout=0.0), name="test", seed=1, checkpointing=False)
    assert "threshold to 0" in stepper._hinders(model)
    base = load_base(tiny_folder, Quantization(mode="8-bit", threshold=0.0))
    assert stepper._hinders(put_new_adapter(base, Lora(rank=4, dropout=0.0), name="test", seed=1, checkpointing=False)) == ""


def test_on_a_cpu_and_with_capture_off_steps_are_eager(tiny_folder: Path) -> None:
    _, model = ready(tiny_folder)
    optimizer = make_optimizer(trainable(model), TRAINING, fused=False)
    made = make_steps(model, optimizer, trainable(model), TRAINING, ROWS, [], lambda text: pytest.fail(text))
    assert isinstance(made, EagerSteps)


class _Fails:
    """Graphs whose capture fails at the second step."""

    again = None

    def __init__(self, steps: GraphedSteps, fault: Exception) -> None:
        self.steps, self.fault, self.made = steps, fault, 0

    def step(self, packs: Sequence[Pack], rate: float) -> tuple[float, float]:
        self.made += 1
        if self.made == 2:
            for gradient in self.steps.update.gradients:
                gradient.fill_(3.0)  # what a warm-up left behind
            raise self.fault
        return self.steps.step(packs, rate)


@pytest.mark.parametrize("fault", [CaptureError("operation not permitted when stream is capturing", poisoned=False), torch.OutOfMemoryError("out of memory")])
def test_a_failed_capture_goes_on_eagerly_and_says_so_once(tiny_folder: Path, fault: Exception) -> None:
    _, model = ready(tiny_folder)
    start = [p.detach().clone() for p in trainable(model)]
    expected = run(eager(model))
    with torch.no_grad():
        for parameter, value in zip(trainable(model), start, strict=True):
            parameter.copy_(value)
    said: list[str] = []
    inner = graphed(model)
    plain = EagerSteps(model, inner.update.optimizer, trainable(model), TRAINING.max_grad_norm)
    found = run(StepsWithFallback(_Fails(inner, fault), plain, said.append))  # type: ignore[arg-type]
    assert [loss for loss, _ in found] == pytest.approx([loss for loss, _ in expected], rel=1e-4)
    (sentence,) = said
    assert sentence.startswith("CUDA graphs could not be made (") and sentence.endswith("the run goes on without them, with the same result and slower.")


def test_a_capture_that_took_the_card_with_it_is_not_papered_over(tiny_folder: Path) -> None:
    _, model = ready(tiny_folder)
    inner = graphed(model)
    plain = EagerSteps(model, inner.update.optimizer, trainable(model), TRAINING.max_grad_norm)
    steps = StepsWithFallback(_Fails(inner, CaptureError("lost", poisoned=True)), plain, lambda text: pytest.fail(text))  # type: ignore[arg-type]
    with pytest.raises(CaptureError, match="lost"):
        run(steps)


def test_a_lost_card_is_known_to_the_engine_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise RuntimeError("operation would make the legacy stream depend on a capturing blocking stream\nmore")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    graphs = Graphs(CPU)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: fails())
    monkeypatch.setattr(graphs, "stream", SimpleNamespace(wait_stream=lambda other: None))
    for lost, cause in ((True, "device"), (False, "")):
        monkeypatch.setattr(captured, "lost_to", lambda device, lost=lost: RuntimeError("no answer") if lost else None)
        with pytest.raises(CaptureError, match="operation would make the legacy stream depend on a capturing blocking stream") as caught:
            graphs.capture(lambda: None, 1)
        assert caught.value.poisoned is lost
        assert accelerator_fault(caught.value) == cause
        assert "more" not in str(caught.value)
