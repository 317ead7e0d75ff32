"""What an adapter's evaluation gave: the rates in scores.json and every reply in answers.json, both beside the adapter."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from workbench.calls.dialects import message_text
from workbench.dataset.formats import rows_hash
from workbench.errors import RunError, WorkbenchError
from workbench.evaluation.scores import Rate, Scored, score
from workbench.files import write_atomic
from workbench.training.runs import BEST, RunStore

SCORES, ANSWERS = "scores.json", "answers.json"
LARGEST = 32 * 2**20  # bytes of a file of answers that is read


class Answer(BaseModel):
    """What an adapter said to one case, in its dialect, and what that amounts to. `expected` is the case's own answer as rows write it."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    prompt: str
    expected: str
    should_call: bool
    reply: str
    verdict: str
    right: bool
    dialect: str = "tag"


class Answers(BaseModel):
    """The answers of one evaluation: over which file, with which rows (SHA-256), when (seconds since 1970)."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    file: str
    sha256: str
    measured: float
    answers: tuple[Answer, ...]


def keep_measurement(store: RunStore, adapter: str, scored: Sequence[Scored], file: str) -> None:
    """Write an evaluation's rates and replies beside the adapter (NAME, or NAME@best for the best one of run NAME).

    Raises `RunError` where the run was renamed or deleted meanwhile, and `WorkbenchError` where the disk refuses.
    """
    try:
        folder, dialect = store.adapter(adapter)[1], store.form(adapter).dialect.name
    except WorkbenchError as exc:
        raise RunError(f"The run {adapter} was renamed or deleted while it was measured, so the figures were not kept. ({exc})") from exc
    kept = Answers(
        file=file, sha256=rows_hash(s.case.row for s in scored), measured=time.time(),
        answers=tuple(
            Answer(
                prompt=s.case.prompt, expected=message_text(s.case.row.answer), should_call=bool(s.case.expected),
                reply=s.reply, verdict=s.verdict, right=s.right, dialect=dialect,
            ) for s in scored
        ),
    )  # fmt: skip
    write_atomic(folder / ANSWERS, kept.model_dump_json(indent=1))
    store.write_scores(adapter, {"cases": len(scored), "file": file} | score(scored).as_json())


def read_answers(store: RunStore, adapter: str) -> Answers | None:
    """The replies of the adapter's last evaluation; None where there was none, or where only its rates were kept.

    Raises `RunError` for a broken file.
    """
    path = measured_folder(store, adapter) / ANSWERS
    try:
        if path.stat().st_size > LARGEST:
            raise RunError(f"The answers of {adapter} are larger than {LARGEST // 2**20} MiB: measure it again.")
        return Answers.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError, ValueError) as exc:
        raise RunError(f"The file {ANSWERS} of {adapter} is broken: measure it again.") from exc


def read_rates(store: RunStore, adapter: str) -> dict[str, Rate]:
    """The rates of scores.json by name; empty where there is none, or nothing that can be read."""
    try:
        found = json.loads((measured_folder(store, adapter) / SCORES).read_text(encoding="utf-8"))
        return {name: rate for name, value in found.items() if (rate := _rate(value)) is not None}
    except (OSError, ValueError, AttributeError, WorkbenchError):
        return {}


def measured_folder(store: RunStore, adapter: str) -> Path:
    """The folder of an adapter: the run's own, or the one of its best adapter for NAME@best. Raises `RunError` for an unsafe name."""
    name, at, which = adapter.partition("@")
    if at and which != BEST:
        raise RunError(f"There is no adapter {adapter[:80]}: a run has its last one (NAME) and its best one (NAME@{BEST}).")
    return store.path(name) / BEST if at else store.path(name)


def _rate(value: Any) -> Rate | None:
    if not isinstance(value, dict) or not isinstance(value.get("k"), int) or not isinstance(value.get("n"), int):
        return None
    return Rate(value["k"], value["n"]) if 0 <= value["k"] <= value["n"] else None
