"""Dialects in which a call is one bare JSON object: the second article's, and Llama 3's."""

from __future__ import annotations

import re
from collections.abc import Sequence

from workbench.calls.dialect import Dialect, function_of, openai_of
from workbench.calls.reading import Unreadable, call_from, json_value, read_json, value_or_text
from workbench.calls.segments import CallSegment, MalformedSegment, Segment
from workbench.calls.stream import Broken, Cursor, Grammar, Steps, character, literal, spaces, to_bracket
from workbench.schema import ToolCall, ToolSpec

_PYTHON_TAG = "<|python_tag|>"
_LLAMA_TYPE = {"type": "function"}


class _BareGrammar(Grammar):
    """An object whose first key is one of a call's. Nothing closes it but its brackets."""

    reach = 80

    def __init__(self, first_keys: str, name_key: str, arguments_key: str, tag: str = "") -> None:
        opening = rf'\{{\s{{0,32}}"(?:{first_keys})'
        self.opening = re.compile(f"{re.escape(tag)}|{opening}" if tag else opening)
        head = r'\{\s{0,32}(?:"[a-z]{0,9}(?:"\s{0,8}(?::\s{0,8}(?:"[a-z]{0,8})?)?)?)?\Z'
        self.heads = re.compile(rf"<[|a-z_]{{0,12}}\Z|{head}" if tag else head)
        self._ends = re.compile(rf"{self.opening.pattern}|[{{}}\[\]]")
        self._end_heads = re.compile(r"[<{}\[\]]")
        self._keys = name_key, arguments_key
        self._tag = tag

    def scan(self, cursor: Cursor) -> Steps[Broken | None]:
        if self._tag and (yield from literal(cursor, self._tag)):
            yield from spaces(cursor)
            if (yield from character(cursor)) != "{":
                return Broken(len(self._tag), f"no JSON object follows {self._tag}")
        return (yield from json_value(cursor))

    def recover(self, cursor: Cursor, broken: Broken) -> Steps[str]:
        return (yield from to_bracket(cursor, broken, self._ends, self.reach, self._end_heads))

    def read(self, raw: str) -> Sequence[Segment] | None:
        tagged = bool(self._tag) and raw.startswith(self._tag)
        try:
            value = read_json(raw[len(self._tag) :] if tagged else raw)
            if self._tag and not tagged and self._keys[1] not in value:
                return None  # an object with a name, as many are that a reply may show: without the tag only both keys make a call
            return (CallSegment(raw, call_from(value, *self._keys, optional=_LLAMA_TYPE if self._tag else None)),)
        except Unreadable as exc:
            return (MalformedSegment(raw, str(exc)),)


class JsonDialect(Dialect):
    """The second article's form, a bare object with the keys in any order: `{"function": "send_email", "arguments": {"to": "…"}}`.

    A `{` opens a call where `"function":` or `"arguments":` follows it; every other object is text. An object with further keys is
    malformed. The article prints it over several lines and takes any layout; it is written on one line here. It has no text for tools
    and results: those here are ours.
    """

    name = "json"
    title = "A JSON object, as in the second article: {\"function\": …, \"arguments\": {…}}"
    grammar = _BareGrammar(r'(?:function|arguments)"\s{0,8}:', "function", "arguments")

    def render(self, call: ToolCall) -> str:
        return self._json({"function": call.name, "arguments": self._checked(call)})

    def _tools_text(self, tools: Sequence[ToolSpec]) -> str:
        told = "\n".join(self._json(function_of(tool)) for tool in tools)
        return (
            "You can call these functions, described as JSON, one a line:\n"
            f"{told}\n"
            'To call one, answer with a JSON object {"function": name, "arguments": {…}} and nothing else.\n'
            "Answer in words where no function is needed."
        )

    def render_result(self, call: ToolCall, result: str) -> str:
        return self._json({"function": self._checked_name(call.name), "result": value_or_text(result)})


class LlamaDialect(Dialect):
    """Llama 3.1 and 3.2's JSON calls: `{"name": "get_weather", "parameters": {"city": "…"}}`, `<|python_tag|>` before it or not.

    Source: the chat template of Llama 3.1/3.2 Instruct (its text for tools, `parameters`, results as JSON in an `ipython` turn) and Meta's
    prompt-format page, which also has `"type": "function"` in some answers: both are read. The template allows one call a turn;
    several are joined by "; ", as inference servers read them. An object without `parameters` is text unless the tag stands before it.
    """

    name = "llama3-json"
    title = "Llama 3: {\"name\": …, \"parameters\": {…}}"
    native = True
    stops = ("<|eom_id|>", "<|eot_id|>")
    control = (_PYTHON_TAG, "<|eom_id|>", "<|eot_id|>")
    result_role = "tool"
    separator = "; "
    grammar = _BareGrammar(r'(?:(?:name|parameters)"\s{0,8}:|type"\s{0,8}:\s{0,8}"function")', "name", "parameters", _PYTHON_TAG)

    def render(self, call: ToolCall) -> str:
        return self._json({"name": call.name, "parameters": self._checked(call)})

    def _tools_text(self, tools: Sequence[ToolSpec]) -> str:
        told = "".join(self._json(openai_of(tool), indent=4) + "\n\n" for tool in tools)
        return (
            "You have access to the following functions. To call a function, please respond with JSON for a function call."
            'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.'
            f"Do not use variables.\n\n{told}"
        )

    def render_result(self, call: ToolCall, result: str) -> str:
        self._checked_name(call.name)
        return self._json(value_or_text(result))
