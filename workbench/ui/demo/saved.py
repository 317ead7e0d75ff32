"""A demonstration as one file to send round: HTML without a script, a link or anything fetched, with a policy that forbids all of them."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

from workbench.errors import InputError
from workbench.settings import Sampling
from workbench.ui.chat.cards import visible
from workbench.ui.demo.show import Played, Show
from workbench.ui.demo.stage import changed_html, pane_html, score_words
from workbench.ui.highlight import chip, escape, facts
from workbench.ui.words import demo as words

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_UI = Path(__file__).resolve().parents[1]
_OWN = """
body { margin:0 auto; max-width:1200px; padding:24px; font:16px/1.5 ui-sans-serif,system-ui,"Segoe UI",Roboto,"Noto Sans",sans-serif; background:var(--page); color:var(--ink); }
:root { --page:#fff; --ink:#0f172a; --background-fill-primary:var(--page); --font-mono:ui-monospace,"SF Mono",Menlo,Consolas,monospace; }
@media (prefers-color-scheme: dark) { :root { --page:#0f172a; --ink:#e2e8f0; DARK } }
h1 { font-size:26px; margin:0 0 8px; } h2 { font-size:20px; margin:32px 0 8px; overflow-wrap:anywhere; } h2 .wb-chip { font-weight:600; }
.wb-facts td:last-child { overflow-wrap:anywhere; }
.wb-demo-panes { display:grid; grid-template-columns:1fr 1fr; gap:14px; align-items:start; }
.wb-pane { height:auto; min-height:0; overflow:visible; } .wb-small { display:none; }
.wb-mark { font-size:13px; font-weight:600; } .wb-mark.ok { color:var(--wb-ok); } .wb-mark.bad { color:var(--wb-bad); }
.score { font-size:20px; font-weight:600; } .score span + span::before { content:" · "; }
.wb-demo-between { margin:8px 0; text-align:center; }
@media (max-width: 700px) { .wb-demo-panes { grid-template-columns:1fr; } }
@media print { h2, .wb-pane { break-inside:avoid; } }
"""


def saved_html(show: Show, adapters: Sequence[str], at: float | None = None) -> str:
    """The file's text: date, model, adapter, settings, score, and every prompt with both replies and their verdicts.

    Raises `InputError` where nothing was played: what is missing for it, `adapters` being those there are, and what to do.
    """
    if not any(played.judged for played in show.played.values()):
        raise InputError(_missing(show, adapters))
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
    titles, dialects = words.FILE_FACTS, sorted({played.dialect_name for played in show.played.values()})
    told = facts([
        (titles["date"], date), (titles["model"], show.model), (titles["adapter"], show.run or ""), (titles["dialect"], ", ".join(dialects)),
        (titles["settings"], settings_words(show.sampling)),
    ])
    score = "".join(f"<span>{escape(part)}</span>" for part in score_words(show))
    body = "".join(_entry(show, i) for i in range(len(show.deck.entries)))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="no-referrer">'
        f"<title>{escape(words.FILE_TITLE)}: {escape(show.run or '')}</title><style>{_styles()}</style></head><body>"
        f'<h1>{escape(words.FILE_TITLE)}</h1><p class="score">{score}</p>{told}{body}</body></html>\n'
    )


def _missing(show: Show, adapters: Sequence[str]) -> str:
    """Why there is nothing to save, and the way to something."""
    if not show.run:
        return words.FILE_CHOOSE if adapters else words.FILE_NO_ADAPTER
    if show.run not in adapters:
        return words.GONE.format(name=show.run[:60])
    return words.NOTHING_WHOLE if show.played else words.NOTHING_PLAYED


def settings_words(sampling: Sampling) -> str:
    """The settings that counted, by their titles."""
    shown = {"greedy", "max_new_tokens", "constrain"} | (set() if sampling.greedy else {"temperature", "top_p", "top_k", "seed"})
    values = {name: getattr(sampling, name) for name in Sampling.model_fields if name in shown}
    return " · ".join(f"{Sampling.model_fields[name].title}: {('no', 'yes')[v] if isinstance(v, bool) else v}" for name, v in values.items())


def _entry(show: Show, place: int) -> str:
    entry, played = show.deck.entries[place], show.played.get(place)
    should = chip(words.SHOULD_CALL, "call") if entry.should_call else chip(words.SHOULD_TEXT, "text")
    head = f'<h2>{place + 1}. <span dir="auto">{visible(entry.prompt)}</span> {should}</h2>'
    return head + (_panes(show, played) if played is not None else f'<p class="wb-dim">{escape(words.NOT_PLAYED)}</p>')


def _panes(show: Show, played: Played) -> str:
    base = pane_html(words.BASE, "base", played, played.base, "", show)
    adapted = pane_html(words.ADAPTED.format(name=show.run), "adapted", played, played.adapted, "", show)
    return f'<div class="wb-demo-panes">{base}{adapted}</div><div class="wb-demo-between">{changed_html(played)}</div>'


def _styles() -> str:
    """The workbench's own styles of what stands in the file, with the dark colours where the reader's screen is dark."""
    theme = (_UI / "theme.css").read_text(encoding="utf-8")
    cards = (_UI / "chat" / "chat.css").read_text(encoding="utf-8")
    dark = re.search(r"\.dark \{([^}]*)\}", theme)
    return theme + cards + _OWN.replace("DARK", dark[1].strip() if dark else "")
