"""The items of a long JSON text as slices of its bytes, without parsing it: each can then be parsed, or refused, by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator

# A string counts as one token, so that brackets inside it are not seen; a lone quote is a string that never ends.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},]', re.DOTALL)
LISTS = (b'"data"', b'"rows"', b'"examples"', b'"train"', b'"records"', b'"items"')
KEYS_LOOKED_AT = 100_000  # tokens before the list of rows must have begun
_OPEN, _CLOSE, _COMMA, _QUOTE = (*b"{[",), (*b"}]",), b","[0], b'"'[0]


def _endless(match: re.Match[bytes]) -> bool:
    """Whether a string begins here that never ends: what follows can't be told apart, and must not be looked through again."""
    return match.group() == b'"'


def items(raw: bytes, start: int, notes: list[str], under: str = "") -> Iterator[tuple[int, bytes]]:
    """The items of the array that opens before `start`, each with its number from 1; what is odd after it is told in `notes`."""
    depth, begin, count = 0, start, 1
    notes.append("The numbers are those of the items in the list.")
    for match in _TOKEN.finditer(raw, start):
        sign = raw[match.start()]
        if sign in _OPEN:
            depth += 1
        elif sign in _CLOSE and depth:
            depth -= 1
        elif sign in _CLOSE:
            if count > 1 or raw[begin : match.start()].strip():
                yield count, raw[begin : match.start()].strip() or b"]"
            _tell_rest(raw[match.end() :].strip(), notes, under)
            return
        elif sign == _COMMA and not depth:
            yield count, raw[begin : match.start()].strip() or b","
            begin, count = match.end(), count + 1
        elif _endless(match):
            break
    notes.append("The list is never closed: the file seems to be cut off.")
    if raw[begin:].strip():
        yield count, raw[begin:].strip()


def _tell_rest(rest: bytes, notes: list[str], under: str) -> None:
    if under and rest != b"}":
        notes.append(f"Only the list under “{under}” was read; the file's other keys were left out.")
    elif not under and rest:
        notes.append("What follows the end of the list was left out.")


def values(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """JSON objects one after another, each over as many lines as it likes; each with its number from 1; what stands between two goes with the second."""
    depth, begin, count = 0, 0, 1
    for match in _TOKEN.finditer(raw):
        sign = raw[match.start()]
        if _endless(match):
            break
        if sign in _OPEN:
            depth += 1
        elif sign in _CLOSE:
            depth -= 1
            if depth <= 0:
                yield count, raw[begin : match.end()].strip()
                begin, depth, count = match.end(), 0, count + 1
    if raw[begin:].strip():
        yield count, raw[begin:].strip()


def never_closed(raw: bytes) -> bool:
    """Whether the JSON text ends within the object, list or string that it begins with."""
    depth = 0
    for match in _TOKEN.finditer(raw):
        sign = raw[match.start()]
        if _endless(match):
            return True
        depth += (sign in _OPEN) - (sign in _CLOSE)
        if depth <= 0:
            return False
    return depth > 0


def find_list(raw: bytes) -> tuple[str, int] | None:
    """The key under which an object holds its list of rows, and where the list begins; None if it has none."""
    depth, key, count = 0, b"", 0
    for match in _TOKEN.finditer(raw):
        sign, count = raw[match.start()], count + 1
        if count > KEYS_LOOKED_AT or _endless(match):
            return None
        if sign == _QUOTE:
            key = match.group() if depth == 1 and match.end() - match.start() < 20 else b""
        elif sign in _OPEN:
            if depth == 1 and sign == b"["[0] and key in LISTS and raw[match.end() : match.end() + 200].lstrip()[:1] == b"{":
                return key.decode()[1:-1], match.end()
            depth += 1
        elif sign in _CLOSE:
            depth -= 1
            if depth <= 0:
                return None
    return None
