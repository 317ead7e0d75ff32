"""The verb that answers prompts with two voices at once: an adapter and its base, or with --beside another adapter or a merged model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from workbench.calls.prompting import CallForm
from workbench.dataset.formats import parse_jsonl, read_text, refuse_problems
from workbench.engine.messages import AnswerJob, TogetherJob
from workbench.errors import DataError, InputError, WorkbenchError
from workbench.evaluation.report import Bent
from workbench.evaluation.scores import Case, make_cases, score_reply
from workbench.models.catalog import is_merged
from workbench.schema import Example, Message
from workbench.settings import make_sampling
from workbench.verbs.answering import judged_reply
from workbench.verbs.data import Result
from workbench.verbs.training import host, need_model
from workbench.workspace import Workspace


def compare(space: Workspace, options: argparse.Namespace) -> Result:
    beside: str | None = options.beside
    if beside is not None and beside not in (there := space.voices()):
        raise InputError(f"There is no voice named {beside[:60]} to stand beside {options.adapter}; there are: {', '.join(there) or 'none'}.")
    need_model(space, space.runs.adapter(options.adapter)[0].info.model)
    work, report = host(space)
    cases = _prompts(options.prompts or space.data_dir / "demo.jsonl")
    form = space.form(options.adapter)
    names = ("base" if beside is None else "beside", "adapted")
    forms = (form if beside is None else space.form(beside), form)
    sampling = make_sampling({"max_new_tokens": options.max_new_tokens, "constrain": options.constrain})
    shared = {"sampling": sampling, "tools": space.jobs.bound_tools(sampling)}
    rows: list[Result] = []
    judged: list[dict[str, bool]] = []
    difference = None
    for case, known in cases:
        done = work.do(_job(options.adapter, beside, case.prompt, forms, shared), report)
        parts = done.get("parts", [done])
        for part in parts:
            if "error" in part:
                raise WorkbenchError(part["error"])
        replies = [reply for part in parts for reply in part["replies"]]
        said = {
            name: judged_reply(reply["text"], own.dialect) | {key: reply[key] for key in ("constrained",) if key in reply}
            for name, own, reply in zip(names, forms, replies, strict=True)
        }
        difference = parts[-1]["adapter_difference"]
        rows.append({"prompt": case.prompt, "expected": ("tool call" if case.expected else "no tool call") if known else None} | said)
        if known:
            judged.append({name: score_reply(case, said[name]["text"], own.dialect).right for name, own in zip(names, forms, strict=True)})
        print("\n".join([case.prompt, *(f"  {name + ':':8} [{told['verdict']}] {told['text'][:100]!r}" for name, told in said.items())]))
    right = {name: sum(r[name] for r in judged) for name in names}
    if judged:
        print("as expected: " + ", ".join(f"{name} {right[name]} of {len(judged)}" for name in names))
    found = {"adapter": options.adapter, "prompts": rows, "as_expected": right | {"n": len(judged)}, "adapter_difference": difference}
    if beside is not None:
        found["beside"] = beside
    if options.constrain:
        bent = {name: Bent.of_replies(row[name]["constrained"] for row in rows) for name in names}
        for name, told in bent.items():
            print(f"{name}: {told.text()}", file=sys.stderr)
        found["constrained"] = {name: told.as_json() for name, told in bent.items()}
    return found


def _job(adapter: str, beside: str | None, prompt: str, forms: tuple[CallForm, CallForm], shared: dict[str, Any]) -> AnswerJob | TogetherJob:
    """The job that answers a prompt with both voices, the adapter last."""
    turns = [tuple(form.ask(prompt)) for form in forms]
    if beside is None:
        return AnswerJob(turns=turns[1], lanes=(False, True), run=adapter, **shared)
    own = {"lanes": (False,), "model": beside} if is_merged(beside) else {"lanes": (True,), "run": beside}
    return TogetherJob(parts=(AnswerJob(turns=turns[0], **own, **shared), AnswerJob(turns=turns[1], lanes=(True,), run=adapter, **shared)))


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
