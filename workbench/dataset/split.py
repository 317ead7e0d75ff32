"""Which rows are learned and which are held back: seeded, kinds and tools in proportion, near-duplicates on one side."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence

from workbench.calls.dialects import message_calls
from workbench.dataset.similar import near_groups
from workbench.errors import DataError
from workbench.schema import Example


def learnable(rows: Sequence[Example], unreviewed: str = "handwritten") -> list[int]:
    """Places of the rows that a run learns or holds back; rejected rows are never among them.

    `unreviewed` says which drafts are: "handwritten" those that a person wrote or brought along, "all" the generated
    ones too, "approved" none.
    """
    if unreviewed == "approved":
        return [i for i, row in enumerate(rows) if row.status == "approved"]
    return [i for i, row in enumerate(rows) if row.status != "rejected" and (unreviewed == "all" or not row.awaits_review)]


def left_out(rows: Sequence[Example], unreviewed: str) -> str:
    """What is said of the drafts that `learnable` leaves out; empty if there are none."""
    count = sum(row.status != "rejected" for row in rows) - len(learnable(rows, unreviewed))
    if not count:
        return ""
    one = count == 1
    if unreviewed == "approved":
        what = "draft is not approved" if one else "drafts are not approved"
    else:
        what = "generated draft waits for review" if one else "generated drafts wait for review"
    be, them = ("is", "it") if one else ("are", "them")
    return f"{count} {what} and {be} left out: approve {them} on the Data tab, or set Unreviewed rows to “all”."


def stratum(row: Example) -> str:
    """What a row is shared out by: the name of the first tool its answer calls; empty for an answer in words."""
    calls = message_calls(row.answer)
    return calls[0].name if calls else ""


def split_examples(
    rows: Sequence[Example], share: float, seed: int, groups: Sequence[Sequence[int]] | None = None
) -> tuple[list[int], list[int]]:
    """Places (training, validation) of all rows, each list in ascending order; the same for the same seed.

    The validation side gets round(share · n) rows, shared out among text answers and tools by largest remainder, and
    at least one row is left to learn. 70 rows at 0.1 give 63 and 7. A row's pin is always respected. The rows of a
    group (disjoint lists of places; near-duplicate prompts if not given) stand on one side, a pinned row's if there
    is one; where groups don't fit, fewer rows are held back.
    """
    if not rows:
        return [], []
    if groups is None:
        groups = near_groups([row.request for row in rows])
    strata = [stratum(row) for row in rows]
    held, fixed = _pinned(rows, groups)
    wanted = min(round(share * len(rows)), len(rows) - 1)
    held |= _drawn(strata, [[i for i in group if i not in fixed] for group in groups], held, fixed, wanted, random.Random(seed))
    return [i for i in range(len(rows)) if i not in held], sorted(held)


def folds(rows: Sequence[Example], k: int, seed: int, groups: Sequence[Sequence[int]] | None = None) -> list[tuple[list[int], list[int]]]:
    """Places (learned, held back) of `k` folds, ascending; together the folds hold back every row once, and rows pinned to training never.

    Text answers and tools are spread evenly, by the seed, and the rows of a group (near-duplicate prompts if not given) are
    held back together. A row pinned to validation is never learned: it is held back in one fold and left out of the others.
    Raises `DataError` for fewer than two folds, for more folds than there are groups to hold back, and where a fold would learn nothing.
    """
    if k < 2:
        raise DataError(f"{k} fold(s) can't be compared: take at least 2.")
    if groups is None:
        groups = near_groups([row.request for row in rows])
    never, fixed = _pinned(rows, groups)
    whole = {i: list(group) for group in groups for i in group}
    units = [[j for j in unit if j in never or j not in fixed] for i in range(len(rows)) if (unit := whole.get(i, [i]))[0] == i]
    units = [unit for unit in units if unit]
    if len(units) < k:
        kept = f", and {len(rows) - sum(map(len, units))} pinned to training" if any(row.pin == "train" for row in rows) else ""
        raise DataError(
            f"{k} folds want at least {k} rows that are not near-duplicates of one another; there are {len(units)} to hold back "
            f"(of {len(rows)} rows{kept}). Take fewer folds, or add rows."
        )
    held = _dealt(units, [stratum(row) for row in rows], k, random.Random(seed))
    made = [([i for i in range(len(rows)) if i not in never and i not in fold], sorted(fold)) for fold in held]
    if not all(learned for learned, _ in made):
        raise DataError("A fold would learn from no row: take pins off on the Data tab, or add rows.")
    return made


def _dealt(units: Sequence[Sequence[int]], strata: Sequence[str], k: int, generator: random.Random) -> list[set[int]]:
    """The units dealt out to `k` folds, none of them empty: each to the fold that has the fewest rows of its strata, then the fewest at all."""
    order = list(units)
    generator.shuffle(order)
    order.sort(key=lambda unit: (-len(unit), strata[unit[0]]))  # large ones first: they are the hardest to place
    held: list[set[int]] = [set() for _ in range(k)]
    counts = [Counter[str]() for _ in range(k)]
    for place, unit in enumerate(order):
        own = _count(strata[i] for i in unit)
        empty = [f for f in range(k) if not held[f]]
        # No fold may stay empty, however the strata lie: the last units go where nothing is yet.
        open_to = empty if len(order) - place <= len(empty) else range(k)
        best = min(open_to, key=lambda f: (sum(counts[f][name] * n for name, n in own.items()), len(held[f]), f))
        held[best].update(unit)
        counts[best].update(own)
    return held


def _pinned(rows: Sequence[Example], groups: Sequence[Sequence[int]]) -> tuple[set[int], set[int]]:
    """(held back, fixed): the rows that a pin puts on the validation side, and all rows that a pin puts on either."""
    side = {i: row.pin for i, row in enumerate(rows) if row.pin}
    for group in groups if side else ():
        pins = {side[i] for i in group if i in side}
        for i in group if pins else ():
            # Where a group's pins disagree, the rest is learned: the fewer like rows are held back, the less is fooled.
            side.setdefault(i, "train" if "train" in pins else "validation")
    if len(side) == len(rows) and "train" not in side.values():
        side = {i: row.pin for i, row in enumerate(rows) if row.pin} | {i: "train" for i, row in enumerate(rows) if not row.pin}
    return {i for i, pin in side.items() if pin == "validation"}, set(side)


def _drawn(strata: Sequence[str], groups: Sequence[Sequence[int]], held: set[int], fixed: set[int], wanted: int, generator: random.Random) -> set[int]:
    """The rows drawn to the validation side, besides those that a pin has put there."""
    units = {group[0]: list(group) for group in groups if group}  # by their first row
    inside = {i for group in units.values() for i in group[1:]}
    free = [i for i in range(len(strata)) if i not in fixed]
    need = _quotas(strata, held, free, wanted)
    by_stratum: dict[str, list[int]] = {}
    for i in free:
        if i not in inside:
            by_stratum.setdefault(strata[i], []).append(i)
    drawn: set[int] = set()
    passed: list[list[int]] = []
    for name in sorted(by_stratum):
        firsts = by_stratum[name]
        single = not any(i in units for i in firsts) and need[name] <= len(firsts)
        for i in generator.sample(firsts, need[name] if single else len(firsts)):
            unit = units.get(i, [i])
            if all(need[s] >= n for s, n in _count(strata[k] for k in unit).items()):
                drawn.update(unit)
                for k in unit:
                    need[strata[k]] -= 1
            else:
                passed.append(unit)
    short = max(0, wanted - len(held)) - len(drawn)
    singles = [[i] for i in free if i not in inside and i not in units and i not in drawn] if short else []
    return drawn | _filled([*passed, *generator.sample(singles, len(singles))], short)


def _filled(units: Sequence[Sequence[int]], short: int) -> set[int]:
    """Units, whatever their stratum, that make up for `short` rows as far as they fit."""
    taken: set[int] = set()
    for unit in units:
        if len(unit) <= short - len(taken) and taken.isdisjoint(unit):
            taken.update(unit)
    return taken


def _quotas(strata: Sequence[str], held: set[int], free: Sequence[int], wanted: int) -> dict[str, int]:
    """How many more free rows of every stratum to hold back."""
    size = _count(strata)
    fair = {name: wanted * n / len(strata) for name, n in size.items()}
    count = {name: int(q) for name, q in fair.items()}
    for name in sorted(fair, key=lambda k: (count[k] - fair[k], k))[: wanted - sum(count.values())]:
        count[name] += 1
    room, done = _count(strata[i] for i in free), _count(strata[i] for i in held)
    need = {name: min(max(0, n - done.get(name, 0)), room.get(name, 0)) for name, n in count.items()}
    # Pins may take more, or leave less, than a stratum's share: the others make up for it.
    left = min(max(0, wanted - len(held)), len(free))
    while sum(need.values()) > left:
        need[max(need, key=lambda k: (need[k], k))] -= 1
    while sum(need.values()) < left:
        need[max(need, key=lambda k: (room.get(k, 0) - need[k], k))] += 1
    return need


def _count(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names))
