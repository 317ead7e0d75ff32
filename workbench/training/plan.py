"""What a run will be, before it is started: parameters, tokens, optimizer steps, memory, warnings. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from workbench.dataset.checks import is_call
from workbench.dataset.split import split_examples
from workbench.models.estimate import Memory, estimate_memory
from workbench.models.shapes import Shapes, lora_parameters, parameter_count
from workbench.schema import Example
from workbench.settings import RunSettings, Training
from workbench.training.encode import Encoded


def step_count(rows: int, training: Training) -> int:
    """Optimizer steps of a run: every epoch's rows in groups of `rows_per_step`, a smaller last group included."""
    return training.epochs * -(-rows // training.rows_per_step)


@dataclass(frozen=True)
class Plan:
    """Tokens and labels are None where the model's tokenizer is not on this machine."""

    trainable_parameters: int
    total_parameters: int
    rows: int
    train_rows: int
    validation_rows: int
    tokens_per_epoch: int | None
    labels_per_epoch: int | None
    optimizer_steps: int
    memory: Memory
    warnings: tuple[str, ...]

    @property
    def trainable_share(self) -> float:
        return self.trainable_parameters / self.total_parameters

    def as_json(self) -> dict[str, Any]:
        values = asdict(self)
        values["memory_gib"] = round(self.memory.total_gib, 2)
        values["memory"] = {k: round(v, 3) for k, v in asdict(self.memory).items()}
        values["trainable_share"] = round(self.trainable_share, 6)
        return values | {"warnings": list(self.warnings)}


def make_plan(
    shapes: Shapes, settings: RunSettings, *, rows: Sequence[Example], encoded: Sequence[Encoded] | None, has_gpu: bool, notes: Sequence[str] = ()
) -> Plan:
    """The plan for the rows that can be learned. `settings.quantization.mode` may be auto.

    `total_parameters` counts the adapter in, as peft's own report does.
    """
    training = settings.training
    learned, held_back = split_examples(rows, training.validation_share, training.seed)
    kinds = [is_call(row) for row in rows]
    trainable = lora_parameters(shapes, settings.lora)
    tokens = sum(len(encoded[i].ids) for i in learned) if encoded else None
    labels = sum(encoded[i].label_count for i in learned) if encoded else None
    steps = step_count(len(learned), training)
    longest = max((len(e.ids) for e in encoded), default=0) if encoded else 0
    per_step = min(training.tokens_per_forward, round((tokens or 600 * len(learned) / 16) / max(1, len(learned)) * min(training.rows_per_step, max(1, len(learned)))))
    share = (labels / tokens) if tokens and labels else 0.5
    memory = estimate_memory(shapes, settings, tokens=max(per_step, longest), labels=round(max(per_step, longest) * share), has_gpu=has_gpu)
    return Plan(
        trainable, parameter_count(shapes) + trainable, len(rows), len(learned), len(held_back), tokens, labels, steps, memory,
        (*notes, *warnings_for(settings, kinds, learned, held_back, steps, trainable)),
    )


def warnings_for(
    settings: RunSettings, kinds: Sequence[bool], learned: Sequence[int], held_back: Sequence[int], steps: int, trainable: int
) -> list[str]:
    """What will surprise a person, in plain sentences."""
    training, found = settings.training, []
    if not trainable:
        found.append(f"No layer of this model is named {', '.join(settings.lora.target_modules)}: there is nothing to train. Choose other target modules.")
    if len(learned) < 2:
        found.append("There are too few rows to train on: add rows first.")
    if training.evaluate_every > steps:
        found.append(f"Validation would never run: it is set to every {training.evaluate_every} optimizer steps, and the run has {steps}. Set 0 for once an epoch.")
    if training.save_every > steps:
        found.append(
            f"Saving in between would never happen: it is set to every {training.save_every} optimizer steps, and the run has {steps}. "
            "The adapter is saved at the end only; set 0 for once an epoch."
        )
    wanted = min(round(training.validation_share * len(kinds)), len(kinds) - 1)
    if not held_back and wanted <= 0:
        found.append("No row is held back, so there will be no validation loss: raise the validation share.")
    elif len(held_back) < wanted:
        found.append(
            f"{len(held_back)} of {wanted} row(s) could be held back: the others are near-duplicates or pinned, and stay together. "
            "Add rows that are worded differently, or take pins off."
        )
    if steps and training.warmup_steps >= steps:
        found.append(f"The warm-up ({training.warmup_steps} steps) is as long as the run ({steps} steps): the full learning rate is never reached.")
    calls = sum(kinds)
    if kinds and not 0.3 <= calls / len(kinds) <= 0.7:
        kind, other = ("calls", "text answers") if calls > len(kinds) / 2 else ("text answers", "calls")
        found.append(f"{calls} of {len(kinds)} rows are calls: expect the model to favour {kind}. Add {other}.")
    return found
