"""jsonschema's validator, bounded: its work is counted as it goes, and what would take too long is given up.

A schema of a few kilobytes and arguments of a few more can take a minute: every item held against a thousand forms,
every two objects of a list compared. Both may come from a stranger's file.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from workbench.calls.schemas import TRIED_TEXT, check_schema, pattern_paths
from workbench.errors import RowError

MAX_STEPS = 50_000  # of one check: a step is a keyword held against a value, some microseconds
_PATHS_A_STEP = 200  # ways of a pattern that are tried in the time of one step


class TooMuchWork(Exception):
    """The check takes more steps than it may."""


@dataclass
class Work:
    """The steps that many checks may take together; `skipped` counts the checks that were left out when they were used up."""

    left: int
    skipped: int = 0


class _Now(threading.local):
    """The check that this thread is at."""

    left: int = 0
    sizes: dict[int, int] = {}


_now = _Now()


def find_errors(validator: Any, value: Any, work: Work | None = None) -> Iterator[Any]:
    """jsonschema's findings, one by one; raises `TooMuchWork` beyond `MAX_STEPS`, or beyond what `work` has left.

    One check a thread at a time.
    """
    allowed = MAX_STEPS if work is None else min(MAX_STEPS, work.left)
    _now.left, _now.sizes = allowed, {}
    try:
        yield from validator.iter_errors(value)
    finally:
        if work is not None:
            work.left -= allowed - max(_now.left, 0)
        _now.sizes = {}


@functools.lru_cache(maxsize=512)
def compiled(text: str) -> tuple[Any, str]:
    """A validator of the schema in the JSON `text`, and why it can't be used (then there is none)."""
    from referencing import Registry

    schema = json.loads(text)
    try:
        check_schema(schema)
    except RowError as exc:
        return None, f"{exc.field}: {exc.reason}"
    return _validator_class()(schema, registry=Registry()), ""


@functools.cache
def _validator_class() -> Any:
    """jsonschema's validator with every keyword's work counted; a pattern is not tried on long texts."""
    from jsonschema import Draft202012Validator, ValidationError, validators  # type: ignore[import-untyped]

    def unique(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
        if wanted and isinstance(value, list):
            told = [_told(item) for item in value]
            if len(set(told)) < len(told):
                yield ValidationError("it holds an item twice")

    rules = {**Draft202012Validator.VALIDATORS, "uniqueItems": unique}
    counted = {name: _counted(rule, _COSTS.get(name, _plain_cost)) for name, rule in rules.items()}
    counted["pattern"] = _only_on_short(counted["pattern"])
    return validators.extend(Draft202012Validator, counted)


def _counted(rule: Any, cost: Callable[[Any, Any], int]) -> Any:
    def check(validator: Any, wanted: Any, value: Any, schema: Any) -> Any:
        _spend(cost(wanted, value))
        return rule(validator, wanted, value, schema)

    return check


def _only_on_short(rule: Any) -> Any:
    return lambda validator, wanted, value, schema: None if isinstance(value, str) and len(value) > TRIED_TEXT else rule(validator, wanted, value, schema)


# -- what a keyword costs ---------------------------------------------------------------------------


def _spend(steps: int) -> None:
    _now.left -= steps
    if _now.left < 0:
        raise TooMuchWork


def _plain_cost(wanted: Any, value: Any) -> int:
    """What is wrong with a value is told with the value: a long one costs more."""
    if isinstance(value, (dict, list)):
        return 1 + _size(value) // 16
    return 1 + len(value) // 1000 if isinstance(value, str) else 1


def _each_cost(wanted: Any, value: Any) -> int:
    """A keyword that goes over all that is in the value, and over all that is wanted."""
    inside = len(value) if isinstance(value, (dict, list)) else 0
    return _plain_cost(wanted, value) + inside + (len(wanted) // 4 if isinstance(wanted, (dict, list)) else 0)


def _equal_cost(wanted: Any, value: Any) -> int:
    """An enumeration or a constant: a list or an object is compared in depth."""
    return _plain_cost(wanted, value) + (_size(wanted) if isinstance(value, (dict, list)) else _plain_cost(value, wanted))


def _unique_cost(wanted: Any, value: Any) -> int:
    return _plain_cost(wanted, value) + (_size(value) if isinstance(value, list) else 0)


def _pattern_cost(wanted: Any, value: Any) -> int:
    if not isinstance(value, str) or not isinstance(wanted, str) or len(value) > TRIED_TEXT:
        return 1
    return 1 + _tried(wanted, -(-len(value) // 16) * 16)


@functools.lru_cache(maxsize=4096)
def _tried(pattern: str, length: int) -> int:
    """Steps that trying the pattern on a text of `length` characters may take."""
    return int(10 ** pattern_paths(pattern, length) / _PATHS_A_STEP)


def _unevaluated_cost(wanted: Any, value: Any) -> int:
    """jsonschema looks every name up in a list of those that some part of the schema spoke of."""
    return _each_cost(wanted, value) + (len(value) ** 2 // 8 if isinstance(value, (dict, list)) else 0)


_COSTS: dict[str, Callable[[Any, Any], int]] = {
    "enum": _equal_cost, "const": _equal_cost, "uniqueItems": _unique_cost, "pattern": _pattern_cost,
    "unevaluatedItems": _unevaluated_cost, "unevaluatedProperties": _unevaluated_cost,
} | dict.fromkeys(("items", "prefixItems", "contains", "properties", "additionalProperties", "propertyNames", "required", "dependentRequired", "dependentSchemas"), _each_cost)


def _size(value: Any) -> int:
    """How many values there are in it, itself counted; a text counts more the longer it is. Kept for the check at hand."""
    if not isinstance(value, (dict, list)):
        return 1 + len(value) // 1000 if isinstance(value, str) else 1
    known = _now.sizes.get(id(value))
    if known is None:
        known = 1 + sum(map(_size, value.values() if isinstance(value, dict) else value))
        _now.sizes[id(value)] = known
    return known


def _told(value: Any) -> Any:
    """A value that is equal to another's exactly where JSON schema takes the two for the same: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, bool) or value is None:
        return str(value), "a word"
    if isinstance(value, list):
        return tuple(map(_told, value))
    if isinstance(value, Mapping):
        return frozenset((key, _told(item)) for key, item in value.items())
    return value
