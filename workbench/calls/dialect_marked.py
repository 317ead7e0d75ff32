"""Dialects in which a JSON call stands behind a marker: Hermes and Qwen, and Mistral's two."""

from __future__ import annotations

import re
from collections.abc import Sequence

from workbench.calls.dialect import Dialect, openai_of
from workbench.calls.reading import Unreadable, call_from, checked_name, json_value, read_json, read_json_at, value_or_text
from workbench.calls.segments import BREAKS_OFF, CallSegment, MalformedSegment, Segment
from workbench.calls.stream import Broken, Cursor, Grammar, Steps, character, literal, run_of, spaces, to_bracket, to_match
from workbench.schema import ToolCall, ToolSpec


class MarkedGrammar(Grammar):
    """A piece between an opening and a closing marker, of which the opening can't stand outside of a text within the piece."""

    def __init__(self, opening: str, closing: str) -> None:
        self.open, self.closing = opening, closing
        self.opening = re.compile(re.escape(opening))
        self.reach = max(len(opening), len(closing))
        self.heads = re.compile(f"[{re.escape(opening[0] + closing[0])}]")
        self._end = re.compile(f"{re.escape(closing)}|{re.escape(opening)}")

    def scan(self, cursor: Cursor) -> Steps[Broken | None]:
        cursor.at += len(self.open)
        broken = yield from self.body(cursor)
        if broken is None:
            yield from spaces(cursor)
            if not (yield from literal(cursor, self.closing)):
                broken = Broken(0, f"{self.closing} does not follow where the call ends")
        return broken and Broken(len(self.open), broken.reason)

    def body(self, cursor: Cursor) -> Steps[Broken | None]:
        """What stands between the markers: here a JSON object."""
        yield from spaces(cursor)
        if (yield from character(cursor)) != "{":
            return Broken(0, f"no JSON object follows {self.open}")
        return (yield from json_value(cursor))

    def recover(self, cursor: Cursor, broken: Broken) -> Steps[str]:
        found = yield from to_match(cursor, self._end, self.reach, self.heads)
        if found is None or found.group() == self.open:
            return BREAKS_OFF
        cursor.at += len(self.closing)
        return broken.reason

    def read(self, raw: str) -> Sequence[Segment]:
        try:
            return (CallSegment(raw, self.call(raw[len(self.open) : -len(self.closing)])),)
        except Unreadable as exc:
            return (MalformedSegment(raw, str(exc)),)

    def call(self, body: str) -> ToolCall:
        return call_from(read_json(body.strip()), "name", "arguments")


class HermesDialect(Dialect):
    """Hermes 2 Pro's form, which Qwen 2.5 and 3 took over: `<tool_call>\\n{"name": "f", "arguments": {…}}\\n</tool_call>`.

    Source: Qwen 2.5's chat template (its text for tools word for word, `<tool_response>` in a user turn); transformers reads the same
    between `<tool_call>` and `</tool_call>`. A marker inside an argument is written with an escaped `<`.
    """

    name = "hermes"
    title = "Hermes and Qwen: <tool_call>{\"name\": …, \"arguments\": {…}}</tool_call>"
    native = True
    control = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
    grammar = MarkedGrammar("<tool_call>", "</tool_call>")

    def render(self, call: ToolCall) -> str:
        return f"<tool_call>\n{self._json({'name': call.name, 'arguments': self._checked(call)})}\n</tool_call>"

    def _tools_text(self, tools: Sequence[ToolSpec]) -> str:
        told = "".join(f"\n{self._json(openai_of(tool))}" for tool in tools)
        return (
            "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
            f"You are provided with function signatures within <tools></tools> XML tags:\n<tools>{told}\n</tools>\n\n"
            "For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n"
            '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
        )

    def render_result(self, call: ToolCall, result: str) -> str:
        self._checked_name(call.name)
        return f"<tool_response>\n{self._plain(result)}\n</tool_response>"


# -- Mistral ----------------------------------------------------------------------------------------

_CALLS, _ARGS, _ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_NAME_RUN = re.compile(r"[\w.\-]*")
_WORD = re.compile(r"[A-Za-z0-9]*")
_NAMED = re.compile(r"\s*([\w.\-]+)(?:\[CALL_ID\]([A-Za-z0-9]+))?\[ARGS\]")
_MISTRAL_ID = re.compile(r"[A-Za-z0-9]{9}")
_JSON_SPACE = re.compile(r"[ \t\r\n]*")


class _MistralGrammar(Grammar):
    """`[TOOL_CALLS]` with a JSON list of calls behind it, or with a name, `[ARGS]` and a JSON object."""

    opening = re.compile(re.escape(_CALLS))
    reach = len(_CALLS)
    heads = re.compile(r"\[")
    _ends = re.compile(rf"{opening.pattern}|[{{}}\[\]]")
    _end_heads = re.compile(r"[{}\[\]]")

    def scan(self, cursor: Cursor) -> Steps[Broken | None]:
        cursor.at += len(_CALLS)
        yield from spaces(cursor)
        if (yield from character(cursor)) == "[":
            return (yield from json_value(cursor))
        named = yield from run_of(cursor, _NAME_RUN)
        if named and (yield from literal(cursor, _ID)):
            named = yield from run_of(cursor, _WORD)
        if not named or not (yield from literal(cursor, _ARGS)):
            return Broken(cursor.begun, f"neither a JSON list nor NAME{_ARGS} follows {_CALLS}")
        yield from spaces(cursor)
        if (yield from character(cursor)) != "{":
            return Broken(cursor.begun, f"no JSON object follows {_ARGS}")
        return (yield from json_value(cursor))

    def recover(self, cursor: Cursor, broken: Broken) -> Steps[str]:
        return (yield from to_bracket(cursor, broken, self._ends, self.reach, self._end_heads))

    def read(self, raw: str) -> Sequence[Segment]:
        named = _NAMED.match(raw, len(_CALLS))
        try:
            if named is None:
                return _listed(raw)
            arguments = read_json(raw[named.end() :].lstrip())
            return (CallSegment(raw, ToolCall(checked_name(named[1]), arguments, named[2])),)
        except Unreadable as exc:
            return (MalformedSegment(raw, str(exc)),)


def _listed(raw: str) -> list[Segment]:
    """One segment for each call of a list: the first has what stands before it too, the last what stands behind."""
    at, begun = raw.index("[", len(_CALLS)) + 1, 0
    found: list[Segment] = []
    while True:
        value, end = read_json_at(raw, _past_spaces(raw, at))
        call = call_from(value, "name", "arguments", with_id=True)
        at = _past_spaces(raw, end)
        if raw[at] == "]":
            return [*found, CallSegment(raw[begun:], call)]
        if raw[at] != ",":
            raise Unreadable("no comma stands between two calls")
        found.append(CallSegment(raw[begun:end], call))
        begun, at = end, at + 1


def _past_spaces(raw: str, at: int) -> int:
    found = _JSON_SPACE.match(raw, at)
    return at if found is None else found.end()


class MistralDialect(Dialect):
    """Mistral's first form (tokenizers v3 to v7): `[TOOL_CALLS][{"name": "f", "arguments": {…}}]`, all calls of a turn in one list.

    Source: what mistral-common renders for these versions, read in published renderings of it. A call's `id` is written where it has one of
    Mistral's kind (nine letters or digits), as its templates refuse others; both forms of the calls are read.
    """

    name = "mistral"
    title = "Mistral, a list: [TOOL_CALLS][{\"name\": …, \"arguments\": {…}}]"
    native = True
    control = (_CALLS, _ARGS, _ID, "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CONTENT]")
    result_role = "tool"
    grammar = _MistralGrammar()

    def render(self, call: ToolCall) -> str:
        return self.render_calls([call])

    def render_calls(self, calls: Sequence[ToolCall]) -> str:
        if not calls:
            return ""
        listed = [{"name": c.name, "arguments": self._checked(c)} | ({"id": c.id} if _is_id(c.id) else {}) for c in calls]
        return f"{_CALLS}{self._json(listed)}"

    def _tools_text(self, tools: Sequence[ToolSpec]) -> str:
        return f"[AVAILABLE_TOOLS]{self._json([openai_of(tool) for tool in tools])}[/AVAILABLE_TOOLS]"

    def render_result(self, call: ToolCall, result: str) -> str:
        self._checked_name(call.name)
        answer = {"content": value_or_text(result)} | ({"call_id": call.id} if _is_id(call.id) else {})
        return f"[TOOL_RESULTS]{self._json(answer)}[/TOOL_RESULTS]"


class MistralArgsDialect(MistralDialect):
    """Mistral's newer form (tokenizers v11 and v13): `[TOOL_CALLS]f[ARGS]{…}`, once a call, nothing between two.

    Source: the chat templates of Devstral 2, Ministral 3 and Mistral Small 4, which write no id; `[CALL_ID]` (v11) is read.
    """

    name = "mistral-args"
    title = "Mistral, newer: [TOOL_CALLS]name[ARGS]{…}"
    separator = ""

    def render(self, call: ToolCall) -> str:
        arguments = self._checked(call)
        return f"{_CALLS}{call.name}{_ARGS}{self._json(arguments)}"

    def render_calls(self, calls: Sequence[ToolCall]) -> str:
        return "".join(map(self.render, calls))

    def render_result(self, call: ToolCall, result: str) -> str:
        self._checked_name(call.name)
        return f"[TOOL_RESULTS]{self._plain(result)}[/TOOL_RESULTS]"


def _is_id(text: str | None) -> bool:
    return text is not None and _MISTRAL_ID.fullmatch(text) is not None
