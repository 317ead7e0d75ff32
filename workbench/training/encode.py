"""A row as token ids and labels: only the assistant's tokens are learned, and that is proven for every row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.calls.prompting import PLAIN, CallForm
from workbench.errors import RowError
from workbench.models.tokenizer import ChatTokenizer, Turn
from workbench.schema import Example, RowProblem

IGNORED = -100


@dataclass(frozen=True)
class Encoded:
    """`ids` and `labels` have the same length T; a label is `IGNORED` or the id at its own place (not shifted)."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def label_count(self) -> int:
        return sum(label != IGNORED for label in self.labels)


def turns_of(example: Example, form: CallForm = PLAIN) -> list[Turn]:
    """The row's turns as the chat template takes them, calls written into the content."""
    return form.turns(example)


def turns_before_answer(example: Example, form: CallForm = PLAIN) -> tuple[Turn, ...]:
    """The conversation up to the answer that the row teaches: what an evaluation asks."""
    return tuple(form.before_answer(example))


def encode(example: Example, tokenizer: ChatTokenizer, *, max_tokens: int, form: CallForm = PLAIN) -> Encoded:
    """Ids and labels of one row; raises `RowError` for a row that is empty, too long, or holds control tokens.

    Every assistant turn is supervised, from its first token to its end-of-turn token. The proof:
    the prompt's ids must be a prefix of the ids of prompt and answer together, at every answer.
    """
    placed = form.placed(example)
    turns = [turn for _, turn in placed]
    for i, turn in placed:
        if not turn["content"].strip():
            raise RowError("the text is empty", f"messages[{i}].content")
        tokenizer.refuse_control_tokens(turn["content"], f"messages[{i}].content", allowed=form.dialect.control)
    ids = tokenizer.ids(tokenizer.render(turns, answer_next=False))
    if len(ids) > max_tokens:
        raise RowError(f"the row has {len(ids)} tokens, {max_tokens} are allowed; shorten it or raise training.max_row_tokens")
    _check_bos(ids, tokenizer)
    labels = [IGNORED] * len(ids)
    for count, (i, turn) in enumerate(placed, 1):
        if turn["role"] == "assistant":
            start, end = _answer_span(turns[:count], ids, tokenizer, form, f"messages[{i}].content")
            labels[start:end] = ids[start:end]
    if all(label == IGNORED for label in labels):
        raise RowError("no assistant turn: there is nothing to learn")
    return Encoded(tuple(ids), tuple(labels))


def _check_bos(ids: Sequence[int], tokenizer: ChatTokenizer) -> None:
    bos = tokenizer.special_names.get("bos_token")
    number = tokenizer.backend.token_to_id(bos) if bos else None
    if number is not None and ids.count(number) > 1:
        raise RowError(f"the chat template writes {bos} more than once")


def _answer_span(turns: Sequence[Turn], ids: Sequence[int], tokenizer: ChatTokenizer, form: CallForm, field: str) -> tuple[int, int]:
    """Where the last of `turns` stands in `ids`: [start, end), the stop token included, what follows it not."""
    prompt = tokenizer.ids(tokenizer.render(turns[:-1], answer_next=True))
    whole = tokenizer.ids(tokenizer.render(turns, answer_next=False))
    if list(ids[: len(whole)]) != whole or whole[: len(prompt)] != prompt:
        raise RowError("the chat template rewrites the prompt once the answer stands (no prefix); this row can't be taught exactly", field)
    stops = [k for k in range(len(prompt), len(whole)) if whole[k] in tokenizer.stop_ids]
    end = stops[0] + 1 if stops else len(whole)
    said = whole[len(prompt) : stops[0] if stops else end]
    answer = tokenizer.text(said, keep_control=form.dialect.control).strip()
    if answer != turns[-1]["content"].strip():
        raise RowError(f"the chat template changes the answer: it would teach {answer[:60]!r}", field)
    return len(prompt), end


def encode_all(
    rows: Sequence[Example], tokenizer: ChatTokenizer, *, max_tokens: int, lines: Sequence[int] | None = None, form: CallForm = PLAIN
) -> tuple[list[Encoded | None], list[RowProblem]]:
    """Every row encoded, `None` where it can't be, with the problems named by line (or place, from 1)."""
    encoded: list[Encoded | None] = []
    problems: list[RowProblem] = []
    for i, row in enumerate(rows):
        try:
            encoded.append(encode(row, tokenizer, max_tokens=max_tokens, form=form))
        except RowError as exc:
            encoded.append(None)
            problems.append(RowProblem(lines[i] if lines else i + 1, exc.field, exc.reason))
    return encoded, problems
