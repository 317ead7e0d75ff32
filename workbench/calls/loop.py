"""The loop behind a call: the model's reply is parsed and held against its tools, its calls are run, and the model answers with what came back.

Nothing here knows a model or a screen: `answer` turns a conversation into a reply, `tell` hears every step as it happens. Whatever
can't go on ends with a fall-back answer and says why a person is needed; nothing is repaired or guessed.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from workbench.calls.arguments import call_problems
from workbench.calls.mocks import MockError
from workbench.calls.prompting import CallForm, Turn
from workbench.calls.segments import DialectError, MalformedSegment, Verdict, calls_in, verdict
from workbench.schema import ToolCall, ToolSpec

FALL_BACK = "I can't answer this reliably. A person will look at it."
CACHED = 256  # answers that a cache keeps

Answer = Callable[[list[Turn]], str]
Run = Callable[[ToolSpec, ToolCall], str]
Ended = Literal["answered", "needs a human", "stopped"]


@dataclass(frozen=True)
class LoopLimits:
    """Replies with calls in a row at most, and calls in one reply."""

    chain: int = 4
    calls_at_once: int = 8


@dataclass(frozen=True)
class Said:
    """The model's reply, and what it amounts to."""

    text: str
    verdict: Verdict
    seconds: float


@dataclass(frozen=True)
class Ran:
    """A call that was run: the text that came back, and whether it was known from an equal call."""

    call: ToolCall
    result: str
    cached: bool
    seconds: float


@dataclass(frozen=True)
class Refused:
    """A call that was not run, and every reason: no such tool, wrong arguments, or nobody confirmed it."""

    call: ToolCall
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Failed:
    """A call whose tool gave no answer that can be used."""

    call: ToolCall
    reason: str
    seconds: float


@dataclass(frozen=True)
class FellBack:
    """The loop gave up: why, and what is said instead."""

    reason: str
    text: str


Step = Said | Ran | Refused | Failed | FellBack


@dataclass(frozen=True)
class Trace:
    """All steps in order, the answer that is shown, and how it ended. `turns` is the conversation as the model saw it, its last reply not yet in it."""

    steps: tuple[Step, ...]
    answer: str
    ended: Ended
    reason: str = ""
    turns: tuple[Turn, ...] = ()

    @property
    def needs_human(self) -> bool:
        return self.ended == "needs a human"

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls that were run, those known already included."""
        return tuple(step.call for step in self.steps if isinstance(step, Ran))


@dataclass
class ResultCache:
    """Answers to equal calls: the same tool, described in the same way, with arguments equal as JSON. Keeps the newest; not for several threads."""

    size: int = CACHED
    _known: OrderedDict[str, str] = field(default_factory=OrderedDict)

    def get(self, tool: ToolSpec, call: ToolCall) -> str | None:
        key = self._key(tool, call)
        if key in self._known:
            self._known.move_to_end(key)
        return self._known.get(key)

    def put(self, tool: ToolSpec, call: ToolCall, result: str) -> None:
        self._known[self._key(tool, call)] = result
        while len(self._known) > self.size:
            self._known.popitem(last=False)

    def _key(self, tool: ToolSpec, call: ToolCall) -> str:
        return json.dumps([tool.name, tool.mock, dict(tool.parameters), dict(call.arguments)], sort_keys=True)


class _EndError(Exception):
    """The loop is over before the model has answered."""

    def __init__(self, ended: Ended, reason: str) -> None:
        super().__init__(reason)
        self.ended, self.reason = ended, reason


@dataclass
class ToolLoop:
    """What a loop works with. `run` runs a call on its tool's mock and raises `MockError`; `confirm` is asked before each execution.

    `doubt` may say of a reply why it is not to be trusted, "" where it may be; `stop` is asked between two steps.
    """

    form: CallForm
    tools: Mapping[str, ToolSpec]
    answer: Answer
    run: Run
    limits: LoopLimits = LoopLimits()
    cache: ResultCache = field(default_factory=ResultCache)
    confirm: Callable[[ToolCall], bool] = lambda call: True
    doubt: Callable[[str, Sequence[ToolCall]], str] = lambda text, calls: ""
    tell: Callable[[Step], None] = lambda step: None
    stop: Callable[[], bool] = lambda: False
    fall_back: str = FALL_BACK

    def __call__(self, turns: Sequence[Turn]) -> Trace:
        """Answer a conversation that waits for the model. Whatever `answer`, `confirm` or `tell` raises passes through."""
        steps: list[Step] = []
        going = list(turns)
        try:
            text = self._to_the_answer(going, steps)
        except _EndError as end:
            shown = self.fall_back if end.ended == "needs a human" else ""
            if end.ended == "needs a human":
                self._note(steps, FellBack(end.reason, shown))
            return Trace(tuple(steps), shown, end.ended, end.reason, tuple(going))
        return Trace(tuple(steps), text, "answered", turns=tuple(going))

    def _note(self, steps: list[Step], step: Step) -> None:
        steps.append(step)
        self.tell(step)

    def _to_the_answer(self, going: list[Turn], steps: list[Step]) -> str:
        for count in range(self.limits.chain + 1):
            self._heed()
            begun = time.perf_counter()
            text = self.answer(list(going))
            segments = self.form.dialect.parse(text)
            said = Said(text, verdict(segments), time.perf_counter() - begun)
            self._note(steps, said)
            self._heed()
            broken = next((s for s in segments if isinstance(s, MalformedSegment)), None)
            if broken is not None:
                raise _EndError("needs a human", f"The model wrote a malformed call: {broken.reason}.")
            calls = calls_in(segments)
            if doubt := self.doubt(text, calls):
                raise _EndError("needs a human", doubt)
            if not calls:
                if not text.strip():
                    raise _EndError("needs a human", "The model answered nothing.")
                return text
            if count == self.limits.chain:
                raise _EndError("needs a human", f"The model still called a tool after {count} replies with calls: the chain ends there.")
            self._take_up(going, text, self._results(calls, steps))
        raise AssertionError("the last reply ends the loop")

    def _take_up(self, going: list[Turn], text: str, results: list[tuple[ToolCall, str]]) -> None:
        try:
            found = self.form.result_turns(results)
        except DialectError as exc:
            raise _EndError("needs a human", f"The tool's answer can't be given back to the model: {exc.reason}.") from exc
        going += [{"role": "assistant", "content": text}, *found]

    def _results(self, calls: Sequence[ToolCall], steps: list[Step]) -> list[tuple[ToolCall, str]]:
        """What every call of a reply gives; none is run where one of them can't be."""
        if len(calls) > self.limits.calls_at_once:
            raise _EndError("needs a human", f"The model made {len(calls):,} calls at once; {self.limits.calls_at_once} are allowed.")
        wrong = [(call, problems) for call in calls if (problems := call_problems(call, self.tools))]
        for call, problems in wrong:
            self._note(steps, Refused(call, tuple(problems)))
        if wrong:
            call, problems = wrong[0]
            raise _EndError("needs a human", f"The call of {call.name} is not valid: {problems[0]}.")
        return [(call, self._result(call, steps)) for call in calls]

    def _result(self, call: ToolCall, steps: list[Step]) -> str:
        self._heed()
        tool, begun = self.tools[call.name], time.perf_counter()
        known = self.cache.get(tool, call)
        if known is not None:
            self._note(steps, Ran(call, known, True, 0.0))
            return known
        if not self.confirm(call):
            self._note(steps, Refused(call, ("it was not confirmed",)))
            raise _EndError("needs a human", f"The call of {call.name} was not confirmed.")
        try:
            result = self.run(tool, call)
        except MockError as exc:
            self._note(steps, Failed(call, str(exc), time.perf_counter() - begun))
            self._heed()
            raise _EndError("needs a human", str(exc)) from exc
        self.cache.put(tool, call, result)
        self._note(steps, Ran(call, result, False, time.perf_counter() - begun))
        return result

    def _heed(self) -> None:
        if self.stop():
            raise _EndError("stopped", "It was stopped on request.")
