"""Replies whose calls are bound: free text stays free; once a call has begun, the dialect's grammar and the tools' schemas say what may follow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
import xgrammar

from workbench.calls.dialect import Dialect, openai_of
from workbench.calls.dialects import dialect_named
from workbench.calls.tools import parse_specs
from workbench.models.call_forms import FORMS, Opening
from workbench.models.call_grammar import call_grammar
from workbench.models.constrained import SURROGATE_LEAD, Tables, may_follow, tables_of
from workbench.models.loading import Base
from workbench.schema import ToolSpec

KEPT_BYTES = 1200  # of the text before a call: longer than any opening
KEPT_MASKS = 256
KEPT_GRAMMARS = 8
TOLD = 8  # changes that are told one by one


class CallGrammar:
    """The calls of some tools in a dialect, compiled for one base. `bound()` makes the follower of one reply.

    Raises `InputError` where the dialect or a tool's schema has no grammar.
    """

    def __init__(self, base: Base, dialect: Dialect, tools: Sequence[ToolSpec]) -> None:
        self.tables: Tables = tables_of(base)
        self.opening = dialect.grammar.opening
        self.stop_ids = frozenset(base.tokenizer.stop_ids)
        self.text = partial(base.tokenizer.text, keep_control=True)
        self.compiled = _compiled(_TablesKey(self.tables), dialect.name, json.dumps([openai_of(tool) for tool in tools]))
        # Control tokens that are not of the dialect vanish from the text: in a call none may come, before one they count as nothing.
        self.silent = frozenset(i for i, text in base.tokenizer.control_ids.items() if text not in dialect.control)
        self.never_V = self.tables.half_V.clone()
        self.never_V[[i for i in self.silent if i < len(self.never_V)]] = True
        self.form = FORMS[dialect.name]
        self.endings = _endings(_TablesKey(self.tables), dialect.name)
        # The dialect's markers that are one token each: none may stand inside a text, where it would end the call for whoever reads it next.
        self.markers = {i: token for i, token in enumerate(self.tables.written) if token in {text.encode() for text in dialect.control}}
        self._masks: dict[str, torch.Tensor | None] = {}

    def bound(self) -> CallBound:
        return CallBound(self)

    def matcher(self) -> xgrammar.GrammarMatcher:
        return xgrammar.GrammarMatcher(self.compiled, override_stop_tokens=sorted(self.stop_ids))

    def before_call(self, tail: str, width: int) -> torch.Tensor | None:
        """The mask (bool, V) that forbids tokens which would begin a call and go on as none can after the text `tail`; None where there are none."""
        begun = [(match[0], opening) for opening in self.form.openings if (match := opening.heads.search(tail)) and match[0]]
        head = begun[0][0] if begun else ""  # two openings that a text may begin have the same beginning
        if head not in self._masks:
            if len(self._masks) >= KEPT_MASKS:
                self._masks.clear()
            self._masks[head] = self._begins_well(head, [opening for _, opening in begun], width)
        return self._masks[head]

    def _begins_well(self, head: str, openings: Sequence[Opening], width: int) -> torch.Tensor | None:
        tokens = self.endings[None].union(*map(self.endings.__getitem__, openings)) - self.silent
        found = [(i, match.start()) for i in tokens if (match := self.opening.search(head + _shown(self.tables.written[i])))]
        if not found:
            return None
        matcher = self.matcher()
        fits = bool(matcher.accept_string(head)) if head else True
        goes_on_V = may_follow(matcher, width) & ~self.never_V if fits else torch.zeros(width, dtype=torch.bool)
        mask_V = torch.ones(width, dtype=torch.bool)
        for i, at in found:
            within = bool(self.matcher().accept_string((head + _shown(self.tables.written[i]))[at:])) if at else bool(goes_on_V[i])
            mask_V[i] = within
        return None if mask_V.all() else mask_V


@dataclass(frozen=True)
class Change:
    """A step at which the likeliest token was forbidden: its place in the reply, its text, and what was written instead."""

    step: int
    wanted: str
    wrote: str


class CallBound:
    """Follows one reply."""

    def __init__(self, grammar: CallGrammar) -> None:
        self.grammar = grammar
        self.ids: list[int] = []
        self.forbidden: dict[int, int] = {}  # by the step, the likeliest token, which was not allowed there
        self._call: xgrammar.GrammarMatcher | None = None
        self._tail = b""

    def allowed(self, last: int | None, width: int) -> torch.Tensor | None:
        """The mask of the tokens that may follow `last` (bool, V = `width`); None where all may."""
        if last is not None:
            self.ids.append(last)
            self._take(last)
        if last in self.grammar.stop_ids:
            return None
        return self._in_call(width) if self._call is not None else self.grammar.before_call(_shown(self._tail), width)

    def forbade(self, wanted: int) -> None:
        self.forbidden[len(self.ids)] = wanted

    def changes(self) -> tuple[int, list[Change]]:
        """At how many steps of the finished reply the likeliest token was forbidden, and the first of them."""
        text = self.grammar.text
        told = [Change(step, text([wanted]), text(self.ids[step : step + 1])) for step, wanted in list(self.forbidden.items())[:TOLD]]
        return len(self.forbidden), told

    def _in_call(self, width: int) -> torch.Tensor:
        assert self._call is not None
        mask_V = may_follow(self._call, width) & ~self.grammar.never_V
        if self.ids and self.grammar.tables.written[self.ids[-1]].endswith(SURROGATE_LEAD):
            mask_V &= ~self.grammar.tables.second_V
        for token, written in self.grammar.markers.items():
            if mask_V[token] and written.decode() != self.grammar.form.notation.quote:
                # In a text another character might stand in the place of the marker's last one.
                mask_V[token] = not self._call.fork().accept_string(written[:-1] + b"~")
        return mask_V

    def _take(self, token: int) -> None:
        if token in self.grammar.stop_ids or token in self.grammar.silent:
            return
        piece = self.grammar.tables.written[token]
        if self._call is None:
            self._tail = (self._tail + piece)[-KEPT_BYTES:]
            text = _shown(self._tail)
            begun = self.grammar.opening.search(text)
            if begun is None:
                return
            self._call, piece = self.grammar.matcher(), text[begun.start() :].encode()
        if not self._call.accept_string(piece):
            raise RuntimeError(f"token {token} was chosen against the grammar")
        if self._call.is_completed():  # what follows is free again
            self._call, self._tail = None, b""


def _shown(written: bytes) -> str:
    return written.decode("utf-8", "replace")


class _TablesKey:
    """Tables as a cache's key."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def __hash__(self) -> int:
        return id(self.tables)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _TablesKey) and other.tables is self.tables


@lru_cache(maxsize=KEPT_GRAMMARS)
def _endings(key: _TablesKey, dialect: str) -> dict[Opening | None, frozenset[int]]:
    """The tokens that may end each opening of the dialect; under None those that hold a whole one."""
    openings, whole = FORMS[dialect].openings, dialect_named(dialect).grammar.opening
    written = key.tables.written
    found: dict[Opening | None, frozenset[int]] = {one: frozenset(i for i, token in enumerate(written) if one.may_end_in(token)) for one in openings}
    found[None] = frozenset(i for i in frozenset().union(*found.values()) if whole.search(_shown(written[i])))
    return found


@lru_cache(maxsize=KEPT_GRAMMARS)
def _compiled(key: _TablesKey, dialect: str, tools: str) -> Any:
    return key.tables.compiler.compile_grammar(call_grammar(dialect_named(dialect), parse_specs(tools)), root_rule_name="root")
