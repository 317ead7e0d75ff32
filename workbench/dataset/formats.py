"""Rows in files: JSON lines ⇄ `Example`. What can't be used is named by line, field and reason; nothing is dropped."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.dataset.rowtools import read_tools, row_tools
from workbench.dataset.strict import MAX_VALUES, check_size, check_value, count_values, kind, numbered_lines, parse_json, short, too_many_values
from workbench.dataset.turns import check_turns, dump_message, parse_message
from workbench.errors import DataError, RowError
from workbench.files import explain_os_error
from workbench.schema import PINS, STATUSES, Example, RowProblem

__all__ = [
    "MAX_FILE_BYTES", "Loaded", "decode", "dump_jsonl", "dump_row", "load_rows", "parse_jsonl", "parse_line", "parse_row",
    "read_bytes", "read_text", "refuse_problems", "row_tools", "rows_hash",
]

MAX_FILE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Loaded:
    """What a file of rows holds: the usable rows with their line numbers, and the problems."""

    rows: tuple[Example, ...]
    lines: tuple[int, ...]
    problems: tuple[RowProblem, ...]


def read_bytes(path: Path) -> bytes:
    """The whole of a regular file of at most `MAX_FILE_BYTES`; raises `DataError`."""
    try:
        if path.is_dir():
            raise DataError(f"{path} is a folder: give a file of JSON lines.")
        size = path.stat().st_size  # says what is missing or forbidden
        if not path.is_file():
            raise DataError(f"{path} is not an ordinary file: give a file of JSON lines.")
        raw = b"" if size > MAX_FILE_BYTES else path.read_bytes()
    except OSError as exc:
        raise DataError(explain_os_error(exc, path)) from exc
    if max(size, len(raw)) > MAX_FILE_BYTES:
        raise DataError(f"{path} is larger than {MAX_FILE_BYTES // 2**20} MiB: split it into smaller files.")
    return raw


def read_text(path: Path) -> str:
    """The file's text, UTF-8 with or without a byte-order mark; raises `DataError`."""
    return decode(read_bytes(path), str(path))


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
    return parse_jsonl(read_text(path), str(path))


def parse_jsonl(text: str, name: str = "The file") -> Loaded:
    """Every non-empty line of `text` as an `Example` or a `RowProblem`. Lines count from 1.

    Raises `DataError` for a text of more rows or values than can be held (`MAX_LINES`, `MAX_VALUES`).
    """
    rows: list[Example] = []
    lines: list[int] = []
    problems: list[RowProblem] = []
    values = 0
    for number, line in numbered_lines(text):
        try:
            rows.append(parse_line(line))
            lines.append(number)
        except RowError as exc:
            problems.append(RowProblem(number, exc.field, exc.reason))
            continue
        values += count_values(line)
        if values > MAX_VALUES:
            raise too_many_values(name)
    return Loaded(tuple(rows), tuple(lines), tuple(problems))


def parse_line(line: str) -> Example:
    """The row that one line of JSON is; raises `RowError`."""
    check_size(line)
    return parse_row(parse_json(line))


def parse_row(value: Any) -> Example:
    """A row from parsed JSON; raises `RowError` naming the field and the reason."""
    if not isinstance(value, dict):
        raise RowError(f"expected a JSON object, found {kind(value)}", "line")
    check_value(value)
    if "messages" not in value:
        raise RowError("the key is missing; a row needs a list of messages", "messages")
    messages = value["messages"]
    if not isinstance(messages, list) or not messages:
        raise RowError(f"expected a non-empty list, found {kind(messages)}", "messages")
    status = value.get("status", "draft")
    if status not in STATUSES:
        raise RowError(f"expected one of {', '.join(STATUSES)}, found {short(status)}", "status")
    parsed = tuple(parse_message(m, f"messages[{i}]") for i, m in enumerate(messages))
    check_turns(parsed)
    pin = value.get("pin", "")
    if pin not in ("", *PINS):
        raise RowError(f"expected one of {', '.join(PINS)}, found {short(pin)}", "pin")
    read_tools(value.get("tools"))
    # A foreign file may use these names for something of its own: what is no text stays among the extras.
    own = {k: value[k] for k in ("note", "source") if isinstance(value.get(k), str)}
    extras = {k: v for k, v in value.items() if k not in ("messages", "status", "pin", *own)}
    return Example(parsed, status, pin=pin, extras=extras, **own)


def refuse_problems(problems: Sequence[RowProblem], where: str) -> None:
    """Raise `DataError` naming the first rows that can't be learned; none is left out in silence."""
    if problems:
        shown = "; ".join(str(p) for p in problems[:3])
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise DataError(f"{where}: {len(problems)} row(s) can't be learned: {shown}{more}. Mend or delete them, then start again.")


def dump_row(row: Example) -> dict[str, Any]:
    """The row as JSON values, in the file's key order; a draft's status is left out, as the seeds' files have none."""
    value: dict[str, Any] = {"messages": [dump_message(m) for m in row.messages]}
    if row.status != "draft":
        value["status"] = row.status
    own = {k: v for k, v in (("note", row.note), ("pin", row.pin), ("source", row.source)) if v}
    return value | dict(row.extras) | own


def dump_jsonl(rows: Iterable[Example]) -> str:
    """JSON lines, readable Cyrillic, one row a line."""
    return "".join(json.dumps(dump_row(row), ensure_ascii=False) + "\n" for row in rows)


def rows_hash(rows: Iterable[Example]) -> str:
    """SHA-256 of the rows as they would be written: names the data a run learned from."""
    return hashlib.sha256(dump_jsonl(rows).encode("utf-8")).hexdigest()
