"""Rows as files for others: calls as literal text or as OpenAI's `tool_calls`, ShareGPT, Parquet, or the rows as they are.

Every style keeps what the model is taught (`message_text` of every turn), each row's review and its other keys, so that what is
brought in again is the same. A turn whose wording can't be written as `tool_calls` to the letter keeps its literal form.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.calls.dialects import TAG, CallSegment, message_text
from workbench.calls.tools import ToolStore
from workbench.dataset.call_ids import with_ids
from workbench.dataset.formats import dump_jsonl
from workbench.dataset.rowtools import read_tools
from workbench.dataset.sharegpt import write_row
from workbench.dataset.tables import write_parquet
from workbench.dataset.turns import FORM, dump_call, parse_call
from workbench.errors import DataError, RowError
from workbench.schema import Example, Message, ToolCall, ToolSpec

IDS, ITEMS = "tool_call_ids", "tool_call_items"  # beside literal calls: the ids, or the whole items, they had as tool_calls


@dataclass(frozen=True)
class Style:
    """A way to write rows: its words for a person, and the file's suffix."""

    title: str
    suffix: str
    write: Callable[[Sequence[Example], Mapping[str, ToolSpec], list[str]], bytes]


@dataclass(frozen=True)
class Export:
    """A file to hand out, and what its reader should know."""

    data: bytes
    suffix: str
    notes: tuple[str, ...] = ()


def export(rows: Sequence[Example], style: str, tools: Mapping[str, ToolSpec] | None = None) -> Export:
    """The rows as a file; `tools` are those whose schemas OpenAI's style may write. Raises `DataError` for an unknown style."""
    if style not in EXPORTS:
        raise DataError(f"There is no export {style!r}: choose one of {', '.join(EXPORTS)}.")
    notes: list[str] = []
    data = EXPORTS[style].write(rows, tools or {}, notes)
    return Export(data, EXPORTS[style].suffix, tuple(notes))


def export_with(book: ToolStore, rows: Sequence[Example], style: str) -> Export:
    """The rows as a file, with the schemas of `book` where the style and the rows want them; a book that can't be read is told in a note."""
    if style != "openai" or not any(_names(row) for row in rows):
        return export(rows, style)
    try:
        return export(rows, style, book.read().tools)
    except DataError as exc:
        made = export(rows, style)
        notes = [note for note in made.notes if not note.startswith(_NOT_THERE)]
        return replace(made, notes=(*notes, f"The tools are named without their schemas: {exc}"))


def literal_row(row: Example) -> Example:
    """The row with every call written into its turn's text, its ids beside it."""
    return replace(row, messages=tuple(_literal(m) for m in row.messages))


def _literal(message: Message) -> Message:
    if not message.tool_calls:
        return message
    before = sum(isinstance(s, CallSegment) for s in TAG.parse(message.content))
    ordinary = all(_is_ordinary(c) for c in message.tool_calls)
    kept: list[Any] = [c.id if ordinary else dump_call(c) for c in message.tool_calls]
    extras = {k: v for k, v in message.extras.items() if k not in (FORM, IDS, ITEMS)}
    if any(k is not None for k in kept):
        extras[IDS if ordinary else ITEMS] = [None] * before + kept
    return Message(message.role, message_text(message), (), extras)


def _is_ordinary(call: ToolCall) -> bool:
    """Whether the call's name, arguments and id are all there is to it."""
    return call.as_text and not call.extras


def openai_row(row: Example, tools: Mapping[str, ToolSpec] | None = None) -> Example:
    """The row with literal calls as `tool_calls` where that moves no character, and its named tools as schemas where known."""
    extras = dict(row.extras)
    try:
        given = read_tools(extras.get("tools"))
    except RowError:
        given = []
    if any(isinstance(t, str) and t in (tools or {}) for t in given):
        extras["tools"] = [schema_of(tools[t]) if isinstance(t, str) and tools and t in tools else t for t in given]
    return replace(row, messages=tuple(_as_tool_calls(m) for m in row.messages), extras=extras)


def schema_of(tool: ToolSpec) -> dict[str, Any]:
    """The tool as OpenAI's function schema."""
    return {"type": "function", "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}}


def _as_tool_calls(message: Message) -> Message:
    if message.role != "assistant":
        return replace(message, tool_calls=tuple(_canonical(c) for c in message.tool_calls))
    segments = TAG.parse(message.content)
    first = next((i for i, s in enumerate(segments) if isinstance(s, CallSegment)), None)
    given = tuple(_canonical(c) for c in message.tool_calls)
    if first is None:
        return replace(message, tool_calls=given)
    literal = [s.call for s in segments[first:] if isinstance(s, CallSegment)]
    extras = {k: v for k, v in message.extras.items() if k not in (FORM, IDS, ITEMS)}
    calls = _remembered(literal, message.extras)
    text = "".join(s.raw for s in segments[:first]).strip()
    turned = Message(message.role, text, (*calls, *given), extras)
    return turned if message_text(turned) == message_text(message) else replace(message, tool_calls=given)


def _remembered(calls: list[ToolCall], extras: Mapping[str, Any]) -> list[ToolCall]:
    """Literal calls with the ids or the items that `_literal` put beside them, where these still fit."""
    ids, items = extras.get(IDS), extras.get(ITEMS)
    if isinstance(ids, list) and len(ids) == len(calls):
        return [replace(c, id=i) if isinstance(i, str) else c for c, i in zip(calls, ids, strict=True)]
    if isinstance(items, list) and len(items) == len(calls):
        return [_item(item, call) for item, call in zip(items, calls, strict=True)]
    return calls


def _item(item: Any, call: ToolCall) -> ToolCall:
    try:
        was = parse_call(item, "")
    except RowError:
        return call
    return _canonical(was) if TAG.render(was) == TAG.render(call) else call


def _canonical(call: ToolCall) -> ToolCall:
    """The call in the form OpenAI documents: a function with its arguments as JSON text. Its other keys stay."""
    return replace(call, extras={k: v for k, v in call.extras.items() if k != FORM}, as_text=True)


# -- the styles ----------------------------------------------------------------------------------


def _write_rows(rows: Sequence[Example], tools: Mapping[str, ToolSpec], notes: list[str]) -> bytes:
    return dump_jsonl(rows).encode("utf-8")


def _write_tag(rows: Sequence[Example], tools: Mapping[str, ToolSpec], notes: list[str]) -> bytes:
    return dump_jsonl(literal_row(row) for row in rows).encode("utf-8")


_NOT_THERE = "Not in data/tools.json"


def _write_openai(rows: Sequence[Example], tools: Mapping[str, ToolSpec], notes: list[str]) -> bytes:
    turned = [with_ids(openai_row(row, tools)) for row in rows]
    literal = sum(any(isinstance(s, CallSegment) for m in row.messages if m.role == "assistant" for s in TAG.parse(m.content)) for row in turned)
    if literal:
        notes.append(f"{literal:,} row(s) keep a call as literal text: as tool_calls its wording would not come back to the letter.")
    unknown = Counter(t for row in turned for t in _names(row))
    if unknown:
        notes.append(f"{_NOT_THERE}, so only named: {', '.join(sorted(unknown)[:8])}{' …' if len(unknown) > 8 else ''}.")
    return dump_jsonl(turned).encode("utf-8")


def _names(row: Example) -> Iterable[str]:
    try:
        return {t for t in read_tools(row.extras.get("tools")) if isinstance(t, str)}
    except RowError:
        return ()


def _write_sharegpt(rows: Sequence[Example], tools: Mapping[str, ToolSpec], notes: list[str]) -> bytes:
    return "".join(json.dumps(write_row(row), ensure_ascii=False) + "\n" for row in rows).encode("utf-8")


def _write_parquet(rows: Sequence[Example], tools: Mapping[str, ToolSpec], notes: list[str]) -> bytes:
    notes.append("messages, tools and the review are columns; the column workbench_row holds each row whole, as JSON text.")
    return write_parquet(rows)


EXPORTS: dict[str, Style] = {
    "rows": Style("JSON lines, the rows as they are", ".jsonl", _write_rows),
    "tag": Style("JSON lines, calls as text", ".jsonl", _write_tag),
    "openai": Style("JSON lines, calls as OpenAI tool_calls", ".jsonl", _write_openai),
    "sharegpt": Style("JSON lines, ShareGPT", ".jsonl", _write_sharegpt),
    "parquet": Style("Parquet", ".parquet", _write_parquet),
}
