"""HTML of what models, rows and files say. Everything that comes from outside is escaped here, without exception."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from typing import Any

from workbench.calls.dialects import TAG, CallSegment, Dialect, MalformedSegment, Verdict, verdict
from workbench.schema import ToolCall

CHIP = {"tool call": "call", "no tool call": "text", "malformed call": "bad"}


def escape(value: Any) -> str:
    """`value` as text that a browser shows and never runs."""
    return html.escape(str(value), quote=True)


def plain(text: str) -> str:
    """`text` for a place that gradio renders as Markdown (the help of a field): every sign stands for itself."""
    return re.sub(r"([\\\\`*_{}\[\]()#+\-.!|<>~&:])", r"\\\1", text)


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


def call_card(call: ToolCall, raw: str) -> str:
    """A call lit up: its name, its arguments as formatted JSON, the raw text folded away."""
    arguments = json.dumps(dict(call.arguments), ensure_ascii=False, indent=2)
    return (
        f'<div class="wb-call" data-call="{escape(call.name)}"><span class="wb-dim">tool call</span> '
        f'<span class="wb-name">{escape(call.name)}</span><pre>{escape(arguments)}</pre>'
        f"<details><summary>raw text</summary><pre>{escape(raw)}</pre></details></div>"
    )


def malformed_card(raw: str, reason: str) -> str:
    return (
        f'<div class="wb-call bad"><span class="wb-name">malformed call</span> — {escape(reason)}'
        f"<pre>{escape(raw)}</pre></div>"
    )


def reply_html(text: str, *, done: bool, dialect: Dialect = TAG) -> str:
    """A reply in its dialect with its calls as cards. While it streams, a half-written call is not yet called malformed."""
    parts = []
    for segment in dialect.parse(text):
        if isinstance(segment, CallSegment):
            parts.append(call_card(segment.call, segment.raw))
        elif isinstance(segment, MalformedSegment) and done:
            parts.append(malformed_card(segment.raw, segment.reason))
        else:
            parts.append(escape(segment.raw))
    if not done:
        parts.append('<span class="wb-cursor">▍</span>')
    return f'<div class="wb-reply">{"".join(parts)}</div>'


def verdict_of(text: str, dialect: Dialect = TAG) -> Verdict:
    return verdict(dialect.parse(text))
