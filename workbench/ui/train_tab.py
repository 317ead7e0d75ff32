"""The Train tab: one run's progress, chart and log, and the table of all runs. Everything is read from the run's folder."""

from __future__ import annotations

import time
from typing import Any

import gradio as gr

from workbench.errors import RunError, WorkbenchError
from workbench.training import events
from workbench.training.runs import RunView
from workbench.ui import words
from workbench.ui.charts import loss_chart
from workbench.ui.errors import shown
from workbench.ui.highlight import bar, chip, empty, escape, facts, note
from workbench.workspace import Workspace

STATE_KIND = {"waiting": "warn", "running": "warn", "finished": "ok", "stopped": "text", "failed": "bad", "interrupted": "bad"}


def progress_html(space: Workspace, view: RunView) -> str:
    """State, steps done, time left and the bar."""
    total = view.started.total_steps if view.started else 0
    done = view.steps[-1].step if view.steps else 0
    left = view.seconds_left()
    parts = [f"<b>{escape(view.info.name)}</b>", chip(words.STATE_WORDS[view.state], STATE_KIND[view.state])]
    if total:
        parts.append(f"step {done} of {total}")
    if view.state == "waiting" or (view.state == "running" and not view.steps):
        ticket = space.engine.training()
        parts.append(escape(ticket.progress) if ticket else "")
    if left is not None:
        parts.append(f"<b>{words.duration(left)} left</b>")
    if view.ended and view.ended.seconds:
        parts.append(f"took {words.duration(view.ended.seconds)}")
    lines = f'<div style="display:flex;gap:12px;align-items:center;margin-bottom:4px">{" ".join(f"<span>{p}</span>" for p in parts if p)}</div>'
    return lines + bar(done / total if total else 0.0, "run") + _outcome(view)


def _outcome(view: RunView) -> str:
    if view.state == "interrupted":
        return note(words.INTERRUPTED, "bad")
    if view.ended and view.ended.reason:
        return note(view.ended.reason, "bad" if view.state == "failed" else "warn")
    if view.ended and view.ended.adapter_difference is not None:
        return note(f"The adapter is active: it moves the base's logits by up to {view.ended.adapter_difference:.1f}.", "ok")
    return ""


def facts_html(view: RunView) -> str:
    """What the run says now: losses, pace, memory, parameters."""
    started, steps = view.started, view.steps
    rows = [("rows", f"{view.info.data_rows} from {view.info.data_name}"), ("model", view.info.model_name)]
    if started:
        rows += [("device", started.device), ("learned / held back", f"{started.train_rows} / {started.validation_rows}"),
                 ("trainable", f"{started.trainable_parameters:,} of {started.total_parameters:,}")]
    if steps:
        recent = steps[-5:]
        pace = sum(s.tokens for s in recent) / max(sum(s.seconds for s in recent), 1e-9)
        rows += [("train loss", f"{steps[0].loss:.3f} → {steps[-1].loss:.3f}"), ("speed", f"{pace:,.0f} tokens/s, {recent[-1].seconds:.2f} s a step"),
                 ("learning rate", f"{steps[-1].learning_rate:.2e}"), ("gradient norm", f"{steps[-1].gradient_norm:.2f}"),
                 ("memory", f"{max(s.memory_gib for s in steps):.1f} GiB")]
    if view.validations:
        best = min(view.validations, key=lambda v: v.loss)
        rows.append(("validation loss", f"{view.validations[-1].loss:.3f} (best {best.loss:.3f}, epoch {best.epoch:.0f})"))
    return facts(rows)


def log_html(view: RunView) -> str:
    """The run's story in plain words, newest first."""
    lines = []
    for event in view.happened:
        at = time.strftime("%H:%M:%S", time.localtime(event.time))
        if isinstance(event, events.Started):
            lines.append(f"{at} started on {event.device}: {event.total_steps} optimizer steps over {event.train_rows} rows")
        elif isinstance(event, events.Validation):
            lines.append(f"{at} epoch {event.epoch:.0f}: validation loss {event.loss:.4f}")
        elif isinstance(event, events.Saved):
            lines.append(f"{at} adapter saved after step {event.step}")
        elif isinstance(event, events.Notice):
            lines.append(f"{at} {event.text}")
        elif isinstance(event, events.Ended):
            lines.append(f"{at} {event.state} after step {event.step}. {event.reason}")
    return f'<div class="wb-log">{escape(chr(10).join(reversed(lines)))}</div>'


def runs_html(space: Workspace) -> str:
    """All runs in a table, newest first."""
    views = space.runs.views()
    broken = "".join(note(text, "bad") for text in space.runs.broken())
    if not views:
        return broken
    head = "".join(f"<th>{h}</th>" for h in ("run", "state", "steps", "train loss", "validation loss", "rank", "rate", "base weights", "rows"))
    body = []
    for view in views[:30]:
        s = view.info.settings
        cells = [
            escape(view.info.name), chip(words.STATE_WORDS[view.state], STATE_KIND[view.state]),
            str(view.steps[-1].step if view.steps else 0), f"{view.steps[-1].loss:.3f}" if view.steps else "–",
            f"{view.validations[-1].loss:.3f}" if view.validations else "–", str(s.lora.rank), f"{s.training.learning_rate:g}",
            escape(s.quantization.mode), str(view.info.data_rows),
        ]
        body.append("<tr>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>")
    return broken + f'<table class="wb-runs"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def stop_run(space: Workspace) -> str:
    """Ask the run in hand to stop; raises `RunError` if none goes on."""
    ticket = space.engine.training()
    if ticket is None:
        raise RunError("No run is going on: there is nothing to stop.")
    space.engine.stop(ticket)
    return f"{ticket.label}: it will stop after the step in hand and keep the adapter so far."


def chosen_run(space: Workspace, wanted: str | None, known_live: str | None) -> tuple[str | None, str | None]:
    """(the run to show, the run that is live): a run that has just begun, here or in another browser, is shown."""
    names = space.runs.names()
    ticket = space.engine.training()
    live = getattr(ticket.job, "run", None) if ticket else None
    if live is not None and live != known_live:
        return live, live
    if wanted not in names:
        wanted = live or (names[0] if names else None)
    return wanted, live


def refresh(space: Workspace, wanted: str | None, seen: dict[str, Any]) -> list[Any]:
    """What the page shows now. `seen` remembers what it shows already, so that nothing is drawn twice.

    Returns values for: run list, progress, chart, facts, log, runs table, stop button, `seen`.
    """
    name, live = chosen_run(space, wanted, seen.get("live"))
    names = space.runs.names()
    chooser = gr.skip() if (name, names) == (wanted, seen.get("names")) else gr.Dropdown(choices=names, value=name)
    if name is None:
        return [chooser, empty(words.TRAIN_EMPTY), gr.skip(), "", "", "", gr.Button(interactive=False), {"names": names, "live": live}]
    try:
        view = space.runs.view(name)
    except WorkbenchError as exc:
        return [chooser, note(str(exc), "bad"), gr.skip(), "", "", runs_html(space), gr.Button(interactive=live is not None), {"names": names, "live": live}]
    key = (name, view.state, len(view.happened), tuple(names), live)
    now = {"names": names, "live": live, "key": key}
    stop = gr.Button(interactive=live is not None)
    progress = progress_html(space, view) if view.live or seen.get("key") != key else gr.skip()
    if seen.get("key") == key:
        return [chooser, progress, gr.skip(), gr.skip(), gr.skip(), gr.skip(), gr.skip(), now]
    total = view.started.total_steps if view.started else 1
    chart = loss_chart(view.steps, view.validations, total, name)
    return [chooser, progress, chart, facts_html(view), log_html(view), runs_html(space), stop, now]


def build(space: Workspace, timer: gr.Timer, opened: gr.Tab, current: gr.State) -> gr.Dropdown:
    """The tab's components and their wires; returns the list of runs."""
    seen = gr.State({})
    with gr.Row(equal_height=True):
        names = space.runs.names()
        runs = gr.Dropdown(choices=names, value=names[0] if names else None, label="Run", scale=2, min_width=160, elem_id="run-choice", allow_custom_value=True)
        with gr.Column(scale=8):
            progress = gr.HTML(empty(words.TRAIN_EMPTY), elem_id="progress")
        stop = gr.Button(words.TRAIN_STOP, variant="stop", size="sm", scale=2, min_width=150, interactive=False, elem_id="stop-training")
    message = gr.HTML(elem_id="train-message")
    with gr.Row():
        with gr.Column(scale=7):
            chart = gr.Plot(show_label=False, elem_id="loss-chart")
        with gr.Column(scale=3, min_width=300):
            now = gr.HTML(elem_id="run-facts")
            log = gr.HTML(elem_id="run-log")
    table = gr.HTML(elem_id="runs-table")
    outputs = [runs, progress, chart, now, log, table, stop, seen]
    quiet: dict[str, Any] = {"show_progress": "hidden"}

    def tick(tab: str, wanted: str | None, shown_now: dict[str, Any]) -> list[Any]:
        if tab != "train":
            return [gr.skip()] * (len(outputs) + 1)
        made = refresh(space, wanted, shown_now)
        over = shown_now.get("live") and not made[-1].get("live")
        return [*made, "" if over else gr.skip()]  # "it will stop" is no longer true once it has

    timer.tick(shown(tick), [current, runs, seen], [*outputs, message], trigger_mode="once", queue=False, **quiet)
    opened.select(shown(lambda w, s: refresh(space, w, s)), [runs, seen], outputs, queue=False, **quiet)
    runs.input(shown(lambda w, s: refresh(space, w, s)), [runs, seen], outputs, queue=False, **quiet)
    stop.click(shown(lambda: _say_stop(space)), None, message, queue=False, **quiet)
    return runs


def _say_stop(space: Workspace) -> str:
    try:
        return note(stop_run(space), "ok")
    except WorkbenchError as exc:
        return note(str(exc), "warn")
