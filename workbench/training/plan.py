"""What a run will be, before it is started: parameters, tokens, steps, what fires when, memory, time, warnings. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from workbench.dataset.checks import is_call
from workbench.dataset.split import split_examples
from workbench.models.estimate import Memory, estimate_memory
from workbench.models.modules import ModuleKind, missing_modules, module_names, module_tree
from workbench.models.room import Room
from workbench.models.shapes import Shapes, lora_parameters, parameter_count
from workbench.schema import Example
from workbench.settings import RunSettings, Training
from workbench.training import calibration
from workbench.training.calibration import Correction, Kind, TimeEstimate, memory_correction
from workbench.training.encode import Encoded
from workbench.training.run_view import RunView
from workbench.training.schedule import Packing, Schedule, fires, make_packing, make_schedule, saves_seldom, step_count
from workbench.training.smaller import next_smaller

__all__ = ["Plan", "Verdict", "make_plan", "step_count"]

Verdict = Literal["fits", "tight", "won't fit", "unknown"]
COMFORT = 0.85  # share of the free memory up to which a plan fits with the estimate's own error in hand
SELDOM = "when a tenth of the time allows it, and at the end"  # an adapter so large is not saved after every epoch
ROW_TOKENS = 600 / 16  # a row's tokens where no tokenizer tells: the mean of the sample set


@dataclass(frozen=True)
class Plan:
    """Tokens, labels and packing are None where the model's tokenizer is not on this machine; room and time where nobody knows them."""

    trainable_parameters: int
    total_parameters: int
    rows: int
    train_rows: int
    validation_rows: int
    tokens_per_epoch: int | None
    labels_per_epoch: int | None
    optimizer_steps: int
    warmup_share: float
    """Share of the steps in which the rate still climbs."""
    schedule: Schedule
    packing: Packing | None
    memory: Memory
    """By part, as estimated from the shapes; `expected_gib` is the total as corrected by measured runs."""
    correction: Correction | None
    room: Room | None
    way_down: tuple[str, ...]
    """What to change so that it fits, sentence by sentence; empty where it fits, or where nothing is left to change."""
    smaller: RunSettings | None
    """The settings with all of that changed."""
    smaller_fits: bool
    time: TimeEstimate | None
    warnings: tuple[str, ...]
    saves_seldom: bool = False
    """Whether a save is too heavy for every epoch."""

    @property
    def trainable_share(self) -> float:
        return self.trainable_parameters / self.total_parameters

    @property
    def expected_gib(self) -> float:
        return self.memory.total_gib * (self.correction.ratio if self.correction else 1.0)

    @property
    def verdict(self) -> Verdict:
        return verdict_of(self.expected_gib, self.room)

    @property
    def saving(self) -> str:
        """When the run saves, in words."""
        return SELDOM if self.saves_seldom else fires(self.schedule.checkpoints)

    def estimated_gib(self) -> dict[str, float]:
        """The memory as a run keeps it: by part, and under "total" what is expected."""
        return {name: round(gib, 4) for name, gib in self.memory.parts().items()} | {"total": round(self.expected_gib, 4)}

    def as_json(self) -> dict[str, Any]:
        return {
            "trainable_parameters": self.trainable_parameters, "total_parameters": self.total_parameters,
            "trainable_share": round(self.trainable_share, 6),
            "rows": self.rows, "train_rows": self.train_rows, "validation_rows": self.validation_rows,
            "tokens_per_epoch": self.tokens_per_epoch, "labels_per_epoch": self.labels_per_epoch,
            "optimizer_steps": self.optimizer_steps, "warmup_share": round(self.warmup_share, 4),
            "forwards_per_step": [self.packing.fewest, self.packing.most] if self.packing else None,
            "largest_forward_tokens": self.packing.largest_tokens if self.packing else None,
            "fires": {"validation": fires(self.schedule.validation), "answers": fires(self.schedule.answers), "checkpoints": self.saving},
            "memory_gib": round(self.expected_gib, 2), "memory": {k: round(v, 3) for k, v in asdict(self.memory).items()},
            "memory_corrected_by": round(self.correction.ratio, 3) if self.correction else None,
            "memory_corrected_from": list(self.correction.runs) if self.correction else [],
            "free_gib": round(self.room.free_gib, 2) if self.room else None, "verdict": self.verdict, "do_this": list(self.way_down),
            "time": calibration.as_json(self.time), "warnings": list(self.warnings),
        }


def verdict_of(gib: float, room: Room | None) -> Verdict:
    """How `gib` sits in the room that is free."""
    if room is None:
        return "unknown"
    return "fits" if gib <= COMFORT * room.free_gib else "tight" if gib <= room.free_gib else "won't fit"


def make_plan(
    shapes: Shapes, settings: RunSettings, *, rows: Sequence[Example], encoded: Sequence[Encoded] | None, has_gpu: bool, notes: Sequence[str] = (),
    model_name: str = "", room: Room | None = None, earlier: Sequence[RunView] = (),
) -> Plan:
    """The plan for the rows that can be learned. `settings.quantization.mode` may be auto.

    `total_parameters` counts the adapter in, as peft's own report does. `earlier` are this machine's runs, newest first.
    """
    training = settings.training
    learned, held_back = split_examples(rows, training.validation_share, training.seed)
    sizes = [len(encoded[i].ids) for i in learned] if encoded else None
    labels = [encoded[i].label_count for i in learned] if encoded else None
    tree, kinds = module_tree(shapes), [is_call(row) for row in rows]
    trainable, steps = lora_parameters(shapes, settings.lora), step_count(len(learned), training)
    schedule = make_schedule(len(learned), len(held_back), training)
    device = room.where if room and has_gpu else "CPU"

    def expects(other: RunSettings) -> tuple[Memory, Correction | None, Packing]:
        packed = _packing(sizes, labels, len(learned), other.training)
        memory = estimate_memory(shapes, other, tokens=packed.largest_tokens, labels=packed.largest_labels, has_gpu=has_gpu)
        return memory, memory_correction(earlier, Kind.of(model_name, other, device)), packed

    memory, correction, packing = expects(settings)
    way_down, smaller, fits = _way_down(settings, has_gpu, room, expects)
    time = calibration.time_estimate(
        earlier, Kind.of(model_name, settings, device), steps=steps, tokens=sum(sizes) * training.epochs if sizes else None,
        steps_an_epoch=steps // training.epochs,
    )  # fmt: skip
    return Plan(
        trainable, parameter_count(shapes) + trainable, len(rows), len(learned), len(held_back),
        sum(sizes) if sizes is not None else None, sum(labels) if labels is not None else None, steps,
        min(1.0, training.warmup_steps / steps) if steps else 0.0, schedule, packing if sizes else None,
        memory, correction, room, way_down, smaller, fits, time,
        (*notes, *warnings_for(settings, kinds, learned, held_back, steps, trainable, tree)), saves_seldom(trainable, training.save_every),
    )  # fmt: skip


def _packing(sizes: Sequence[int] | None, labels: Sequence[int] | None, rows: int, training: Training) -> Packing:
    if sizes and labels:
        return make_packing(sizes, labels, training)
    tokens = min(training.tokens_per_forward, round(ROW_TOKENS * min(training.rows_per_step, rows)))
    return Packing(1, 1, tokens, tokens // 2, round(ROW_TOKENS))


def _way_down(
    settings: RunSettings, has_gpu: bool, room: Room | None, expects: Callable[[RunSettings], tuple[Memory, Correction | None, Packing]]
) -> tuple[tuple[str, ...], RunSettings | None, bool]:
    """(what to change, the settings then, whether they fit) for a plan that does not fit with ease; nothing for one that does."""

    def judged(other: RunSettings) -> tuple[Verdict, Packing]:
        memory, correction, packing = expects(other)
        return verdict_of(memory.total_gib * (correction.ratio if correction else 1.0), room), packing

    here, changes = settings, list[tuple[frozenset[str], str]]()
    while True:
        verdict, packing = judged(here)
        # A tight plan may still run: it is offered the next step down alone.
        if verdict in ("fits", "unknown") or (verdict == "tight" and changes):
            break
        made = next_smaller(here, has_gpu, largest_forward=packing.largest_tokens, longest_row=packing.longest_row)
        if made is None:
            break
        changes.append((_changed_fields(here, made[0]), made[1]))
        here = made[0]
    if verdict != "won't fit":
        # Steps that the later ones made needless are taken back, first those that cost the answers most.
        for fields in dict.fromkeys(sorted((f for f, _ in changes), key=_cost, reverse=True)):
            back = _with_fields(here, settings, fields)
            if len({f for f, _ in changes}) > 1 and judged(back)[0] == "fits":
                here, changes = back, [c for c in changes if c[0] != fields]
    return tuple(sentence for _, sentence in changes), here if changes else None, verdict != "won't fit"


def _changed_fields(before: RunSettings, after: RunSettings) -> frozenset[str]:
    old, new = before.model_dump(), after.model_dump()
    return frozenset(f"{group}.{name}" for group in old for name in old[group] if old[group][name] != new[group][name])


def _with_fields(here: RunSettings, source: RunSettings, fields: frozenset[str]) -> RunSettings:
    for path in fields:
        group, _, name = path.partition(".")
        here = here.model_copy(update={group: getattr(here, group).model_copy(update={name: getattr(getattr(source, group), name)})})
    return here


def _cost(fields: frozenset[str]) -> int:
    """What a change costs the answers: the adapter most, then the weights; forwards and checkpointing cost time alone."""
    groups = {path.partition(".")[0] for path in fields}
    return 2 if "lora" in groups else 1 if "quantization" in groups else 0


def warnings_for(
    settings: RunSettings, kinds: Sequence[bool], learned: Sequence[int], held_back: Sequence[int], steps: int, trainable: int, tree: Sequence[ModuleKind]
) -> list[str]:
    """What will surprise a person, in plain sentences."""
    training = settings.training
    found = [*_module_warnings(settings, trainable, tree)]
    if len(learned) < 2:
        found.append("There are too few rows to train on: add rows first.")
    found += _firing_warnings(training, steps)
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


def _module_warnings(settings: RunSettings, trainable: int, tree: Sequence[ModuleKind]) -> list[str]:
    lora, found = settings.lora, []
    have = f"It has {', '.join(names)}." if (names := module_names(tree, text_only=lora.text_only)) else "It has no linear layer at all."
    if not trainable:
        found.append(f"No layer of this model is named {', '.join(lora.target_modules)}: there is nothing to train. Choose other target modules. {have}")
    elif missing := missing_modules(tree, lora):
        found.append(f"No layer of this model is named {', '.join(missing)}: the other target modules are trained without it. {have}")
    if lora.dora and lora.dropout and not settings.training.checkpointing:  # with it, only one layer's at a time
        found.append(
            "DoRA with dropout keeps a 32-bit copy of every adapted matrix of quantized or 16-bit weights: "
            "turn gradient checkpointing on or set the dropout to 0 to save that memory."
        )
    return found


def _firing_warnings(training: Training, steps: int) -> list[str]:
    found = []
    if training.evaluate_every > steps:
        found.append(f"Validation would never run: it is set to every {training.evaluate_every} optimizer steps, and the run has {steps}. Set 0 for once an epoch.")
    if training.save_every > steps:
        found.append(
            f"Saving in between would never happen: it is set to every {training.save_every} optimizer steps, and the run has {steps}. "
            "The adapter is saved at the end only; set 0 for once an epoch."
        )
    if training.keep_best == "call accuracy" and not training.sample_every:
        found.append("The best adapter can't be told by its calls, since the run never answers its validation rows; the loss decides. Set “Answer validation rows every” to 1.")
    return found
