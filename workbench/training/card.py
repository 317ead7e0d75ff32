"""The model card that stands beside an adapter (README.md, as the hub shows it)."""

from __future__ import annotations

import json
import re

from workbench.training.runs import RunView


def _yaml(text: str) -> str:
    """A plain word as it is, anything else quoted, so that a name can't write front matter of its own."""
    return text if re.fullmatch(r"[\w./\-]+", text) else json.dumps(text)


def model_card(view: RunView) -> str:
    """Markdown with the hub's front matter; says what was trained on what, and how it ended. No machine paths."""
    info, s = view.info, view.info.settings
    ended, started = view.ended, view.started
    q = s.quantization
    data_name = info.data_name.replace("|", " ")
    lines = [
        "---", "library_name: peft", f"base_model: {_yaml(info.model_name)}", "tags: [tool-calling, lora]", "---", "",
        f"# {info.name}", "",
        f"A LoRA adapter that teaches {info.model_name} when to call a tool, in the `{info.dialect}` form.", "",
        "| | |", "|---|---|",
        f"| rows | {info.data_rows} from {data_name}, SHA-256 `{info.data_sha256[:16]}…` |",
        f"| base weights | {q.mode}{f' {q.type_4bit}' if q.mode == '4-bit' else ''} |",
        f"| LoRA | rank {s.lora.rank}, alpha {s.lora.alpha}, dropout {s.lora.dropout:g}, {', '.join(s.lora.target_modules)} |",
        f"| training | {s.training.epochs} epochs, {s.training.rows_per_step} rows a step, rate {s.training.learning_rate:g} "
        f"({s.training.scheduler}, {s.training.warmup_steps} warm-up steps), clip {s.training.max_grad_norm:g}, seed {s.training.seed} |",
    ]
    if started:
        lines.append(f"| parameters | {started.trainable_parameters:,} trainable of {started.total_parameters:,} |")
    if view.steps:
        lines.append(f"| train loss | {view.steps[0].loss:.3f} → {view.steps[-1].loss:.3f} after {view.steps[-1].step} optimizer steps |")
    if (best := view.best_step) is not None and ended:
        same = "the same, kept again" if best == ended.step else f"the best by {s.training.keep_best}, after step {best}"
        lines.append(f"| adapters | here: the last, after step {ended.step}; best/: {same} |")
    if view.validations:
        lines.append(f"| validation loss | {view.validations[-1].loss:.3f} |")
    if ended:
        lines.append(f"| ended | {ended.state}{f': {ended.reason}' if ended.state != 'failed' and ended.reason else ''} |")
    lines.append(f"| versions | {', '.join(f'{k} {v}' for k, v in info.versions.items())} |")
    return "\n".join(lines) + "\n"
