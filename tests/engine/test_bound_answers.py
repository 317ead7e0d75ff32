"""An answer whose calls are bound: the job's tools reach the bound, what it changed stands in the reply, and what can't be bound is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from workbench.calls.dialects import dialect_named
from workbench.calls.prompting import CallForm
from workbench.engine.jobs import Host, Report
from workbench.engine.messages import AnswerJob, EvaluateJob
from workbench.errors import InputError
from workbench.models import decoding
from workbench.models.call_bound import CallBound, CallGrammar
from workbench.models.call_forms import FORMS
from workbench.settings import Sampling
from workbench.workspace import Workspace

TURNS = ({"role": "user", "content": "Мой доступ активен?"},)
BOUND = Sampling(max_new_tokens=12, constrain=True)


def ask(space: Workspace, sampling: Sampling, **more: Any) -> dict[str, Any]:
    job = AnswerJob(turns=TURNS, lanes=(False,), sampling=sampling, **{"tools": space.jobs.bound_tools(sampling)} | more)
    return Host(space.catalog, space.runs).do(job, Report())


def test_a_bound_answer_says_what_the_bound_changed_and_a_free_one_nothing(workspace: Workspace) -> None:
    free, bound = (ask(workspace, s)["replies"][0] for s in (Sampling(max_new_tokens=12), BOUND))
    assert bound["text"] == free["text"]  # no call was begun
    assert bound["constrained"] == {"changed": 0, "first": []} and "constrained" not in free


def test_each_lane_is_bound_by_a_follower_of_its_own_to_the_tools_of_the_book(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def generate(base: Any, lanes: Any, *rest: Any, **more: Any) -> Any:
        seen.extend(lanes)
        return decoding.generate(base, lanes, *rest, **more)

    monkeypatch.setattr("workbench.engine.answering.generate", generate)
    job = AnswerJob(turns=TURNS, lanes=(False, False), sampling=BOUND, tools=workspace.jobs.bound_tools(BOUND))
    assert [tool["function"]["name"] for tool in job.tools] == ["get_sensitive_data"]
    assert len(Host(workspace.catalog, workspace.runs).do(job, Report())["replies"]) == 2
    bounds = [lane.bound for lane in seen]
    assert all(isinstance(bound, CallBound) for bound in bounds) and bounds[0] is not bounds[1]
    assert workspace.jobs.bound_tools(Sampling()) == ()


def test_no_tools_and_a_dialect_without_a_grammar_are_told_in_a_sentence(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no tool that a call could be bound to"):
        ask(workspace, BOUND, tools=())
    monkeypatch.delitem(FORMS, "gemma4")
    monkeypatch.setattr("workbench.engine.answering._form", lambda host, job: CallForm(dialect_named("gemma4")))
    with pytest.raises(InputError, match="“gemma4” can't be bound"):
        ask(workspace, BOUND)


def test_an_evaluation_s_calls_are_bound_each_by_its_own_follower_and_the_changes_told_in_order(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first prompts' replies begin a call by force; a reply that begins none says that nothing was changed."""
    asked: list[CallBound] = []

    class Forced(CallBound):
        def allowed(self, last: int | None, width: int) -> Any:
            mask_V = super().allowed(last, width)
            if self in asked[:2] and len(self.ids) < len(opening):
                mask_V = torch.zeros(width, dtype=torch.bool)
                mask_V[opening[len(self.ids)]] = True
            return mask_V

    def bound(self: CallGrammar) -> CallBound:
        asked.append(Forced(self))
        return asked[-1]

    opening = workspace.tokenizer.ids("<tool_call")
    monkeypatch.setattr(CallGrammar, "bound", bound)
    sampling = Sampling(max_new_tokens=60, constrain=True)
    prompts = tuple(({"role": "user", "content": text},) for text in ("Привет", "Баланс?", "Сколько у меня денег на счёте и почему так мало?"))
    job = EvaluateJob(prompts=prompts, adapted=False, sampling=sampling, tools=workspace.jobs.bound_tools(sampling))
    done = Host(workspace.catalog, workspace.runs).do(job, Report())
    assert len(asked) == len(prompts) and sum(told["changed"] > 0 for told in done["constrained"]) == 2
    for reply, told in zip(done["replies"], done["constrained"], strict=True):
        assert (told["changed"] > 0) == reply.startswith('<tool_call name="get_sensitive_data" arguments="{')
        assert not told["changed"] or told["first"][0]["wrote"] == "<"
    free = Host(workspace.catalog, workspace.runs).do(job.model_copy(update={"sampling": Sampling(max_new_tokens=5), "tools": ()}), Report())
    assert "constrained" not in free
