"""What a set holds and what would go wrong with it: figures, findings with their rows, and mends where no judgement is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from workbench.calls.dialects import message_text
from workbench.dataset.changes import RowSet
from workbench.dataset.checked import SEVERITIES, Checked, Finding, Severity
from workbench.dataset.checks import KEPT_APART, Balance
from workbench.dataset.findings import find_all
from workbench.dataset.fixes import Fix
from workbench.dataset.formats import load_rows
from workbench.dataset.similar import near_groups
from workbench.dataset.split import learnable, split_examples
from workbench.errors import DataError
from workbench.schema import Example, ToolSpec

__all__ = ["SEVERITIES", "Finding", "Fix", "Health", "Severity", "check_health", "load_kept_apart"]

LEFT_OUT = "left out"


@dataclass(frozen=True, eq=False)
class Health:
    """The state of a set, told from another by identity alone. Rejected rows count in `statuses` alone: they are never learned.

    `per_tool` counts the rows that call a tool, `call_lengths` and `text_lengths` are the lengths of whole rows in
    `unit`. `split` says for every line "train", "validation", "left out" (rejected, or waiting for review), or "" for
    a line that can't be read. `findings` come worst first.
    """

    balance: Balance = Balance(0, 0)
    per_tool: Mapping[str, int] = field(default_factory=dict)
    statuses: Mapping[str, int] = field(default_factory=dict)
    reviewed: int = 0
    call_lengths: tuple[int, ...] = ()
    text_lengths: tuple[int, ...] = ()
    unit: str = "characters"
    split: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


def check_health(
    rows: RowSet, tools: Mapping[str, ToolSpec], others: Mapping[str, Sequence[Example]], *, share: float, seed: int,
    unreviewed: str = "handwritten", count_tokens: Callable[[list[str]], list[int]] | None = None, uncompared: Mapping[str, str] = MappingProxyType({}),
    refused: Callable[[Mapping[int, Example]], Mapping[int, str]] | None = None,
) -> Health:
    """The health of a set. `others` are the rows it must not hold, by the name of their file.

    `uncompared` says of files that can't be read, or not wholly, why not: a finding tells that leaks may be missing.

    `share`, `seed` and `unreviewed` are those of the training settings, so that the split is the one a run will make.
    `count_tokens` gives the lengths of texts in tokens; without it they are told in characters. `refused` says of rows,
    by their place, why the model can't be taught them; without it nobody is asked.
    """
    active = {p: e.row for p, e in enumerate(rows.entries) if e.row is not None and e.row.status != "rejected"}
    checked = Checked(rows.entries, active, tools, others, _split(rows, active, share, seed, unreviewed), uncompared, refused(active) if refused else {})
    lengths = _lengths(list(active.values()), count_tokens)
    is_call = [bool(calls) for calls in checked.calls.values()]
    return Health(
        balance=Balance(sum(is_call), len(is_call) - sum(is_call)),
        per_tool=_per_tool(checked),
        statuses=dict(Counter(row.status for row in rows.rows)),
        reviewed=sum(row.status != "draft" for row in rows.rows),
        call_lengths=tuple(n for n, call in zip(lengths, is_call, strict=True) if call),
        text_lengths=tuple(n for n, call in zip(lengths, is_call, strict=True) if not call),
        unit="tokens" if count_tokens else "characters",
        split=checked.split,
        findings=tuple(sorted(find_all(checked), key=lambda f: SEVERITIES.index(f.severity))),
    )


def load_kept_apart(folder: Path) -> tuple[dict[str, tuple[Example, ...]], dict[str, str]]:
    """The rows that no set may repeat (`KEPT_APART`) by their file in `folder`, and why a file can't be compared, or not wholly."""
    found: dict[str, tuple[Example, ...]] = {}
    reasons: dict[str, str] = {}
    for name in KEPT_APART:
        if not (folder / name).exists():
            continue  # these files are optional
        try:
            loaded = load_rows(folder / name)
        except DataError as exc:
            reasons[name] = str(exc)
            continue
        found[name] = loaded.rows
        if loaded.problems:
            lines = len({p.line for p in loaded.problems})
            reasons[name] = f"{'1 line' if lines == 1 else f'{lines:,} lines'} of {name} can't be read, the first: {loaded.problems[0]}."
    return found, reasons


def _split(rows: RowSet, active: Mapping[int, Example], share: float, seed: int, unreviewed: str) -> tuple[str, ...]:
    """The side of every line, as `Health.split` says it."""
    places = list(active)
    kept = [places[i] for i in learnable(list(active.values()), unreviewed)]
    learned, held = split_examples([active[p] for p in kept], share, seed, near_groups([active[p].request for p in kept]))
    sides = ["" if entry.row is None else LEFT_OUT for entry in rows.entries]
    for name, indices in (("train", learned), ("validation", held)):
        for i in indices:
            sides[kept[i]] = name
    return tuple(sides)


def _per_tool(checked: Checked) -> dict[str, int]:
    """Rows that call each tool, the most called first; a known tool that no row calls has 0."""
    counts = Counter(name for calls in checked.calls.values() for name in {call.name for call in calls})
    return dict(sorted({**dict.fromkeys(checked.tools, 0), **counts}.items(), key=lambda item: (-item[1], item[0])))


def _lengths(rows: Sequence[Example], count_tokens: Callable[[list[str]], list[int]] | None) -> list[int]:
    texts = ["\n".join(message_text(m) for m in row.messages) for row in rows]
    return count_tokens(texts) if count_tokens else [len(text) for text in texts]
