"""Decoding on a CPU: the loop of our own against transformers' `generate`, one lane, both panes and two adapters, in one run by turns.

    python benchmarks/cpu_decode.py [--model models/gemma-3-270m] [--tokens 24] [--rounds 3]

Prints tokens a second a lane (medians) and the ratio, of the clock's time and of the cores' (waiting threads spin:
other work on the machine bends both); the texts of both ways are held against each other.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "gemma-3-270m")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    import torch

    from workbench.models.adapters import SLOTS, put_new_adapter
    from workbench.models.decoding import Lane, generate
    from workbench.models.loading import load_base
    from workbench.settings import Lora, Quantization, Sampling

    base = load_base(options.model, Quantization(mode="none"))
    model = put_new_adapter(base, Lora(), name="bench", seed=42, checkpointing=False)
    model.add_adapter(SLOTS[1], model.peft_config[SLOTS[0]])
    base.adapters = ("bench", "other")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.01)
    prompt = tuple(base.tokenizer.prompt_ids([{"role": "user", "content": "Сколько денег на моём счёте?"}]))
    sampling = Sampling(max_new_tokens=options.tokens)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.model.name}, {options.tokens} tokens, {options.rounds} rounds")
    for title, adapted in (("one answer, base", [0]), ("one answer, adapted", [1]), ("base and adapted", [0, 1]), ("two adapters", [1, 2])):
        lanes = [Lane(prompt, number) for number in adapted]
        speeds: dict[bool, list[float]] = {True: [], False: []}
        worked: dict[bool, list[float]] = {True: [], False: []}
        texts: dict[bool, list[str]] = {}
        for number in range(options.rounds + 1):
            for own in (True, False):
                begun, cores = time.perf_counter(), time.process_time()
                replies = generate(base, lanes, sampling, capture=own)
                seconds = time.perf_counter() - begun
                texts[own] = [r.text for r in replies]
                if number:  # the first of each warms up
                    speeds[own].append(max(r.tokens for r in replies) / seconds)
                    worked[own].append(time.process_time() - cores)
        own, theirs = (statistics.median(speeds[which]) for which in (True, False))
        cores_ratio = statistics.median(worked[False]) / statistics.median(worked[True])
        same = "same texts" if texts[True] == texts[False] else "TEXTS DIFFER"
        print(f"{title:20} own loop {own:6.1f} tokens/s a lane   generate {theirs:6.1f}   ratio {own / theirs:.2f} (cores' time {cores_ratio:.2f})   {same}", flush=True)


if __name__ == "__main__":
    main()
