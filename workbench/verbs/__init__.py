"""The command line's verbs. Each takes the workspace and the parsed options and returns plain values for `--json`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from workbench.dataset.formats import load_rows, parse_jsonl, read_text, refuse_problems
from workbench.engine.messages import AnswerJob, EvaluateJob
from workbench.errors import DataError
from workbench.evaluation.report import Bent, scores_text, wrong_text
from workbench.evaluation.scores import Case, make_cases, score, score_reply
from workbench.models.demo import fetch_demo_model as fetch
from workbench.models.demo import licence_notice
from workbench.schema import Example, Message
from workbench.settings import make_sampling
from workbench.training.encode import turns_before_answer
from workbench.training.measured import keep_measurement
from workbench.verbs.answering import answer, judged_reply
from workbench.verbs.data import Result, check, convert, generate
from workbench.verbs.merging import merge
from workbench.verbs.planning import plan, presets
from workbench.verbs.runs import runs
from workbench.verbs.sweeps import JSON_HELP as SWEEP_JSON
from workbench.verbs.sweeps import sweep
from workbench.verbs.training import host, need_model, resume, train
from workbench.workspace import Workspace

__all__ = [
    "SWEEP_JSON", "Result", "answer", "check", "compare", "convert", "evaluate", "fetch_demo_model", "generate", "merge", "plan", "presets", "resume", "runs",
    "sweep", "train",
]  # fmt: skip


def fetch_demo_model(space: Workspace, options: argparse.Namespace) -> Result:
    folder = fetch(space.catalog.models_dir, lambda text, share: print(f"[{share:4.0%}] {text}", file=sys.stderr, flush=True))
    print(licence_notice(folder), file=sys.stderr)
    print(folder)
    return {"model": str(folder)}


def compare(space: Workspace, options: argparse.Namespace) -> Result:
    need_model(space, space.runs.adapter(options.adapter)[0].info.model)
    work, report = host(space)
    cases = _prompts(options.prompts or space.data_dir / "demo.jsonl")
    form = space.form(options.adapter)
    sampling = make_sampling({"max_new_tokens": options.max_new_tokens, "constrain": options.constrain})
    tools = space.bound_tools(sampling)
    rows: list[Result] = []
    judged: list[dict[str, bool]] = []
    difference = None
    for case, known in cases:
        job = AnswerJob(turns=tuple(form.ask(case.prompt)), lanes=(False, True), run=options.adapter, sampling=sampling, tools=tools)
        done = work.do(job, report)
        base, adapted = (judged_reply(r["text"], form.dialect) | {key: r[key] for key in ("constrained",) if key in r} for r in done["replies"])
        difference = done["adapter_difference"]
        expected = ("tool call" if case.expected else "no tool call") if known else None
        rows.append({"prompt": case.prompt, "expected": expected, "base": base, "adapted": adapted})
        if known:
            judged.append({side: score_reply(case, told["text"], form.dialect).right for side, told in (("base", base), ("adapted", adapted))})
        print(f"{case.prompt}\n  base:    [{base['verdict']}] {base['text'][:100]!r}\n  adapted: [{adapted['verdict']}] {adapted['text'][:100]!r}")
    right = {side: sum(r[side] for r in judged) for side in ("base", "adapted")}
    if judged:
        print(f"as expected: base {right['base']} of {len(judged)}, adapted {right['adapted']} of {len(judged)}")
    found = {"adapter": options.adapter, "prompts": rows, "as_expected": right | {"n": len(judged)}, "adapter_difference": difference}
    if options.constrain:
        bent = {side: Bent.of_replies(row[side]["constrained"] for row in rows) for side in ("base", "adapted")}
        for side, told in bent.items():
            print(f"{side}: {told.text()}", file=sys.stderr)
        found["constrained"] = {side: told.as_json() for side, told in bent.items()}
    return found


def evaluate(space: Workspace, options: argparse.Namespace) -> Result:
    loaded = load_rows(options.cases)
    refuse_problems(loaded.problems, options.cases.name)
    cases = make_cases(loaded.rows)
    if not cases:
        raise DataError(f"{options.cases.name} holds no cases.")
    need_model(space, space.runs.adapter(options.adapter)[0].info.model if options.adapter else space.model)
    work, report = host(space)
    report.progress = lambda text, share: print(text, file=sys.stderr, flush=True)
    form = space.form(options.adapter)
    sampling = make_sampling({"max_new_tokens": options.max_new_tokens, "constrain": options.constrain})
    job = EvaluateJob(
        prompts=tuple(turns_before_answer(c.row, form) for c in cases), adapted=not options.base, run=options.adapter,
        model=space.model, sampling=sampling, tools=space.bound_tools(sampling),
    )
    done = work.do(job, report)
    scored = [score_reply(c, reply, form.dialect) for c, reply in zip(cases, done["replies"], strict=True)]
    scores = score(scored)
    print(scores_text(scores))
    if wrong := wrong_text(scored):
        print(wrong)
    result = {"cases": len(cases), "adapter": options.adapter} | scores.as_json() | {
        "wrong": [{"prompt": s.case.prompt, "reply": s.reply, "verdict": s.verdict} for s in scored if not s.right],
        "adapter_difference": done["adapter_difference"],
    }
    if options.constrain:  # not kept: rates of bound calls beside other adapters' free ones would mislead
        bent = Bent.of_replies(done["constrained"])
        print(bent.text(), file=sys.stderr)
        result["constrained"] = bent.as_json()
    elif options.adapter:
        keep_measurement(space.runs, options.adapter, scored, options.cases.name)
    return result


def _prompts(path: Path) -> list[tuple[Case, bool]]:
    """Prompts with whether their right answer is known: rows in the dataset's format, or plain lines."""
    text = read_text(path)
    if text.lstrip().startswith("{"):
        loaded = parse_jsonl(text)
        refuse_problems(loaded.problems, path.name)
        return [(case, True) for case in make_cases(loaded.rows)]
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines:
        raise DataError(f"{path.name} holds no prompts.")
    return [(Case(Example((Message("user", line),)), ()), False) for line in lines]
