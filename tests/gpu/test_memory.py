"""On a card: load → train → answer → unload, twenty times in one process, leaves not one byte more allocated."""

from __future__ import annotations

import gc

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA card", allow_module_level=True)

from workbench.dataset.formats import load_rows  # noqa: E402
from workbench.engine.jobs import Host, Report  # noqa: E402
from workbench.engine.messages import AnswerJob, TrainJob, UnloadJob  # noqa: E402
from workbench.settings import Sampling, make_settings  # noqa: E402
from workbench.workspace import Workspace  # noqa: E402

ROUNDS = 20
MIB = 2**20


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("mode", ["none", "4-bit", "8-bit"])
def test_every_round_of_load_train_answer_unload_gives_all_memory_back(workspace: Workspace, mode: str, checkpointing: bool) -> None:
    training = {
        "epochs": 1, "rows_per_step": 2, "validation_share": 0.0, "warmup_steps": 0, "learning_rate": 0.01, "checkpointing": checkpointing,
    }
    settings = make_settings({"training": training, "lora": {"rank": 4}, "quantization": {"mode": mode}})
    rows = load_rows(workspace.data_dir / "examples.json").rows[:4]
    host = Host(workspace.catalog, workspace.runs)
    allocated, reserved, peaks = [], [], []
    for k in range(ROUNDS):
        name = f"run-{k}"
        workspace.create_run(name, rows, settings, data_name="examples.json")
        torch.cuda.reset_peak_memory_stats()
        assert host.do(TrainJob(run=name), Report())["step"] == 2
        job = AnswerJob(turns=({"role": "user", "content": "Привет"},), lanes=(False, True), run=name, sampling=Sampling(max_new_tokens=3))
        host.do(job, Report())
        peaks.append(torch.cuda.max_memory_allocated())
        assert host.do(UnloadJob(), Report()) == {"allocated_bytes": torch.cuda.memory_allocated()}
        gc.collect()
        allocated.append(torch.cuda.memory_allocated())
        reserved.append(torch.cuda.memory_reserved())
    print(f"\n{mode}: allocated {allocated[-1]:,} B, reserved {reserved[-1]:,} B, peak {peaks[-1]:,} B")
    # The first round leaves what the libraries keep for themselves: cuBLAS' workspace and bitsandbytes' tables.
    assert allocated[1:] == [allocated[1]] * (ROUNDS - 1) and allocated[1] < min(peaks) and allocated[1] < 128 * MIB
    assert reserved[1:] == [reserved[1]] * (ROUNDS - 1)
