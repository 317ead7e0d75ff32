"""What earlier runs teach: time and memory from runs of the same kind, said with their names, and never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.settings import RunSettings, apply_overrides
from workbench.training import events
from workbench.training.calibration import (
    Comparison,
    Kind,
    as_json,
    device_class,
    estimate_against_measured,
    kind_of,
    measured_gib,
    memory_correction,
    time_estimate,
)
from workbench.training.run_view import Owner, RunInfo, RunView

H100 = "NVIDIA H100 80GB HBM3"
ESTIMATE = {"weights": 3.0, "adapter": 0.5, "optimizer": 0.5, "activations": 5.0, "head": 1.0, "total": 10.0}


def run(
    name: str = "a", *, seconds: float = 2.0, tokens: int = 500, steps: int = 8, per_epoch: int = 4, between: float = 0.0, device: str = "CPU, 2 threads",
    peak: float | None = None, estimated: dict[str, float] | None = None, state: str = "finished", pairs: tuple[str, ...] = (),
    model_name: str = "gemma-3-270m", resumed: bool = False,
) -> RunView:
    """A run of `steps` steps that took `seconds` each, and `between` seconds an epoch besides."""
    info = RunInfo(
        name=name, model="demo", model_name=model_name, data_name="x", data_rows=70, data_sha256="", settings=apply_overrides(RunSettings(), pairs),
        owner=Owner(pid=1, started=0.0), estimated_gib=estimated or {},
    )
    told: list[events.Event] = [events.Started(
        time=1000.0, total_steps=steps, epochs=steps // per_epoch, train_rows=63, validation_rows=7, trainable_parameters=1, total_parameters=2, device=device,
    )]
    if resumed:
        told.insert(0, events.Resumed(time=999.0, step=0))
    for n in range(1, steps + 1):
        at = 1000.0 + n * seconds + between * n / per_epoch
        told.append(events.Step(time=at, step=n, epoch=n / per_epoch, loss=1.0, learning_rate=1e-3, gradient_norm=1.0, tokens=tokens, labels=9,
                                seconds=seconds, memory_gib=1.0 + n / 10))
    if state != "running":
        told.append(events.Ended(state=state, step=steps, peak_memory_gib=peak))
    return RunView(info, Path("x"), tuple(told), state)


def kind(*pairs: str, device: str = "CPU", model_name: str = "gemma-3-270m") -> Kind:
    return Kind.of(model_name, apply_overrides(RunSettings(), pairs), device)


def seconds_for(views: list[RunView], *, steps: int = 40, tokens: int | None = 20_000, of: Kind | None = None):
    return time_estimate(views, of or kind(), steps=steps, tokens=tokens, steps_an_epoch=4)


def test_every_cpu_is_one_class_and_every_card_its_own():
    assert (device_class("CPU, 2 threads"), device_class("CPU"), device_class(H100)) == ("CPU", "CPU", H100)


def test_auto_is_resolved_by_where_a_run_trained():
    assert kind_of(run()) == Kind("gemma-3-270m", "none", False, False, "CPU")
    assert kind_of(run(device=H100)) == Kind("gemma-3-270m", "4-bit", False, False, H100)
    assert kind_of(RunView(run().info, Path("x"), (), "waiting")) is None


def test_without_a_run_of_the_same_kind_nothing_is_guessed():
    assert seconds_for([]) is None
    others = [
        run(device=H100), run(pairs=("quantization.mode=4-bit",)), run(pairs=("training.checkpointing=true",)), run(pairs=("lora.dora=true",)),
        run(model_name="gemma-3-4b"), run(state="running"), run(state="failed"), run(steps=3),
    ]  # fmt: skip
    assert seconds_for(others) is None
    assert memory_correction(others, kind()) is None


def test_like_steps_take_as_long_again():
    found = seconds_for([run(seconds=2.0, tokens=500)])
    assert (found.low_seconds, found.high_seconds, found.runs) == (pytest.approx(80.0), pytest.approx(80.0), ("a",))
    assert found.sure == "one run only, so take it as a hint"


def test_what_comes_between_the_steps_counts_by_the_epoch():
    found = seconds_for([run(seconds=2.0, between=6.0)])
    assert found.low_seconds == pytest.approx(80.0 + 10 * 6.0)
    assert seconds_for([run(seconds=2.0, between=6.0, resumed=True)]).low_seconds == pytest.approx(80.0)


def test_longer_steps_give_a_span_between_a_step_s_and_a_token_s_time():
    found = seconds_for([run(seconds=2.0, tokens=500)], tokens=80_000)
    assert (found.low_seconds, found.high_seconds) == (pytest.approx(80.0), pytest.approx(320.0))
    assert found.sure == "their steps were of other lengths, so this is a span"


def test_unknown_tokens_leave_the_time_a_step():
    assert seconds_for([run(seconds=2.0)], tokens=None).high_seconds == pytest.approx(80.0)


def test_several_runs_say_how_far_they_agree():
    found = seconds_for([run("c", seconds=2.0), run("b", seconds=2.1), run("a", seconds=2.2)])
    assert (found.low_seconds, found.runs, found.sure) == (pytest.approx(84.0), ("c", "b", "a"), "they agree within 10%")
    apart = seconds_for([run("b", seconds=2.0), run("a", seconds=4.0)])
    assert (apart.low_seconds, apart.high_seconds) == (pytest.approx(80.0), pytest.approx(160.0))
    assert apart.sure == "they differ by 100%, so this is a span"


def test_only_the_newest_runs_are_read():
    found = seconds_for([run(f"r{n}", seconds=1.0 if n < 5 else 50.0) for n in range(9)])
    assert found.runs == ("r0", "r1", "r2", "r3", "r4")
    assert found.high_seconds == pytest.approx(40.0)


def test_the_first_step_warms_up_and_is_left_out():
    view = run(seconds=2.0)
    slow = view.happened[1].model_copy(update={"seconds": 90.0})
    warmed = RunView(view.info, view.folder, (view.happened[0], slow, *view.happened[2:]), view.state)
    assert seconds_for([warmed]).high_seconds == pytest.approx(80.0)


def test_the_peak_is_the_ended_event_s_or_the_steps_largest():
    assert measured_gib(run(peak=9.5)) == 9.5
    assert measured_gib(run()) == pytest.approx(1.8)
    assert measured_gib(RunView(run().info, Path("x"), (), "waiting")) is None


def test_estimate_and_measurement_stand_side_by_side():
    found = estimate_against_measured(run(peak=11.0, estimated=ESTIMATE))
    assert found == Comparison(10.0, 11.0, {"weights": 3.0, "adapter": 0.5, "optimizer": 0.5, "activations": 5.0, "head": 1.0})
    assert found.ratio == pytest.approx(1.1)
    assert estimate_against_measured(run(peak=11.0)) is None


def test_the_estimate_is_corrected_by_the_median_of_runs_on_the_same_device_and_quantization():
    views = [run(n, device=H100, peak=p, estimated=ESTIMATE) for n, p in (("c", 11.0), ("b", 12.0), ("a", 10.0))]
    found = memory_correction([run("cpu", peak=90.0, estimated=ESTIMATE), *views], kind(device=H100))
    assert (found.ratio, found.runs, found.spread) == (pytest.approx(1.1), ("c", "b", "a"), pytest.approx(1.2))
    assert memory_correction(views, kind("quantization.mode=8-bit", device=H100)) is None
    other = kind("training.checkpointing=true", device=H100, model_name="gemma-3-1b")
    assert memory_correction(views, other).ratio == pytest.approx(1.1)


def test_runs_of_the_same_model_tell_before_those_of_others():
    views = [run("big", peak=15.0, estimated=ESTIMATE, model_name="gemma-3-4b"), run("small", peak=11.0, estimated=ESTIMATE)]
    assert memory_correction(views, kind()).runs == ("small",)
    assert memory_correction(views, kind(model_name="gemma-3-1b")).runs == ("big", "small")


def test_a_corrected_plan_is_not_corrected_twice():
    """A run's total holds the correction already; the next ratio is taken against the parts."""
    corrected = ESTIMATE | {"total": 12.0}
    assert memory_correction([run(peak=12.0, estimated=corrected)], kind()).ratio == pytest.approx(1.2)


@pytest.mark.parametrize(("peak", "ratio"), [(0.1, 0.5), (400.0, 2.0)])
def test_an_estimate_is_not_bent_beyond_reason(peak, ratio):
    assert memory_correction([run(peak=peak, estimated=ESTIMATE)], kind()).ratio == ratio


def test_the_estimate_is_plain_json():
    assert as_json(None) is None
    assert as_json(seconds_for([run()])) == {"low_seconds": 80.0, "high_seconds": 80.0, "runs": ["a"], "sure": "one run only, so take it as a hint"}
