"""Decoding: one answer by the base and by the adapted model, both panes at once, and 100 cases by each, beside transformers' `generate`.

    python benchmarks/gpu_decode.py [--model FOLDER] [--only 4-bit none] [--json PATH]

A short run of the workbench's own training job makes the adapter, its own jobs do the evaluation. "before" is `generate` of transformers as it
comes, in the same process. The random model of 4B's shape never says a stop token, so that each of its replies has the full length: the most
that an evaluation can cost. With real weights (--model, --epochs 10, --plain-cases 100) the texts of both ways are worth comparing.
Tokens a second are a reply's tokens by its seconds, the prompt's forward included; `steady` leaves the time to the first token out.

Where two texts differ, the gap between the two likeliest words at the first difference is told, beside the usual gap along the texts: words
nearer to each other than bf16 can tell are ties, and any other order of the same sums may break them. So may another batch: `generate` is
held against itself in batches of twice as many. `--fp32` has the weights in fp32, where ties are rare.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import common  # noqa: E402
from benchmarks.common import Result, figure  # noqa: E402

MODES = {"4-bit": (), "none": (), "8-bit": ("quantization.threshold=0",)}
LANES = {"base": (False,), "adapted": (True,), "both": (False, True)}
PROMPT = "Сколько денег на моём счёте?"
PLAIN_BATCH = 10
OFF = "+off"


def measure(name: str, folder: Path, options: Any) -> Result:
    """One kind of base weights in this process; with `+off` without the captured step (`generate(capture=False)`)."""
    from workbench.models.decoding import Lane, generate

    mode = name.removesuffix(OFF)
    host, found = ready(folder, mode, options)
    base = host.base
    notices: list[str] = []
    how: dict[str, Any] = {"capture": not name.endswith(OFF), "say": notices.append}
    sampling = _sampling(options.new_tokens)
    prompt = tuple(base.tokenizer.prompt_ids([{"role": "user", "content": PROMPT}]))
    for what, adapted in LANES.items():
        lanes = [Lane(prompt, a) for a in adapted]
        found[what] = timed(lambda lanes=lanes: generate(base, lanes, sampling, **how), options.repeats)  # type: ignore[misc]
    if not name.endswith(OFF):
        for what in ("base", "adapted"):
            found[f"before {what}"] = before(base, prompt, adapted=what == "adapted", options=options)
        found |= evaluate(host, folder, mode, options)
    return found | {"decode_peak_gib": common.peak_gib(), "prompt_tokens": len(prompt), "notices": sorted(set(notices))}


def _sampling(tokens: int) -> Any:
    from workbench.settings import Sampling

    return Sampling(max_new_tokens=tokens)


def ready(folder: Path, mode: str, options: Any) -> tuple[Any, Result]:
    """A host whose base carries the adapter of a run that it trained for --epochs."""
    from workbench.dataset.formats import load_rows
    from workbench.engine.jobs import Host, Report
    from workbench.engine.messages import TrainJob
    from workbench.workspace import Workspace

    root: Path = options.work / f"decode-{mode}"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    space = Workspace(root=root, model=str(folder))
    pairs = [f"quantization.mode={mode}", *MODES[mode], f"training.epochs={options.epochs}", "training.sample_every=0", "training.keep_best=off", *options.set]
    if options.epochs < 5:
        pairs.append("training.warmup_steps=1")
    rows = load_rows(ROOT / "data" / "examples.json").rows
    run = space.create_run("adapter", rows, space.settings_from(None, pairs), data_name="examples.json")
    host = Host(space.catalog, space.runs)
    told = host.do(TrainJob(run=run.name), Report())
    common.reset_peak()
    return host, {"adapter_difference": told["adapter_difference"]}


def timed(work: Callable[[], Sequence[Any]], repeats: int) -> Result:
    """The first call apart (it warms up and captures), then the medians of `repeats`; tokens/s for each lane on its own."""
    common.sync()
    begun = time.perf_counter()
    work()
    first = time.perf_counter() - begun
    whole, steady, waited, walls, tokens = [], [], [], [], 0
    for _ in range(repeats):
        begun = time.perf_counter()
        replies = work()
        walls.append(time.perf_counter() - begun)
        longest = max(replies, key=lambda reply: reply.tokens)
        tokens = longest.tokens
        whole.append(longest.tokens / max(longest.seconds, 1e-9))
        steady.append((longest.tokens - 1) / max(longest.seconds - longest.first_token_seconds, 1e-9))
        waited.append(longest.first_token_seconds)
    middle = statistics.median
    return {"first_call_s": first, "tokens_s": middle(whole), "steady_tokens_s": middle(steady), "first_token_s": middle(waited), "wall_s": middle(walls), "tokens": tokens}


# -- transformers' own `generate` -------------------------------------------------------------------------


def plain(base: Any, prompts: Sequence[tuple[int, ...]], *, adapted: bool, tokens: int) -> list[list[int]]:
    """Greedy replies of one batch as `generate` makes them, ids before the stop token."""
    import torch
    from transformers import GenerationConfig

    width = max(map(len, prompts))
    ids_BT = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=base.device)
    mask_BT = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=base.device)
    config = GenerationConfig(do_sample=False, max_new_tokens=tokens, eos_token_id=list(base.tokenizer.stop_ids), pad_token_id=0, use_cache=True)
    base.model.eval()
    with torch.inference_mode(), contextlib.nullcontext() if adapted else base.model.disable_adapter():
        made = base.model.generate(input_ids=ids_BT, attention_mask=mask_BT, generation_config=config)[:, width:].tolist()
    stops = set(base.tokenizer.stop_ids)
    return [ids[: next((i for i, token in enumerate(ids) if token in stops), len(ids))] for ids in made]


def before(base: Any, prompt: tuple[int, ...], *, adapted: bool, options: Any) -> Result:
    plain(base, [prompt], adapted=adapted, tokens=4)
    begun = time.perf_counter()
    plain(base, [prompt], adapted=adapted, tokens=1)
    first = time.perf_counter() - begun
    begun = time.perf_counter()
    (ids,) = plain(base, [prompt], adapted=adapted, tokens=options.plain_tokens)
    whole = time.perf_counter() - begun
    return {"tokens_s": len(ids) / whole, "steady_tokens_s": (len(ids) - 1) / max(whole - first, 1e-9), "first_token_s": first, "tokens": len(ids)}


# -- a whole evaluation -------------------------------------------------------------------------------------


def evaluate(host: Any, folder: Path, mode: str, options: Any) -> Result:
    """The cases by the evaluation job, base and adapted, each twice (the first warms up); some of them by `generate`, texts compared."""
    from workbench.dataset.formats import load_rows
    from workbench.engine.jobs import Report
    from workbench.engine.messages import EvaluateJob
    from workbench.evaluation.scores import make_cases
    from workbench.training.encode import turns_before_answer

    cases = make_cases(load_rows(ROOT / "benchmarks" / "dev_cases.jsonl").rows)[: options.cases]
    turns = tuple(turns_before_answer(case.row) for case in cases)
    found: Result = {"cases": len(cases)}
    for what, adapted in (("base", False), ("adapted", True)):
        job = EvaluateJob(prompts=turns, adapted=adapted, run="adapter", model=str(folder), sampling=_sampling(options.reply_tokens))
        seconds = []
        for _ in range(2):
            begun = time.perf_counter()
            replies = host.do(job, Report())["replies"]
            common.sync()
            seconds.append(time.perf_counter() - begun)
        prompts = [tuple(host.base.tokenizer.prompt_ids(list(t))) for t in turns[: options.plain_cases]]
        begun = time.perf_counter()
        made_ids = in_batches(host.base, prompts, PLAIN_BATCH, adapted=adapted, tokens=options.reply_tokens)
        spent = time.perf_counter() - begun
        texts = {i: host.base.tokenizer.text(ids) for i, ids in enumerate(made_ids)}
        told = ties(host.base, prompts, made_ids, [replies[i] for i in range(len(prompts))], adapted=adapted, tokens=options.reply_tokens)
        found[f"evaluation {what}"] = told | {
            "first_s": seconds[0], "s": seconds[1], "before_s": spent * len(cases) / len(prompts) if prompts else None, "before_cases": len(prompts),
            "same_texts": sum(texts[i] == replies[i] for i in texts),
            "otherwise": [[replies[i][:120], texts[i][:120]] for i in texts if texts[i] != replies[i]][:5],
        }
    return found


def in_batches(base: Any, prompts: Sequence[tuple[int, ...]], size: int, *, adapted: bool, tokens: int) -> list[list[int]]:
    """`plain` for all prompts, those of like length together."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found: dict[int, list[int]] = {}
    for start in range(0, len(order), size):
        some = order[start : start + size]
        found |= dict(zip(some, plain(base, [prompts[i] for i in some], adapted=adapted, tokens=tokens), strict=True))
    return [found[i] for i in range(len(prompts))]


def ties(base: Any, prompts: Sequence[tuple[int, ...]], theirs: Sequence[list[int]], ours: Sequence[str], *, adapted: bool, tokens: int) -> Result:
    """How near the two likeliest words are where a text first differs from `generate`'s, and how often `generate` differs from itself."""
    import torch

    text = base.tokenizer.text
    at_difference: list[float] = []
    usual: list[float] = []
    with torch.inference_mode(), contextlib.nullcontext() if adapted else base.model.disable_adapter():
        for prompt, ids, said in zip(prompts, theirs, ours, strict=True):
            if not ids:
                continue
            logits_TV = base.model(input_ids=torch.tensor([[*prompt, *ids]], device=base.device), use_cache=False).logits[0, len(prompt) - 1 :].float()
            best_T2 = logits_TV.topk(2).values
            gaps = (best_T2[:, 0] - best_T2[:, 1]).tolist()
            usual += gaps[: len(ids)]
            if text(ids) != said:
                # A character of several tokens is not whole before its last one.
                same = next((n for n in range(len(ids), -1, -1) if said.startswith(text(ids[:n]).rstrip("\ufffd"))), 0)
                at_difference.append(gaps[same])
    again = in_batches(base, prompts, 2 * PLAIN_BATCH, adapted=adapted, tokens=tokens)
    return {
        "gaps": sorted(at_difference), "usual_gap": statistics.median(usual) if usual else None,
        "generate_same_as_itself": sum(a == b for a, b in zip(again, theirs, strict=True)),
    }


# -- telling --------------------------------------------------------------------------------------------------


def line(r: Result) -> str:
    said = [f"{r['name']}: first call {r['adapted']['first_call_s']:.1f} s, peak {r['decode_peak_gib']:.2f} GiB"]
    for what in ("base", "adapted", "both"):
        one = r[what]
        pace = f"{one['tokens_s']:.1f} tokens/s a lane (steady {one['steady_tokens_s']:.1f}), first token {1000 * one['first_token_s']:.0f} ms, {one['tokens']} tokens"
        said.append(f"    {what:8} {pace}" + (f"; before {r[f'before {what}']['tokens_s']:.1f}" if f"before {what}" in r else ""))
    for what in ("base", "adapted"):
        if f"evaluation {what}" in r:
            one = r[f"evaluation {what}"]
            same = f"{one['same_texts']} of {one['before_cases']} texts as `generate` writes them ({one['generate_same_as_itself']} by itself in other batches)"
            if one["gaps"]:
                same += f"; gap at the differences {statistics.median(one['gaps']):.3f} (largest {one['gaps'][-1]:.3f}), usual {one['usual_gap']:.2f}"
            said.append(f"    {r['cases']} cases, {what}: {one['s']:.1f} s (first time {one['first_s']:.1f}); before {figure(one['before_s'])} s, by {one['before_cases']}; {same}")
    return "\n".join([*said, *(f"    {text}" for text in r["notices"])])


def finish(results: list[Result]) -> str:
    rows = []
    for r in results:
        rows.append([
            r["name"], *(f"{r[what]['tokens_s']:.0f}" for what in LANES), *(figure(r.get(f"before {what}", {}).get("tokens_s"), ".1f") for what in ("base", "adapted")),
            f"{1000 * r['adapted']['first_token_s']:.0f}", *(figure(r.get(f"evaluation {what}", {}).get("s")) for what in ("base", "adapted")),
            *(figure(r.get(f"evaluation {what}", {}).get("before_s"), ".0f") for what in ("base", "adapted")), f"{r['decode_peak_gib']:.2f}",
        ])
    head = ["tokens/s", "base", "adapted", "both, each", "before: base", "adapted", "first token ms", "cases s: base", "adapted", "before s: base", "adapted", "peak GiB"]
    return common.table(head, rows) if rows else ""


def main() -> None:
    names = [f"{mode}{off}" for mode in MODES for off in ("", OFF)]
    parser = common.parser_for(__doc__ or "", names, timeout=280)
    parser.set_defaults(only=["4-bit", "none"])
    parser.add_argument("--epochs", type=int, default=1, help="of the run that makes the adapter")
    parser.add_argument("--new-tokens", type=int, default=96, help="the longest single answer")
    parser.add_argument("--reply-tokens", type=int, default=96, help="the longest reply of the evaluation")
    parser.add_argument("--plain-tokens", type=int, default=32, help="the longest answer of `generate`")
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--plain-cases", type=int, default=10, help="cases that `generate` answers too; its time for all is calculated from them")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fp32", action="store_true", help="the weights in fp32: the same words, whatever the order of sums")
    options = parser.parse_args()
    if options.fp32:
        import torch

        from workbench.models import loading

        loading.pick_dtype = lambda device: torch.float32
    if options.one:
        common.tell(measure(options.one[0], common.model_folder(options), options))
        return
    common.model_folder(options)
    common.run_all(__file__, options, line, finish=finish)


if __name__ == "__main__":
    main()
