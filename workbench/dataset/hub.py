"""Records of a data set on the hub, or of a local folder, read through `datasets` as a stream. No code of the data set is run."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from workbench.dataset.formats import MAX_FILE_BYTES
from workbench.dataset.records import Record, Source, clip, shown_name
from workbench.dataset.sources import open_file
from workbench.dataset.strict import MAX_RECORD_BYTES, too_long
from workbench.dataset.tables import without_nulls
from workbench.errors import DataError, RowError

HUB_ROWS = 10_000  # read at most: a set of the hub may have millions
_NAME = re.compile(r"[A-Za-z0-9][\w.\-]{0,95}/[A-Za-z0-9][\w.\-]{0,95}")
_SPLIT = re.compile(r"[\w.\-]{1,64}")


def open_named(name: str, split: str, config: str | None) -> tuple[Source, str]:
    """The records of `owner/name` on the hub, of a local folder or of a local file, and its name for a sentence; raises `DataError`."""
    name, split = name.strip(), split.strip() or "train"
    if not _SPLIT.fullmatch(split):
        raise DataError(f"The split {split[:40]!r} can't be used: give its name alone, as in train.")
    path = _local(name)
    if path is not None and path.is_file():
        return open_file(path, path.name), shown_name(path.name)
    if path is not None and path.is_dir():
        _check_folder(path)
        return _stream(str(path), shown_name(path.name), split, config), shown_name(path.name)
    if not _NAME.fullmatch(name) or ".." in name:
        raise DataError(f"{name[:80]!r} is neither a file or folder here nor a name on the hub: give a path, or owner/name.")
    _check_reachable(name)
    return _stream(name, name, split, config), name


def _local(name: str) -> Path | None:
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # what is no path at all is told as such
        path = Path(name).expanduser()
        if name and path.exists():
            return path.resolve()
    return None


def _check_folder(path: Path) -> None:
    total = 0
    for folder, _, files in os.walk(path):
        for file in files:
            with contextlib.suppress(OSError):
                total += (Path(folder) / file).stat().st_size
            if total > MAX_FILE_BYTES:
                raise DataError(f"The folder {path.name} holds more than {MAX_FILE_BYTES // 2**20} MiB: give one of its files.")


def _check_reachable(name: str) -> None:
    """Say at once that there is no network; the library would try for half a minute."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        raise DataError(f"{name} was not fetched: HF_HUB_OFFLINE is set. Unset it, or give a file on this machine.")
    if any(os.environ.get(v) for v in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return
    address = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    try:
        socket.create_connection((address.hostname or "huggingface.co", address.port or 443), timeout=5).close()
    except OSError as exc:
        raise DataError(f"{name} was not fetched: {address.hostname} can't be reached. Check the network, or give a file on this machine.") from exc


def _stream(where: str, name: str, split: str, config: str | None) -> Source:
    import datasets  # type: ignore[import-untyped]

    logging.getLogger("datasets").setLevel(logging.ERROR)
    try:
        found = datasets.load_dataset(where, config or None, split=split, streaming=True)
    except Exception as exc:  # the libraries under it raise errors of many kinds
        raise DataError(_reason(exc, name, split)) from exc
    source = Source("data set", iter(()), typed=True)
    source.records = _records(found, name, split, source.notes)
    return source


def _records(found: Any, name: str, split: str, notes: list[str]) -> Iterator[Record]:
    rows = iter(found)
    size = 0
    for number in range(1, HUB_ROWS + 2):
        try:
            value = next(rows)
        except StopIteration:
            return
        except Exception as exc:
            raise DataError(_reason(exc, name, split)) from exc
        record, length = _record(number, value)
        size += length
        if number > HUB_ROWS or size > MAX_FILE_BYTES:
            notes.append(f"Only the first {number - 1:,} rows of {name} were read.")
            return
        yield record


def _record(number: int, value: Any) -> tuple[Record, int]:
    """The record, and its length as JSON in bytes."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        value = _plain(value)
        text = json.dumps(value, ensure_ascii=False, default=lambda v: type(v).__name__)
    value = without_nulls(value)
    length = len(text.encode("utf-8", "replace"))
    problem = RowError(too_long(length), "line") if length > MAX_RECORD_BYTES else None
    return Record(number, None if problem else value, clip(text), problem), length


def _plain(value: Any) -> Any:
    """Times and the like as text; what no row can hold stays, and is told as the row's problem."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value.isoformat() if hasattr(value, "isoformat") else value


def _reason(exc: Exception, name: str, split: str) -> str:
    kind, text = type(exc).__name__, str(exc)
    if kind == "DatasetNotFoundError" or "404" in text:
        return f"There is no data set {name} that can be read: check its name; a private or gated one needs `hf auth login`."
    if "Unknown split" in text or "Bad split" in text:
        return f"{name} has no split {split!r}: " + (text.split(".")[1].strip() if "Should be one of" in text else "check its name") + "."
    if "Config name is missing" in text or "BuilderConfig" in text:
        return f"{name} has several parts: name one under “part”."
    if "script" in text.lower():
        return f"{name} is made by code of its own, which is never run here: download its files and give one of them."
    if isinstance(exc, (ConnectionError, TimeoutError)) or "Connection" in kind or "Offline" in kind:
        return f"{name} was not fetched: the hub can't be reached. Check the network, or give a file on this machine."
    return f"{name} could not be read ({kind}): " + " ".join(text.split())[:200]
