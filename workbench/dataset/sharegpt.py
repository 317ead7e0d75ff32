"""Turns as ShareGPT has them (`from` and `value`), both ways.

What `from` and `value` can't say exactly (ids, text beside calls) is written beside them under `TURN`, which counts as long as
it says the same as they do; extras that have no place in the record stand under `EXTRAS`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from workbench.calls.dialects import message_text
from workbench.dataset.formats import dump_row
from workbench.dataset.strict import kind, missing_key, parse_json, same, short
from workbench.dataset.turns import dump_message, parse_message
from workbench.errors import RowError
from workbench.schema import Example, Message

TURN, EXTRAS = "workbench_turn", "workbench_extras"
SENDERS = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "model": "assistant",
    "bot": "assistant", "function_call": "assistant", "tool_call": "assistant", "observation": "tool", "tool": "tool", "function_response": "tool",
}  # fmt: skip
WRITTEN = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
CALLING = ("function_call", "tool_call")


def read_turns(turns: list[Any], field: str) -> list[Any]:
    """The turns as chat messages; turns that have a role already stay as they are. Raises `RowError`."""
    return [read_turn(turn, f"{field}[{i}]") if isinstance(turn, dict) and "from" in turn and "role" not in turn else turn for i, turn in enumerate(turns)]


def read_turn(turn: Mapping[str, Any], field: str) -> dict[str, Any]:
    """One turn as a chat message; raises `RowError`."""
    sender, value = turn["from"], turn.get("value")
    exact = turn.get(TURN)
    if isinstance(exact, dict) and _base(parse_message(exact, f"{field}.{TURN}")) == {"from": sender, "value": value}:
        return exact
    role = SENDERS.get(sender.lower()) if isinstance(sender, str) else None
    if role is None:
        raise RowError(f"unknown sender {short(sender)}; the senders are {', '.join(SENDERS)}", f"{field}.from")
    if not isinstance(value, str):
        raise RowError(f"expected text, found {kind(value)}" if "value" in turn else missing_key(turn, "value", ("from",), ("content", "text")), f"{field}.value")
    rest = {k: v for k, v in turn.items() if k not in ("from", "value", TURN)}
    if sender.lower() in CALLING:
        return {"role": role, "content": "", "tool_calls": _read_calls(value, f"{field}.value")} | rest
    return {"role": role, "content": value} | rest


def _read_calls(text: str, field: str) -> list[dict[str, Any]]:
    try:
        value = parse_json(text)
    except RowError as exc:
        raise RowError(f"the call is {exc.reason}", field) from exc
    calls = value if isinstance(value, list) else [value]
    if not calls or not all(isinstance(c, dict) for c in calls):
        raise RowError(f"expected a call as a JSON object, found {kind(value)}", field)
    return [{"type": "function", "function": c} for c in calls]


def write_turn(message: Message) -> dict[str, Any]:
    """A turn as ShareGPT has it, from which `read_turn` makes the same turn again."""
    dumped, base = dump_message(message), _base(message)
    rest = {k: v for k, v in dumped.items() if k not in ("role", "content", "tool_calls")}
    plain = base | rest
    if not {"from", "value", "role", TURN} & set(rest) and same(read_turn(plain, ""), dumped):
        return plain
    return base | {TURN: dumped}


def _base(message: Message) -> dict[str, Any]:
    if message.role == "assistant" and message.tool_calls and not message.content:
        calls = [{"name": c.name, "arguments": dict(c.arguments)} for c in message.tool_calls]
        return {"from": "function_call", "value": json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False)}
    return {"from": WRITTEN[message.role], "value": message_text(message) if message.tool_calls else message.content}


def write_row(row: Example) -> dict[str, Any]:
    """A row as a ShareGPT record, its tools as JSON text as the readers of this layout want them."""
    rest = {k: v for k, v in dump_row(row).items() if k != "messages"}
    folded = {k: rest.pop(k) for k in ("conversations", "system", EXTRAS) if k in rest}
    tools = rest.get("tools")
    if isinstance(tools, list):
        folded["tools"] = tools
        rest["tools"] = json.dumps(tools, ensure_ascii=False)
    return {"conversations": [write_turn(m) for m in row.messages]} | rest | ({EXTRAS: folded} if folded else {})


def unfold_extras(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with what `write_row` folded away back in its place; tools that were changed since stay as they are."""
    record = dict(record)
    folded = record.get(EXTRAS)
    if not isinstance(folded, dict):
        return record
    tools = folded.get("tools")
    if "tools" in folded and isinstance(record.get("tools"), str) and record["tools"] != json.dumps(tools, ensure_ascii=False):
        folded = {k: v for k, v in folded.items() if k != "tools"}
    del record[EXTRAS]
    return record | folded
