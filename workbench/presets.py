"""Presets: named settings that a run starts from; the workbench's own, and those that people save and share as YAML files.

A file holds a title, a note and settings, nothing else. It is read node by node as plain text values (no tags, no
anchors, no objects), and every value passes through the settings' own checks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.errors import SettingsError
from workbench.files import explain_os_error
from workbench.settings import GROUPS, RunSettings, make_settings

MAX_BYTES = 64 * 1024
MAX_DEPTH = 8
MAX_TITLE, MAX_NOTE = 100, 1000  # characters
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
    Preset("smallest-card-6-gb", "Smallest card (6 GB)", (
        "As for a small card, and the word embeddings and the head wait in the host's memory. Answers are slow, so the model is asked after every fifth epoch; it learns the same."
    ), {
        "quantization": {"mode": "4-bit", "type_4bit": "nf4", "double": True, "offload": True}, "lora": {"rank": 16, "alpha": 32},
        "training": {"checkpointing": True, "tokens_per_forward": 1024, "sample_every": 5},
    }),
    Preset("best-quality", "Best quality", "Weights as they are, a wider adapter, and the best adapter kept by its calls. Wants the most memory.", {
        "quantization": {"mode": "none"}, "lora": {"rank": 32, "alpha": 64},
        "training": {"epochs": 10, "keep_best": "call accuracy", "sample_every": 1, "checkpointing": False},
    }),
)  # fmt: skip


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
