"""The form of every dialect's calls as grammar rules, and how a call is seen coming in a reply."""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from workbench.calls.dialect import Dialect
from workbench.calls.dialect_gemma import GemmaGrammar
from workbench.calls.dialect_python import GemmaPythonDialect
from workbench.calls.dialects import DIALECTS
from workbench.models.call_notation import Notation, terminal, texts_without, words_but

LONGEST_WORD = 32  # characters of an argument's name that the schema leaves open
MORE = "{0,15}"  # calls after the first in one list
_FENCE = "```tool_code"


@dataclass(frozen=True)
class Opening:
    """One way in which a call begins. `heads` finds the end of a text that may begin it.

    Where it is one fixed text, that is `whole`; else `last` is its last character.
    """

    heads: re.Pattern[str]
    whole: str = ""
    last: str = ""

    def may_end_in(self, token: bytes) -> bool:
        """Whether the token may bring the opening to its end; a quick look that may say yes too often."""
        if self.last:
            return self.last.encode() in token
        return token.startswith(tuple(self.whole[n:].encode() for n in range(len(self.whole)))) or self.whole.encode() in token


@dataclass(frozen=True)
class Form:
    """How a dialect's calls become rules: `call` of one, from the tool's name and the rule of its arguments; `whole` of all that
    a bound piece holds, where `call` is the rule of any one call."""

    call: Callable[[str, str], str]
    openings: tuple[Opening, ...]
    notation: Notation
    whole: str = "call"
    rules: tuple[str, ...] = ()


def _literal(opening: str) -> tuple[Opening, ...]:
    heads = re.compile("(?:" + "(?:".join(map(re.escape, opening[:-1])) + ")?" * (len(opening) - 2) + r")\Z")
    return (Opening(heads, whole=opening),)


def _as_json(dialect: Dialect, escapes: Mapping[str, str]) -> Notation:
    return Notation(dialect.value_text, dialect.key_text, escapes=escapes)


# -- JSON -------------------------------------------------------------------------------------------


def _tag(name: str, arguments: str) -> str:
    begun = terminal(f'<tool_call name="{name}" arguments="')
    return f"{begun} {arguments} {terminal(chr(34) + '/>')}"


def _hermes(name: str, arguments: str) -> str:
    return f"{terminal('<tool_call>')} gap {_named(name, arguments)} gap {terminal('</tool_call>')}"


def _named(name: str, arguments: str) -> str:
    begun = terminal(f'{{"name": "{name}", "arguments": ')
    return f'{begun} {arguments} "}}"'


def _pairs(name_key: str, arguments_key: str, name: str, arguments: str) -> tuple[str, str]:
    """A call's two pairs, a space or not where people put one."""
    named, brought = (f'{terminal(json.dumps(key))} gap ":" " "?' for key in (name_key, arguments_key))
    return f"{named} {terminal(json.dumps(name))}", f"{brought} {arguments}"


def _json(name: str, arguments: str) -> str:
    named, brought = _pairs("function", "arguments", name, arguments)
    return f'"{{" ws ({named} ", " {brought} | {brought} ", " {named}) "}}"'


def _llama(name: str, arguments: str) -> str:
    named, brought = _pairs("name", "parameters", name, arguments)
    kind = f'{terminal(json.dumps("type"))} gap ":" gap {terminal(json.dumps("function"))} ", "'
    return f'({terminal("<|python_tag|>")} gap)? "{{" ws (({kind})? {named} ", " {brought} | {brought} ", " {named}) "}}"'


def _listed(name: str, arguments: str) -> str:
    begun = terminal(f'{{"name": "{name}", "arguments": ')
    return f'{begun} {arguments} ({terminal(", " + json.dumps("id") + ": " + chr(34))} [A-Za-z0-9]{{9}} {terminal(chr(34))})? "}}"'


def _args(name: str, arguments: str) -> str:
    return f"{terminal(f'[TOOL_CALLS]{name}[ARGS]')} {arguments}"


# -- Google's ---------------------------------------------------------------------------------------


def _python() -> Form:
    dialect = DIALECTS["gemma-python"]
    assert isinstance(dialect, GemmaPythonDialect)
    refused = tuple(word for word in keyword.kwlist if word.isidentifier())
    notation = Notation(dialect.value_text, dialect.key_text, named=dialect.word_text, keys="word", key_rules=tuple(words_but(refused, "word", longest=LONGEST_WORD)))
    listed = Opening(re.compile(r"\[\s{0,8}(?:[A-Za-z_][\w.]{0,127}(?:\(\s{0,8}(?:[^\W\d]\w{0,127}\s{0,4})?)?)?\Z"), last="=")
    return Form(
        lambda name, arguments: f'{terminal(f"{name}(")} gap {arguments} gap ")"',
        (listed, Opening(listed.heads, last=")"), *_literal(_FENCE)), notation,
        whole=f"list | {terminal(_FENCE)} lines (list | call (lines call){MORE}) lines {terminal('```')}",
        rules=(f'list ::= "[" gap call (gap "," gap call){MORE} gap "]"', r'lines ::= [ \t]{0,8} "\n" [ \n\r\t]{0,8}'),
    )


def _marked(name: str) -> Form:
    """FunctionGemma's and Gemma 4's: texts have no escape, so the marker that ends one can't stand in it."""
    dialect = DIALECTS[name]
    grammar = dialect.grammar
    assert isinstance(grammar, GemmaGrammar)
    opening, closing, quote = grammar.open, grammar.closing, grammar.quote
    without = sorted({sign for sign in quote if not sign.isalnum()} | set(quote[-3]))

    def limited(least: int, most: int) -> str:
        # With a sign of the marker missing it can't come up; a text of limited length that holds all of them is not to be had.
        # (Written as two ways, as xgrammar takes half a minute for a repetition of one set of signs.)
        return " | ".join(f"without_{place}{{{least}, {most}}}" for place in range(len(without)))

    quoted = terminal(quote)
    rules = (f"quoted ::= {quoted} text {quoted}", *texts_without(quote, "text"), *(f'without_{n} ::= [^_\\U{ord(sign):08x}] | "_"' for n, sign in enumerate(without)))
    keys = (f"key ::= [A-Za-z0-9_.\\-]{{1,{LONGEST_WORD}}}",)
    notation = Notation(dialect.value_text, dialect.key_text, comma=",", colon=":", quote=quote, texts="quoted", keys="key", limited=limited, rules=rules, key_rules=keys)
    return Form(lambda name, arguments: f"{terminal(opening)} gap {terminal(f'call:{name}')} {arguments} gap {terminal(closing)}", _literal(opening), notation)


def _bare(first_keys: str, *ends: str) -> tuple[Opening, ...]:
    heads = re.compile(rf'\{{\s{{0,32}}(?:{first_keys})?\Z')
    return tuple(Opening(heads, last=end) for end in ends)


_HTML = {'"': "&quot;", "&": "&amp;", "<": "&lt;", ">": "&gt;"}
_LISTED = rf"{terminal('[TOOL_CALLS]')} gap {terminal('[')} gap call (gap {terminal(',')} gap call){MORE} gap {terminal(']')}"


def _forms() -> dict[str, Form]:
    def form(name: str, call: Callable[[str, str], str], openings: tuple[Opening, ...], whole: str = "call", escapes: Mapping[str, str] | None = None) -> tuple[str, Form]:
        return name, Form(call, openings, _as_json(DIALECTS[name], escapes or {}), whole)

    return dict([
        form("tag", _tag, _literal("<tool_call"), escapes=_HTML),
        form("json", _json, _bare(r'"[a-z]{0,9}(?:"\s{0,8})?', ":")),
        form("hermes", _hermes, _literal("<tool_call>")),
        form("llama3-json", _llama, (*_bare(r'"[a-z]{0,10}(?:"\s{0,8}(?::\s{0,8}(?:"[a-z]{0,8})?)?)?', ":", '"'), *_literal("<|python_tag|>"))),
        form("mistral", _listed, _literal("[TOOL_CALLS]"), _LISTED),
        form("mistral-args", _args, _literal("[TOOL_CALLS]")),
        ("gemma-python", _python()),
        ("functiongemma", _marked("functiongemma")),
        ("gemma4", _marked("gemma4")),
    ])


FORMS = _forms()
