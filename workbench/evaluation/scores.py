"""What replies are worth: recall, over-calls, malformed calls, names, arguments, each as k of n."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from workbench.calls.dialects import TAG, Dialect, MalformedSegment, Verdict, calls_in, message_calls, verdict
from workbench.schema import Example, ToolCall


@dataclass(frozen=True)
class Case:
    """One prompt of an evaluation and the calls it should lead to; none means: must not call."""

    row: Example
    expected: tuple[ToolCall, ...]

    @property
    def prompt(self) -> str:
        return self.row.request


@dataclass(frozen=True)
class Scored:
    """A case with the reply it got and what that amounts to."""

    case: Case
    reply: str
    verdict: Verdict
    calls: tuple[ToolCall, ...]
    malformed: bool

    @property
    def named(self) -> bool:
        """Whether the well-formed calls are of the case's own tools, in its order (none where it expects none)."""
        return [c.name for c in self.calls] == [c.name for c in self.case.expected]

    @property
    def right(self) -> bool:
        """Called the case's own tools where a call is expected, and answered in words where none is; arguments don't weigh in.

        The one rule for right and wrong: misses, answers compared, a sweep's right decisions, and call accuracy while a run trains.
        """
        return self.verdict == ("tool call" if self.case.expected else "no tool call") and self.named


@dataclass(frozen=True)
class Rate:
    k: int
    n: int

    @property
    def rate(self) -> float | None:
        """k / n, rounded to three places; None where nothing was counted."""
        return round(self.k / self.n, 3) if self.n else None

    def as_json(self) -> dict[str, float | int | None]:
        return {"k": self.k, "n": self.n, "rate": self.rate}


@dataclass(frozen=True)
class Scores:
    """Aggregates over cases.

    call_recall: of the cases that expect a call, those whose reply holds a well-formed call.
    over_call_rate: of the cases that expect none, those whose reply holds a call, well-formed or malformed.
    malformed_rate: of all cases, those whose reply holds a malformed call.
    name_accuracy: of the expected calls that were answered by a call, those with the right tool names.
    argument_match: of those with the right names, those whose arguments are equal as JSON.
    """

    call_recall: Rate
    over_call_rate: Rate
    malformed_rate: Rate
    name_accuracy: Rate
    argument_match: Rate

    def as_json(self) -> dict[str, dict[str, float | int | None]]:
        return {name: rate.as_json() for name, rate in vars(self).items()}


def make_cases(rows: Iterable[Example]) -> list[Case]:
    """Rows as cases: a row whose last assistant turn is a call expects that call, whatever dialect it is answered in."""
    return [Case(row, message_calls(row.answer)) for row in rows]


def score_reply(case: Case, reply: str, dialect: Dialect = TAG) -> Scored:
    """Judge one reply by its segments alone; nothing is repaired or guessed."""
    segments = dialect.parse(reply)
    malformed = any(isinstance(s, MalformedSegment) for s in segments)
    return Scored(case, reply, verdict(segments), calls_in(segments), malformed)


def _as_json(call: ToolCall) -> str:
    """The arguments as JSON with sorted keys: Python would call true and 1 equal."""
    return json.dumps(dict(call.arguments), sort_keys=True)


def score(scored: Sequence[Scored]) -> Scores:
    """The aggregates of `scored`."""
    wanting = [s for s in scored if s.case.expected]
    others = [s for s in scored if not s.case.expected]
    answered = [s for s in wanting if s.calls]
    named = [s for s in answered if s.named]
    equal = [s for s in named if [_as_json(c) for c in s.calls] == [_as_json(c) for c in s.case.expected]]
    return Scores(
        call_recall=Rate(len(answered), len(wanting)),
        over_call_rate=Rate(sum(bool(s.calls) or s.malformed for s in others), len(others)),
        malformed_rate=Rate(sum(s.malformed for s in scored), len(scored)),
        name_accuracy=Rate(len(named), len(answered)),
        argument_match=Rate(len(equal), len(named)),
    )
