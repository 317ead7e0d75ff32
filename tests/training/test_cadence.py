"""A large adapter in a fast run: saved seldom, and nothing of it lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from workbench.dataset.formats import load_rows
from workbench.models.loading import Base, load_base
from workbench.settings import Quantization, RunSettings, make_settings
from workbench.training import job, schedule, stepper
from workbench.training.cadence import Cadence, in_place
from workbench.training.runs import RunStore

ROWS = load_rows(Path(__file__).resolve().parents[2] / "data" / "examples.json").rows[:8]


def clock_of(*times: float) -> Callable[[], float]:
    left = iter(times)
    return lambda: next(left)


def heavy(monkeypatch: pytest.MonkeyPatch) -> list[torch.nn.Parameter]:
    monkeypatch.setattr(schedule, "HEAVY", 0)
    return [torch.nn.Parameter(torch.zeros(1))]


def test_a_heavy_save_waits_until_nine_times_its_own_time_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Cadence(heavy(monkeypatch), 0, clock_of(0.0, 9.9, 10.0, 10.0, 12.0, 29.9, 30.0))
    assert not one.lets(), "so little is trained again in no time"
    assert one.lets()
    with one.saving():
        pass
    assert not one.lets()
    assert one.lets()


def test_a_light_adapter_and_a_chosen_number_of_steps_are_always_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    for one in (Cadence([torch.nn.Parameter(torch.zeros(8))], 0, clock_of(0.0, 0.0, 5.0)), Cadence(heavy(monkeypatch), 7, clock_of(0.0, 0.0, 5.0))):
        with one.saving():
            pass
        assert one.lets()


def test_parameters_are_put_back_even_after_a_fault() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    with pytest.raises(OSError, match="full"), in_place([parameter], [torch.tensor([3.0, 4.0])]):
        assert parameter.tolist() == [3.0, 4.0]
        raise OSError("full")
    assert parameter.tolist() == [1.0, 2.0]


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> Base:
    return load_base(tiny_folder, Quantization(mode="none"))


def trained(base: Base, root: Path, settings: RunSettings) -> tuple[Path, list[tuple[int, bool]]]:
    """The run's folder, and (step, with the best?) of every save."""
    runs = RunStore(root)
    runs.create("r1", model="demo", model_name="tiny", rows=ROWS, data_name="rows.json", settings=settings)
    job.run_training(base, runs, "r1", stop=lambda: False)
    return runs.path("r1"), [(event.step, event.best) for event in runs.view("r1").happened if event.type == "saved"]


def test_the_best_and_the_last_are_the_same_files_however_seldom_they_are_saved(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What is measured is given: the best is neither the first nor the last.
    losses = iter([3.0, 2.0, 1.0, 2.0, 3.0, 4.0] * 2)
    monkeypatch.setattr(stepper, "mean_loss", lambda *args: next(losses))
    training = {"epochs": 6, "rows_per_step": 4, "learning_rate": 0.02, "warmup_steps": 2, "scheduler": "constant", "validation_share": 0.25, "sample_every": 0}
    settings = make_settings({"training": training, "lora": {"rank": 4, "alpha": 8}})
    often, told_often = trained(base, tmp_path / "often", settings)
    monkeypatch.setattr(schedule, "HEAVY", 0)
    monkeypatch.setattr(Cadence, "lets", lambda self: self.took is None)
    seldom, told_seldom = trained(base, tmp_path / "seldom", settings)
    first, last = told_often[0][0], told_often[-1][0]
    assert [is_best for _, is_best in told_often] == [True, True, True, False, False, False]
    assert told_seldom == [(first, True), (last, True)]
    for file in ("adapter_model.safetensors", "best/adapter_model.safetensors"):
        ours, theirs = load_file(str(seldom / file)), load_file(str(often / file))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), file


@pytest.mark.parametrize(("losses", "best_is_last"), [([3.0, 2.0, 1.0], True), ([3.0, 1.0, 2.0], False)])
def test_a_run_that_ends_before_anything_was_saved_keeps_both_adapters_and_writes_no_checkpoint(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, losses: list[float], best_is_last: bool
) -> None:
    monkeypatch.setattr(schedule, "HEAVY", 0)
    given = iter(losses)
    monkeypatch.setattr(stepper, "mean_loss", lambda *args: next(given))
    monkeypatch.setattr(job, "write_checkpoint", lambda *args, **more: pytest.fail("nothing is left to resume"))
    training = {"epochs": 3, "rows_per_step": 4, "learning_rate": 0.02, "warmup_steps": 2, "validation_share": 0.25, "sample_every": 0}
    folder, told = trained(base, tmp_path, make_settings({"training": training, "lora": {"rank": 4, "alpha": 8}}))
    assert told == [(6, True)]
    assert not list(folder.rglob("*.saving*")) and not (folder / "checkpoint").exists()
    last, best = (load_file(str(folder / file)) for file in ("adapter_model.safetensors", "best/adapter_model.safetensors"))
    assert all(torch.equal(last[key], best[key]) for key in last) is best_is_last
