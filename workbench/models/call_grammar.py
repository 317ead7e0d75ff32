"""A dialect's calls of the tools at hand as a grammar (xgrammar's EBNF): what a bound reply may write once it has begun a call."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import xgrammar

from workbench.calls.dialect import Dialect
from workbench.calls.segments import DialectError
from workbench.errors import InputError
from workbench.models.call_forms import FORMS
from workbench.models.call_notation import Notation, noted
from workbench.schema import ToolCall, ToolSpec

MAX_TOOLS = 64  # in one grammar: each takes time to compile
FREE_DEPTH = 4  # lists and objects in each other where a schema says nothing of a value
MOST_DIGITS = 30  # of a number: a longer one can't be read back
_FORMATS = ("date", "time", "date-time", "uuid", "ipv4")  # xgrammar's rules for others let texts in that are no JSON

# In the place of xgrammar's own rules: no half characters, no number that is too large, no key twice, no nesting without an end.
_BASIC = {
    "basic_escape": r'["\\bfnrt] | "u" ([0-9A-Ca-cEFef] [0-9A-Fa-f]{3} | [Dd] [0-7] [0-9A-Fa-f]{2})',
    "basic_integer": rf'"0" | "-"? [1-9] [0-9]{{0,{MOST_DIGITS}}}',
    "basic_number": rf'"-"? ("0" | [1-9] [0-9]{{0,{MOST_DIGITS}}}) ("." [0-9]{{1,{MOST_DIGITS}}})? ([eE] [+\-]? [0-9]{{1,2}})?',
    "basic_array": '"[" (basic_any_1 (", " basic_any_1)*)? "]"',
    "basic_object": '"{" (basic_string ": " basic_any_1)? "}"',
}
_SCALARS = "basic_number | basic_string | basic_boolean | basic_null"


def call_grammar(dialect: Dialect, tools: Sequence[ToolSpec]) -> str:
    """The EBNF of one call, in `dialect`, of one of `tools`; white space may follow it.

    What the grammar can't say of a schema (`uniqueItems`, `multipleOf`, conditions) it leaves open; objects get their named arguments in
    the schema's order, and one more at most where the schema names none. Where a dialect has no escapes, a text whose length the schema limits
    can't hold all signs of the marker that ends it. Raises `InputError` where a dialect or a schema has no grammar, or a name can't be written.
    """
    if dialect.name not in FORMS:
        raise InputError(f"Calls in the dialect “{dialect.name}” can't be bound to a grammar, only those in {', '.join(FORMS)}: switch “Bind calls” off.")
    if not tools:
        raise InputError("There is no tool that a call could be bound to: describe one on the Data tab (Tools), or switch “Bind calls” off.")
    if len(tools) > MAX_TOOLS:
        raise InputError(f"Calls can be bound to {MAX_TOOLS} tools at most, and there are {len(tools)}: switch “Bind calls” off.")
    form = FORMS[dialect.name]
    rules = [
        rf"root ::= ({form.whole}) [ \n\r\t]*", "call ::= " + " | ".join(f"call_{i}" for i in range(len(tools))), r"ws ::= [ \n\r\t]{0,32}",
        r"gap ::= [ \n\r\t]{0,8}", *form.rules, *form.notation.rules,
    ]
    for i, tool in enumerate(tools):
        try:
            dialect.render(ToolCall(tool.name))
            rules += [f"call_{i} ::= {form.call(tool.name, f'a{i}_root')}", noted(_arguments(tool, form.notation), f"a{i}_", form.notation)]
        except DialectError as exc:
            raise InputError(f"The tool {tool.name[:80]} can't bind a call: {exc.reason}. Or switch “Bind calls” off.") from exc
    if any(re.search(rf"\b{form.notation.keys}\b", rule) for rule in rules if form.notation.keys):
        rules += form.notation.key_rules
    return "\n".join(rules)


def _arguments(tool: ToolSpec, notation: Notation) -> str:
    """The EBNF of the tool's arguments as JSON on one line."""
    try:
        schema = json.dumps(_narrowed(tool.parameters, notation))
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


def _narrowed(schema: Any, notation: Notation) -> Any:
    """The schema with less room, where some of it could be filled with what can't be read back: all that fits it fits the schema too,
    but for what the grammar leaves open."""
    if isinstance(schema, list):
        return [_narrowed(part, notation) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {key: part for key, part in schema.items() if key not in ("pattern", "format", "default", "examples")}
    for key in _INNER & found.keys():
        part = found[key]
        named = key in ("properties", "$defs", "definitions") and isinstance(part, Mapping)
        found[key] = {name: _narrowed(inner, notation) for name, inner in part.items()} if named else _narrowed(part, notation)
    if notation.patterns and isinstance(schema.get("pattern"), str):
        found["pattern"] = schema["pattern"]
    if schema.get("format") in _FORMATS:
        found["format"] = schema["format"]
    if found.get("properties"):
        found["additionalProperties"] = False
        found.pop("propertyNames", None)
    elif found.get("type") == "object" and found.get("additionalProperties", False) is not False or "propertyNames" in found:
        found["maxProperties"] = min(1, found.get("maxProperties", 1))
    if "propertyNames" in found and notation.keys:  # a name stands there without quotes
        del found["propertyNames"]
        found["maxProperties"] = 0
    return found


_INNER = {"properties", "$defs", "definitions", "items", "prefixItems", "additionalProperties", "anyOf", "oneOf", "allOf", "propertyNames"}
