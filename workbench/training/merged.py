"""What a merged model was merged from, in its folder, and the form of calls that it speaks: that of its adapter. No torch."""

from __future__ import annotations

import time

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workbench.calls.prompting import PLAIN, CallForm
from workbench.errors import ModelError, RowError, SettingsError
from workbench.models.catalog import MERGED_RECORD, Catalog, is_merged
from workbench.training.call_form import LARGEST, CallRecord
from workbench.training.runs import RunStore


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


def read_merged(catalog: Catalog, model: str) -> MergedRecord:
    """What merged:NAME was merged from; raises `ModelError` where it is not there or its record is broken."""
    folder = catalog.find(model)
    path = folder / MERGED_RECORD
    try:
        if path.stat().st_size > LARGEST:
            raise ModelError(f"The file {folder.name}/{MERGED_RECORD} is larger than {LARGEST // 2**20} MiB: restore it, or merge the adapter again.")
        return MergedRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError, ValueError) as exc:
        raise ModelError(f"The file {folder.name}/{MERGED_RECORD}, which says how its calls are written, is broken: restore it, or merge the adapter again.") from exc


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
