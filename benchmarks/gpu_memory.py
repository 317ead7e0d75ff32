"""The memory that a plan promises beside the memory that its run takes, on a GPU, at Gemma 3 4B's exact shape.

    python benchmarks/gpu_memory.py [--model FOLDER] [--only 4-bit none+checkpointing] [--json PATH]

Each configuration trains in a process of its own over the 70 rows, the way a run of the workbench does (`Workspace.create_run`,
then the engine's own training job). Weights are random: values don't change memory.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import common  # noqa: E402
from benchmarks.common import Result  # noqa: E402

CONFIGURATIONS: dict[str, tuple[str, ...]] = {
    "4-bit": ("quantization.mode=4-bit",),
    "4-bit+checkpointing": ("quantization.mode=4-bit", "training.checkpointing=true"),
    "8-bit": ("quantization.mode=8-bit",),
    "8-bit+checkpointing": ("quantization.mode=8-bit", "training.checkpointing=true"),
    "none": ("quantization.mode=none",),
    "none+checkpointing": ("quantization.mode=none", "training.checkpointing=true"),
    "4-bit+rank64": ("quantization.mode=4-bit", "lora.rank=64", "lora.alpha=128"),
    "4-bit+rslora": ("quantization.mode=4-bit", "lora.rslora=true"),
    "4-bit+attention": ("quantization.mode=4-bit", "lora.target_modules=q_proj,k_proj,v_proj,o_proj"),
    "4-bit+ownranks": ("quantization.mode=4-bit", "lora.attention_rank=64", "lora.mlp_rank=8"),
    "4-bit+budget256": ("quantization.mode=4-bit", "training.tokens_per_forward=256"),
    "4-bit+rows48": ("quantization.mode=4-bit", "training.rows_per_step=48"),
    "4-bit+dora": ("quantization.mode=4-bit", "lora.dora=true", "lora.dropout=0"),
    "4-bit+dora+dropout": ("quantization.mode=4-bit", "lora.dora=true"),
    "4-bit+dora+checkpointing": ("quantization.mode=4-bit", "lora.dora=true", "training.checkpointing=true"),
    "none+dora": ("quantization.mode=none", "lora.dora=true", "lora.dropout=0"),
}


def measure(name: str, folder: Path, work: Path, epochs: int, answers: bool, chosen: list[str]) -> Result:
    """One configuration in this process: planned, created, trained; what was promised and what was taken, GiB."""
    from workbench.dataset.formats import load_rows
    from workbench.engine.jobs import Host, Report
    from workbench.engine.messages import TrainJob
    from workbench.training.calibration import estimate_against_measured
    from workbench.workspace import Workspace

    space = Workspace(root=work / "space" / name.replace("+", "-"), model=str(folder))
    shutil.rmtree(space.root, ignore_errors=True)
    space.root.mkdir(parents=True)
    pairs = [*CONFIGURATIONS[name], *chosen, f"training.epochs={epochs}", "training.warmup_steps=1", f"training.sample_every={int(answers)}"]
    rows = load_rows(ROOT / "data" / "examples.json").rows
    settings = space.settings_from(None, pairs)
    plan = space.plan(rows, settings)
    info = space.create_run("measured", rows, settings, data_name="examples.json")
    host = Host(space.catalog, space.runs)
    begun = time.perf_counter()
    base = host.ensure_base(info.model, settings.quantization, Report())
    loaded, weights = time.perf_counter() - begun, common.taken_gib()
    del base
    begun = time.perf_counter()
    host.do(TrainJob(run=info.name), Report())
    view = space.runs.view(info.name)
    compared = estimate_against_measured(view)
    if compared is None:
        raise RuntimeError("the run told no peak, or its plan no estimate")
    return {
        "estimated_gib": round(compared.planned_gib, 3), "measured_gib": round(compared.measured_gib, 3),
        "measured_over_estimated": round(compared.ratio, 4), "parts": {part: round(gib, 3) for part, gib in compared.parts.items()},
        "weights_measured_gib": round(weights, 3), "tokens": plan.packing.largest_tokens if plan.packing else None,
        "trainable": [plan.trainable_parameters, view.started.trainable_parameters if view.started else None],
        "steps": len(view.steps), "step_ms": round(1000 * statistics.median(s.seconds for s in view.steps[1:])),
        "load_s": round(loaded, 1), "train_s": round(time.perf_counter() - begun, 1), "verdict": plan.verdict,
        "device": view.started.device if view.started else "",
    }


def line(r: Result) -> str:
    told = f"estimated {r['estimated_gib']:6.2f}  measured {r['measured_gib']:6.2f}  measured/estimated {r['measured_over_estimated']:.3f}"
    return f"{r['name']:26} {told}  {r['step_ms']} ms a step"


def main() -> None:
    parser = common.parser_for(__doc__ or "", list(CONFIGURATIONS), timeout=240)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--answers", action="store_true", help="let the model answer its validation rows too, as a run does by default (slow)")
    options = parser.parse_args()
    if options.one:
        common.tell(measure(options.one[0], common.model_folder(options), options.work, options.epochs, options.answers, options.set))
        return
    common.model_folder(options)
    common.run_all(__file__, options, line, finish=lambda results: "\n".join(map(line, results)))


if __name__ == "__main__":
    main()
