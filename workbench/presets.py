"""Presets: named settings that a run starts from; the workbench's own, and those that people save and share as YAML files.

A file holds a title, a note and settings, nothing else. It is read node by node as plain text values (no tags, no
anchors, no objects), and every value passes through the settings' own checks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.errors import SettingsError, WorkbenchError
from workbench.files import explain_os_error, safe_name, write_atomic
from workbench.settings import GROUPS, RunSettings, make_settings

MAX_BYTES = 64 * 1024
MAX_DEPTH = 8
MAX_TITLE, MAX_NOTE = 100, 1000  # characters
SUFFIXES = (".yaml", ".yml")
SOURCE = "preset:"  # before a preset's name where a run's could stand too: no run's name holds a colon
HEAD = "# A preset of the Tool-Call Workbench: settings that a training run starts from.\n"

Values = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Preset:
    """Settings under a name. `values` are those that it sets; all others are the model's defaults."""

    key: str
    title: str
    note: str = ""
    values: Values = field(default_factory=dict)
    own: bool = False
    """Saved by a person, in a file of its own."""

    def settings(self, defaults: RunSettings) -> RunSettings:
        """What a run starts from, over the model's `defaults`; raises `SettingsError`."""
        nested = {group: getattr(defaults, group).model_dump() | dict(self.values.get(group, {})) for group in GROUPS}
        return make_settings(nested)


@dataclass(frozen=True)
class Difference:
    """A setting that is not the preset's: its path, its title, and both values as they are told."""

    path: str
    title: str
    yours: str
    preset: str


_ARTICLE: Values = {
    "lora": {"rank": 16, "alpha": 32, "dropout": 0.1, "text_only": True},
    "training": {"epochs": 10, "rows_per_step": 16, "learning_rate": 1e-4, "warmup_steps": 10, "scheduler": "cosine", "max_grad_norm": 0.3, "weight_decay": 0.0},
}
_ARTICLE_NOTE = (
    "Left out: padding to 2,048 tokens, an adapter in the vision tower that never learns, and measuring every 50 of 40 steps. "
    "Its rate leaves 40 steps half learned: the model over-calls."
)
BUILT_IN = (
    Preset("first-article-4-bit", "First article, 4-bit", f"Rank 16 on all seven projections, rate 1e-4, 10 epochs, NF4. {_ARTICLE_NOTE}", {
        "quantization": {"mode": "4-bit", "type_4bit": "nf4", "double": True}, **_ARTICLE,
    }),
    Preset("first-article-8-bit", "First article, 8-bit", f"The same on 8-bit weights, threshold 6. {_ARTICLE_NOTE}", {
        "quantization": {"mode": "8-bit", "threshold": 6.0}, **_ARTICLE,
    }),
    Preset("second-article", "Second article", (
        "Rank 16 on the four attention projections, rate 2e-4, 3 epochs. Meant for about 1,000 rows; "
        "its warm-up of 100 steps is longer than such a run over 70 rows, so 2 are taken."
    ), {
        "quantization": {"mode": "4-bit", "type_4bit": "nf4", "double": True},
        "lora": {"rank": 16, "alpha": 32, "dropout": 0.05, "target_modules": ("q_proj", "k_proj", "v_proj", "o_proj")},
        "training": {"epochs": 3, "rows_per_step": 16, "learning_rate": 2e-4, "warmup_steps": 2, "scheduler": "linear", "max_grad_norm": 1.0},
    }),
    Preset("embedded-model-on-cpu", "Embedded model on CPU", "Full precision, no checkpointing: the defaults, as measured with the embedded model.", {
        "quantization": {"mode": "none"}, "lora": {"rank": 16, "alpha": 32}, "training": {"epochs": 10, "rows_per_step": 16, "checkpointing": False},
    }),
    Preset("small-card-8-gb", "Small card (8 GB)", "4-bit weights, checkpointing and forwards of at most 1,024 tokens: a 4B model's run stays below 5 GiB.", {
        "quantization": {"mode": "4-bit", "type_4bit": "nf4", "double": True}, "lora": {"rank": 16, "alpha": 32},
        "training": {"checkpointing": True, "tokens_per_forward": 1024},
    }),
    Preset("best-quality", "Best quality", "Weights as they are, a wider adapter, and the best adapter kept by its calls. Wants the most memory.", {
        "quantization": {"mode": "none"}, "lora": {"rank": 32, "alpha": 64},
        "training": {"epochs": 10, "keep_best": "call accuracy", "sample_every": 1, "checkpointing": False},
    }),
)  # fmt: skip


def _apart(preset: Preset, repeated: bool) -> str:
    if not preset.own:
        return ""
    return f" · your own, {preset.key}.yaml" if repeated else " · your own"


def told(value: Any) -> str:
    """A setting's value as a person reads it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def differences(settings: RunSettings, preset: RunSettings) -> tuple[Difference, ...]:
    """What `settings` have other than the preset's, in the order of the form."""
    found = []
    for group, cls in GROUPS.items():
        mine, theirs = getattr(settings, group), getattr(preset, group)
        for name, about in cls.model_fields.items():
            if getattr(mine, name) != getattr(theirs, name):
                found.append(Difference(f"{group}.{name}", str(about.title), told(getattr(mine, name)), told(getattr(theirs, name))))
    return tuple(found)


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
        """Save all of `settings` under a new name; raises `SettingsError` for a bad or taken one."""
        path = self._free(name)
        made = Preset(path.stem, name.strip(), note.strip()[:MAX_NOTE], {group: getattr(settings, group).model_dump() for group in GROUPS}, own=True)
        write_atomic(path, dump_preset(made))
        return made

    def take_in(self, file: Path, name: str = "") -> Preset:
        """Copy a shared file in under `name` (its own where none is given); raises `SettingsError` for a broken one."""
        given = read_preset(file)
        path = self._free(name or file.stem)
        made = Preset(path.stem, given.title, given.note, given.values, own=True)
        write_atomic(path, dump_preset(made))
        return made

    def delete(self, name: str) -> None:
        """Take a saved preset away; the built-in ones stay. Raises `SettingsError`."""
        if any(name == p.key for p in BUILT_IN):
            raise SettingsError(f"The preset {name} belongs to the workbench and stays.")
        path = self.path(name)
        try:
            path.unlink()
        except FileNotFoundError as exc:
            raise SettingsError(f"There is no preset named {name}.") from exc
        except OSError as exc:
            raise WorkbenchError(explain_os_error(exc, path)) from exc

    def _free(self, name: str) -> Path:
        path = self.path(name)
        if path.exists() or any(path.stem == p.key for p in BUILT_IN):
            raise SettingsError(f"There is already a preset named {path.stem}: choose another name, or delete that one first.")
        return path


def dump_preset(preset: Preset) -> str:
    """The preset as a YAML file's text."""
    import yaml  # type: ignore[import-untyped]

    plain = {group: {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()} for group, values in preset.values.items()}
    return HEAD + str(yaml.safe_dump({"title": preset.title, "note": preset.note, "settings": plain}, sort_keys=False, allow_unicode=True, width=120))


def read_preset(path: Path) -> Preset:
    """The preset in a file; raises `SettingsError` that names the file and what is wrong in it."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as exc:
        raise SettingsError(explain_os_error(exc, path)) from exc
    if len(raw) > MAX_BYTES:
        raise SettingsError(f"{path.name} is larger than a preset can be ({MAX_BYTES // 1024} KiB): it is something else.")
    try:
        return parse_preset(raw.decode("utf-8-sig"), path.stem)
    except UnicodeDecodeError as exc:
        raise SettingsError(f"{path.name} is not UTF-8 text: save it as such.") from exc
    except SettingsError as exc:
        raise SettingsError(f"The preset {path.name} can't be used. {exc}") from exc


def parse_preset(text: str, key: str) -> Preset:
    """The preset that a file's text holds; raises `SettingsError`. What it leaves out is the model's default."""
    document = _plain(text)
    if not document:
        raise SettingsError("It is empty: a preset holds title, note and settings.")
    if unknown := set(document) - {"title", "note", "settings"}:
        raise SettingsError(f"It holds {min(unknown)!r}, and a preset holds title, note and settings alone.")
    title, note, values = document.get("title") or key, document.get("note") or "", document.get("settings") or {}
    for name, value, limit in (("title", title, MAX_TITLE), ("note", note, MAX_NOTE)):
        if not isinstance(value, str) or len(value) > limit:
            raise SettingsError(f"Its {name} must be a text of {limit} characters at most.")
    if not isinstance(values, dict) or not all(isinstance(v, dict) for v in values.values()):
        raise SettingsError(f"Its settings must be groups ({', '.join(GROUPS)}) of names and values.")
    checked = make_settings(values)
    return Preset(key, title, note, {g: {n: getattr(getattr(checked, g), n) for n in names} for g, names in values.items()}, own=True)


def _plain(text: str) -> dict[str, Any]:
    """YAML as mappings, lists and texts: a number or a yes stays the text that stands there, for the settings to judge."""
    import yaml

    try:
        depth = 0
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if isinstance(token, (yaml.AliasToken, yaml.AnchorToken, yaml.TagToken)):
                raise SettingsError("It holds an anchor, an alias or a tag (&, * or !), which a preset never needs.")
            depth += type(token).__name__.endswith(("SequenceStartToken", "MappingStartToken"))
            depth -= isinstance(token, (yaml.BlockEndToken, yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken))
            if depth > MAX_DEPTH:  # told before it is read whole: the reader's time grows with the square of the depth
                raise SettingsError("It is nested too deeply to be a preset.")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        value = _value(node) if node is not None else {}
    except (yaml.YAMLError, ValueError) as exc:
        mark = getattr(exc, "problem_mark", None)
        raise SettingsError(f"It is not YAML{f' (line {mark.line + 1})' if mark else ''}: mend it or save the preset anew.") from exc
    if not isinstance(value, dict):
        raise SettingsError("It must hold title, note and settings.")
    return value


def _value(node: Any) -> Any:
    import yaml

    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key, value in _pairs(node):
            if key in found:
                raise SettingsError(f"{key!r} stands in it twice.")
            found[key] = _value(value)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_value(item) for item in node.value]
    return None if node.tag == "tag:yaml.org,2002:null" else str(node.value)


def _pairs(node: Any) -> Iterator[tuple[str, Any]]:
    import yaml

    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise SettingsError("Its names must be plain texts.")
        yield str(key.value), value
