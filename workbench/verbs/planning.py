"""The verbs that look before a run: what it would be, and which presets there are."""

from __future__ import annotations

import argparse
import sys

from workbench.dataset.formats import load_rows
from workbench.presets import differences
from workbench.training.calibration import TimeEstimate
from workbench.training.plan import Plan
from workbench.training.schedule import fires
from workbench.verbs.data import Result
from workbench.workspace import Workspace


def plan(space: Workspace, options: argparse.Namespace) -> Result:
    settings = space.settings_from(options.preset, options.set)
    loaded = load_rows(options.data or space.data_dir / "examples.json")
    made = space.plan(loaded.rows, settings, options.model, loaded.lines)
    result = made.as_json()
    if options.preset:
        started = space.presets.find(options.preset)
        changed = len(differences(settings, started.settings(space.default_settings())))
        result |= {"preset": started.title, "preset_changed": changed}
        print(f"{'preset':15} {started.title}{f', {changed} changed' if changed else ''}")
    result["warnings"] += [f"This line can't be used: {p}." for p in loaded.problems]
    for name, text in lines(made):
        print(f"{name:15} {text}")
    for warning in result["warnings"]:
        print(f"warning: {warning}")
    return result


def presets(space: Workspace, options: argparse.Namespace) -> Result:
    found, problems = space.presets.read()
    defaults = space.default_settings()
    rows = []
    for preset in found:
        chosen = differences(preset.settings(defaults), defaults)
        print(f"{preset.key:24} {preset.title}{' (your own)' if preset.own else ''}")
        print(f"{'':24} {preset.note}" if preset.note else "", end="\n" if preset.note else "")
        print(f"{'':24} {'; '.join(f'{d.path}={d.yours}' for d in chosen) or 'the defaults'}")
        rows.append({"name": preset.key, "title": preset.title, "note": preset.note, "own": preset.own, "sets": {d.path: d.yours for d in chosen}})
    for problem in problems:
        print(problem, file=sys.stderr)
    return {"presets": rows, "problems": problems}


def lines(made: Plan) -> list[tuple[str, str]]:
    """The plan as (name, text) lines."""
    forwards = "unknown"
    if made.packing:
        each = f"{made.packing.fewest}" if made.packing.fewest == made.packing.most else f"{made.packing.fewest} to {made.packing.most}"
        forwards = f"{each} a step, of {made.packing.largest_tokens:,} tokens at most"
    parts = ", ".join(f"{name} {gib:.2f}" for name, gib in made.memory.parts().items())
    found = [
        ("parameters", f"{made.trainable_parameters:,} trainable of {made.total_parameters:,} ({made.trainable_share:.4%})"),
        ("rows", f"{made.train_rows} to learn, {made.validation_rows} held back"),
        ("tokens", f"{made.tokens_per_epoch if made.tokens_per_epoch is not None else 'unknown'} an epoch"),
        ("optimizer steps", f"{made.optimizer_steps}"), ("warm-up", f"{made.warmup_share:.0%} of the steps"),
        ("forwards", forwards),
        ("validation", fires(made.schedule.validation)), ("answers", fires(made.schedule.answers)), ("checkpoints", made.saving),
        ("memory", f"about {made.expected_gib:.1f} GiB at the peak ({parts})"),
    ]
    if made.correction:
        found.append(("", f"corrected by {made.correction.ratio:.2f}, as measured in {', '.join(made.correction.runs)}"))
    if made.room:
        found.append(("verdict", f"{made.verdict}: {made.room.free_gib:.1f} GiB of {made.room.where} are free"))
    found += [("do this" if i == 0 else "", text) for i, text in enumerate(made.way_down)]
    return [*found, ("time", time_text(made.time))]


def time_text(estimate: TimeEstimate | None) -> str:
    if estimate is None:
        return "not known yet: this machine has no finished run of this kind"
    low, high = estimate.low_seconds, estimate.high_seconds
    span = f"about {clock(high)}" if high < 1.2 * low else f"{clock(low)} to {clock(high)}"
    return f"{span}, by {', '.join(estimate.runs)}: {estimate.sure}"


def clock(seconds: float) -> str:
    """As in `40 s`, `2:10 min` or `1:02 h`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}:{whole % 60:02d} min" if whole < 3600 else f"{whole // 3600}:{whole % 3600 // 60:02d} h"
