"""Which rows a person looks at: search, filters, sorting and pages over a set of any size."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from workbench.calls.dialects import message_calls, message_text
from workbench.dataset.store import Entry

PAGE = 100  # rows on one page of the grid: more only slow the browser
REMEMBERED = 200_000  # lines whose facts are kept

CALL, TEXT, BROKEN = "call", "text", "broken"
KINDS = (CALL, TEXT, BROKEN)
SORTS = ("place", "request", "answer", "status", "length")


@dataclass(frozen=True)
class Facts:
    """What a line is searched, filtered and sorted by."""

    kind: str
    request: str
    answer: str
    status: str
    tools: tuple[str, ...]
    source: str
    haystack: str


@dataclass(frozen=True)
class Query:
    """What to look for; an empty text lets everything through. `problem` is a kind of finding, or "any"."""

    text: str = ""
    kind: str = ""
    tool: str = ""
    status: str = ""
    problem: str = ""
    split: str = ""
    sort: str = "place"


_known: dict[str, Facts] = {}


def facts_of(entry: Entry) -> Facts:
    """The facts of a line, remembered by its exact text."""
    found = _known.get(entry.raw)
    if found is None:
        if len(_known) >= REMEMBERED:
            _known.clear()
        found = _known[entry.raw] = _facts(entry)
    return found


def _facts(entry: Entry) -> Facts:
    row = entry.row
    if row is None:
        return Facts(BROKEN, entry.raw, "", "", (), "", entry.raw.casefold())
    calls = tuple(dict.fromkeys(call.name for call in message_calls(row.answer)))
    answer = message_text(row.answer)
    everything = "\n".join([*(message_text(m) for m in row.messages), row.note, row.source])
    return Facts(CALL if calls else TEXT, row.request, answer, row.status, calls, row.source, _fold(everything))


def _fold(text: str) -> str:
    return text.casefold().replace("ё", "е")


def find(
    entries: Sequence[Entry], query: Query, *, problems: Mapping[int, Collection[str]] | None = None,
    split: Sequence[str] = (), only: Collection[int] | None = None,
) -> list[int]:
    """The places (from 0) that match, in the asked order.

    `problems` maps a place to the kinds of findings about it, `split` gives each place's side; `only` narrows all
    to some places. Every word of the search must occur.
    """
    words = _fold(query.text).split()
    allowed = None if only is None else set(only)
    found = []
    for place, entry in enumerate(entries):
        if allowed is not None and place not in allowed:
            continue
        facts = facts_of(entry)
        if (query.kind and facts.kind != query.kind) or (query.status and facts.status != query.status):
            continue
        if query.tool and query.tool not in facts.tools:
            continue
        if query.split and (place >= len(split) or split[place] != query.split):
            continue
        if query.problem:
            here = problems.get(place, ()) if problems else ()
            if not here or (query.problem != "any" and query.problem not in here):
                continue
        if all(word in facts.haystack for word in words):
            found.append(place)
    return _sorted(found, entries, query.sort)


def _sorted(found: list[int], entries: Sequence[Entry], sort: str) -> list[int]:
    if sort == "length":
        return sorted(found, key=lambda i: -len(facts_of(entries[i]).haystack))
    if sort in ("request", "answer", "status"):
        return sorted(found, key=lambda i: getattr(facts_of(entries[i]), sort).casefold())
    return found


def pages(count: int) -> int:
    """How many pages `count` rows fill; one at least."""
    return max(1, -(-count // PAGE))


def tools_called(entries: Sequence[Entry]) -> list[str]:
    """Every tool that some row calls, by name."""
    return sorted({tool for entry in entries for tool in facts_of(entry).tools})


def reviewed(entries: Sequence[Entry]) -> tuple[int, int]:
    """(rows that were approved or rejected, all usable rows)."""
    statuses = [facts_of(e).status for e in entries if e.row is not None]
    return sum(s in ("approved", "rejected") for s in statuses), len(statuses)
