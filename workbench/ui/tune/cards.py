"""The three cards of settings: the fields that matter first, the others folded away, and under each what is wrong with it."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from pydantic import ValidationError

from workbench.errors import ModelError
from workbench.models.modules import TEXT, TOWER_REASON, ModuleKind, group_names, module_names, module_tree, whole_groups
from workbench.models.shapes import Shapes, adapted_groups, parameter_count
from workbench.settings import ALL_PROJECTIONS, DORA_NEEDS, GROUPS, Lora, RunSettings
from workbench.ui import words as common
from workbench.ui.errors import shown
from workbench.ui.forms import FIELDS, field_component, problem_html, shown_value, wrong_html
from workbench.ui.highlight import escape
from workbench.ui.quiet import QUIET
from workbench.ui.words import tune as words
from workbench.workspace import Workspace

FIRST: dict[str, tuple[str, ...]] = {
    "quantization": ("mode",),
    "lora": ("rank", "alpha", "dropout", "text_only", "target_modules"),
    "training": (
        "epochs", "rows_per_step", "learning_rate", "warmup_steps", "validation_share", "evaluate_every", "tokens_per_forward", "checkpointing",
    ),
}  # fmt: skip
WHOLE_ROW = ("mode", "target_modules", "unreviewed")
PICKED = ("target_modules", "text_only", "rank", "attention_rank", "mlp_rank", "dora")  # what decides how much is trained

# %s: the names of each group, for text modules only (true) or for the towers too (false).
GROUPS_FOLLOW_JS = """(chosen, only) => {
  const groups = (%s)[only], have = new Set(chosen || []);
  return [Object.keys(groups).filter((group) => groups[group].every((name) => have.has(name)))];
}"""
GROUPS_TURN_JS = """(wanted, chosen, only) => {
  const groups = (%s)[only], want = new Set(wanted || []), names = new Set(chosen || []);
  for (const group of Object.keys(groups)) {
    const whole = groups[group].every((name) => names.has(name));
    if (whole && !want.has(group)) groups[group].forEach((name) => names.delete(name));
    if (!whole && want.has(group)) groups[group].forEach((name) => names.add(name));
  }
  return [[...names]];
}"""


@dataclass(frozen=True)
class Form:
    """The fields in the order of `FIELDS`, the line under each that says what is wrong, the boxes that tick a group, and the tree of layers."""

    fields: list[gr.components.Component]
    wrong: list[gr.HTML]
    groups: gr.CheckboxGroup
    tree: gr.HTML

    def field(self, group: str, name: str) -> gr.components.Component:
        return self.fields[FIELDS.index((group, name))]


def model_shapes(space: Workspace) -> Shapes:
    """The weights' shapes of the workbench's model; empty where it is not here and not a known one."""
    try:
        return space.shapes(space.model)
    except ModelError:
        return {}


def model_tree(space: Workspace) -> tuple[ModuleKind, ...]:
    """The linear layers of the workbench's model; empty where it is not here and not a known one."""
    return module_tree(model_shapes(space))


def module_choices(tree: Sequence[ModuleKind], text_only: bool, chosen: Sequence[str]) -> list[tuple[str, str]]:
    """(label, name) of every name to choose from, with how many layers it stands for; chosen names that the model lacks last."""
    counted = {
        name: sum(k.count for k in tree if k.name == name and (not text_only or k.tower == TEXT)) for name in module_names(tree, text_only=text_only)
    }
    found = [(f"{name} · {count}", name) for name, count in counted.items()]
    return found + [(f"{name} · {words.NOT_IN_MODEL}" if tree else name, name) for name in chosen if name not in counted]


def group_choices(tree: Sequence[ModuleKind], text_only: bool) -> list[tuple[str, str]]:
    """(label, group) of the boxes that tick a whole group."""
    kinds = [k for k in tree if not text_only or k.tower == TEXT]
    return [(words.WHOLE_GROUP.format(group=g, count=sum(k.count for k in kinds if k.group == g)), g) for g in group_names(tree, text_only=text_only)]


def tree_html(shapes: Shapes, lora: Lora | None, chosen: Sequence[str], text_only: bool) -> str:
    """What is ticked, by group: how many of its layers get an adapter and what that trains; then the towers, and why they are left out.

    `lora` is None while a rank is wrong: then layers are counted and parameters are not.
    """
    tree = module_tree(shapes)
    if not tree:
        return f'<p class="wb-dim">{escape(words.TREE_UNKNOWN)}</p>'
    trained = adapted_groups(shapes, lora) if lora and chosen else {}
    lines, taken, all_layers = [], 0, 0
    for group in group_names(tree, text_only=text_only):
        kinds = [k for k in tree if k.group == group and (not text_only or k.tower == TEXT)]
        picked, layers = sum(k.count for k in kinds if k.name in chosen), sum(k.count for k in kinds)
        taken, all_layers = taken + picked, all_layers + layers
        lines.append(f"<b>{escape(group)}</b> {escape(_trained(picked, layers, trained.get(group, (0, 0))[1] if lora else None))}")
    parameters = sum(p for _, p in trained.values())
    total = _trained(taken, all_layers, parameters if lora else None)
    share = words.TREE_SHARE.format(share=parameters / (parameter_count(shapes) + parameters)) if lora else ""
    lines.append(f'<b>{escape(words.TREE_ALL)}</b> <span class="wb-treesum">{escape(total + share)}</span>')
    said = words.TREE_LEFT if text_only else words.TREE_TAKEN
    for tower in dict.fromkeys(k.tower for k in tree if k.tower != TEXT):
        count = sum(k.count for k in tree if k.tower == tower)
        lines.append(escape(said.format(tower=tower, count=count, reason=TOWER_REASON)))
    return f'<div class="wb-tree wb-dim">{"<br>".join(lines)}</div>'


def _trained(picked: int, layers: int, parameters: int | None) -> str:
    told = words.TREE_LAYERS.format(picked=picked, layers=layers)
    return told if parameters is None else told + words.TREE_PARAMETERS.format(parameters=parameters)


def picked(space: Workspace, values: Sequence[Any]) -> str:
    """The tree as HTML for the values of `PICKED`, as they stand in the form."""
    given = dict(zip(PICKED, values, strict=True))
    chosen, text_only = list(given["target_modules"] or []), bool(given["text_only"])
    try:
        lora: Lora | None = Lora.model_validate(given | {"target_modules": chosen or [ALL_PROJECTIONS[0]]})
    except ValidationError:
        lora = None
    return tree_html(model_shapes(space), lora, chosen, text_only)


def field_message(group: str, name: str, value: Any) -> Any:
    """The line under a field: what is wrong with its value, or nothing."""
    return _line(problem_html(GROUPS[group], name, value))


def pair_messages(mode: Any, dora: Any) -> list[Any]:
    """The lines under the base weights and under DoRA: each one's own mistake, and under DoRA what the two can't be together."""
    together = wrong_html(DORA_NEEDS) if dora and mode == "8-bit" else ""
    return [field_message("quantization", "mode", mode), _line(problem_html(GROUPS["lora"], "dora", dora) or together)]


def _line(said: str) -> Any:
    return gr.HTML(said, visible=bool(said))


def build(space: Workspace, defaults: RunSettings) -> Form:
    """The three cards: Quantization over LoRA, Training beside them."""
    tree = model_tree(space)
    made: dict[tuple[str, str], tuple[gr.components.Component, gr.HTML]] = {}
    extra: list[Any] = []

    def cell(group: str, name: str) -> None:
        value = getattr(getattr(defaults, group), name)
        names = module_choices(tree, defaults.lora.text_only, value) if name == "target_modules" else ()
        with gr.Column(min_width=100, elem_classes="wb-field"):
            field = field_component(GROUPS[group], name, group, value, names)
            wrong = gr.HTML(visible=False, elem_classes="wb-tight", elem_id=f"wrong-{group}-{name.replace('_', '-')}")
            if name == "target_modules":
                only, whole = defaults.lora.text_only, whole_groups(tree, value, text_only=defaults.lora.text_only)
                boxes = group_choices(tree, only)
                extra.append(gr.CheckboxGroup(boxes, value=list(whole), visible=bool(boxes), label=words.BY_GROUP, min_width=100, elem_id="module-groups"))
                html = picked(space, [shown_value(getattr(defaults.lora, n)) for n in PICKED])
                extra.append(gr.HTML(html, elem_id="module-tree", elem_classes="wb-tight"))
            made[group, name] = (field, wrong)

    def cells(group: str, names: Sequence[str]) -> None:
        waiting = list(names)
        while waiting:
            count = 1 if waiting[0] in WHOLE_ROW or len(waiting) == 1 or waiting[1] in WHOLE_ROW else 2
            with gr.Row(elem_classes="wb-fieldrow"):
                for name in waiting[:count]:
                    cell(group, name)
            del waiting[:count]

    def card(group: str) -> None:
        with gr.Group(elem_classes="wb-card"):
            gr.HTML(f'<div class="wb-cardhead">{escape(common.GROUP_TITLES[group])}</div>', elem_classes="wb-tight")
            cells(group, FIRST[group])
            with gr.Accordion(words.MORE[group], open=False, elem_id=f"more-{group}"):
                cells(group, [name for name in GROUPS[group].model_fields if name not in FIRST[group]])

    with gr.Row(elem_id="tune-cards"):
        with gr.Column(min_width=320):
            card("quantization")
            card("lora")
        with gr.Column(min_width=320):
            card("training")
    form = Form([made[key][0] for key in FIELDS], [made[key][1] for key in FIELDS], extra[0], extra[1])
    _wire(space, form)
    return form


def _wire(space: Workspace, form: Form) -> None:
    """Each field's line follows its value, and the tree of layers what is ticked."""
    latest: dict[str, Any] = {"trigger_mode": "always_last", **QUIET}
    pair = [form.field("quantization", "mode"), form.field("lora", "dora")]
    for (group, name), field, wrong in zip(FIELDS, form.fields, form.wrong, strict=True):
        if field not in pair:
            field.change(shown(functools.partial(field_message, group, name)), field, wrong, **latest)  # type: ignore[attr-defined]
    lines = [form.wrong[form.fields.index(field)] for field in pair]
    gr.on([field.change for field in pair], shown(pair_messages), pair, lines, **latest)  # type: ignore[attr-defined]

    modules, text_only = form.field("lora", "target_modules"), form.field("lora", "text_only")
    asked = [form.field("lora", name) for name in PICKED]

    gr.on([f.change for f in asked], shown(lambda *v: picked(space, v)), asked, form.tree, **latest)  # type: ignore[attr-defined]

    tree = model_tree(space)

    def offered(only: bool, chosen: list[str]) -> list[Any]:
        boxes = gr.CheckboxGroup(choices=group_choices(tree, only), value=list(whole_groups(tree, chosen, text_only=only)))
        return [gr.CheckboxGroup(choices=module_choices(tree, only, chosen), value=chosen), boxes]

    text_only.change(shown(offered), [text_only, modules], [modules, form.groups], **QUIET)  # type: ignore[attr-defined]
    # In the page alone: an answer that came after the next press would tick its box again.
    names = json.dumps({str(only).lower(): group_names(tree, text_only=only) for only in (True, False)})
    modules.change(None, [modules, text_only], form.groups, js=GROUPS_FOLLOW_JS % names, **QUIET)  # type: ignore[attr-defined]
    # A person's press alone: what follows from the names' own boxes must not come back to them.
    form.groups.input(None, [form.groups, modules, text_only], modules, js=GROUPS_TURN_JS % names, **QUIET)


def filled(space: Workspace, values: Sequence[Any]) -> list[Any]:
    """What the fields are set to by a preset or by what was left: the values, and for the modules also the names that the model lacks."""
    place = FIELDS.index(("lora", "target_modules"))
    chosen, text_only = values[place], values[FIELDS.index(("lora", "text_only"))]
    boxes = gr.CheckboxGroup(choices=module_choices(model_tree(space), text_only, chosen), value=chosen)
    return [*values[:place], boxes, *values[place + 1 :]]
