"""Files of JSON lines that are only ever appended to: what a killed process cut is passed over, and nothing is glued to it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

Line = TypeVar("Line")


def append_line(path: Path, line: BaseModel, *, to_disk: bool) -> None:
    """Append one line and flush it to the system, and with `to_disk` to the disk, before this returns. Raises `OSError`."""
    with path.open("a+b") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - 1))
        # A killed process may have left half a line: what comes next must not be glued to it.
        gap = b"\n" if size and stream.read(1) != b"\n" else b""
        stream.write(gap + line.model_dump_json().encode("utf-8") + b"\n")
        stream.flush()
        if to_disk:
            os.fsync(stream.fileno())


def read_lines(path: Path, form: TypeAdapter[Line]) -> list[Line]:
    """All whole lines; a half-written last one is left for the next read. Raises `OSError`."""
    found: list[Line] = []
    for raw in path.read_bytes().split(b"\n")[:-1]:
        try:
            found.append(form.validate_python(json.loads(raw)))
        except (ValueError, ValidationError):
            # A line that a crash cut and a later writer continued, or a foreign one: the others still tell.
            continue
    return found
