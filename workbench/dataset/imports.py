"""What would come in from a file or a data set: each record as a row or a problem, and whether the set has it already.

Nothing is written here: a `Preview` is shown, a person chooses, and `to_change` makes the change that the store can make.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from workbench.calls.dialects import message_text
from workbench.dataset.changes import Change
from workbench.dataset.checks import exactly
from workbench.dataset.layouts import TITLES, detect, read_record
from workbench.dataset.records import Record, Source, shown_name
from workbench.dataset.rowtools import row_tools
from workbench.dataset.sources import open_file
from workbench.dataset.tables import exact_value
from workbench.errors import DataError, RowError
from workbench.schema import Example, RowProblem, ToolSpec

MAX_PROBLEMS = 1000  # listed; more are summed up
MAX_TOOLS = 200


@dataclass(frozen=True)
class Candidate:
    """One record that may come in. `line` counts from 1; `raw` is its exact line where `whole`, else a short rendering.

    `duplicate` says what it is the same as, as in "same as row 12 of the set"; empty where it is new.
    """

    line: int
    row: Example | None
    raw: str
    problem: RowProblem | None = None
    duplicate: str = ""
    whole: bool = False


@dataclass(frozen=True)
class Preview:
    """What a file or a data set holds. `tools`: the specifications that its rows bring along, each name once."""

    name: str
    container: str
    layout: str
    candidates: tuple[Candidate, ...]
    tools: tuple[ToolSpec, ...] = ()
    notes: tuple[str, ...] = ()
    unlisted: int = field(default=0)  # problems beyond those in `candidates`

    @cached_property
    def usable(self) -> int:
        return sum(c.row is not None for c in self.candidates)

    @cached_property
    def problems(self) -> int:
        return sum(c.problem is not None for c in self.candidates) + self.unlisted

    @cached_property
    def duplicates(self) -> int:
        return sum(bool(c.duplicate) for c in self.candidates)

    @cached_property
    def broken_lines(self) -> int:
        """How many lines that can't be read could come along as they stand."""
        return sum(c.problem is not None and c.whole for c in self.candidates)


def preview_file(path: Path, name: str, existing: Sequence[Example | None] = ()) -> Preview:
    """What the file holds, which the person calls `name`; raises `DataError` where it can't be read at all.

    `existing` are the set's rows in their places (None for a line that can't be read), to find duplicates.
    """
    return _preview(open_file(path, name), shown_name(name), existing)


def preview_hub(name: str, split: str = "train", existing: Sequence[Example | None] = (), config: str | None = None) -> Preview:
    """What a data set of the hub (`owner/name`), a local folder or a local file holds; raises `DataError`."""
    from workbench.dataset.hub import open_named

    source, shown = open_named(name, split, config)
    return _preview(source, shown, existing)


def _preview(source: Source, name: str, existing: Sequence[Example | None]) -> Preview:
    seen: dict[Any, str] = {}
    for place, row in enumerate(existing, 1):
        if row is not None:
            seen.setdefault(_identity(row), f"same as row {place} of the set")
    candidates: list[Candidate] = []
    layouts: Counter[str] = Counter()
    problems = unlisted = 0
    for record in source.records:
        candidate = _candidate(record, source, layouts)
        if candidate.row is None:
            problems += 1
            if problems > MAX_PROBLEMS:
                unlisted += 1
                continue
        else:
            key = _identity(candidate.row)
            if key in seen:
                candidate = dataclasses.replace(candidate, duplicate=seen[key])
            else:
                seen[key] = f"same as line {candidate.line}"
        candidates.append(candidate)
    if not candidates:
        raise DataError(f"{name} holds no rows: nothing was read.")
    notes = list(source.notes)
    if unlisted:
        notes.append(f"{unlisted:,} more lines have problems; they are not listed and can't come along.")
    tools = _tools((c.row for c in candidates if c.row is not None), notes)
    return Preview(name, source.container, _layout(layouts), tuple(candidates), tools, tuple(notes), unlisted)


def _candidate(record: Record, source: Source, layouts: Counter[str]) -> Candidate:
    problem = record.problem
    if problem is None:
        try:
            value = record.value
            if source.typed:
                value = exact_value(value, source.notes)
            layout = detect(value)
            layouts[layout] += 1
            return Candidate(record.line, read_record(value, layout), record.raw, whole=record.whole)
        except RowError as exc:
            problem = exc
    return Candidate(record.line, None, record.raw, RowProblem(record.line, problem.field, problem.reason), whole=record.whole)


def _identity(row: Example) -> Any:
    """What makes two rows the same: the turns' words, and the answer to the letter."""
    before = tuple((m.role, exactly(message_text(m))) for m in row.messages[:-1])
    return before, message_text(row.answer)


def _layout(found: Counter[str]) -> str:
    return ", ".join(TITLES[key] for key, _ in found.most_common()) or "unknown"


def _tools(rows: Iterable[Example], notes: list[str]) -> tuple[ToolSpec, ...]:
    tools: dict[str, ToolSpec] = {}
    known: set[int] = set()  # rows often share one text or differ in nothing
    differing: list[str] = []
    for row in rows:
        given = row.extras.get("tools")
        if given is None or (isinstance(given, str) and hash(given) in known):
            continue
        if isinstance(given, str):
            known.add(hash(given))
        for tool in row_tools(row):
            if isinstance(tool, ToolSpec) and tools.setdefault(tool.name, tool) != tool and tool.name not in differing:
                differing.append(tool.name)
    if differing:
        notes.append(f"Described in more than one way, the first counts: {', '.join(differing[:8])}{' …' if len(differing) > 8 else ''}.")
    if len(tools) > MAX_TOOLS:
        notes.append(f"{len(tools):,} tools are described; the first {MAX_TOOLS} are offered.")
    return tuple(tools.values())[:MAX_TOOLS]


def alone(preview: Preview) -> Preview:
    """The preview as if the set were empty: for rows that come in the set's place, only repeats among themselves are duplicates."""
    seen: dict[Any, str] = {}
    candidates = []
    for candidate in preview.candidates:
        if candidate.row is not None:
            key = _identity(candidate.row)
            candidate = dataclasses.replace(candidate, duplicate=seen.get(key, ""))
            seen.setdefault(key, f"same as line {candidate.line}")
        candidates.append(candidate)
    return dataclasses.replace(preview, candidates=tuple(candidates))


def to_change(preview: Preview, chosen: Collection[int] | None, *, keep_broken: bool, replace: bool) -> Change:
    """The change that brings rows in: those at the places `chosen` (from 0), or all that are usable and no duplicates.

    keep_broken: every listed line that can't be read comes along as it stands, after the rows. replace: the set's own rows go.
    Raises `DataError` where a chosen one can't be used, or nothing would come in.
    """
    if chosen is None:
        chosen = [i for i, c in enumerate(preview.candidates) if c.row is not None and not c.duplicate]
    rows: list[Example] = []
    for place in sorted(set(chosen)):
        if not 0 <= place < len(preview.candidates):
            raise DataError(f"{preview.name} has no record {place + 1}: look at the file again.")
        candidate = preview.candidates[place]
        if candidate.row is not None:
            rows.append(candidate.row)
        elif not (keep_broken and candidate.whole):
            raise DataError(f"Line {candidate.line} of {preview.name} can't come in: {candidate.problem and candidate.problem.reason}. Take its tick away.")
    broken = tuple(c.raw for c in preview.candidates if c.row is None and c.whole) if keep_broken else ()
    if not rows and not broken:
        raise DataError(f"No row of {preview.name} is chosen: nothing came in.")
    what = f"{_count(len(rows), 'row')} came in from {preview.name}" if rows else f"{_count(len(broken), 'broken line')} came in from {preview.name}"
    if rows and broken:
        what += f", and {_count(len(broken), 'broken line')}"
    return Change(add=tuple(rows), add_raw=broken, replace_all=replace, what=what + (" in place of the rows before" if replace else ""))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
