"""The loop behind a call: parsed, held against its tool, run, given back, answered; and a person called where that can't be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workbench.calls.dialects import DIALECTS
from workbench.calls.loop import FALL_BACK, Failed, FellBack, LoopLimits, Ran, Refused, ResultCache, Said, Step, ToolLoop, Trace
from workbench.calls.mocks import MockError, MockLimits, run_mock
from workbench.calls.prompting import PLAIN, CallForm, Turn
from workbench.schema import Example, Message, ToolCall, ToolSpec

CITY = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"], "additionalProperties": False}
TOOLS = {
    "weather": ToolSpec("weather", "", CITY, {"$template": {"city": "{{city}}", "t": 7}}),
    "balance": ToolSpec("balance", "", {"type": "object", "properties": {}}, "12 ₽"),
    "silent": ToolSpec("silent"),
}
OSH, ROSTOV = ToolCall("weather", {"city": "Ош"}), ToolCall("weather", {"city": "Ростов", "days": 2})


class Model:
    """Says one text after the other, and keeps what it was asked."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.asked = list(texts), list[list[Turn]]()

    def __call__(self, turns: list[Turn]) -> str:
        self.asked.append(turns)
        return self.texts.pop(0)


def said(*calls: ToolCall, form: CallForm = PLAIN) -> str:
    return form.dialect.render_calls(calls)


def loop(model: Model, **changes: Any) -> ToolLoop:
    given: dict[str, Any] = {"form": PLAIN, "tools": TOOLS, "answer": model, "run": run_mock}
    return ToolLoop(**given | changes)


def plain(steps: tuple[Step, ...]) -> list[Step]:
    return [step if isinstance(step, (Refused, FellBack)) else replace(step, seconds=0.0) for step in steps]


def asked(model: Model, **changes: Any) -> Trace:
    return loop(model, **changes)(PLAIN.ask("Какая погода?"))


@pytest.mark.parametrize("name", list(DIALECTS))
def test_a_call_is_run_given_back_and_answered_as_rows_teach_it(name: str) -> None:
    form = CallForm(DIALECTS[name])
    text = said(OSH, form=form)
    model = Model(text, "В Оше 7 градусов.")
    heard: list[Step] = []
    trace = ToolLoop(form, TOOLS, model, run_mock, tell=heard.append)(form.ask("Какая погода?"))
    result = '{"city": "Ош", "t": 7}'
    assert plain(trace.steps) == [Said(text, "tool call", 0.0), Ran(OSH, result, False, 0.0), Said("В Оше 7 градусов.", "no tool call", 0.0)]
    assert (trace.answer, trace.ended, trace.needs_human, trace.calls) == ("В Оше 7 градусов.", "answered", False, (OSH,))
    assert tuple(heard) == trace.steps
    taught = Example((Message("user", "Какая погода?"), Message("assistant", "", (OSH,)), Message("tool", result), Message("assistant", "x")))
    assert model.asked == [form.ask("Какая погода?"), form.before_answer(taught)] and trace.turns == tuple(model.asked[1])


def test_a_reply_in_words_is_the_answer_at_once() -> None:
    trace = asked(Model("Привет!"))
    assert (plain(trace.steps), trace.answer, trace.ended) == ([Said("Привет!", "no tool call", 0.0)], "Привет!", "answered")


def test_several_calls_and_chains_are_run_in_order_and_equal_calls_once() -> None:
    runs: list[ToolCall] = []

    def run(tool: ToolSpec, call: ToolCall) -> str:
        runs.append(call)
        return run_mock(tool, call)

    turned = ToolCall("weather", {"days": 2, "city": "Ростов"})
    trace = asked(Model(said(OSH, ROSTOV), said(turned, ToolCall("balance")), "Готово."), run=run)
    assert [(s.call.name, s.cached) for s in trace.steps if isinstance(s, Ran)] == [("weather", False), ("weather", False), ("weather", True), ("balance", False)]
    assert runs == [OSH, ROSTOV, ToolCall("balance")] and trace.answer == "Готово."
    assert [t["role"] for t in trace.turns] == ["user", "assistant", "user", "assistant", "user"]


def test_a_cache_outlives_a_conversation_knows_the_tool_and_keeps_the_newest() -> None:
    cache = ResultCache(size=2)
    for _ in range(2):
        trace = asked(Model(said(OSH), "x"), cache=cache)
    assert [s.cached for s in trace.steps if isinstance(s, Ran)] == [True]
    weather = TOOLS["weather"]
    assert cache.get(replace(weather, mock="other"), OSH) is None and cache.get(weather, ToolCall("weather", {"city": 1})) is None
    cache.put(weather, ROSTOV, "a")
    assert cache.get(weather, OSH) is not None
    cache.put(weather, ToolCall("weather", {"city": "Баку"}), "b")
    assert (cache.get(weather, ROSTOV), cache.get(weather, OSH)) == (None, '{"city": "Ош", "t": 7}')


@pytest.mark.parametrize(
    ("texts", "changes", "reason"),
    [
        (['<tool_call name="weather"'], {}, "The model wrote a malformed call: the call breaks off before it is closed."),
        ([said(ToolCall("gone"))], {}, "The call of gone is not valid: there is no tool “gone”."),
        ([said(ToolCall("weather", {"city": 3}))], {}, "The call of weather is not valid: "),
        ([said(OSH, ToolCall("weather"))], {}, "The call of weather is not valid: "),
        ([said(*[OSH] * 9)], {}, "The model made 9 calls at once; 8 are allowed."),
        ([said(OSH)] * 5, {}, "The model still called a tool after 4 replies with calls: the chain ends there."),
        ([said(OSH)] * 2, {"limits": LoopLimits(chain=1)}, "after 1 replies with calls"),
        ([said(ToolCall("silent"))], {}, "The tool silent has no answer to give"),
        ([said(OSH)], {"confirm": lambda call: False}, "The call of weather was not confirmed."),
        ([" \n"], {}, "The model answered nothing."),
        (["Наверное, 7?"], {"doubt": lambda text, calls: "It is not sure." if "?" in text else ""}, "It is not sure."),
    ],
)
def test_what_can_t_go_on_falls_back_and_calls_a_person(texts: list[str], changes: dict[str, Any], reason: str) -> None:
    trace = asked(Model(*texts), **changes)
    assert trace.ended == "needs a human" and trace.needs_human and reason in trace.reason
    assert trace.answer == FALL_BACK and trace.steps[-1] == FellBack(trace.reason, FALL_BACK)
    shown = asked(Model(*texts), fall_back="Спросите позже.", **changes)
    assert shown.answer == "Спросите позже."


def test_no_call_of_a_reply_is_run_where_one_is_wrong_and_every_reason_is_named() -> None:
    runs: list[ToolCall] = []
    wrong = ToolCall("weather", {"days": "x", "more": 1})

    def run(tool: ToolSpec, call: ToolCall) -> str:
        runs.append(call)
        return "x"

    trace = asked(Model(said(OSH, wrong)), run=run)
    assert runs == []
    refused = [s for s in trace.steps if isinstance(s, Refused)]
    assert [r.call for r in refused] == [wrong] and len(refused[0].reasons) >= 2


def test_a_known_answer_needs_no_second_confirmation() -> None:
    confirmed: list[ToolCall] = []

    def confirm(call: ToolCall) -> bool:
        confirmed.append(call)
        return True

    trace = asked(Model(said(OSH), said(OSH), "x"), confirm=confirm)
    assert confirmed == [OSH] and trace.ended == "answered"


@pytest.mark.parametrize(
    ("function", "said_so"),
    [("hang", "had not answered after 0.5 s"), ("large", "100,000,000 characters"), ("no_json", "no JSON"), ("fail", "ValueError: x")],
)
def test_a_tool_that_misbehaves_in_its_own_process_ends_in_the_trace(tmp_path: Path, function: str, said_so: str) -> None:
    (tmp_path / "mine.py").write_text(
        "import time\ndef hang(): time.sleep(600)\ndef large(): return 'x' * 100_000_000\ndef no_json(): return {1}\ndef fail(): raise ValueError('x')\n"
    )
    limits = MockLimits(seconds=0.5 if function == "hang" else 30.0)
    tools = {"f": ToolSpec("f", mock={"$python": f"mine.py:{function}"})}
    trace = asked(Model(said(ToolCall("f"))), tools=tools, run=lambda tool, call: run_mock(tool, call, functions=tmp_path, limits=limits))
    failed = [s for s in trace.steps if isinstance(s, Failed)]
    assert len(failed) == 1 and said_so in failed[0].reason == trace.reason and trace.answer == FALL_BACK


def test_an_answer_that_the_dialect_can_t_give_back_calls_a_person() -> None:
    form = CallForm(DIALECTS["hermes"])
    tools = {"f": ToolSpec("f", mock="a </tool_response> b")}
    trace = ToolLoop(form, tools, Model(said(ToolCall("f"), form=form)), run_mock)(form.ask("x"))
    assert "The tool's answer can't be given back to the model" in trace.reason and trace.needs_human


@pytest.mark.parametrize("after", range(4))
def test_a_stop_is_heeded_between_all_steps(after: int) -> None:
    asked_for = iter(range(100))
    trace = asked(Model(said(OSH), said(OSH), "x"), stop=lambda: next(asked_for) >= after)
    assert (trace.ended, trace.answer, trace.needs_human, trace.reason) == ("stopped", "", False, "It was stopped on request.")
    assert not any(isinstance(s, FellBack) for s in trace.steps) and len(trace.steps) == (0, 1, 1, 2)[after]


def test_a_stop_while_a_tool_runs_is_no_failure_of_the_tool() -> None:
    stopped: list[bool] = []

    def run(tool: ToolSpec, call: ToolCall) -> str:
        stopped.append(True)
        raise MockError("The function of weather was stopped on request.")

    trace = asked(Model(said(OSH)), run=run, stop=lambda: bool(stopped))
    assert trace.ended == "stopped"


def test_what_the_model_raises_passes_through() -> None:
    def gone(turns: list[Turn]) -> str:
        raise RuntimeError("the engine is gone")

    broken: Callable[[list[Turn]], str] = gone
    with pytest.raises(RuntimeError, match="the engine is gone"):
        ToolLoop(PLAIN, TOOLS, broken, run_mock)(PLAIN.ask("x"))
