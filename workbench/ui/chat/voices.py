"""The voices that a pane may have: the base, an adapter, a merged model. What a box calls them, and what it holds once one comes or goes. No screen."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.models.catalog import display_name, is_merged
from workbench.ui.chat.talk import Chat
from workbench.ui.words import chat as words


def voice_of(chosen: str | None) -> str | None:
    """The voice that a box names: "" for the base, None where nothing is chosen."""
    return "" if chosen == words.BASE else chosen or None


def gone_words(voices: Sequence[str | None], there: Sequence[str]) -> str:
    """That a voice is not there any more, as a sentence; "" where all are."""
    gone = next((voice for voice in voices if voice and voice not in there), None)
    if gone is None:
        return ""
    return words.MERGED_GONE.format(name=display_name(gone)[:60]) if is_merged(gone) else words.GONE.format(name=gone[:60])


def replaced_words(were: Sequence[str | None], now: Sequence[str | None], there: Sequence[str]) -> str:
    """That a pane's voice is not there any more, and which it has now, as a sentence; "" where each has what it had or what a person may still choose."""
    for was, has in zip(were, now, strict=True):
        if was and was not in there and has != was:
            return words.GONE_HERE.format(name=choice_words(was)[:60]) if has is None else words.GONE_FOR.format(name=choice_words(was)[:60], now=choice_words(has))
    return ""


def chosen_now(talk: Chat, first: str | None, second: str | None, there: Sequence[str], before: Sequence[str] | None) -> tuple[str, str | None]:
    """What the boxes of the left and the right pane hold once the voices that there are have changed from those `before`."""
    left = first or words.BASE
    if talk.exchanges:
        return left, second or (there[0] if there else None)
    new = bool(there) and before is not None and there[0] not in before
    known = second == words.BASE or second in there
    return (left if left == words.BASE or left in there else words.BASE), second if known and not new else (there[0] if there else None)


def last_chosen(talk: Chat, there: Sequence[str]) -> tuple[str, str | None]:
    """What the boxes held when the newest exchange of a chat was asked."""
    sides = talk.newest.sides if talk.newest is not None else (None, None)
    left, right = (None if side is None else side.voice or words.BASE for side in sides)
    return chosen_now(talk, left, right, there, None)


def voice_choices(there: Sequence[str]) -> list[tuple[str, str]]:
    """What a box offers: the base, then the voices that there are."""
    return [(words.BASE_TITLE, words.BASE), *((choice_words(name), name) for name in there)]


def choice_words(voice: str) -> str:
    """What a box calls a voice."""
    if not voice:
        return words.BASE_TITLE
    return words.MERGED_CHOICE.format(name=display_name(voice)) if is_merged(voice) else voice
