"""What every dialect can do, and what it says of itself."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from workbench.calls.reading import MAX_DEPTH, depth_of
from workbench.calls.segments import NAME, DialectError, Segment
from workbench.calls.stream import Grammar, Stream, parse
from workbench.schema import ToolCall, ToolSpec


class Dialect(ABC):
    """One way to write tool calls. Rendering and parsing undo each other: `parse(render(call))` is that call alone."""

    name: ClassVar[str]
    title: ClassVar[str]  # one line for a form
    native: ClassVar[bool] = False  # its makers trained models on it, and their chat templates know it
    stops: ClassVar[tuple[str, ...]] = ()  # texts at which an answer with calls is over, beside the model's own end of turn
    control: ClassVar[tuple[str, ...]] = ()  # markers that a model's tokenizer may hold as control tokens: in a rendered turn they are meant
    result_role: ClassVar[Literal["user", "tool"]] = "user"  # the turn that `render_result` is the content of
    separator: ClassVar[str] = "\n"  # between two calls
    behind_system: ClassVar[str] = "\n\n"  # between the system's own words and the tools
    grammar: ClassVar[Grammar]

    @abstractmethod
    def render(self, call: ToolCall) -> str:
        """The exact text that the model learns for `call`, its arguments in their order.

        Raises `DialectError` for a name or a value that the dialect can't write.
        """

    def render_calls(self, calls: Sequence[ToolCall]) -> str:
        """The text of the calls of one turn."""
        return self.separator.join(map(self.render, calls))

    def render_tools(self, tools: Sequence[ToolSpec]) -> str:
        """The system text that tells the model its tools; empty without any. Raises `DialectError` as `render` does."""
        return self._tools_text(tools) if tools else ""

    @abstractmethod
    def _tools_text(self, tools: Sequence[ToolSpec]) -> str:
        """`render_tools` of at least one tool."""

    @abstractmethod
    def render_result(self, call: ToolCall, result: str) -> str:
        """The content of the turn that brings the tool's answer; raises `DialectError` if it can't be told apart from the markers."""

    def parse(self, text: str) -> tuple[Segment, ...]:
        """`text` as segments; `"".join(s.raw for s in segments) == text` always holds."""
        return parse(self.grammar, text)

    def stream(self) -> Stream:
        """A parser for a reply that comes in pieces."""
        return Stream(self.grammar)

    def value_text(self, value: Any) -> str:
        """A value among a call's arguments, as it is written there (in the tag before its attribute's escapes); raises `DialectError`."""
        return self._json(value)

    def key_text(self, key: Any) -> str:
        """A name in an object among a call's arguments; raises `DialectError`."""
        return self._json(str(key))

    # -- helpers ------------------------------------------------------------------------------------

    def _checked_name(self, name: str) -> str:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise self._cannot(f"the tool name {str(name)[:40]!r}: use a letter or '_' and up to 127 letters, digits, '_', '.' or '-'")
        return name

    def _cannot(self, what: str) -> DialectError:
        return DialectError(f"the dialect “{self.name}” can't write {what}", "tool_calls")

    def _checked(self, call: ToolCall) -> Mapping[str, Any]:
        """The arguments, if the name and the values can be written at all."""
        self._checked_name(call.name)
        self._check_depth(call.arguments)
        return call.arguments

    def _check_depth(self, value: Any) -> None:
        if depth_of(value) >= MAX_DEPTH - 2:  # the call around it is a bracket or two
            raise self._cannot(f"arguments that are nested deeper than {MAX_DEPTH - 3} levels: make them flatter")

    def _json(self, value: Any, *, indent: int | None = None) -> str:
        """Strict JSON, in which the dialect's own markers are written with an escape: they can't be taken for markers."""
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
        except (TypeError, ValueError, RecursionError) as exc:
            raise self._cannot(f"a value that is no JSON ({exc}): mend it") from exc
        for marker in self.control:
            if marker in text:
                text = text.replace(marker, f"\\u{ord(marker[0]):04x}{marker[1:]}")
        return text

    def _plain(self, text: str) -> str:
        """A text that goes in as it is; raises `DialectError` if a marker of the dialect stands in it."""
        for marker in self.control:
            if marker in text:
                raise self._cannot(f"a text with the marker {marker} in it: take it out")
        return text


def function_of(tool: ToolSpec) -> dict[str, Any]:
    """The tool as most prompts describe it."""
    return {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}


def openai_of(tool: ToolSpec) -> dict[str, Any]:
    """The tool as OpenAI's interface and most chat templates describe it."""
    return {"type": "function", "function": function_of(tool)}


