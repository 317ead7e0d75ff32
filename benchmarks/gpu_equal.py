"""Does the run from CUDA graphs learn the same? Its loss at every step against the eager one, and what it learns against the recipe.

    python benchmarks/gpu_equal.py [--model FOLDER] [--only NAMES] [--json PATH]

`curve+…`: the loss at each of the 40 steps, dropout off, one seed: captured against eager, beside the difference of two eager runs (noise).
`learned+…` wants a model with its real weights (--real, default the embedded one): an adapter from the captured 4-bit run and one from
the articles' recipe without its mask bug (`reference_recipe --right`, padded to --pad: padding on the right changes nothing that
is learned), rate, dropout, split, order of rows and start alike; `learned+scores` then loads the base once and measures both:
validation loss (nats per label) and the replies to data/cases.jsonl. Dropout draws other masks in each, and the recipe's first step
has a rate of 0, so that the same is only like; --seeds repeats it.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import common  # noqa: E402
from benchmarks.common import Result, figure  # noqa: E402

PATHS = ("eager", "again", "captured")
CURVES = [f"curve+{mode}+{path}" for mode in ("4-bit", "none") for path in PATHS]
LEARNED = ["learned+reference", "learned+captured", "learned+eager", "learned+scores"]
NAMES = [*CURVES, *LEARNED]
WARM = 0.05  # nats: below it a loss is nearly nothing, and relative differences say little


def measure(name: str, options: Any) -> Result:
    kind, what, *more = name.split("+")
    if kind == "curve":
        return curve(common.model_folder(options), what, more[0], options)
    if what == "scores":
        return {"adapters": scores(options)}
    return {"seeds": [learn(what, seed, options) for seed in options.seeds]}


def curve(folder: Path, mode: str, path: str, options: Any) -> Result:
    pairs = [f"quantization.mode={mode}", "lora.dropout=0", *options.set, *common.STEPS_ALONE, *common.capture(path == "captured")]
    settings = common.settings_for(folder, pairs)
    base, _ = common.load_timed(folder, settings.quantization)
    rows = common.rows_for(base.tokenizer, settings.training)
    return common.train_timed(base, rows.learned, settings, steps=options.steps)


def adapter(options: Any, what: str, seed: int) -> Path:
    folder: Path = options.work / "equal" / f"{what}-{seed}"
    return folder


def learning(options: Any, seed: int, captured: bool) -> Any:
    """The settings of both sides: those of a run on the real model by default, in --mode."""
    pairs = [f"quantization.mode={options.mode}", f"training.seed={seed}", *options.set, *common.STEPS_ALONE, *common.capture(captured)]
    return common.settings_for(options.real, pairs)


def learn(what: str, seed: int, options: Any) -> Result:
    """Train one adapter and keep it in --work."""
    into = adapter(options, what, seed)
    into.mkdir(parents=True, exist_ok=True)
    if what == "reference":
        from benchmarks.reference_recipe import Recipe, train

        settings = learning(options, seed, captured=False)
        recipe = Recipe(
            options.mode, pad=options.pad, batch=options.batch, accumulation=16 // options.batch, right=True,
            rate=settings.training.learning_rate, dropout=settings.lora.dropout, seed=seed,
        )
        made = train(options.real, recipe, steps=options.steps or 40, warm=0, save=into)
    else:
        from workbench.training.checkpoint import save_adapter

        settings = learning(options, seed, captured=what == "captured")
        base, _ = common.load_timed(options.real, settings.quantization)
        rows = common.rows_for(base.tokenizer, settings.training)
        made = common.train_timed(base, rows.learned, settings, steps=options.steps)
        save_adapter(base, into, best=False)
    return {"seed": seed, "adapter": str(into), "losses": made["losses"], "whole_s": made["whole_s"], "notices": made.get("notices", [])}


def scores(options: Any) -> list[Result]:
    """Every adapter that was kept, measured on one base by the same code: validation loss, and what it answers to the cases."""
    import torch

    from workbench.dataset.formats import load_rows
    from workbench.evaluation.scores import make_cases, score_reply
    from workbench.models.adapters import put_saved_adapter
    from workbench.models.decoding import Lane, generate
    from workbench.settings import Sampling
    from workbench.training.encode import turns_before_answer
    from workbench.training.pack import pack_within
    from workbench.training.step import mean_loss

    base, _ = common.load_timed(options.real, learning(options, options.seeds[0], captured=False).quantization)
    cases = make_cases(load_rows(ROOT / "data" / "cases.jsonl").rows)[: options.cases]
    prompts = [tuple(base.tokenizer.prompt_ids(list(turns_before_answer(case.row)))) for case in cases]
    found = []
    for seed in options.seeds:
        training = learning(options, seed, captured=False).training
        held = pack_within(common.rows_for(base.tokenizer, training).held_back, training.tokens_per_forward)
        for what in ("reference", "captured", "eager"):
            folder = adapter(options, what, seed)
            if not (folder / "adapter_model.safetensors").is_file():
                continue
            difference = put_saved_adapter(base, folder, f"{what}-{seed}")
            replies = []
            for start in range(0, len(prompts), 10):
                lanes = [Lane(p, 1) for p in prompts[start : start + 10]]
                replies += generate(base, lanes, Sampling(max_new_tokens=options.new_tokens))
            judged = [score_reply(case, reply.text) for case, reply in zip(cases, replies, strict=True)]
            with torch.no_grad():
                loss = mean_loss(base.model, held, base.device)
            found.append({
                "adapter": what, "seed": seed, "validation_loss": loss, "right": sum(s.right for s in judged), "cases": len(cases),
                "verdicts": [s.verdict for s in judged], "replies": [reply.text for reply in replies], "moves_logits": difference,
            })
    return found


# -- telling --------------------------------------------------------------------------------------------


def line(r: Result) -> str:
    if "adapters" in r:
        return "\n".join(f"{a['adapter']:10} seed {a['seed']}: validation loss {figure(a['validation_loss'], '.4f')}, right {a['right']}/{a['cases']}" for a in r["adapters"])
    runs = r.get("seeds", [r])
    return "\n".join(
        f"{r['name']:24} loss {figure(run['losses'][0], '.4f')} → {figure(run['losses'][-1], '.4f')} over {len(run['losses'])} steps, {run['whole_s']:.1f} s "
        + " ".join(run["notices"]) for run in runs
    )


def apart(one: list[float | None], two: list[float | None]) -> tuple[str, str, str]:
    """(largest, mean) relative difference where the loss is above `WARM`, and the largest absolute one, nats."""
    pairs = [(a, b) for a, b in zip(one, two, strict=True) if a is not None and b is not None]
    if len(pairs) < len(one):
        return ("not finite",) * 3
    relative = [abs(a - b) / a for a, b in pairs if a > WARM] or [0.0]
    return f"{max(relative):.2e}", f"{statistics.mean(relative):.2e}", f"{max(abs(a - b) for a, b in pairs):.2e}"


def finish(results: list[Result]) -> str:
    """The curves' differences, then what each adapter learned beside the reference's."""
    losses = {r["name"]: r["losses"] for r in results if r["name"].startswith("curve")}
    rows = []
    for mode in ("4-bit", "none"):
        eager = losses.get(f"curve+{mode}+eager")
        for path, what in (("again", "eager, eager again (noise)"), ("captured", "eager, captured")):
            other = losses.get(f"curve+{mode}+{path}")
            if eager and other and len(eager) == len(other):
                rows.append([f"{mode}: {what}", *apart(eager, other), str(len(eager))])
    parts = [common.table(["loss at each step", f"largest relative (loss > {WARM})", "mean relative", "largest, nats", "steps"], rows)] if rows else []
    adapters = next((r["adapters"] for r in results if r["name"] == "learned+scores"), [])
    reference = {a["seed"]: a for a in adapters if a["adapter"] == "reference"}
    compared = []
    for a in adapters:
        ours = reference.get(a["seed"])
        other = sum(x != y for x, y in zip(a["verdicts"], ours["verdicts"], strict=True)) if ours else None
        ratio = a["validation_loss"] / ours["validation_loss"] if ours and a["validation_loss"] and ours["validation_loss"] else None
        compared.append([f"{a['adapter']}, seed {a['seed']}", figure(a["validation_loss"], ".4f"), figure(ratio, ".3f"), f"{a['right']}/{a['cases']}", figure(other, "d")])
    if compared:
        parts.append(common.table(["what was learned", "validation loss", "× reference", "right", "decided otherwise"], compared))
    return "\n\n".join(parts)


def main() -> None:
    parser = common.parser_for(__doc__ or "", NAMES, timeout=300)
    parser.add_argument("--real", type=Path, default=ROOT / "models" / "gemma-3-270m", help="the model with real weights, for `learned+…`")
    parser.add_argument("--mode", default="4-bit", choices=("4-bit", "8-bit", "none"), help="the base weights of `learned+…`")
    parser.add_argument("--steps", type=int, default=0, help="optimizer steps (0: all 40)")
    parser.add_argument("--seeds", type=int, nargs="*", default=[42])
    parser.add_argument("--pad", type=int, default=256, help="of the recipe")
    parser.add_argument("--batch", type=int, default=1, choices=(1, 2, 4, 8, 16), help="rows of the recipe's forward; 16 rows make its step in any case")
    parser.add_argument("--cases", type=int, default=30)
    parser.add_argument("--new-tokens", type=int, default=64)
    options = parser.parse_args()
    options.real = options.real.resolve()
    if options.one:
        common.tell(measure(options.one[0], options))
        return
    if any(name.startswith("curve") for name in options.only):
        common.model_folder(options)
    common.run_all(__file__, options, line, finish=finish)


if __name__ == "__main__":
    main()
