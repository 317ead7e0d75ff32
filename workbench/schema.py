"""The values that the whole workbench passes around: frozen, and free of any library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = ("system", "user", "assistant", "tool")
Status = Literal["draft", "approved", "rejected"]
STATUSES: tuple[str, ...] = ("draft", "approved", "rejected")
PINS: tuple[str, ...] = ("train", "validation")
GENERATED = ("generated:", "from:")  # how the source of a row begins that no person wrote


@dataclass(frozen=True)
class ToolCall:
    """One call of a tool: its name and its arguments as a JSON object.

    For a call that was given under `tool_calls`, `extras` holds the item's other keys (those inside its `function`
    under "function") and `as_text` says whether the arguments were a JSON text, as OpenAI writes them, or an object.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    as_text: bool = True


@dataclass(frozen=True)
class ToolSpec:
    """A tool as data/tools.json holds it: `parameters` is a JSON schema of an object, `mock` the answer it gives in a demonstration."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    mock: Any = None


@dataclass(frozen=True)
class Message:
    """One turn. `extras` carries keys of the file that the workbench does not use, so that none is lost."""

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    extras: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Example:
    """One row of a training set: a conversation, its review, and the file's other keys.

    `pin` is the side of the split it must stand on ("train", "validation" or "" for either). `source` says where
    it came from, as in "generated:families"; it is empty for a row that a person wrote or brought along.
    """

    messages: tuple[Message, ...]
    status: str = "draft"
    note: str = ""
    pin: str = ""
    source: str = ""
    extras: Mapping[str, Any] = field(default_factory=dict)

    @property
    def request(self) -> str:
        """The last user turn's text; empty where there is none."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")

    @property
    def answer(self) -> Message:
        """The last turn: what the row teaches."""
        return self.messages[-1]

    @property
    def awaits_review(self) -> bool:
        """Whether a machine made this row and no person has looked at it yet."""
        return self.status == "draft" and self.source.startswith(GENERATED)


@dataclass(frozen=True)
class RowProblem:
    """Why a line of a file, or a row of a set, can't be used. `line` counts from 1."""

    line: int
    field: str
    reason: str

    @property
    def told(self) -> str:
        """The field and the reason; the reason alone where it is about the whole line."""
        return self.reason if self.field == "line" else f"{self.field}: {self.reason}"

    def __str__(self) -> str:
        return f"line {self.line}{': ' if self.field == 'line' else ', '}{self.told}"
