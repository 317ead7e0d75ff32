"""What decoding is asked for and gives back: lanes, the bounds on their tokens, replies; and what is known of a lane on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from workbench.models.tokenizer import ChatTokenizer

OnText = Callable[[list[str]], None]
OnStep = Callable[[int, int], None]  # how many lanes are finished, and after how many steps of a token each


class Bound(Protocol):
    """What limits the tokens of one reply. It is made for that reply and follows it token by token."""

    def allowed(self, last: int | None, width: int) -> torch.Tensor | None:
        """The mask of the tokens that may follow `last` (bool, V = `width`), or None for all; `last` is None at the start."""

    def forbade(self, wanted: int) -> None:
        """Hears that the last mask forbids the token that was the likeliest."""


def bind(bound: Bound, last: int | None, logits_V: torch.Tensor) -> None:
    """Put -inf where `bound` forbids a token, in place, and let it hear where that was the likeliest one."""
    mask_V = bound.allowed(last, logits_V.shape[-1])
    if mask_V is None:
        return
    wanted = int(logits_V.argmax())
    if not mask_V[wanted]:
        bound.forbade(wanted)
    logits_V.masked_fill_(~mask_V.to(logits_V.device), -torch.inf)


@dataclass(frozen=True)
class Lane:
    """One reply to make: the prompt's ids, the number of the adapter that is on (0 for none), and what binds its tokens, if anything.

    Control tokens of `keep` stay in its text, and it also ends before a text of `stops`: what a dialect of calls needs.
    """

    prompt_ids: tuple[int, ...]
    adapter: int
    bound: Bound | None = None
    keep: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reply:
    """A finished reply. `ended` tells why it ended: "stop token", "length" or "stopped"."""

    text: str
    tokens: int
    seconds: float
    first_token_seconds: float
    ended: str


def nobody(texts: list[str]) -> None:
    """Nobody reads along."""


def uncounted(finished: int, steps: int) -> None:
    """Nobody counts along."""


@dataclass
class _State:
    keep: tuple[str, ...]
    stop_ids: frozenset[int]
    stop_texts: tuple[str, ...]
    ids: list[int] = field(default_factory=list)
    seconds: float = 0.0
    first: float = 0.0
    done: bool = False
    cut: str | None = None  # the whole text, where a stop text ended it


class Progress:
    """Each lane's tokens so far: takes a step's tokens, reports the texts, and asks for a stop as often.

    A reply also ends before one of its lane's `stops`, whether that is one token or several.
    """

    def __init__(
        self, lanes: Sequence[Lane], tokenizer: ChatTokenizer, on_text: OnText, stop: Callable[[], bool], begun: float | None = None,
        on_step: OnStep = uncounted,
    ) -> None:
        self.tokenizer, self.on_text, self.stop, self.on_step = tokenizer, on_text, stop, on_step
        self.states = [self._begun(lane) for lane in lanes]
        self.begun = time.perf_counter() if begun is None else begun
        self.steps = 0
        self.stopped = False

    def _begun(self, lane: Lane) -> _State:
        numbers = {text: self.tokenizer.backend.token_to_id(text) for text in lane.stops}
        ids = frozenset([*self.tokenizer.stop_ids, *(n for n in numbers.values() if n is not None)])
        return _State(lane.keep, ids, tuple(text for text, number in numbers.items() if number is None))

    def take(self, tokens: Sequence[int], lanes: Sequence[int]) -> None:
        """The next token of each of `lanes`; what comes after a lane's stop token is thrown away."""
        now = time.perf_counter() - self.begun
        for lane, token in zip(lanes, tokens, strict=True):
            state = self.states[lane]
            if state.done:
                continue
            state.first = state.first or now
            state.seconds = now
            if token in state.stop_ids:
                state.done = True
            else:
                state.ids.append(token)
                self._cut_at_stop(state)
        if self.on_text is not nobody:  # a text is decoded whole at every token
            self.on_text(self.texts())
        self.steps += 1
        self.on_step(sum(state.done for state in self.states), self.steps)

    def texts(self) -> list[str]:
        # A reply may end inside a character of several tokens: what is not whole yet is not shown.
        return [self._text(s).rstrip("\ufffd") for s in self.states]

    def _text(self, state: _State) -> str:
        return self.tokenizer.text(state.ids, keep_control=state.keep) if state.cut is None else state.cut

    def _cut_at_stop(self, state: _State) -> None:
        """End the reply where a stop text of several tokens has come to its end."""
        if not state.stop_texts:
            return
        tail = self.tokenizer.text(state.ids[-max(map(len, state.stop_texts)) :], keep_control=state.keep)  # no token is shorter than a character's byte
        if any(text in tail for text in state.stop_texts):
            whole = self._text(state)
            found = [place for text in state.stop_texts if (place := whole.find(text)) >= 0]
            if found:
                state.cut, state.done = whole[: min(found)], True

    def should_stop(self) -> bool:
        """Whether a stop was asked for; once seen, it stays."""
        self.stopped = self.stopped or self.stop()
        return self.stopped

    def replies(self) -> list[Reply]:
        return [
            Reply(self._text(s), len(s.ids), s.seconds, s.first, "stop token" if s.done else "stopped" if self.stopped else "length")
            for s in self.states
        ]
