"""Tune, Train and Chat without a server: a real engine on the tiny model, the handlers called as the page calls them."""

import time

import pytest

from workbench.errors import DataError, InputError, RunError, WorkbenchError
from workbench.settings import Lora, Quantization, RunSettings, Sampling, Training
from workbench.training import measured
from workbench.ui import forms, header, measure_panel, tune_tab
from workbench.ui.chat import asking
from workbench.ui.chat import shown as chat_html
from workbench.ui.chat.talk import Chat
from workbench.ui.train import run_panel, runs_panel, showing
from workbench.ui.train.run_panel import Look
from workbench.ui.train.runs_panel import Query

pytestmark = pytest.mark.slow

PATIENCE = 300.0  # seconds: a worker that starts on a busy machine takes its time
SHORT = RunSettings(quantization=Quantization(mode="none"), lora=Lora(rank=2), training=Training(epochs=1, learning_rate=1e-2, max_row_tokens=4096))
# Without a best adapter: whether there is one already would hang on how far the run got before it was stopped.
ENDLESS = SHORT.model_copy(update={"training": SHORT.training.model_copy(update={"epochs": 900, "sample_every": 0, "keep_best": "off"})})
SLOW = ENDLESS.model_copy(update={"training": ENDLESS.training.model_copy(update={"save_every": 2})})


def values_of(settings: RunSettings) -> list:
    return [getattr(getattr(settings, group), name) for group, name in forms.FIELDS]


def train(workspace, name: str, settings: RunSettings = SHORT):
    tune_tab.start_run(workspace, name, values_of(settings))
    return workspace.engine.training()


def until(true, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


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
    shown = run_panel.refresh(workspace, None, Look(), {})
    assert shown.chooser.value == "first"
    assert "training" in shown.progress and "left" in shown.progress
    assert len(shown.chart.data[0].x) >= 3 and shown.chart.layout.uirevision == "first/loss"
    assert "tokens/s" in shown.facts and "started on" in shown.log
    assert shown.stop.interactive and not shown.resume.visible and not shown.smaller.visible
    assert "training run first" in header.header_html(workspace)
    assert "first" in runs_panel.Shelf(workspace).html(Query())
    assert run_panel.refresh(workspace, "first", Look(), shown.seen).seen["live"] == "first"
    for act in (lambda: runs_panel.delete_run(workspace, "first"), lambda: runs_panel.rename_run(workspace, "first", "other")):
        with pytest.raises(RunError, match="A job is using the run first"):
            act()
    assert "keep the adapter" in run_panel.stop_run(workspace)
    assert ticket.wait(PATIENCE)["state"] == "stopped"
    view = workspace.runs.view("first")
    assert "Stopped on request" in showing.progress_html(workspace, view)
    assert workspace.adapters() == ["first"]
    with pytest.raises(RunError, match="nothing to stop"):
        run_panel.stop_run(workspace)
    # The chat's adapters follow what is done on the shelf.
    assert runs_panel.rename_run(workspace, "first", "second") == ("first is now named second.", "second")
    assert workspace.adapters() == ["second"]
    runs_panel.delete_run(workspace, "second")
    assert workspace.adapters() == []
    ((_, key),) = runs_panel.bin_choices(workspace)
    assert runs_panel.restore_run(workspace, key) == ("second is back.", "second")
    assert workspace.adapters() == ["second"]


def test_a_stopped_run_is_resumed_from_the_page(workspace):
    ticket = train(workspace, "first", SLOW)
    until(lambda: any(e.type == "saved" for e in workspace.runs.view("first").happened))
    with pytest.raises(RunError, match="still going on"):
        run_panel.resume_run(workspace, "first")
    run_panel.stop_run(workspace)
    ticket.wait(PATIENCE)
    before = run_panel.refresh(workspace, "first", Look(), {})
    assert before.resume.visible
    assert "goes on from its checkpoint" in run_panel.resume_run(workspace, "first")
    until(lambda: any(e.type == "resumed" for e in workspace.runs.view("first").happened))
    during = run_panel.refresh(workspace, "first", Look(), before.seen)
    assert during.stop.interactive and not during.resume.visible
    assert "resumed after step" in showing.log_html(workspace.runs.view("first"))
    ticket = workspace.engine.training()
    run_panel.stop_run(workspace)
    ticket.wait(PATIENCE)


def test_both_panes_stream_and_end_with_a_verdict(workspace):
    train(workspace, "chatty").wait(PATIENCE)
    chat = Chat()
    asked = asking.ask(workspace, chat, "Привет", ("", "chatty"), asking.Manner(Sampling(max_new_tokens=12)))
    pictures = [chat_html.panes(chat, ("", "chatty"), {}) for _ in asking.follow(asked)]
    _, _, base, title, _, adapted = pictures[-1]
    assert all(side.first.judged for side in asked.exchange.asked())
    for pane in (base, adapted):
        assert "Привет" in pane and "tokens/s" in pane and "wb-chip" in pane
    assert "Adapted · chatty" in title and "adapter active: moves the logits by up to" in adapted and "adapter active" not in base
    assert "wb-chip" in chat_html.changed_html(chat)


def test_an_empty_prompt_and_an_unknown_adapter_are_refused(workspace):
    with pytest.raises(InputError, match="Type a prompt"):
        asking.ask(workspace, Chat(), "  ", ("", None), asking.Manner())
    with pytest.raises(InputError, match="is not there any more"):
        asking.ask(workspace, Chat(), "x", ("", "../../etc"), asking.Manner())


def test_a_killed_worker_is_told_in_the_pane_and_the_next_answer_comes(workspace):
    import os
    import signal

    chat = Chat()
    asked = asking.ask(workspace, chat, "Привет", ("", None), asking.Manner(Sampling(max_new_tokens=4000)))
    until(lambda: bool(asked.tickets[0].texts))
    os.kill(workspace.engine.worker_pid(), signal.SIGKILL)
    for _ in asking.follow(asked):
        pass
    assert "SIGKILL" in "".join(chat_html.panes(chat, ("", None), {}))
    asked = asking.ask(workspace, chat, "Снова", ("", None), asking.Manner(Sampling(max_new_tokens=3)))
    for _ in asking.follow(asked):
        pass
    assert asked.exchange.left.first.judged and "tokens/s" in chat_html.live_html(chat, 0, {}, "")


def test_the_measurement_counts_all_cases(workspace):
    train(workspace, "measured").wait(PATIENCE)
    lines = list(measure_panel.measure(workspace, "measured", adapted=True))
    assert "call recall" in lines[-1] and "/15" in lines[-1]
    assert set(measured.read_rates(workspace.runs, "measured")) >= {"call_recall", "over_call_rate"}
    kept = measured.read_answers(workspace.runs, "measured")
    assert (kept.file, len(kept.answers)) == ("cases.jsonl", 30)


def test_an_unexpected_fault_is_a_sentence_on_the_screen():
    from workbench.ui.errors import sentence

    assert sentence(WorkbenchError("So it is.")) == "So it is."
    assert "KeyError" in sentence(KeyError("x")) and "Traceback" not in sentence(KeyError("x"))
