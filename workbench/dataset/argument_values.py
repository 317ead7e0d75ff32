"""Arguments for a generated call: values taken from the tool's JSON schema, and the words that name them in the request."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from workbench.errors import InputError
from workbench.schema import ToolSpec

OPTIONAL_SHARE = 0.4  # how often an argument that may be left out is given
FORMATS = {
    "date": ["2026-03-14", "2026-05-09", "2025-12-31", "2026-01-20"], "time": ["09:30", "14:00", "18:45"],
    "email": ["anna@example.com", "petrov@example.org"], "date-time": ["2026-03-14T09:30:00Z", "2026-05-09T18:00:00Z"],
}
YES_NO = {"ru": ("да", "нет"), "en": ("yes", "no"), "de": ("ja", "nein"), "es": ("sí", "no"), "kk": ("иә", "жоқ")}


def fill(tool: ToolSpec, chance: random.Random, language: str = "ru") -> tuple[dict[str, Any], list[str]]:
    """(arguments, words such as "city: Oslo"): every required argument and some of the others, each named in the words.

    Raises `InputError` where the schema gives no hint of a value for a required argument.
    """
    properties = tool.parameters.get("properties")
    required = tool.parameters.get("required") or []
    arguments: dict[str, Any] = {}
    words = []
    for name, schema in (properties if isinstance(properties, Mapping) else {}).items():
        needed = name in required
        try:
            options = _values(schema, chance) if isinstance(schema, Mapping) else []
        except (ArithmeticError, ValueError, TypeError) as exc:
            if needed:
                raise InputError(
                    f"The tool {tool.name} needs {name}, and no value can be found within its bounds: mend its minimum, maximum and step on the Tools panel."
                ) from exc
            options = []
        if not options and needed:
            raise InputError(
                f"The tool {tool.name} needs {name}, and its schema gives no value to write: add enum, examples or a range to it on the Tools panel."
            )
        if not options or not (needed or chance.random() < OPTIONAL_SHARE):
            continue
        arguments[name] = chance.choice(options)
        words.append(f"{_label(name, schema)}: {_spoken(arguments[name], language)}")
    return arguments, words


def _values(schema: Mapping[str, Any], chance: random.Random) -> list[Any]:
    """Values that the schema itself names or bounds; empty where it names none."""
    if "const" in schema:
        return [schema["const"]]
    for key in ("enum", "examples"):
        if isinstance(schema.get(key), list) and schema[key]:
            # What is null or an object has no wording.
            return [v for v in schema[key] if isinstance(v, (str, int, float, bool)) and v != ""]
    kind = schema.get("type")
    kind = next((k for k in kind if k != "null"), None) if isinstance(kind, list) else kind
    if kind == "boolean":
        return [True, False]
    if kind in ("integer", "number"):
        return _numbers(schema, chance, whole=kind == "integer")
    if kind == "array" and isinstance(schema.get("items"), Mapping):
        items = _values(schema["items"], chance)
        least = max(1, int(schema.get("minItems", 1)))
        return [chance.sample(items, least)] if len(items) >= least else []
    if kind == "string" and isinstance(schema.get("default"), str) and schema["default"]:
        return [schema["default"]]
    return FORMATS.get(str(schema.get("format")), []) if kind == "string" else []


def _numbers(schema: Mapping[str, Any], chance: random.Random, *, whole: bool) -> list[Any]:
    step = schema.get("multipleOf") or (1 if whole else 0.5)
    low = schema["exclusiveMinimum"] + step if "exclusiveMinimum" in schema else schema.get("minimum", min(1, schema.get("maximum", 1)))
    high = schema["exclusiveMaximum"] - step if "exclusiveMaximum" in schema else schema.get("maximum", low + 20 * step)
    first = -(-low // step)  # the smallest multiple of the step that is not below `low`
    last = high // step
    if first > last:  # between two multiples: a number that need not be one may be the bound itself
        return [low] if low <= high and not whole and "multipleOf" not in schema else []
    picked = (first + chance.randrange(min(int(last - first), 10_000) + 1)) * step
    return [int(picked) if whole else round(float(picked), 6)]


def _label(name: str, schema: Mapping[str, Any]) -> str:
    """What the request calls the argument: its title, a short description, or its name."""
    for key in ("title", "description"):
        text = schema.get(key)
        if isinstance(text, str) and 0 < len(text.split()) <= 4 and len(text) <= 40 and "<" not in text:
            return text.strip().rstrip(".:").lower() if text[1:] == text[1:].lower() else text.strip().rstrip(".:")
    return name.replace("_", " ")


def _spoken(value: Any, language: str) -> str:
    if isinstance(value, bool):
        return YES_NO[language][0 if value else 1]
    if isinstance(value, list):
        return ", ".join(_spoken(v, language) for v in value)
    return str(value)
