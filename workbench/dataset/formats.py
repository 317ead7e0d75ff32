"""Rows in files: JSON lines ⇄ `Example`. What can't be used is named by line, field and reason; nothing is dropped."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.calls.dialects import DIALECTS, MalformedSegment, message_text
from workbench.errors import DataError, RowError
from workbench.files import explain_os_error
from workbench.schema import PINS, ROLES, STATUSES, Example, Message, RowProblem, ToolCall

MAX_FILE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Loaded:
    """What a file of rows holds: the usable rows with their line numbers, and the problems."""

    rows: tuple[Example, ...]
    lines: tuple[int, ...]
    problems: tuple[RowProblem, ...]


def read_text(path: Path) -> str:
    """The file's text, UTF-8 with or without a byte-order mark; raises `DataError`."""
    try:
        if path.is_dir():
            raise DataError(f"{path} is a folder: give a file of JSON lines.")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"{path} is larger than {MAX_FILE_BYTES // 2**20} MiB: split it into smaller files.")
        raw = path.read_bytes()
    except OSError as exc:
        raise DataError(explain_os_error(exc, path)) from exc
    return decode(raw, str(path))


def decode(raw: bytes, name: str) -> str:
    """UTF-8 text of `raw`; raises `DataError` that names the first bad byte's line."""
    raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        line = raw[: exc.start].count(b"\n") + 1
        raise DataError(f"{name} is not UTF-8 (line {line}): save it as UTF-8 and try again.") from exc


def load_rows(path: Path) -> Loaded:
    """Every line of a JSONL file as a row or a problem; raises `DataError` where the file itself can't be read."""
    return parse_jsonl(read_text(path))


def parse_jsonl(text: str) -> Loaded:
    """Every non-empty line of `text` as an `Example` or a `RowProblem`. Lines count from 1.

    Only `\\n` ends a line: JSON strings may hold other line separators (U+2028) as they are.
    """
    rows: list[Example] = []
    lines: list[int] = []
    problems: list[RowProblem] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(parse_row(_parse_json(line)))
            lines.append(number)
        except RowError as exc:
            problems.append(RowProblem(number, exc.field, exc.reason))
    return Loaded(tuple(rows), tuple(lines), tuple(problems))


def _parse_json(line: str) -> Any:
    try:
        return json.loads(line, parse_constant=_refuse_constant)
    except json.JSONDecodeError as exc:
        raise RowError(f"not valid JSON: {exc.msg} at column {exc.colno}", "line") from exc
    except (ValueError, RecursionError) as exc:
        raise RowError("not valid JSON: a number or the nesting is too large", "line") from exc


def _refuse_constant(word: str) -> None:
    raise RowError(f"not valid JSON: {word} is not a JSON number", "line")


def _refuse_half_characters(value: Any, field: str) -> None:
    """Raise `RowError` for a lone surrogate anywhere in the row: it could not be written to a file again."""
    if isinstance(value, str):
        if any(0xD800 <= ord(c) <= 0xDFFF for c in value):
            raise RowError("the text holds half a character (a lone surrogate); type it again", field)
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_half_characters(key, field)
            _refuse_half_characters(item, f"{field}.{key}" if field else key)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _refuse_half_characters(item, f"{field}[{i}]")


def parse_row(value: Any) -> Example:
    """A row from parsed JSON; raises `RowError` naming the field and the reason."""
    if not isinstance(value, dict):
        raise RowError(f"expected a JSON object, found {_kind(value)}", "line")
    if "messages" not in value:
        raise RowError("the key is missing; a row needs a list of messages", "messages")
    messages = value["messages"]
    if not isinstance(messages, list) or not messages:
        raise RowError(f"expected a non-empty list, found {_kind(messages)}", "messages")
    status = value.get("status", "draft")
    if status not in STATUSES:
        raise RowError(f"expected one of {', '.join(STATUSES)}, found {_short(status)}", "status")
    _refuse_half_characters(value, "")
    parsed = tuple(_parse_message(m, f"messages[{i}]") for i, m in enumerate(messages))
    _check_turns(parsed)
    pin = value.get("pin", "")
    if pin not in ("", *PINS):
        raise RowError(f"expected one of {', '.join(PINS)}, found {_short(pin)}", "pin")
    # A foreign file may use these names for something of its own: what is no text stays among the extras.
    own = {k: value[k] for k in ("note", "source") if isinstance(value.get(k), str)}
    extras = {k: v for k, v in value.items() if k not in ("messages", "status", "pin", *own)}
    return Example(parsed, status, pin=pin, extras=extras, **own)


def _parse_message(value: Any, field: str) -> Message:
    if not isinstance(value, dict):
        raise RowError(f"expected a JSON object, found {_kind(value)}", field)
    role = value.get("role")
    if role is None:
        raise RowError("the key is missing", f"{field}.role")
    if role not in ROLES:
        raise RowError(f"unknown role {_short(role)}; the roles are {', '.join(ROLES)}", f"{field}.role")
    calls = _parse_calls(value.get("tool_calls"), f"{field}.tool_calls")
    if "content" not in value and not calls:
        raise RowError("the key is missing", f"{field}.content")
    content = value.get("content")
    content = "" if content is None and calls else content
    if not isinstance(content, str):
        raise RowError(f"expected text, found {_kind(content)}", f"{field}.content")
    if not content.strip() and not calls:
        raise RowError("the text is empty", f"{field}.content")
    extras = {k: v for k, v in value.items() if k not in ("role", "content", "tool_calls")}
    return Message(role, content, calls, extras)


def _parse_calls(value: Any, field: str) -> tuple[ToolCall, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise RowError(f"expected a list, found {_kind(value)}", field)
    calls = []
    for i, item in enumerate(value):
        item = item if isinstance(item, dict) else {}
        function = item.get("function", item)
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or not name.strip():
            raise RowError("the call has no function name", f"{field}[{i}]")
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments, parse_constant=_refuse_constant)
            except (ValueError, RecursionError) as exc:
                raise RowError("the arguments are not valid JSON", f"{field}[{i}].arguments") from exc
        if not isinstance(arguments, dict):
            raise RowError(f"expected a JSON object, found {_kind(arguments)}", f"{field}[{i}].arguments")
        identity = item.get("id")
        calls.append(ToolCall(name, arguments, identity if isinstance(identity, str) else None))
    return tuple(calls)


def _check_turns(messages: tuple[Message, ...]) -> None:
    if not any(m.role == "user" for m in messages):
        raise RowError("there is no user turn", "messages")
    last = len(messages) - 1
    if messages[last].role != "assistant":
        raise RowError("the last turn must be the assistant's: it is what the row teaches", f"messages[{last}].role")
    for i, message in enumerate(messages):
        if message.role == "assistant":
            for segment in DIALECTS["tag"].parse(message_text(message)):
                if isinstance(segment, MalformedSegment):
                    raise RowError(f"malformed tool call: {segment.reason}", f"messages[{i}].content")


def refuse_problems(problems: Sequence[RowProblem], where: str) -> None:
    """Raise `DataError` naming the first rows that can't be learned; none is left out in silence."""
    if problems:
        shown = "; ".join(str(p) for p in problems[:3])
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise DataError(f"{where}: {len(problems)} row(s) can't be learned: {shown}{more}. Mend or delete them, then start again.")


def dump_row(row: Example) -> dict[str, Any]:
    """The row as JSON values, in the file's key order; a draft's status is left out, as the seeds' files have none."""
    value: dict[str, Any] = {"messages": [_dump_message(m) for m in row.messages]}
    if row.status != "draft":
        value["status"] = row.status
    own = {k: v for k, v in (("note", row.note), ("pin", row.pin), ("source", row.source)) if v}
    return value | dict(row.extras) | own


def _dump_message(message: Message) -> dict[str, Any]:
    value: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        value["tool_calls"] = [_dump_call(call) for call in message.tool_calls]
    return value | dict(message.extras)


def _dump_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
    return ({"id": call.id} if call.id else {}) | {"type": "function", "function": function}


def dump_jsonl(rows: Iterable[Example]) -> str:
    """JSON lines, readable Cyrillic, one row a line."""
    return "".join(json.dumps(dump_row(row), ensure_ascii=False) + "\n" for row in rows)


def rows_hash(rows: Iterable[Example]) -> str:
    """SHA-256 of the rows as they would be written: names the data a run learned from."""
    return hashlib.sha256(dump_jsonl(rows).encode("utf-8")).hexdigest()


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true/false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "an empty text" if not value else "a text"
    if isinstance(value, Mapping):
        return "an object"
    return "an empty list" if not value else "a list"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"
