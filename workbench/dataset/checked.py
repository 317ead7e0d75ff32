"""A set as its health looks at it, with what several findings need worked out once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from workbench.calls.dialects import message_calls, message_text
from workbench.dataset.changes import Entry
from workbench.dataset.fixes import Fix
from workbench.dataset.rowtools import row_tools
from workbench.dataset.similar import Likeness, compare_between, compare_within, exactly
from workbench.schema import Example, ToolCall, ToolSpec

Severity = Literal["bad", "warn", "info"]
SEVERITIES: tuple[Severity, ...] = ("bad", "warn", "info")
SIMILAR = 75.0  # likeness (0 to 100) to a prompt of another file from which a row is worth a look


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or worth knowing: `short` for a chip, `title` with figures, `advice` on what to do.

    `places` are the lines it is about, from 0 over all lines of the set. `topic` is the word that a
    "topic" finding is about.
    """

    kind: str
    severity: Severity
    short: str
    title: str
    advice: str
    places: tuple[int, ...] = ()
    fix: Fix | None = None
    topic: str = ""

    @property
    def key(self) -> str:
        """What the finding is called as long as it stands, whatever becomes of the others."""
        return f"{self.kind}:{self.topic}" if self.topic else self.kind


@dataclass(frozen=True)
class Checked:
    """A set as the findings look at it: `rows` are those that are not rejected, by their place among all lines."""

    entries: tuple[Entry, ...]
    rows: Mapping[int, Example]
    tools: Mapping[str, ToolSpec]
    others: Mapping[str, Sequence[Example]]
    split: tuple[str, ...]
    unread: Mapping[str, str] = field(default_factory=dict)  # files like `others` that can't be read, and why
    refused: Mapping[int, str] = field(default_factory=dict)  # why the model can't be taught a row, by its place

    @cached_property
    def places(self) -> list[int]:
        """The rows' places, in the order that `likeness` counts by."""
        return list(self.rows)

    @cached_property
    def likeness(self) -> Likeness:
        return compare_within([row.request for row in self.rows.values()])

    @cached_property
    def calls(self) -> dict[int, tuple[ToolCall, ...]]:
        """What every row's answer calls; empty for an answer in words."""
        return {p: message_calls(row.answer) for p, row in self.rows.items()}

    def known_tools(self, row: Example) -> Mapping[str, ToolSpec]:
        """The set's tools, and those that the row brings along, which count more."""
        if "tools" not in row.extras:
            return self.tools
        return {**self.tools, **{tool.name: tool for tool in row_tools(row) if isinstance(tool, ToolSpec)}}

    @cached_property
    def members(self) -> dict[int, list[int]]:
        """The rows' places of every distinct request, by its number in `likeness`."""
        found: dict[int, list[int]] = {}
        for place, distinct in zip(self.places, self.likeness.of.tolist(), strict=True):
            found.setdefault(distinct, []).append(place)
        return found

    @cached_property
    def groups(self) -> dict[int, int]:
        """Every row's group of near-duplicates, by its place."""
        return dict(zip(self.places, self.likeness.labels[self.likeness.of].tolist(), strict=True))

    def grouped(self, places: Iterable[int]) -> tuple[int, ...]:
        """The places with those of a group beside one another."""
        return tuple(sorted(places, key=lambda p: (self.groups[p], p)))

    @cached_property
    def nearest(self) -> dict[int, tuple[str, str, float]]:
        """Every row that is worded like a prompt of another file: that file, the likest prompt, and how like it is."""
        found: dict[int, tuple[str, str, float]] = {}
        others = [(name, row.request) for name, rows in self.others.items() for row in rows]
        for pair in compare_between([row.request for row in self.rows.values()], [request for _, request in others], SIMILAR):
            place = self.places[pair.first]
            if place not in found or found[place][2] < pair.similarity:
                found[place] = (*others[pair.second], pair.similarity)
        return dict(sorted(found.items()))

    def meaning(self, place: int, *, arguments: bool = False) -> str:
        """What the answer does: the tools it calls (with their arguments), or nothing but words."""
        return json.dumps([[call.name, dict(call.arguments) if arguments else {}] for call in self.calls[place]], sort_keys=True)

    @cached_property
    def contexts(self) -> dict[int, tuple[tuple[str, str], ...]]:
        """What every row's request stands among, by its place."""
        return {p: context(row) for p, row in self.rows.items()}

    @cached_property
    def asked(self) -> dict[int, str]:
        """Every row's request as it is compared for being the same, by its place."""
        return {p: exactly(row.request) for p, row in self.rows.items()}

    def by_context(self, places: Iterable[int]) -> list[list[int]]:
        """Those of the rows whose other turns before the answer are the same, in groups of two and more."""
        groups: dict[Any, list[int]] = {}
        for place in places:
            groups.setdefault(self.contexts[place], []).append(place)
        return [g for g in groups.values() if len(g) > 1]


def context(row: Example) -> tuple[tuple[str, str], ...]:
    """What the answer follows, but for the request's own words: “And yesterday?” asks something else after another turn.

    A call that the row makes before its answer counts too, and what came back.
    """
    last = max(i for i, m in enumerate(row.messages) if m.role == "user")
    return tuple((m.role, "" if i == last else exactly(message_text(m))) for i, m in enumerate(row.messages[:-1]))


_IDS = ("id", "tool_call_id")  # made up anew for every row by most programs


def content(row: Example) -> tuple[Any, ...]:
    """All that a row says: rows of the same content teach the same."""
    turns = tuple((m.role, m.content.strip(), _told([[c.name, dict(c.arguments), _own(c.extras)] for c in m.tool_calls]), _told(_own(m.extras))) for m in row.messages)
    return turns, _told(row.extras.get("tools"))


def _own(extras: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in extras.items() if key not in _IDS}


def _told(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
