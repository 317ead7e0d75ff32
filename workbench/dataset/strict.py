"""JSON as the standard has it, and nothing else: what Python's reader would let pass or choke on is refused with its reason.

Refused: a key that stands twice, NaN and Infinity, numbers too large to be read, half characters, NUL, nesting beyond
`MAX_DEPTH`, records beyond `MAX_RECORD_BYTES`. Whatever came through can be walked, written and shown without a further look.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import Any

from workbench.dataset.jsonscan import never_closed
from workbench.errors import DataError, RowError

MAX_DEPTH = 64  # objects and lists inside each other, the row itself counted
MAX_DIGITS = 4300  # of a whole number: what Python reads
MAX_RECORD_BYTES = 2**20  # of one row, as UTF-8
MAX_LINES = 200_000  # rows of one file, readable or not
MAX_VALUES = 2_500_000  # objects, lists and their items in one file: bounds the memory that parsing takes
KEYS_SEEN, KEYS_TOLD = 50, 4  # of an object whose key is missing: looked through for the one that was meant, and named

_BAD = re.compile("[\x00\ud800-\udfff]")
_LINE = re.compile(r"(?m)^[^\S\n]*+\S[^\n]*+")
_TOO_DEEP = f"the nesting is deeper than {MAX_DEPTH} levels"


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Every line that holds more than blanks, with its number from 1; raises `DataError` past `MAX_LINES` of them.

    Only `\\n` ends a line: JSON strings may hold other line separators (U+2028) as they are.
    """
    number, seen = 1, 0
    for count, match in enumerate(_LINE.finditer(text)):
        if count == MAX_LINES:
            raise DataError(f"There are more than {MAX_LINES:,} rows: split the file into smaller ones.")
        number += text.count("\n", seen, match.start())
        seen = match.start()
        yield number, match.group()


def count_values(text: str | bytes) -> int:
    """About how many objects, lists and items a JSON text holds: an upper bound, found without parsing it."""
    if isinstance(text, bytes):
        return text.count(b"{") + text.count(b"[") + text.count(b",")
    return text.count("{") + text.count("[") + text.count(",")


def too_many_values(name: str) -> DataError:
    return DataError(f"{name} holds more than {MAX_VALUES:,} objects and items, too many to read at once: split it into smaller files.")


def check_size(text: str) -> None:
    """Raise `RowError` for a record beyond `MAX_RECORD_BYTES`."""
    if len(text) * 4 > MAX_RECORD_BYTES and (size := len(text.encode("utf-8", "replace"))) > MAX_RECORD_BYTES:
        raise RowError(too_long(size), "line")


def too_long(size: int) -> str:
    return f"the row has {size / 2**20:.1f} MiB; at most {MAX_RECORD_BYTES // 2**20} MiB can be read"


def parse_json(text: str) -> Any:
    """The value that `text` is; raises `RowError` (field "line") with the reason and, where there is one, the column."""
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as exc:
        raise RowError(f"not valid JSON: {exc.msg} at column {exc.colno}", "line") from exc
    except RecursionError as exc:
        raise RowError(f"not valid JSON: {_TOO_DEEP}", "line") from exc


def parse_listed(text: str, start: int) -> tuple[list[Any], str] | None:
    """The whole items of a list that opens before `start` and is cut off by the text's end, and the text of the cut one (empty for none).

    None where the list is not cut off but wrong: an item that can't be read, or anything but its end after it.
    """
    found: list[Any] = []
    at = _skip(text, start)
    try:
        while at < len(text):
            value, end = _DECODER.raw_decode(text, at)
            at = _skip(text, end)
            if not isinstance(value, (dict, list)) and at == len(text):
                return None  # 12 may be the beginning of 123
            found.append(value)
            if text[at : at + 1] == "]":
                return (found, "") if text[at + 1 :].strip() in ("", "}") else None
            if at < len(text) and text[at] != ",":
                return None
            at = _skip(text, at + 1) if at < len(text) else at
    except json.JSONDecodeError:
        return (found, text[at:]) if never_closed(text[at:].encode("utf-8", "replace")) else None
    except (RowError, RecursionError):
        return None
    return found, ""


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise RowError(f"not valid JSON: the key {short(twice)} stands twice in one object", "line")
    return value


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise RowError(f"not valid JSON: a whole number has {len(digits.lstrip('-'))} digits; at most {MAX_DIGITS} can be read", "line")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise RowError(f"not valid JSON: the number {short(digits)[1:-1]} is too large", "line")
    return value


def _constant(word: str) -> None:
    raise RowError(f"not valid JSON: {word} is not a JSON number", "line")


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_int=_whole, parse_float=_float, parse_constant=_constant)


def check_value(value: Any, field: str = "", depth: int = 0) -> None:
    """Raise `RowError` for what can't be written as JSON and read again, naming its field as in `messages[0].content`."""
    found = _fault(value, depth)
    if found is not None:
        reason, path = found
        raise RowError(reason, (field + "".join(reversed(path))).removeprefix(".") or "line")


def _fault(value: Any, depth: int) -> tuple[str, list[str]] | None:
    """The first fault's reason and the way to it, inmost step first."""
    if isinstance(value, str):
        bad = _BAD.search(value)
        if bad is None:
            return None
        return ("the text holds a NUL character; take it out" if bad.group() == "\0" else "the text holds half a character (a lone surrogate); type it again"), []
    if isinstance(value, (dict, list)):
        if depth >= MAX_DEPTH:
            return _TOO_DEEP, []
        return _fault_in(value, depth + 1)
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else (f"{value} is not a JSON number", [])
    if isinstance(value, int):
        return None if value.bit_length() <= 14_280 else (f"a whole number has more than {MAX_DIGITS} digits", [])
    return f"{type(value).__name__} is no JSON value", []


def _fault_in(value: dict[Any, Any] | list[Any], depth: int) -> tuple[str, list[str]] | None:
    if isinstance(value, list):
        for i, item in enumerate(value):
            if (found := _fault(item, depth)) is not None:
                found[1].append(f"[{i}]")
                return found
        return None
    for key, item in value.items():
        if not isinstance(key, str):
            return f"the key {short(str(key))} is not a text", []
        found = _fault(key, depth) or _fault(item, depth)
        if found is not None:
            name = _BAD.sub("�", key)
            found[1].append(f".{name if len(name) <= 40 else name[:39] + '…'}")
            return found
    return None


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true/false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "an empty text" if not value else "a text"
    if isinstance(value, Mapping):
        return "an object"
    return "an empty list" if not value else "a list"


def short(value: Any) -> str:
    """A value as JSON of 40 characters at most, fit for a sentence."""
    text = _BAD.sub("�", json.dumps(value, ensure_ascii=False))
    return text if len(text) <= 40 else text[:39] + "…"


def missing_key(value: Mapping[str, Any], wanted: str, known: Collection[str], other_names: Collection[str] = ()) -> str:
    """That the key `wanted` is missing, and which key beside the `known` ones was probably meant: one of its `other_names`, or one spelt like it."""
    strange = [key for key in islice(value, KEYS_SEEN) if key not in known]
    alike = get_close_matches(wanted, [key.lower() for key in strange if len(key) <= 2 * len(wanted)], n=1)
    meant = next((key for key in strange if key.lower() in (*other_names, *alike)), None)
    if meant is not None:
        return f"the key is missing; {short(meant)} is unknown here: was {short(wanted)} meant?"
    found = ", ".join(short(key) for key in strange[:KEYS_TOLD]) + (", …" if len(strange) > KEYS_TOLD else "")
    return f"the key is missing; unknown here: {found}" if strange else "the key is missing"


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same, 1 and 1.0 and true told apart."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
