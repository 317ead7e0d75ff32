"""HTML of what models, rows and files say. Everything that comes from outside is escaped here, without exception."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import Any

from workbench.calls.dialects import TAG, Dialect, Verdict, verdict

CHIP = {"tool call": "call", "no tool call": "text", "malformed call": "bad"}


def escape(value: Any) -> str:
    """`value` as text that a browser shows and never runs."""
    return html.escape(str(value), quote=True)


def plain(text: str) -> str:
    """`text` for a place that gradio renders as Markdown: every sign stands for itself."""
    return re.sub(r"([\\\\`*_{}\[\]()#+\-.!|<>~&:])", r"\\\1", text)


def help_text(text: str) -> str:
    """`text` for the help of a field, where gradio knows a few marks of Markdown and no escapes: what would be one is written with its look-alike."""
    text = text.replace("`", "ˋ").replace("*", "∗").replace("](", "]\u2060(")
    return re.sub(r"_{2,}|(?<![A-Za-z0-9_])_", lambda found: "ˍ" * len(found[0]), text)


def chip(word: str, kind: str) -> str:
    return f'<span class="wb-chip {kind}">{escape(word)}</span>'


def verdict_chip(found: Verdict) -> str:
    return chip(found, CHIP[found])


def note(text: str, kind: str = "") -> str:
    """A line that stands out: kind is "", "ok", "warn" or "bad"."""
    return f'<div class="wb-note {kind}" role="status">{escape(text)}</div>'


def empty(text: str) -> str:
    return f'<div class="wb-empty">{escape(text)}</div>'


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """A two-column table of names and values."""
    body = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="wb-facts">{body}</table>'


def bar(share: float, kind: str = "") -> str:
    percent = 100 * min(1.0, max(0.0, share))
    return f'<span class="wb-bar {kind}" role="progressbar" aria-valuenow="{percent:.0f}"><i style="width:{percent:.1f}%"></i></span>'


def verdict_of(text: str, dialect: Dialect = TAG) -> Verdict:
    return verdict(dialect.parse(text))
