"""Finding runs by words: those that stand in the table, and settings with their values, as in `rank 8`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from workbench.settings import GROUPS, RunSettings
from workbench.training.run_table import RunRow

ALIASES = {"rate": "learning_rate", "lr": "learning_rate", "weights": "mode", "warmup": "warmup_steps", "budget": "tokens_per_forward"}
SIDE_BY_SIDE = ("name", "data_name", "note")  # what holds numbers of its own: run-8, part 2.jsonl

Test = Callable[[RunRow], bool]


def filter_rows(rows: Iterable[RunRow], text: str, state: str, states: Mapping[str, str] | None = None) -> list[RunRow]:
    """The rows that fit every word of `text` and are in `state` ("" for any); `states` are the states as the screen calls them.

    A word is looked for as a word, or as a word's beginning, in name, state, data, model, base weights and note; a number as
    a number in name, data and note, and as rank, learning rate or epochs. A setting's name with a value (`rank 8`, `lr=2e-4`,
    `10 epochs`) fits that setting alone.
    """
    tests = list(_tests(text, states or {}))
    return [r for r in rows if (not state or r.state == state) and all(fits(r) for fits in tests)]


def _tests(text: str, states: Mapping[str, str]) -> Iterable[Test]:
    typed = [word for word in re.split(r"[\s=:,;]+", text.lower()) if word]
    at = 0
    while at < len(typed):
        length, name = _setting_at(typed, at)
        value = typed[at + length] if length and at + length < len(typed) else None
        if name and value is not None and _may_be(name, value):
            yield _has(name, value)
            at += length + 1
            continue
        if _number(typed[at]) is not None:
            length, name = _setting_at(typed, at + 1)
            after = typed[at + 1 + length] if at + 1 + length < len(typed) else ""
            if name and not _may_be(name, after):  # as in 10 epochs
                yield _has(name, typed[at])
                at += 1 + length
                continue
        yield _says(typed[at], states)
        at += 1


@cache
def _names() -> dict[tuple[str, ...], str]:
    """Every setting's name by the words it may be called: its title's, its field's, and short ones."""
    found = {}
    for cls in GROUPS.values():
        for name, field in cls.model_fields.items():
            for called in (name, field.title or name):
                found[tuple(_parts(called))] = name
    return found | {(short,): name for short, name in ALIASES.items()}


def _setting_at(typed: list[str], at: int) -> tuple[int, str]:
    """(how many words, the setting) whose name stands there, the longest one; (0, "") where none does."""
    for length in range(min(5, len(typed) - at), 0, -1):
        name = _names().get(tuple(part for word in typed[at : at + length] for part in _parts(word)))
        if name is not None:
            return length, name
    return 0, ""


def _value(settings: RunSettings, name: str) -> Any:
    return next(getattr(group, name) for key in GROUPS if hasattr(group := getattr(settings, key), name))


def _may_be(name: str, word: str) -> bool:
    """Whether the word can be meant as this setting's value."""
    default = _value(RunSettings(), name)
    if isinstance(default, bool):
        return word in ("on", "off")
    if isinstance(default, (int, float)):
        return _number(word) is not None
    return bool(word) and name in ("mode", "type_4bit", "scheduler", "keep_best", "tracker", "unreviewed")


def _has(name: str, word: str) -> Test:
    def fits(row: RunRow) -> bool:
        value = row.weights if name == "mode" else _value(row.settings, name)
        if isinstance(value, bool):
            return word == ("on" if value else "off")
        return _same(_number(word), value) if isinstance(value, (int, float)) else _stands(word, str(value))

    return fits


def _says(word: str, states: Mapping[str, str]) -> Test:
    number = _number(word)

    def fits(row: RunRow) -> bool:
        own = [str(getattr(row, part)) for part in SIDE_BY_SIDE]
        if any(_stands(word, text) for text in own):
            return True
        if number is not None:
            return any(_same(number, v) for v in (row.settings.lora.rank, row.settings.training.learning_rate, row.settings.training.epochs))
        setting = any(word in name for name in _names())  # every run has one
        return setting or any(_stands(word, text) for text in (row.state, states.get(row.state, ""), row.told, row.model, row.weights))

    return fits


def _stands(word: str, text: str) -> bool:
    """Whether the word stands in the text; its last part may be the beginning of one, unless that is a number."""
    wanted, there = _parts(word), _parts(text)
    if not wanted:
        return word in text.lower()
    last = wanted[-1]
    for at in range(len(there) - len(wanted) + 1):
        end = there[at + len(wanted) - 1]
        if there[at : at + len(wanted) - 1] == wanted[:-1] and (end == last or (not last.isdigit() and end.startswith(last))):
            return True
    return False


def _parts(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _number(word: str) -> float | None:
    return float(word) if re.fullmatch(r"\d+(\.\d+)?(e[+-]?\d{1,3})?", word, re.ASCII) else None


def _same(wanted: float | None, value: float) -> bool:
    return wanted is not None and math.isclose(wanted, value, rel_tol=1e-6)
