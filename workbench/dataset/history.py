"""What differs between two states of a set, and one change made to fit a set that another changed meanwhile."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from workbench.calls.dialects import message_text
from workbench.dataset.changes import Change, Entry, RowSet, check_place, line_of
from workbench.errors import DataError, sentence_case
from workbench.schema import Example

LIKE = 45.0  # rapidfuzz ratio (0 to 100) from which two rows in one place count as one row that was changed
COMPARED = 2500  # pairs of rows in one gap that are compared; in a larger gap rows are paired in their order
NAMED = 4  # runs of rows that a sentence names before it counts the rest
COMPARED_TEXT = 2000  # characters of a row that are looked at for likeness

Prefer = Literal["both", "ours", "theirs"]


@dataclass(frozen=True)
class Pair:
    """One row in two states: its places (from 0) and its lines."""

    before_place: int
    after_place: int
    before: Entry
    after: Entry


@dataclass(frozen=True)
class Diff:
    """What became of a set: lines that came, lines that went (with their places, from 0, then and now), rows that changed."""

    added: tuple[tuple[int, Entry], ...] = ()
    removed: tuple[tuple[int, Entry], ...] = ()
    changed: tuple[Pair, ...] = ()
    moved: bool = False  # rows that stayed stand in another order

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.moved)

    def sentence(self) -> str:
        """As in "row 3 was changed, rows 71 and 72 were added"; deleted rows are named by the place they had."""
        parts = [
            _told([p.after_place for p in self.changed], "changed"),
            _told([place for place, _ in self.added], "added"),
            _told([place for place, _ in self.removed], "deleted"),
            "the order of the rows was changed" if self.moved else "",
        ]
        return ", ".join(filter(None, parts)) or "no row differs"


@dataclass(frozen=True)
class Conflict:
    """A row that both sides touched: its place as we saw it (from 0) and as it is now, its line then, theirs now, and ours.

    `place`, `theirs` are None where they deleted it; `ours` is None where we did.
    """

    seen_place: int
    place: int | None
    seen: Entry
    theirs: Entry | None
    ours: Example | None


@dataclass(frozen=True)
class Merge:
    """A change that fits the set at `version`, the rows that both sides touched, and the whole in words."""

    change: Change
    version: str
    conflicts: tuple[Conflict, ...] = ()
    sentence: str = ""


def match(before: Sequence[Entry], after: Sequence[Entry], *, loose: bool = False) -> dict[int, int]:
    """Places in `before` → places in `after` of the same rows: by their lines, their requests, their place and likeness.

    `loose` also takes a single row for the one that stands in its place now, however unlike.
    """
    pairs = _same_ends(before, after)
    pairs |= _paired(before, after, pairs, lambda e: e.raw)
    pairs |= _paired(before, after, pairs, lambda e: e.row.request if e.row is not None else None)
    for left, right in _gaps(len(before), len(after), pairs):
        pairs |= dict(zip(left, right, strict=True)) if loose and len(left) == len(right) == 1 else _likest(before, after, left, right)
    return pairs


def diff(before: Sequence[Entry], after: Sequence[Entry]) -> Diff:
    """What became of `before`. Takes about a tenth of a second for 10,000 rows."""
    pairs = match(before, after, loose=True)
    reached = set(pairs.values())
    order = [pairs[i] for i in sorted(pairs)]
    return Diff(
        tuple((i, e) for i, e in enumerate(after) if i not in reached),
        tuple((i, e) for i, e in enumerate(before) if i not in pairs),
        tuple(Pair(i, k, before[i], after[k]) for i, k in sorted(pairs.items(), key=lambda p: p[1]) if before[i].raw != after[k].raw),
        any(a > b for a, b in zip(order, order[1:], strict=False)),
    )


def _same_ends(before: Sequence[Entry], after: Sequence[Entry]) -> dict[int, int]:
    """The lines that are the same from the beginning on, and from the end back: most of them, mostly."""
    shorter, head = min(len(before), len(after)), 0
    while head < shorter and before[head].raw == after[head].raw:
        head += 1
    tail = 0
    while tail < shorter - head and before[-1 - tail].raw == after[-1 - tail].raw:
        tail += 1
    pairs = {i: i for i in range(head)}
    return pairs | {len(before) - 1 - i: len(after) - 1 - i for i in range(tail)}


def _paired(before: Sequence[Entry], after: Sequence[Entry], pairs: Mapping[int, int], key: Callable[[Entry], Hashable]) -> dict[int, int]:
    """The lines not yet in `pairs` that have the same `key`, each with the next one of its key; None is no key."""
    reached = set(pairs.values())
    waiting: dict[Hashable, deque[int]] = defaultdict(deque)
    for k, entry in enumerate(after):
        if k not in reached:
            waiting[key(entry)].append(k)
    waiting.pop(None, None)
    found: dict[int, int] = {}
    for i, entry in enumerate(before):
        if i not in pairs and (queue := waiting.get(key(entry))):
            found[i] = queue.popleft()
    return found


def _gaps(before: int, after: int, pairs: Mapping[int, int]) -> Iterator[tuple[list[int], list[int]]]:
    """The unpaired places of both sides that follow upon the same paired row."""
    left: dict[int, list[int]] = defaultdict(list)
    right: dict[int, list[int]] = defaultdict(list)
    anchor = -1
    for i in range(before):
        anchor = pairs.get(i, anchor)
        if i not in pairs:
            left[anchor].append(i)
    reached, anchor = set(pairs.values()), -1
    for k in range(after):
        if k in reached:
            anchor = k
        else:
            right[anchor].append(k)
    yield from ((places, right[anchor]) for anchor, places in left.items() if anchor in right)


def _likest(before: Sequence[Entry], after: Sequence[Entry], left: list[int], right: list[int]) -> dict[int, int]:
    from rapidfuzz import fuzz, process

    old, new = [_text(before[i]) for i in left], [_text(after[k]) for k in right]
    if len(left) == len(right) == 1 and (before[left[0]].row is None or after[right[0]].row is None):
        return {left[0]: right[0]}  # a broken line that was mended, or a row that was broken
    if len(left) * len(right) > COMPARED:
        together = zip(left, right, old, new, strict=False)
        return {i: k for i, k, a, b in together if fuzz.ratio(a, b) >= LIKE}
    scores = process.cdist(old, new, scorer=fuzz.ratio)
    found: dict[int, int] = {}
    taken: set[int] = set()
    best = sorted((-float(scores[a, b]), abs(a - b), a, b) for a in range(len(old)) for b in range(len(new)) if scores[a, b] >= LIKE)
    for _, _, a, b in best:
        if left[a] not in found and right[b] not in taken:
            found[left[a]] = right[b]
            taken.add(right[b])
    return found


def _text(entry: Entry) -> str:
    """What two rows are compared by: their words, without the JSON around them."""
    text = entry.raw if entry.row is None else f"{entry.row.request}\n{message_text(entry.row.answer)}"
    return text[:COMPARED_TEXT]


# -- merging --------------------------------------------------------------------------------------


@dataclass
class _Merging:
    """A merge in the making: the new change's parts and what could not be made as asked."""

    put: dict[int, Example] = field(default_factory=dict)
    drop: set[int] = field(default_factory=set)
    add: list[Example] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)


def merge_changes(change: Change, seen: Sequence[Entry] | None, now: RowSet, prefer: str = "both") -> Merge:
    """`change`, made against the lines `seen`, as a change of the set as it stands `now`.

    `seen` may be None for a change that only adds rows. A row that the others left alone is changed or deleted where
    it stands now. A row that they changed or deleted too is a conflict: with `prefer` "both" theirs stays and ours is
    appended as a draft with a note. Raises `RowError` for a place that `seen` does not have.
    """
    if prefer not in get_args(Prefer):
        raise DataError(f"{prefer!r} is no way to merge: take one of {', '.join(get_args(Prefer))}.")
    if seen is None:
        return Merge(change, now.version, (), "The new rows were added to the set as it stands now.")
    pairs = match(seen, now.entries)
    if change.replace_all:
        return _merge_whole(change, seen, now, pairs, prefer)
    made = _Merging()
    for place in sorted({*change.put, *change.drop}):
        check_place(place, seen)
        if place in change.put:
            _put(made, place, change.put[place], seen, now.entries, pairs, prefer)
        else:
            _drop(made, place, seen, now.entries, pairs, prefer)
    merged = Change(made.put, frozenset(made.drop), (*made.add, *change.add), change.add_raw, what=_merged(change.what))
    return Merge(merged, now.version, tuple(made.conflicts), _say(seen, now.entries, made.conflicts, prefer))


def _put(made: _Merging, place: int, ours: Example, seen: Sequence[Entry], now: Sequence[Entry], pairs: Mapping[int, int], prefer: str) -> None:
    was, there = seen[place], pairs.get(place)
    if was.row is not None and line_of(was.row) == line_of(ours):
        return  # we left it as it was
    if there is not None and now[there].raw == was.raw:
        made.put[there] = ours
        return
    theirs = None if there is None else now[there]
    if theirs is not None and theirs.row is not None and line_of(theirs.row) == line_of(ours):
        return  # both made the same of it
    made.conflicts.append(Conflict(place, there, was, theirs, ours))
    if prefer == "both":
        made.add.append(_as_draft(ours, place, deleted=theirs is None))
    elif prefer == "ours" and there is not None:
        made.put[there] = ours
    elif prefer == "ours":
        made.add.append(ours)


def _drop(made: _Merging, place: int, seen: Sequence[Entry], now: Sequence[Entry], pairs: Mapping[int, int], prefer: str) -> None:
    there = pairs.get(place)
    if there is None:
        return  # both deleted it
    if now[there].raw != seen[place].raw:
        made.conflicts.append(Conflict(place, there, seen[place], now[there], None))
        if prefer != "ours":
            return
    made.drop.add(there)


def _merge_whole(change: Change, seen: Sequence[Entry], now: RowSet, pairs: Mapping[int, int], prefer: str) -> Merge:
    """Everything we saw goes; what the others added or changed meanwhile was not seen, and stays unless ours is preferred."""
    conflicts = tuple(Conflict(i, k, seen[i], now.entries[k], None) for i, k in sorted(pairs.items()) if seen[i].raw != now.entries[k].raw)
    if prefer == "ours":
        merged = replace(change, what=_merged(change.what))
    else:
        known = frozenset(k for i, k in pairs.items() if seen[i].raw == now.entries[k].raw)
        merged = Change(drop=known, add=change.add, add_raw=change.add_raw, what=_merged(change.what))
    return Merge(merged, now.version, conflicts, _say(seen, now.entries, conflicts, prefer))


def _as_draft(row: Example, place: int, *, deleted: bool) -> Example:
    what = "deleted" if deleted else "changed"
    note = f"Another version of row {place + 1}, which was {what} elsewhere at the same time."
    return replace(row, status="draft", note=f"{row.note}\n{note}" if row.note else note)


def _merged(what: str) -> str:
    return f"{what}, merged with a change made elsewhere" if what else "two changes were merged"


def _say(seen: Sequence[Entry], now: Sequence[Entry], conflicts: Sequence[Conflict], prefer: str) -> str:
    """What is to be told of a merge, for a person who may still choose."""
    parts = [f"Made elsewhere meanwhile: {diff(seen, now).sentence()}"]
    put = [c.seen_place for c in conflicts if c.ours is not None]
    gone = [c.seen_place for c in conflicts if c.ours is None]
    both = {"both": "their version stays, yours is added at the end as a draft with a note", "ours": "yours stands", "theirs": "theirs stands"}
    kept = "the deletion stands" if prefer == "ours" else "what stands there now is kept"
    if put:
        parts.append(f"{_rows(put)} you changed too: {both[prefer]}")
    if gone:
        parts.append(f"{_rows(gone)} you deleted, and elsewhere changed: {kept}")
    return " ".join(f"{sentence_case(part)}." for part in parts)


def _told(places: Iterable[int], verb: str) -> str:
    found = list(places)
    return f"{_rows(found)} {'was' if len(found) == 1 else 'were'} {verb}" if found else ""


def _rows(places: Sequence[int]) -> str:
    """Places from 0 as in "row 3", "rows 71 and 72", "rows 1 to 9 and 12"; many runs are counted."""
    runs: list[list[int]] = []
    for place in sorted(places):
        if runs and place == runs[-1][1] + 1:
            runs[-1][1] = place
        else:
            runs.append([place, place])
    if len(runs) > NAMED:
        rest = sum(b - a + 1 for a, b in runs[NAMED:])
        named = [f"{_run(a, b)}" for a, b in runs[:NAMED]]
        return f"rows {', '.join(named)} and {rest} more"
    named = [part for a, b in runs for part in ([str(a + 1), str(b + 1)] if b == a + 1 else [_run(a, b)])]
    words = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
    return f"{'row' if len(places) == 1 else 'rows'} {words}"


def _run(first: int, last: int) -> str:
    return str(first + 1) if first == last else f"{first + 1} to {last + 1}"
