"""Reads a Parquet file in a process of its own and prints its rows as JSON lines. Run as a script; imports nothing of the workbench.

A Parquet file of a few kilobytes can say "this text of 60 MB, a thousand times", and its reader is C++: here neither a bomb nor a
crash reaches the app. Ends with one line {"end": …}, or {"refused": sentence}.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

SPARE = 256 * 2**20  # bytes that reading may take on top of the libraries
MAX_COLUMNS, MAX_FOOTER = 1000, 8 * 2**20


def limit_memory() -> None:
    """Cap this process's memory, where the system lets it."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + SPARE, used + SPARE))


def plain(value: Any) -> Any:
    """A cell as JSON: what struct types made up as null is left out, times and decimals are texts."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, (Decimal, timedelta)):
        return str(value)
    return value


def read(path: str, max_rows: int, max_bytes: int, max_record: int) -> dict[str, Any]:
    """Print the rows; returns the last line's value."""
    with open(path, "rb") as file:
        file.seek(-8, os.SEEK_END)
        if int.from_bytes(file.read(4), "little") > MAX_FOOTER:
            return {"refused": "its description of itself is too long"}
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    limit_memory()
    pool = pa.system_memory_pool()
    pa.set_memory_pool(pool)
    file = pq.ParquetFile(path, memory_map=False, pre_buffer=False, thrift_string_size_limit=MAX_FOOTER, thrift_container_size_limit=100_000)
    about = file.metadata
    if about.num_rows > max_rows:
        return {"refused": f"it holds more than {max_rows:,} records: split it into smaller files"}
    if about.num_columns > MAX_COLUMNS:
        return {"refused": f"it has more than {MAX_COLUMNS:,} columns"}
    unpacked = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
    if unpacked > max_bytes:
        return {"refused": f"it unpacks to more than {max_bytes // 2**20} MiB: split it into smaller files"}
    binary = [f.name for f in file.schema_arrow if pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type) or pa.types.is_fixed_size_binary(f.type)]
    columns = [name for name in file.schema_arrow.names if name not in binary]
    written = 0
    for batch in file.iter_batches(batch_size=64, columns=columns, use_threads=False):
        for i in range(batch.num_rows):
            text = dumped(batch.slice(i, 1), max_record)
            written += len(text)
            if written > max_bytes:
                return {"refused": f"it unpacks to more than {max_bytes // 2**20} MiB: split it into smaller files"}
            print(text)
    return {"end": binary}


def dumped(row: Any, max_record: int) -> str:
    """One row as a line of JSON; a line {"too long": bytes} for one that is too long."""
    if row.get_total_buffer_size() > 64 * max_record and row.nbytes > 2 * max_record:
        return json.dumps({"too long": row.nbytes})
    value = row.to_pylist()[0]
    try:
        text = json.dumps({"row": plain(value)}, ensure_ascii=False, default=lambda v: {"no JSON": type(v).__name__})
    except (ValueError, RecursionError):
        return json.dumps({"broken": "the row can't be written as JSON"})
    size = len(text.encode("utf-8", "replace"))
    return text if size <= max_record else json.dumps({"too long": size})


def main(arguments: list[str]) -> None:
    path, *limits = arguments
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogatepass")  # type: ignore[union-attr]
    try:
        last = read(path, *(int(n) for n in limits))
    except MemoryError:
        last = {"refused": "it unpacks to more than can be held: split it into smaller files"}
    except Exception as exc:
        last = {"refused": f"it can't be read as Parquet ({type(exc).__name__})"}
    print(json.dumps(last))


if __name__ == "__main__":
    main(sys.argv[1:])
