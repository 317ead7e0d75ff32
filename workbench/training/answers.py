"""What the model answers to its validation rows while it trains, so that one sees when it begins to call.

Greedy, short and batched; the random state and the model's mode are left as they were, so a run with
answers and a run without have the same losses.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from workbench.calls.dialect import Dialect
from workbench.calls.dialects import TAG, OpenSegment, TagDialect, message_text
from workbench.calls.prompting import PLAIN, CallForm
from workbench.evaluation.scores import Case, Scored, make_cases, score_reply
from workbench.models.decoding import Lane, generate
from workbench.models.loading import Base
from workbench.schema import Example
from workbench.settings import Sampling, Training
from workbench.training import events
from workbench.training.batching import alike, reply_tokens
from workbench.training.encode import turns_before_answer

ROWS = 24  # validation rows asked at most, calls and texts evenly
SHOWN = 3
NEW_TOKENS = 48  # of a reply at most; more where an expected call is longer
SETTLED = 24  # tokens after which replies end as soon as none of them is in the middle of a call
_OPEN, _CLOSE = "<tool_call", "/>"


@dataclass(frozen=True)
class _Question:
    case: Case
    prompt_ids: tuple[int, ...]
    expected: str


class Asker:
    """Asks the same validation rows each time it is called."""

    def __init__(self, base: Base, rows: Sequence[Example], training: Training, stop: Callable[[], bool], form: CallForm = PLAIN) -> None:
        cases = chosen(make_cases(rows))
        self.base, self.stop, self.form = base, stop, form
        self.questions = [
            _Question(c, tuple(base.tokenizer.prompt_ids(turns_before_answer(c.row, form), allowed=form.dialect.control)), message_text(c.row.answer))
            for c in cases
        ]
        self.sampling = Sampling(max_new_tokens=reply_tokens(base, cases, NEW_TOKENS, form))
        self.budget = training.tokens_per_forward

    def __call__(self, step: int, epoch: float) -> events.Sampled | None:
        """The event for the log; None if a stop came before all had answered."""
        begun = time.perf_counter()
        model, was_training = self.base.model, self.base.model.training
        ours = random.getstate()
        devices = [self.base.device] if self.base.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=devices):
                scored = self._scored()
        finally:
            random.setstate(ours)
            if model.training != was_training:  # only transformers' way of decoding changes it, and on a 4B going through all modules takes 50 ms
                model.train(was_training)
        if scored is None:
            return None
        return events.Sampled(
            step=step, epoch=epoch, right=sum(s.right for s in scored), asked=len(scored), seconds=time.perf_counter() - begun,
            answers=tuple(
                events.SampleAnswer(prompt=s.case.prompt, expected=q.expected, reply=s.reply, verdict=s.verdict, right=s.right)
                for q, s in list(zip(self.questions, scored, strict=True))[:SHOWN]
            ),
        )

    def _scored(self) -> list[Scored] | None:
        replies: dict[int, str] = {}
        dialect = self.form.dialect
        for group in self._groups():
            watch = _Watch(self.stop, dialect)
            lanes = [Lane(self.questions[i].prompt_ids, 1, keep=dialect.control, stops=dialect.stops) for i in group]
            made = generate(self.base, lanes, self.sampling, on_text=watch.take, stop=watch.enough)
            if watch.stopped:
                return None
            replies |= {i: reply.text for i, reply in zip(group, made, strict=True)}
        return [score_reply(q.case, replies[i], dialect) for i, q in enumerate(self.questions)]

    def _groups(self) -> list[list[int]]:
        """The questions in batches of no more tokens than a training step may hold."""
        return alike([len(q.prompt_ids) + self.sampling.max_new_tokens for q in self.questions], self.budget)


class _Watch:
    """Ends a batch of replies on request, or once more tokens would hardly change what they amount to."""

    def __init__(self, stop: Callable[[], bool], dialect: Dialect) -> None:
        self.stop, self.dialect = stop, dialect
        self.stopped = False
        self.tokens = 0
        self.texts: list[str] = []

    def take(self, texts: list[str]) -> None:
        self.tokens += 1
        self.texts = texts

    def enough(self) -> bool:
        self.stopped = self.stopped or self.stop()
        return self.stopped or (self.tokens >= SETTLED and not any(in_call(text, self.dialect) for text in self.texts))


def in_call(text: str, dialect: Dialect = TAG) -> bool:
    """Whether a reply stops in the middle of a call, or of what may become one."""
    if not isinstance(dialect, TagDialect):
        return _undecided(text, dialect)
    begun = text.rfind("<")
    if begun < 0:
        return False
    rest = text[begun:]
    return _OPEN.startswith(rest) or text.rfind(_CLOSE) < text.rfind(_OPEN)


def _undecided(text: str, dialect: Dialect) -> bool:
    stream = dialect.stream()
    stream.feed(text)
    last = next(iter(stream.segments()[-1:]), None)
    if not isinstance(last, OpenSegment):
        return False
    grammar = dialect.grammar
    return last.in_call or grammar.heads.search(text, max(0, len(text) - grammar.reach + 1)) is not None


def chosen(cases: Sequence[Case]) -> list[Case]:
    """At most `ROWS` cases, as many that expect a call as that expect none, by turns; the same ones every time."""
    calls = [c for c in cases if c.expected]
    texts = [c for c in cases if not c.expected]
    room = ROWS // 2
    from_calls = min(len(calls), max(room, ROWS - len(texts)))
    calls, texts = calls[:from_calls], texts[: ROWS - from_calls]
    mixed = [c for pair in zip(calls, texts, strict=False) for c in pair]
    both = len(mixed) // 2
    return [*mixed, *calls[both:], *texts[both:]]
