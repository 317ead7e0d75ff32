"""Reading JSON strictly, and finding where a JSON value ends while it streams."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.calls.segments import BREAKS_OFF, NAME
from workbench.calls.stream import Broken, Cursor, Steps
from workbench.schema import ToolCall

MAX_DEPTH = 100  # brackets in brackets

# All that may stand outside of strings and brackets; the group is the last whole string.
_OUTSIDE = re.compile(r"""(?:[\s,:0-9.+\-eEtrufalsnNIiy]+|("[^"\\]*(?:\\.[^"\\]*)*"))*""", re.DOTALL)
_IN_STRING = re.compile(r"""[^"\\]*(?:\\.[^"\\]*)*""", re.DOTALL)
_HALF = re.compile(r"\\u[dD]")


class Unreadable(ValueError):
    """A piece is no call; the text says why in plain words."""


def json_value(cursor: Cursor) -> Steps[Broken | None]:
    """Past the JSON object or list that begins here, found by its brackets and strings alone."""
    depth = 0
    string: tuple[int, int] | None = None  # where the last string begins, and the depth there: a missing quote is looked for from there
    while True:
        run = _OUTSIDE.match(cursor.text, cursor.at)
        assert run is not None
        if run.start(1) >= 0:
            string = cursor.size(run.start(1)), depth
        cursor.at = run.end()
        if cursor.at == len(cursor.text):
            if cursor.ended:
                return Broken(*_resume(cursor, string, depth, BREAKS_OFF))
            yield
            continue
        sign = cursor.text[cursor.at]
        if sign == '"':
            string = cursor.size(cursor.at), depth
            cursor.at += 1
            if not (yield from _rest_of_string(cursor)):
                return Broken(*_resume(cursor, string, depth, BREAKS_OFF))
        elif sign in "{[":
            depth += 1
            cursor.at += 1
            if depth > MAX_DEPTH:
                return Broken(cursor.begun, f"it is nested deeper than {MAX_DEPTH} levels", depth)
        elif sign in "}]":
            depth -= 1
            cursor.at += 1
            if depth <= 0:
                return None
        else:
            return Broken(*_resume(cursor, string, depth, f"it is not valid JSON: {sign!r} stands outside of a text"))


def _resume(cursor: Cursor, string: tuple[int, int] | None, depth: int, reason: str) -> tuple[int, str, int]:
    size, depth = string or (cursor.begun, depth)
    return size, reason, depth


def _rest_of_string(cursor: Cursor) -> Steps[bool]:
    while True:
        inside = _IN_STRING.match(cursor.text, cursor.at)
        assert inside is not None
        cursor.at = inside.end()
        if cursor.text.startswith('"', cursor.at):
            cursor.at += 1
            return True
        if cursor.ended:
            return False
        yield


# -- whole values -----------------------------------------------------------------------------------


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Unreadable(f"“{first_twice([key for key, _ in pairs])}” stands there twice")
    return made


def _constant(word: str) -> Any:
    raise Unreadable(f"{word} is not JSON")


def _number(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise Unreadable("a number is too large")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_number)


def first_twice(names: Sequence[str]) -> str:
    """The first name that comes a second time, cut to 40 characters."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name[:40]
        seen.add(name)
    return ""


def read_json(text: str) -> Any:
    """The value of a JSON text; raises `Unreadable` for all that is not strict JSON, is too deep, or stands there twice."""
    value, end = read_json_at(text, len(text) - len(text.lstrip(" \t\r\n")))
    if text[end:].strip(" \t\r\n"):
        raise Unreadable("something follows the JSON value")
    return value


def read_json_at(text: str, at: int) -> tuple[Any, int]:
    """The JSON value that begins at `at` in `text`, and where it ends."""
    try:
        value, end = _DECODER.raw_decode(text, at)
    except Unreadable:
        raise
    except RecursionError:
        raise Unreadable(f"it is nested deeper than {MAX_DEPTH} levels") from None
    except json.JSONDecodeError as exc:
        raise Unreadable(f"it is not valid JSON: {exc.msg[:1].lower()}{exc.msg[1:]}, at character {exc.pos - at + 1} of it") from None
    except ValueError:
        raise Unreadable("a number is too long") from None
    check_value(value, text[at:end])
    return value, end


def check_value(value: Any, text: str) -> None:
    """Raise `Unreadable` for a value that was read from `text` and is nested too deep or holds half a character."""
    if text.count("{") + text.count("[") > MAX_DEPTH and depth_of(value) > MAX_DEPTH:
        raise Unreadable(f"it is nested deeper than {MAX_DEPTH} levels")
    if _HALF.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise Unreadable("a text holds half a character (a lone surrogate)") from None


def depth_of(value: Any) -> int:
    """How many lists and objects stand in one another; 0 for a plain value."""
    deepest, left = 0, [(value, 1)]
    while left:
        item, depth = left.pop()
        if isinstance(item, (Mapping, list, tuple)):
            deepest = max(deepest, depth)
            left += [(inner, depth + 1) for inner in (item.values() if isinstance(item, Mapping) else item)]
    return deepest


def call_from(value: Any, name_key: str, arguments_key: str, *, optional: Mapping[str, Any] | None = None, with_id: bool = False) -> ToolCall:
    """The call that a JSON object stands for, which has these two keys, and of `optional` those with that value; raises `Unreadable`."""
    if not isinstance(value, dict):
        raise Unreadable("the call is not a JSON object")
    for key in (name_key, arguments_key):
        if key not in value:
            raise Unreadable(f"“{key}” is missing")
    for key in value:
        known = key in (name_key, arguments_key) or (with_id and key == "id") or (optional and key in optional and value[key] == optional[key])
        if not known:
            raise Unreadable(f"“{key[:40]}” is no part of a call")
    name, arguments, number = value[name_key], value[arguments_key], value.get("id")
    if not isinstance(arguments, dict):
        raise Unreadable("the arguments are not a JSON object")
    if number is not None and not isinstance(number, str):
        raise Unreadable("the call's id is not a text")
    return ToolCall(checked_name(name), arguments, number)


def checked_name(name: Any) -> str:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise Unreadable(f"the tool's name {str(name)[:40]!r} is not a name")
    return name


def value_or_text(result: str) -> object:
    """A tool's answer as the JSON object or list it is, or else as a text."""
    try:
        value = read_json(result)
    except Unreadable:
        return result
    return value if isinstance(value, (dict, list)) else result
