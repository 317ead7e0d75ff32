"""The row form's logic, without a component: which fields a draft needs, and the draft back from their values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.calls.arguments import ArgumentField, argument_fields, read_arguments
from workbench.dataset.draft import CallDraft, Draft, TurnDraft
from workbench.errors import RowError
from workbench.schema import ToolSpec

Tools = Mapping[str, ToolSpec]


@dataclass(frozen=True)
class CallShape:
    """How a call stands in the form: argument fields, or None for one box of JSON."""

    fields: tuple[ArgumentField, ...] | None


@dataclass(frozen=True)
class TurnShape:
    origin: int | None
    calls: tuple[CallShape, ...]


Shape = tuple[TurnShape, ...]


def shape_of(draft: Draft, tools: Tools) -> Shape:
    """The fields that `draft` needs, in the order in which `read_draft` takes their values."""
    return tuple(TurnShape(t.origin, tuple(CallShape(call_fields(c, tools)) for c in t.calls)) for t in draft.turns)


def call_fields(call: CallDraft, tools: Tools) -> tuple[ArgumentField, ...] | None:
    """The argument fields of a call; None where only JSON can show it.

    That is so for a tool that is not known, an argument that the schema does not name, and a value that would not come
    back from its field exactly as it is: a person who only approves a row must not change it.
    """
    spec = tools.get(call.name)
    if call.raw or spec is None:
        return None
    try:
        given = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        return None
    fields = {f.name: f for f in argument_fields(spec)}
    if not isinstance(given, dict) or set(given) - set(fields):
        return None
    # A missing argument is no reason for JSON: its field is there to be filled in.
    relaxed = replace(spec, parameters={**spec.parameters, "required": []})
    return tuple(fields.values()) if all(_holds(relaxed, fields[name], value) for name, value in given.items()) else None


def _holds(spec: ToolSpec, field: ArgumentField, value: Any) -> bool:
    """Whether a field shows a value and gives it back unchanged."""
    if isinstance(value, str) and any(c in value for c in "\r\n"):
        return False  # one line
    try:
        back = read_arguments(spec, {field.name: _shown(field, value)})
    except RowError:
        return False
    return json.dumps(back, sort_keys=True) == json.dumps({field.name: value}, sort_keys=True)


def field_value(field: ArgumentField, arguments: str) -> Any:
    """What a field shows of the arguments (a JSON text)."""
    given = json.loads(arguments or "{}")
    return _shown(field, given[field.name]) if field.name in given else None


def _shown(field: ArgumentField, value: Any) -> Any:
    if field.kind in ("text", "choice") and isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def read_draft(shape: Shape, values: Sequence[Any], tools: Tools, was: Draft, *, lenient: bool = False) -> Draft:
    """The draft from the form's values: per turn its role, its text, and per call its tool and arguments; then status, pin, note.

    Raises `RowError` for an argument that is missing or not of its type; with `lenient` such a call keeps the
    arguments it had in `was`, so that half-filled fields never keep a person from changing the form.
    """
    left = list(values)
    turns = []
    for turn, before in zip(shape, was.turns, strict=True):
        role, text = left.pop(0), left.pop(0)
        calls = tuple(_read_call(call, left, tools, had, lenient) for call, had in zip(turn.calls, before.calls, strict=True))
        turns.append(TurnDraft(role, text or "", calls, turn.origin))
    status, pin, note = left
    return replace(was, turns=tuple(turns), status=status, pin=pin, note=note or "")


def _read_call(shape: CallShape, left: list[Any], tools: Tools, had: CallDraft, lenient: bool) -> CallDraft:
    name = left.pop(0) or ""
    if shape.fields is None:
        return replace(had, name=name, arguments=left.pop(0) or "{}", raw=True)
    given = {field.name: left.pop(0) for field in shape.fields}
    spec = tools.get(name)
    if spec is None:  # another tool's name was just typed: the form is drawn anew for it
        return replace(had, name=name, arguments="{}")
    kept = {f.name for f in argument_fields(spec)}
    try:
        arguments = read_arguments(spec, {k: v for k, v in given.items() if k in kept})
    except RowError:
        if not lenient:
            raise
        return replace(had, name=name)
    return replace(had, name=name, arguments=json.dumps(arguments, ensure_ascii=False))


# -- changes of the form's structure --------------------------------------------------------------


def answer_with(draft: Draft, kind: str, tools: Tools) -> Draft:
    """The draft with its last turn turned into a call of the first tool, or into a text."""
    last = draft.turns[-1]
    if kind == "call" and not last.calls:
        name = next(iter(tools), "")
        last = replace(last, text="", calls=(CallDraft(name),))
    elif kind == "text":
        last = replace(last, calls=())
    return replace(draft, turns=(*draft.turns[:-1], last))


def with_turn(draft: Draft) -> Draft:
    """The draft with an exchange more: the answer so far becomes an earlier turn. After calls come a result each, and the answer to them."""
    last = draft.turns[-1] if draft.turns else TurnDraft("assistant")
    before: tuple[TurnDraft, ...] = ()
    if last.role == "assistant":
        before = tuple(TurnDraft("tool") for _ in last.calls) or (TurnDraft("user"),)
    extra = (*before, TurnDraft("assistant"))
    return replace(draft, turns=(*draft.turns, *extra))


def without_turn(draft: Draft, place: int) -> Draft:
    return replace(draft, turns=tuple(t for i, t in enumerate(draft.turns) if i != place))


def with_call(draft: Draft, place: int, tools: Tools) -> Draft:
    turn = draft.turns[place]
    changed = replace(turn, calls=(*turn.calls, CallDraft(next(iter(tools), ""))))
    return replace(draft, turns=tuple(changed if i == place else t for i, t in enumerate(draft.turns)))


def change_call(draft: Draft, place: int, number: int, call: CallDraft | None) -> Draft:
    """The draft with one call put anew, or taken out (None)."""
    turn = draft.turns[place]
    calls = tuple(call if k == number else c for k, c in enumerate(turn.calls))
    changed = replace(turn, calls=tuple(c for c in calls if c is not None))
    return replace(draft, turns=tuple(changed if i == place else t for i, t in enumerate(draft.turns)))
