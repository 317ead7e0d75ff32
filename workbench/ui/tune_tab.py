"""The Tune tab: the settings in three cards, the plan beside them, and the button that starts a run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import gradio as gr

from workbench.errors import DataError, RunError, WorkbenchError
from workbench.settings import RunSettings
from workbench.training.plan import Plan
from workbench.ui import words
from workbench.ui.errors import shown
from workbench.ui.forms import group_components, read_settings
from workbench.ui.highlight import bar, escape, facts, note
from workbench.workspace import Workspace


def suggest_name(space: Workspace) -> str:
    """A free run name with today's date, as in `run-1121-3`."""
    taken = set(space.runs.names())
    stem = time.strftime("run-%m%d")
    return next(name for name in (f"{stem}-{n}" for n in range(1, 10_000)) if name not in taken)


def plan_html(space: Workspace, settings: RunSettings) -> str:
    """The plan for the rows as they are now, or the sentence why there is none."""
    rows = space.rows.read().rows
    plan = space.plan(rows, settings)
    resolved = settings.quantization.resolved(space.has_gpu).mode
    head = facts([
        ("trainable parameters", f"{plan.trainable_parameters:,}"),
        ("all parameters, adapter included", f"{plan.total_parameters:,}"),
        ("share that is trained", f"{plan.trainable_share:.4%}"),
        ("rows to learn / held back", f"{plan.train_rows} / {plan.validation_rows}"),
        ("tokens an epoch (learned ones)", f"{plan.tokens_per_epoch:,} ({plan.labels_per_epoch:,})" if plan.tokens_per_epoch is not None else "not known yet"),
        ("optimizer steps", f"{plan.optimizer_steps}"),
        ("base weights", f"{resolved} (chosen by auto)" if settings.quantization.mode == "auto" else resolved),
    ])
    return head + _memory_html(space, plan) + "".join(note(w, "warn") for w in plan.warnings)


def _memory_html(space: Workspace, plan: Plan) -> str:
    from workbench.models.hardware import card, host_memory_gib

    found = card() if space.has_gpu else None
    total = found.total_gib if found else host_memory_gib()[0]
    m = plan.memory
    parts = f"weights {m.weights_gib:.1f} + adapter {m.adapter_gib:.1f} + activations {m.activations_gib:.1f} + head {m.head_gib:.1f} GiB"
    fits = "" if m.total_gib < 0.9 * total else note("This may not fit: choose 4-bit base weights, gradient checkpointing or a lower token budget.", "warn")
    where = found.name if found else "this machine's memory"
    head = f'<p style="margin:10px 0 2px">memory at the peak, estimated: <b>{m.total_gib:.1f} GiB</b> of {total:.0f} GiB ({escape(where)})</p>'
    return f'{head}{bar(m.total_gib / total)}<p class="wb-dim">{parts}</p>{fits}'


def show_plan(space: Workspace, values: Sequence[Any]) -> str:
    """The plan as HTML; what is wrong with a setting is said in its place."""
    try:
        return plan_html(space, read_settings(values))
    except WorkbenchError as exc:
        return note(str(exc), "bad")


def start_run(space: Workspace, name: str, values: Sequence[Any]) -> str:
    """Create the run and hand it to the engine; returns its name. Raises `WorkbenchError` with one sentence."""
    settings = read_settings(values)
    rows = space.rows.read()
    if rows.problems:
        raise DataError(f"{len(rows.problems)} line(s) of {space.rows.path.name} can't be used ({rows.problems[0]}): mend or delete them on the Data tab first.")
    busy = space.engine.training()
    if busy is not None:
        raise RunError(f"{busy.label} is still going on: stop it on the Train tab or wait for its end.")
    info = space.create_run(name, rows.rows, settings, data_name=space.rows.path.name)
    try:
        space.start_training(info.name)
    except WorkbenchError:
        space.runs.remove(info.name)  # nothing was begun: the name stays free
        raise
    return info.name


def build(space: Workspace, page: gr.Blocks, tabs: gr.Tabs, opened: gr.Tab, run_choice: gr.Dropdown, current: gr.State) -> None:
    """The tab's components and their wires. `run_choice` is the Train tab's list of runs."""
    fields: list[gr.components.Component] = []
    defaults = space.default_settings()
    with gr.Row():
        for group, scale, width in (("quantization", 4, 190), ("lora", 5, 210), ("training", 8, 380)):
            with gr.Column(scale=scale, min_width=width), gr.Group():
                gr.HTML(f'<div class="wb-cardhead">{words.GROUP_TITLES[group]}</div>')
                fields += group_components(group, defaults, columns=2 if group == "training" else 1)
        with gr.Column(scale=6, min_width=300):
            name = gr.Textbox(label=words.TUNE_NAME, info=words.TUNE_NAME_INFO, max_lines=1, elem_id="run-name")
            start = gr.Button(words.TUNE_START, variant="primary", size="lg", elem_id="start-training")
            message = gr.HTML(elem_id="tune-message")
            gr.Markdown(f"**{words.PLAN_TITLE}**")
            plan = gr.HTML(elem_id="plan")

    def start_clicked(run_name: str, *values: Any) -> list[Any]:
        try:
            started = start_run(space, run_name, values)
        except WorkbenchError as exc:
            return [note(str(exc), "bad"), *[gr.skip()] * 4]
        names = space.runs.names()
        return [note(f"The run {started} was started.", "ok"), gr.Tabs(selected="train"), gr.Dropdown(choices=names, value=started), suggest_name(space), "train"]

    # Quick verbs answer the click itself, without the detour over the queue.
    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False}
    gr.on([f.change for f in fields], shown(lambda *v: show_plan(space, v)), fields, plan, trigger_mode="always_last", **quiet)  # type: ignore[attr-defined]
    opened.select(shown(lambda *v: show_plan(space, v)), fields, plan, **quiet)
    page.load(shown(lambda *v: [show_plan(space, v), suggest_name(space)]), fields, [plan, name], **quiet)
    start.click(shown(start_clicked), [name, *fields], [message, tabs, run_choice, name, current], **quiet)
