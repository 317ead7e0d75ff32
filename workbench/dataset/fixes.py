"""Mends of a set that need no judgement: what each would change, shown before it is made."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.calls.dialects import TAG, CallSegment, message_calls
from workbench.dataset.changes import Change, Entry
from workbench.dataset.strict import same
from workbench.schema import Example, Message, ToolCall, ToolSpec

DELETED, NO_PIN = "deleted", "no pin"


@dataclass(frozen=True)
class Fix:
    """A change that mends a finding; `preview` gives (place, before, after) in words for every line it touches."""

    label: str
    change: Change
    preview: tuple[tuple[int, str, str], ...]


def rows_word(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def delete_lines(entries: Sequence[Entry], places: Iterable[int]) -> Fix:
    """Take lines away that can't be read."""
    gone = sorted(places)
    lines = "1 line" if len(gone) == 1 else f"{len(gone):,} lines"
    return Fix(
        f"Delete {lines}", Change(drop=frozenset(gone), what=f"{lines} that can't be used {'was' if len(gone) == 1 else 'were'} deleted"),
        tuple((p, entries[p].raw, DELETED) for p in gone),
    )


def delete_repeats(rows: Mapping[int, Example], groups: Iterable[Sequence[int]]) -> Fix:
    """Keep one row of every group of the same rows: an approved one, else one that a person pinned or noted, else the first."""
    gone: dict[int, int] = {}
    for group in groups:
        kept = min(group, key=lambda p: (rows[p].status != "approved", not rows[p].pin, not rows[p].note, rows[p].awaits_review, p))
        gone |= {p: kept for p in group if p != kept}
    places = sorted(gone)
    return Fix(
        f"Delete {rows_word(len(places))}", Change(drop=frozenset(places), what=f"{rows_word(len(places))} that repeated another {'was' if len(places) == 1 else 'were'} deleted"),
        tuple((p, _short(rows[p]), f"{DELETED}; row {gone[p] + 1} is kept") for p in places),
    )


def reject(rows: Mapping[int, Example], reasons: Mapping[int, str]) -> Fix:
    """Reject rows, so that they stay in the file and are not learned; `reasons` gives each one's, in words."""
    places = sorted(reasons)
    return Fix(
        f"Reject {rows_word(len(places))}",
        Change(put={p: replace(rows[p], status="rejected") for p in places}, what=f"{rows_word(len(places))} {'was' if len(places) == 1 else 'were'} rejected"),
        tuple((p, f"{rows[p].status}: {_short(rows[p])}", f"rejected: {reasons[p]}") for p in places),
    )


def take_pins_off(rows: Mapping[int, Example], places: Iterable[int]) -> Fix:
    pinned = [p for p in sorted(places) if rows[p].pin]
    return Fix(
        f"Take {'1 pin' if len(pinned) == 1 else f'{len(pinned)} pins'} off",
        Change(put={p: replace(rows[p], pin="") for p in pinned}, what=f"the pin was taken off {rows_word(len(pinned))}"),
        tuple((p, f"pinned to {rows[p].pin}: {_short(rows[p])}", NO_PIN) for p in pinned),
    )


def stray_space(row: Example) -> bool:
    return any(m.content != m.content.strip() for m in row.messages)


def trim(rows: Mapping[int, Example], places: Iterable[int]) -> Fix:
    """Take white space away before and after every turn's text."""
    put, preview = {}, []
    for p in sorted(places):
        put[p] = replace(rows[p], messages=tuple(replace(m, content=m.content.strip()) for m in rows[p].messages))
        stray = next(m.content for m in rows[p].messages if m.content != m.content.strip())
        preview.append((p, json.dumps(stray, ensure_ascii=False), json.dumps(stray.strip(), ensure_ascii=False)))
    return Fix(f"Trim {rows_word(len(put))}", Change(put=put, what=f"white space was trimmed in {rows_word(len(put))}"), tuple(preview))


# -- arguments -------------------------------------------------------------------------------------


def retype(rows: Mapping[int, Example], places: Iterable[int], tools: Callable[[Example], Mapping[str, ToolSpec]], broken: Callable[[Example], bool]) -> Fix | None:
    """Turn arguments that differ from the schema by type alone into its type ("5" into 5); None where that mends no row.

    A row is touched only if nothing is `broken` in it afterwards.
    """
    put, preview = {}, []
    for p in sorted(places):
        row = rows[p]
        answer = _with_calls(row.answer, tools(row))
        mended = replace(row, messages=(*row.messages[:-1], answer))
        if mended != row and not broken(mended):
            put[p] = mended
            preview.append((p, _calls(row.answer), _calls(answer)))
    if not put:
        return None
    of = f"the arguments of {rows_word(len(put))}"
    return Fix(f"Turn {of} into the schema's types", Change(put=put, what=f"{of} were turned into the schema's types"), tuple(preview))


def _with_calls(message: Message, tools: Mapping[str, ToolSpec]) -> Message:
    """The turn with every call's arguments as its schema wants them; a call that stays the same keeps its text."""
    parts = []
    for segment in TAG.parse(message.content):
        new = _retyped(segment.call, tools) if isinstance(segment, CallSegment) else None
        changed = new is not None and isinstance(segment, CallSegment) and not same(new.arguments, segment.call.arguments)
        parts.append(TAG.render(new) if new is not None and changed else segment.raw)
    return replace(message, content="".join(parts), tool_calls=tuple(_retyped(call, tools) for call in message.tool_calls))


def _calls(message: Message) -> str:
    """The turn's calls as a person reads them."""
    return "\n".join(f"{call.name} {json.dumps(dict(call.arguments), ensure_ascii=False)}" for call in message_calls(message))


def _retyped(call: ToolCall, tools: Mapping[str, ToolSpec]) -> ToolCall:
    tool = tools.get(call.name)
    return call if tool is None else replace(call, arguments=_as_schema(dict(call.arguments), tool.parameters))


_DEEPEST = 20  # levels of a value that are looked into


def _as_schema(value: Any, schema: Any, depth: int = 0) -> Any:
    """`value` with texts, numbers and truth values in the types that `schema` names, where that loses nothing."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return value
    if isinstance(value, Mapping):
        properties = schema.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        return {k: _as_schema(v, properties.get(k), depth + 1) for k, v in value.items()}
    if isinstance(value, list) and schema.get("type") == "array":
        return [_as_schema(v, schema.get("items"), depth + 1) for v in value]
    kind = schema.get("type")
    return _CASTS[kind](value) if isinstance(kind, str) and kind in _CASTS else value


def _integer(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"\s*-?(0|[1-9]\d{0,17})\s*", value, re.ASCII):
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _number(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"\s*-?(0|[1-9]\d{0,14})\.\d{1,14}\s*", value, re.ASCII):
        return float(value)
    return _integer(value) if isinstance(value, str) else value


def _boolean(value: Any) -> Any:
    return {"true": True, "false": False}.get(value.strip().lower(), value) if isinstance(value, str) else value


def _string(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (bool, int, float)) else value


_CASTS: dict[str, Callable[[Any], Any]] = {"integer": _integer, "number": _number, "boolean": _boolean, "string": _string}


def _short(row: Example, longest: int = 120) -> str:
    text = " ".join(row.request.split())
    return text if len(text) <= longest else text[: longest - 1] + "…"
