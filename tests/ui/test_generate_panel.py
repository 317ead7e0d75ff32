"""The panel that writes rows: its verbs, called without a server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import gradio as gr
import pytest

from workbench.dataset import endpoint as endpoints
from workbench.dataset.endpoint import Written
from workbench.dataset.generate import Refused
from workbench.engine.client import Ticket
from workbench.errors import BusyError, DataError, InputError, WorkbenchError
from workbench.schema import Example, Message
from workbench.ui.data import generate_panel as panel
from workbench.ui.data import writing
from workbench.ui.data.bench import Bench
from workbench.ui.data.generate_panel import Batch, Writers
from workbench.ui.data.writing import Step
from workbench.ui.words import generate as words
from workbench.workspace import Workspace

FORM = {
    "source": words.FAMILIES, "tool": "get_sensitive_data", "kind": "call", "calls": ["question"], "texts": ["definition"], "chosen": [], "language": "Russian",
    "count": 6, "seed": 1, "address": "", "model": "", "max_requests": 2, "max_tokens": 1000,
}
CALL = '<tool_call name="get_sensitive_data" arguments="{}"/>'


def values(**change: Any) -> list[Any]:
    return list((FORM | change).values())


def steps(space: Workspace, **change: Any) -> list[Step]:
    return list(writing.write(space, panel.read_form(space, *values(**change)), threading.Event()))


def row(request: str, answer: str = CALL, source: str = "generated:families:question") -> Example:
    return Example((Message("user", request), Message("assistant", answer)), source=source)


@pytest.fixture
def bench(workspace: Workspace) -> Iterator[Bench]:
    with gr.Blocks() as page:
        made = Bench(workspace, page, gr.HTML(), gr.State(), gr.Number(), gr.State(), gr.State(), gr.Tabs(), gr.State(""))
        made.panels["generate"] = gr.Tab()
    yield made


# -- the form --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("change", "says"), [
    ({"tool": None}, "Choose the tool first"), ({"tool": "gone"}, "Choose the tool first"), ({"count": None}, "Rows: give a whole number"),
    ({"seed": "x"}, "Seed: give a whole number"), ({"source": "magic"}, "can't be written by 'magic'"), ({"count": float("inf")}, "Rows: give a whole number"),
    ({"source": words.ENDPOINT, "max_tokens": None}, "Most tokens: give a whole number"),
])
def test_a_form_that_can_t_be_read_is_refused(workspace: Workspace, change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        panel.read_form(workspace, *values(**change))


def test_the_form_s_values_become_one(workspace: Workspace) -> None:
    asked = panel.read_form(workspace, *values(source=words.ENDPOINT, address=" http://x/v1", model="m", chosen=["баланс"]))
    assert (asked.families, asked.topics, asked.count, asked.seed) == (("question", "definition"), ("баланс",), 6, 1)
    assert (asked.endpoint.address, asked.endpoint.model, asked.endpoint.max_requests, asked.endpoint.max_tokens) == (" http://x/v1", "m", 2, 1000)
    assert asked.tool == workspace.tools.read().tools["get_sensitive_data"]


# -- families --------------------------------------------------------------------------------------


def test_families_write_drafts_that_repeat_neither_the_set_nor_what_is_kept_for_measuring(workspace: Workspace) -> None:
    [done] = steps(workspace, count=200)
    assert done.done and len(done.rows) == 200 and done.text == words.ALL_WRITTEN and done.refused == ()
    assert {r.source for r in done.rows} == {"generated:families:question", "generated:families:definition"}
    taken = {c.prompt for name in ("cases.jsonl", "demo.jsonl") for c in workspace.cases(name)} | {r.request for r in workspace.rows.read().rows}
    assert not taken & {r.request for r in done.rows}


def test_too_few_wordings_are_told(workspace: Workspace) -> None:
    [done] = steps(workspace, calls=["kazakh"], texts=[], chosen=["баланс"], count=20)
    assert 0 < len(done.rows) < 20
    assert done.text == f"{words.RUN_OUT} {len(done.rows)} of 20 rows are new and sound."


def test_no_family_is_a_sentence_and_broken_cases_are_a_note(workspace: Workspace) -> None:
    with pytest.raises(InputError, match="Tick at least one"):
        steps(workspace, calls=[], texts=[])
    (workspace.data_dir / "demo.jsonl").unlink()
    [done] = steps(workspace)
    assert len(done.rows) == 6 and done.notes[0].startswith("The rows were not compared with data/demo.jsonl: ")


# -- the loaded model ------------------------------------------------------------------------------


class Engine:
    """Stands in for the engine: `script` makes a ticket's end."""

    def __init__(self, space: Workspace, result: dict[str, Any] | WorkbenchError | None) -> None:
        self.tickets: list[Ticket] = []
        self.stopped: list[Ticket] = []
        self.result = result
        vars(space)["engine"] = self

    def submit(self, job: Any, label: str) -> Ticket:
        ticket = Ticket(1, job, label, begun=1.0, progress="wrote 0 of 2 replies", share=0.5, texts=("abc",))
        self.tickets.append(ticket)
        if self.result is not None:
            self._end(ticket)
        return ticket

    def stop(self, ticket: Ticket) -> None:
        ticket.stop_asked = True
        self.stopped.append(ticket)
        self.result = self.result or {"replies": [{"text": '{"rows": [{"request": "Мой', "ended": "stopped"}]}
        self._end(ticket)

    def _end(self, ticket: Ticket) -> None:
        ticket.result, ticket.error = (None, self.result) if isinstance(self.result, WorkbenchError) else (self.result, None)
        ticket.finished.set()

    def close(self) -> None:
        pass


def test_the_loaded_model_s_replies_become_rows_or_refusals_with_reasons(workspace: Workspace) -> None:
    replies = [
        {"text": '{"rows": [{"request": "Где мои зимние чеки?"}, {"request": "Где мои зимние чеки"}]}', "ended": "stop token"},
        {"text": '{"rows": [{"request": "Мой', "ended": "length"},
    ]
    engine = Engine(workspace, {"replies": replies})
    done = steps(workspace, source=words.LOCAL, chosen=["чеки"])[-1]
    assert [(r.request, r.source) for r in done.rows] == [("Где мои зимние чеки?", f"generated:model:{workspace.model_name}")]
    assert [r.reason for r in done.refused] == [
        "the reply breaks off within this row (the reply was cut at its length limit)",
        "repeats another new row, or nearly so: Где мои зимние чеки?",
    ]
    assert done.done and done.text == "1 of 6 rows are new and sound."
    job = engine.tickets[0].job
    assert len(job.prompts) == 2 and job.run is None and not job.sampling.greedy and "about: чеки." in job.prompts[0][1]["content"]
    assert job.form["properties"]["rows"]["maxItems"] == 5


def test_stop_ends_the_job_and_keeps_what_there_is(workspace: Workspace) -> None:
    engine, stop = Engine(workspace, None), threading.Event()
    stream = writing.write(workspace, panel.read_form(workspace, *values(source=words.LOCAL)), stop)
    first = next(stream)
    assert first.text.startswith("wrote 0 of 2 replies") and first.text.endswith("… 3 characters in hand")
    assert (first.share, first.done) == (0.5, False)
    stop.set()
    done = list(stream)[-1]
    assert engine.stopped == engine.tickets and done.done and done.text == "Stopped by you. 0 of 6 rows are new and sound."
    assert done.refused[0].reason.endswith("(the reply was stopped)")


def test_whole_rows_before_the_stop_are_judged_and_only_the_cut_one_is_refused(workspace: Workspace) -> None:
    replies = [
        {"text": '{"rows": [{"request": "Где мои зимние чеки?"}, {"request": "Где мои летние тапки?"}, {"request": "Как', "ended": "stopped"},
        {"text": "", "ended": "stopped"},
    ]
    Engine(workspace, {"replies": replies})
    done = steps(workspace, source=words.LOCAL)[-1]
    assert [r.request for r in done.rows] == ["Где мои зимние чеки?", "Где мои летние тапки?"]
    assert done.refused == (Refused("Как", "the reply breaks off within this row (the reply was stopped)"),)
    assert done.text == "Stopped by you. 2 of 6 rows are new and sound."


@pytest.mark.parametrize("count", [0, -5, 501])
def test_a_number_of_rows_that_can_t_be_is_refused_in_words(workspace: Workspace, count: int) -> None:
    with pytest.raises(InputError, match=f"must be 1 to 500, not {count}: nothing was written"):
        panel.read_form(workspace, *values(count=count))


def test_closing_the_page_ends_the_job(workspace: Workspace) -> None:
    engine = Engine(workspace, None)
    stream = writing.write(workspace, panel.read_form(workspace, *values(source=words.LOCAL)), threading.Event())
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert engine.stopped == engine.tickets


def test_a_fault_of_the_engine_is_told(workspace: Workspace) -> None:
    Engine(workspace, BusyError("The engine is held."))
    with pytest.raises(BusyError, match="The engine is held"):
        steps(workspace, source=words.LOCAL)


# -- an endpoint -----------------------------------------------------------------------------------


def test_an_endpoint_s_rows_come_with_the_bill(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def write_rows(endpoint: Any, request: Any, existing: Any, forbidden: Any, *, progress: Any, stop: Any) -> Written:
        seen.append((endpoint.address, request.count, len(existing), len(forbidden), stop()))
        progress(Written((row("a"),), (), 1, 40))
        return Written((row("a"), row("b")), (Refused("c", "why"),), 2, 80, "The cap of 2 requests is reached; what was written is kept.", notes=("n",))

    monkeypatch.setattr(endpoints, "write_rows", write_rows)
    found = steps(workspace, source=words.ENDPOINT, address="http://x/v1/", model="m")
    assert seen == [("http://x/v1", 6, 70, 36, False)]
    assert [s.text for s in found[:-1]] == ["0 rows, 0 refused · 0 requests, 0 tokens", "1 row, 0 refused · 1 request, 40 tokens"]
    assert [s.share for s in found] == [0, 1 / 6, 1]
    assert found[-1].text == "The cap of 2 requests is reached; what was written is kept. 2 of 6 rows are new and sound. 2 rows, 1 refused · 2 requests, 80 tokens"
    assert found[-1].notes == ("n",) and not found[-1].failed


def test_a_bad_address_is_a_sentence_before_anything_is_sent(workspace: Workspace) -> None:
    with pytest.raises(InputError, match="can't be asked: give one such as"):
        steps(workspace, source=words.ENDPOINT, address="ftp://x", model="m")


def test_closing_the_page_stops_the_endpoint_s_writing(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    halted = threading.Event()

    def write_rows(*args: Any, progress: Any, stop: Any) -> Written:
        progress(Written())
        while not stop():
            halted.wait(0.01)
        halted.set()
        return Written(ended="Stopped by you.")

    monkeypatch.setattr(endpoints, "write_rows", write_rows)
    stream = writing.write(workspace, panel.read_form(workspace, *values(source=words.ENDPOINT, address="http://x/v1", model="m")), threading.Event())
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert halted.wait(10)


# -- the preview -----------------------------------------------------------------------------------


def test_a_page_writes_once_at_a_time_and_its_stop_finds_it(workspace: Workspace) -> None:
    writers = Writers()
    stop = writers.enter("a")
    assert stop is not None
    [busy] = panel.stream(workspace, writers, "a", values())
    assert words.STILL_WRITING in busy[0]
    assert writers.stop("a") and stop.is_set() and not writers.stop("b")
    writers.leave("a")
    [done] = panel.stream(workspace, writers, "a", values())
    assert isinstance(done[1], Batch) and len(done[1].rows) == 6 and writers.stops == {}


def test_an_error_is_words_in_the_progress_and_leaves_the_preview_alone(workspace: Workspace) -> None:
    [said] = panel.stream(workspace, Writers(), "a", values(chosen=["<tool_call"]))
    assert "&lt;tool_call" in said[0] and "<tool_call" not in said[0] and all(v["__type__"] == "update" for v in said[1:])


def test_what_models_and_servers_say_is_escaped_everywhere() -> None:
    evil = "<img src=x onerror=alert(1)>"
    step = Step(evil, 0.5, (row("a"),), (Refused(evil, evil),), (evil,))
    for html in (panel.progress_html(step), panel.ended_html(step), panel.refused_html(step.refused)):
        assert evil not in html and "<img" not in html
    assert "&lt;img" in panel.refused_html(step.refused)


def test_progress_tells_the_time_left() -> None:
    assert "10 s so far, about 30 s left" in panel.progress_html(Step("x", 0.25, seconds=10))
    assert "left" not in panel.progress_html(Step("x", 0.0, seconds=10)) + panel.progress_html(Step("x", 0.25, seconds=0.5))


def test_the_table_shows_what_comes_in_and_from_where() -> None:
    batch = Batch((row("Мой баланс?"), row("Что такое вклад?", "Деньги под процент.", "generated:model:gemma")))
    assert panel.table_values(batch) == [
        [True, 1, "Мой баланс?", "call: get_sensitive_data {}", "Questions"], [True, 2, "Что такое вклад?", "Деньги под процент.", "gemma"],
    ]


def test_only_ticked_rows_come_in_whatever_the_order_of_the_table(bench: Bench) -> None:
    batch = Batch((row("Где мои зимние чеки?"), row("Покажи историю штрафов брата"), row("Сколько у меня звёзд?")))
    table = panel.table_values(batch)
    table[1][0] = False
    version = bench.space.rows.read().version
    said = panel.take(bench, batch, table[::-1], version, 3)
    rows = bench.space.rows.read()
    assert rows.rows[70:] == (batch.rows[0], batch.rows[2])
    assert "2 generated drafts were brought in." in said[0] and said[1:4] == [rows.version, 4, None]
    assert said[5] is None, "the preview is closed"
    assert panel._label(batch, table) == "Bring in 2 drafts"


def test_a_second_press_brings_nothing_in_twice(bench: Bench) -> None:
    batch = Batch((row("Где мои зимние чеки?"),))
    panel.take(bench, batch, panel.table_values(batch), bench.space.rows.read().version, 0)
    said = panel.take(bench, batch, panel.table_values(batch), bench.space.rows.read().version, 1)
    assert "Nothing came in: repeats a row of the set" in said[0] and len(bench.space.rows.read().rows) == 71


def test_a_foreign_change_leaves_the_drafts_waiting_for_a_decision(bench: Bench) -> None:
    batch = Batch((row("Где мои зимние чеки?"),))
    said = panel.take(bench, batch, panel.table_values(batch), "an old version", 0)
    assert said[3].change.add == batch.rows and said[3].version == "an old version"
    assert len(bench.space.rows.read().rows) == 70


@pytest.mark.parametrize(("batch", "table", "says"), [
    (None, [], words.NOTHING_SEEN), (Batch((row("a"),)), [], words.TABLE_SHAPE), (Batch((row("a"),)), [[True, "x", "", "", ""]], words.TABLE_SHAPE),
    (Batch((row("a"),)), [[True, 1, ""]], words.TABLE_SHAPE), (Batch((row("a"),)), [[True, 2, "", "", ""]], words.TABLE_SHAPE),
    (Batch((row("a"),)), [[False, 1, "", "", ""]], words.NONE_TICKED),
])
def test_a_table_of_another_shape_brings_nothing_in(workspace: Workspace, batch: Batch | None, table: list[list[Any]], says: str) -> None:
    with pytest.raises(DataError, match=says.split(":")[0]):
        panel.plan(workspace, batch, table)


def test_the_line_about_the_key_names_it_and_never_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("WORKBENCH_OPENAI_KEY", "sk-secret")
    assert "WORKBENCH_OPENAI_KEY; it is set" in panel._key("https://x/v1") and "sk-secret" not in panel._key("https://x/v1")
    monkeypatch.delenv("WORKBENCH_OPENAI_KEY")
    assert "No key is sent" in panel._key("http://[::1") and "No key is sent" in panel._key("")


def test_each_source_shows_its_own_fields() -> None:
    shown = {s: [u["visible"] for u in panel._visible(s)] for s in (words.FAMILIES, words.LOCAL, words.ENDPOINT)}
    assert shown == {
        words.FAMILIES: [True, False, False, False, False], words.LOCAL: [False, True, True, True, False], words.ENDPOINT: [False, True, True, False, True],
    }


def test_tools_that_can_t_be_read_leave_the_choice_empty(workspace: Workspace) -> None:
    assert panel.tool_names(workspace) == ["get_sensitive_data"]
    assert panel._tools(workspace, "gone").value == "get_sensitive_data"
    workspace.tools.path.write_text("{", encoding="utf-8")
    assert panel.tool_names(workspace) == []
