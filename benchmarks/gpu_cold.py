"""From the command to the saved and proven adapter in a cold process, phase by phase, with the quantized copy beside the model.

    python benchmarks/gpu_cold.py [--model FOLDER] [--ways answers none] [--repeats 3] [--set GROUP.FIELD=VALUE ...]

Every measurement is `python -m workbench train` in a process of its own, the ways taking turns; one run before them writes the
quantized copy, compiles Triton's kernels and is not counted. "answers" is a default run, "none" one without answers to its
validation rows (`training.sample_every=0`). The phases are read off what the command says, so that nothing is measured from within.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import ROOT, model_folder, versions

DATA = ROOT / "data" / "examples.json"
WAYS: dict[str, list[str]] = {"answers": [], "none": ["training.sample_every=0"]}
PHASES = ("imported", "loaded", "base asked", "first step", "trained", "over")


def phase_of(line: str) -> str | None:
    """Which phase a line on the command's standard error ends, if one; of those told again and again the last one counts."""
    if line.startswith("looking for "):
        return "imported"
    if line.startswith("training "):
        return "loaded"
    if line.startswith("epoch 0 "):
        return "base asked"
    if line.startswith("step "):
        return "first step" if line.startswith("step 1 ") else "trained"
    return None


def measure(model: Path, settings: list[str], root: Path) -> dict[str, Any]:
    """One run in a workbench of its own; seconds from the command's start to each phase, and what its events say."""
    command = [sys.executable, "-m", "workbench", "--root", str(root), "train", "--data", str(DATA), "--name", "cold", "--model", str(model)]
    for setting in settings:
        command += ["--set", setting]
    begun = time.perf_counter()
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None and child.stdout is not None
    found: dict[str, float] = {}
    said: list[str] = []
    for line in child.stderr:
        said.append(line)
        if (phase := phase_of(line)) is not None:
            found[phase] = time.perf_counter() - begun
    out = child.stdout.read()
    found["over"] = time.perf_counter() - begun
    if child.wait():
        raise SystemExit(f"the run failed: {''.join(said)[-2000:]}")
    told = [json.loads(line) for line in (root / "adapters" / "cold" / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [event["seconds"] for event in told if event["type"] == "step"]
    asked = [event["seconds"] for event in told if event["type"] == "sampled"]
    return {"phases": {name: round(found[name], 2) for name in PHASES if name in found}, "steps": round(sum(steps), 2), "first_steps": [round(s, 2) for s in steps[:3]],
            "answers": [round(s, 3) for s in asked], "notices": [e["text"] for e in told if e["type"] == "notice"], "said": out.strip().splitlines()[-1:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tokenizer", type=Path, default=ROOT / "models" / "gemma-3-270m")
    parser.add_argument("--work", type=Path, default=Path("/tmp/workbench-bench"))
    parser.add_argument("--ways", nargs="*", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print("  ".join(f"{name} {version}" for name, version in versions().items()), flush=True)
    model = model_folder(options)
    results: dict[str, list[dict[str, Any]]] = {way: [] for way in options.ways}
    for number in range(options.repeats + 1):
        for way in options.ways if number else options.ways[:1]:
            root = Path(tempfile.mkdtemp(prefix="cold-"))
            made = measure(model, [*options.set, *WAYS[way]], root)
            shutil.rmtree(root)
            print(f"{way if number else 'before it counts'}: {json.dumps(made, ensure_ascii=False)}", flush=True)
            if number:
                results[way].append(made)
    for way, made_all in results.items():
        if made_all:
            over = [made["phases"]["over"] for made in made_all]
            print(f"{way}: median {statistics.median(over):.1f} s of {', '.join(f'{s:.1f}' for s in over)}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"versions": versions(), "results": results}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
