"""The three cards of settings: the fields that matter first, the others folded away, and under each what is wrong with it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import gradio as gr

from workbench.errors import ModelError
from workbench.models.modules import TEXT, TOWER_REASON, ModuleKind, module_names, module_tree
from workbench.settings import GROUPS, RunSettings
from workbench.ui import words as common
from workbench.ui.errors import shown
from workbench.ui.forms import FIELDS, field_component, problem_html
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


@dataclass(frozen=True)
class Form:
    """The fields in the order of `FIELDS`, the line under each that says what is wrong, and the tree of the model's layers."""

    fields: list[gr.components.Component]
    wrong: list[gr.HTML]
    tree: gr.HTML

    def field(self, group: str, name: str) -> gr.components.Component:
        return self.fields[FIELDS.index((group, name))]


def model_tree(space: Workspace) -> tuple[ModuleKind, ...]:
    """The linear layers of the workbench's model; empty where it is not here and not a known one."""
    try:
        return module_tree(space.shapes(space.model))
    except ModelError:
        return ()


def module_choices(tree: Sequence[ModuleKind], text_only: bool, chosen: Sequence[str]) -> list[tuple[str, str]]:
    """(label, name) of every name to choose from, with how many layers it stands for; chosen names that the model lacks last."""
    counted = {
        name: sum(k.count for k in tree if k.name == name and (not text_only or k.tower == TEXT)) for name in module_names(tree, text_only=text_only)
    }
    found = [(f"{name} · {count}", name) for name, count in counted.items()]
    return found + [(f"{name} · {words.NOT_IN_MODEL}" if tree else name, name) for name in chosen if name not in counted]


def tree_html(tree: Sequence[ModuleKind], text_only: bool) -> str:
    """The groups of the text model's layers, and what becomes of the towers and why."""
    if not tree:
        return f'<p class="wb-dim">{escape(words.TREE_UNKNOWN)}</p>'
    lines = []
    for group, kinds in groupby((k for k in tree if k.tower == TEXT), key=lambda k: k.group):
        names = ", ".join(f"{k.name} {k.count}" for k in kinds)
        lines.append(f"<b>{escape(group)}</b> {escape(names)}")
    text = words.TREE_LEFT if text_only else words.TREE_TAKEN
    for tower in dict.fromkeys(k.tower for k in tree if k.tower != TEXT):
        count = sum(k.count for k in tree if k.tower == tower)
        lines.append(escape(text.format(tower=tower, count=count, reason=TOWER_REASON)))
    return f'<div class="wb-tree wb-dim">{"<br>".join(lines)}</div>'


def field_message(group: str, name: str, value: Any) -> Any:
    """The line under a field: what is wrong with its value, or nothing."""
    said = problem_html(GROUPS[group], name, value)
    return gr.HTML(said, visible=bool(said))


def build(space: Workspace, defaults: RunSettings) -> Form:
    """The three cards: Quantization over LoRA, Training beside them."""
    tree = model_tree(space)
    made: dict[tuple[str, str], tuple[gr.components.Component, gr.HTML]] = {}
    layers: list[gr.HTML] = []

    def cell(group: str, name: str) -> None:
        value = getattr(getattr(defaults, group), name)
        names = module_choices(tree, defaults.lora.text_only, value) if name == "target_modules" else ()
        with gr.Column(min_width=100, elem_classes="wb-field"):
            field = field_component(GROUPS[group], name, group, value, names)
            if name == "target_modules":
                layers.append(gr.HTML(tree_html(tree, defaults.lora.text_only), elem_id="module-tree", elem_classes="wb-tight"))
            made[group, name] = (field, gr.HTML(visible=False, elem_classes="wb-tight", elem_id=f"wrong-{group}-{name.replace('_', '-')}"))

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
    form = Form([made[key][0] for key in FIELDS], [made[key][1] for key in FIELDS], layers[0])
    for (group, name), field, wrong in zip(FIELDS, form.fields, form.wrong, strict=True):
        field.change(shown(functools.partial(field_message, group, name)), field, wrong, trigger_mode="always_last", **QUIET)  # type: ignore[attr-defined]

    def towers(text_only: bool, chosen: list[str]) -> list[Any]:
        return [gr.CheckboxGroup(choices=module_choices(tree, text_only, chosen), value=chosen), tree_html(tree, text_only)]

    modules = form.field("lora", "target_modules")
    form.field("lora", "text_only").change(  # type: ignore[attr-defined]
        shown(towers), [form.field("lora", "text_only"), modules], [modules, form.tree], **QUIET
    )
    return form


def filled(space: Workspace, settings: RunSettings, values: Sequence[Any]) -> list[Any]:
    """What the fields are set to by a preset: values, and for the modules also the names that the model lacks."""
    place = FIELDS.index(("lora", "target_modules"))
    chosen = list(settings.lora.target_modules)
    boxes = gr.CheckboxGroup(choices=module_choices(model_tree(space), settings.lora.text_only, chosen), value=chosen)
    return [*values[:place], boxes, *values[place + 1 :]]
