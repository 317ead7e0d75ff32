"""The items of a long JSON text as slices of its bytes, without parsing it: each can then be parsed, or refused, by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator

# A string counts as one token, so that brackets inside it are not seen; a lone quote is a string that never ends.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},]', re.DOTALL)
LISTS = (b'"data"', b'"rows"', b'"examples"', b'"train"', b'"records"', b'"items"')
KEYS_LOOKED_AT = 100_000  # tokens before the list of rows must have begun
_OPEN, _CLOSE, _COMMA, _QUOTE = (*b"{[",), (*b"}]",), b","[0], b'"'[0]


class _Lines:
    """Line numbers of growing positions, each byte counted once."""

    def __init__(self, raw: bytes) -> None:
        self.raw, self.number, self.at = raw, 1, 0

    def of(self, position: int) -> int:
        while position < len(self.raw) and self.raw[position] in b" \t\r\n":
            position += 1
        self.number += self.raw.count(b"\n", self.at, position)
        self.at = max(self.at, position)
        return self.number


def _endless(match: re.Match[bytes]) -> bool:
    """Whether a string begins here that never ends: what follows can't be told apart, and must not be looked through again."""
    return match.group() == b'"'


def items(raw: bytes, start: int, notes: list[str], under: str = "") -> Iterator[tuple[int, bytes]]:
    """The items of the array that opens before `start`, each with its line from 1; what is odd after it is told in `notes`."""
    lines, depth, begin, count = _Lines(raw), 0, start, 0
    for match in _TOKEN.finditer(raw, start):
        sign = raw[match.start()]
        if sign in _OPEN:
            depth += 1
        elif sign in _CLOSE and depth:
            depth -= 1
        elif sign in _CLOSE:
            if count or raw[begin : match.start()].strip():
                yield lines.of(begin), raw[begin : match.start()].strip() or b" ]"
            _tell_rest(raw[match.end() :].strip(), lines.of(match.end()), notes, under)
            return
        elif sign == _COMMA and not depth:
            yield lines.of(begin), raw[begin : match.start()].strip() or b" ,"
            begin, count = match.end(), count + 1
        elif _endless(match):
            break
    notes.append("The list is never closed: the file seems to be cut off.")
    if raw[begin:].strip():
        yield lines.of(begin), raw[begin:].strip()


def _tell_rest(rest: bytes, line: int, notes: list[str], under: str) -> None:
    if under and rest != b"}":
        notes.append(f"Only the list under “{under}” was read; the file's other keys were left out.")
    elif not under and rest:
        notes.append(f"What follows the end of the list (line {line}) was left out.")


def values(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """JSON objects one after another, each over as many lines as it likes; what stands between two goes with the second."""
    lines, depth, begin = _Lines(raw), 0, 0
    for match in _TOKEN.finditer(raw):
        sign = raw[match.start()]
        if _endless(match):
            break
        if sign in _OPEN:
            depth += 1
        elif sign in _CLOSE:
            depth -= 1
            if depth <= 0:
                yield lines.of(begin), raw[begin : match.end()].strip()
                begin, depth = match.end(), 0
    if raw[begin:].strip():
        yield lines.of(begin), raw[begin:].strip()


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
