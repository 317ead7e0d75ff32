"""What kind of file this is, found from its content, and its records one by one: JSON lines, a JSON array, a table, Parquet.

Everything is bounded before it is parsed: a file's bytes, rows, lines and values, a record's bytes. Records come lazily, so that
a file that turns out to be hostile is left where it is refused. Text is decoded a line at a time: one emoji in 50 MB of ASCII
would make Python hold the whole of it at four bytes a character.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench.dataset.formats import read_bytes
from workbench.dataset.jsonscan import find_list, items, values
from workbench.dataset.layouts import detect, pair_keys, plain_name
from workbench.dataset.records import MAX_RECORDS, RAW_SHOWN, Record, Source, clip, shown_name, too_many_records
from workbench.dataset.strict import MAX_RECORD_BYTES, MAX_VALUES, count_values, parse_json, short, too_long, too_many_values
from workbench.dataset.tables import open_parquet
from workbench.errors import DataError, RowError

MAX_TABLE_LINES = 1_000_000  # of a CSV file: blank ones count
HEADER_BYTES = 2**16

UTF8_HELP = "save it as UTF-8 (in a text editor under “Save as”, in Excel as “CSV UTF-8”) and try again"
_MAGIC = {
    b"PK\x03\x04": "is a ZIP archive or an Excel file: unpack it, or save the sheet as CSV UTF-8",
    b"\x1f\x8b": "is packed with gzip: unpack it first",
    b"(\xb5/\xfd": "is packed with zstd: unpack it first",
    b"%PDF": "is a PDF: give a file of rows",
    b"ARROW1": "is an Arrow file: save it as Parquet or JSON lines",
}
_LINE = re.compile(rb"(?m)^[^\S\n]*+\S[^\n]*+")


def open_file(path: Path, name: str) -> Source:
    """The records of a file; raises `DataError` where it is none that can be read. `name` is what the person calls it."""
    shown = shown_name(name)
    raw = read_bytes(path)
    if not raw.strip():
        raise DataError(f"{shown} is empty: nothing was read.")
    if raw[:4] == b"PAR1":
        return open_parquet(path, shown)
    for magic, what in _MAGIC.items():
        if raw.startswith(magic):
            raise DataError(f"{shown} {what}.")
    raw = check_text(raw, shown)
    if raw.lstrip()[:1] == b"[":
        return _array(raw, raw.index(b"[") + 1, shown)
    if raw.lstrip()[:1] == b"{":
        return _objects(raw, shown)
    return _table_or_lines(raw, shown, Path(name.strip()).suffix.lower())


def check_text(raw: bytes, name: str) -> bytes:
    """The bytes without a byte-order mark, if they are UTF-8 text; raises `DataError` that says how to make them so."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{name} is UTF-16, not UTF-8: {UTF8_HELP}.")
    raw = raw.removeprefix(codecs.BOM_UTF8)
    head = raw[:4096]
    if head.count(0) * 4 > len(head):
        what = "is UTF-16 without a mark, not UTF-8" if head[1::2].count(0) * 2 > len(head[1::2]) or head[::2].count(0) * 2 > len(head[::2]) else "holds no text"
        raise DataError(f"{name} {what}: {UTF8_HELP}.")
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(raw) + 1, 2**20):
        chunk = raw[start : start + 2**20]
        try:
            decoder.decode(chunk, final=start + 2**20 > len(raw))
        except UnicodeDecodeError as exc:
            # What the decoder carried over from the last chunk holds no line break.
            line = raw.count(b"\n", 0, start) + exc.object[: exc.start].count(b"\n") + 1
            raise DataError(f"{name} is not UTF-8 (line {line}): {UTF8_HELP}.") from exc
    return raw


# -- JSON ----------------------------------------------------------------------------------------


def _lines(raw: bytes, name: str) -> Source:
    return Source("JSON lines", _records(_numbered(raw), name, whole=True))


def _numbered(raw: bytes) -> Iterator[tuple[int, bytes]]:
    number, seen = 1, 0
    for match in _LINE.finditer(raw):
        number += raw.count(b"\n", seen, match.start())
        seen = match.start()
        yield number, match.group()


def _records(pieces: Iterator[tuple[int, bytes]], name: str, *, whole: bool = False) -> Iterator[Record]:
    """Pieces of JSON as records; raises `DataError` past `MAX_RECORDS` and `MAX_VALUES`."""
    held = count = 0
    for line, piece in pieces:
        if len(piece) > MAX_RECORD_BYTES:
            text = clip(piece[: RAW_SHOWN * 4].decode("utf-8", "ignore"))
            record = Record(line, None, text, RowError(too_long(len(piece)), "line"))
        else:
            text = piece.decode("utf-8").rstrip("\r")
            if not text.strip():
                continue
            held += count_values(piece)
            record = _parsed(line, text, whole)
        count += 1
        if count > MAX_RECORDS:
            raise too_many_records(name)
        if held > MAX_VALUES:
            raise too_many_values(name)
        yield record


def _parsed(line: int, text: str, whole: bool) -> Record:
    raw = text if whole else clip(text.strip())
    try:
        return Record(line, parse_json(text), raw, whole=whole)
    except RowError as exc:
        return Record(line, None, raw, exc, whole=whole)


def _array(raw: bytes, start: int, name: str, under: str = "") -> Source:
    if count_values(raw) > MAX_VALUES:
        raise too_many_values(name)
    notes: list[str] = []
    return Source("JSON array", _records(items(raw, start, notes, under), name), notes)


def _objects(raw: bytes, name: str) -> Source:
    """A file that begins with an object: JSON lines, an object that holds the list of rows, or objects over several lines."""
    first = next(_numbered(raw))[1]
    alone = len(first) >= len(raw.strip())
    if len(first) <= MAX_RECORD_BYTES:
        record = _parsed(1, first.decode("utf-8"), False)
        if record.problem is None and not (alone and _is_wrapper(record.value)):
            return _lines(raw, name)
    found = find_list(raw)
    if found is not None:
        return _array(raw, found[1], name, found[0])
    if not alone and first.rstrip().endswith((b"{", b"[", b",", b":")):
        if count_values(raw) > MAX_VALUES:
            raise too_many_values(name)
        return Source("JSON objects", _records(values(raw), name))
    return _lines(raw, name)


def _is_wrapper(value: Any) -> bool:
    try:
        detect(value)
    except RowError:
        return True
    return False


# -- tables --------------------------------------------------------------------------------------


def _table_or_lines(raw: bytes, name: str, suffix: str) -> Source:
    line, header = next(_numbered(raw))
    looks_json = any(piece.lstrip().startswith(b"{") for _, (_, piece) in zip(range(20), _numbered(raw), strict=False))
    if suffix not in (".csv", ".tsv") and (looks_json or suffix in (".json", ".jsonl", ".ndjson")):
        return _lines(raw, name)
    if len(header) > HEADER_BYTES:
        raise DataError(f"{name} is neither JSON nor a table with a header row: its first line is {len(header) / 2**20:.1f} MiB long.")
    text = header.decode("utf-8")
    tables = [(delimiter, cells) for delimiter in ",;\t" if (cells := _cells(text, delimiter)) is not None]
    known = [t for t in tables if _is_header(t[1])]
    if known:
        delimiter, columns = max(known, key=lambda t: len(t[1]))
        return _table(raw, name, line, delimiter, columns)
    widest = max(tables, key=lambda t: len(t[1]), default=(",", [text]))[1]
    if suffix in (".csv", ".tsv") or len(widest) > 1:
        found = ", ".join(short(c.strip())[1:-1] for c in widest[:8])
        raise DataError(f"{name}: the first line must name the columns request and answer (or question, prompt, запрос … and response, output, ответ …); found: {found}.")
    raise DataError(f"{name} is neither JSON nor a table with a header row: give JSON lines, a JSON array, CSV or Parquet.")


def _cells(line: str, delimiter: str) -> list[str] | None:
    try:
        return next(csv.reader([line.rstrip("\r")], delimiter=delimiter, strict=True))
    except (csv.Error, StopIteration):
        return None


def _is_header(cells: list[str]) -> bool:
    try:
        return detect(dict.fromkeys((c.strip() for c in cells), "")) in ("alpaca", "pairs", "calls", "chat")
    except RowError:
        return False


def _table(raw: bytes, name: str, header_line: int, delimiter: str, cells: list[str]) -> Source:
    if raw.count(b"\n") > MAX_TABLE_LINES:
        raise DataError(f"{name} has more than {MAX_TABLE_LINES:,} lines: split it into smaller files.")
    columns = [c.strip() or f"column {i}" for i, c in enumerate(cells, 1)]
    for i, column in enumerate(columns):
        if plain_name(column) in {plain_name(c) for c in columns[:i]}:
            raise DataError(f"{name}: the column {short(column)} stands twice in the first line.")
    told = {",": "a comma", ";": "a semicolon", "\t": "a tab"}[delimiter]
    source = Source("CSV", iter(()), [f"A table with the columns {', '.join(short(c)[1:-1] for c in columns[:12])}, parted by {told}."])
    source.records = _rows(raw, name, header_line, delimiter, columns, source.notes)
    return source


def _rows(raw: bytes, name: str, header_line: int, delimiter: str, columns: list[str], notes: list[str]) -> Iterator[Record]:
    needed = {*pair_keys(dict.fromkeys(columns)), "messages", "instruction", "query", "answers"}
    reader = csv.reader(_decoded(raw), delimiter=delimiter, strict=True)
    count = 0
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            yield Record(line, None, "", RowError(_csv_reason(exc), "line"))
            if "field limit" in str(exc):
                notes.append(f"What follows line {line} was not read.")
                return
            cells = []
        except RowError as exc:
            yield Record(line, None, "", exc)
            notes.append(f"What follows line {line} was not read.")
            return
        if line <= header_line or not any(cells):
            continue
        count += 1
        if count > MAX_RECORDS:
            raise too_many_records(name)
        yield _row_record(line, cells, columns, needed)


def _row_record(line: int, cells: list[str], columns: list[str], needed: set[str | None]) -> Record:
    raw = clip(json.dumps(cells, ensure_ascii=False))
    if len(cells) > len(columns):
        return Record(line, None, raw, RowError(f"the row has {len(cells)} cells; the first line names {len(columns)} columns", "line"))
    size = sum(len(c.encode("utf-8")) for c in cells)
    if size > MAX_RECORD_BYTES:
        return Record(line, None, raw, RowError(too_long(size), "line"))
    # An empty cell says nothing, but an empty request or answer is told by its name.
    padded = [*cells, *[""] * (len(columns) - len(cells))]
    kept = {c: v for c, v in zip(columns, padded, strict=True) if v != "" or c in needed}
    return Record(line, kept, raw)


def _decoded(raw: bytes) -> Iterator[str]:
    """The lines of a table with their ends; raises `RowError` for one that is longer than a record may be."""
    start = 0
    while start < len(raw):
        end = raw.find(b"\n", start) + 1 or len(raw)
        if end - start > MAX_RECORD_BYTES:
            raise RowError(too_long(end - start), "line")
        yield raw[start:end].decode("utf-8")
        start = end


def _csv_reason(exc: csv.Error) -> str:
    text = str(exc)
    if "field limit" in text:
        return f"a quote is opened and not closed within {csv.field_size_limit():,} characters"
    if "unexpected end" in text:
        return "a quote is opened and never closed"
    return f"not valid CSV: {text}"
