"""Forms made from the settings: one component a field, and one settings object back from their values.

Numbers are typed into text boxes, so that a wrong one can be told from none, and 2.5 epochs from 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from workbench.errors import SettingsError, sentence_case
from workbench.settings import GROUPS, RunSettings, Sampling, choices, field_problem, make_sampling, make_settings, range_of
from workbench.ui.highlight import escape

FIELDS: list[tuple[str, str]] = [(group, name) for group, cls in GROUPS.items() for name in cls.model_fields]
SAMPLING_FIELDS: list[str] = list(Sampling.model_fields)


def field_label(cls: Any, name: str) -> str:
    """The field's title with its unit, as in `Warm-up (optimizer steps)`."""
    field = cls.model_fields[name]
    unit = (field.json_schema_extra or {}).get("unit", "")
    return f"{field.title} ({unit})" if unit else str(field.title)


def field_help(cls: Any, name: str) -> str:
    """A number's range, one line of help, and the consequence."""
    field, limits = cls.model_fields[name], range_of(cls, name)
    return " ".join(filter(None, (limits and f"{sentence_case(limits)}.", field.description, (field.json_schema_extra or {}).get("effect", ""))))


def shown_value(value: Any) -> Any:
    """A setting's value as its component holds it: numbers as text, names as a list."""
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    return f"{value:g}" if isinstance(value, float) else str(value)


def field_component(cls: Any, name: str, prefix: str, default: Any, names: Sequence[tuple[str, str]] = ()) -> gr.components.Component:
    """The component that fits a field: its title, unit, range, help and default come from the settings.

    `names` are the (label, name) choices of a field of module names.
    """
    common: dict[str, Any] = {
        "min_width": 100, "label": field_label(cls, name), "info": field_help(cls, name), "elem_id": f"{prefix}-{name.replace('_', '-')}",
    }
    value = shown_value(default)
    if name == "target_modules":
        return gr.CheckboxGroup(choices=list(names) or list(value), value=value, **common)
    if options := choices(cls, name):
        return gr.Dropdown(choices=list(options), value=value, **common)
    if cls.model_fields[name].annotation is bool:
        return gr.Checkbox(value=value, **common)
    return gr.Textbox(value=value, max_lines=1, **common)


def problem_html(cls: Any, name: str, value: Any) -> str:
    """What is wrong with a field's value, to stand under it; empty if nothing is."""
    return wrong_html(field_problem(cls, name, value))


def wrong_html(said: str) -> str:
    """A sentence that stands under a field because it is wrong; empty for none."""
    return f'<div class="wb-wrong" role="alert">{escape(said)}</div>' if said else ""


def sampling_components() -> list[gr.components.Component]:
    return [field_component(Sampling, name, "sampling", getattr(Sampling(), name)) for name in SAMPLING_FIELDS]


def form_values(settings: RunSettings) -> list[Any]:
    """The values of all fields (in the order of `FIELDS`), as their components hold them."""
    return [shown_value(getattr(getattr(settings, group), name)) for group, name in FIELDS]


def read_settings(values: Sequence[Any]) -> RunSettings:
    """The form's values (in the order of `FIELDS`) as settings; raises `SettingsError` naming the field by its title."""
    nested: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    for (group, name), value in zip(FIELDS, values, strict=True):
        nested[group][name] = value
    try:
        return make_settings(nested)
    except SettingsError:
        # The command line's sentence names the setting as --set takes it; here it is the one that stands beside the field.
        for (group, name), value in zip(FIELDS, values, strict=True):
            if said := field_problem(GROUPS[group], name, value):
                raise SettingsError(f"{GROUPS[group].model_fields[name].title}: {said[0].lower()}{said[1:]}") from None
        raise


def read_sampling(values: Sequence[Any]) -> Sampling:
    return make_sampling(dict(zip(SAMPLING_FIELDS, values, strict=True)))
