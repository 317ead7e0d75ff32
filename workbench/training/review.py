"""Answers that a person must look at: the list in data/review.jsonl, which is only ever appended to. No torch."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from workbench.errors import DataError
from workbench.files import explain_os_error
from workbench.training.lines import append_line, read_lines

LONGEST = 20_000  # characters of a text that are kept
LARGEST = 64 * 2**20  # bytes of a list that is read


class Waiting(BaseModel):
    """A request whose answer could not be trusted: what the model said, and why a person is needed. `time` is seconds since 1970."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    type: Literal["waiting"] = "waiting"
    key: str
    time: float
    prompt: str
    replies: tuple[str, ...]
    reason: str
    adapter: str = ""
    dialect: str = "tag"


class Settled(BaseModel):
    """A person has looked at it."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    type: Literal["settled"] = "settled"
    key: str


_LINE: TypeAdapter[Waiting | Settled] = TypeAdapter(Annotated[Waiting | Settled, Field(discriminator="type")])


class ReviewList:
    """The list in one file. Several processes may add to it at once: every line is one write."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, prompt: str, replies: tuple[str, ...], reason: str, *, adapter: str = "", dialect: str = "tag") -> Waiting:
        """Put an answer on the list; a text longer than what is kept ends in “…”. Raises `DataError` where the disk refuses."""
        cut = tuple(_cut(text) for text in replies)
        entry = Waiting(key=uuid.uuid4().hex, time=time.time(), prompt=_cut(prompt), replies=cut, reason=_cut(reason), adapter=adapter, dialect=dialect)
        self._append(entry)
        return entry

    def waiting(self) -> list[Waiting]:
        """What nobody has looked at yet, the oldest first; a line that can't be read is passed over. Raises `DataError`."""
        found: dict[str, Waiting] = {}
        for line in self._lines():
            if isinstance(line, Waiting):
                found[line.key] = line
            else:
                found.pop(line.key, None)
        return list(found.values())

    def settle(self, key: str) -> None:
        """Take an answer off the list; raises `DataError` if it is not on it any more."""
        if key not in {entry.key for entry in self.waiting()}:
            raise DataError("This answer is not on the list any more: somebody has looked at it already.")
        self._append(Settled(key=key))

    def _lines(self) -> list[Waiting | Settled]:
        try:
            if self.path.stat().st_size > LARGEST:
                raise DataError(f"{self.path.name} is larger than {LARGEST // 2**20} MiB: move it away to begin anew.")
            return read_lines(self.path, _LINE)
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise DataError(explain_os_error(exc, self.path)) from exc

    def _append(self, line: Waiting | Settled) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append_line(self.path, line, to_disk=True)
        except OSError as exc:
            raise DataError(explain_os_error(exc, self.path)) from exc


def _cut(text: str) -> str:
    clean = text.encode("utf-8", "replace").decode("utf-8")
    return clean if len(clean) <= LONGEST else f"{clean[:LONGEST]}…"
