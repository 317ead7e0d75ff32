"""Tool calls as text: rendering a call into what the model learns, and parsing a reply back.

Parsing never guesses. A reply becomes typed segments whose raw texts join to the exact original:
free text, well-formed calls, and malformed pieces that began like a call. Which dialect a reply is in is never guessed either.
"""

from __future__ import annotations

from workbench.calls.dialect import Dialect as Dialect
from workbench.calls.dialect_gemma import FunctionGemmaDialect, Gemma4Dialect
from workbench.calls.dialect_json import JsonDialect, LlamaDialect
from workbench.calls.dialect_marked import HermesDialect, MistralArgsDialect, MistralDialect
from workbench.calls.dialect_python import GemmaPythonDialect
from workbench.calls.dialect_tag import TagDialect as TagDialect
from workbench.calls.segments import CallSegment as CallSegment
from workbench.calls.segments import DialectError as DialectError
from workbench.calls.segments import MalformedSegment as MalformedSegment
from workbench.calls.segments import OpenSegment as OpenSegment
from workbench.calls.segments import Segment as Segment
from workbench.calls.segments import TextSegment as TextSegment
from workbench.calls.segments import Verdict as Verdict
from workbench.calls.segments import calls_in as calls_in
from workbench.calls.segments import verdict as verdict
from workbench.calls.stream import Stream as Stream
from workbench.errors import SettingsError
from workbench.schema import Message, ToolCall

TAG = TagDialect()
DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        TAG, JsonDialect(), GemmaPythonDialect(), HermesDialect(), FunctionGemmaDialect(), Gemma4Dialect(),
        LlamaDialect(), MistralDialect(), MistralArgsDialect(),
    )
}


def dialect_named(name: str) -> Dialect:
    """The dialect of that name; raises `SettingsError` if there is none."""
    if name not in DIALECTS:
        raise SettingsError(f"There is no dialect {name[:40]!r}: choose one of {', '.join(DIALECTS)}.")
    return DIALECTS[name]


def message_text(message: Message, dialect: Dialect = TAG) -> str:
    """The content the chat template gets: calls given as `tool_calls` are written into it by us.

    Gemma's template ignores `tool_calls` and would render an empty turn without an error. Raises `DialectError` for a call that the
    dialect can't write.
    """
    parts = [message.content.strip()] if message.content.strip() else []
    return "\n".join(parts + ([dialect.render_calls(message.tool_calls)] if message.tool_calls else []))


def message_calls(message: Message, dialect: Dialect = TAG) -> tuple[ToolCall, ...]:
    """The calls a row's turn asks for, whether written as text or given as `tool_calls`."""
    return calls_in(dialect.parse(message_text(message, dialect)))
