"""A row as a person edits it: turns with text and calls. What was not touched comes back exactly as it stood."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.calls.dialects import TAG, CallSegment, TextSegment, message_text
from workbench.dataset.formats import dump_row, parse_row
from workbench.errors import RowError
from workbench.schema import Example, Message, ToolCall


@dataclass(frozen=True)
class CallDraft:
    """One call in the form; `arguments` is a JSON text, right or wrong, and `raw` whether it is shown as that.

    `origin` is its place among the calls of the turn that is edited, None for a new one.
    """

    name: str
    arguments: str = "{}"
    raw: bool = False
    origin: int | None = None


@dataclass(frozen=True)
class TurnDraft:
    """One turn in the form. `origin` is its place in the row that is edited, None for a new one."""

    role: str
    text: str = ""
    calls: tuple[CallDraft, ...] = ()
    origin: int | None = None


@dataclass(frozen=True)
class Draft:
    """A row in the form, saved or not."""

    turns: tuple[TurnDraft, ...]
    status: str = "draft"
    note: str = ""
    pin: str = ""
    source: str = ""


EMPTY = Draft((TurnDraft("user"), TurnDraft("assistant")))


def draft_of(row: Example) -> Draft:
    """The row as the form shows it."""
    turns = tuple(_turn_of(message, i) for i, message in enumerate(row.messages))
    return Draft(turns, row.status, row.note, row.pin, row.source)


def _turn_of(message: Message, place: int) -> TurnDraft:
    text, calls = split_calls(message)
    return TurnDraft(message.role, text, tuple(CallDraft(c.name, _text(c.arguments), origin=i) for i, c in enumerate(calls)), place)


def split_calls(message: Message) -> tuple[str, tuple[ToolCall, ...]]:
    """A turn's free text and its calls apart.

    A wording that could not be put together again to the letter (text after a call, another spelling of the tag)
    stays one text.
    """
    if message.role != "assistant" or message.tool_calls:
        return message.content, message.tool_calls
    segments = TAG.parse(message.content)
    calls = tuple(s.call for s in segments if isinstance(s, CallSegment))
    text = "".join(s.raw for s in segments if isinstance(s, TextSegment)).strip()
    if calls and join_calls(text, calls) == message.content:
        return text, calls
    return message.content, ()


def join_calls(text: str, calls: Sequence[ToolCall]) -> str:
    """Text and calls as the one text that the model learns."""
    return message_text(Message("assistant", text, tuple(calls)))


def row_of(draft: Draft, was: Example | None = None) -> Example:
    """The row that the form describes; raises `RowError` naming the turn and what is wrong with it.

    `was` is the row that is edited: turns that did not change keep every key and letter, its other keys stay.
    """
    if not draft.turns:
        raise RowError("the row has no turns: add what the user says and the answer", "messages")
    messages = tuple(_message(turn, i, was) for i, turn in enumerate(draft.turns))
    base = was or Example(messages)
    row = replace(base, messages=messages, status=draft.status, note=draft.note.strip(), pin=draft.pin, source=draft.source)
    return parse_row(dump_row(row))


def _message(turn: TurnDraft, place: int, was: Example | None) -> Message:
    before = was.messages[turn.origin] if was is not None and turn.origin is not None and turn.origin < len(was.messages) else None
    calls = tuple(_call(call, place) for call in turn.calls)
    if before is not None and said(turn) == said(_turn_of(before, place)):
        return before
    if not turn.text.strip() and not calls:
        who = {"user": "what the user says", "assistant": "the answer", "system": "the system text", "tool": "the tool's result"}.get(turn.role, "the text")
        raise RowError(f"turn {place + 1}, {who}, is empty: write it, or take the turn out", f"messages[{place}].content")
    extras = before.extras if before is not None else {}
    if before is not None and before.tool_calls and calls and turn.role == "assistant":
        kept = zip(_origins(turn.calls, len(before.tool_calls)), calls, strict=True)
        made = tuple(new if old is None else replace(before.tool_calls[old], name=new.name, arguments=new.arguments) for old, new in kept)
        return replace(before, content=turn.text.strip(), tool_calls=made)
    content = join_calls(turn.text, calls) if calls else turn.text
    return Message(turn.role, content, (), extras)


def _origins(calls: Sequence[CallDraft], count: int) -> list[int | None]:
    """Which of the turn's `count` calls each one was; no call is two. Where none says so and none came or went, they are in their order."""
    if len(calls) == count and all(call.origin is None for call in calls):
        return [*range(count)]
    taken: set[int] = set()
    found: list[int | None] = []
    for call in calls:
        old = call.origin if call.origin is not None and 0 <= call.origin < count and call.origin not in taken else None
        taken.update(() if old is None else (old,))
        found.append(old)
    return found


def said(turn: TurnDraft) -> tuple[Any, ...]:
    """What a turn says, whatever the form did to line ends and to the order of arguments: equal for equal turns."""
    return turn.role, turn.text.replace("\r\n", "\n"), tuple((c.name, _sorted(c.arguments)) for c in turn.calls)


def same(one: Draft, other: Draft) -> bool:
    """Whether two drafts would make the same row."""
    return [said(t) for t in one.turns] == [said(t) for t in other.turns] and (one.status, one.note, one.pin) == (other.status, other.note, other.pin)


def _sorted(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments.strip() or "{}"), sort_keys=True)
    except (ValueError, RecursionError):
        return arguments


def _call(call: CallDraft, place: int) -> ToolCall:
    field = f"messages[{place}].content"
    if not call.name.strip():
        raise RowError(f"turn {place + 1}: the call names no tool; choose one", field)
    try:
        arguments: Any = json.loads(call.arguments.strip() or "{}")
    except (ValueError, RecursionError) as exc:
        raise RowError(f"turn {place + 1}: the arguments of {call.name} are not valid JSON", field) from exc
    if not isinstance(arguments, dict):
        raise RowError(f"turn {place + 1}: the arguments of {call.name} must be a JSON object, as in {{}}", field)
    return ToolCall(call.name.strip(), arguments)


def _text(arguments: Mapping[str, Any]) -> str:
    return json.dumps(dict(arguments), ensure_ascii=False)
