"""A tool's arguments: the fields of a form for them, the values read back, and what is wrong with a call, in plain words."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from workbench.calls.schemas import resolve
from workbench.calls.validating import TooMuchWork, Work, compiled, find_errors
from workbench.errors import RowError
from workbench.schema import ToolCall, ToolSpec

Kind = Literal["text", "number", "integer", "boolean", "choice", "json"]
MAX_ARGUMENTS = 100_000  # characters of JSON that are still checked
MAX_PROBLEMS = 20  # of one call
_KINDS: dict[str, Kind] = {"string": "text", "number": "number", "integer": "integer", "boolean": "boolean"}
_TYPES = {
    "string": "text", "number": "a number", "integer": "a whole number", "boolean": "true or false",
    "array": "a list", "object": "an object", "null": "null",
}
# Keywords beside which a missing `additionalProperties` does not mean that `properties` names all arguments.
_OPEN = ("additionalProperties", "unevaluatedProperties", "allOf", "anyOf", "oneOf", "if", "$ref", "dependentSchemas", "propertyNames", "not")


@dataclass(frozen=True)
class ArgumentField:
    """One argument as a form asks for it. `choices` are texts; `default` is the schema's, None if it has none."""

    name: str
    kind: Kind
    required: bool = False
    help: str = ""
    choices: tuple[str, ...] = ()
    default: Any = None


def argument_fields(spec: ToolSpec) -> tuple[ArgumentField, ...]:
    """The fields of a form for a call of the tool; what has no simple field is asked for as JSON.

    The schema may be one that nobody checked: what makes no sense in it becomes such a field too.
    """
    if not isinstance(spec.parameters, Mapping):
        return ()
    properties, required = spec.parameters.get("properties"), spec.parameters.get("required")
    if not isinstance(properties, Mapping):
        return ()
    wanted = required if isinstance(required, list) else []
    return tuple(_field(name, schema, name in wanted, spec.parameters) for name, schema in properties.items())


def _field(name: str, schema: Any, required: bool, root: Mapping[str, Any]) -> ArgumentField:
    outer = schema if isinstance(schema, Mapping) else {}
    found = _plain(outer, root)
    help_ = outer.get("description") or found.get("description") or ""
    default = outer.get("default", found.get("default"))
    choices = _choices(found)
    if choices:
        return ArgumentField(name, "choice", required, str(help_), tuple(choices), default)
    return ArgumentField(name, _KINDS.get(str(found.get("type")), "json"), required, str(help_), (), default)


def _plain(schema: Mapping[str, Any], root: Mapping[str, Any], left: int = 8) -> Mapping[str, Any]:
    """`schema` without its reference and without "or null"; {} where it is not one simple schema."""
    try:
        found = resolve(schema, root)
    except RowError:
        return {}
    if not isinstance(found, Mapping) or not left:
        return {}
    types = found.get("type")
    if isinstance(types, list):
        real = [t for t in types if t != "null"]
        return {**found, "type": real[0]} if len(real) == 1 else {}
    for key in ("anyOf", "oneOf"):
        if isinstance(found.get(key), list):
            real = [part for part in found[key] if part != {"type": "null"}]
            return _plain(real[0], root, left - 1) if len(real) == 1 and isinstance(real[0], Mapping) else {}
    return found


def _choices(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an enumeration by the texts they are chosen by; empty where there is none, or two read the same."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(values, list) or not values:
        return {}
    named = {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False): value for value in values}
    return named if len(named) == len(values) and "" not in named else {}


def read_arguments(spec: ToolSpec, values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a form's values (by name; None and "" are not given) stand for.

    Raises `RowError` with the field `arguments.NAME` for a value that does not fit, is missing, or is not asked for.
    """
    fields = {f.name: f for f in argument_fields(spec)}
    given = {name: value for name, value in values.items() if value is not None and value != ""}
    properties = spec.parameters.get("properties")
    found: dict[str, Any] = {}
    for name, field in fields.items():
        if name in given:
            schema = properties[name] if isinstance(properties, Mapping) else {}
            found[name] = _typed(field, given[name], _plain(schema if isinstance(schema, Mapping) else {}, spec.parameters))
    found |= {name: value for name, value in given.items() if name not in fields}
    for path, reason in argument_problems(spec, found):
        raise RowError(reason, f"arguments.{path}" if path else "arguments")
    return found


def _typed(field: ArgumentField, value: Any, schema: Mapping[str, Any]) -> Any:
    def refuse(what: str) -> RowError:
        return RowError(f"argument “{field.name}” must be {what}, it is {_short(value)}", f"arguments.{field.name}")

    if field.kind == "choice":
        choices = _choices(schema)
        return choices[value] if isinstance(value, str) and value in choices else value
    if field.kind == "boolean" and isinstance(value, str):
        if value.strip().lower() not in ("true", "false"):
            raise refuse("true or false")
        return value.strip().lower() == "true"
    if field.kind in ("number", "integer") and not isinstance(value, bool):
        number = _number(value)
        if number is None or (field.kind == "integer" and not isinstance(number, int)):
            raise refuse("a whole number" if field.kind == "integer" else "a number (with a point, as in 12.5)")
        return number
    if field.kind == "json" and isinstance(value, str):
        try:
            return json.loads(value, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            raise refuse("JSON (a text stands in double quotes)") from None
    return value


def _number(value: Any) -> int | float | None:
    """A number as it is meant: 3.0 from a form's number box is 3."""
    if isinstance(value, str):
        try:
            value = json.loads(value.strip().removeprefix("+"), parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, int):
        return value
    return None if not math.isfinite(value) else int(value) if value.is_integer() and abs(value) < 2**53 else value


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


# -- what is wrong with a call --------------------------------------------------------------------


def call_problems(call: ToolCall, tools: Mapping[str, ToolSpec], work: Work | None = None) -> list[str]:
    """What keeps `call` from being a right call of one of `tools`, in plain words; empty if it is one.

    `work` is what many checks may take together: a call that comes when it is used up is not checked, but counted there.
    """
    spec = tools.get(call.name)
    if spec is None:
        return [f"there is no tool “{call.name}”"]
    return [reason for _, reason in argument_problems(spec, call.arguments, work)]


def argument_problems(spec: ToolSpec, arguments: Mapping[str, Any], work: Work | None = None) -> list[tuple[str, str]]:
    """What is wrong with a call's arguments: the path of each ("" for all of them), and the reason in plain words.

    `work` is as for `call_problems`. At the top level the schema's `properties` name all arguments, unless it says otherwise. A text longer than
    `schemas.TRIED_TEXT` is not held against a pattern.
    """
    if work is not None and work.left <= 0:
        work.skipped += 1
        return []
    try:
        text = json.dumps(spec.parameters, ensure_ascii=False)
        if len(json.dumps(arguments, ensure_ascii=False)) > MAX_ARGUMENTS:
            return [("", f"the arguments are longer than {MAX_ARGUMENTS} characters: they were not checked")]
    except (TypeError, ValueError, RecursionError):
        return [("", "the arguments or their schema can't be written as JSON")]
    validator, reason = compiled(text)
    if validator is None:
        return [("", f"the schema of the tool “{spec.name}” can't be used: {reason}")]
    try:
        errors = itertools.chain.from_iterable(_told(e) for e in find_errors(validator, arguments, work))
        # One sentence is enough for what breaks two rules in the same words.
        found = dict.fromkeys(itertools.islice(itertools.chain(_unexpected(spec.parameters, arguments), errors), MAX_PROBLEMS))
    except TooMuchWork:
        if work is not None and work.left <= 0:
            work.skipped += 1
            return []
        return [("", f"the arguments and the schema of “{spec.name}” are too large to check")]
    except (RecursionError, ArithmeticError, ValueError, TypeError) as exc:
        return [("", f"the arguments can't be checked against the schema of “{spec.name}” ({type(exc).__name__})")]
    return list(found)


def _unexpected(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if not any(key in schema for key in _OPEN):
        yield from ((name, _no_such(name)) for name in arguments if name not in schema.get("properties", {}))


def _no_such(path: str) -> str:
    return f"argument “{path}” is none of the tool's arguments"


def _told(error: Any) -> Iterator[tuple[str, str]]:
    """jsonschema's finding in plain words, with the path of what it is about."""
    path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.absolute_path).removeprefix(".")
    value, wanted, here = error.instance, error.validator_value, f"argument “{path}”" if path else "the arguments"
    inner = f"{path}." if path else ""
    if error.validator == "required":
        yield from ((f"{inner}{name}", f"argument “{inner}{name}” is missing") for name in wanted if name not in value)
    elif error.validator == "additionalProperties" and wanted is False:
        yield from ((f"{inner}{name}", _no_such(f"{inner}{name}")) for name in value if name not in error.schema.get("properties", {}))
    elif error.validator == "type":
        types = [_TYPES.get(t, str(t)) for t in (wanted if isinstance(wanted, list) else [wanted])]
        yield path, f"{here} must be {' or '.join(types)}, it is {_kind(value)}"
    elif error.validator in ("enum", "const"):
        choices = wanted if error.validator == "enum" else [wanted]
        more = f" ({len(choices) - 8} more)" if len(choices) > 8 else ""
        yield path, f"{here} must be {'one of ' if len(choices) > 1 else ''}{', '.join(map(_short, choices[:8]))}{more}, it is {_short(value)}"
    elif error.validator is None:
        yield path, f"{here} must not be given"
    else:
        yield path, f"{here} {_BROKEN.get(error.validator, 'breaks the rule {rule} of its schema').format(_short(wanted), rule=error.validator)}, it is {_short(value)}"


_BROKEN = {
    "minimum": "must be at least {0}", "maximum": "must be at most {0}", "exclusiveMinimum": "must be more than {0}",
    "exclusiveMaximum": "must be less than {0}", "multipleOf": "must be a multiple of {0}",
    "minLength": "must have at least {0} characters", "maxLength": "must have at most {0} characters", "pattern": "must have the form {0}",
    "minItems": "must have at least {0} items", "maxItems": "must have at most {0} items", "uniqueItems": "must not hold an item twice",
    "minProperties": "must have at least {0} keys", "maxProperties": "must have at most {0} keys",
    "anyOf": "has none of the forms it may have", "oneOf": "must have exactly one of the forms it may have",
}


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true/false"
    for kind, name in ((str, "text"), (int, "a whole number"), (float, "a number"), (list, "a list"), (Mapping, "an object")):
        if isinstance(value, kind):
            return name
    return "null"


def _short(value: Any) -> str:
    text = f"“{value}”" if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:59] + "…"


# -- a first schema from calls --------------------------------------------------------------------


def infer_spec(name: str, calls: Iterable[ToolCall]) -> ToolSpec:
    """A first description of the tool `name` from the calls of it: the arguments seen, their types, which are always there."""
    seen = [call.arguments for call in calls if call.name == name]
    return ToolSpec(name, "", {**_object_schema(seen, 3), "additionalProperties": False})


def _object_schema(seen: list[Mapping[str, Any]], depth: int) -> dict[str, Any]:
    names = list(dict.fromkeys(key for arguments in seen for key in arguments))
    schema: dict[str, Any] = {"type": "object", "properties": {n: _schema([a[n] for a in seen if n in a], depth) for n in names}}
    required = [n for n in names if all(n in a for a in seen)]
    return schema | ({"required": required} if required else {})


def _schema(values: list[Any], depth: int) -> dict[str, Any]:
    types = list(dict.fromkeys(_type(value) for value in values))
    if "integer" in types and "number" in types:
        types.remove("integer")
    if types == ["object"] and depth:
        return _object_schema(values, depth - 1)
    if types == ["array"] and depth:
        items = [item for value in values for item in value]
        return {"type": "array"} | ({"items": _schema(items, depth - 1)} if items else {})
    return {"type": types[0] if len(types) == 1 else types}


def _type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    for kind, name in ((str, "string"), (int, "integer"), (float, "number"), (list, "array"), (Mapping, "object")):
        if isinstance(value, kind):
            return name
    return "null"
