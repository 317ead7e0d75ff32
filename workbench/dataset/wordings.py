"""Wordings: patterns filled with what they need, from the data files beside this module."""

from __future__ import annotations

import json
import random
import re
import string
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Said = tuple[str, str | None]  # a request, and its answer in words (None for a call)


@cache
def _file(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    return value


def read(name: str, part: str | None = None) -> dict[str, Any]:
    found: dict[str, Any] = _file(name) if part is None else _file(name)[part]
    return found


def say(pattern: str, item: dict[str, str], chance: random.Random) -> Said:
    """A pattern filled with an item, and the answer that belongs to it."""
    slots = {name: chance.choice(options) for name, options in read("families", "slots").items()}
    # A topic that a person typed is only text, braces and all.
    values = {name: text if name == "topic" else _fill(text, slots) for name, text in item.items()}
    if "kind" in values:
        verb = chance.choice(read("families", "verbs")[values["kind"]])
        values |= {"Verb": verb, "verb": _low(verb), "verbs": _low(verb) + "те"}
    if "near" in values:
        values["near_low"] = _low(values["near"])
    for name in ("ask", "how", "acc", "nom", "thing", "topic"):
        if name in values:
            values[name.capitalize()] = _high(values[name])
    request = pattern.format_map(values)
    if "word" in values:
        return request, _word_answer(pattern, values["word"], values["letters"])
    return request, values.get("answer")


def _word_answer(pattern: str, word: str, letters: str) -> str:
    if "Сколько" in pattern:
        return f"В слове «{word}» {letters}."
    if "заглавными" in pattern:
        return f"{word.upper()}"
    if "начинается" in pattern:
        return f"С буквы «{word[0].lower()}»."
    if "заканчивается" in pattern:
        return f"На букву «{word[-1].lower()}»."
    return f"{_high(word)}."


def fields(pattern: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(pattern) if name}


def offered(item: dict[str, str]) -> set[str]:
    """The fields that an item can fill."""
    names = set(item) | {name.capitalize() for name in item}
    # The carriers before a public question fit questions alone ("Tell me: translate …" would be odd).
    names |= {"near_low"} if item.get("near", "").endswith("?") else set()
    return names | ({"Verb", "verb", "verbs"} if "kind" in item else set())


def _fill(text: str, slots: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda m: slots[m[1]], text)


def _low(text: str) -> str:
    return text[:1].lower() + text[1:]


def _high(text: str) -> str:
    return text[:1].upper() + text[1:]


def plural(number: int, one: str, few: str, many: str) -> str:
    if number % 10 == 1 and number % 100 != 11:
        return one
    return few if number % 10 in (2, 3, 4) and number % 100 not in (12, 13, 14) else many
