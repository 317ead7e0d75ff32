"""What one row teaches: its conversation as the model's tokens, the learned ones told from the masked ones. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.calls.prompting import PLAIN, CallForm
from workbench.models.tokenizer import ChatTokenizer
from workbench.schema import Example
from workbench.training.encode import IGNORED, encode, turns_of


@dataclass(frozen=True)
class Token:
    """A token's text as it stands in the rendered conversation, and whether the loss counts it."""

    text: str
    id: int
    learned: bool


@dataclass(frozen=True)
class Lesson:
    """`target` is the text of the learned tokens, end-of-turn token included."""

    tokens: tuple[Token, ...]
    target: str

    @property
    def learned(self) -> int:
        return sum(token.learned for token in self.tokens)


def teach(row: Example, tokenizer: ChatTokenizer, *, max_tokens: int, form: CallForm = PLAIN) -> Lesson:
    """The row exactly as training would see it; raises `RowError` where it could not be learned."""
    encoded = encode(row, tokenizer, max_tokens=max_tokens, form=form)
    text = tokenizer.render(turns_of(row, form), answer_next=False)
    coded = tokenizer.backend.encode(text, add_special_tokens=False)
    pieces = _pieces(text, coded.offsets, coded.tokens)
    tokens = tuple(
        Token(piece, number, label != IGNORED)
        for piece, number, label in zip(pieces, encoded.ids, encoded.labels, strict=True)
    )
    target = tokenizer.text([t.id for t in tokens if t.learned], keep_control=True)
    return Lesson(tokens, target)


def _pieces(text: str, offsets: list[tuple[int, int]], names: list[str]) -> list[str]:
    """Each token's own stretch of `text`. A character cut into several tokens is shown once, then by the tokens' names."""
    pieces, at = [], 0
    for (start, end), name in zip(offsets, names, strict=True):
        begin = max(start, at)
        pieces.append(text[begin:end] if end > begin else name)
        at = max(at, end)
    return pieces
