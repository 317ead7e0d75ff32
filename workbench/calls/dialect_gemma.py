"""Google's own forms with control tokens: FunctionGemma's and Gemma 4's, which differ in their markers only."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from workbench.calls.dialect import Dialect
from workbench.calls.dialect_marked import MarkedGrammar
from workbench.calls.reading import MAX_DEPTH, Unreadable, checked_name, value_or_text
from workbench.calls.segments import BREAKS_OFF
from workbench.calls.stream import Broken, Cursor, Steps, character, literal, run_of, spaces, to_match
from workbench.schema import ToolCall, ToolSpec

_NAME_RUN = re.compile(r"[\w.\-]*")
_KEY = re.compile(r"[\w.\-]+")
_PLAIN = re.compile(r"(-?(?:0|[1-9][0-9]*))(\.[0-9]+)?([eE][+\-]?[0-9]+)?(?![\w.+\-])|[\w.+\-]+")
_SPACE = re.compile(r"\s*")
_WORDS = {"true": True, "false": False, "null": None, "None": None}


class GemmaGrammar(MarkedGrammar):
    """`call:NAME{key:value,…}` between two markers; every text stands between two `quote`s, which nothing escapes."""

    def __init__(self, opening: str, closing: str, quote: str) -> None:
        super().__init__(opening, closing)
        self.quote = quote
        mark = re.escape(quote)
        self._outside = re.compile(rf"(?:[\w\s.,:+\-]+|{mark}.*?{mark})*", re.DOTALL)
        self._quote = re.compile(mark)
        self._quote_head = re.compile(re.escape(quote[0]))
        self._argument = re.compile(rf"([\w.\-]+):(?:{mark}(.*?){mark}|(-?(?:0|[1-9][0-9]{{0,15}}))|(true|false|null|None))([,}}])", re.DOTALL)

    def body(self, cursor: Cursor) -> Steps[Broken | None]:
        yield from spaces(cursor)
        if not (yield from literal(cursor, "call:")) or not (yield from run_of(cursor, _NAME_RUN)) or (yield from character(cursor)) != "{":
            return Broken(0, f"“call:NAME{{” does not follow {self.open}")
        depth = 0
        while True:
            run = self._outside.match(cursor.text, cursor.at)
            assert run is not None
            cursor.at = run.end()
            sign = yield from character(cursor)
            if not sign:
                return Broken(0, BREAKS_OFF)
            if sign == self.quote[0]:
                if not (yield from literal(cursor, self.quote)):
                    return Broken(0, f"{sign!r} stands outside of a text")
                if (yield from to_match(cursor, self._quote, len(self.quote), self._quote_head)) is None:
                    return Broken(0, BREAKS_OFF)
                cursor.at += len(self.quote)
            elif sign in "{[":
                depth += 1
                cursor.at += 1
                if depth > MAX_DEPTH:
                    return Broken(0, f"it is nested deeper than {MAX_DEPTH} levels")
            elif sign in "}]":
                depth -= 1
                cursor.at += 1
                if depth <= 0:
                    return None
            elif not self._outside.match(sign + "").end():  # type: ignore[union-attr]
                return Broken(0, f"{sign!r} stands outside of a text")

    def call(self, body: str) -> ToolCall:
        at = body.index("call:") + len("call:")
        brace = body.index("{", at)
        name = checked_name(body[at:brace])
        arguments, end = self._object(body, brace)
        if body[end:].strip():
            raise Unreadable("something follows the arguments")
        return ToolCall(name, arguments)

    # -- values, from a place in the text to the place behind them ----------------------------------

    def _object(self, text: str, at: int) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        at = _past(text, at + 1)
        if text[at] == "}":
            return found, at + 1
        while True:
            quick = self._argument.match(text, at)
            if quick is not None:
                key, said, digits, word, sign = quick.groups()
                value = said if said is not None else int(digits) if digits is not None else _WORDS[word]
                at = quick.end() - 1
            else:
                key, at = self._key(text, at)
                value, at = self._value(text, at)
                at = _past(text, at)
                sign = text[at]
            if key in found:
                raise Unreadable(f"“{key[:40]}” stands there twice")
            found[key] = value
            if sign == "}":
                return found, at + 1
            if sign != ",":
                raise Unreadable("no comma stands between two arguments")
            at = _past(text, at + 1)

    def _key(self, text: str, at: int) -> tuple[str, int]:
        if text.startswith(self.quote, at):
            key, at = self._text(text, at)
        else:
            found = _KEY.match(text, at)
            if found is None:
                raise Unreadable(f"an argument has no name before {text[at : at + 10]!r}")
            key, at = found.group(), found.end()
        at = _past(text, at)
        if text[at] != ":":
            raise Unreadable(f"no colon follows “{key[:40]}”")
        return key, _past(text, at + 1)

    def _text(self, text: str, at: int) -> tuple[str, int]:
        begin = at + len(self.quote)
        end = text.index(self.quote, begin)
        return text[begin:end], end + len(self.quote)

    def _value(self, text: str, at: int) -> tuple[Any, int]:
        if text.startswith(self.quote, at):
            return self._text(text, at)
        if text[at] == "{":
            return self._object(text, at)
        if text[at] == "[":
            return self._list(text, at)
        found = _PLAIN.match(text, at)
        if found is None:
            raise Unreadable(f"no value stands before {text[at : at + 10]!r}")
        word = found.group()
        if found[1] is None:
            if word not in _WORDS:
                raise Unreadable(f"the text {word[:40]!r} does not stand between two {self.quote}")
            return _WORDS[word], found.end()
        return number(word, whole=found[2] is None and found[3] is None), found.end()

    def _list(self, text: str, at: int) -> tuple[list[Any], int]:
        found: list[Any] = []
        at = _past(text, at + 1)
        if text[at] == "]":
            return found, at + 1
        while True:
            value, at = self._value(text, at)
            found.append(value)
            at = _past(text, at)
            if text[at] == "]":
                return found, at + 1
            if text[at] != ",":
                raise Unreadable("no comma stands between two items")
            at = _past(text, at + 1)


def number(digits: str, *, whole: bool) -> int | float:
    """The number, in JSON's form; raises `Unreadable` for one that is too long or too large."""
    try:
        value: int | float = int(digits) if whole else float(digits)
    except ValueError:
        raise Unreadable("a number is too long") from None
    if isinstance(value, float) and math.isinf(value):
        raise Unreadable("a number is too large")
    return value


def _past(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


# -- the dialects -----------------------------------------------------------------------------------


class _Gemma(Dialect):
    """What the two share. They have no escape: a text with one of their markers can't be written.

    The templates sort a call's arguments by name; here they keep their order. They write Python's `None` where a value is null: that is
    read, and `null` is written.
    """

    native = True
    result_role = "tool"
    separator = ""
    grammar: ClassVar[GemmaGrammar]
    declaration: ClassVar[tuple[str, str]]
    response: ClassVar[tuple[str, str]]

    def render(self, call: ToolCall) -> str:
        return f"{self.grammar.open}call:{call.name}{self.value_text(self._checked(call))}{self.grammar.closing}"

    def render_result(self, call: ToolCall, result: str) -> str:
        value = value_or_text(result)
        told = value if isinstance(value, dict) else {"value": value}
        self._check_depth(told)
        return f"{self.response[0]}response:{self._checked_name(call.name)}{self.value_text(told)}{self.response[1]}"

    def value_text(self, value: Any) -> str:
        if isinstance(value, str):
            return f"{self.grammar.quote}{self._plain(value)}{self.grammar.quote}"
        if isinstance(value, Mapping):
            return "{" + ",".join(f"{self.key_text(key)}:{self.value_text(item)}" for key, item in value.items()) + "}"
        if isinstance(value, (list, tuple)):
            return "[" + ",".join(map(self.value_text, value)) + "]"
        return self._json(value)

    def key_text(self, key: Any) -> str:
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise self._cannot(f"the name {str(key)[:40]!r}: an argument's name has letters, digits, '_', '.' or '-' only")
        return key

    # -- declarations, in the order of the templates --------------------------------------------------

    def _declared(self, tool: ToolSpec) -> str:
        said = f"description:{self.value_text(tool.description)}"
        inner = []
        properties, required = tool.parameters.get("properties"), tool.parameters.get("required")
        if isinstance(properties, Mapping) and properties:
            inner.append(f"properties:{{{self._properties(properties)}}}")
        if isinstance(required, list) and required:
            inner.append(f"required:{self.value_text([str(name) for name in required])}")
        inner += self._type(tool.parameters)
        parameters = f",parameters:{{{','.join(inner)}}}" if tool.parameters else ""
        return f"{self.declaration[0]}declaration:{self._checked_name(tool.name)}{{{said}{parameters}}}{self.declaration[1]}"

    def _properties(self, properties: Mapping[str, Any]) -> str:
        return ",".join(f"{self.key_text(key)}:{{{self._property(properties[key])}}}" for key in sorted(properties, key=str.lower))

    def _property(self, schema: Any) -> str:
        schema = schema if isinstance(schema, Mapping) else {}
        types = schema.get("type") or ""
        parts = [f"description:{self.value_text(str(schema['description']))}"] if schema.get("description") else []
        if "string" in types and schema.get("enum"):
            parts.append(f"enum:{self.value_text(schema['enum'])}")
        elif "array" in types and isinstance(schema.get("items"), Mapping) and schema["items"]:
            parts.append(f"items:{{{self._items(schema['items'])}}}")
        if schema.get("nullable"):
            parts.append("nullable:true")
        if "object" in types:
            if isinstance(schema.get("properties"), Mapping):
                parts.append(f"properties:{{{self._properties(schema['properties'])}}}")
            if schema.get("required"):
                parts.append(f"required:{self.value_text(schema['required'])}")
        return ",".join(parts + self._type(schema))

    def _items(self, items: Mapping[str, Any]) -> str:
        parts = []
        for key in sorted(items, key=str.lower):
            if key == "properties":
                parts.append(f"properties:{{{self._properties(items[key]) if isinstance(items[key], Mapping) else ''}}}")
            elif key == "type":
                parts += self._type(items)
            elif items[key] is not None:
                parts.append(f"{self.key_text(key)}:{self._escaped(items[key])}")
        return ",".join(parts)

    def _escaped(self, value: Any) -> str:
        """A value of a schema: there the templates put names between quotes too."""
        if isinstance(value, Mapping):
            return "{" + ",".join(f"{self.value_text(str(key))}:{self._escaped(value[key])}" for key in sorted(value, key=str.lower)) + "}"
        if isinstance(value, list):
            return "[" + ",".join(map(self._escaped, value)) + "]"
        return self.value_text(value)

    def _type(self, schema: Mapping[str, Any]) -> list[str]:
        types = schema.get("type")
        if not types:
            return []
        return [f"type:{self.value_text([str(t).upper() for t in types] if isinstance(types, list) else str(types).upper())}"]


class FunctionGemmaDialect(_Gemma):
    """FunctionGemma's form: `<start_function_call>call:f{city:<escape>Paris<escape>,days:3}<end_function_call>`.

    Source: Google's page “FunctionGemma formatting and best practices” (the six control tokens, `<escape>` around every text, the
    `developer` turn that begins with the sentence below, `<start_function_response>` as a further stop), and the shape of the
    declarations as its chat template writes them.
    """

    name = "functiongemma"
    behind_system = "\n"
    title = "FunctionGemma: <start_function_call>call:name{…}<end_function_call>"
    stops = ("<start_function_response>",)
    declaration = "<start_function_declaration>", "<end_function_declaration>"
    response = "<start_function_response>", "<end_function_response>"
    control = ("<start_function_call>", "<end_function_call>", *declaration, *response, "<escape>")
    grammar = GemmaGrammar("<start_function_call>", "<end_function_call>", "<escape>")

    def _tools_text(self, tools: Sequence[ToolSpec]) -> str:
        return f"You are a model that can do function calling with the following functions{''.join(map(self._declared, tools))}"


class Gemma4Dialect(_Gemma):
    """Gemma 4's form: `<|tool_call>call:f{city:<|"|>Paris<|"|>,days:3}<tool_call|>`.

    Source: Gemma 4's chat template (calls, `<|tool>declaration:…<tool|>`, `<|tool_response>response:…<tool_response|>`) and Google's page
    “Function calling with Gemma 4”; transformers and vLLM parse the same form.
    """

    name = "gemma4"
    behind_system = ""
    title = "Gemma 4: <|tool_call>call:name{…}<tool_call|>"
    stops = ("<|tool_response>",)
    declaration = "<|tool>", "<tool|>"
    response = "<|tool_response>", "<tool_response|>"
    control = ("<|tool_call>", "<tool_call|>", *declaration, *response, '<|"|>')
    grammar = GemmaGrammar("<|tool_call>", "<tool_call|>", '<|"|>')

    def _tools_text(self, tools: Sequence[ToolSpec]) -> str:
        return "".join(map(self._declared, tools))
