"""The memory that a plan promises beside the memory that its run takes, on a GPU, at Gemma 3 4B's exact shape.

    python benchmarks/gpu_memory.py --tokenizer models/gemma-3-270m [--work /tmp/workbench-bench] [--only 4-bit none+checkpointing]

Each configuration trains in a process of its own over the 70 rows, the way a run of the workbench does (`Workspace.create_run`,
then the engine's own training job). Weights are random: values don't change memory. Prints one JSON line per configuration
and a table at the end; `--json FILE` keeps the lines.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

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


def measure(name: str, folder: Path, work: Path, epochs: int, answers: bool) -> dict[str, Any]:
    """One configuration in this process: planned, created, trained; what was promised and what was taken, GiB."""
    import torch

    from workbench.dataset.formats import load_rows
    from workbench.engine.jobs import Host, Report
    from workbench.engine.messages import TrainJob
    from workbench.training.calibration import estimate_against_measured
    from workbench.workspace import Workspace

    space = Workspace(root=work / "space" / name.replace("+", "-"), model=str(folder))
    shutil.rmtree(space.root, ignore_errors=True)
    space.root.mkdir(parents=True)
    pairs = [*CONFIGURATIONS[name], f"training.epochs={epochs}", "training.warmup_steps=1", f"training.sample_every={int(answers)}"]
    rows = load_rows(ROOT / "data" / "examples.json").rows
    settings = space.settings_from(None, pairs)
    plan = space.plan(rows, settings)
    info = space.create_run("measured", rows, settings, data_name="examples.json")
    host = Host(space.catalog, space.runs)
    begun = time.perf_counter()
    base = host.ensure_base(info.model, settings.quantization, Report())
    torch.cuda.synchronize()
    loaded, weights = time.perf_counter() - begun, torch.cuda.memory_allocated() / 2**30
    del base
    begun = time.perf_counter()
    host.do(TrainJob(run=info.name), Report())
    view = space.runs.view(info.name)
    compared = estimate_against_measured(view)
    if compared is None:
        raise RuntimeError("the run told no peak, or its plan no estimate")
    return {
        "configuration": name, "estimated_gib": round(compared.planned_gib, 3), "measured_gib": round(compared.measured_gib, 3),
        "measured_over_estimated": round(compared.ratio, 4), "parts": {part: round(gib, 3) for part, gib in compared.parts.items()},
        "weights_measured_gib": round(weights, 3), "tokens": plan.packing.largest_tokens if plan.packing else None,
        "trainable": [plan.trainable_parameters, view.started.trainable_parameters if view.started else None],
        "steps": len(view.steps), "step_ms": round(1000 * statistics.median(s.seconds for s in view.steps[1:])),
        "load_s": round(loaded, 1), "train_s": round(time.perf_counter() - begun, 1), "verdict": plan.verdict,
        "device": view.started.device if view.started else "",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/workbench-bench"))
    parser.add_argument("--only", nargs="*", choices=list(CONFIGURATIONS), default=list(CONFIGURATIONS), metavar="CONFIGURATION")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--answers", action="store_true", help="let the model answer its validation rows too, as a run does by default (slow)")
    parser.add_argument("--timeout", type=int, default=240, help="seconds for one configuration")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.work / "gemma-3-4b-random"
    if options.one:
        print("RESULT " + json.dumps(measure(options.one, folder, options.work, options.epochs, options.answers)))
        return
    if not (folder / "config.json").is_file():
        from benchmarks.gpu import make_random_4b

        make_random_4b(folder, options.tokenizer)
    results: list[dict[str, Any]] = []
    for name in options.only:
        command = [sys.executable, __file__, "--tokenizer", str(options.tokenizer), "--work", str(options.work), "--one", name, "--epochs", str(options.epochs)]
        command += ["--answers"] if options.answers else []
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=options.timeout, check=False)
        except subprocess.TimeoutExpired:
            print(json.dumps({"configuration": name, "failed": f"not done within {options.timeout} s"}), flush=True)
            continue
        line = next((text for text in done.stdout.splitlines() if text.startswith("RESULT ")), None)
        if line is None:
            print(json.dumps({"configuration": name, "failed": done.stderr[-1200:]}), flush=True)
            continue
        results.append(json.loads(line.removeprefix("RESULT ")))
        print(json.dumps(results[-1]), flush=True)
    for r in results:
        told = f"estimated {r['estimated_gib']:6.2f}  measured {r['measured_gib']:6.2f}  measured/estimated {r['measured_over_estimated']:.3f}"
        print(f"{r['configuration']:26} {told}  {r['step_ms']} ms a step")
    if options.json:
        options.json.write_text("".join(json.dumps(r) + "\n" for r in results))


if __name__ == "__main__":
    main()
