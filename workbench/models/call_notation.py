"""xgrammar's rules of a JSON schema, rewritten as a dialect writes JSON: its quotes, names, separators and words, and each character as it must stand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from workbench.calls.segments import DialectError

_SIGN = re.compile(
    r'(?P<regex>Regex\("(?:\\.|[^"\\])*"[^)]*\))|(?P<text>"(?:\\.|[^"\\])*")|(?P<set>\[(?:\\.|[^\]\\])*\])|(?P<name>[A-Za-z_]\w*)|(?P<space>\s+)|.', re.DOTALL
)
_ONE = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)|.", re.DOTALL)
_ESCAPES = {"0": 0, "n": 10, "r": 13, "t": 9, "b": 8, "f": 12, "v": 11}
_WORDS = ("true", "false", "null")
_AHEAD = re.compile(r" \(=\(.*\)\)$", re.MULTILINE)  # what xgrammar foresees behind a text, which is quicker: but a bracket may stand there too
_LIMITED = re.compile(r'"\\"" \w+_characters\{(\d+), (-?\d+)\} "\\""')


@dataclass(frozen=True)
class Notation:
    """How a dialect writes the parts of JSON.

    `value` and `key` write a whole value and a name in an object, and raise `DialectError` for what can't be written. `rules` are EBNF
    rules that all tools share, `texts` the one of a text of any length with its quotes and `keys` (of `key_rules`) that of a name which the
    schema leaves open, where they are not JSON's; `limited` gives what stands between the quotes for a text of so many characters (-1: any number).
    With `named`, which writes a name as `key` does, the arguments' own object goes without its brackets, as `name=value, …`.
    """

    value: Callable[[object], str]
    key: Callable[[str], str]
    comma: str = ", "
    colon: str = ": "
    quote: str = '"'
    named: Callable[[str], str] | None = None
    texts: str = ""
    keys: str = ""
    limited: Callable[[int, int], str] | None = None
    rules: tuple[str, ...] = ()
    key_rules: tuple[str, ...] = ()
    escapes: Mapping[str, str] = field(default_factory=dict)  # how a character of the arguments' JSON is written, where not as itself

    @property
    def patterns(self) -> bool:
        """Whether a schema's pattern can be kept: xgrammar writes what it allows as JSON does, quotes and all."""
        return not self.texts and not self.named and '"' not in self.escapes


class _Sign(NamedTuple):
    kind: str
    written: str

    @property
    def said(self) -> str:
        """The text that a terminal stands for; empty for other signs."""
        return "".join(chr(_code(one)) for one in _ONE.findall(self.written[1:-1])) if self.kind == "text" else ""


def noted(rules: str, prefix: str, notation: Notation) -> str:
    """The rules of one tool's arguments in that notation, with their names after `prefix`; raises `DialectError` as the notation does."""
    if notation.limited is not None:
        limited = notation.limited
        quote = terminal(notation.quote)
        rules = _LIMITED.sub(lambda found: f"{quote} ({limited(int(found[1]), int(found[2]))}) {quote}", rules)
    if notation.named:
        rules = _AHEAD.sub("", rules)
    signs = {name: _signs(body) for name, _, body in (line.partition(" ::= ") for line in rules.splitlines() if line)}
    within = _within_texts(signs)
    top = _top(signs) if notation.named else frozenset[str]()
    own = {notation.keys, *(rule.partition(" ::= ")[0] for rule in notation.rules)}
    lines = []
    for name, body in signs.items():
        if notation.texts and name in ("basic_string", "basic_string_sub", "basic_escape") or name.endswith("_characters") and notation.limited:
            continue
        kept = body if name in within else _rewritten(body, notation, name in top)
        lines.append(f"{prefix}{name} ::= " + "".join(_spelt(sign, prefix, own, notation) for sign in kept))
    return "\n".join(lines)


def _signs(body: str) -> list[_Sign]:
    return [_Sign(found.lastgroup or "", found[0]) for found in _SIGN.finditer(body)]


def _within_texts(signs: Mapping[str, list[_Sign]]) -> set[str]:
    """The rules that stand between two quotes: what they say is text, however it looks."""
    waiting: list[str] = []
    for body in signs.values():
        inside = False
        for sign in body:
            inside = inside is not (sign.said == '"')
            if inside and sign.kind == "name":
                waiting.append(sign.written)
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in signs and name not in found and name != "basic_string_sub":  # which has the closing quote in it
            found.add(name)
            waiting += [sign.written for sign in signs[name] if sign.kind == "name"]
    return found - {"basic_string", "basic_string_sub"}


def _top(signs: Mapping[str, list[_Sign]]) -> frozenset[str]:
    """The rules of the arguments' own object: all that is reached from the root but by a value. Raises `DialectError` where others use them too."""
    found, waiting = set[str](), ["root"]
    while waiting:
        name = waiting.pop()
        if name in found or name not in signs:
            continue
        found.add(name)
        body = [sign for sign in signs[name] if sign.kind != "space"]
        names = (sign.written for before, sign, after in zip([None, *body], body, [*body[1:], None], strict=False)
                 if sign.kind == "name" and (before is None or before.said != ": ") and (after is None or after.said != ": "))
        waiting += names
    if any(sign.written in found for name, body in signs.items() if name not in found for sign in body if sign.kind == "name"):
        raise DialectError("its arguments stand in themselves", "tool_calls")
    return frozenset(found)


def _rewritten(body: list[_Sign], notation: Notation, top: bool) -> list[_Sign]:
    """A rule outside of texts: names, words, whole values and what stands between them, as the notation has them."""
    made: list[_Sign] = []
    inside = False
    for place, sign in enumerate(body):
        after = next((later for later in body[place + 1 :] if later.kind != "space"), _Sign("", ""))
        said = sign.said
        inside = inside is not (said == '"')
        if inside and said != '"':
            made.append(sign)
        elif after.said == ": " and said:
            made.append(_Sign("text", terminal((notation.named if top and notation.named else notation.key)(json.loads(said)))))
        elif after.said == ": " and sign.kind == "name" and notation.keys and (top or not notation.named):
            made.append(_Sign("name", notation.keys))
        elif sign.written == "basic_string" and notation.texts:
            made.append(_Sign("name", notation.texts))
        elif sign.kind == "text":
            made.append(_Sign("text", terminal(_separator(said, notation, top))))
        else:
            made.append(sign)
    return made


def _separator(said: str, notation: Notation, top: bool) -> str:
    if said in _WORDS or (len(said) > 1 and said[0] in '"[{'):
        return notation.value(json.loads(said))
    if top and said in ("{", "}"):
        return ""
    return {", ": notation.comma, ": ": "=" if top else notation.colon, '"': notation.quote}.get(said, said)


# -- characters -------------------------------------------------------------------------------------


def terminal(text: str) -> str:
    """An EBNF terminal that is `text`."""
    return '"' + "".join(_safe(one) for one in text) + '"'


def _safe(one: str) -> str:
    return f"\\{one}" if one in '"\\' else one if one.isprintable() else f"\\U{ord(one):08x}"


def _spelt(sign: _Sign, prefix: str, own: set[str], notation: Notation) -> str:
    """A sign with every character as the notation writes it, and a rule's name after `prefix` unless it is one of `own`."""
    if sign.kind == "name":
        return sign.written if sign.written in own else prefix + sign.written
    if sign.kind == "text":
        return '"' + "".join(_escaped(one, notation.escapes) for one in _ONE.findall(sign.written[1:-1])) + '"'
    return _escaped_set(sign.written, notation.escapes) if sign.kind == "set" and not notation.texts else sign.written


def _code(one: str) -> int:
    """The character that a sign of a text or a set stands for."""
    if len(one) == 1:
        return ord(one)
    return int(one[2:], 16) if len(one) > 2 else _ESCAPES.get(one[1], ord(one[1]))


def _escaped(one: str, escapes: Mapping[str, str]) -> str:
    written = escapes.get(chr(_code(one)))
    if written is not None:
        return terminal(written)[1:-1]
    return f"\\U{_code(one):08x}" if len(one) > 2 else one  # "\\x80" before a "0" would be read as one sign


def _escaped_set(written: str, escapes: Mapping[str, str]) -> str:
    """A set of characters without those of `escapes`, and beside it how these are written. What a set leaves open never is a control character."""
    negated, signs = written[1] == "^", _ONE.findall(written[2 if written[1] == "^" else 1 : -1])
    ranges: list[tuple[int, int]] = []
    while signs:
        low = high = _code(signs.pop(0))
        if len(signs) > 1 and signs[0] == "-":
            high = _code(signs[1])
            del signs[:2]
        ranges.append((low, high))
    if negated:
        ranges.append((0, 31))  # JSON forbids them in a text, which xgrammar forgets where a text's length is limited
    inside = [c for c in escapes if any(low <= ord(c) <= high for low, high in ranges) is not negated]
    if not inside and not negated:
        return written
    if negated:
        ranges += [(ord(c), ord(c)) for c in inside]
    else:
        for c in map(ord, inside):
            ranges = [part for low, high in ranges for part in (((low, c - 1), (c + 1, high)) if low <= c <= high else ((low, high),)) if part[0] <= part[1]]
    kept = ["[" + "^" * negated + "".join(f"{_shown(low)}-{_shown(high)}" if low < high else _shown(low) for low, high in ranges) + "]"] if ranges else []
    return "(" + " | ".join([*kept, *(terminal(escapes[c]) for c in inside)]) + ")" if inside else kept[0]


def _shown(code: int) -> str:
    return chr(code) if chr(code).isascii() and chr(code).isalnum() else f"\\U{code:08x}"


# -- texts and words without some others ------------------------------------------------------------


def texts_without(marker: str, name: str) -> list[str]:
    """Rules of all texts in which `marker` does not stand, the first of them `name`. The marker's first sign stands in it just once."""
    first, others = marker[0], marker[1:]
    assert first not in others
    rules = [f"{name} ::= {name}_rest ({terminal(first)} {name}_1)*", f"{name}_rest ::= [^{_shown(ord(first))}]*"]
    for place, sign in enumerate(others, 1):
        goes_on = f" | {terminal(sign)} {name}_{place + 1}" if place < len(others) else ""
        rules.append(f'{name}_{place} ::= "" | [^{_shown(ord(first))}{_shown(ord(sign))}] {name}_rest{goes_on}')
    return rules


def words_but(refused: tuple[str, ...], name: str, *, longest: int) -> list[str]:
    """Rules of the words of letters, digits and '_' that begin with no digit and are none of `refused`, the first of them `name`."""
    begun = sorted({word[:n] for word in refused for n in range(len(word) + 1)})
    rules = []
    for place, so_far in enumerate(begun):
        nexts = sorted({word[len(so_far)] for word in refused if word.startswith(so_far) and len(word) > len(so_far)})
        rest = f"[A-Za-z0-9_]{{0,{longest - len(so_far) - 1}}}"
        other = "".join(c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_" + "0123456789" * bool(so_far) if c not in nexts)
        ways = [f"[{other}] {rest}", *(f"{terminal(c)} {name}_{begun.index(so_far + c)}" for c in nexts)]
        if so_far and so_far not in refused:
            ways.insert(0, '""')
        rules.append(f"{name if not so_far else f'{name}_{place}'} ::= " + " | ".join(ways))
    return rules
