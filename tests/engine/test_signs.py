"""Signs of progress: who gives them, and how they are told."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import BaseModel

from workbench.dataset.formats import load_rows
from workbench.engine import worker
from workbench.engine.jobs import Host, Report
from workbench.engine.messages import AnswerJob, Beat, Phase, TrainJob, UnloadJob
from workbench.engine.watch import Limits, Watch
from workbench.engine.worker import Signs
from workbench.settings import Sampling, make_settings
from workbench.workspace import Workspace

LAYERS = 3  # of the tiny model


def test_signs_are_told_at_once_when_the_phase_changes_and_else_not_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 50.0
    monkeypatch.setattr(worker.time, "monotonic", lambda: now)
    said: list[BaseModel] = []
    signs = Signs(7, said.append)
    for _ in range(3):
        signs("loading")
    now += worker.BEAT_SECONDS / 2
    signs("loading")
    signs("computing")
    now += worker.BEAT_SECONDS
    signs("computing")
    assert [message.phase for message in said if isinstance(message, Beat)] == ["loading", "computing", "computing"]
    assert {message.number for message in said if isinstance(message, Beat)} == {7}


def test_the_longest_time_between_two_looks_for_a_stop_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 50.0
    monkeypatch.setattr(worker.time, "monotonic", lambda: now)
    said: list[BaseModel] = []
    signs = Signs(1, said.append)
    for seconds in (2.0, 5.0, 1.0):
        now += seconds
        signs.looked_for_a_stop()
    signs("computing")
    assert said == [Beat(number=1, phase="computing", gap=5.0)]


@pytest.fixture
def host(workspace: Workspace) -> Host:
    return Host(workspace.catalog, workspace.runs)


def signs_of(host: Host, job: AnswerJob | TrainJob | UnloadJob) -> list[Phase]:
    signs: list[Phase] = []
    host.do(job, Report(sign=signs.append))
    return signs


def answer(tokens: int) -> AnswerJob:
    return AnswerJob(turns=({"role": "user", "content": "Привет"},), lanes=(False,), sampling=Sampling(max_new_tokens=tokens))


def test_loading_gives_a_sign_for_every_tensor_and_answering_for_every_token(host: Host) -> None:
    first = signs_of(host, answer(4))
    assert set(first) == {"loading", "computing on a CPU"} and first.count("loading") > 20
    short, long = signs_of(host, answer(4)), signs_of(host, answer(24))
    assert set(short + long) == {"computing on a CPU"}
    assert len(long) - len(short) == 20 * (LAYERS + 1), "every layer and a look for a stop a token"


@pytest.mark.parametrize("packs", [1, 4])
def test_training_gives_a_sign_for_every_layer_of_every_pass(workspace: Workspace, host: Host, packs: int) -> None:
    """A step of many packs, or a validation, may take longer than any limit: each pass of it counts."""
    rows = load_rows(workspace.data_dir / "examples.json").rows[:4]
    training = {"epochs": 1, "rows_per_step": 4, "tokens_per_forward": 64 if packs > 1 else 16384, "validation_share": 0.0, "warmup_steps": 0}
    name = f"run-{packs}"
    workspace.create_run(name, rows, make_settings({"training": training, "lora": {"rank": 2}}), data_name="examples.json")
    signs_of(host, answer(1))
    looks: list[int] = []

    def stop() -> bool:
        looks.append(1)
        return False

    signs: list[Phase] = []
    host.do(TrainJob(run=name), Report(sign=signs.append, stop=stop))
    proof = 2 + 2 * 2  # passes without a way back: the adapter on and off; with one: the cheap way of a CPU and the plain one
    begun = 1  # the job itself
    assert len(signs) == begun + len(looks) + LAYERS * (2 * packs + proof) and set(signs) == {"computing on a CPU"}


def test_one_pass_that_takes_longer_than_the_limit_is_not_ended(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that every layer moves on by most of the limit: the pass takes twice as long as the limit, and gives signs all the while."""
    now = 0.0
    signs_of(host, answer(1))
    watch = Watch(Limits(computing_cpu=100.0), fresh=False, clock=lambda: now)
    monkeypatch.setattr(worker.time, "monotonic", lambda: now)
    signs = Signs(1, watch.heard)  # type: ignore[arg-type]
    overrun: list[str] = []

    def slow(*_: object) -> None:
        nonlocal now
        now += 70.0
        overrun.append(watch.overrun(None))

    model = host.base.raw  # type: ignore[union-attr]
    hooks = [layer.register_forward_hook(slow) for layer in model.model.layers]
    host.do(answer(1), Report(sign=signs))
    for hook in hooks:
        hook.remove()
    assert overrun == [""] * LAYERS and now == 70.0 * LAYERS > watch.limits.computing_cpu


def test_a_job_that_is_over_gives_no_more_signs(host: Host) -> None:
    signs: list[Phase] = []
    host.do(answer(1), Report(sign=signs.append))
    count = len(signs)
    run: Callable[..., object] = host.base.model  # type: ignore[union-attr]
    import torch

    run(input_ids=torch.tensor([[2, 3]]))
    assert len(signs) == count and not any(m._forward_hooks for m in host.base.raw.modules())  # type: ignore[union-attr]
