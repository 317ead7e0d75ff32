"""Rows that a model can't be taught, found quickly enough for every look at a set of any size."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property

from workbench.calls.prompting import PLAIN, CallForm
from workbench.errors import RowError
from workbench.models.tokenizer import ChatTokenizer
from workbench.schema import Example
from workbench.training.encode import encode, turns_of

ENCODED = 1000  # rows that one look encodes, at two or three milliseconds each
REMEMBERED = 20_000  # rows whose answer is kept
_PER_TURN = 16  # tokens that a template may write around a turn

Key = tuple[tuple[str, str], ...]  # a row's turns as (role, text)


class Teachable:
    """Asks what a tokenizer's template and limits refuse, and remembers the answer by the row's turns."""

    def __init__(self, tokenizer: ChatTokenizer, max_tokens: int, form: CallForm = PLAIN) -> None:
        self.tokenizer, self.max_tokens, self.form = tokenizer, max_tokens, form
        self._known: dict[tuple[str | None, Key], str] = {}

    def refused(self, rows: Mapping[int, Example]) -> dict[int, str]:
        """Why rows can't be learned, by their place; the others are left out.

        Of up to `ENCODED` rows each is encoded as for training. Of more, only those that may be refused are: one row of
        every order of roles, which answers for all of that order, those with a control token, and the longest, as far as
        `ENCODED` goes. What a template does to an ordinary answer is then seen when the run is planned.
        """
        keys, found = self._keys(rows)
        usable = {place: rows[place] for place in keys}
        if len(usable) <= ENCODED:
            found |= {place: why for place, row in usable.items() if (why := self._ask(row, keys[place]))}
            return dict(sorted(found.items()))
        found |= self._orders(usable, keys)
        suspects = sorted((p for p in usable if p not in found and self._suspect(keys[p])), key=lambda p: -_size(keys[p]))
        for place in suspects[:ENCODED]:
            if why := self._ask(rows[place], keys[place]):
                found[place] = why
        return dict(sorted(found.items()))

    def _keys(self, rows: Mapping[int, Example]) -> tuple[dict[int, Key], dict[int, str]]:
        """The rows' turns, and why there are none where the dialect can't write a row."""
        keys: dict[int, Key] = {}
        refused: dict[int, str] = {}
        for place, row in rows.items():
            try:
                keys[place] = tuple((turn["role"], turn["content"]) for turn in turns_of(row, self.form))
            except RowError as exc:
                refused[place] = str(exc)
        return keys, refused

    def _orders(self, rows: Mapping[int, Example], keys: Mapping[int, Key]) -> dict[int, str]:
        """The rows whose order of roles the template refuses."""
        orders: dict[tuple[str, ...], list[int]] = {}
        for place in rows:
            orders.setdefault(tuple(role for role, _ in keys[place]), []).append(place)
        found: dict[int, str] = {}
        for places in list(orders.values())[:ENCODED]:
            found |= dict.fromkeys(places, self._order_refused(keys[places[0]]))
        return {place: why for place, why in found.items() if why}

    def _order_refused(self, key: Key) -> str:
        roles = tuple((role, "") for role, _ in key)
        if (None, roles) not in self._known:
            try:
                self.tokenizer.render([{"role": role, "content": text} for role, text in key], answer_next=False)
                self._keep((None, roles), "")
            except RowError as exc:
                self._keep((None, roles), str(exc))
        return self._known[None, roles]

    def _suspect(self, key: Key) -> bool:
        """Whether a row may be too long (no token is shorter than a byte) or hold a control token."""
        return _size(key) > self.max_tokens or any(self._control.search(text) for _, text in key)

    @cached_property
    def _control(self) -> re.Pattern[str]:
        """Finds how control tokens begin that the dialect does not write: a text without that holds none."""
        foreign = set(self.tokenizer.control_tokens) - set(self.form.dialect.control)
        return re.compile("|".join(sorted({re.escape(token[:2]) for token in foreign})) or r"(?!)")

    def _ask(self, row: Example, key: Key) -> str:
        kept = ("", key)
        if kept not in self._known:
            try:
                encode(row, self.tokenizer, max_tokens=self.max_tokens, form=self.form)
                self._keep(kept, "")
            except RowError as exc:
                self._keep(kept, str(exc))
        return self._known[kept]

    def _keep(self, key: tuple[str | None, Key], why: str) -> None:
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[key] = why


def _size(turns: Sequence[tuple[str, str]]) -> int:
    """At least as many as the row has tokens."""
    return sum(len(text.encode("utf-8", "replace")) + _PER_TURN for _, text in turns)
