"""The form of calls that a run learns and its adapter is asked in: settled from the settings, kept beside the adapter. No torch."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from workbench.calls.dialect import Dialect, openai_of
from workbench.calls.dialects import DIALECTS, dialect_named
from workbench.calls.native import native_dialect
from workbench.calls.prompting import CallForm
from workbench.calls.tools import parse_specs
from workbench.errors import RowError, RunError, SettingsError
from workbench.files import write_atomic
from workbench.models.tokenizer import ChatTokenizer
from workbench.schema import ToolCall, ToolSpec
from workbench.settings import Training

RECORD = "calls.json"
NATIVE = "native"
LARGEST = 8 * 2**20  # bytes of a record that is read


class CallRecord(BaseModel):
    """calls.json beside an adapter: its dialect, the tools that its prompts tell (None: none are told), and the turn of a tool's answer.

    While the model is not here yet, it can't be `settled`: then `dialect` may still be "native", and `tools` are those that may be told.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    dialect: str
    tools: tuple[dict[str, Any], ...] | None = None
    result_role: Literal["user", "tool"] = "user"
    settled: bool = True

    @classmethod
    def of(cls, form: CallForm) -> CallRecord:
        tools = None if form.tools is None else tuple(openai_of(tool) for tool in form.tools)
        return cls(dialect=form.dialect.name, tools=tools, result_role=form.result_role)

    def specs(self) -> tuple[ToolSpec, ...]:
        return parse_specs(list(self.tools or ()))

    def form(self) -> CallForm:
        return CallForm(dialect_named(self.dialect), None if self.tools is None else self.specs(), self.result_role)


def settle(training: Training, tokenizer: ChatTokenizer, tools: Sequence[ToolSpec], model: str) -> CallForm:
    """The form that the settings mean for the model with that tokenizer; raises `SettingsError` where it has no dialect of its own."""
    dialect = native_dialect(tokenizer.template, model) if training.dialect == NATIVE else dialect_named(training.dialect)
    return CallForm(dialect, tuple(tools) if _told(training, dialect) else None, _result_role(dialect, tokenizer))


def may_tell(training: Training) -> bool:
    """Whether prompts may tell the tools; where only the model can say, they may."""
    return _told(training, DIALECTS.get(training.dialect))


def _told(training: Training, dialect: Dialect | None) -> bool:
    return training.tools_in_prompt == "yes" or (training.tools_in_prompt == "auto" and (dialect is None or dialect.native))


def _result_role(dialect: Dialect, tokenizer: ChatTokenizer) -> Literal["user", "tool"]:
    if dialect.result_role == "user":
        return "user"
    sample = dialect.render_result(ToolCall("f", id="abc123def"), '{"value": 1}')
    return "tool" if tokenizer.writes_as_it_is(sample, dialect.control) else "user"


def first_record(training: Training, tools: Sequence[ToolSpec], form: CallForm | None) -> CallRecord:
    """What a new run notes: its form, or what is needed to settle it once the model is here."""
    if form is not None:
        return CallRecord.of(form)
    told = tuple(openai_of(tool) for tool in tools) if may_tell(training) else None
    return CallRecord(dialect=training.dialect, tools=told, settled=False)


def write_record(folder: Path, record: CallRecord) -> None:
    """Keep the record beside an adapter, unless it stands there already; raises as `write_atomic` does."""
    text = record.model_dump_json(indent=1)
    with contextlib.suppress(OSError):  # a best adapter is saved often, its record written once
        if (folder / RECORD).read_bytes() == text.encode():
            return
    write_atomic(folder / RECORD, text)


def read_record(folder: Path, name: str) -> CallRecord | None:
    """What stands beside the adapter; None for one from before there was a choice. Raises `RunError` for a broken record."""
    path = folder / RECORD
    try:
        if path.stat().st_size > LARGEST:
            raise RunError(f"The file {name}/{RECORD} is larger than {LARGEST // 2**20} MiB: restore it.")
        return CallRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError, ValueError) as exc:
        raise RunError(f"The file {name}/{RECORD}, which says how its calls are written, is broken: restore it.") from exc


def form_in(folder: Path, name: str, dialect: str) -> CallForm:
    """The form of the adapter in `folder`, of a run whose run.json names `dialect`; raises `RunError` for what can't be used."""
    record = read_record(folder, name)
    try:
        return record.form() if record is not None else CallForm(dialect_named(dialect))
    except (SettingsError, RowError) as exc:
        raise RunError(f"The file {name}/{RECORD}, which says how its calls are written, can't be used: {exc}") from exc
