"""Forward and backward of one optimizer step of 16 rows on a CPU, by three ways in one run that take turns; the ratios of the medians count.

    python benchmarks/cpu_step.py [--model models/gemma-3-270m] [--steps 5] [--dropout 0.1]

16 single rows with full logits; packed into one forward with the head on labels only; the same by the cheap passes that a run takes.
Before anything is timed all three must give the same loss without dropout.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from workbench.settings import Lora, Quantization, Training  # noqa: E402


def single_rows(model: Any, rows: list[Any], device: Any) -> float:
    """The plain way: every row its own forward and backward, logits over all its tokens; the same loss."""
    import torch

    labels = sum(row.label_count for row in rows)
    total = 0.0
    for row in rows:
        logits = model(input_ids=torch.tensor([row.ids], device=device), use_cache=False).logits[0].float()
        target = torch.tensor(row.labels[1:], device=device)
        loss = torch.nn.functional.cross_entropy(logits[:-1], target, ignore_index=-100, reduction="sum") / labels
        loss.backward()
        total += float(loss.detach())
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "gemma-3-270m")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--dropout", type=float, default=Lora().dropout)
    options = parser.parse_args()

    import torch

    from workbench.dataset.formats import load_rows
    from workbench.models.adapters import put_new_adapter
    from workbench.models.loading import load_base
    from workbench.training.cpu_pass import CpuPass
    from workbench.training.job import prepare
    from workbench.training.pack import pack_within
    from workbench.training.step import accumulate

    base = load_base(options.model, Quantization(mode="none"))
    rows, _ = prepare(load_rows(ROOT / "data" / "examples.json").rows, base, Training(validation_share=0), "examples.json")
    model = put_new_adapter(base, Lora(dropout=options.dropout), name="bench", seed=42, checkpointing=False)
    cheap = CpuPass(model)
    cheap.prove(model, pack_within(rows[:3], 4096)[0])
    ways = {
        "single rows": lambda group: single_rows(model, group, base.device),
        "packed": lambda group: accumulate(model, pack_within(group, 4096), base.device),
        "packed, cheap passes": lambda group: accumulate(model, pack_within(group, 4096), base.device, way=cheap),
    }
    model.eval()
    losses = [way(rows[:16]) for way in ways.values()]
    assert max(losses) - min(losses) < 1e-3, losses
    model.train()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for step in range(options.steps):
        for name, way in ways.items():
            model.zero_grad(set_to_none=True)
            begun = time.perf_counter()
            way(rows[16 * (step % 4) :][:16])
            times[name].append(time.perf_counter() - begun)
    tokens = sum(len(r.ids) for r in rows[:16])
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, fp32, {tokens} tokens a step, dropout {options.dropout}, {options.steps} steps each; losses {losses}")
    medians = {name: statistics.median(t) for name, t in times.items()}
    for name, seconds in medians.items():
        print(f"{name:22s} {seconds:.2f} s   {medians['single rows'] / seconds:.2f} × single rows   {medians['packed'] / seconds:.2f} × packed")


if __name__ == "__main__":
    main()
