"""The verb that answers one prompt, and with --run-tools goes the whole way of a call: run on its mock, given back, answered."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from workbench.calls.dialects import Dialect, calls_in, verdict
from workbench.calls.loop import Failed, FellBack, Ran, Refused, Said, Step, ToolLoop, Trace
from workbench.calls.mocks import run_mock
from workbench.calls.prompting import CallForm, Turn
from workbench.engine.messages import AnswerJob
from workbench.errors import InputError
from workbench.models.catalog import is_merged
from workbench.schema import ToolCall, ToolSpec
from workbench.settings import make_sampling
from workbench.verbs.data import Result
from workbench.verbs.training import host, need_model
from workbench.workspace import Workspace

SHOWN = 300  # characters of a tool's answer that are printed


def answer(space: Workspace, options: argparse.Namespace) -> Result:
    if (options.functions or options.yes) and not options.run_tools:
        raise InputError("--functions and --yes go with --run-tools: give that too.")
    need_model(space, options.adapter if is_merged(options.adapter) else space.runs.adapter(options.adapter)[0].info.model)
    form = space.form(options.adapter)
    if options.run_tools:
        return _with_tools(space, options, form)
    done = _asker(space, options)(form.ask(options.prompt))
    reply = done["replies"][0]
    print(reply["text"])
    _tell_bound([reply])
    seconds = reply["seconds"] or 1e-9
    return judged_reply(reply["text"], form.dialect) | {
        "tokens": reply["tokens"], "tokens_per_second": round(reply["tokens"] / seconds, 1), "ended": reply["ended"],
        "adapter_difference": done["adapter_difference"],
    } | ({"constrained": reply["constrained"]} if options.constrain else {})


def judged_reply(text: str, dialect: Dialect) -> Result:
    segments = dialect.parse(text)
    return {"text": text, "verdict": verdict(segments), "calls": [_call(c) for c in calls_in(segments)]}


def _asker(space: Workspace, options: argparse.Namespace) -> Any:
    """What a conversation is answered with, as an `AnswerJob` gives it."""
    work, report = host(space)
    sampling = make_sampling({"max_new_tokens": options.max_new_tokens, "constrain": options.constrain})
    tools = space.jobs.bound_tools(sampling)

    def ask(turns: list[Turn]) -> Result:
        job = AnswerJob(turns=tuple(turns), sampling=sampling, tools=tools, **_voice(space, options))
        done: Result = work.do(job, report)
        return done

    return ask


def _voice(space: Workspace, options: argparse.Namespace) -> dict[str, Any]:
    """What a job names for the adapter, or for the merged model and with --base for the base in its form."""
    if not is_merged(options.adapter):
        return {"lanes": (not options.base,), "run": options.adapter}
    return {"lanes": (False,)} | ({"model": space.model, "form_of": options.adapter} if options.base else {"model": options.adapter})


def _with_tools(space: Workspace, options: argparse.Namespace, form: CallForm) -> Result:
    tools = space.tools.read().tools
    ask = _asker(space, options)

    replies: list[Result] = []

    def reply(turns: list[Turn]) -> str:
        replies.append(ask(turns)["replies"][0])
        return str(replies[-1]["text"])

    def run(tool: ToolSpec, call: ToolCall) -> str:
        return run_mock(tool, call, functions=space.functions_dir if options.functions else None)

    loop = ToolLoop(form, tools, reply, run, tell=_say, confirm=(lambda call: True) if options.yes else _confirm)
    trace = loop(form.ask(options.prompt))
    print(trace.answer)
    if trace.needs_human:
        said = tuple(step.text for step in trace.steps if isinstance(step, Said))
        space.review.add(options.prompt, said, trace.reason, adapter=options.adapter, dialect=form.dialect.name)
        print(f"a person is needed: {trace.reason} It stands on the list in {space.review.path.name}.")
    _tell_bound(replies)
    return _told(trace, replies)


def _tell_bound(replies: Sequence[Result]) -> None:
    """What binding the calls changed, on standard error; nothing of free replies."""
    bound = [reply for reply in replies if "constrained" in reply]
    if bound:
        changed, tokens = (sum(counts) for counts in zip(*((r["constrained"]["changed"], r["tokens"]) for r in bound), strict=True))
        print(f"calls were bound: that changed {changed} of {tokens} tokens", file=sys.stderr)


def _confirm(call: ToolCall) -> bool:
    """Ask on the terminal; where there is none, nothing was confirmed."""
    if not sys.stdin.isatty():
        return False
    print(f"run {call.name} with {json.dumps(dict(call.arguments), ensure_ascii=False)}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _say(step: Step) -> None:
    """The step on standard error, as it happens."""
    print(_words(step), file=sys.stderr, flush=True)


def _words(step: Step) -> str:
    if isinstance(step, Said):
        return f"the model [{step.verdict}]: {step.text[:SHOWN]!r}"
    if isinstance(step, Ran):
        known = "known already" if step.cached else f"{step.seconds:.1f} s"
        return f"{step.call.name} answered ({known}): {step.result[:SHOWN]}"
    if isinstance(step, Refused):
        return f"{step.call.name} was not run: {'; '.join(step.reasons)}"
    return step.reason


def _told(trace: Trace, replies: Sequence[Result]) -> Result:
    """The trace; where calls were bound each reply's step says what that changed, and the whole how much in all."""
    steps = [_step(step) for step in trace.steps]
    bound = [reply["constrained"] for reply in replies if "constrained" in reply]
    for step, told in zip((step for step in steps if step["step"] == "reply"), bound, strict=False):
        step["constrained"] = told
    whole = {"constrained": {"changed": sum(told["changed"] for told in bound)}} if bound else {}
    return {"text": trace.answer, "ended": trace.ended, "reason": trace.reason, "steps": steps} | whole


def _step(step: Step) -> Result:
    if isinstance(step, Said):
        return {"step": "reply", "text": step.text, "verdict": step.verdict, "seconds": round(step.seconds, 3)}
    if isinstance(step, Ran):
        return {"step": "result", "call": _call(step.call), "result": step.result, "cached": step.cached, "seconds": round(step.seconds, 3)}
    if isinstance(step, Refused):
        return {"step": "refused", "call": _call(step.call), "reasons": list(step.reasons)}
    if isinstance(step, Failed):
        return {"step": "failed", "call": _call(step.call), "reason": step.reason, "seconds": round(step.seconds, 3)}
    assert isinstance(step, FellBack)
    return {"step": "fall-back", "reason": step.reason, "text": step.text}


def _call(call: ToolCall) -> Result:
    return {"name": call.name, "arguments": dict(call.arguments)}
