"""What the form holds, kept by the browser: a page that is loaded anew goes on where it was left, also after the workbench was restarted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from workbench.settings import GROUPS, choices
from workbench.ui.forms import FIELDS, form_values
from workbench.ui.tune.presets_panel import preset_choices
from workbench.workspace import Workspace

LONGEST, MOST = 1000, 100  # characters of a text, and names in a list, that are taken back


def build() -> gr.BrowserState:
    # Settings are no secret, and with a key of its own each start of the workbench could not read what the one before had kept.
    return gr.BrowserState(None, storage_key="toolcall-workbench-tune", secret="toolcall-workbench")


def _place(space: Workspace) -> list[str]:
    """Whose settings they are: another workbench or model at the same address has its own defaults and modules."""
    return [str(space.root), space.model]


def hold(space: Workspace, key: str | None, values: Sequence[Any]) -> dict[str, Any]:
    """What the browser keeps: the chosen preset, and the values (in the order of `FIELDS`) that are not the model's defaults."""
    others = {
        f"{group}.{name}": value
        for (group, name), value, default in zip(FIELDS, values, form_values(space.default_settings()), strict=True)
        if not _same(value, default)
    }
    return {"place": _place(space), "preset": key or "", "values": others}


def held(space: Workspace, kept: Any) -> tuple[str, list[Any]] | None:
    """(the preset's key, all values) as the browser kept them; None where there is nothing other than the defaults.

    What no longer fits its field, as after a change of the settings or of what the browser holds, is left at its default.
    """
    if not isinstance(kept, dict) or kept.get("place") != _place(space) or not isinstance(given := kept.get("values"), dict):
        return None
    key = kept.get("preset")
    key = key if key in [known for _, known in preset_choices(space)] else ""
    defaults = form_values(space.default_settings())
    values = [
        value if _fits(group, name, value := given.get(f"{group}.{name}"), default) else default
        for (group, name), default in zip(FIELDS, defaults, strict=True)
    ]
    changed = any(not _same(value, default) for value, default in zip(values, defaults, strict=True))
    return (key, values) if key or changed else None


def _same(value: Any, default: Any) -> bool:
    return sorted(value) == sorted(default) if isinstance(value, list) and isinstance(default, list) else bool(value == default)


def _fits(group: str, name: str, value: Any, default: Any) -> bool:
    """Whether the field's component can hold the value; a wrong number in a text field is told beside it, as when it was typed."""
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, list):
        return isinstance(value, list) and len(value) <= MOST and all(isinstance(part, str) and len(part) <= LONGEST for part in value)
    if options := choices(GROUPS[group], name):
        return value in options
    return isinstance(value, str) and len(value) <= LONGEST
