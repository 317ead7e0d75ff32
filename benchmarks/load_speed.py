"""How long a cold process takes until a base can be used, and what it holds at most: the old way, a first loading, the quantized copy.

    python benchmarks/load_speed.py [--model models/gemma-3-270m] [--modes 4-bit 8-bit none] [--repeats 3] [--cold]

Each measurement is a process of its own; times are from the import of torch on, the best of the repeats, and the ways take turns.
"the old way" imports, reads, quantizes and then builds the tokenizer, one after the other; "first" is the workbench without a
copy (and the time that making it adds), "copy" is the workbench with it. With --cold the model's files are dropped from the
system's cache before each measurement, as after a reboot. The copies are left beside the model only with --leave.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
WAYS = ("the old way", "first", "copy")


def the_old_way(folder: Path, mode: str) -> Any:
    """from_pretrained with the original weights, then the tokenizer."""
    from transformers import AutoModelForCausalLM

    from workbench.models.loading import Base, _bitsandbytes, _how, _settled, pick_device, pick_dtype
    from workbench.models.tokenizer import ChatTokenizer
    from workbench.settings import Quantization

    device = pick_device()
    dtype, resolved = pick_dtype(device), Quantization(mode=mode)  # type: ignore[arg-type]
    model = AutoModelForCausalLM.from_pretrained(str(folder), quantization_config=_bitsandbytes(resolved, dtype), **_how(dtype, device))
    tokenizer = ChatTokenizer.load(folder)
    assert tokenizer.backend
    return Base(_settled(model), tokenizer, folder, resolved)


def measure(folder: Path, mode: str, way: str) -> dict[str, Any]:
    """One loading, in this process, which has imported nothing heavy yet."""
    begun = time.perf_counter()
    import torch

    import workbench.models.loading as loading
    from workbench.models import quantized_cache
    from workbench.settings import Quantization

    imported = time.perf_counter()
    said: list[str] = []
    if way == "the old way":
        base = the_old_way(folder, mode)
    else:
        keep = quantized_cache.QuantizedCopy.keep
        spent = [0.0]

        def timed(*args: Any) -> None:
            start = time.perf_counter()
            keep(*args)
            spent[0] += time.perf_counter() - start

        quantized_cache.QuantizedCopy.keep = timed  # type: ignore[method-assign]
        base = loading.load_base(folder, Quantization(mode=mode), say=said.append)  # type: ignore[arg-type]
    usable = time.perf_counter()
    cuda = base.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else _resident()
    reserved = torch.cuda.max_memory_reserved() / 2**30 if cuda else 0.0
    with torch.no_grad():
        ids = torch.tensor([base.tokenizer.prompt_ids([{"role": "user", "content": "Hello"}])], device=base.device)
        logits = base.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits.float().cpu()
    answered = time.perf_counter()
    from peft import get_peft_model  # noqa: F401  what training imports still

    peft = time.perf_counter()
    found = {
        "torch": imported - begun, "load": usable - imported, "first logits": answered - usable, "peft": peft - answered, "total": peft - begun,
        "peak": peak, "reserved": reserved, "logits": [float(x) for x in logits.flatten()[:5]], "said": said,
        "device": torch.cuda.get_device_name(0) if cuda else "CPU", "dtype": str(base.model.dtype).removeprefix("torch."),
    }
    if way != "the old way":
        found["keeping"] = spent[0]
        start = time.perf_counter()
        quantized_cache.wait_for_copies()
        found["writing"] = time.perf_counter() - start
    return found


def _resident() -> float:
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**30


def drop(folder: Path) -> None:
    """Ask the system to forget the files' contents (Linux; clean pages alone)."""
    for path in folder.rglob("*"):
        if path.is_file() and hasattr(os, "posix_fadvise"):
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def child(folder: Path, mode: str, way: str) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).resolve()), "--model", str(folder), "--one", mode, way]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=580)
    if done.returncode:
        sys.exit(f"{mode}, {way}: the process ended with {done.returncode}\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "gemma-3-270m")
    parser.add_argument("--modes", nargs="+", default=["4-bit", "8-bit"], choices=["4-bit", "8-bit", "none"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--leave", action="store_true")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.model, *options.one)))
        return
    print(f"{options.model.name}, files {'dropped from' if options.cold else 'in'} the system's cache, best of {options.repeats}")
    print(f"{'':24}{'torch':>8}{'load':>8}{'keeping':>9}{'writing':>9}{'logits':>8}{'peft':>7}{'total':>8}{'peak GiB':>10}{'reserved':>10}{'against old':>13}")
    copies = options.model / ".quantized"
    for mode in options.modes:
        found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS[: 2 if mode == "none" else 3]}
        for _ in range(options.repeats):
            for way in found:
                if way != "copy":
                    shutil.rmtree(copies, ignore_errors=True)
                if options.cold:
                    drop(options.model)
                found[way].append(child(options.model, mode, way))
        for way, runs in found.items():
            best = {key: min(run.get(key, 0.0) for run in runs) for key in ("torch", "load", "keeping", "writing", "first logits", "peft", "total")}
            peak, reserved = max(run["peak"] for run in runs), max(run["reserved"] for run in runs)
            old = min(run["total"] for run in found["the old way"])
            print(
                f"{mode + ', ' + way:24}{best['torch']:8.2f}{best['load']:8.2f}{best['keeping']:9.2f}{best['writing']:9.2f}{best['first logits']:8.2f}"
                f"{best['peft']:7.2f}{best['total']:8.2f}{peak:10.2f}{reserved:10.2f}{best['total'] / old:13.2f}"
            )
            if way == "copy" and not any("quantized copy kept" in text for text in runs[-1]["said"]):
                print(f"  the copy was not read: {runs[-1]['said']}")
        same = {tuple(run["logits"]) for runs in found.values() for run in runs}
        print(f"  {found['first'][0]['device']}, {found['first'][0]['dtype']}; logits {'equal in all' if len(same) == 1 else f'DIFFER: {same}'}")
    if not options.leave:
        shutil.rmtree(copies, ignore_errors=True)


if __name__ == "__main__":
    main()
