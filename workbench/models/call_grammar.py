"""A dialect's calls of the tools at hand as a grammar (xgrammar's EBNF): what a bound reply may write once it has begun a call."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import xgrammar

from workbench.calls.dialect import Dialect
from workbench.errors import InputError
from workbench.schema import ToolSpec

MAX_TOOLS = 64  # in one grammar: each takes time to compile
FREE_DEPTH = 4  # lists and objects in each other where a schema says nothing of a value
MOST_DIGITS = 30  # of a number: a longer one can't be read back
_FORMATS = ("date", "time", "date-time", "uuid", "ipv4")  # xgrammar's rules for others let texts in that are no JSON

_SIGN = re.compile(
    r'(?P<regex>Regex\("(?:\\.|[^"\\])*"[^)]*\))|(?P<text>"(?:\\.|[^"\\])*")|(?P<set>\[(?:\\.|[^\]\\])*\])|(?P<name>[A-Za-z_]\w*)|.', re.DOTALL
)
_ONE = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)|.", re.DOTALL)
_ESCAPES = {"0": 0, "n": 10, "r": 13, "t": 9, "b": 8, "f": 12, "v": 11}

# In the place of xgrammar's own rules: no half characters, no number that is too large, no key twice, no nesting without an end.
_BASIC = {
    "basic_escape": r'["\\/bfnrt] | "u" ([0-9A-Ca-cEFef] [0-9A-Fa-f]{3} | [Dd] [0-7] [0-9A-Fa-f]{2})',
    "basic_integer": rf'"0" | "-"? [1-9] [0-9]{{0,{MOST_DIGITS}}}',
    "basic_number": rf'"-"? ("0" | [1-9] [0-9]{{0,{MOST_DIGITS}}}) ("." [0-9]{{1,{MOST_DIGITS}}})? ([eE] [+\-]? [0-9]{{1,2}})?',
    "basic_array": '"[" (basic_any_1 (", " basic_any_1)*)? "]"',
    "basic_object": '"{" (basic_string ": " basic_any_1)? "}"',
}
_SCALARS = "basic_number | basic_string | basic_boolean | basic_null"


def call_grammar(dialect: Dialect, tools: Sequence[ToolSpec]) -> str:
    """The EBNF of one call, in `dialect`, of one of `tools`; white space may follow it.

    What the grammar can't say of a schema (`uniqueItems`, `multipleOf`, conditions) it leaves open; objects get their named arguments in
    the schema's order, and one more at most where the schema names none. Raises `InputError` where a dialect or a schema has no grammar.
    """
    if dialect.name not in FORMS:
        raise InputError(f"Calls in the dialect “{dialect.name}” can't be bound to a grammar, only those in {', '.join(FORMS)}: switch “Bind calls” off.")
    if not tools:
        raise InputError("There is no tool that a call could be bound to: describe one on the Data tab (Tools), or switch “Bind calls” off.")
    if len(tools) > MAX_TOOLS:
        raise InputError(f"Calls can be bound to {MAX_TOOLS} tools at most, and there are {len(tools)}: switch “Bind calls” off.")
    form = FORMS[dialect.name]
    rules = ["root ::= (" + " | ".join(f"call_{i}" for i in range(len(tools))) + r") [ \n\r\t]*", r"ws ::= [ \n\r\t]{0,32}", r"gap ::= [ \n\r\t]{0,8}"]
    for i, tool in enumerate(tools):
        rules += [f"call_{i} ::= {form.rule(tool.name, f'a{i}_root')}"]
        # A pattern has rules of its own, in which no quote can be written otherwise.
        rules.append(_rewritten(_arguments(tool, patterns='"' not in form.escapes), f"a{i}_", form.escapes))
    return "\n".join(rules)


def _arguments(tool: ToolSpec, *, patterns: bool) -> str:
    """The EBNF of the tool's arguments as JSON on one line."""
    try:
        schema = json.dumps(_narrowed(tool.parameters, patterns))
        written = str(xgrammar.Grammar.from_json_schema(schema, any_whitespace=False, strict_mode=True))
    except RuntimeError as exc:
        why = str(exc).splitlines()[0].split(": ", 1)[-1][:200]
        raise InputError(f"The arguments of {tool.name[:80]} can't bind a call: {why}. Simplify the tool's schema, or switch “Bind calls” off.") from exc
    # Where a text's length is limited xgrammar lets raw control characters in, and no escapes.
    written = re.sub(r"^(\w+_characters) ::= .*$", r'\1 ::= [^"\\\\] | "\\\\" basic_escape', written, flags=re.MULTILINE)
    kept = [line for line in written.splitlines() if line.partition(" ::= ")[0] not in _BASIC]
    values = [f"basic_any_{n} ::= {_SCALARS} | basic_array_{n} | basic_object_{n}" for n in range(1, FREE_DEPTH)]
    for n in range(1, FREE_DEPTH):
        for kind in ("basic_array", "basic_object"):
            values.append(f"{kind}_{n} ::= {_BASIC[kind].replace('basic_any_1', f'basic_any_{n + 1}')}")
    values.append(f"basic_any_{FREE_DEPTH} ::= {_SCALARS}")
    return _short_numbers("\n".join([*kept, *(f"{name} ::= {rule}" for name, rule in _BASIC.items()), *values]))


def _short_numbers(rules: str) -> str:
    """The rules with no number of more digits than can be read back."""
    for name in re.findall(r"^(\w+) ::= \(\(\[0-9\]\)\)$", rules, re.MULTILINE):
        rules = re.sub(rf"\b{name}{{([01]), -1}}", rf"{name}{{\1, {MOST_DIGITS}}}", rules)
    return rules.replace("[0-9]*", f"[0-9]{{0,{MOST_DIGITS}}}")


def _narrowed(schema: Any, patterns: bool) -> Any:
    """The schema with less room, where some of it could be filled with what can't be read back: all that fits it fits the schema too,
    but for what the grammar leaves open."""
    if isinstance(schema, list):
        return [_narrowed(part, patterns) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {key: part for key, part in schema.items() if key not in ("pattern", "format", "default", "examples")}
    for key in _INNER & found.keys():
        part = found[key]
        named = key in ("properties", "$defs", "definitions") and isinstance(part, Mapping)
        found[key] = {name: _narrowed(inner, patterns) for name, inner in part.items()} if named else _narrowed(part, patterns)
    if patterns and isinstance(schema.get("pattern"), str):
        found["pattern"] = schema["pattern"]
    if schema.get("format") in _FORMATS:
        found["format"] = schema["format"]
    if found.get("properties"):
        found["additionalProperties"] = False
        found.pop("propertyNames", None)
    elif found.get("type") == "object" and found.get("additionalProperties", False) is not False or "propertyNames" in found:
        found["maxProperties"] = min(1, found.get("maxProperties", 1))
    return found


_INNER = {"properties", "$defs", "definitions", "items", "prefixItems", "additionalProperties", "anyOf", "oneOf", "allOf", "propertyNames"}


# -- forms ------------------------------------------------------------------------------------------


def _text(text: str) -> str:
    """A terminal that is `text`."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _tag(name: str, arguments: str) -> str:
    begun = _text(f'<tool_call name="{name}" arguments="')
    return f"{begun} {arguments} {_text(chr(34) + '/>')}"


def _hermes(name: str, arguments: str) -> str:
    begun = _text(f'{{"name": "{name}", "arguments": ')
    return f"{_text('<tool_call>')} gap {begun} {arguments} {_text('}')} gap {_text('</tool_call>')}"


def _json(name: str, arguments: str) -> str:
    named, brought = f'{_text(json.dumps("function"))} gap ":" " "?', f'{_text(json.dumps("arguments"))} gap ":" " "?'
    whole = _text(f'"{name}"')
    return f'"{{" ws ({named} {whole} ", " {brought} {arguments} | {brought} {arguments} ", " {named} {whole}) "}}"'


@dataclass(frozen=True)
class Form:
    """How a dialect's calls become rules, and how one is seen coming."""

    rule: Callable[[str, str], str]  # of a call, from the tool's name and the rule of its arguments
    heads: re.Pattern[str]  # finds the end of a text that may begin an opening
    last: bytes  # an opening's last character: a token without it can't end one
    escapes: Mapping[str, str]  # how a character of the arguments' JSON is written, where not as itself; but for the quote all of these stand in texts only


def _beginnings(opening: str) -> re.Pattern[str]:
    return re.compile("(?:" + "(?:".join(map(re.escape, opening[:-1])) + ")?" * (len(opening) - 2) + r")\Z")


FORMS: dict[str, Form] = {
    "tag": Form(_tag, _beginnings("<tool_call"), b"l", {'"': "&quot;", "&": "&amp;", "<": "&lt;", ">": "&gt;"}),
    "json": Form(_json, re.compile(r'\{\s{0,32}(?:"[a-z]{0,9}(?:"\s{0,8})?)?\Z'), b":", {}),
    "hermes": Form(_hermes, _beginnings("<tool_call>"), b">", {}),
}


# -- rewriting --------------------------------------------------------------------------------------


def _rewritten(rules: str, prefix: str, escapes: Mapping[str, str]) -> str:
    """The rules with their names after `prefix`, and with every character of `escapes` written as it says."""

    def sign(found: re.Match[str]) -> str:
        if found["name"]:
            return prefix + found["name"]
        if found["text"]:
            return '"' + "".join(_escaped(one, escapes) for one in _ONE.findall(found["text"][1:-1])) + '"'
        if found["set"]:
            return _escaped_set(found["set"], escapes)
        return found[0]

    return _SIGN.sub(sign, rules)


def _code(one: str) -> int:
    """The character that a sign of a text or a set stands for."""
    if len(one) == 1:
        return ord(one)
    return int(one[2:], 16) if len(one) > 2 else _ESCAPES.get(one[1], ord(one[1]))


def _escaped(one: str, escapes: Mapping[str, str]) -> str:
    written = escapes.get(chr(_code(one)))
    if written is not None:
        return _text(written)[1:-1]
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
    return "(" + " | ".join([*kept, *(_text(escapes[c]) for c in inside)]) + ")" if inside else kept[0]


def _shown(code: int) -> str:
    return chr(code) if chr(code).isascii() and chr(code).isalnum() else f"\\U{code:08x}"
