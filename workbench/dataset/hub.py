"""Records of a data set on the hub, or of a local folder, read through `datasets` as a stream. No code of the data set is run."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from workbench.dataset.apart import read_apart, row_text
from workbench.dataset.formats import MAX_FILE_BYTES
from workbench.dataset.hub_child import NETWORK
from workbench.dataset.records import Record, Source, shown_name
from workbench.dataset.sources import open_file
from workbench.dataset.strict import MAX_RECORD_BYTES, too_long
from workbench.dataset.tables import without_nulls
from workbench.errors import DataError, RowError

HUB_ROWS = 10_000  # read at most: a set of the hub may have millions
READER = Path(__file__).with_name("hub_child.py")
SECONDS = 120.0  # after which the reader is stopped
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
    source = Source("data set", iter(()), typed=True)
    source.records = _records(where, name, split, config, source.notes)
    return source


def _records(where: str, name: str, split: str, config: str | None, notes: list[str]) -> Iterator[Record]:
    """The rows, read in a process of its own that may take only so much memory and time; raises `DataError`."""
    limits = [str(n) for n in (HUB_ROWS, MAX_FILE_BYTES, MAX_RECORD_BYTES)]
    last = yield from read_apart(
        READER, [where, split, config or "", *limits], _record, name=name, seconds=SECONDS, late=" Download it, and give one of its files.",
        broke="its reader broke off; a file of it is damaged, or unpacks to more than can be held.",
    )
    if "failed" in last:
        kind, text = last["failed"]
        raise DataError(_reason(kind, text, name, split))
    if last["more"]:
        notes.append(f"Only the first {last['end']:,} rows of {name} were read.")


def _record(number: int, value: Any, line: str) -> Record:
    if "row" in value:
        return Record(number, without_nulls(value["row"]), row_text(line))
    if "too long" in value:
        return Record(number, None, "", RowError(too_long(value["too long"]), "line"))
    field, kind = value["no JSON"]
    return Record(number, None, "", RowError(f"{kind} is no JSON value", field))


def _reason(kind: str, text: str, name: str, split: str) -> str:
    if kind == "DatasetNotFoundError" or "404" in text:
        return f"There is no data set {name} that can be read: check its name; a private or gated one needs `hf auth login`."
    if "Unknown split" in text or "Bad split" in text:
        return f"{name} has no split {split!r}: " + (text.split(".")[1].strip() if "Should be one of" in text else "check its name") + "."
    if "Config name is missing" in text or "BuilderConfig" in text:
        return f"{name} has several parts: name one under “part”."
    if "script" in text.lower():
        return f"{name} is made by code of its own, which is never run here: download its files and give one of them."
    if kind == NETWORK:
        return f"{name} was not fetched: the hub can't be reached. Check the network, or give a file on this machine."
    return f"{name} could not be read ({kind}): " + " ".join(text.split())[:200]
