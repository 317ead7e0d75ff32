"""The presets of one workbench: its own and those in data/presets, saved, shared, deleted and brought back."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from workbench.errors import SettingsError, WorkbenchError
from workbench.files import explain_os_error, free_name, in_bin, into_bin, safe_name, stands, write_atomic
from workbench.presets import BUILT_IN, MAX_NOTE, MAX_TITLE, Preset, dump_preset, read_preset
from workbench.settings import GROUPS, RunSettings

SUFFIXES = (".yaml", ".yml")
SOURCE = "preset:"  # before a preset's name where a run's could stand too: no run's name holds a colon
BIN = ".trash"  # under the presets' folder: BIN/WHEN/NAME.yaml


@dataclass(frozen=True)
class Deleted:
    """A preset in the bin: `key` is when it was put there (nanoseconds since 1970), as text."""

    key: str
    name: str


class PresetStore:
    """The presets of one workbench: its own and those in `folder`, one file each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        return self.folder / f"{safe_name(name, what='preset name', error=SettingsError)}.yaml"

    def read(self) -> tuple[list[Preset], list[str]]:
        """(all presets, the built-in ones first; one sentence for each file that can't be used)."""
        found, problems = list(BUILT_IN), []
        for path in sorted(self.folder.glob("*.yaml")) if self.folder.is_dir() else []:
            try:
                found.append(read_preset(path))
            except SettingsError as exc:
                problems.append(str(exc))
        return found, problems

    def choices(self) -> list[tuple[str, str]]:
        """(what to call it in a list, key) of all presets. No two are called alike: where titles repeat, a file's name tells."""
        found = self.read()[0]
        titles = Counter(p.title.casefold() for p in found)
        return [(f"{p.title}{_apart(p, titles[p.title.casefold()] > 1)}", p.key) for p in found]

    def sources(self) -> list[tuple[str, str]]:
        """`choices` as `Workspace.settings_from` takes them where a run's name could stand too: `preset:KEY`."""
        return [(title, f"{SOURCE}{key}") for title, key in self.choices()]

    def find(self, name: str) -> Preset:
        """The preset of that name (`preset:` may stand before it), or in that file (a path, or a name that ends in .yaml); raises `SettingsError`."""
        name = name.removeprefix(SOURCE)
        if name.lower().endswith(SUFFIXES):
            return read_preset(Path(name).expanduser())
        if built_in := next((p for p in BUILT_IN if name in (p.key, p.title)), None):
            return built_in
        path = self.path(name)
        if not path.is_file():
            known = ", ".join(p.key for p in self.read()[0])
            raise SettingsError(f"There is no preset named {name}; there are: {known}. Or give a file that ends in .yaml.")
        return read_preset(path)

    def save(self, name: str, settings: RunSettings, *, note: str = "") -> Preset:
        """Save all of `settings` under a new name; raises `SettingsError` for a bad or taken one, or one that is another preset's title."""
        path = self.path(name)
        if self._taken(path):
            raise SettingsError(f"There is already a preset named {path.stem}: choose another name, or delete that one first.")
        if other := next((p for p in self.read()[0] if p.title.casefold() == path.stem.casefold()), None):
            raise SettingsError(f"There is already a preset called {other.title} (in {other.key}.yaml): choose another name, so that the two can be told apart.")
        made = Preset(path.stem, path.stem, note.strip()[:MAX_NOTE], {group: getattr(settings, group).model_dump() for group in GROUPS}, own=True)
        write_atomic(path, dump_preset(made))
        return made

    def take_in(self, file: Path) -> Preset:
        """Copy a shared file in. A name or a title that another preset has gets a number; raises `SettingsError` for a broken file,
        and for one whose preset is here already."""
        given = read_preset(file)
        known = self.read()[0]
        if same := next((p for p in known if p.own and (p.title, p.note, p.values) == (given.title, given.note, given.values)), None):
            raise SettingsError(f"The preset in {file.name} is here already, as {same.key}.yaml: nothing was brought in.")
        path = self._free(self.path(file.stem).stem)
        made = replace(given, key=path.stem, title=_free_title(given.title, {p.title.casefold() for p in known}))
        write_atomic(path, dump_preset(made))
        return made

    def delete(self, name: str) -> Deleted:
        """Put a saved preset into the bin; the built-in ones stay. Raises `SettingsError`."""
        if any(name == p.key for p in BUILT_IN):
            raise SettingsError(f"The preset {name} belongs to the workbench and stays.")
        path = self.path(name)
        if not path.is_file():
            raise SettingsError(f"There is no preset named {name}.")
        try:
            return Deleted(into_bin(path, self.folder / BIN), path.stem)
        except OSError as exc:
            raise WorkbenchError(explain_os_error(exc, path)) from exc

    def deleted(self) -> list[Deleted]:
        """What the bin holds, the newest first."""
        return [Deleted(key, file.stem) for key, file in in_bin(self.folder / BIN) if file.suffix == ".yaml"]

    def restore(self, key: str) -> str:
        """Bring a preset back from the bin; returns its name, a numbered one where its own was taken meanwhile. Raises `SettingsError`."""
        gone = next((g for g in self.deleted() if g.key == key), None)
        if gone is None:
            raise SettingsError("This preset is no longer in the bin: it was brought back already.")
        place, path = self.folder / BIN / gone.key, self._free(self.path(gone.name).stem)
        try:
            (place / f"{gone.name}.yaml").rename(path)
        except OSError as exc:
            raise WorkbenchError(explain_os_error(exc, path)) from exc
        with contextlib.suppress(OSError):
            place.rmdir()
        return path.stem

    def _free(self, name: str) -> Path:
        """The path of `name`, or of the first of name-2, name-3 … that no preset has, cut to the length that a name may have."""
        found = free_name(name, lambda one: self._taken(self.path(one)))
        if found is None:
            raise SettingsError(f"There are too many presets named {name}: rename the file.")
        return self.path(found)

    def _taken(self, path: Path) -> bool:
        return stands(path) or any(path.stem == p.key for p in BUILT_IN)


def _apart(preset: Preset, repeated: bool) -> str:
    if not preset.own:
        return ""
    return f" · your own, {preset.key}.yaml" if repeated else " · your own"


def _free_title(title: str, taken: set[str]) -> str:
    """`title`, or the first of `title (2)`, `title (3)` … that is not taken (casefolded)."""
    number, made = 1, title
    while made.casefold() in taken:
        number += 1
        made = f"{title[: MAX_TITLE - 8]} ({number})"
    return made
