"""The values that the whole workbench passes around: frozen, and free of any library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = ("system", "user", "assistant", "tool")
Status = Literal["draft", "approved", "rejected"]
STATUSES: tuple[str, ...] = ("draft", "approved", "rejected")


@dataclass(frozen=True)
class ToolCall:
    """One call of a tool: its name and its arguments as a JSON object."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None


@dataclass(frozen=True)
class Message:
    """One turn. `extras` carries keys of the file that the workbench does not use, so that none is lost."""

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    extras: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Example:
    """One row of a training set: a conversation, a review status, and the file's other keys."""

    messages: tuple[Message, ...]
    status: str = "draft"
    extras: Mapping[str, Any] = field(default_factory=dict)

    @property
    def request(self) -> str:
        """The last user turn's text; empty where there is none."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")

    @property
    def answer(self) -> Message:
        """The last turn: what the row teaches."""
        return self.messages[-1]


@dataclass(frozen=True)
class RowProblem:
    """Why a line of a file, or a row of a set, can't be used. `line` counts from 1."""

    line: int
    field: str
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}, {self.field}: {self.reason}"
