"""Tune, Train and Chat without a server: a real engine on the tiny model, the handlers called as the page calls them."""

import time

import pytest

from workbench.errors import DataError, InputError, RunError, WorkbenchError
from workbench.settings import Lora, Quantization, RunSettings, Sampling, Training
from workbench.ui import chat_tab, forms, header, measure_panel, train_tab, tune_tab, words

pytestmark = pytest.mark.slow

SHORT = RunSettings(quantization=Quantization(mode="none"), lora=Lora(rank=2), training=Training(epochs=1, learning_rate=1e-2, max_row_tokens=4096))
ENDLESS = SHORT.model_copy(update={"training": SHORT.training.model_copy(update={"epochs": 900})})


def values_of(settings: RunSettings) -> list:
    return [getattr(getattr(settings, group), name) for group, name in forms.FIELDS]


def train(workspace, name: str, settings: RunSettings = SHORT):
    tune_tab.start_run(workspace, name, values_of(settings))
    return workspace.engine.training()


def until(true, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


def test_the_plan_says_parameters_tokens_and_steps(workspace):
    made = tune_tab.show_plan(workspace, values_of(SHORT))
    for text in ("trainable parameters", "63 / 7", "optimizer steps"):
        assert text in made
    wrong = values_of(SHORT)
    wrong[forms.FIELDS.index(("lora", "rank"))] = 0
    assert "lora.rank can&#x27;t be 0" in tune_tab.show_plan(workspace, wrong)


def test_names_are_suggested_free_and_unsafe_ones_refused(workspace):
    first = tune_tab.suggest_name(workspace)
    assert first.startswith("run-") and first.endswith("-1")
    for name in ("../evil", "", "a/b", "."):
        with pytest.raises(RunError, match="can't be used"):
            tune_tab.start_run(workspace, name, values_of(SHORT))
    assert workspace.runs.names() == []


def test_a_broken_line_stops_the_start_and_is_named(workspace):
    with workspace.rows.path.open("a", encoding="utf-8") as file:
        file.write("{oops\n")
    with pytest.raises(DataError, match="line 71"):
        tune_tab.start_run(workspace, "never", values_of(SHORT))
    assert workspace.runs.names() == []


def test_a_run_is_shown_while_it_goes_on_and_when_it_is_over(workspace):
    ticket = train(workspace, "first", ENDLESS)
    with pytest.raises(RunError, match="still going on"):
        tune_tab.start_run(workspace, "second", values_of(SHORT))
    until(lambda: len(workspace.runs.view("first").steps) >= 3)
    chooser, progress, chart, facts, log, table, stop, seen = train_tab.refresh(workspace, None, {})
    assert chooser.value == "first"
    assert "training" in progress and "left" in progress
    assert len(chart.data[0].x) >= 3 and chart.layout.uirevision == "first"
    assert "tokens/s" in facts and "started on" in log and "first" in table
    assert stop.interactive
    assert "training run first" in header.header_html(workspace)
    assert train_tab.refresh(workspace, "first", seen)[7]["live"] == "first"
    assert "keep the adapter" in train_tab.stop_run(workspace)
    assert ticket.wait(60)["state"] == "stopped"
    view = workspace.runs.view("first")
    assert "stopped on request" in train_tab.progress_html(workspace, view)
    assert workspace.adapters() == ["first"]
    with pytest.raises(RunError, match="nothing to stop"):
        train_tab.stop_run(workspace)


def test_without_a_run_the_page_invites(workspace):
    chooser, progress, *_ = train_tab.refresh(workspace, None, {})
    assert "Start training" in progress
    assert words.CHAT_NO_ADAPTER in chat_tab.panes([], None)[1]


def test_an_interrupted_run_says_so(workspace):
    info = workspace.create_run("gone", workspace.rows.read().rows, SHORT, data_name="examples.json")
    dead = info.model_copy(update={"owner": info.owner.model_copy(update={"started": 1.0})})
    (workspace.runs.path("gone") / "run.json").write_text(dead.model_dump_json(), encoding="utf-8")
    assert "broke off" in train_tab.progress_html(workspace, workspace.runs.view("gone"))


def test_both_panes_stream_and_end_with_a_verdict(workspace):
    train(workspace, "chatty").wait(60)
    turns: list = []
    ticket, exchange = chat_tab.ask(workspace, turns, "Привет", "chatty", Sampling(max_new_tokens=12))
    pictures = [chat_tab.panes(turns, "chatty") for _ in chat_tab.follow(workspace, ticket, exchange)]
    base, adapted = pictures[-1]
    assert exchange.base.done and exchange.adapted.done
    for pane in (base, adapted):
        assert "Привет" in pane and "tokens/s" in pane and "wb-chip" in pane
    assert "Adapted · chatty" in adapted
    assert "wb-chip" in chat_tab.difference_html(turns)


def test_an_empty_prompt_and_an_unknown_adapter_are_refused(workspace):
    with pytest.raises(InputError, match="Type a prompt"):
        chat_tab.ask(workspace, [], "  ", None, Sampling())
    with pytest.raises(InputError, match="has no adapter"):
        chat_tab.ask(workspace, [], "x", "../../etc", Sampling())


def test_a_killed_worker_is_told_in_the_pane_and_the_next_answer_comes(workspace):
    import os
    import signal

    turns: list = []
    ticket, exchange = chat_tab.ask(workspace, turns, "Привет", None, Sampling(max_new_tokens=4000))
    until(lambda: bool(ticket.texts))
    os.kill(workspace.engine.worker_pid(), signal.SIGKILL)
    for _ in chat_tab.follow(workspace, ticket, exchange):
        pass
    assert "SIGKILL" in "".join(chat_tab.panes(turns, None))
    ticket, exchange = chat_tab.ask(workspace, turns, "Снова", None, Sampling(max_new_tokens=3))
    for _ in chat_tab.follow(workspace, ticket, exchange):
        pass
    assert exchange.base.done and "tokens/s" in exchange.base.foot


def test_the_measurement_counts_all_cases(workspace):
    train(workspace, "measured").wait(60)
    lines = list(measure_panel.measure(workspace, "measured", adapted=True))
    assert "call recall" in lines[-1] and "/15" in lines[-1]
    assert (workspace.runs.path("measured") / "scores.json").is_file()


def test_an_unexpected_fault_is_a_sentence_on_the_screen():
    from workbench.ui.errors import sentence

    assert sentence(WorkbenchError("So it is.")) == "So it is."
    assert "KeyError" in sentence(KeyError("x")) and "Traceback" not in sentence(KeyError("x"))
