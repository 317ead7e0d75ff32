"""One training run, side by side: the articles' recipe, transformers' Trainer with dynamic padding, and the workbench.

    python benchmarks/gpu_speed.py [--model FOLDER] [--only NAMES] [--json PATH]

Gemma 3 4B's shape with random weights (made in --work) unless --model is given; 63 rows, 16 to an optimizer step, 10 epochs, 40 steps.
Each name is measured in a process of its own. The recipe is measured over --reference-steps after one that warms up, and its 40 are
calculated from them (marked ~). `load+…` loads and ends: from the original weights, `making` the quantized copy beside the model (unless
it is there), and from that `copy`, as every later row does. `checkpointing` computes layers again, `sparing` keeps the embeddings and the
head with the host as well. `click+…` is the whole job as a person gets it: a cold `python -m workbench train` from its start to its end
with the default settings, again without the model answering its validation rows, and then both in a process that has the base loaded.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import common  # noqa: E402
from benchmarks.common import Result, figure  # noqa: E402

MODES = {
    "4-bit": ("quantization.mode=4-bit",),
    "8-bit": ("quantization.mode=8-bit", "quantization.threshold=0"),
    "8-bit-threshold6": ("quantization.mode=8-bit", "quantization.threshold=6"),
    "none": ("quantization.mode=none",),
}
# How the Trainer's rows differ from the recipe.
DYNAMIC: dict[str, Any] = {"pad": 0, "batch": 16, "accumulation": 1, "right": True}
TRAINERS: dict[str, dict[str, Any]] = {
    "reference+4-bit": {"mode": "4-bit"},
    "reference+8-bit": {"mode": "8-bit"},
    "trainer+4-bit+checkpointing": DYNAMIC | {"mode": "4-bit"},
    "trainer+4-bit": DYNAMIC | {"mode": "4-bit", "checkpointing": False},
}
# What a row may have beside: less memory for more time.
SPARING = {"checkpointing": ("training.checkpointing=true",), "sparing": ("training.checkpointing=true", "quantization.offload=true")}
LOOPS = [f"{path}+{mode}" for mode in MODES for path in ("eager", "captured")] + [f"captured+4-bit+{more}" for more in SPARING]
LOADS = ["load+4-bit", "load+4-bit+making", "load+4-bit+copy", "load+8-bit", "load+8-bit+making", "load+8-bit+copy", "load+none"]
CLICKS = ["click+4-bit", "click+8-bit"]
NAMES = [*LOADS, *TRAINERS, *LOOPS, *CLICKS]


def measure(name: str, folder: Path, options: Any) -> Result:
    if name in TRAINERS:
        return trainer(name, folder, options)
    kind, mode, *more = name.split("+")
    if kind == "load":
        return common.load_timed(folder, common.settings_for(folder, MODES[mode]).quantization, copies=bool(more))[1]
    pairs = [*MODES[mode], *options.set, *(pair for one in more for pair in SPARING.get(one, ()))]
    if kind == "click":
        return click(folder, options.work, pairs)
    settings = common.settings_for(folder, [*pairs, *common.STEPS_ALONE, *common.capture(kind == "captured")])
    base, loaded = common.load_timed(folder, settings.quantization)
    rows = common.rows_for(base.tokenizer, settings.training)
    return loaded | common.train_timed(base, rows.learned, settings, steps=options.steps)


def trainer(name: str, folder: Path, options: Any) -> Result:
    """The recipe over a few steps; the dynamic batches over as many as the workbench."""
    from benchmarks.reference_recipe import ALL_STEPS, Recipe, train

    changed = dict(TRAINERS[name])
    recipe = name.startswith("reference")
    if recipe and options.pad:
        changed["pad"] = options.pad
    steps = options.reference_steps if recipe else options.steps or ALL_STEPS
    return train(folder, Recipe(**changed), steps=steps, warm=0 if steps >= ALL_STEPS else 1)


# -- from the click to the adapter --------------------------------------------------------------------


def click(folder: Path, work: Path, pairs: list[str]) -> Result:
    """Seconds to a saved and proven adapter: cold with the default settings, cold without answers, and with the base loaded."""
    quiet = [*pairs, "training.sample_every=0"]
    cold, cold_quiet = _cold(folder, work / "click", pairs), _cold(folder, work / "click-quiet", quiet)
    return {
        "cold_s": cold["s"], "cold_first_step_s": cold["first_step_s"], "cold_without_answers_s": cold_quiet["s"], "cold_peak_gib": cold["peak_gib"],
        "notices": cold["notices"],
    } | _loaded(folder, work / "click-loaded", pairs, quiet)


def _space(root: Path, folder: Path) -> Any:
    from workbench.workspace import Workspace

    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    return Workspace(root=root, model=str(folder))


def _cold(folder: Path, root: Path, pairs: list[str]) -> Result:
    """`python -m workbench train` from the start of its process to its end, and until its first step was told."""
    space = _space(root, folder)
    command = [sys.executable, "-m", "workbench", "--root", str(root), "train", "--data", str(ROOT / "data" / "examples.json"), "--name", "click",
               "--model", str(folder), "--json"]
    for pair in pairs:
        command += ["--set", pair]
    begun = time.perf_counter()
    child = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    heard: list[tuple[float, str]] = []

    def listen() -> None:
        assert child.stderr is not None
        heard.extend((time.perf_counter() - begun, line.rstrip()) for line in child.stderr)

    ear = threading.Thread(target=listen, daemon=True)
    ear.start()
    try:
        assert child.stdout is not None
        said = child.stdout.read()
        code, seconds = child.wait(), time.perf_counter() - begun
    finally:
        child.kill()
    ear.join(5)
    if code:
        raise RuntimeError(f"the command line ended with {code}: " + " | ".join(text for _, text in heard[-8:]))
    json.loads(said.strip().splitlines()[-1])
    view = space.runs.view("click")
    return {"s": seconds, "first_step_s": next((at for at, text in heard if text.startswith("step 1 ")), None),
            "peak_gib": view.peak_memory_gib, "notices": [event.text for event in view.happened if event.type == "notice"]}


def _loaded(folder: Path, root: Path, pairs: list[str], quiet: list[str]) -> Result:
    """The same job twice in a process that holds the base: with default settings, then without answers."""
    from workbench.dataset.formats import load_rows
    from workbench.engine.jobs import Host, Report
    from workbench.engine.messages import TrainJob

    space = _space(root, folder)
    rows = load_rows(ROOT / "data" / "examples.json").rows
    host = Host(space.catalog, space.runs)
    host.ensure_base(str(folder), space.settings_from(None, pairs).quantization, Report())
    common.sync()
    found: Result = {}
    for name, chosen in (("loaded_s", pairs), ("loaded_without_answers_s", quiet)):
        begun = time.perf_counter()
        run = space.create_run(name, rows, space.settings_from(None, chosen), data_name="examples.json")
        host.do(TrainJob(run=run.name), Report())
        found[name] = time.perf_counter() - begun
    return found


# -- telling --------------------------------------------------------------------------------------------


def line(r: Result) -> str:
    if "cold_s" in r:
        return (f"{r['name']:28} cold {r['cold_s']:.1f} s (first step told after {figure(r['cold_first_step_s'])} s), without answers "
                f"{r['cold_without_answers_s']:.1f} s; base loaded {r['loaded_s']:.1f} s, without answers {r['loaded_without_answers_s']:.1f} s")
    load = f"{r['name']:28} load {r['load_s']:.1f} s, peak {r['load_peak_gib']:.2f} GiB"
    if "forty_s" not in r:
        return load + f"; then {r['copy_s']:.1f} s for the copy" * (r["copy_s"] > 0.1)
    said = f"; first step {r['first_step_s']:.2f} s; 40 steps {_forty(r)} s ({r['step_ms']:.0f} ms); peak {r['train_peak_gib']:.2f} GiB; loss {_losses(r)}"
    return load + said + "".join(f"\n    {text}" for text in r.get("notices", []))


def _forty(r: Result) -> str:
    return ("~" if r.get("extrapolated") else "") + f"{r['forty_s']:.1f}"


def _losses(r: Result) -> str:
    return " ".join(figure(r["losses"][n - 1], ".3f") if len(r["losses"]) >= n else "–" for n in (1, 10, 40))


def finish(results: list[Result]) -> str:
    """The table; the ratio is to the reference of like base weights, the 4-bit one where there is none."""
    forty = {r["name"]: r["forty_s"] for r in results if "forty_s" in r}
    rows = []
    for r in results:
        if "forty_s" not in r:
            continue
        bits = r["name"].split("+")[1][:5]
        reference = forty.get(f"reference+{bits}", forty.get("reference+4-bit"))
        rows.append([
            r["name"], f"{r['load_s']:.1f}", f"{r['load_peak_gib']:.2f}", f"{r['first_step_s']:.2f}", _forty(r), f"{r['whole_s']:.1f}", f"{r['step_ms']:.0f}",
            f"{r['train_peak_gib']:.2f}", figure(reference / r["forty_s"] if reference else None),
            figure(reference / r["whole_s"] if reference and r["steps"] >= 40 else None), _losses(r),
        ])
    head = ["", "load s", "load GiB", "first step s", "40 steps s", "all s", "step ms", "train GiB", "× reference", "× with all", "loss at 1, 10, 40"]
    return common.table(head, rows) if rows else ""


def main() -> None:
    parser = common.parser_for(__doc__ or "", NAMES, timeout=240)
    parser.add_argument("--steps", type=int, default=0, help="optimizer steps of the workbench's and the Trainer's rows (0: all 40)")
    parser.add_argument("--reference-steps", type=int, default=2, help="steps of the recipe that are measured, after one to warm up; 40 runs all")
    parser.add_argument("--pad", type=int, default=0, help="pad the recipe's rows to so many tokens instead (to try this script)")
    options = parser.parse_args()
    if options.one:
        common.tell(measure(options.one[0], common.model_folder(options), options))
        return
    common.model_folder(options)
    common.run_all(__file__, options, line, finish=finish)


if __name__ == "__main__":
    main()
