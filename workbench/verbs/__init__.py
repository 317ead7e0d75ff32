"""The command line's verbs. Each takes the workspace and the parsed options and returns plain values for `--json`."""

from __future__ import annotations

import argparse
import sys

from workbench.dataset.formats import load_rows, refuse_problems
from workbench.engine.messages import EvaluateJob
from workbench.errors import DataError
from workbench.evaluation.report import Bent, scores_text, wrong_text
from workbench.evaluation.scores import make_cases, score, score_reply
from workbench.models.demo import fetch_demo_model as fetch
from workbench.models.demo import licence_notice
from workbench.settings import make_sampling
from workbench.training.encode import turns_before_answer
from workbench.training.measured import keep_measurement
from workbench.verbs.answering import answer
from workbench.verbs.comparing import compare
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


def evaluate(space: Workspace, options: argparse.Namespace) -> Result:
    loaded = load_rows(options.cases)
    refuse_problems(loaded.problems, options.cases.name)
    cases = make_cases(loaded.rows)
    if not cases:
        raise DataError(f"{options.cases.name} holds no cases.")
    need_model(space, space.runs.adapter(options.adapter)[0].info.model if options.adapter else space.model)
    work, report = host(space)
    form = space.form(options.adapter)
    sampling = make_sampling({"max_new_tokens": options.max_new_tokens, "constrain": options.constrain})
    job = EvaluateJob(
        prompts=tuple(turns_before_answer(c.row, form) for c in cases), adapted=not options.base, run=options.adapter,
        model=space.model, sampling=sampling, tools=space.jobs.bound_tools(sampling),
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
