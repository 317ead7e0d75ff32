"""Forms made from the settings: one component a field, and one settings object back from their values."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import gradio as gr

from workbench.settings import GROUPS, RunSettings, Sampling, choices, make_sampling, make_settings

FIELDS: list[tuple[str, str]] = [(group, name) for group, cls in GROUPS.items() for name in cls.model_fields]
SAMPLING_FIELDS: list[str] = list(Sampling.model_fields)


def field_component(cls: Any, name: str, prefix: str, default: Any) -> gr.components.Component:
    """The component that fits a field: its title, unit, help and default come from the settings."""
    field = cls.model_fields[name]
    unit = (field.json_schema_extra or {}).get("unit", "")
    label = f"{field.title} ({unit})" if unit else str(field.title)
    common: dict[str, Any] = {"min_width": 120, "label": label, "info": field.description, "elem_id": f"{prefix}-{name.replace('_', '-')}"}
    options = choices(cls, name)
    if name == "target_modules":
        return gr.CheckboxGroup(choices=list(options), value=list(default), **common)
    if options:
        return gr.Dropdown(choices=list(options), value=default, **common)
    if field.annotation is bool:
        return gr.Checkbox(value=default, **common)
    return gr.Number(value=default, precision=0 if field.annotation is int else None, **common)


def group_components(group: str, defaults: RunSettings, *, columns: int = 1) -> list[gr.components.Component]:
    """All components of one group of run settings, in the order of the settings, filled with `defaults`."""
    values, names = getattr(defaults, group), list(GROUPS[group].model_fields)
    made = []
    for start in range(0, len(names), columns):
        with gr.Row(equal_height=True) if columns > 1 else contextlib.nullcontext():
            made += [field_component(GROUPS[group], name, group, getattr(values, name)) for name in names[start : start + columns]]
    return made


def sampling_components() -> list[gr.components.Component]:
    return [field_component(Sampling, name, "sampling", getattr(Sampling(), name)) for name in SAMPLING_FIELDS]


def read_settings(values: Sequence[Any]) -> RunSettings:
    """The form's values (in the order of `FIELDS`) as settings; raises `SettingsError` naming the field."""
    nested: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    for (group, name), value in zip(FIELDS, values, strict=True):
        nested[group][name] = value
    return make_settings(nested)


def read_sampling(values: Sequence[Any]) -> Sampling:
    return make_sampling(dict(zip(SAMPLING_FIELDS, values, strict=True)))
