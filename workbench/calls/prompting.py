"""How a conversation is put to a model: its calls in a dialect, its tools told or not, a tool's answer as a turn.

Training, chat, scoring and whatever serves an adapter make their turns here and nowhere else, so that a model is asked as it was taught.
Rows write their calls under `tool_calls` or as the tag form in their text; that is the set's own notation, whatever dialect is learned.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from workbench.calls.dialect import Dialect
from workbench.calls.dialect_tag import TagDialect
from workbench.calls.dialects import TAG, message_calls, message_text
from workbench.calls.segments import CallSegment, DialectError, MalformedSegment, Segment, calls_in
from workbench.calls.tools import parse_specs
from workbench.errors import RowError
from workbench.schema import Example, Message, ToolCall, ToolSpec

Turn = dict[str, str]
_CALL_ID = "tool_call_id"


@dataclass(frozen=True)
class CallForm:
    """A dialect and what goes with it in a prompt. `tools` is None where a model is not told its tools.

    `result_role` is the turn that brings a tool's answer: "tool" only where the model's template writes such turns as they are.
    """

    dialect: Dialect = TAG
    tools: tuple[ToolSpec, ...] | None = None
    result_role: Literal["user", "tool"] = "user"

    def turns(self, row: Example) -> list[Turn]:
        """The row's turns as the chat template takes them; raises `RowError` for what the dialect can't write, or would read otherwise."""
        return [turn for _, turn in self.placed(row)]

    def before_answer(self, row: Example) -> list[Turn]:
        """The conversation up to the answer that the row teaches: what an evaluation asks."""
        return self.turns(row)[:-1]

    def ask(self, text: str) -> list[Turn]:
        """The turns of a first request."""
        return self.turns(Example((Message("user", text),)))

    def placed(self, row: Example) -> list[tuple[int, Turn]]:
        """`turns`, each with the place of its message in the row (of its first one, where several became one turn)."""
        found: list[tuple[int, Turn]] = []
        waiting: list[ToolCall] = []
        for i, message in enumerate(row.messages):
            field = f"messages[{i}].content"
            if message.role == "tool":
                result = self._result(_answered(message, waiting, field), message.content, field)
                if self.result_role == "user" and i and row.messages[i - 1].role == "tool":
                    found[-1][1]["content"] += f"\n{result}"
                else:
                    found.append((i, {"role": self.result_role, "content": result}))
                continue
            assistant = message.role == "assistant"
            answered = assistant and i + 1 < len(row.messages) and row.messages[i + 1].role == "tool"
            waiting = [*calls_in(TAG.parse(message.content)), *message.tool_calls] if answered else []
            text = self.answer_text(message, field) if assistant or isinstance(self.dialect, TagDialect) else self._typed(message.content.strip(), field)
            found.append((i, {"role": message.role, "content": text}))
        return self._with_tools(found, row)

    def result_turns(self, answers: Sequence[tuple[ToolCall, str]]) -> list[Turn]:
        """The turns that bring the tools' answers to the calls of one reply; raises `DialectError` for one that can't be written."""
        texts = [self.dialect.render_result(call, result) for call, result in answers]
        if self.result_role == "user":
            return [{"role": "user", "content": "\n".join(texts)}] if texts else []
        return [{"role": "tool", "content": text} for text in texts]

    def answer_text(self, message: Message, field: str = "messages") -> str:
        """The assistant's text with its calls in the dialect. What it says is then read back: it must be the row's own calls, and no others."""
        if isinstance(self.dialect, TagDialect):
            return message_text(message)
        text = self._translated(message, field)
        if not _same_calls(self.dialect.parse(text), message_calls(message)):
            raise RowError(f"its text would be read as another call in the dialect “{self.dialect.name}”: reword it, or choose another dialect", field)
        return text

    def _translated(self, message: Message, field: str) -> str:
        parts: list[str] = []
        calls: list[ToolCall] = []
        for segment in TAG.parse(message.content.strip()):
            if isinstance(segment, MalformedSegment):
                raise RowError(f"malformed tool call: {segment.reason}", field)
            if isinstance(segment, CallSegment):
                calls.append(segment.call)
            elif segment.raw.strip():
                parts += self._written(calls, field)
                calls = []
                parts.append(self._typed(segment.raw.strip(), field))
        return "\n".join(parts + self._written([*calls, *message.tool_calls], field))

    def _written(self, calls: Sequence[ToolCall], field: str) -> list[str]:
        try:
            return [self.dialect.render_calls(calls)] if calls else []
        except DialectError as exc:
            raise DialectError(exc.reason, field) from exc

    def _result(self, call: ToolCall, result: str, field: str) -> str:
        try:
            return self.dialect.render_result(call, result)
        except DialectError as exc:
            raise DialectError(exc.reason, field) from exc

    def _typed(self, text: str, field: str) -> str:
        """A text that somebody wrote: the dialect's markers may only come from the dialect."""
        for marker in self.dialect.control:
            if marker in text:
                raise RowError(f"the text holds {marker}, which the dialect “{self.dialect.name}” keeps for itself; take it out", field)
        return text

    # -- tools ------------------------------------------------------------------------------------

    def _with_tools(self, placed: list[tuple[int, Turn]], row: Example) -> list[tuple[int, Turn]]:
        if self.tools is None:
            return placed
        told = self._told(row)
        if not told:
            return placed
        if placed and placed[0][1]["role"] == "system":
            (i, first), *rest = placed
            said = first["content"].strip()
            return [(i, {"role": "system", "content": f"{said}{self.dialect.behind_system}{told}" if said else told}), *rest]
        return [(0, {"role": "system", "content": told}), *placed]

    def _told(self, row: Example) -> str:
        """The text of the row's own tools, or of the form's where it brings none."""
        if "tools" not in row.extras or row.extras["tools"] in (None, "", []):
            return self._tools_text
        return _render_tools(self.dialect, self._own(row.extras["tools"]))

    @cached_property
    def _tools_text(self) -> str:
        return _render_tools(self.dialect, self.tools or ())

    def _own(self, value: Any) -> tuple[ToolSpec, ...]:
        items = value
        if isinstance(value, str):
            try:
                items = json.loads(value)
            except (ValueError, RecursionError) as exc:
                raise RowError("the tools are not valid JSON", "tools") from exc
        if not isinstance(items, list):
            raise RowError("expected a list of tools", "tools")
        known = {tool.name: tool for tool in self.tools or ()}
        found: list[ToolSpec] = []
        for i, item in enumerate(items):
            if isinstance(item, str):
                if item not in known:
                    raise RowError(f"it names the tool “{item[:80]}”, which is not known: describe it in data/tools.json", f"tools[{i}]")
                found.append(known[item])
                continue
            try:
                found += (replace(spec, mock=None) for spec in parse_specs([item], "tools"))
            except RowError as exc:
                raise RowError(exc.reason, exc.field.replace("tools[0]", f"tools[{i}]", 1)) from exc
        return tuple(found)


PLAIN = CallForm()
"""The tag form without a word about tools: what adapters learned that note nothing else."""


def _render_tools(dialect: Dialect, tools: Sequence[ToolSpec]) -> str:
    try:
        return dialect.render_tools(tools)
    except DialectError as exc:
        raise DialectError(exc.reason, "tools") from exc


def _answered(message: Message, waiting: list[ToolCall], field: str) -> ToolCall:
    """The call that a tool's turn answers: by its id, else the next one in order; taken off `waiting`."""
    wanted = message.extras.get(_CALL_ID)
    place = next((i for i, call in enumerate(waiting) if call.id is not None and call.id == wanted), 0)
    if waiting:
        return waiting.pop(place)
    name = message.extras.get("name")
    if isinstance(name, str) and name:
        return ToolCall(name)
    raise RowError("a tool answers here, but no call stands before it: add the call, or take the turn out", field)


def _same_calls(segments: Sequence[Segment], wanted: Sequence[ToolCall]) -> bool:
    if any(isinstance(s, MalformedSegment) for s in segments):
        return False
    return [_key(c) for c in calls_in(segments)] == [_key(c) for c in wanted]


def _key(call: ToolCall) -> tuple[str, str]:
    return call.name, json.dumps(dict(call.arguments))
