"""HTML of a demonstration: the prompt, both panes, the deck, the score. Everything in it is escaped."""

from __future__ import annotations

import itertools
import time

from workbench.evaluation.deck import Entry
from workbench.ui.chat.cards import difference_html, reply_html, visible
from workbench.ui.demo.show import Played, Show, Side
from workbench.ui.highlight import chip, escape, note, verdict_chip
from workbench.ui.words import demo as words

# What is played and the keys pressed meanwhile draw the page side by side, and a picture may come after one that was made later than it.
# A picture's number is taken before the show is looked at, so that the higher of two has all that the lower one has. They begin at the clock: a page that stays open
# while the server starts anew must not find lower ones than it had.
_pictures = itertools.count(int(time.time() * 1000))
NEWEST_JS = """
let newest = {picture: -1};
watch('value', () => {
  const at = Number(element.querySelector('.wb-demo')?.dataset.picture);
  if (at < newest.picture) props.value = newest.value;
  else newest = {picture: at, value: props.value};
});"""


def stage_html(show: Show, adapters: list[str]) -> str:
    """The whole page below its buttons, what was said last above the prompt. Of two that are on their way the page keeps the one that was made later."""
    picture = next(_pictures)
    entry, said = show.entry, note(show.said, "warn") if show.said else ""
    if entry is None:
        return f'<div class="wb-demo" data-picture="{picture}">{said}</div>'
    played = show.played.get(show.place)
    base, adapted = (played.base, played.adapted) if played is not None else (None, None)
    return (
        f'<div class="wb-demo" data-picture="{picture}" data-going="{int(show.going)}">{said}{_asked(show, entry)}'
        f'<div class="wb-demo-panes">{pane_html(words.BASE, "base", played, base, _invitation(show, adapters, "base"), show)}'
        f'{pane_html(_adapted(show), "adapted", played, adapted, _invitation(show, adapters, "adapted"), show)}</div>'
        f'<div class="wb-demo-between">{changed_html(played)}</div>{_deck(show)}{score_html(show)}<div class="wb-demo-keys">{escape(words.KEYS)}</div></div>'
    )


def _adapted(show: Show) -> str:
    return words.ADAPTED.format(name=show.run) if show.run else words.NOT_CHOSEN


def _asked(show: Show, entry: Entry) -> str:
    place = words.PLACE.format(k=show.place + 1, n=len(show.deck.entries))
    should = chip(words.SHOULD_CALL, "call") if entry.should_call else chip(words.SHOULD_TEXT, "text")
    return f'<div class="wb-demo-ask"><span class="wb-dim">{escape(place)}</span><span class="wb-demo-prompt" dir="auto">{visible(entry.prompt)}</span>{should}</div>'


def _invitation(show: Show, adapters: list[str], side: str) -> str:
    if not adapters:
        return words.NO_ADAPTER
    if not show.run:
        return words.CHOOSE
    return words.INVITATION if side == "base" else ""


def pane_html(title: str, kind: str, played: Played | None, side: Side | None, invitation: str, show: Show) -> str:
    """One side's pane; without a reply, the invitation."""
    head = f'<section class="wb-pane {kind}" aria-label="{escape(title)}"><h3>{escape(title)}'
    if played is None or side is None:
        return f'{head}</h3>{f"""<div class="wb-empty">{escape(invitation)}</div>""" if invitation else ""}</section>'
    verdict = f"{verdict_chip(played.verdict(side))} {mark_html(played, side)}" if side.judged else ""
    if side.text:
        body = reply_html(side.text, done=side.done, dialect=played.dialect, tools=show.tools)
    else:
        body = f'<div class="wb-dim">{escape(words.EMPTY if side.done and not played.failed else played.state or words.WAITING)}</div>' if not played.failed else ""
    failed = note(played.failed, "warn") if played.failed else ""
    return f'{head} {verdict}</h3>{body}{failed}<div class="wb-foot">{escape(side.foot)}</div></section>'


def mark_html(played: Played, side: Side) -> str:
    """Whether the reply is what the prompt should lead to, in a sign and a word."""
    found = played.verdict(side)
    if played.entry.right(found):
        return f'<span class="wb-mark ok">✓ {escape(words.RIGHT)}</span>'
    why = words.BROKEN if found == "malformed call" else words.WRONG_CALL if played.entry.should_call else words.WRONG_TEXT
    return f'<span class="wb-mark bad">✗ {escape(why)}</span>'


def changed_html(played: Played | None) -> str:
    if played is None or not played.judged:
        return ""
    return difference_html(
        played.base.text, played.adapted.text, left_dialect=played.dialect, right_dialect=played.dialect, should_call=played.entry.should_call,
    )


def _deck(show: Show) -> str:
    """The prompts as buttons, each with how both sides did."""
    buttons = []
    for i, entry in enumerate(show.deck.entries):
        played = show.played.get(i)
        marks = ""
        if played is not None and played.judged:
            marks = "".join(
                f'<span class="{kind} {"ok" if entry.right(played.verdict(side)) else "no"}">{"✓" if entry.right(played.verdict(side)) else "✗"}</span>'
                for kind, side in (("base", played.base), ("adapted", played.adapted))
            )
        now = ' aria-current="true"' if i == show.place else ""
        label = f"{entry.prompt[:200]} ({words.SHOULD_CALL if entry.should_call else words.SHOULD_TEXT})"
        told = f'title="{escape(label)}" aria-label="{escape(f"{i + 1}: {label}")}"{now}'
        buttons.append(f'<button type="button" class="wb-demo-pick" data-do="go" data-key="{i}" {told}>{i + 1}{marks}</button>')
    return f'<div class="wb-demo-deck">{"".join(buttons)}</div>'


def score_words(show: Show) -> list[str]:
    """The running score in words, a sentence each."""
    found = show.scores()
    whole = sum(played.judged for played in show.played.values())
    progress = words.PLAYED.format(k=whole, n=len(show.deck.entries))
    if found is None:
        return [words.NO_SCORE]
    base, adapted = found
    return [
        *([words.SCORE.format(a=adapted.called.k, b=base.called.k, n=base.called.n)] if base.called.n else []),
        *([words.OVER.format(a=adapted.over.k, b=base.over.k, n=base.over.n)] if base.over.n else []),
        progress,
    ]


def score_html(show: Show) -> str:
    """The score line."""
    return f'<div class="wb-demo-score" role="status">{"".join(f"<span>{escape(part)}</span>" for part in score_words(show))}</div>'
