"""Presets on top of the cards: choose one, see what differs from it, save, share and bring in one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from workbench.errors import SettingsError, WorkbenchError
from workbench.files import write_atomic
from workbench.presets import Preset, differences, dump_preset, read_preset
from workbench.settings import GROUPS, RunSettings
from workbench.ui.downloads import download_folder
from workbench.ui.forms import read_settings
from workbench.ui.highlight import escape, note
from workbench.ui.words import tune as words
from workbench.workspace import Workspace


@dataclass(frozen=True)
class PresetBar:
    """The components; the tab wires them, since a preset fills its fields."""

    chosen: gr.Dropdown
    differs: gr.HTML
    name: gr.Textbox
    about: gr.Textbox
    save: gr.Button
    delete: gr.Button
    export: gr.Button
    file: gr.DownloadButton
    bring: gr.UploadButton
    said: gr.HTML
    back: gr.Button
    gone: gr.State
    """The key of the deleted preset that `back` brings back."""


def preset_choices(space: Workspace) -> list[tuple[str, str]]:
    """(title, key) of all presets, the model's defaults first."""
    return [(words.PRESET_NONE, ""), *space.presets.choices()]


def preset_settings(space: Workspace, key: str | None) -> RunSettings:
    """The settings that a preset stands for on this model; raises `SettingsError`."""
    return space.settings_from(key or None)


def problems_html(space: Workspace) -> str:
    """The preset files that can't be used, by name."""
    return "".join(note(text, "bad") for text in space.presets.read()[1])


def differs_html(space: Workspace, key: str | None, values: Sequence[Any]) -> str:
    """What the form holds other than the preset's, each setting by its title."""
    try:
        settings = read_settings(values)
    except SettingsError:
        return f'<span class="wb-dim">{escape(words.CANT_COMPARE)}</span>'
    try:
        found = differences(settings, preset_settings(space, key))
        about = space.presets.find(key).note if key else ""
    except WorkbenchError as exc:
        return note(str(exc), "bad")
    if not found:
        return f'<span class="wb-dim">{escape(f"{about} {words.AS_PRESET}".strip())}</span>'
    head = words.DIFFERS_ONE if len(found) == 1 else words.DIFFERS_MANY.format(count=len(found))
    each = "".join(
        f'<span class="wb-differs">{escape(words.DIFFERENCE.format(title=d.title, yours=d.yours, preset=d.preset))}</span>' for d in found
    )
    return f"<b>{escape(head)}</b> {each}"


def save(space: Workspace, name: str, about: str, values: Sequence[Any]) -> str:
    """Save the form as a preset; returns its key. Raises `SettingsError`."""
    return space.presets.save(name, read_settings(values), note=about or "").key


def delete(space: Workspace, key: str | None) -> str:
    """Put the chosen preset of one's own into the bin; returns what was done. Raises `SettingsError`."""
    if not key or not any(p.own and p.key == key for p in space.presets.read()[0]):
        raise SettingsError(words.NO_OWN_CHOSEN)
    space.presets.delete(key)
    return words.DELETED.format(name=key)


def bin_values(space: Workspace) -> list[Any]:
    """The button that brings the preset deleted last back (none where the bin is empty), and what it brings."""
    gone = next(iter(space.presets.deleted()), None)
    return [gr.Button(words.BRING_BACK.format(name=gone.name) if gone else words.BRING_BACK, visible=gone is not None), gone.key if gone else ""]


def bring_back(space: Workspace, key: str) -> tuple[str, str]:
    """(the key of the preset that is back, what was done); raises `SettingsError` where the bin no longer holds it."""
    before = next((gone.name for gone in space.presets.deleted() if gone.key == key), "")
    name = space.presets.restore(key)
    return name, (words.BACK if name == before else words.BACK_AS).format(name=before, new=name)


def export(space: Workspace, key: str | None, name: str, about: str, values: Sequence[Any]) -> Path:
    """The form's settings as a preset's file, ready to be fetched; raises `SettingsError`."""
    settings = read_settings(values)
    stem = space.presets.path(name or key or "preset").stem
    made = Preset(stem, stem, (about or "").strip(), {group: getattr(settings, group).model_dump() for group in GROUPS}, own=True)
    path = download_folder(space) / f"{stem}.yaml"
    write_atomic(path, dump_preset(made))
    return path


def take_in(space: Workspace, file: str) -> tuple[str, str]:
    """Bring a shared file in: (its key, what was done). Raises `SettingsError`."""
    made, given = space.presets.take_in(Path(file)), read_preset(Path(file))
    text = words.TAKEN_IN if made.title == given.title else words.TAKEN_IN_AS
    return made.key, text.format(title=made.title, taken=given.title, name=made.key)


def build(space: Workspace) -> PresetBar:
    with gr.Row(elem_classes="wb-presets"):
        chosen = gr.Dropdown(
            choices=preset_choices(space), value="", label=words.PRESET, scale=0, min_width=240, elem_id="preset", filterable=False,
        )
        differs = gr.HTML(elem_id="preset-differs", elem_classes="wb-tight")
    with gr.Accordion(words.PRESET_FILES, open=False, elem_id="preset-files"):
        with gr.Row(equal_height=True):
            name = gr.Textbox(label=words.PRESET_NAME, info=words.PRESET_NAME_HELP, max_lines=1, min_width=150, elem_id="preset-name")
            about = gr.Textbox(label=words.PRESET_NOTE, info=words.PRESET_NOTE_HELP, max_lines=1, min_width=150, elem_id="preset-note")
        with gr.Row():
            saving = gr.Button(words.SAVE, size="sm", min_width=90, elem_id="preset-save")
            exporting = gr.Button(words.EXPORT, size="sm", min_width=90, elem_id="preset-export")
            bring = gr.UploadButton(words.IMPORT, file_types=[".yaml", ".yml"], size="sm", min_width=90, elem_id="preset-import")
            deleting = gr.Button(words.DELETE, size="sm", min_width=90, elem_id="preset-delete")
        file = gr.DownloadButton(visible="hidden", elem_id="preset-file")
        said = gr.HTML(problems_html(space), elem_id="preset-said")
        back = gr.Button(words.BRING_BACK, size="sm", visible=False, elem_id="preset-back")
        gone = gr.State("")
    return PresetBar(chosen, differs, name, about, saving, deleting, exporting, file, bring, said, back, gone)
