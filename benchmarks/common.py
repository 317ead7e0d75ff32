"""What the GPU benchmarks share: one process per measurement, the figures kept and printed, one timed training pass.

The process that prints never imports torch: every measurement has the card to itself, and one that hangs or poisons its
process is ended and told. A child prints a line `RESULT {json}` per measurement.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import math
import os
import queue
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

Result = dict[str, Any]
MARK = "RESULT "  # begins a child's line that holds a result
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "liger-kernel", "triton")
RANDOM_MODELS = ROOT / "benchmarks" / "random_models.py"
NEVER = "1000000"
# Nothing but optimizer steps: no validation, no answers, no saving before the end. The split stays the default one, 63 rows of 70.
STEPS_ALONE = (
    "training.sample_every=0", f"training.evaluate_every={NEVER}", f"training.save_every={NEVER}", "training.keep_best=off",
)


# -- the process that prints ------------------------------------------------------------------------


def parser_for(text: str, names: Sequence[str], *, timeout: int) -> argparse.ArgumentParser:
    """The options that every GPU benchmark takes."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model folder (default: a random 4B, made in --work)")
    parser.add_argument("--tokenizer", type=Path, default=ROOT / "models" / "gemma-3-270m", help="the folder whose tokenizer a random model gets")
    parser.add_argument("--work", type=Path, default=Path("/tmp/workbench-bench"))
    parser.add_argument("--only", nargs="*", choices=list(names), default=list(names), metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--set", action="append", default=[], metavar="GROUP.FIELD=VALUE", help="a setting for the workbench's rows; repeat it for more")
    parser.add_argument("--timeout", type=int, default=timeout, help="seconds for one measurement")
    parser.add_argument("--json", type=Path, help="keep the figures there; those of other names that stand there stay")
    parser.add_argument("--one", nargs="*", help=argparse.SUPPRESS)
    return parser


def model_folder(options: argparse.Namespace) -> Path:
    """The folder of `--model`, or of the random 4B, which is made if it is not there (in a process that then frees the card)."""
    if options.model:
        return Path(options.model).resolve()
    folder: Path = options.work / "gemma-3-4b-random"
    if not (folder / "config.json").is_file():
        begun = time.perf_counter()
        subprocess.run([sys.executable, str(RANDOM_MODELS), "4b", str(folder), str(options.tokenizer)], check=True, cwd=ROOT)
        print(f"made a random 4B in {time.perf_counter() - begun:.0f} s", flush=True)
    return folder


def run_all(
    script: str, options: argparse.Namespace, line: Callable[[Result], str], *, together: bool = False,
    finish: Callable[[list[Result]], str] = lambda results: "",
) -> list[Result]:
    """Measure every name of `--only`, print a line for each as it comes and `finish`'s table last, keep them in `--json`.

    `together`: one process for all names, and a fresh one for the rest after a failure.
    """
    for name, version in versions().items():
        print(f"{name} {version}", end="  ")
    print(flush=True)
    results = _kept(options.json)
    for result in _each(script, options.only, options.timeout, together):
        results = [r for r in results if r["name"] != result["name"]] + [result]
        print(f"{result['name']}: FAILED: {result['failed']}" if "failed" in result else line(result), flush=True)
        if options.json:
            told = {"when": f"{datetime.date.today()}", "versions": versions(), "results": results}
            options.json.write_text(json.dumps(told, indent=1, ensure_ascii=False), encoding="utf-8")
    good = [r for r in results if "failed" not in r]
    print(finish(good), flush=True)
    return good


def _kept(path: Path | None) -> list[Result]:
    return list(json.loads(path.read_text(encoding="utf-8"))["results"]) if path and path.is_file() else []


def _each(script: str, names: Sequence[str], timeout: int, together: bool) -> Iterator[Result]:
    """The result of every name, as each comes; `{"name", "failed"}` for one that gave none."""
    todo = list(names)
    while todo:
        asked = todo if together else todo[:1]
        done = 0
        for result in _child([sys.executable, script, *sys.argv[1:], "--one", *asked], len(asked), timeout):
            yield {"name": asked[done]} | result
            done += 1
            if "failed" in result:
                break
        todo = todo[max(1, done) :]


def _child(command: list[str], count: int, timeout: int) -> Iterator[Result]:
    """Up to `count` results of a process; the last is `{"failed": why}` if it ended or hung before all were told."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, text=True, cwd=ROOT, env=os.environ | {"PYTHONUNBUFFERED": "1"}, start_new_session=True,
        )
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_read, args=(child.stdout, lines), daemon=True).start()
        told, deadline = 0, time.monotonic() + timeout
        try:
            while told < count:
                try:
                    text = lines.get(timeout=max(0.0, deadline - time.monotonic()))
                except queue.Empty:
                    yield {"failed": f"not done within {timeout} s; {_tail(said)}"}
                    return
                if text is None:
                    yield {"failed": f"exit {child.wait()}: {_tail(said)}"}
                    return
                if text.startswith(MARK):
                    told, deadline = told + 1, time.monotonic() + timeout
                    yield json.loads(text.removeprefix(MARK))
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(60)  # what it does beside, a copy of quantized weights for one, may end
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # what it started may hold the card too
            child.wait()


def _read(stream: Any, lines: queue.Queue[str | None]) -> None:
    for text in stream:
        lines.put(text)
    lines.put(None)


def _tail(said: Any) -> str:
    said.seek(0)
    return str(said.read())[-1500:].strip()


def versions() -> dict[str, str]:
    """The libraries' versions and the card, without torch."""
    from workbench.models.hardware import card

    found = {"python": sys.version.split()[0]}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    one = card()
    return found | {"device": f"{one.name}, {one.total_gib:.0f} GiB" if one else f"CPU, {os.cpu_count()} cores"}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns, the first aligned left, the rest right."""
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    return "\n".join("  ".join(f"{cell:{'>' if i else '<'}{widths[i]}}" for i, cell in enumerate(line)) for line in (head, *rows))


def figure(value: float | None, form: str = ".1f") -> str:
    return "–" if value is None else f"{value:{form}}"


# -- the process that measures ----------------------------------------------------------------------


def tell(result: Result) -> None:
    """Hand a result to the process that prints; a float that is not a number becomes null."""
    print(MARK + json.dumps(_finite(result)), flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sync() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def reset_peak() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> float:
    """The allocator's peak since `reset_peak`; on a CPU the process's resident memory now."""
    import torch

    from workbench.training.loop import memory_gib

    return memory_gib(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def taken_gib() -> float:
    """What lies on the card now; 0 without one."""
    import torch

    sync()
    return float(torch.cuda.memory_allocated()) / 2**30 if torch.cuda.is_available() else 0.0


def settings_for(folder: Path, pairs: Sequence[str]) -> Any:
    """The model's default settings, changed by `group.field=value` texts."""
    from workbench.workspace import Workspace

    return Workspace(model=str(folder)).settings_from(None, pairs)


def capture(on: bool) -> list[str]:
    """The setting for CUDA graphs. A build that has none runs eagerly; asking it to capture is an error."""
    from workbench.settings import Training

    if "capture" in Training.model_fields:
        return [f"training.capture={'true' if on else 'false'}"]
    if on:
        raise RuntimeError("this build has no setting training.capture")
    return []


def rows_for(tokenizer: Any, training: Any) -> Any:
    """The 70 rows encoded and split as a run splits them (`Prepared`)."""
    from workbench.dataset.formats import load_rows
    from workbench.training.job import prepare_rows

    return prepare_rows(load_rows(ROOT / "data" / "examples.json").rows, SimpleNamespace(tokenizer=tokenizer), training, "examples.json")  # type: ignore[arg-type]


def load_timed(folder: Path, quantization: Any, *, copies: bool = True) -> tuple[Any, Result]:
    """The loaded base, with what loading took; with `copies` false from the original weights. A copy that it makes is waited for, apart."""
    from workbench.models.loading import load_base
    from workbench.models.quantized_cache import wait_for_copies

    reset_peak()
    begun = time.perf_counter()
    base = load_base(folder, quantization, keep=copies)
    sync()
    loaded = {"load_s": time.perf_counter() - begun, "load_peak_gib": peak_gib()}
    begun = time.perf_counter()
    wait_for_copies()
    return base, loaded | {"copy_s": time.perf_counter() - begun}


def train_timed(base: Any, learned: Sequence[Any], settings: Any, *, steps: int = 0) -> Result:
    """A fresh adapter trained by the workbench's own loop, `steps` optimizer steps (0: all), nothing measured or saved between.

    Times are the clock's, told steps taken as marks: `first_step_s` holds warm-up and capture; `forty_s` is 40 steps at the mean
    pace of those after the first, where one that took thrice the median (a later capture) counts as the median; `whole_s` leaves nothing out.
    """
    from workbench.models.adapters import put_new_adapter
    from workbench.training import events
    from workbench.training.loop import train

    training = settings.training
    model = put_new_adapter(base, settings.lora, name="bench", seed=training.seed, checkpointing=training.checkpointing)
    reset_peak()
    marks: list[tuple[float, events.Step]] = []
    notices: list[str] = []
    begun = time.perf_counter()

    def hear(event: events.Event) -> None:
        if isinstance(event, events.Step):
            marks.append((time.perf_counter() - begun, event))
        elif isinstance(event, events.Notice):
            notices.append(event.text)

    train(model, learned, [], training, emit=hear, stop=lambda: bool(steps) and len(marks) >= steps, save=lambda moment: None)
    sync()
    whole, told = time.perf_counter() - begun, [event for _, event in marks]
    seconds = [at - before for at, before in zip([at for at, _ in marks][1:], [at for at, _ in marks][:-1], strict=True)] or [whole]
    usual = statistics.median(seconds)
    steady = [usual if s > 3 * usual else s for s in seconds]
    return {
        "steps": len(told), "first_step_s": marks[0][0], "forty_s": 40 * statistics.mean(steady), "whole_s": whole, "step_ms": 1000 * usual,
        "tokens_s": statistics.mean(e.tokens for e in told) / statistics.mean(steady), "step_tokens": statistics.mean(e.tokens for e in told),
        "train_peak_gib": peak_gib(), "losses": [e.loss for e in told], "step_s": [e.seconds for e in told], "notices": notices,
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
