"""What a reply amounts to: typed segments whose raw texts join to the exact original."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from workbench.errors import RowError
from workbench.schema import ToolCall

Verdict = Literal["tool call", "no tool call", "malformed call"]
NAME = re.compile(r"[A-Za-z_][\w.\-]{0,127}")  # what a tool may be called, in every dialect
BREAKS_OFF = "the call breaks off before it is closed"


class DialectError(RowError):
    """A dialect has no way to write something: the name of a tool or an argument, a value, a tool's answer."""


@dataclass(frozen=True)
class TextSegment:
    raw: str


@dataclass(frozen=True)
class CallSegment:
    raw: str
    call: ToolCall


@dataclass(frozen=True)
class MalformedSegment:
    raw: str
    reason: str


@dataclass(frozen=True)
class OpenSegment:
    """The end of a reply that still streams: a call that has begun (`in_call`), or text that may yet turn out to begin one."""

    raw: str
    in_call: bool


Segment = TextSegment | CallSegment | MalformedSegment


def calls_in(segments: Iterable[Segment]) -> tuple[ToolCall, ...]:
    """The well-formed calls among `segments`, in order."""
    return tuple(s.call for s in segments if isinstance(s, CallSegment))


def verdict(segments: Iterable[Segment]) -> Verdict:
    """What a reply amounts to; one malformed piece makes the whole reply malformed."""
    found = tuple(segments)
    if any(isinstance(s, MalformedSegment) for s in found):
        return "malformed call"
    return "tool call" if calls_in(found) else "no tool call"
