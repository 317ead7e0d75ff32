"""Reading foreign files in a process of its own: the app's side of `parquet_child` and `hub_child`."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from workbench.dataset.records import Record, clip
from workbench.dataset.strict import parse_json
from workbench.errors import DataError, RowError

ENDS = (b'{"end"', b'{"refused"', b'{"failed"')  # how a reader's last line begins


def read_apart(
    script: Path, arguments: Sequence[str], to_record: Callable[[int, Any, str], Record], *, name: str, seconds: float, late: str = "", broke: str
) -> Generator[Record, None, dict[str, Any]]:
    """The records that a reader script prints as JSON lines; returns the value of its last line.

    `to_record` gets a line's number (from 1), its value and its text. Raises `DataError` if the reader takes more than
    `seconds` (`late` says what to do then), ends without a last line (`broke` says why), or refuses what it reads.
    """
    command = [sys.executable, "-I", str(script), *arguments]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as exc:
        raise DataError(f"{name} was not read: it took more than {seconds:.0f} seconds.{late}") from exc
    last: dict[str, Any] | None = None
    for number, raw in enumerate(io.BytesIO(done.stdout), 1):
        last = json.loads(raw) if raw.startswith(ENDS) else None
        if last is None:
            yield _record(number, raw.decode("utf-8", "replace").rstrip("\n"), to_record)
    if last is None:
        raise DataError(f"{name} was not read: {broke}")
    if "refused" in last:
        raise DataError(f"{name} was not read: {last['refused']}.")
    return last


def row_text(line: str) -> str:
    """What is shown of a row's line: the row alone."""
    return clip(line.removeprefix('{"row": ').removesuffix("}"))


def _record(number: int, line: str, to_record: Callable[[int, Any, str], Record]) -> Record:
    try:
        return to_record(number, parse_json(line), line)
    except RowError as exc:
        return Record(number, None, clip(line), exc)
