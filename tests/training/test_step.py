"""One optimizer step and the loop around it: the rate's curve, clipping, faults, and the same seed giving the same run."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.models.adapters import put_new_adapter
from workbench.models.loading import load_base
from workbench.settings import Lora, Quantization, Training
from workbench.training import events, loop
from workbench.training.encode import IGNORED, Encoded
from workbench.training.step import apply_gradient, make_optimizer, rate_at

RATE = 2e-4


def rates(total: int, **changes: Any) -> list[float]:
    training = Training(learning_rate=RATE, **changes)
    return [rate_at(step, total, training) / RATE for step in range(total)]


def test_the_warm_up_climbs_in_equal_parts_to_the_full_rate() -> None:
    assert rates(6, warmup_steps=4, scheduler="constant") == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0], rel=1e-12)


def test_the_default_run_of_40_steps_follows_the_cosine_after_10_steps_of_warm_up() -> None:
    curve = rates(40)
    assert curve[:11] == pytest.approx([*(k / 11 for k in range(1, 11)), 1.0], rel=1e-12)
    assert curve[20] == pytest.approx(0.5 * (1 + math.cos(math.pi / 3)), rel=1e-12) == pytest.approx(0.75)
    assert curve[25] == pytest.approx(0.5, rel=1e-12)
    assert curve[39] == pytest.approx(0.5 * (1 + math.cos(math.pi * 29 / 30)), rel=1e-12)
    assert 0 < curve[39] < 0.003, "the last step still learns"
    assert all(later < earlier for earlier, later in zip(curve[10:], curve[11:], strict=False))


def test_the_linear_rate_falls_in_equal_parts_and_ends_above_zero() -> None:
    assert rates(6, warmup_steps=2, scheduler="linear") == pytest.approx([1 / 3, 2 / 3, 1.0, 0.75, 0.5, 0.25], rel=1e-12)


def test_the_constant_rate_stays() -> None:
    assert rates(5, warmup_steps=0, scheduler="constant") == [1.0] * 5


@pytest.mark.parametrize("scheduler", ["cosine", "linear", "constant"])
def test_a_warm_up_longer_than_the_run_never_reaches_the_full_rate(scheduler: str) -> None:
    assert rates(3, warmup_steps=9, scheduler=scheduler) == pytest.approx([0.1, 0.2, 0.3], rel=1e-12)


@pytest.mark.parametrize("scheduler", ["cosine", "linear"])
def test_the_rate_reaches_zero_only_after_the_last_step(scheduler: str) -> None:
    training = Training(warmup_steps=0, scheduler=scheduler)
    assert rate_at(4, 4, training) == pytest.approx(0.0, abs=1e-18)
    assert rate_at(3, 4, training) > 1e-5


@pytest.mark.parametrize(("limit", "moved"), [(0.5, [0.3, 0.4]), (10.0, [3.0, 4.0]), (0.0, [3.0, 4.0])])
def test_a_long_gradient_is_cut_to_the_limit_and_its_own_length_is_told(limit: float, moved: list[float]) -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    parameter.grad = torch.tensor([3.0, 4.0])
    assert apply_gradient(optimizer, [parameter], limit) == pytest.approx(5.0)
    assert (-parameter).tolist() == pytest.approx(moved, rel=1e-4)
    assert parameter.grad is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_moves_nothing(value: float) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([value, 1.0])
    assert not math.isfinite(apply_gradient(torch.optim.SGD([parameter], lr=1.0), [parameter], 0.3))
    assert parameter.tolist() == [1.0, 1.0] and parameter.grad is None


def test_the_optimizer_is_adamw_with_the_settings_decay() -> None:
    optimizer = make_optimizer([torch.nn.Parameter(torch.ones(1))], Training(weight_decay=0.25, learning_rate=RATE), fused=False)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (RATE, 0.25)


@pytest.mark.parametrize("fused", [False, True])
def test_the_optimizer_steps_as_torchs_own_does(fused: bool) -> None:
    ours, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2))
    mine = make_optimizer([ours], Training(weight_decay=0.1, learning_rate=0.01), fused=fused)
    other = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1, fused=fused)
    for step in range(3):
        for parameter in (ours, theirs):
            parameter.grad = torch.linspace(step, -2, 7)
        mine.step()
        other.step()
        mine.zero_grad()
        assert ours.grad is None and torch.equal(ours, theirs) and ours.requires_grad
    again = make_optimizer([ours], Training(), fused=fused)
    again.load_state_dict(mine.state_dict())
    assert torch.equal(again.state[ours]["exp_avg"], other.state[theirs]["exp_avg"])
    assert again.param_groups[0]["weight_decay"] == 0.1


# -- the loop ---------------------------------------------------------------------------------------

ROWS = [Encoded(ids := tuple(range(10 + n, 22 + n)), (*[IGNORED] * 6, *ids[6:])) for n in range(0, 50, 10)]
SHORT = Training(epochs=2, rows_per_step=2, warmup_steps=1, learning_rate=1e-2, seed=7)


def run(
    folder: Path, training: Training, *, poison: Callable[[Any, events.Event], None] | None = None
) -> tuple[list[events.Event], list[int]]:
    """Train a fresh tiny model; returns its events and the steps at which it was saved."""
    model = put_new_adapter(
        load_base(folder, Quantization(mode="none")), Lora(rank=4, dropout=0.2), name="t", seed=training.seed, checkpointing=False
    )
    told: list[events.Event] = []
    saved: list[int] = []

    def emit(event: events.Event) -> None:
        told.append(event)
        if poison:
            poison(model, event)

    try:
        loop.train(model, ROWS, ROWS[:1], training, emit=emit, stop=lambda: False, save=lambda moment: saved.append(moment.step))
    except loop.NotFiniteError as exc:
        told.append(events.Notice(text=str(exc)))
    return told, saved


def losses(told: list[events.Event]) -> list[float]:
    return [e.loss for e in told if isinstance(e, (events.Step, events.Validation))]


def test_the_same_seed_repeats_every_loss_exactly_and_another_seed_does_not(tiny_folder: Path) -> None:
    first, again = (losses(run(tiny_folder, SHORT)[0]) for _ in range(2))
    other = losses(run(tiny_folder, SHORT.model_copy(update={"seed": 8}))[0])
    assert len(first) == 8  # 2 epochs of 3 steps and one validation
    assert again == first
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_steps_tell_their_rate_epoch_and_sizes(tiny_folder: Path) -> None:
    steps = [e for e in run(tiny_folder, SHORT)[0] if isinstance(e, events.Step)]
    assert [s.step for s in steps] == [1, 2, 3, 4, 5, 6]
    assert [s.epoch for s in steps] == pytest.approx([1 / 3, 2 / 3, 1.0, 4 / 3, 5 / 3, 2.0])
    assert [s.learning_rate for s in steps] == [rate_at(k, 6, SHORT) for k in range(6)]
    assert [(s.tokens, s.labels) for s in steps] == [(24, 12), (24, 12), (12, 6)] * 2
    assert all(s.gradient_norm > 0 and s.seconds > 0 and s.memory_gib > 0 for s in steps)


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_adapter_saved_before(tiny_folder: Path) -> None:
    def poison(model: Any, event: events.Event) -> None:
        if isinstance(event, events.Validation):  # after the first epoch
            with torch.no_grad():
                next(p for p in model.parameters() if p.requires_grad).fill_(math.nan)

    told, saved = run(tiny_folder, SHORT, poison=poison)
    assert [e.type for e in told] == ["step", "step", "step", "validation", "notice"]
    assert told[-1].text == (
        "The loss or the gradient of optimizer step 4 is not a finite number: lower the learning rate (a third of 0.01, say) "
        "or try other quantization in a new run. The adapter saved after step 3 is kept."
    )
    assert saved == [3]
