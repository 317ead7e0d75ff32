"""What this row teaches, on the screen: its tokens, the learned ones coloured, the masked ones grey."""

from __future__ import annotations

from workbench.dataset.draft import Draft, row_of
from workbench.errors import DataError, ModelError, RowError, SettingsError
from workbench.schema import Example
from workbench.training.teach import Lesson, teach
from workbench.ui import words
from workbench.ui.data.bench import refusal
from workbench.ui.highlight import escape, note
from workbench.workspace import Workspace

SHOWN = 3000  # tokens drawn at most: a longer row says how many more it has


def lesson_html(space: Workspace, draft: Draft | None, was: Example | None = None) -> str:
    """The draft's tokens and target text in the dialect chosen under Tune, or the sentence why it can't be learned."""
    if draft is None:
        return note(words.LESSON_EMPTY)
    try:
        tokenizer = space.tokenizer
    except ModelError as exc:
        return note(f"{words.LESSON_NO_MODEL} {exc}", "warn")
    try:
        row, form = row_of(draft, was), space.row_health.taught_form()
        about = words.LESSON_FORM.format(model=space.model_name, dialect=form.dialect.name)
        if form.tools:
            about += words.LESSON_TOOLS
        return _lesson(teach(row, tokenizer, max_tokens=space.row_health.teaching.max_row_tokens, form=form), about)
    except (RowError, SettingsError, DataError) as exc:
        return refusal(f"{words.LESSON_REFUSED} {exc}", "warn")


def _lesson(lesson: Lesson, about: str) -> str:
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
        f'<span class="wb-chip masked">{total - lesson.learned} masked</span> <span class="wb-dim">{escape(about)}</span>'
    )
    target = f'<div class="wb-dim">target: <code>{escape(lesson.target)}</code></div>'
    return f'<div class="wb-lesson"><div>{head}</div><div class="wb-tokens">{body}{escape(more)}</div>{target}</div>'
