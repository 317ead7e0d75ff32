"""Reads a data set of the hub, or a folder, in a process of its own and prints its rows as JSON lines. Run as a script; imports
nothing of the workbench.

A folder may hold a Parquet file of a few kilobytes that unpacks to gigabytes, and a server may never come to an end: here neither
reaches the app. Ends with one line {"end": rows, "more": whether there are more}, {"refused": sentence} or {"failed": [kind, text]}.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

SPARE = 2**30  # bytes that reading may take on top of the libraries
NETWORK = "network"  # the kind of any fault of the connection


def limit_memory() -> None:
    """Cap this process's memory, where the system lets it."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + SPARE, used + SPARE))


def read(where: str, split: str, config: str, max_rows: int, max_bytes: int, max_record: int) -> Iterator[str]:
    """The lines to print, the last of them included."""
    try:
        yield from _read(where, split, config, max_rows, max_bytes, max_record)
    except MemoryError:
        yield json.dumps({"refused": "it unpacks to more than can be held: split it into smaller files"})
    except Exception as exc:  # the libraries under it raise errors of many kinds
        kind = type(exc).__name__
        lost = isinstance(exc, (ConnectionError, TimeoutError)) or "Connection" in kind or "Offline" in kind
        yield json.dumps({"failed": [NETWORK if lost else kind, str(exc)[:2000]]})


def _read(where: str, split: str, config: str, max_rows: int, max_bytes: int, max_record: int) -> Iterator[str]:
    import datasets  # type: ignore[import-untyped]

    logging.getLogger("datasets").setLevel(logging.ERROR)
    size = number = 0
    for value in datasets.load_dataset(where, config or None, split=split, streaming=True):
        line, length = dumped(value, max_record)
        size += length
        if number == max_rows or size > max_bytes:
            yield json.dumps({"end": number, "more": True})
            return
        number += 1
        yield line
    yield json.dumps({"end": number, "more": False})


def dumped(row: Any, max_record: int) -> tuple[str, int]:
    """One row as a line of JSON, and its length in bytes: {"row": …}, {"too long": bytes}, or {"no JSON": [field, type]}."""
    strange: list[str] = []

    def plain(value: Any) -> Any:
        if hasattr(value, "isoformat"):
            return value.isoformat()
        strange.append(type(value).__name__)
        return None

    for name, cell in row.items():
        try:
            json.dumps(cell, default=plain)
        except (TypeError, ValueError, RecursionError):
            strange.append("a nested value")
        if strange:
            return json.dumps({"no JSON": [str(name), strange[0]]}), 0
    text = json.dumps(row, ensure_ascii=False, default=plain)
    length = len(text.encode("utf-8", "replace"))
    return (f'{{"row": {text}}}', length) if length <= max_record else (json.dumps({"too long": length}), length)


def main(arguments: list[str]) -> None:
    where, split, config, *limits = arguments
    # What a library prints must not stand among the rows.
    out, sys.stdout = sys.stdout, sys.stderr
    out.reconfigure(encoding="utf-8", errors="surrogatepass")  # type: ignore[union-attr]
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    # Rows are wanted, no tensors: it would load these while it reads, and torch alone maps as much as reading may take.
    os.environ |= {"USE_TORCH": "0", "USE_TF": "0", "USE_JAX": "0"}
    with contextlib.suppress(Exception):  # why it can't be imported is told by `read`
        import datasets  # noqa: F401

    limit_memory()
    for line in read(where, split, config, *(int(n) for n in limits)):
        print(line, file=out)


if __name__ == "__main__":
    main(sys.argv[1:])
