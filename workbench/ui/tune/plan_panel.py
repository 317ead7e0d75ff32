"""The plan beside the cards: figures, what fires when, memory by part against what is free, time, and warnings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbench.errors import InputError, WorkbenchError
from workbench.settings import RunSettings
from workbench.training.calibration import TimeEstimate
from workbench.training.plan import Plan
from workbench.training.schedule import fires
from workbench.ui import words as common
from workbench.ui.forms import read_settings
from workbench.ui.highlight import chip, escape, facts, note
from workbench.ui.words import tune as words
from workbench.workspace import Workspace


def plan_of(space: Workspace, settings: RunSettings) -> Plan:
    """The plan for the rows as they are now; raises `WorkbenchError` where there is none."""
    return space.plan(space.rows.read().rows, settings)


def plan_html(settings: RunSettings, plan: Plan, has_gpu: bool) -> str:
    """The plan as HTML: memory and its verdict first, then the figures, then what will surprise."""
    mode = settings.quantization.resolved(has_gpu).mode
    tokens = f"{plan.tokens_per_epoch:,} ({plan.labels_per_epoch:,})" if plan.tokens_per_epoch is not None else words.NOT_KNOWN
    answers = fires(plan.schedule.answers)
    figures = facts([
        ("time", time_text(plan.time) or words.NOT_KNOWN),
        ("optimizer steps", words.STEPS.format(steps=plan.optimizer_steps, share=plan.warmup_share)),
        ("forwards", _forwards(plan)),
        ("validation", fires(plan.schedule.validation)),
        ("answers", words.ANSWERS_TOO.format(steps=answers) if plan.schedule.answers else answers),
        ("checkpoints", plan.saving),
        ("rows learned / held back", f"{plan.train_rows} / {plan.validation_rows}"),
        ("tokens an epoch (learned)", tokens),
        ("trainable parameters", f"{plan.trainable_parameters:,}"),
        ("all parameters with it", f"{plan.total_parameters:,}"),
        ("share that is trained", f"{plan.trainable_share:.4%}"),
        ("base weights", words.CHOSEN_BY_AUTO.format(mode=mode) if settings.quantization.mode == "auto" else mode),
    ])
    return memory_html(plan) + "".join(note(w, "warn") for w in plan.warnings) + figures + f'<p class="wb-dim wb-source">{escape(time_source(plan.time))}</p>'


def _forwards(plan: Plan) -> str:
    packing = plan.packing
    if packing is None:
        return words.NOT_KNOWN
    each = f"{packing.fewest}" if packing.fewest == packing.most else f"{packing.fewest} to {packing.most}"
    return words.FORWARDS.format(each=each, tokens=packing.largest_tokens)


def time_text(estimate: TimeEstimate | None) -> str:
    """The time by earlier runs; empty where there is none to tell by."""
    if estimate is None:
        return ""
    low, high = common.duration(estimate.low_seconds), common.duration(estimate.high_seconds)
    return f"about {high}" if estimate.high_seconds < 1.2 * estimate.low_seconds else f"{low} to {high}"


def time_source(estimate: TimeEstimate | None) -> str:
    """From which runs the time is, and how sure; or why it can't be known yet."""
    if estimate is None:
        return words.TIME_UNKNOWN
    return words.TIME_FROM.format(runs=", ".join(estimate.runs[:3]), sure=estimate.sure)


def memory_html(plan: Plan) -> str:
    """Verdict, a bar of the parts against what is free, the parts in figures, and what to do where it does not fit."""
    room, parts = plan.room, plan.memory.parts()
    head = chip(words.PLAN_FITS[plan.verdict], words.PLAN_KIND[plan.verdict])
    if room is not None:
        said = words.MEMORY_OF.format(expected=plan.expected_gib, free=room.free_gib, where=room.where, total=room.total_gib)
        head += f" {escape(said)}"
    ratio = plan.correction.ratio if plan.correction else 1.0
    scale = max(plan.expected_gib, room.free_gib if room else 0.0, 1e-9)
    pieces = "".join(f'<i class="{name}" style="width:{100 * ratio * gib / scale:.1f}%"></i>' for name, gib in parts.items())
    if room is not None and plan.expected_gib > room.free_gib:
        ends = escape(words.FREE_ENDS.format(free=room.free_gib))
        pieces += f'<b title="{ends}" style="left:{100 * room.free_gib / scale:.1f}%"></b>'
    label = ", ".join(f"{name} {gib:.1f} GiB" for name, gib in parts.items())
    legend = " ".join(f'<span><i class="{name}"></i>{escape(name)} {gib:.2f}</span>' for name, gib in parts.items())
    source = (
        words.CORRECTED.format(ratio=ratio, runs=", ".join(plan.correction.runs[:3]), raw=plan.memory.total_gib) if plan.correction else words.UNCORRECTED
    )
    return (
        f'<div class="wb-memory"><div>{words.MEMORY}: {head}</div><div class="wb-parts" role="img" aria-label="{escape(label)}">{pieces}</div>'
        f'<div class="wb-legend">{legend} GiB</div><div class="wb-dim">{escape(source)}</div>{_advice(plan)}</div>'
    )


def _advice(plan: Plan) -> str:
    if plan.verdict not in ("tight", "won't fit"):
        return ""
    tight = plan.verdict == "tight"
    steps = "".join(f"<li>{escape(text)}</li>" for text in plan.way_down)
    title = words.DO_THIS_TIGHT if tight else words.DO_THIS if plan.smaller_fits else words.NOT_ENOUGH
    listed = f"<b>{escape(title)}</b><ol>{steps}</ol>" if steps else ""
    last = "" if plan.smaller_fits else f"<p>{escape(words.NOTHING_HELPS)}</p>"
    return f'<div class="wb-note {"warn" if tight else "bad"} wb-advice">{listed}{last}</div>' if listed or last else ""


def show_plan(space: Workspace, values: Sequence[Any]) -> tuple[str, str]:
    """(the plan as HTML, the words of the button that makes it fit; empty for no button). What is wrong is said in its place."""
    try:
        settings = read_settings(values)
        plan = plan_of(space, settings)
    except WorkbenchError as exc:
        return note(str(exc), "bad"), ""
    offered = plan.smaller is not None and plan.smaller_fits
    return plan_html(settings, plan, space.has_gpu), (words.MAKE_ROOM if plan.verdict == "tight" else words.MAKE_FIT) if offered else ""


def fitting_settings(space: Workspace, values: Sequence[Any]) -> RunSettings:
    """The form's settings, changed so that they fit; raises `InputError` where that is not needed or not possible."""
    plan = plan_of(space, read_settings(values))
    if plan.smaller is None or not plan.smaller_fits:
        raise InputError(words.NO_ROOM_NEEDED if plan.verdict in ("fits", "unknown") else words.NOTHING_HELPS)
    return plan.smaller
