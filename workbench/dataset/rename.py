"""A tool's new name in the rows that call it by the old one; nothing else of a row changes by a letter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from workbench.calls.dialects import TAG, CallSegment
from workbench.dataset.rowtools import row_tools
from workbench.schema import Example, Message, ToolSpec


def rename_calls(rows: Mapping[int, Example], was: str, name: str) -> dict[int, Example]:
    """Those of the rows that call `was` or name it among their tools, calling `name` instead. A row that brings a tool of its own called `was` stays."""
    found = {place: _renamed(row, was, name) for place, row in rows.items() if not _brings(row, was)}
    return {place: row for place, row in found.items() if row != rows[place]}


def _brings(row: Example, was: str) -> bool:
    return "tools" in row.extras and any(isinstance(tool, ToolSpec) and tool.name == was for tool in row_tools(row))


def _renamed(row: Example, was: str, name: str) -> Example:
    tools: Any = row.extras.get("tools")
    extras = {**row.extras, "tools": [name if tool == was else tool for tool in tools]} if isinstance(tools, list) and was in tools else row.extras
    return replace(row, messages=tuple(_turn(message, was, name) for message in row.messages), extras=extras)


def _turn(message: Message, was: str, name: str) -> Message:
    if message.role == "tool" and message.extras.get("name") == was:
        return replace(message, extras={**message.extras, "name": name})
    if message.role != "assistant":
        return message
    calls = tuple(replace(call, name=name) if call.name == was else call for call in message.tool_calls)
    if f'"{was}"' not in message.content:
        return replace(message, tool_calls=calls)
    written = (_written(s.raw, was, name) if isinstance(s, CallSegment) and s.call.name == was else s.raw for s in TAG.parse(message.content))
    return replace(message, content="".join(written), tool_calls=calls)


def _written(call: str, was: str, name: str) -> str:
    return call.replace(f'name="{was}"', f'name="{name}"', 1)
