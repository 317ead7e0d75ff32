"""What a run costs by the number of rows, the tokens of a row, the rank, and the size of the model.

    python benchmarks/gpu_scale.py [--only rows tokens rank model] [--json PATH]
    python benchmarks/gpu_scale.py --figure PATH        # from those figures, without a card: PATH with .html and a Plotly .json beside it

Random weights of Gemma 3's shapes, made on the card, 4-bit unless --mode none; 16 rows to an optimizer step. One axis moves at a time, the rest
stays at 63 rows of the 70 (their own tokens), rank 16, 4B. 12 optimizer steps a point, the first three dropped. The axis `tokens` takes rows of
equal length, a third of which is learned. An axis is measured in one process, in which a failed point ends the process and the next
point begins another; `before_gib` is what was taken before a point began.
"""

from __future__ import annotations

import gc
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import common  # noqa: E402
from benchmarks.common import Result  # noqa: E402

AXES: dict[str, tuple[Any, ...]] = {
    "rows": (70, 700, 7000),
    "tokens": (40, 80, 160, 320, 640, 1280, 2000),
    "rank": (4, 8, 16, 32, 64, 128),
    "model": ("270m", "1b", "4b", "12b"),
}
UNITS = {"rows": "rows in the set", "tokens": "tokens per row", "rank": "rank", "model": "model"}
POINTS = [f"{axis}={value}" for axis, values in AXES.items() for value in values]
DROPPED = 3


def steady(seconds: Sequence[float]) -> list[float]:
    """Without the first steps, and without those in which a later graph was captured (thrice the median)."""
    later = list(seconds[DROPPED:]) or list(seconds)
    usual = statistics.median(later)
    return [s for s in later if s <= 3 * usual]


def measure(name: str, options: Any, kept: dict[str, Any]) -> Result:
    """One point. `kept` carries the base from point to point."""
    axis, _, value = name.partition("=")
    base = _base(options.size if axis != "model" else value, options, kept)
    pairs = [f"training.max_row_tokens={max(2048, 1 + max(AXES['tokens']))}", *options.set, *common.STEPS_ALONE]
    if axis == "rank":
        pairs += [f"lora.rank={value}", f"lora.alpha={2 * int(value)}"]
    settings = common.settings_for(base.folder, [f"quantization.mode={options.mode}", *pairs, *common.capture(not options.eager)])
    rows = _rows(axis, value, base, settings.training)
    epochs = math.ceil(options.steps / math.ceil(len(rows) / settings.training.rows_per_step))
    settings = settings.model_copy(update={"training": settings.training.model_copy(update={"epochs": epochs})})
    gc.collect()
    begun = time.perf_counter()
    made = common.train_timed(base, rows, settings, steps=options.steps)
    kept_steps = steady(made["step_s"])
    return {
        "name": name, "axis": axis, "value": value, "mode": options.mode, "step_ms": 1000 * statistics.median(kept_steps),
        "tokens_s": made["step_tokens"] / statistics.median(kept_steps), "step_tokens": made["step_tokens"], "train_peak_gib": made["train_peak_gib"],
        "before_gib": kept["gib"], "first_step_s": made["first_step_s"], "steps": made["steps"], "trainable": made["trainable"],
        "whole_s": time.perf_counter() - begun, "notices": made["notices"],
    }


def _base(size: str, options: Any, kept: dict[str, Any]) -> Any:
    """The base of a size, built once for the points that share it, bare of adapters; its memory without any goes into `kept["gib"]`."""
    import torch

    from benchmarks.random_models import random_base
    from workbench.models.adapters import take_off_adapter
    from workbench.models.loading import load_base

    if kept.get("size") != size:
        kept.pop("base", None)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if options.model:
            from workbench.settings import Quantization

            kept["base"] = load_base(options.model.resolve(), Quantization(mode=options.mode))
        else:
            kept["base"] = random_base(size, options.mode, options.tokenizer)
        kept["size"] = size
    take_off_adapter(kept["base"])
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    kept["gib"] = common.taken_gib()
    return kept["base"]


def _rows(axis: str, value: str, base: Any, training: Any) -> list[Any]:
    """The 63 rows; repeated up to so many of 70, each time with its answer's last token another; or 63 of so many tokens each."""
    from workbench.training.encode import IGNORED, Encoded

    real = common.rows_for(base.tokenizer, training).learned
    chance = random.Random(0)
    words = range(base.model.get_input_embeddings().weight.shape[0])
    words = words[len(words) // 4 : len(words) // 4 * 3]  # away from the control tokens
    if axis == "rows":
        count = round(int(value) * len(real) / 70)
        varied = [real[i % len(real)] for i in range(count)]
        return [Encoded((*r.ids[:-1], chance.choice(words)), r.labels) if i >= len(real) else r for i, r in enumerate(varied)]
    if axis == "tokens":
        made = []
        for _ in real:
            ids = tuple(chance.choice(words) for _ in range(int(value)))
            asked = len(ids) - len(ids) // 3
            made.append(Encoded(ids, (IGNORED,) * asked + ids[asked:]))
        return made
    return list(real)


# -- telling --------------------------------------------------------------------------------------------


def line(r: Result) -> str:
    return (f"{r['name']:14} {r['step_ms']:8.1f} ms a step of {r['step_tokens']:.0f} tokens  {r['tokens_s']:9.0f} tokens/s  peak {r['train_peak_gib']:.2f} GiB "
            f"(before {r['before_gib']:.2f})  first step {r['first_step_s']:.1f} s " + " ".join(r["notices"]))


def finish(results: list[Result]) -> str:
    parts = []
    for axis, unit in UNITS.items():
        of = sorted((r for r in results if r["axis"] == axis), key=_place)
        if of:
            head = [unit, "step ms", "tokens a step", "tokens/s", "peak GiB", "before GiB", "first step s", "trainable"]
            parts.append(common.table(head, [
                [r["value"], f"{r['step_ms']:.1f}", f"{r['step_tokens']:.0f}", f"{r['tokens_s']:.0f}", f"{r['train_peak_gib']:.2f}", f"{r['before_gib']:.2f}",
                 f"{r['first_step_s']:.1f}", f"{r['trainable']:,}"] for r in of
            ]))
    return "\n\n".join(parts)


def _place(r: Result) -> int:
    values = [str(value) for value in AXES[r["axis"]]]
    return values.index(r["value"]) if r["value"] in values else -1


def draw(path: Path) -> str:
    """The figure of the results in `path`: step time above, peak memory below, an axis a column. Returns what was written."""
    from plotly.subplots import make_subplots

    kept = json.loads(path.read_text(encoding="utf-8"))
    results = [r for r in kept["results"] if "failed" not in r]
    axes = [axis for axis in AXES if any(r["axis"] == axis for r in results)]
    chart = make_subplots(rows=2, cols=len(axes), shared_xaxes=True, vertical_spacing=0.06, horizontal_spacing=0.05, column_titles=[UNITS[a] for a in axes])
    for column, axis in enumerate(axes, 1):
        of = sorted((r for r in results if r["axis"] == axis), key=_place)
        x = [r["value"] if axis == "model" else int(r["value"]) for r in of]
        hover = [f"{r['step_tokens']:.0f} tokens a step, {r['tokens_s']:.0f} tokens/s" for r in of]
        for row, key in ((1, "step_ms"), (2, "train_peak_gib")):
            chart.add_scatter(x=x, y=[r[key] for r in of], text=hover, mode="lines+markers", line_color="#3b6fb6", showlegend=False, row=row, col=column)
        if axis != "model":
            chart.update_xaxes(type="log", tickvals=x, ticktext=[f"{v / 1000:.3g}k" if v >= 1000 else str(v) for v in x], col=column)
    chart.update_yaxes(rangemode="tozero")
    if "tokens" in axes:  # both scales logarithmic: what is linear is a straight line of slope 1
        chart.update_yaxes(type="log", dtick=1, row=1, col=1 + axes.index("tokens"))
    chart.update_yaxes(title_text="optimizer step, ms", row=1, col=1)
    chart.update_yaxes(title_text="peak of training, GiB", row=2, col=1)
    told = kept["versions"]
    modes = ", ".join(sorted({r["mode"] for r in results}))
    chart.update_layout(
        title=f"What a run costs ({modes}; {told.get('device', '')}, torch {told.get('torch', '')}, {kept['when']})", template="plotly_white",
        height=640, width=1280, font_size=13,
    )
    html, data = path.with_suffix(".html"), path.with_suffix(".plotly.json")
    html.write_text(chart.to_html(include_plotlyjs="cdn"), encoding="utf-8")
    data.write_text(chart.to_json(), encoding="utf-8")
    return f"{html} and {data}"


def main() -> None:
    parser = common.parser_for(__doc__ or "", [*AXES, *POINTS, "model=tiny"], timeout=150)
    parser.set_defaults(only=list(AXES))
    parser.add_argument("--size", default="4b", choices=[*(str(v) for v in AXES["model"]), "tiny"], help="the random model of the other axes")
    parser.add_argument("--mode", default="4-bit", choices=("4-bit", "none"))
    parser.add_argument("--eager", action="store_true", help="without CUDA graphs")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--figure", type=Path, help="draw the figures that --json kept there")
    options = parser.parse_args()
    if options.figure:
        print("wrote " + draw(options.figure))
        return
    if options.one:
        kept: dict[str, Any] = {}
        for name in options.one:
            common.tell(measure(name, options, kept))
        return
    chosen = [point for name in options.only for point in ([p for p in POINTS if p.startswith(f"{name}=")] or [name])]
    for axis in AXES:  # an axis a process
        options.only = [point for point in chosen if point.startswith(f"{axis}=")]
        if options.only:
            common.run_all(__file__, options, line, together=True, finish=finish)


if __name__ == "__main__":
    main()
