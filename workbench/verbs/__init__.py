"""The command line's verbs. Each takes the workspace and the parsed options and returns plain values for `--json`."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench.calls.dialects import TAG, calls_in, verdict
from workbench.dataset.formats import load_rows, parse_jsonl, read_text, refuse_problems
from workbench.engine.messages import AnswerJob, EvaluateJob, TrainJob
from workbench.errors import DataError
from workbench.evaluation.report import scores_text, wrong_text
from workbench.evaluation.scores import Case, make_cases, score, score_reply
from workbench.models.catalog import is_hub_name
from workbench.models.demo import fetch_demo_model as fetch
from workbench.models.demo import licence_notice
from workbench.schema import Example, Message
from workbench.settings import apply_overrides, make_sampling
from workbench.training import events
from workbench.training.encode import turns_before_answer
from workbench.verbs.data import Result, check, convert, generate
from workbench.workspace import Workspace

__all__ = ["Result", "answer", "check", "compare", "convert", "evaluate", "fetch_demo_model", "generate", "plan", "train"]


def fetch_demo_model(space: Workspace, options: argparse.Namespace) -> Result:
    folder = fetch(space.catalog.models_dir, lambda text, share: print(f"[{share:4.0%}] {text}", file=sys.stderr, flush=True))
    print(licence_notice(folder), file=sys.stderr)
    print(folder)
    return {"model": str(folder)}


def plan(space: Workspace, options: argparse.Namespace) -> Result:
    settings = apply_overrides(space.default_settings(), options.set)
    loaded = load_rows(options.data or space.data_dir / "examples.json")
    made = space.plan(loaded.rows, settings, options.model, loaded.lines)
    result = made.as_json()
    result["warnings"] += [f"This line can't be used: {p}." for p in loaded.problems]
    print(f"parameters      {made.trainable_parameters:,} trainable of {made.total_parameters:,} ({made.trainable_share:.4%})")
    print(f"rows            {made.train_rows} to learn, {made.validation_rows} held back")
    print(f"tokens          {made.tokens_per_epoch if made.tokens_per_epoch is not None else 'unknown'} an epoch")
    print(f"optimizer steps {made.optimizer_steps}")
    print(f"memory          about {made.memory.total_gib:.1f} GiB at the peak")
    for warning in result["warnings"]:
        print(f"warning: {warning}")
    return result


def train(space: Workspace, options: argparse.Namespace) -> Result:
    settings = apply_overrides(space.default_settings(), options.set)
    space.runs.path(options.name)
    loaded = load_rows(options.data)
    refuse_problems(loaded.problems, options.data.name)
    if not loaded.rows:
        raise DataError(f"{options.data.name} holds no rows: there is nothing to learn.")
    _need_model(space, space.model)  # a wrong path is told before a run's folder is made
    info = space.create_run(options.name, loaded.rows, settings, data_name=options.data.name)
    host, report = _host(space)
    with _stop_on_signals() as stopped:
        report.stop = lambda: bool(stopped)
        space.runs.append = _printing(space.runs.append)  # type: ignore[method-assign]
        begun = time.time()
        result: Result = host.do(TrainJob(run=info.name), report)
    view = space.runs.view(info.name)
    print(f"{result['state']} after {result['step']} optimizer steps, {time.time() - begun:.0f} s; the adapter is in {view.folder}")
    if result["adapter_difference"] is not None:
        print(f"the adapter is active: it moves the logits by up to {result['adapter_difference']:.2f}")
    losses = {
        "train_loss": view.steps[-1].loss if view.steps else None,
        "validation_loss": view.validations[-1].loss if view.validations else None,
    }
    return {"name": info.name, "adapter": str(view.folder)} | result | losses


def answer(space: Workspace, options: argparse.Namespace) -> Result:
    _need_model(space, space.runs.info(options.adapter).model)
    host, report = _host(space)
    sampling = make_sampling({"max_new_tokens": options.max_new_tokens})
    turns = ({"role": "user", "content": options.prompt},)
    done = host.do(AnswerJob(turns=turns, lanes=(not options.base,), run=options.adapter, sampling=sampling), report)
    reply = done["replies"][0]
    print(reply["text"])
    seconds = reply["seconds"] or 1e-9
    return _judged(reply["text"]) | {
        "tokens": reply["tokens"], "tokens_per_second": round(reply["tokens"] / seconds, 1), "ended": reply["ended"],
        "adapter_difference": done["adapter_difference"],
    }


def compare(space: Workspace, options: argparse.Namespace) -> Result:
    _need_model(space, space.runs.info(options.adapter).model)
    host, report = _host(space)
    cases = _prompts(options.prompts or space.data_dir / "demo.jsonl")
    sampling = make_sampling({"max_new_tokens": options.max_new_tokens})
    rows: list[Result] = []
    difference = None
    for case, known in cases:
        job = AnswerJob(turns=({"role": "user", "content": case.prompt},), lanes=(False, True), run=options.adapter, sampling=sampling)
        done = host.do(job, report)
        base, adapted = (_judged(r["text"]) for r in done["replies"])
        difference = done["adapter_difference"]
        expected = ("tool call" if case.expected else "no tool call") if known else None
        rows.append({"prompt": case.prompt, "expected": expected, "base": base, "adapted": adapted})
        print(f"{case.prompt}\n  base:    [{base['verdict']}] {base['text'][:100]!r}\n  adapted: [{adapted['verdict']}] {adapted['text'][:100]!r}")
    judged = [r for r in rows if r["expected"]]
    right = {side: sum(r[side]["verdict"] == r["expected"] for r in judged) for side in ("base", "adapted")}
    if judged:
        print(f"as expected: base {right['base']} of {len(judged)}, adapted {right['adapted']} of {len(judged)}")
    return {"adapter": options.adapter, "prompts": rows, "as_expected": right | {"n": len(judged)}, "adapter_difference": difference}


def evaluate(space: Workspace, options: argparse.Namespace) -> Result:
    loaded = load_rows(options.cases)
    refuse_problems(loaded.problems, options.cases.name)
    cases = make_cases(loaded.rows)
    if not cases:
        raise DataError(f"{options.cases.name} holds no cases.")
    _need_model(space, space.runs.info(options.adapter).model if options.adapter else space.model)
    host, report = _host(space)
    report.progress = lambda text, share: print(text, file=sys.stderr, flush=True)
    job = EvaluateJob(
        prompts=tuple(turns_before_answer(c.row) for c in cases), adapted=not options.base, run=options.adapter,
        model=space.model, sampling=make_sampling({"max_new_tokens": options.max_new_tokens}),
    )
    done = host.do(job, report)
    scored = [score_reply(c, reply) for c, reply in zip(cases, done["replies"], strict=True)]
    scores = score(scored)
    print(scores_text(scores))
    if wrong := wrong_text(scored):
        print(wrong)
    result = {"cases": len(cases), "adapter": options.adapter} | scores.as_json() | {
        "wrong": [{"prompt": s.case.prompt, "reply": s.reply, "verdict": s.verdict} for s in scored if not s.right],
        "adapter_difference": done["adapter_difference"],
    }
    if options.adapter:
        space.runs.write_scores(options.adapter, {"cases": len(cases), "file": options.cases.name} | scores.as_json())
    return result


def _need_model(space: Workspace, model: str) -> None:
    """Raise `ModelError` for a model that can't be had; a hub name may still be downloaded."""
    if not is_hub_name(model):
        space.catalog.find(model)


def _host(space: Workspace) -> tuple[Any, Any]:
    # Imported here: the verbs that need no model answer without waiting for torch.
    from workbench.engine.jobs import Host, Report

    return Host(space.catalog, space.runs), Report(progress=lambda text, share: print(text, file=sys.stderr, flush=True))


def _judged(text: str) -> Result:
    segments = TAG.parse(text)
    return {"text": text, "verdict": verdict(segments), "calls": [{"name": c.name, "arguments": dict(c.arguments)} for c in calls_in(segments)]}


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


def _printing(append: Any) -> Any:
    def both(name: str, event: events.Event) -> None:
        append(name, event)
        if isinstance(event, events.Step):
            print(f"step {event.step}  loss {event.loss:.4f}  rate {event.learning_rate:.2e}  {event.tokens / event.seconds:.0f} tokens/s", file=sys.stderr, flush=True)
        elif isinstance(event, events.Validation):
            print(f"epoch {event.epoch:.0f}  validation loss {event.loss:.4f}", file=sys.stderr, flush=True)

    return both


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of them: the loop stops between two steps. A second one kills."""
    seen: list[int] = []

    def note(number: int, frame: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)
        print("stopping after this step; the adapter so far is kept", file=sys.stderr, flush=True)

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
