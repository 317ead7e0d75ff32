"""The axes of a sweep: which settings can be compared, their values as a person types them, and both in words. No torch."""

from __future__ import annotations

from typing import Any

from workbench.errors import SettingsError, sentence_case
from workbench.settings import GROUPS, RunSettings, all_paths, field_problem, takes

# What would change nothing here, or would change what is measured on: an axis over it would show "no difference" for a wrong reason.
_ONCE = "every cell is measured once, at its end, and keeps no adapter"
_ROWS = "it decides which rows there are, and folds of other rows can't be compared"
NO_AXES = {
    "training.validation_share": "the folds decide which rows are held back",
    "training.evaluate_every": _ONCE, "training.save_every": _ONCE, "training.sample_every": _ONCE, "training.keep_best": _ONCE,
    "training.early_stopping": _ONCE, "training.tracker": "a sweep's cells are no runs",
    "training.unreviewed": _ROWS, "training.max_row_tokens": _ROWS,
}  # fmt: skip


def setting_title(path: str) -> str:
    """What the form calls a setting, within a sentence: `learning rate`, `DoRA`, `MLP: rank`."""
    group, _, name = path.partition(".")
    title = str(GROUPS[group].model_fields[name].title)
    first = title.split()[0]
    return title if any(letter.isupper() for letter in first[1:]) else title[0].lower() + title[1:]


def read_axis(text: str, settings: RunSettings) -> tuple[str, tuple[Any, ...]]:
    """An axis as the command line gives it, `lora.rank=8,16`; raises `SettingsError` that names the option."""
    path, equals, values = text.partition("=")
    if not equals:
        raise SettingsError(f"--axis takes group.field=value,value, as in quantization.mode=4-bit,8-bit; {text!r} is not of that form.")
    try:
        return path.strip(), axis_values(path.strip(), values, settings)
    except SettingsError as exc:
        raise SettingsError(f"--axis {path.strip()}: {exc}") from exc


def axis_values(path: str, text: str, settings: RunSettings) -> tuple[Any, ...]:
    """The values of an axis, separated by commas; names within one value by plus signs, as in `q_proj+v_proj, q_proj`.

    Raises `SettingsError`, which calls the setting as the form does, for an unknown one, a value out of its range, one value
    alone or one given twice. Whether the values go with those of other axes is `make_spec`'s to judge.
    """
    if path not in all_paths():
        raise SettingsError(f"There is no setting {path or '(empty)'}. The settings are: {', '.join(all_paths())}.")
    title = setting_title(path)
    named = sentence_case(title)
    if path in NO_AXES:
        raise SettingsError(f"{named} can't be compared in a sweep: {NO_AXES[path]}.")
    group, _, name = path.partition(".")
    cls = GROUPS[group]
    listed = isinstance(getattr(getattr(settings, group), name), tuple)
    found = []
    for part in (p.strip() for p in text.split(",") if p.strip()):
        value: Any = [t.strip() for t in part.split("+") if t.strip()] if listed else part
        if problem := field_problem(cls, name, value):
            raise SettingsError(f"{named}: {problem}")
        found.append(cls.model_validate({name: value}).model_dump(mode="json")[name])
    if len(found) < 2:
        given = f"one value ({value_text(found[0])})" if found else "no value"
        raise SettingsError(f"{named} has {given}: give two or more to compare, separated by commas. It takes {takes(cls, name)}.")
    for value in found:
        if found.count(value) > 1:
            raise SettingsError(f"{named} names {value_text(value)} twice: every value once.")
    if path == "quantization.mode" and "auto" in found:
        raise SettingsError(f"{named} can't be auto in a sweep, which is one of the others: name none, 8-bit or 4-bit.")
    return tuple(found)


def value_text(value: Any) -> str:
    """A value as `axis_values` reads it."""
    if isinstance(value, (list, tuple)):
        return "+".join(str(v) for v in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def setting_words(path: str, value: Any) -> str:
    """A setting's value in a line: words stand for themselves (8-bit), numbers and switches bring their name (rank 16, DoRA on)."""
    if path == "quantization.mode":
        return str(value) if value != "none" else "not quantized"
    text = ("on" if value else "off") if isinstance(value, bool) else value_text(value)
    return f"{setting_title(path)} {text}"
