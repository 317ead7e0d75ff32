"""A row as token ids and labels: only the assistant's tokens are learned, and that is proven for every row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.calls.dialects import TAG, TagDialect, message_text
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


def turns_of(example: Example, dialect: TagDialect = TAG) -> list[Turn]:
    """The row's turns as the chat template takes them, calls written into the content."""
    return [{"role": m.role, "content": message_text(m, dialect)} for m in example.messages]


def turns_before_answer(example: Example) -> tuple[Turn, ...]:
    """The conversation up to the answer that the row teaches: what an evaluation asks."""
    return tuple(turns_of(example)[:-1])


def encode(example: Example, tokenizer: ChatTokenizer, *, max_tokens: int, dialect: TagDialect = TAG) -> Encoded:
    """Ids and labels of one row; raises `RowError` for a row that is empty, too long, or holds control tokens.

    Every assistant turn is supervised, from its first token to its end-of-turn token. The proof:
    the prompt's ids must be a prefix of the ids of prompt and answer together, at every answer.
    """
    turns = turns_of(example, dialect)
    for i, turn in enumerate(turns):
        if not turn["content"].strip():
            raise RowError("the text is empty", f"messages[{i}].content")
        tokenizer.refuse_control_tokens(turn["content"], f"messages[{i}].content")
    ids = tokenizer.ids(tokenizer.render(turns, answer_next=False))
    if len(ids) > max_tokens:
        raise RowError(f"the row has {len(ids)} tokens, {max_tokens} are allowed; shorten it or raise training.max_row_tokens")
    _check_bos(ids, tokenizer)
    labels = [IGNORED] * len(ids)
    for i, turn in enumerate(turns):
        if turn["role"] == "assistant":
            start, end = _answer_span(turns[: i + 1], ids, tokenizer, f"messages[{i}].content")
            labels[start:end] = ids[start:end]
    if all(label == IGNORED for label in labels):
        raise RowError("no assistant turn: there is nothing to learn")
    return Encoded(tuple(ids), tuple(labels))


def _check_bos(ids: Sequence[int], tokenizer: ChatTokenizer) -> None:
    bos = tokenizer.special_names.get("bos_token")
    number = tokenizer.backend.token_to_id(bos) if bos else None
    if number is not None and ids.count(number) > 1:
        raise RowError(f"the chat template writes {bos} more than once")


def _answer_span(turns: Sequence[Turn], ids: Sequence[int], tokenizer: ChatTokenizer, field: str) -> tuple[int, int]:
    """Where the last of `turns` stands in `ids`: [start, end), the stop token included, what follows it not."""
    prompt = tokenizer.ids(tokenizer.render(turns[:-1], answer_next=True))
    whole = tokenizer.ids(tokenizer.render(turns, answer_next=False))
    if list(ids[: len(whole)]) != whole or whole[: len(prompt)] != prompt:
        raise RowError("the chat template rewrites the prompt once the answer stands (no prefix); this row can't be taught exactly", field)
    stops = [k for k in range(len(prompt), len(whole)) if whole[k] in tokenizer.stop_ids]
    end = stops[0] + 1 if stops else len(whole)
    answer = tokenizer.text(whole[len(prompt) : end]).strip()
    if answer != turns[-1]["content"].strip():
        raise RowError(f"the chat template changes the answer: it would teach {answer[:60]!r}", field)
    return len(prompt), end


def encode_all(
    rows: Sequence[Example], tokenizer: ChatTokenizer, *, max_tokens: int, lines: Sequence[int] | None = None
) -> tuple[list[Encoded | None], list[RowProblem]]:
    """Every row encoded, `None` where it can't be, with the problems named by line (or place, from 1)."""
    encoded: list[Encoded | None] = []
    problems: list[RowProblem] = []
    for i, row in enumerate(rows):
        try:
            encoded.append(encode(row, tokenizer, max_tokens=max_tokens))
        except RowError as exc:
            encoded.append(None)
            problems.append(RowProblem(lines[i] if lines else i + 1, exc.field, exc.reason))
    return encoded, problems
