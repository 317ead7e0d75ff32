"""A file's records before anybody knows what they are: what every kind of file is read into."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from workbench.errors import DataError, RowError

MAX_RECORDS = 50_000  # of one file
RAW_SHOWN = 300  # characters of a record that are kept where its exact line is of no use


@dataclass(frozen=True)
class Record:
    """One record as it stood: its first line from 1, its parsed value or what is wrong with it, and its text.

    `whole` says whether `raw` is the record's exact line of a file of JSON lines; else it is a short rendering of it.
    """

    line: int
    value: Any
    raw: str
    problem: RowError | None = None
    whole: bool = False


@dataclass
class Source:
    """A file's records and what was found out about it. `notes` grows while the records are read.

    `typed`: the container gives every record every column, so that nulls were made up by it.
    """

    container: str
    records: Iterator[Record]
    notes: list[str] = field(default_factory=list)
    typed: bool = False


def shown_name(name: str) -> str:
    """A file's name for a sentence: its last part, without control characters, 80 characters at most."""
    last = re.split(r"[/\\]", name.strip())[-1] or "the file"
    clean = "".join(c if c.isprintable() else "�" for c in last)
    return clean if len(clean) <= 80 else clean[:79] + "…"


def clip(text: str) -> str:
    return text if len(text) <= RAW_SHOWN else text[: RAW_SHOWN - 1] + "…"


def too_many_records(name: str) -> DataError:
    return DataError(f"{name} holds more than {MAX_RECORDS:,} records: split it into smaller files.")
