"""Tool calls as text: rendering a call into what the model learns, and parsing a reply back.

Parsing never guesses. A reply becomes typed segments whose raw texts join to the exact original:
free text, well-formed calls, and malformed pieces that began like a call.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from workbench.schema import Message, ToolCall

Verdict = Literal["tool call", "no tool call", "malformed call"]


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


Segment = TextSegment | CallSegment | MalformedSegment

_OPEN = "<tool_call"
_NAME = re.compile(r"[A-Za-z_][\w.\-]{0,127}")
_TAG = re.compile(
    r"<tool_call\s+name=\"(?P<name>[^\"<>]*)\"\s+arguments="
    r"(?:\"(?P<double>(?:[^\"\\]|\\.)*)\"|'(?P<single>[^']*)')\s*/>",
    re.DOTALL,
)


class TagDialect:
    """The first article's form: `<tool_call name="get_sensitive_data" arguments="{}"/>`.

    The arguments are a JSON object inside a double-quoted attribute; a quote in them is written
    `&quot;` (and `&` as `&amp;`). A backslash before a quote, and single quotes around the
    attribute, are read as well, since people write them so.
    """

    name = "tag"

    def render(self, call: ToolCall) -> str:
        """The exact text that the model learns for `call`."""
        arguments = json.dumps(call.arguments, ensure_ascii=False)
        return f'<tool_call name="{call.name}" arguments="{html.escape(arguments, quote=False).replace(chr(34), "&quot;")}"/>'

    def parse(self, text: str) -> tuple[Segment, ...]:
        """`text` as segments; `"".join(s.raw for s in segments) == text` always holds."""
        segments: list[Segment] = []
        at = 0
        while at < len(text):
            start = text.find(_OPEN, at)
            if start < 0:
                segments.append(TextSegment(text[at:]))
                break
            if start > at:
                segments.append(TextSegment(text[at:start]))
            segment = self._parse_tag(text, start)
            segments.append(segment)
            at = start + len(segment.raw)
        return tuple(segments)

    def _parse_tag(self, text: str, start: int) -> Segment:
        match = _TAG.match(text, start)
        if match is None:
            return self._malformed(text, start)
        raw, name = match.group(), match["name"]
        if not _NAME.fullmatch(name):
            return MalformedSegment(raw, f"the tool's name {name[:40]!r} is not a name")
        written = match["double"] if match["double"] is not None else match["single"]
        arguments = _read_arguments(written)
        if arguments is None:
            return MalformedSegment(raw, "the arguments are not a JSON object")
        return CallSegment(raw, ToolCall(name, arguments))

    def _malformed(self, text: str, start: int) -> MalformedSegment:
        following = text.find(_OPEN, start + len(_OPEN))
        limit = len(text) if following < 0 else following
        close = text.find(">", start, limit)
        if close < 0:
            return MalformedSegment(text[start:limit], "the call breaks off before it is closed")
        return MalformedSegment(text[start : close + 1], "the tag does not have the form name=\"…\" arguments=\"…\"/>")


def _read_arguments(written: str) -> Mapping[str, Any] | None:
    for candidate in (html.unescape(written), written.replace('\\"', '"')):
        try:
            value = json.loads(candidate, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    return None


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


TAG = TagDialect()
DIALECTS: dict[str, TagDialect] = {TAG.name: TAG}


def calls_in(segments: Iterable[Segment]) -> tuple[ToolCall, ...]:
    """The well-formed calls among `segments`, in order."""
    return tuple(s.call for s in segments if isinstance(s, CallSegment))


def verdict(segments: Iterable[Segment]) -> Verdict:
    """What a reply amounts to; one malformed piece makes the whole reply malformed."""
    found = tuple(segments)
    if any(isinstance(s, MalformedSegment) for s in found):
        return "malformed call"
    return "tool call" if calls_in(found) else "no tool call"


def message_text(message: Message, dialect: TagDialect = TAG) -> str:
    """The content the chat template gets: calls given as `tool_calls` are written into it by us.

    Gemma's template ignores `tool_calls` and would render an empty turn without an error.
    """
    parts = [message.content.strip()] if message.content.strip() else []
    return "\n".join(parts + [dialect.render(call) for call in message.tool_calls])


def message_calls(message: Message, dialect: TagDialect = TAG) -> tuple[ToolCall, ...]:
    """The calls a row's turn asks for, whether written as text or given as `tool_calls`."""
    return calls_in(dialect.parse(message_text(message, dialect)))
