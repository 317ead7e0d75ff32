"""Parquet, both ways: rows written as columns that `datasets` and every trainer read, and any Parquet file's records.

`messages`, `tools` and the review are columns of their own; the column `ROW` holds the whole row as JSON, exactly. On the way
back it counts as long as it says the same as the columns; where they were edited since, the columns count.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.dataset.apart import read_apart, row_text
from workbench.dataset.formats import MAX_FILE_BYTES, dump_row, parse_row
from workbench.dataset.records import MAX_RECORDS, Record, Source
from workbench.dataset.strict import MAX_RECORD_BYTES, parse_json, same, too_long
from workbench.errors import RowError
from workbench.schema import Example

ROW = "workbench_row"
READER = Path(__file__).with_name("parquet_child.py")
SECONDS = 120.0  # after which the reader is stopped


def columns_of(row: Example) -> dict[str, Any]:
    """The row's cells, without `ROW`: calls as OpenAI writes them, tools as JSON text."""
    tools = row.extras.get("tools")
    return {
        "messages": [_turn(m.role, m.content, [(c.id, c.name, dict(c.arguments)) for c in m.tool_calls]) for m in row.messages],
        "tools": tools if tools is None or isinstance(tools, str) else json.dumps(tools, ensure_ascii=False),
        "status": row.status, "note": row.note, "pin": row.pin, "source": row.source,
    }  # fmt: skip


def _turn(role: str, content: str, calls: list[tuple[str | None, str, dict[str, Any]]]) -> dict[str, Any]:
    written = [{"id": i, "type": "function", "function": {"name": n, "arguments": json.dumps(a, ensure_ascii=False)}} for i, n, a in calls]
    return {"role": role, "content": content, "tool_calls": written or None}


def write_parquet(rows: Sequence[Example]) -> bytes:
    """The rows as a Parquet file with the columns of `columns_of` and `ROW`."""
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    text = pa.string()
    call = pa.struct([("id", text), ("type", text), ("function", pa.struct([("name", text), ("arguments", text)]))])
    turn = pa.struct([("role", text), ("content", text), ("tool_calls", pa.list_(call))])
    schema = pa.schema([("messages", pa.list_(turn)), *((name, text) for name in ("tools", "status", "note", "pin", "source", ROW))])
    cells = [columns_of(row) | {ROW: json.dumps(dump_row(row), ensure_ascii=False)} for row in rows]
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(cells, schema=schema), out, compression="zstd")
    return out.getvalue()


def exact_value(record: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """A record of a table as a row's values: those under `ROW` where they say the same as the columns, else the columns."""
    value = {k: v for k, v in record.items() if k != ROW}
    if not isinstance(record.get(ROW), str):
        return value
    try:
        exact = parse_json(record[ROW])
        if same(without_nulls(columns_of(parse_row(exact))), without_nulls(value)):
            return dict(exact)
    except RowError:
        pass
    told = f"Some rows' columns were edited since the export: the columns count there, not “{ROW}”."
    if told not in notes:
        notes.append(told)
    return value


def without_nulls(value: Any) -> Any:
    """The value without the keys whose value is null: a table's types make every key up for every record."""
    if isinstance(value, Mapping):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return [without_nulls(v) for v in value] if isinstance(value, list) else value


def open_parquet(path: Path, name: str) -> Source:
    """The records of a Parquet file, read in a process of its own; what it refuses is raised as `DataError` while reading."""
    source = Source("Parquet", iter(()), typed=True)
    source.records = _records(path, name, source.notes)
    return source


def _records(path: Path, name: str, notes: list[str]) -> Iterator[Record]:
    limits = [str(n) for n in (MAX_RECORDS, MAX_FILE_BYTES, MAX_RECORD_BYTES)]
    broke = "the reader of Parquet files broke off; the file is damaged, or unpacks to more than can be held."
    last = yield from read_apart(READER, [str(path.resolve()), *limits], _record, name=name, seconds=SECONDS, broke=broke)
    if last["end"]:
        notes.append(f"The columns {', '.join(last['end'][:8])} hold bytes and were left out.")


def _record(number: int, value: Any, line: str) -> Record:
    if "row" in value:
        return Record(number, value["row"], row_text(line))
    return Record(number, None, "", RowError(too_long(value["too long"]) if "too long" in value else value["broken"], "line"))
