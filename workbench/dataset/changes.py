"""A change to the lines of a set, as a value: it can be shown before it is made, made, taken back, and merged with another's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from workbench.schema import Example


@dataclass(frozen=True)
class Change:
    """What to do with the lines of a set. Places count from 0 in the set as its maker saw it.

    put: rows to stand in places; drop: places to take away; add: rows to append; add_raw: lines to append as they
    are, readable or not; replace_all: everything that stood there goes first. `what` tells it in words, in the past
    tense and without a full stop, as in "row 3 was deleted".
    """

    put: Mapping[int, Example] = field(default_factory=dict)
    drop: frozenset[int] = frozenset()
    add: tuple[Example, ...] = ()
    add_raw: tuple[str, ...] = ()
    replace_all: bool = False
    what: str = ""

    def __bool__(self) -> bool:
        return bool(self.put or self.drop or self.add or self.add_raw or self.replace_all)
