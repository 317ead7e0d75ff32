"""`answer`: a reply judged in the adapter's dialect, and with --run-tools the whole way of a call, on a model that says what it is told to."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import pytest

from workbench.calls.dialects import DIALECTS
from workbench.calls.loop import FALL_BACK
from workbench.calls.prompting import CallForm
from workbench.errors import InputError
from workbench.schema import Example, Message, ToolCall, ToolSpec
from workbench.settings import RunSettings
from workbench.verbs import answering
from workbench.workspace import Workspace

HERMES = CallForm(DIALECTS["hermes"])
CALL = ToolCall("weather", {"city": "Ош"})
ROWS = [Example((Message("user", "a"), Message("assistant", "b")))]


class Model:
    """A host whose model says one text after the other."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.asked = list(texts), list[Any]()

    def do(self, job: Any, report: Any) -> dict[str, Any]:
        self.asked.append(job)
        reply = {"text": self.texts.pop(0), "tokens": 4, "seconds": 2.0, "ended": "stop token"}
        return {"replies": [reply], "adapter_difference": 1.5}


@pytest.fixture
def answer(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Asks the adapter r, which learned the Hermes form; returns (result, jobs)."""
    workspace.runs.create("r", model="demo", model_name="m", rows=ROWS, data_name="d", settings=RunSettings(), form=HERMES)
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    for name, mock in (("weather", {"$template": "7° в {{city}}"}), ("mine", {"$python": "mine.py:f"})):
        workspace.tools.save(ToolSpec(name, "", schema, mock), workspace.tools.read().version)
    workspace.functions_dir.mkdir()
    (workspace.functions_dir / "mine.py").write_text("def f(city): return {'from': city}", encoding="utf-8")
    monkeypatch.setattr(answering, "need_model", lambda space, model: None)

    def ask(*texts: str, **options: Any) -> tuple[dict[str, Any], list[Any]]:
        model = Model(*texts)
        monkeypatch.setattr(answering, "host", lambda space: (model, None))
        given = {"adapter": "r", "prompt": "Погода?", "base": False, "max_new_tokens": 8, "run_tools": True, "functions": False, "yes": True, "constrain": False} | options
        return answering.answer(workspace, Namespace(**given)), model.asked

    return ask


def test_a_reply_is_judged_in_the_adapter_s_dialect(answer: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    text = HERMES.dialect.render(CALL)
    found, asked = answer(text, run_tools=False, yes=False)
    assert found == {
        "text": text, "verdict": "tool call", "calls": [{"name": "weather", "arguments": {"city": "Ош"}}], "tokens": 4, "tokens_per_second": 2.0,
        "ended": "stop token", "adapter_difference": 1.5,
    }  # fmt: skip
    assert asked[0].turns == ({"role": "user", "content": "Погода?"},) and capsys.readouterr().out == f"{text}\n"


def test_a_call_is_run_and_answered_and_every_step_told(answer: Callable[..., Any], workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    found, asked = answer(HERMES.dialect.render(CALL), "Семь.")
    assert (found["text"], found["ended"], [s["step"] for s in found["steps"]]) == ("Семь.", "answered", ["reply", "result", "reply"])
    assert found["steps"][1]["result"] == "7° в Ош" and json.dumps(found)
    assert asked[1].turns[1:] == ({"role": "assistant", "content": HERMES.dialect.render(CALL)}, {"role": "user", "content": "<tool_response>\n7° в Ош\n</tool_response>"})
    told = capsys.readouterr()
    assert told.out == "Семь.\n" and "weather answered (0.0 s): 7° в Ош" in told.err
    assert workspace.review.waiting() == []


@pytest.mark.parametrize(
    ("texts", "options", "reason"),
    [
        (["<tool_call>{"], {}, "The model wrote a malformed call"),
        ([HERMES.dialect.render(CALL)], {"yes": False}, "The call of weather was not confirmed."),
        ([HERMES.dialect.render(ToolCall("mine", {"city": "Ош"}))], {}, "and none may be run here"),
    ],
)
def test_what_needs_a_person_lands_on_the_list(
    answer: Callable[..., Any], workspace: Workspace, capsys: pytest.CaptureFixture[str], texts: list[str], options: dict[str, Any], reason: str
) -> None:
    found, _ = answer(*texts, **options)
    assert found["ended"] == "needs a human" and reason in found["reason"] and found["text"] == FALL_BACK
    waiting = workspace.review.waiting()
    assert [(w.prompt, w.replies, w.adapter, w.dialect) for w in waiting] == [("Погода?", tuple(texts), "r", "hermes")]
    assert f"a person is needed: {found['reason']}" in capsys.readouterr().out


def test_functions_answer_where_they_are_allowed(answer: Callable[..., Any]) -> None:
    found, _ = answer(HERMES.dialect.render(ToolCall("mine", {"city": "Ош"})), "x", functions=True)
    assert found["steps"][1]["result"] == '{"from": "Ош"}'


def test_options_of_the_loop_without_it_are_refused(answer: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match="go with --run-tools"):
        answer("x", run_tools=False)


def test_bound_calls_are_asked_for_with_the_tools_and_what_that_changed_is_told(
    answer: Callable[..., Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"changed": 2, "first": [{"step": 1, "wanted": "a", "wrote": "b"}]}
    do = Model.do

    def bound(self: Model, job: Any, report: Any) -> dict[str, Any]:
        done = do(self, job, report)
        done["replies"][0]["constrained"] = told
        return done

    monkeypatch.setattr(Model, "do", bound)
    found, asked = answer(HERMES.dialect.render(CALL), run_tools=False, yes=False, constrain=True)
    assert found["constrained"] == told
    assert asked[0].sampling.constrain and [tool["function"]["name"] for tool in asked[0].tools][-2:] == ["weather", "mine"]
    assert "calls were bound: that changed 2 of 4 tokens" in capsys.readouterr().err


def test_the_loop_tells_what_binding_changed_reply_by_reply_and_in_all(
    answer: Callable[..., Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    do, counts = Model.do, [2, 0]

    def bound(self: Model, job: Any, report: Any) -> dict[str, Any]:
        done = do(self, job, report)
        done["replies"][0]["constrained"] = {"changed": counts[len(self.asked) - 1], "first": []}
        return done

    monkeypatch.setattr(Model, "do", bound)
    found, asked = answer(HERMES.dialect.render(CALL), "Семь.", constrain=True)
    assert all(job.sampling.constrain and job.tools for job in asked) and found["constrained"] == {"changed": 2}
    assert [step.get("constrained") for step in found["steps"]] == [{"changed": 2, "first": []}, None, {"changed": 0, "first": []}]
    assert "calls were bound: that changed 2 of 8 tokens" in capsys.readouterr().err
