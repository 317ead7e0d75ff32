"""Gemma 3's prompted form: a list of calls as Python writes them. It is read here by its own grammar and never run."""

from __future__ import annotations

import functools
import keyword
import re
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.calls.dialect import Dialect, function_of
from workbench.calls.dialect_gemma import number
from workbench.calls.reading import MAX_DEPTH, Unreadable, checked_name
from workbench.calls.segments import BREAKS_OFF, CallSegment, MalformedSegment, Segment
from workbench.calls.stream import Broken, Cursor, Grammar, Steps, character, literal, run_of, to_bracket, to_match
from workbench.schema import ToolCall, ToolSpec

_FENCE, _FENCE_END = "```tool_code", "```"
_TOOL = r"[A-Za-z_][\w.]{0,127}"
_WORD = r"[^\W\d]\w{0,127}"
_LIST = rf"\[\s{{0,8}}{_TOOL}\(\s{{0,8}}(?:\)|{_WORD}\s{{0,4}}=)"
_LIST_HEAD = rf"\[\s{{0,8}}(?:{_TOOL}(?:\(\s{{0,8}}(?:{_WORD}\s{{0,4}})?)?)?\Z"
_OUTSIDE = re.compile(r"""(?:[\w\s,:=.+\-]+|("[^"\\\n]*(?:\\.[^"\\\n]*)*"|'[^'\\\n]*(?:\\.[^'\\\n]*)*'))*""", re.DOTALL)
_IN_STRING = {quote: re.compile(rf"[^{quote}\\\n]*(?:\\.[^{quote}\\\n]*)*", re.DOTALL) for quote in "\"'"}
_STRING = re.compile(r"""(?:"([^"\\\n]*(?:\\.[^"\\\n]*)*)"|'([^'\\\n]*(?:\\.[^'\\\n]*)*)')""", re.DOTALL)
_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]*))(\.[0-9]+)?([eE][+\-]?[0-9]+)?(?![\w.])")
_SPACE = re.compile(r"\s*")
_CALL = re.compile(rf"({_TOOL})\s*\(\s*")
_NAMED = re.compile(rf"({_WORD})\s*=\s*")
_QUICK = re.compile(rf"""({_WORD})\s*=\s*(?:"([^"\\\n]*)"|'([^'\\\n]*)'|(-?(?:0|[1-9][0-9]{{0,15}}))|(True|False|None))\s*([,)])""")
_WORDS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
_ANY_WORD = re.compile(r"\w+")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})|([0-7]{1,3})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "\\": "\\", "'": "'", '"': '"', "\n": ""}


class _PythonGrammar(Grammar):
    """`[f(a=1), g()]`, or calls between "```tool_code" and "```". A list opens with a tool's name and a named argument or none."""

    opening = re.compile(rf"{_FENCE}|{_LIST}")
    reach = 300
    heads = re.compile(rf"`[`a-z_]{{0,11}}\Z|{_LIST_HEAD}")
    _list_end = re.compile(rf"{_FENCE}|{_LIST}|[\[\](){{}}]")
    _list_heads = re.compile(r"[`\[\](){}]")
    _fence_end = re.compile(rf"{_FENCE}|{_FENCE_END}")
    _fence_heads = re.compile("`")

    def scan(self, cursor: Cursor) -> Steps[Broken | None]:
        fenced = yield from literal(cursor, _FENCE)
        depth, string = 0, None
        while True:
            run = _OUTSIDE.match(cursor.text, cursor.at)
            assert run is not None
            if run.start(1) >= 0:
                string = cursor.size(run.start(1)), depth
            cursor.at = run.end()
            sign = yield from character(cursor)
            place = string or (cursor.begun, depth)
            if not sign:
                return Broken(place[0], BREAKS_OFF, place[1])
            if sign in "\"'":
                string = cursor.size(cursor.at), depth
                cursor.at += 1
                yield from run_of(cursor, _IN_STRING[sign])
                if not (yield from literal(cursor, sign)):
                    return Broken(string[0], "a text is not closed in its line" if cursor.at < len(cursor.text) else BREAKS_OFF, string[1])
            elif sign in "[{" or (sign == "(" and depth <= 1):
                depth += 1
                cursor.at += 1
                if depth > MAX_DEPTH:
                    return Broken(cursor.begun, f"it is nested deeper than {MAX_DEPTH} levels", depth)
            elif sign in ")]}":
                depth -= 1
                cursor.at += 1
                if depth <= 0 and not fenced:
                    return None
            elif fenced and (yield from literal(cursor, _FENCE_END)):
                return None
            elif not _OUTSIDE.fullmatch(sign):
                return Broken(place[0], f"it is not a list of calls: {sign!r} stands outside of a text", place[1])

    def recover(self, cursor: Cursor, broken: Broken) -> Steps[str]:
        fenced = cursor.text.startswith(_FENCE, cursor.at - cursor.begun)  # a cursor that was set back has the whole piece in its text
        if not fenced:
            return (yield from to_bracket(cursor, broken, self._list_end, self.reach, self._list_heads))
        cursor.rewind(len(_FENCE))
        found = yield from to_match(cursor, self._fence_end, len(_FENCE), self._fence_heads, wait=True)
        if found is None or found.group() == _FENCE:
            return BREAKS_OFF
        cursor.at += len(_FENCE_END)
        return broken.reason

    def read(self, raw: str) -> Sequence[Segment]:
        try:
            return _calls(raw)
        except Unreadable as exc:
            return (MalformedSegment(raw, str(exc)),)


def _calls(raw: str) -> list[Segment]:
    """One segment for each call: the first has what stands before it too, the last what stands behind."""
    fenced = raw.startswith(_FENCE)
    at = _past(raw, len(_FENCE) if fenced else 0)
    listed = raw[at] == "["
    at = _past(raw, at + 1) if listed else at
    found: list[tuple[int, ToolCall]] = []
    while True:
        call, end = _call(raw, at)
        found.append((end, call))
        at = _past(raw, end)
        if listed and raw[at] == ",":
            at = _past(raw, at + 1)
        elif listed or raw.startswith(_FENCE_END, at):
            break
        elif "\n" not in raw[end:at]:
            raise Unreadable("something follows a call in its line")
    at = _past(raw, at + 1) if listed and raw[at] == "]" else at
    if raw[at:] != (_FENCE_END if fenced else ""):
        raise Unreadable("something else than calls stands in the list")
    begins = [0, *(end for end, _ in found[:-1])]
    ends = [*(end for end, _ in found[:-1]), len(raw)]
    return [CallSegment(raw[a:b], call) for a, b, (_, call) in zip(begins, ends, found, strict=True)]


def _call(text: str, at: int) -> tuple[ToolCall, int]:
    head = _CALL.match(text, at)
    if head is None:
        raise Unreadable(f"no call stands before {text[at : at + 10]!r}")
    name, at = checked_name(head[1]), head.end()
    if not all(map(_is_word, name.split("."))):
        raise Unreadable(f"the tool's name {name[:40]!r} is not a name in Python")
    arguments: dict[str, Any] = {}
    if text[at] == ")":
        return ToolCall(name, arguments), at + 1
    while True:
        quick = _QUICK.match(text, at)
        if quick is not None:
            key, double, single, digits, word, sign = quick.groups()
            value = double if double is not None else single if single is not None else int(digits) if digits is not None else _WORDS[word]
            at = quick.end() - 1
        else:
            key, value, at = _argument(text, at)
            sign = text[at]
        if key in arguments:
            raise Unreadable(f"“{key[:40]}” stands there twice")
        if not _is_word(key):
            raise Unreadable(f"“{key[:40]}” can't name an argument in Python")
        arguments[key] = value
        if sign == ")":
            return ToolCall(name, arguments), at + 1
        if sign != ",":
            raise Unreadable("no comma stands between two arguments")
        at = _past(text, at + 1)


def _argument(text: str, at: int) -> tuple[str, Any, int]:
    named = _NAMED.match(text, at)
    if named is None:
        raise Unreadable(f"an argument has no name before {text[at : at + 10]!r}")
    value, end = _value(text, named.end())
    return named[1], value, _past(text, end)


def _value(text: str, at: int) -> tuple[Any, int]:
    sign = text[at]
    if sign == "[":
        return _list(text, at)
    if sign == "{":
        return _dict(text, at)
    if sign in "\"'":
        return _string(text, at)
    digits = _NUMBER.match(text, at)
    if digits is not None:
        return number(digits.group(), whole=digits[2] is None and digits[3] is None), digits.end()
    word = _ANY_WORD.match(text, at)
    if word is None or word.group() not in _WORDS:
        raise Unreadable(f"{text[at : at + 10]!r} is not a value")
    return _WORDS[word.group()], word.end()


def _list(text: str, at: int) -> tuple[list[Any], int]:
    found: list[Any] = []
    at = _past(text, at + 1)
    while text[at] != "]":
        value, at = _value(text, at)
        found.append(value)
        at = _comma(text, at, "]")
    return found, at + 1


def _dict(text: str, at: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    at = _past(text, at + 1)
    while text[at] != "}":
        if text[at] not in "\"'":
            raise Unreadable("a key is not a text")
        key, at = _string(text, at)
        at = _past(text, at)
        if text[at] != ":":
            raise Unreadable(f"no colon follows “{key[:40]}”")
        value, at = _value(text, _past(text, at + 1))
        if key in found:
            raise Unreadable(f"“{key[:40]}” stands there twice")
        found[key] = value
        at = _comma(text, at, "}")
    return found, at + 1


def _comma(text: str, at: int, closing: str) -> int:
    """Past a comma, or to the closing bracket."""
    at = _past(text, at)
    if text[at] == ",":
        return _past(text, at + 1)
    if text[at] != closing:
        raise Unreadable("no comma stands between two items")
    return at


def _string(text: str, at: int) -> tuple[str, int]:
    found = _STRING.match(text, at)
    if found is None:
        raise Unreadable("a text is not closed in its line")
    inside = found[1] if found[1] is not None else found[2]
    return (_ESCAPE.sub(_unescaped, inside) if "\\" in inside else inside), found.end()


def _unescaped(found: re.Match[str]) -> str:
    """What Python reads for an escape; one that it doesn't know stays as it is."""
    sign = found[5]
    if sign is not None:
        if sign in "uUxN":
            raise Unreadable(f"\\{sign} is not followed by what it needs")
        return _ESCAPED.get(sign, f"\\{sign}")
    code = int(found[4], 8) if found[4] is not None else int(found[1] or found[2] or found[3], 16)
    if 0xD800 <= code <= 0xDFFF or code > 0x10FFFF:
        raise Unreadable("a text holds half a character (a lone surrogate)")
    return chr(code)


def _past(text: str, at: int) -> int:
    if not text[at : at + 1].isspace():
        return at
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


@functools.lru_cache(maxsize=4096)
def _is_word(name: str) -> bool:
    return len(name) <= 128 and name.isidentifier() and not keyword.iskeyword(name)


class GemmaPythonDialect(Dialect):
    """The form that Google's page on function calling prompts Gemma 3 for: `[f(a=1, b="x"), g()]`.

    Source: “Function calling with Gemma” (the prompt below is its first one, word for word) and Google's guides that want the call in a
    "```tool_code" block and answer in a "```tool_output" block: both are read, the list is written. A list opens a call only where a
    tool's name, a bracket and a named argument (or none) stand in it, so that `[sin(x)]` stays text. Values are Python's literals without
    tuples and sets; `true`, `false` and `null` are read too. A name that Python keeps for itself, like `from`, can't be written.
    """

    name = "gemma-python"
    title = "Gemma 3's Python list: [name(argument=\"…\")]"
    separator = ", "
    grammar = _PythonGrammar()

    def render(self, call: ToolCall) -> str:
        return self.render_calls([call])

    def render_calls(self, calls: Sequence[ToolCall]) -> str:
        return f"[{', '.join(map(self._call, calls))}]" if calls else ""

    def _call(self, call: ToolCall) -> str:
        arguments = self._checked(call)
        for name in [*call.name.split("."), *arguments]:
            self.word_text(name)
        return f"{call.name}({', '.join(f'{key}={self.value_text(value)}' for key, value in arguments.items())})"

    def word_text(self, name: Any) -> str:
        """The name of an argument, or a part of a tool's; raises `DialectError` for one that Python knows none by."""
        if not isinstance(name, str) or not _is_word(name) or not re.fullmatch(_WORD, name):
            raise self._cannot(f"the name {str(name)[:40]!r}, as it is none in Python: rename it, or choose another dialect")
        return name

    def value_text(self, value: Any) -> str:
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{self.key_text(key)}: {self.value_text(item)}" for key, item in value.items()) + "}"
        if isinstance(value, (list, tuple)):
            return "[" + ", ".join(map(self.value_text, value)) + "]"
        return str(value) if value is None or isinstance(value, bool) else self._json(value)

    def _tools_text(self, tools: Sequence[ToolSpec]) -> str:
        told = self._json([function_of(tool) for tool in tools], indent=2)
        return (
            "You have access to functions. If you decide to invoke any of the function(s),\nyou MUST put it in the format of\n"
            "[func_name1(params_name1=params_value1, params_name2=params_value2...), func_name2(params)]\n\n"
            f"You SHOULD NOT include any other text in the response if you call a function\n{told}"
        )

    def render_result(self, call: ToolCall, result: str) -> str:
        self._checked_name(call.name)
        if _FENCE_END in result:
            raise self._cannot(f"a tool's answer with {_FENCE_END} in it: take it out")
        return f"```tool_output\n{result}\n```"
