"""Faults that really happen on a card, in a real worker: out of memory, a device-side assertion, a kernel that does not end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA card", allow_module_level=True)

from workbench.dataset.formats import load_rows  # noqa: E402
from workbench.engine.client import Engine, Limits  # noqa: E402
from workbench.engine.messages import Holds, TrainJob, UnloadJob  # noqa: E402
from workbench.errors import EngineError  # noqa: E402
from workbench.settings import Sampling, make_settings  # noqa: E402
from workbench.workspace import Workspace  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE = 240.0
LEFT = 2 * 2**30  # bytes of a worker that holds nothing: its context with the libraries' kernels
AT = 4  # the backward pass, one a step, that meets the fault

# The worker itself, with one fault in it: it happens once, as long as the file `armed` is there.
WORKER = """#!{python}
import os, runpy, sys, time

sys.path.insert(0, {root!r})
import torch

backward, passes = torch.Tensor.backward, 0

def happen():
    if {fault!r} == "memory":
        held = []
        while True:
            held.append(torch.empty(2**30, dtype=torch.uint8, device="cuda"))
    elif {fault!r} == "device":
        torch.nn.functional.embedding(torch.tensor([10**6], device="cuda"), torch.zeros(10, 4, device="cuda"))
        torch.cuda.synchronize()
    else:
        torch.cuda._sleep(2 * 10**11)  # cycles: some two minutes in one kernel
        torch.cuda.synchronize()

def counted(self, *args, **kwargs):
    global passes
    passes += 1
    if passes == {at} and os.path.exists({armed!r}):
        os.remove({armed!r})
        happen()
    return backward(self, *args, **kwargs)

torch.Tensor.backward = counted
sys.argv = ["worker", *sys.argv[3:]]
runpy.run_module("workbench.engine.worker", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def broken(tmp_path: Path, workspace: Workspace) -> Callable[[str], Workspace]:
    """A builder: the workspace with an engine whose worker meets a fault on the card in its fourth step, once."""

    def build(fault: str) -> Workspace:
        script, armed = tmp_path / "worker", tmp_path / "armed"
        armed.touch()
        text = WORKER.format(python=sys.executable, root=str(REPOSITORY), fault=fault, armed=str(armed), at=AT)
        script.write_text(text, encoding="utf-8")
        script.chmod(0o755)
        limits = Limits(starting=DEADLINE, loading=DEADLINE, computing=15.0 if fault == "hang" else DEADLINE)
        vars(workspace)["engine"] = Engine(workspace.catalog.models_dir, workspace.runs.folder, workspace.runs, python=str(script), limits=limits)
        return workspace

    return build


def fail(space: Workspace, cause: str) -> str:
    training = {"epochs": 4, "rows_per_step": 2, "validation_share": 0.0, "warmup_steps": 0, "save_every": 1, "learning_rate": 0.01}
    training |= {"capture": False}  # captured steps call no backward: the fault would not happen
    settings = make_settings({"training": training, "lora": {"rank": 4}, "quantization": {"mode": "none"}})
    space.create_run("run", load_rows(space.data_dir / "examples.json").rows[:4], settings, data_name="examples.json")
    ticket = space.jobs.start_training("run")
    with pytest.raises(EngineError) as caught:
        ticket.wait(DEADLINE)
    view = space.runs.view("run")
    assert view.ended is not None and (view.state, view.ended.cause, view.ended.reason) == ("failed", cause, str(caught.value))
    assert ticket.cause == cause and space.engine.status().holds == Holds()
    return str(caught.value)


def free_on_card() -> int:
    """Bytes that the driver has free, whichever process asks."""
    free: int = torch.cuda.mem_get_info()[0]
    return free


def goes_on(space: Workspace) -> None:
    """The next job works, and the run is finished from its checkpoint."""
    done = space.jobs.answer([{"role": "user", "content": "Привет"}], run=None, lanes=(False,), sampling=Sampling(max_new_tokens=8)).wait(DEADLINE)
    assert done["replies"][0]["tokens"] > 0 and space.engine.status().last_fault == ""
    result = space.engine.submit(TrainJob(run="run", resume=True), "training run run").wait(DEADLINE)
    assert (result["state"], result["step"]) == ("finished", 8)


def test_a_card_that_runs_out_of_memory_is_emptied_and_the_same_process_goes_on(broken: Callable[[str], Workspace]) -> None:
    space = broken("memory")
    before = free_on_card()
    assert fail(space, "memory").startswith("The memory ran out: choose 4-bit base weights")
    # As soon as it is told, and not only when the next job asks: another program may want the card.
    assert before - free_on_card() < LEFT, "nothing but the process's own context is left on the card"
    pid = space.engine.worker_pid()
    freed = space.engine.submit(UnloadJob(), "freeing").wait(DEADLINE)
    assert freed["allocated_bytes"] < 2**27
    goes_on(space)
    assert space.engine.worker_pid() == pid is not None


def test_a_device_side_assertion_costs_the_process_and_no_more(broken: Callable[[str], Workspace]) -> None:
    space = broken("device")
    reason = fail(space, "device")
    assert reason.startswith("The card failed (") and "device-side assert" in reason
    assert space.engine.worker_pid() is None
    goes_on(space)


def test_a_kernel_that_does_not_end_is_ended_by_the_watchdog(broken: Callable[[str], Workspace]) -> None:
    space = broken("hang")
    before = free_on_card()
    assert fail(space, "hang").startswith("Training run run gave no sign of progress for 15 s while computing (the limit)")
    assert space.engine.worker_pid() is None and before - free_on_card() < LEFT // 4, "the card is free again"
    goes_on(space)
