"""One optimizer step of 16 rows: packed into one forward with the head on labels only, against 16 single rows with full logits.

    python benchmarks/cpu_step.py [--model models/gemma-3-270m] [--steps 5]

Both in one run on the same rows and adapter, taking turns; the ratio of the medians counts.
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
    options = parser.parse_args()

    import torch

    from workbench.dataset.formats import load_rows
    from workbench.models.adapters import put_new_adapter
    from workbench.models.loading import load_base
    from workbench.settings import Lora, Quantization, Training
    from workbench.training.job import prepare
    from workbench.training.pack import pack_within
    from workbench.training.step import accumulate

    base = load_base(options.model, Quantization(mode="none"))
    rows, _ = prepare(load_rows(ROOT / "data" / "examples.json").rows, base, Training(validation_share=0), "examples.json")
    model = put_new_adapter(base, Lora(dropout=0.0), name="bench", seed=42, checkpointing=False)
    model.train()
    times: dict[str, list[float]] = {"packed": [], "single": []}
    losses: dict[str, float] = {}
    for step in range(options.steps + 1):
        group = rows[16 * (step % 4) :][:16]
        for name in times:
            begun = time.perf_counter()
            if name == "packed":
                losses[name] = accumulate(model, pack_within(group, 4096), base.device)
            else:
                losses[name] = single_rows(model, group, base.device)
            model.zero_grad(set_to_none=True)
            if step:  # the first of each warms up
                times[name].append(time.perf_counter() - begun)
        assert abs(losses["packed"] - losses["single"]) < 1e-3, losses
    packed, single = (statistics.median(t) for t in times.values())
    tokens = sum(len(r.ids) for r in rows[:16])
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {base.quantization.mode}, {tokens} tokens a step, {options.steps} steps each")
    print(f"packed {packed:.2f} s   single rows {single:.2f} s   ratio {single / packed:.2f}   largest loss difference < 1e-3")


if __name__ == "__main__":
    main()
