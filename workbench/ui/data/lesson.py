"""What this row teaches, on the screen: its tokens, the learned ones coloured, the masked ones grey."""

from __future__ import annotations

from workbench.dataset.draft import Draft, row_of
from workbench.errors import ModelError, RowError
from workbench.schema import Example
from workbench.settings import Training
from workbench.training.teach import Lesson, teach
from workbench.ui import words
from workbench.ui.data.bench import refusal
from workbench.ui.highlight import escape, note
from workbench.workspace import Workspace

SHOWN = 3000  # tokens drawn at most: a longer row says how many more it has


def lesson_html(space: Workspace, draft: Draft | None, was: Example | None = None) -> str:
    """The draft's tokens and target text, or the sentence why it can't be learned."""
    if draft is None:
        return note(words.LESSON_EMPTY)
    try:
        tokenizer = space.tokenizer
    except ModelError as exc:
        return note(f"{words.LESSON_NO_MODEL} {exc}", "warn")
    try:
        row = row_of(draft, was)
        return _lesson(teach(row, tokenizer, max_tokens=Training().max_row_tokens), space.model_name)
    except RowError as exc:
        return refusal(f"{words.LESSON_REFUSED} {exc}", "warn")


def _lesson(lesson: Lesson, model: str) -> str:
    runs: list[tuple[bool, list[str]]] = []
    for token in lesson.tokens[:SHOWN]:
        if not runs or runs[-1][0] != token.learned:
            runs.append((token.learned, []))
        shown = escape(token.text).replace("\n", "↵\n")
        runs[-1][1].append(f'<span title="{token.id}">{shown}</span>')
    body = "".join(f'<span class="{"wb-learned" if learned else "wb-masked"}">{"".join(pieces)}</span>' for learned, pieces in runs)
    more = f" … and {len(lesson.tokens) - SHOWN} more tokens" if len(lesson.tokens) > SHOWN else ""
    total = len(lesson.tokens)
    head = (
        f'<b>{words.LESSON_TITLE}</b> <span class="wb-chip learned">{lesson.learned} tokens learned</span> '
        f'<span class="wb-chip masked">{total - lesson.learned} masked</span> <span class="wb-dim">{escape(model)}</span>'
    )
    target = f'<div class="wb-dim">target: <code>{escape(lesson.target)}</code></div>'
    return f'<div class="wb-lesson"><div>{head}</div><div class="wb-tokens">{body}{escape(more)}</div>{target}</div>'
