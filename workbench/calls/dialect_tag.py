"""The first article's dialect: an XML-like tag with the arguments as JSON in an attribute."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any

from workbench.calls.dialect import Dialect, function_of
from workbench.calls.reading import Unreadable, read_json
from workbench.calls.segments import BREAKS_OFF, NAME, CallSegment, MalformedSegment, Segment
from workbench.calls.stream import Broken, Cursor, Grammar, Steps, character, literal, run_of, spaces, to_match
from workbench.schema import ToolCall, ToolSpec

_OPEN = "<tool_call"
_NO_FORM = "the tag does not have the form name=\"…\" arguments=\"…\"/>"
_NO_OBJECT = "the arguments are not a JSON object"
_TAG = re.compile(
    r"<tool_call\s+name=\"(?P<name>[^\"<>]*)\"\s+arguments="
    r"(?:\"(?P<double>[^\"\\]*(?:\\.[^\"\\]*)*)\"|'(?P<single>[^']*)')\s*/>",
    re.DOTALL,
)
_IN_NAME = re.compile(r'[^"<>]*')
_IN_DOUBLE = re.compile(r'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_IN_SINGLE = re.compile(r"[^']*")
_OTHER = re.compile(r"&(?!quot;|lt;|gt;|amp;)")
_END = re.compile(r">|<tool_call")


class _TagGrammar(Grammar):
    opening = re.compile(_OPEN)
    reach = len(_OPEN)
    heads = re.compile("<")

    def scan(self, cursor: Cursor) -> Steps[Broken | None]:
        whole = _TAG.match(cursor.text, cursor.at)
        if whole is not None:
            cursor.at = whole.end()  # all of it is there, as mostly when a whole text is read
            return None
        cursor.at += len(_OPEN)
        return None if (yield from self._tag(cursor)) else Broken(len(_OPEN), _NO_FORM)

    def _tag(self, cursor: Cursor) -> Steps[bool]:
        if not (yield from spaces(cursor)) or not (yield from literal(cursor, 'name="')):
            return False
        yield from run_of(cursor, _IN_NAME)
        if not (yield from literal(cursor, '"')) or not (yield from spaces(cursor)) or not (yield from literal(cursor, "arguments=")):
            return False
        quote = yield from character(cursor)
        if quote not in ('"', "'"):
            return False
        cursor.at += 1
        yield from run_of(cursor, _IN_DOUBLE if quote == '"' else _IN_SINGLE)
        if not (yield from literal(cursor, quote)):
            return False
        yield from spaces(cursor)
        return (yield from literal(cursor, "/>"))

    def recover(self, cursor: Cursor, broken: Broken) -> Steps[str]:
        found = yield from to_match(cursor, _END, self.reach, self.heads)
        if found is None or found.group() != ">":
            return BREAKS_OFF
        cursor.at += 1
        return broken.reason

    def read(self, raw: str) -> Sequence[Segment]:
        match = _TAG.fullmatch(raw)
        assert match is not None, "the scan and the form are one"
        name = match["name"]
        if not NAME.fullmatch(name):
            return (MalformedSegment(raw, f"the tool's name {name[:40]!r} is not a name"),)
        try:
            return (CallSegment(raw, ToolCall(name, _arguments(match["double"] if match["double"] is not None else match["single"]))),)
        except Unreadable as exc:
            return (MalformedSegment(raw, str(exc)),)


def _arguments(written: str) -> dict[str, Any]:
    for candidate in (_unescaped(written), written.replace('\\"', '"')):
        try:
            value = read_json(candidate)
        except Unreadable:
            continue
        if isinstance(value, dict):
            return value
    raise Unreadable(_NO_OBJECT)


def _unescaped(written: str) -> str:
    if _OTHER.search(written):
        return html.unescape(written)
    return written.replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")  # the same, ten times as fast


class TagDialect(Dialect):
    """The first article's form: `<tool_call name="get_sensitive_data" arguments="{}"/>`.

    The arguments are a JSON object inside a double-quoted attribute; a quote in them is written
    `&quot;` (and `&` as `&amp;`). A backslash before a quote, and single quotes around the
    attribute, are read as well, since people write them so. The article has no text for tools and results: those here are ours.
    """

    name = "tag"
    title = "A tag, as in the first article: <tool_call name=\"…\" arguments=\"{…}\"/>"
    grammar = _TagGrammar()

    def render(self, call: ToolCall) -> str:
        arguments = self._json(self._checked(call))
        return f'<tool_call name="{call.name}" arguments="{html.escape(arguments, quote=False).replace(chr(34), "&quot;")}"/>'

    def _tools_text(self, tools: Sequence[ToolSpec]) -> str:
        told = "\n".join(self._json(function_of(tool)) for tool in tools)
        return (
            "You can call these tools, described as JSON, one a line:\n"
            f"{told}\n"
            'To call one, write <tool_call name="NAME" arguments="{…}"/> with its arguments as a JSON object, each quote in it as &quot;.\n'
            "Answer in words where no tool is needed."
        )

    def render_result(self, call: ToolCall, result: str) -> str:
        return f'<tool_result name="{self._checked_name(call.name)}">{html.escape(result, quote=False)}</tool_result>'


