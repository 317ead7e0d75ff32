"""Training and decoding on a GPU at Gemma 3 4B's exact shape, with random weights (values don't change time or memory).

    python benchmarks/gpu.py --tokenizer models/gemma-3-270m [--work /tmp/bench] [--modes none 8-bit 4-bit]

One process per mode, so that no measurement inherits another's memory. Prints a table; `--json FILE` keeps the figures.
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


def make_random_4b(folder: Path, tokenizer: Path) -> None:
    """A multimodal Gemma 3 of 4B's shape in bf16: matrices N(0, 0.02), norms 0, the head tied."""
    import torch
    from transformers import AutoModelForCausalLM, Gemma3Config

    text = {
        "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262208, "sliding_window": 1024,
        "max_position_embeddings": 131072, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    }
    vision = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
              "image_size": 896, "patch_size": 14, "vision_use_head": False}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=256, tie_word_embeddings=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.to_empty(device="cuda")
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.02) if parameter.dim() > 1 else torch.nn.init.zeros_(parameter)
    model.tie_weights()
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(tokenizer / name, folder / name)


def measure(folder: Path, mode: str, checkpointing: bool, steps: int) -> dict[str, Any]:
    """One mode in this process: loading, `steps` optimizer steps on the 70-row set, decoding base and adapted at once."""
    import torch

    from workbench.dataset.formats import load_rows
    from workbench.models.decoding import Lane, generate
    from workbench.models.loading import load_base, prove_active, put_new_adapter
    from workbench.settings import Quantization, RunSettings, Sampling, Training
    from workbench.training import events
    from workbench.training.job import prepare
    from workbench.training.loop import train
    from workbench.workspace import Workspace

    settings = RunSettings(quantization=Quantization(mode=mode), training=Training(epochs=max(1, steps // 4), checkpointing=checkpointing))
    begun = time.perf_counter()
    base = load_base(folder, settings.quantization)
    torch.cuda.synchronize()
    result: dict[str, Any] = {"mode": mode, "checkpointing": checkpointing, "load_s": time.perf_counter() - begun,
                              "load_peak_gib": torch.cuda.max_memory_allocated() / 2**30, "weights_gib": torch.cuda.memory_allocated() / 2**30}
    rows = load_rows(ROOT / "data" / "examples.json").rows
    learned, held_back = prepare(rows, base, settings.training, "examples.json")
    model = put_new_adapter(base, settings.lora, name="bench", seed=42, checkpointing=checkpointing)
    torch.cuda.reset_peak_memory_stats()
    seen: list[events.Step] = []
    begun = time.perf_counter()
    train(model, learned, held_back, settings.training, emit=lambda e: seen.append(e) if isinstance(e, events.Step) else None,
          stop=lambda: False, save=lambda step: None)
    torch.cuda.synchronize()
    trained = time.perf_counter() - begun
    plan = Workspace(model=str(folder)).plan(rows, settings)
    result |= {
        "train_s": trained, "step_ms": 1000 * statistics.median(s.seconds for s in seen[2:]), "steps": len(seen),
        "train_peak_gib": torch.cuda.max_memory_allocated() / 2**30, "estimate_gib": plan.memory.total_gib,
        "estimate": vars(plan.memory), "losses": [round(s.loss, 3) for s in seen[:3]], "adapter_difference": prove_active(base),
    }
    prompt = tuple(base.tokenizer.prompt_ids([{"role": "user", "content": "Сколько денег на моём счёте?"}]))
    for name, lanes in (("decode_adapted_tps", [True]), ("decode_both_tps", [False, True])):
        generate(base, [Lane(prompt, a) for a in lanes], Sampling(max_new_tokens=8))
        replies = generate(base, [Lane(prompt, a) for a in lanes], Sampling(max_new_tokens=32))
        result[name] = replies[0].tokens / max(replies[0].seconds, 1e-9)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/workbench-bench"))
    parser.add_argument("--modes", nargs="*", default=["4-bit", "8-bit", "none", "4-bit+checkpointing"])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.work / "gemma-3-4b-random"
    if options.one:
        mode, _, extra = options.one.partition("+")
        print("RESULT " + json.dumps(measure(folder, mode, bool(extra), options.steps)))
        return
    if not (folder / "config.json").is_file():
        begun = time.perf_counter()
        make_random_4b(folder, options.tokenizer)
        print(f"made a random 4B in {time.perf_counter() - begun:.0f} s", flush=True)
    results = []
    for mode in options.modes:
        command = [sys.executable, __file__, "--tokenizer", str(options.tokenizer), "--work", str(options.work), "--one", mode, "--steps", str(options.steps)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        line = next((text for text in done.stdout.splitlines() if text.startswith("RESULT ")), None)
        if line is None:
            print(f"{mode}: failed\n{done.stderr[-1500:]}", flush=True)
            continue
        results.append(json.loads(line.removeprefix("RESULT ")))
        r = results[-1]
        print(f"{mode:20} load {r['load_s']:5.1f} s (peak {r['load_peak_gib']:5.2f} GiB, weights {r['weights_gib']:.2f})  "
              f"{r['steps']} steps {r['train_s']:5.1f} s ({r['step_ms']:.0f} ms each)  peak {r['train_peak_gib']:5.2f} GiB "
              f"(estimate {r['estimate_gib']:.2f})  decode {r['decode_adapted_tps']:.0f} tok/s, both panes {r['decode_both_tps']:.0f} each", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
