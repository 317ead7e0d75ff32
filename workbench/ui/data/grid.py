"""The grid of rows: its cells, what is typed into them, and bulk actions, all over the rows that it was drawn from."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from workbench.calls.dialects import message_text
from workbench.dataset.changes import Change
from workbench.dataset.draft import CallDraft, TurnDraft, draft_of, row_of, split_calls
from workbench.dataset.health import Health
from workbench.dataset.store import Entry, RowSet
from workbench.dataset.view import Query, facts_of, find
from workbench.errors import DataError, RowError
from workbench.schema import STATUSES, Example
from workbench.ui import words
from workbench.ui.words.health import FINDINGS
from workbench.workspace import Workspace

COLUMNS = {"request": 2, "answer": 3, "status": 5}
ARROW = "→"  # before a call's name in the grid
CELL = 1000  # characters of a cell; a longer text is edited in the form
NUMBER = 1  # the column of the row's number
TOOL = 2  # the place of the tool's filter among the query's values
SIDES = ("train", "validation", "left out")
BULK = ("approve", "reject", "back to draft", "pin to training", "pin to validation", "take the pin off", "duplicate", "delete")


@dataclass(frozen=True)
class Marks:
    """What the health check says of each place: the side of the split, and the findings' kinds and words."""

    split: Sequence[str] = ()
    problems: Mapping[int, Collection[str]] | None = None
    titles: Mapping[int, str] | None = None


def marks(space: Workspace, rows: RowSet) -> Marks:
    """The marks of the last health check, if it looked at these very rows."""
    health = space.row_health.known(rows)
    return Marks() if health is None else _marks_of(health)


@lru_cache(maxsize=4)
def _marks_of(health: Health) -> Marks:
    """A click asks for the marks several times, and a set's health says the same each time."""
    problems: dict[int, list[str]] = {}
    titles: dict[int, list[str]] = {}
    for finding in health.findings:
        for place in finding.places:
            problems.setdefault(place, []).append(finding.kind)
            if finding.severity != "info" or finding.kind == "review":
                titles.setdefault(place, []).append(FINDINGS[finding.kind])
    return Marks(health.split, problems, {place: ", ".join(dict.fromkeys(kinds)) for place, kinds in titles.items()})


def grid_values(rows: RowSet, places: Sequence[int], seen: Marks) -> list[list[Any]]:
    """The grid's cells for `places`; a broken line shows its text and its problem."""
    return [_grid_row(place, rows.entries[place], seen) for place in places]


def _grid_row(place: int, entry: Entry, seen: Marks = Marks()) -> list[Any]:
    facts = facts_of(entry)
    side = seen.split[place] if place < len(seen.split) else ""
    says = (seen.titles or {}).get(place, "")
    if entry.row is None:
        says = entry.problem.told if entry.problem else says
        return [False, place + 1, _cell(facts.request), "", facts.kind, "", "", _cell(says)]
    return [False, place + 1, _cell(facts.request), _cell(answer_cell(entry.row)), facts.kind, facts.status, words.SIDE_WORDS.get(side, side), _cell(says or facts.source)]


def answer_cell(row: Example) -> str:
    """The answer as the grid shows it: a call by its name and arguments behind an arrow, several by their names, anything else as it stands."""
    text, calls = split_calls(row.answer)
    if text.strip() or not calls:
        return message_text(row.answer)
    if len(calls) > 1:
        return f"{ARROW} {', '.join(call.name for call in calls)}"
    arguments = json.dumps(dict(calls[0].arguments), ensure_ascii=False) if calls[0].arguments else ""
    return f"{ARROW} {calls[0].name} {arguments}".rstrip()


def read_answer(text: str) -> TurnDraft:
    """What was typed into an answer's cell: a call in the grid's own way of showing it, or a text. Raises `RowError`."""
    if not text.lstrip().startswith(ARROW):
        return TurnDraft("assistant", text)
    name, _, arguments = text.strip().removeprefix(ARROW).strip().partition(" ")
    return TurnDraft("assistant", "", (CallDraft(name, arguments.strip() or "{}"),))


def _cell(text: str) -> str:
    """What a cell shows: a page of whole books would be sent to and fro at every edit."""
    return text if len(text) <= CELL else text[: CELL - 1] + "…"


def make_query(text: str, kind: str, tool: str, status: str, problem: str, split: str, sort: str) -> Query:
    return Query(text or "", kind or "", tool or "", status or "", problem or "", split or "", sort or "place")


def found(space: Workspace, rows: RowSet, *values: Any) -> list[int]:
    """The places in `rows` that the filters let through: their values, then what the grid is narrowed to (None for nothing)."""
    *query, only = values
    seen = marks(space, rows)
    return find(rows.entries, make_query(*query), problems=seen.problems, split=seen.split, only=only.now(space, rows) if only else None)


def as_drawn(space: Workspace, version: str) -> RowSet:
    """The rows that the grid was drawn from; raises `DataError` where they are not known any more."""
    rows = space.rows.at(version)
    if rows is None:
        raise DataError(words.GRID_OLD)
    return rows


# -- verbs: plans over the rows that the grid was drawn from -----------------------------------------


def edit_cells(rows: RowSet, cells: Sequence[Sequence[Any]]) -> Change:
    """The change that was typed into the grid: every row whose request, answer or status differs."""
    if any(len(line) != len(words.GRID_HEADERS) for line in cells):
        raise DataError(words.GRID_SHAPE)
    put: dict[int, Example] = {}
    for line in cells:
        place = int(line[NUMBER]) - 1 if str(line[NUMBER]).strip().isdigit() else -1
        if not 0 <= place < len(rows.entries):
            raise DataError(words.GRID_SHAPE)
        before = _grid_row(place, rows.entries[place])
        if any(str(line[c] or "") != str(before[c] or "") for c in COLUMNS.values()):
            texts = {name: str(line[c] or "") for name, c in COLUMNS.items() if str(line[c] or "") != str(before[c] or "")}
            put[place] = _typed_row(rows.entries[place], texts)
    what = f"row {min(put) + 1} was changed" if len(put) == 1 else f"{len(put)} rows were changed"
    return Change(put=put, what=what if put else "")


def _typed_row(entry: Entry, texts: Mapping[str, str]) -> Example:
    """The row that typing into the grid makes of a line: `texts` are the cells that differ. Raises `RowError`."""
    if entry.row is None:
        raise RowError("This line can't be used as it is: click it and mend it in the form on the right.", "line")
    facts, draft = facts_of(entry), draft_of(entry.row)
    if any(len(getattr(facts, name)) > CELL for name in texts):
        raise RowError("This text is too long for a cell, which shows its beginning alone: edit it in the form on the right.", "request")
    if not texts.get("request", "x").strip():
        raise RowError("The request is empty: write what the user says.", "request")
    if not texts.get("answer", "x").strip():
        raise RowError("The answer is empty: write a text, or choose “calls a tool” in the form.", "answer")
    if texts.get("answer", "").lstrip().startswith(ARROW) and len(split_calls(entry.row.answer)[1]) > 1:
        raise RowError(words.MANY_CALLS, "answer")
    status = texts.get("status", draft.status) or "draft"
    if status not in STATUSES:
        raise RowError(f"The status must be one of {', '.join(STATUSES)}.", "status")
    turns = list(draft.turns)
    asked = max(i for i, turn in enumerate(turns) if turn.role == "user")
    if "request" in texts:
        turns[asked] = replace(turns[asked], text=texts["request"])
    if "answer" in texts:
        # The answer was typed anew: what it says now counts, not the calls given beside the old one.
        typed = read_answer(texts["answer"])
        turns[-1] = replace(turns[-1], text=typed.text, calls=typed.calls)
    return row_of(replace(draft, turns=tuple(turns), status=status), entry.row)


def bulk(rows: RowSet, action: str, places: Sequence[int], *, found_all: bool = False) -> Change:
    """One change over many rows: the ticked ones, or (`found_all`) all that the filters let through. Broken lines can only be deleted."""
    if not places:
        raise DataError(words.NOTHING_TO_DO if found_all else words.NOTHING_TICKED)
    count = f"{len(places)} row{'s' if len(places) > 1 else ''}"
    if action == "delete":
        return Change(drop=frozenset(places), what=f"{count} deleted; Undo brings them back")
    usable = {p: e.row for p in places if p < len(rows.entries) and (e := rows.entries[p]).row is not None}
    if action == "duplicate":
        return Change(add=tuple(replace(row, status="draft") for row in usable.values()), what=f"{count} copied to the end as drafts")
    changes: dict[str, tuple[dict[str, str], str]] = {
        "approve": ({"status": "approved"}, "approved"), "reject": ({"status": "rejected"}, "rejected"), "back to draft": ({"status": "draft"}, "drafts again"),
        "pin to training": ({"pin": "train"}, "pinned to training"), "pin to validation": ({"pin": "validation"}, "pinned to validation"),
        "take the pin off": ({"pin": ""}, "on either side again"),
    }
    if action not in changes:
        raise DataError(f"There is no bulk action {action[:40]!r}: choose one of {', '.join(BULK)}.")
    fields, done = changes[action]
    put = {p: new for p, row in usable.items() if (new := replace(row, **fields)) != row}  # type: ignore[arg-type]
    skipped = len(places) - len(usable)
    return Change(put=put, what=f"{count} {done}" + (f"; {skipped} broken left as they are" if skipped else "")) if put else Change(what=words.NOTHING_CHANGED)


def ticked(cells: Sequence[Sequence[Any]]) -> list[int]:
    """The places of the rows whose first cell is ticked."""
    return [int(line[NUMBER]) - 1 for line in cells if line and line[0] in (True, "true", "True") and str(line[NUMBER]).strip().isdigit()]
