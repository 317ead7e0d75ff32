"""What tells two runs apart: their settings, and what each answers to each case."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from workbench.calls.dialects import DIALECTS, TAG, calls_in
from workbench.settings import GROUPS
from workbench.training.measured import Answer, Answers
from workbench.training.runs import RunInfo

Which = Literal["verdict", "reply", "all"]


@dataclass(frozen=True)
class Difference:
    """One thing that two runs were asked differently, by its title on the form."""

    title: str
    a: str
    b: str


def settings_difference(a: RunInfo, b: RunInfo) -> tuple[list[Difference], int]:
    """(what differs, how many settings are the same): model, rows, and every setting by its title."""
    pairs = [("Model", a.model_name, b.model_name), ("Rows", _rows(a), _rows(b)), ("Form of a call", a.dialect, b.dialect), ("Preset", a.preset_told or "–", b.preset_told or "–")]
    for group, cls in GROUPS.items():
        for name, field in cls.model_fields.items():
            unit = (field.json_schema_extra or {}).get("unit", "") if isinstance(field.json_schema_extra, dict) else ""
            one, other = (_shown(getattr(getattr(info.settings, group), name), str(unit)) for info in (a, b))
            pairs.append((field.title or f"{group}.{name}", one, other))
    pairs += [(f"Version of {library}", a.versions.get(library, "–"), b.versions.get(library, "–")) for library in sorted({*a.versions, *b.versions})]
    found = [Difference(*pair) for pair in pairs if pair[1] != pair[2]]
    return found, len(pairs) - len(found)


def _rows(info: RunInfo) -> str:
    return f"{info.data_rows} from {info.data_name} ({info.data_sha256[:8]})"


def _shown(value: Any, unit: str) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (tuple, list)):
        return ", ".join(str(v) for v in value)
    text = f"{value:g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    return f"{text} {unit}".strip()


@dataclass(frozen=True)
class Pair:
    """One case and what each of two runs answered."""

    a: Answer
    b: Answer

    @property
    def same_verdict(self) -> bool:
        """Whether both amount to the same: verdict, right or wrong, and the calls that were made."""
        return (self.a.verdict, self.a.right, _calls(self.a)) == (self.b.verdict, self.b.right, _calls(self.b))

    @property
    def same_reply(self) -> bool:
        return self.a.reply == self.b.reply


@dataclass(frozen=True)
class AnswersDifference:
    """The cases that both answered, and how many only one of them did; right answers are counted over the common cases."""

    pairs: tuple[Pair, ...]
    only_a: int
    only_b: int

    @property
    def right(self) -> tuple[int, int]:
        return sum(p.a.right for p in self.pairs), sum(p.b.right for p in self.pairs)

    def which(self, which: Which) -> list[Pair]:
        """The pairs whose verdicts differ, whose replies differ in any sign, or all."""
        if which == "all":
            return list(self.pairs)
        return [p for p in self.pairs if not (p.same_reply if which == "reply" else p.same_verdict)]


def answers_difference(a: Answers, b: Answers) -> AnswersDifference:
    """Both runs' answers side by side, in `a`'s order. Cases are one case where prompt and expected answer are equal."""
    others: dict[tuple[str, str], list[Answer]] = {}
    for answer in b.answers:
        others.setdefault((answer.prompt, answer.expected), []).append(answer)
    pairs = []
    for answer in a.answers:
        waiting = others.get((answer.prompt, answer.expected))
        if waiting:
            pairs.append(Pair(answer, waiting.pop(0)))
    return AnswersDifference(tuple(pairs), len(a.answers) - len(pairs), _count(others.values()))


def _count(lists: Iterable[list[Answer]]) -> int:
    return sum(len(found) for found in lists)


def _calls(answer: Answer) -> tuple[Any, ...]:
    return tuple((call.name, repr(dict(call.arguments))) for call in calls_in(DIALECTS.get(answer.dialect, TAG).parse(answer.reply)))
