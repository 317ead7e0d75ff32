"""Replies are shown, judged and made rows of in the dialect that their adapter learned."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from workbench.calls.dialects import DIALECTS, message_calls
from workbench.calls.prompting import PLAIN, CallForm
from workbench.evaluation.scores import make_cases, score_reply
from workbench.schema import Example, Message, ToolCall
from workbench.settings import RunSettings
from workbench.training import events
from workbench.training.differences import answers_difference
from workbench.training.measured import keep_measurement, read_answers
from workbench.ui import measure_panel
from workbench.ui.chat import asking, shown
from workbench.ui.chat.rows import row_from
from workbench.ui.chat.talk import Chat, Piece
from workbench.ui.train import compare_panel, showing
from workbench.ui.words import train as words
from workbench.workspace import Workspace
from workbench.workspace.jobs import Jobs

CALL = ToolCall("get_sensitive_data")
HERMES = CallForm(DIALECTS["hermes"])
SAID = HERMES.dialect.render(CALL)
ROWS = (Example((Message("user", "Баланс?"), Message("assistant", "", (CALL,)))), Example((Message("user", "Привет"), Message("assistant", "Да"))))
CARD = 'data-call="get_sensitive_data"'


@pytest.fixture
def space(workspace: Workspace) -> Workspace:
    """A workbench with the runs "h", which learned the Hermes form, and "t", which learned the tag; both look like they hold an adapter."""
    for name, form in (("h", HERMES), ("t", PLAIN)):
        workspace.runs.create(name, model="demo", model_name="m", rows=ROWS, data_name="d", settings=RunSettings(), form=form)
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            (workspace.runs.path(name) / file).write_text("{}")
        workspace.runs.append(name, events.Ended(state="finished", step=1))
    return workspace


def sampled(reply: str) -> events.Sampled:
    answer = events.SampleAnswer(prompt="Баланс?", expected='<tool_call name="get_sensitive_data" arguments="{}"/>', reply=reply, verdict="tool call", right=True)
    return events.Sampled(step=3, epoch=1.0, right=1, asked=1, seconds=1.0, answers=(answer,))


def test_a_run_s_answers_are_read_in_its_own_dialect(space: Workspace) -> None:
    for name in ("h", "t"):
        space.runs.append(name, sampled(SAID))
    shown = {name: showing.says_html(space.runs.view(name)) for name in ("h", "t")}
    assert CARD in shown["h"] and CARD not in shown["t"]
    assert showing.first_call_words(space.runs.view("t")) == words.NO_CALL_YET
    assert "for the first time" in showing.first_call_words(space.runs.view("h"))


def test_answers_of_two_dialects_are_compared_by_their_calls(space: Workspace) -> None:
    cases = make_cases(ROWS)
    for name, replies in (("h", (SAID, "Да")), ("t", (PLAIN.dialect.render(CALL), "Да"))):
        dialect = space.form(name).dialect
        keep_measurement(space.runs, name, [score_reply(c, r, dialect) for c, r in zip(cases, replies, strict=True)], "cases.jsonl")
    kept = [read_answers(space.runs, name) for name in ("h", "t")]
    assert kept[0] is not None and kept[1] is not None and [a.right for a in (*kept[0].answers, *kept[1].answers)] == [True] * 4
    found = answers_difference(kept[0], kept[1])
    assert len(found.pairs) == 2 and found.which("verdict") == [], "the same calls, whatever they are written in"
    assert compare_panel._answer_line(found.pairs[0]).count(CARD) == 2


def test_chat_asks_reads_and_makes_rows_in_the_adapter_s_dialect(space: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(Jobs, "answer_job", lambda self, prompts, **options: asked.append((prompts, options["run"], options["lanes"])))
    monkeypatch.setattr(Jobs, "answer_together", lambda self, parts: SimpleNamespace(finished=SimpleNamespace(is_set=lambda: True)))
    chat = Chat()
    exchange = asking.ask(space, chat, " Баланс? ", ("", "h"), asking.Manner()).exchange
    assert asked == [([HERMES.ask("Баланс?")] * 2, "h", (False, True))] and {side.dialect_name for side in exchange.asked()} == {"hermes"}
    for side, text in zip(exchange.asked(), ("Не знаю.", SAID), strict=True):
        side.pieces = [Piece(text, "stop token")]
    assert [CARD in pane for pane in shown.panes(chat, ("", "h"), {})] == [False, False, False, False, False, True]
    assert "learned to call" in shown.changed_html(chat)
    rows, _ = row_from(space, chat, "call")
    made = rows.entries[-1].row
    assert made is not None and [(c.name, dict(c.arguments)) for c in message_calls(made.answer)] == [("get_sensitive_data", {})]
    assert made.answer.content == '<tool_call name="get_sensitive_data" arguments="{}"/>', "a row is written as rows write theirs"


@pytest.mark.parametrize(("run", "reply"), [("h", SAID), ("t", PLAIN.dialect.render(CALL)), (None, PLAIN.dialect.render(CALL))])
def test_the_measurement_asks_and_judges_in_the_adapter_s_dialect(space: Workspace, monkeypatch: pytest.MonkeyPatch, run: str | None, reply: str) -> None:
    monkeypatch.setattr(Workspace, "cases", lambda self, name: make_cases(ROWS))
    done = SimpleNamespace(finished=SimpleNamespace(is_set=lambda: True), wait=lambda: {"replies": [reply, "Да"]}, label="")
    monkeypatch.setattr(Jobs, "evaluate", lambda self, cases, **options: done)
    steps = measure_panel.measure(space, run, adapted=run is not None)
    assert "1/1 (100.0 %)" in next(steps)
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value.found == ()


def test_a_measurement_of_bound_calls_tells_what_was_changed_and_is_not_kept(space: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []
    told = [{"changed": 4, "first": []}, {"changed": 0, "first": []}]
    done = SimpleNamespace(finished=SimpleNamespace(is_set=lambda: True), wait=lambda: {"replies": [SAID, "Да"], "constrained": told}, label="")
    monkeypatch.setattr(Workspace, "cases", lambda self, name: make_cases(ROWS))
    monkeypatch.setattr(Jobs, "evaluate", lambda self, cases, **options: asked.append(options) or done)
    shown = next(measure_panel.measure(space, "h", adapted=True, constrain=True))
    assert "Calls were bound: that changed 4 tokens in 1 of 2 replies. Figures of bound calls are shown here" in shown and "1/1 (100.0 %)" in shown
    assert asked[0]["sampling"].constrain and not (space.runs.path("h") / "scores.json").exists()  # type: ignore[attr-defined]
    next(measure_panel.measure(space, "h", adapted=True))
    assert not asked[1]["sampling"].constrain and (space.runs.path("h") / "scores.json").exists()  # type: ignore[attr-defined]
