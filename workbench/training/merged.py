"""What a merged model was merged from, in its folder, the form of calls that it speaks, that of its adapter, and its removal. No torch."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workbench.calls.prompting import PLAIN, CallForm
from workbench.errors import ModelError, RowError, SettingsError
from workbench.files import explain_os_error
from workbench.models.catalog import MERGED_RECORD, Catalog, display_name, is_merged
from workbench.training.call_form import LARGEST, CallRecord
from workbench.training.runs import RunStore

_GONE = "There is no merged model {name} any more: it was deleted already, or renamed."
_UNFINISHED = ".deleting-"  # what a merged model is called while its files go
_removing = threading.Lock()


class MergedRecord(BaseModel):
    """merged.json in the folder of a merged model: the adapter and the base that it was made of, and the form of its calls."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    format: int = 1
    adapter: str
    base: str
    base_fingerprint: str = ""
    made: str = Field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    adapter_difference: float = 0.0
    """How far the adapter moves the base's logits on a probe."""
    rounding: float = 0.0
    """How far the merged model's are from the adapter's there."""
    calls: CallRecord


@dataclass(frozen=True)
class MergedModel:
    """A merged model as a list tells of it: its name as merged:NAME, and the bytes on the disk. Without a record, `broken` says what is wrong with it."""

    model: str
    record: MergedRecord | None
    bytes: int
    broken: str = ""


def read_merged(catalog: Catalog, model: str) -> MergedRecord:
    """What merged:NAME was merged from; raises `ModelError` where it is not there or its record is broken."""
    return read_record(catalog.find(model))


def read_record(folder: Path) -> MergedRecord:
    """What the model in a folder was merged from; raises `ModelError` where its record is broken."""
    path = folder / MERGED_RECORD
    try:
        if path.stat().st_size > LARGEST:
            raise ModelError(f"The file {folder.name}/{MERGED_RECORD} is larger than {LARGEST // 2**20} MiB: restore it, or merge the adapter again.")
        return MergedRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError, ValueError) as exc:
        raise ModelError(f"The file {folder.name}/{MERGED_RECORD}, which says how its calls are written, is broken: restore it, or merge the adapter again.") from exc


def list_merged(catalog: Catalog) -> list[MergedModel]:
    """The merged models in the models folder, the newest first."""
    found = []
    for model in catalog.merged():
        record, broken = None, ""
        try:
            folder = catalog.merged_folder(model)
            record = read_record(folder)
        except ModelError as exc:
            broken = str(exc)
        found.append(MergedModel(model, record, bytes_in(catalog.models_dir / display_name(model)), broken))
    return found


def bytes_in(folder: Path) -> int:
    """The bytes of all files in a folder and below it; links count as what they are, not as what they lead to."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # taken away between the look and the question
                total += (Path(place) / name).lstat().st_size
    return total


def remove_merged(catalog: Catalog, model: str, *, sure: bool = True) -> int:
    """Take merged:NAME off the disk for good; returns the bytes that it takes there. Unless `sure`, nothing is touched. Whether it is in use is the caller's to ask.

    Only a folder of the models folder itself goes, no link, and only where the record of a merge lies in it and can be read.
    It is gone for everybody at once, or stays whole. Raises `ModelError` where it can't be.
    """
    folder = _removable(catalog, model)
    if not sure:
        return bytes_in(folder)
    with _removing:
        _remove_leftovers(catalog.models_dir)
        size, gone = bytes_in(folder), catalog.models_dir / f"{_UNFINISHED}{os.getpid()}"
        try:
            folder.rename(gone)
        except FileNotFoundError as exc:
            raise ModelError(_GONE.format(name=folder.name)) from exc
        except OSError as exc:
            raise ModelError(f"{explain_os_error(exc, folder)} The merged model stays as it is.") from exc
        try:
            shutil.rmtree(gone)
        except OSError as exc:
            raise ModelError(
                f"The merged model {folder.name} is gone, but files of it are left in {catalog.models_dir.name}/{gone.name}: take that folder away by hand."
            ) from exc
    return size


def _removable(catalog: Catalog, model: str) -> Path:
    """The folder of a merged model that may be taken away; raises `ModelError`."""
    if not is_merged(model):
        raise ModelError(f"{display_name(model)[:80]} is no merged model: only what an adapter was merged into can be deleted.")
    folder = catalog.merged_folder(model)
    record = folder / MERGED_RECORD
    if folder.is_symlink() or record.is_symlink():
        raise ModelError(f"{catalog.models_dir.name}/{folder.name} is a link, or its {MERGED_RECORD} is one: take it away by hand.")
    if not record.is_file():
        raise ModelError(_GONE.format(name=folder.name))
    try:
        read_record(folder)
    except ModelError as exc:
        raise ModelError(f"{catalog.models_dir.name}/{folder.name} is not deleted, since its {MERGED_RECORD} can't be read: take the folder away by hand.") from exc
    return folder


def _remove_leftovers(models_dir: Path) -> None:
    """What processes that were killed have left of theirs."""
    import psutil

    for left in models_dir.glob(f"{_UNFINISHED}*"):
        number = left.name.removeprefix(_UNFINISHED)
        if number.isdigit() and (int(number) == os.getpid() or not psutil.pid_exists(int(number))):
            shutil.rmtree(left, ignore_errors=True)


def model_form(catalog: Catalog, model: str) -> CallForm:
    """How the conversations of a model without an adapter are written: a merged one speaks as its adapter did, another one was taught nothing.

    Raises `ModelError`.
    """
    if not is_merged(model):
        return PLAIN
    try:
        return read_merged(catalog, model).calls.form()
    except (SettingsError, RowError) as exc:
        raise ModelError(f"The merged model {model} can't be asked: {exc}") from exc


def voice_form(runs: RunStore, catalog: Catalog, voice: str) -> CallForm:
    """`model_form` of merged:NAME, or the form of the adapter of that name; raises `WorkbenchError`."""
    return model_form(catalog, voice) if is_merged(voice) else runs.form(voice)
