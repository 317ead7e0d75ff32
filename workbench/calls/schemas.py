"""JSON schemas of a tool's arguments, checked so that using them is safe: nothing is fetched, nothing runs for long.

A schema comes from a person or from a stranger's file. It is refused where it refers to another document or to
itself, is too large or too deep, or holds a pattern that could take ages to try.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from workbench.errors import RowError

MAX_SCHEMA = 64 * 1024  # characters of JSON
MAX_DEPTH = 24  # objects and lists inside each other
MAX_PARTS = 5_000  # subschemas, each counted as often as it is referred to
MAX_PATTERN = 200  # characters
TRIED_TEXT = 128  # characters: a longer text is not tried against a pattern
MAX_PATHS = 6.5  # log10 of the ways in which a pattern may match a text of that length

_ONE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames", "unevaluatedItems", "unevaluatedProperties")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAPS = ("properties", "$defs", "definitions", "dependentSchemas")
_REFUSED = ("$dynamicRef", "$recursiveRef", "$dynamicAnchor", "$anchor", "patternProperties")


def check_schema(schema: Any, field: str = "parameters") -> None:
    """Raise `RowError`, naming the place, unless `schema` is a safe JSON schema (draft 2020-12) of an object."""
    import jsonschema  # type: ignore[import-untyped]

    if not isinstance(schema, Mapping):
        raise RowError("a JSON schema is an object, as in {\"type\": \"object\", \"properties\": {}}", field)
    try:
        if len(json.dumps(schema, ensure_ascii=False, allow_nan=False)) > MAX_SCHEMA:
            raise RowError(f"the schema is longer than {MAX_SCHEMA // 1024} KiB", field)
    except (TypeError, ValueError, RecursionError) as exc:
        raise RowError("the schema is not JSON, or nested too deeply", field) from exc
    _check_depth(schema, field, MAX_DEPTH)
    if schema.get("type") != "object":
        raise RowError('the arguments are an object: the schema needs "type": "object"', f"{field}.type")
    _count(schema, schema, field, ())
    try:
        jsonschema.Draft202012Validator.check_schema(dict(schema))
    except jsonschema.SchemaError as exc:
        raise RowError(exc.message[:300], _path(field, exc.absolute_path)) from exc


def resolve(schema: Any, root: Mapping[str, Any]) -> Any:
    """`schema`, or what its `$ref` points to within `root`; raises `RowError` if that is nowhere."""
    for _ in range(MAX_DEPTH):
        if not isinstance(schema, Mapping) or "$ref" not in schema:
            return schema
        schema = _target(schema["$ref"], root, "$ref")
    raise RowError("the references lead nowhere", "$ref")


def _target(reference: Any, root: Any, field: str) -> Any:
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise RowError(f"only references within the schema (#/…) can be used: nothing is fetched, and {str(reference)[:80]!r} is none", field)
    found = root
    for part in reference.split("/")[1:]:
        key = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping) and key in found:
            found = found[key]
        elif isinstance(found, list) and key.isdigit() and len(key) < 6 and int(key) < len(found):
            found = found[int(key)]
        else:
            raise RowError(f"{reference[:80]!r} points to nothing", field)
    return found


def _check_depth(value: Any, field: str, left: int) -> None:
    if left < 0:
        raise RowError(f"the schema is nested deeper than {MAX_DEPTH}", field)
    if isinstance(value, (Mapping, list)):
        for item in value.values() if isinstance(value, Mapping) else value:
            _check_depth(item, field, left - 1)


def _count(schema: Any, root: Mapping[str, Any], field: str, within: tuple[int, ...]) -> int:
    """The number of subschemas, each as often as it is used; raises `RowError` for one that can't be used."""
    if not isinstance(schema, Mapping):
        return 1
    if id(schema) in within:
        raise RowError("the schema refers to itself, which can't be used here", field)
    within = (*within, id(schema))
    for key in _REFUSED:
        if key in schema:
            raise RowError(f"{key} can't be used here" + (": name each argument under properties" if key == "patternProperties" else ""), f"{field}.{key}")
    for key in ("$id", "$schema"):  # either would change what the part means, or how it is checked
        if key in schema and len(within) > 1:
            raise RowError(f"{key} can only stand at the top", f"{field}.{key}")
    if "pattern" in schema:
        _check_pattern(schema["pattern"], f"{field}.pattern")
    total = 1
    for key, part in _parts(schema):
        total += _count(part, root, f"{field}.{key}", within)
        if total > MAX_PARTS:
            break
    if "$ref" in schema:
        total += _count(_target(schema["$ref"], root, f"{field}.$ref"), root, f"{field}.$ref", within)
    if total > MAX_PARTS:
        raise RowError(f"the schema has more than {MAX_PARTS} parts", field)
    return total


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key in _ONE:
        if key in schema:
            yield key, schema[key]
    for key in _LISTS:
        if isinstance(schema.get(key), list):
            yield from ((f"{key}[{i}]", part) for i, part in enumerate(schema[key]))
    for key in _MAPS:
        if isinstance(schema.get(key), Mapping):
            yield from ((f"{key}.{name}", part) for name, part in schema[key].items())


def _check_pattern(pattern: Any, field: str) -> None:
    if not isinstance(pattern, str) or len(pattern) > MAX_PATTERN:
        raise RowError(f"a pattern is a text of at most {MAX_PATTERN} characters", field)
    try:
        re.compile(pattern)
        paths = pattern_paths(pattern, TRIED_TEXT)
    except (re.error, RecursionError, OverflowError) as exc:
        raise RowError(f"the pattern is no regular expression: {exc}", field) from exc
    if paths > MAX_PATHS:
        raise RowError("the pattern could take very long to try (it repeats what varies in itself): write it simpler, or leave it out", field)


def pattern_paths(pattern: str, length: int) -> float:
    """log10 of an upper bound on the ways in which a pattern can match a text of `length` characters; raises `re.error`."""
    from re import _parser  # type: ignore[attr-defined]

    paths = _paths(_parser.parse(pattern), length)
    # One that is not anchored is tried from every character on.
    return paths + math.log10(max(1, length)) if paths > 0 and not pattern.startswith(("^", "\\A")) else paths


def _paths(parsed: Any, length: int) -> float:
    total = 0.0
    for operation, argument in parsed:
        name = str(operation)
        if name.endswith("_REPEAT"):
            low, high, body = argument
            high = min(int(high), length)
            total += _paths(body, length) * high + math.log10(max(1, high - int(low) + 1))
        elif name == "BRANCH":
            total += max(_paths(branch, length) for branch in argument[1]) + math.log10(len(argument[1]))
        elif name == "SUBPATTERN":
            total += _paths(argument[3], length)
        elif name in ("ASSERT", "ASSERT_NOT"):
            total += _paths(argument[1], length)
        elif name == "ATOMIC_GROUP":
            total += _paths(argument, length)
        elif name == "GROUPREF_EXISTS":
            total += _paths(argument[1], length) + (_paths(argument[2], length) if argument[2] is not None else 0.0)
    return total


def _path(field: str, parts: Any) -> str:
    return field + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in parts)
