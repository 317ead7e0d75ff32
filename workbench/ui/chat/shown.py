"""A chat's panes as HTML: requests, replies with their calls as cards, every step of the way of a call. Everything in it is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from workbench.calls.dialects import verdict
from workbench.calls.loop import Failed, FellBack, Ran, Refused, Step
from workbench.models.catalog import display_name, is_merged
from workbench.schema import ToolSpec
from workbench.ui import words as common
from workbench.ui.chat.cards import difference_html, reply_html, visible
from workbench.ui.chat.talk import Chat, Exchange, Piece, Side
from workbench.ui.chat.voices import choice_words
from workbench.ui.highlight import chip, empty, escape, verdict_chip
from workbench.ui.words import chat as words

Tools = Mapping[str, ToolSpec] | None
PANES = 2
SHOWN_RESULT = 4000  # characters of a tool's answer

# A pane follows its newest reply while a person has not scrolled away from its end.
FOLLOW_JS = """let last = true;
const pane = element.closest('.wb-chatpane');
pane?.addEventListener('scroll', () => { last = pane.scrollHeight - pane.scrollTop - pane.clientHeight < 80; });
watch('value', () => requestAnimationFrame(() => { if (last && pane) pane.scrollTop = pane.scrollHeight; }));"""


def pane_title(voice: str | None) -> str:
    """Whose pane it is."""
    if is_merged(voice):
        return words.MERGED_TITLE.format(name=display_name(voice or ""))
    return common.ADAPTED if voice is None else words.ADAPTED_TITLE.format(name=voice) if voice else words.BASE_TITLE


def title_html(voice: str | None) -> str:
    """The head of a pane, in the colour of its voice."""
    return f'<h3 class="wb-voice {"base" if voice == "" else "adapted"}">{escape(pane_title(voice))}</h3>'


def past_html(chat: Chat, pane: int, tools: Tools) -> str:
    """All exchanges of a pane but the newest, the oldest first."""
    going = {exchange.key for exchange in chat.current()}
    return "".join(exchange_html(exchange, pane, tools, old=exchange.key not in going) for exchange in chat.exchanges[:-1])


def live_html(chat: Chat, pane: int, tools: Tools, voice: str | None) -> str:
    """The newest exchange of a pane, or an invitation."""
    if chat.newest is None:
        return empty(common.CHAT_NO_ADAPTER if voice is None else common.CHAT_EMPTY)
    return exchange_html(chat.newest, pane, tools, live=True)


def exchange_html(exchange: Exchange, pane: int, tools: Tools, *, live: bool = False, buttons: bool = True, old: bool = False) -> str:
    """A request and all that a pane said to it; calls that wait in the newest one have their button. With `old` it is of an earlier conversation."""
    edit = (
        f'<button type="button" class="wb-small wb-edit" data-do="edit" data-key="{exchange.key}" title="{escape(words.EDIT_TITLE)}">{escape(words.EDIT)}</button>'
        if buttons else ""
    )  # fmt: skip
    fresh = f'<div class="wb-fresh">{escape(words.NEW_CONVERSATION)}</div>' if exchange.fresh else ""
    ask = f'{fresh}<div class="wb-ask" dir="auto">{edit}{visible(exchange.prompt)}</div>'
    side = exchange.sides[pane]
    if side is None:
        return f'<div class="wb-turn{" old" if old else ""}">{ask}<div class="wb-dim">{escape(words.NOT_ASKED)}</div></div>'
    return f'<div class="wb-turn{" old" if old else ""}">{ask}{side_html(side, tools, key=f"{exchange.key}/{pane}" if live and buttons else None)}</div>'


def side_html(side: Side, tools: Tools, *, key: str | None = None) -> str:
    """Everything that a pane said to one request: its replies, and between them what its calls led to."""
    rounds, parts = side.rounds(), []
    for i, piece in enumerate(side.pieces):
        newest = i == len(side.pieces) - 1
        waits = newest and side.loop == "waits" and piece.done  # what was confirmed leads to another reply, which waits for nobody while it is written
        parts.append(_piece(side, piece, tools, f"{key}/{i}" if key is not None and waits else None, voice=i == 0))
        parts += [_step(step) for step in (rounds[i] if i < len(rounds) else ())]
        if waits and key is not None:
            parts.append(f'<div class="wb-step wait">{escape(words.WAITS_FOR_YOU)}</div>')
    if side.trouble:
        parts.append(f'<div class="wb-step bad">{visible(side.trouble, 1000)}</div>')
    if side.listed:
        parts.append(f'<div class="wb-step human">{chip(words.FELL_BACK, "warn")} {escape(words.LISTED)}</div>')
    return "".join(parts)


def _piece(side: Side, piece: Piece, tools: Tools, run_key: str | None, *, voice: bool) -> str:
    if not piece.text.strip() and not piece.judged:
        return f'<div class="wb-dim">{escape(side.state)}</div>'
    if not piece.text.strip():
        reply = f'<div class="wb-dim">{escape(common.EMPTY_REPLY)}</div>'
    else:
        reply = reply_html(piece.text, done=piece.done, dialect=side.dialect, tools=tools, run_key=run_key)
    judged = verdict_chip(verdict(side.dialect.parse(piece.text))) if piece.judged else ""
    active = chip(words.ACTIVE.format(moved=side.moved), "ok") if voice and side.moved is not None and piece.done else ""
    return f'{reply}<div class="wb-foot">{judged}{active}<span>{_who(side, piece)}{escape(foot(piece))}</span></div>{_bound(piece)}'


def _who(side: Side, piece: Piece) -> str:
    """Whose reply it is: the title above a pane tells who answers next, and that may be another one by now."""
    return f"<b>{escape(choice_words(side.voice))}</b> · " if piece.done and not piece.trouble else ""


def foot(piece: Piece) -> str:
    """A reply's figures, and why it ended where that was not its own end."""
    if piece.trouble:
        return piece.trouble
    if not piece.done:
        return ""
    pace = piece.tokens / piece.seconds if piece.seconds else 0.0
    parts = [words.FIGURES.format(tokens=piece.tokens, pace=pace, first=piece.first_token_seconds)]
    if piece.ended == "length":
        parts.append(words.CUT.format(limit=piece.limit))
    if piece.ended == "stopped":
        parts.append(words.STOPPED_BY_YOU)
    return " · ".join(parts)


def _bound(piece: Piece) -> str:
    if piece.changed is None:
        return ""
    first = "; ".join(words.BOUND_FIRST.format(wanted=wanted, wrote=wrote) for wanted, wrote in piece.changes)
    said = words.BOUND_CHANGED.format(count=piece.changed) + (f": {first}" if first else "") if piece.changed else words.BOUND_NOTHING
    return f'<div class="wb-step">{visible(said, 600)}</div>'


def _step(step: Step) -> str:
    """What a call led to."""
    if isinstance(step, Ran):
        how = words.KNOWN if step.cached else words.RESULT_SECONDS.format(seconds=step.seconds) if step.seconds >= 0.1 else words.RESULT_AT_ONCE
        said = f"{escape(words.ANSWERED.format(name=step.call.name))} <span>({escape(how)})</span>"
        return f'<div class="wb-step ran"><details open><summary>{said}</summary><pre dir="auto">{visible(step.result, SHOWN_RESULT)}</pre></details></div>'
    if isinstance(step, Refused):
        return f'<div class="wb-step bad">{escape(words.REFUSED.format(name=step.call.name))}: {visible("; ".join(step.reasons), 1000)}</div>'
    if isinstance(step, Failed):
        return f'<div class="wb-step bad">{escape(words.FAILED.format(name=step.call.name))}: {visible(step.reason, 1000)}</div>'
    if isinstance(step, FellBack):
        return f'<div class="wb-step fell"><b>{visible(step.text, 1000)}</b><br><span>{visible(step.reason, 1000)}</span></div>'
    return ""


def changed_html(chat: Chat) -> str:
    """What changed from the left pane to the right one in the newest exchange; "" while that can't be told."""
    newest = chat.newest
    if newest is None or newest.left is None or newest.right is None or not newest.judged:
        return ""
    left, right = newest.left, newest.right
    return difference_html(left.first.text, right.first.text, left_dialect=left.dialect, right_dialect=right.dialect, should_call=newest.should_call)


def panes(chat: Chat, voices: Sequence[str | None], tools: Tools) -> list[str]:
    """[left title, left past, left newest, right title, right past, right newest]."""
    return [html for pane in range(PANES) for html in (title_html(voices[pane]), past_html(chat, pane, tools), live_html(chat, pane, tools, voices[pane]))]
