"""HTML of what a model said: its text, its calls as cards, and what changed between two replies. Pure, and everything in it is escaped.

These signatures are what other screens build on; they stay as they are:

- `reply_html(text, done=, dialect=, tools=, run_key=)`: a whole reply; `brief_reply_html(text, dialect)`: one that stands among many,
  its calls as they are, with nothing to press;
- `call_card(call, raw, tools=, run_key=)` and `malformed_card(raw, reason)`: one piece of it;
- `difference(left, right, ...)`: what changed between two replies, one of `DIFFERENCES`; `difference_html` is its line;
- `visible(text)`: any text as HTML in which signs that can't be seen, or that turn the writing round, are named.

The HTML holds no scripts and no handlers. A `gr.HTML` that shows it takes `js_on_load=CARDS_JS`, which makes the copy buttons work; where a
card was given a `run_key`, it tells a press of its “Run the call” as the event `click` with the data {"run": run_key}.
Styles are in chat.css, by the classes of theme.css.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

from workbench.calls.dialects import TAG, CallSegment, Dialect, MalformedSegment, Segment, calls_in, verdict
from workbench.calls.tools import argument_problems
from workbench.schema import ToolCall, ToolSpec
from workbench.ui.highlight import chip, escape
from workbench.ui.words import chat as words

SHOWN = 20_000  # characters of one text; a longer one is cut, and says so
SHOWN_ARGUMENTS = 60
SHOWN_VALUE = 600  # characters
SHOWN_PIECES = 200  # segments of one reply
SHOWN_HTML = 200_000  # characters of a reply's HTML, after which no other piece is begun: a page that draws more stands still for a moment
SIGNS_A_MARK = 10  # characters that may be shown for each mark of an unseen one: marks are the costliest there is to draw
COPIED = 200_000  # characters of a raw text that its button copies

Difference = Literal[
    "learned to call", "stopped calling", "same call", "different arguments", "different calls", "both in text",
    "the call is malformed now", "the call is whole now", "malformed in both",
    "over-calls now", "over-calls no more", "over-calls in both", "the call is missed now", "the call is missed in both",
]  # fmt: skip
DIFFERENCES: tuple[str, ...] = get_args(Difference)
_KIND = {words.LEARNED: "call", words.SAME_CALL: "call", words.BOTH_TEXT: "text", words.BROKE: "bad", words.BOTH_BROKEN: "bad", words.MENDED: "ok",
         words.OVER_NO_MORE: "ok"}  # fmt: skip
# What a change is where it is known whether the prompt should lead to a call: a call that nobody wants is nothing learned.
_JUDGED: dict[tuple[bool, Difference], Difference] = {
    (False, "learned to call"): "over-calls now", (False, "the call is whole now"): "over-calls now", (False, "stopped calling"): "over-calls no more",
    (False, "same call"): "over-calls in both", (False, "different arguments"): "over-calls in both", (False, "different calls"): "over-calls in both",
    (True, "stopped calling"): "the call is missed now", (True, "both in text"): "the call is missed in both",
}  # fmt: skip

# Signs that are not seen or that turn the writing round; a joiner is left alone between letters and pictures that need it.
_ODD = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]|(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])"
)
_RUN = re.compile(f"({_ODD.pattern})\\1*")  # the same one again and again has one mark
_HALVES = re.compile("[\ud800-\udfff]")

CARDS_JS = """const copied = async (button) => {
  const raw = button.closest('.wb-call').querySelector('.wb-raw'), text = raw.dataset.raw ?? raw.textContent;
  let done = false;
  try { await navigator.clipboard.writeText(text); done = true; } catch (refused) {
    const box = document.createElement('textarea');
    box.value = text; box.style.position = 'fixed'; box.style.opacity = '0';
    document.body.append(box); box.select();
    done = document.execCommand('copy');
    box.remove();
  }
  const before = button.dataset.copy;
  button.textContent = done ? button.dataset.copied : button.dataset.cant;
  setTimeout(() => { button.textContent = before; }, 1500);
};
element.addEventListener('click', event => {
  const button = event.target.closest('[data-copy],[data-run],[data-do]');
  if (!button || button.disabled) return;
  if (button.dataset.copy !== undefined) { event.preventDefault(); copied(button); }
  else if (button.dataset.run !== undefined) { button.disabled = true; setTimeout(() => { button.disabled = false; }, 3000); trigger('click', {run: button.dataset.run}); }
  else trigger('click', {do: button.dataset.do, key: button.dataset.key ?? ''});
});"""


# -- text -----------------------------------------------------------------------------------------


def visible(text: str, most: int = SHOWN) -> str:
    """`text` as HTML: escaped, what can't be seen named by its number, and no more than `most` characters of it, or fewer where many are unseen ones."""
    over = next(itertools.islice(_RUN.finditer(text, 0, most), max(1, most // SIGNS_A_MARK), None), None)
    most = min(most, over.start()) if over is not None else most
    shown = _RUN.sub(_mark, text[:most])
    marked = re.sub("\x00([^\x01]+)\x01", r'<span class="wb-odd">\1</span>', escape(shown))
    more = f'<span class="wb-dim">{escape(words.MORE_SIGNS.format(count=len(text) - most))}</span>' if len(text) > most else ""
    return marked + more


def _mark(found: re.Match[str]) -> str:
    """What names a run of one unseen sign, between two signs that nothing else leaves in a text."""
    again = f" ×{len(found[0]):,}" if len(found[0]) > 1 else ""
    return f"\x00U+{ord(found[0][0]):04X}{again}\x01"


def reply_html(
    text: str, *, done: bool = True, dialect: Dialect = TAG, tools: Mapping[str, ToolSpec] | None = None, run_key: str | None = None
) -> str:
    """A reply read in its dialect: its text, its calls as cards, its malformed pieces with the reason.

    With `tools` every call is held against them. While the reply streams (`done` false) a half-written call is shown as one that is
    being written. With `run_key` each call that is valid has a button “Run the call” (see `CARDS_JS`), whose key is the `run_key`, a
    slash, and the place of the call among the reply's calls, from 0.
    """
    def card(segment: CallSegment, place: int) -> str:
        return call_card(segment.call, segment.raw, tools=tools, run_key=None if run_key is None else f"{run_key}/{place}")

    def broken(segment: MalformedSegment) -> str:
        return malformed_card(segment.raw, segment.reason) if done else open_card(segment.raw)

    def words_of(raw: str) -> str:
        return f'<div class="wb-said-text" dir="auto">{visible(raw.strip())}</div>' if raw.strip() else ""

    cursor = "" if done else '<span class="wb-cursor">▍</span>'
    return f'<div class="wb-reply">{_pieces(dialect.parse(text), card, broken, words_of)}{cursor}</div>'


def brief_reply_html(text: str, dialect: Dialect = TAG) -> str:
    """A whole reply read in its dialect, with each call's arguments as JSON."""
    def card(segment: CallSegment, place: int) -> str:
        return brief_card(segment.call, segment.raw)

    def broken(segment: MalformedSegment) -> str:
        return brief_malformed(segment.raw, segment.reason)

    return f'<div class="wb-reply">{_pieces(dialect.parse(text), card, broken, visible)}</div>'


def _pieces(
    segments: Sequence[Segment], card: Callable[[CallSegment, int], str], broken: Callable[[MalformedSegment], str], words_of: Callable[[str], str]
) -> str:
    """The pieces of a reply, each as it is told to look, a call with its place among the calls; what is more than a page can draw is counted."""
    parts: list[str] = []
    calls = 0
    for segment in segments[:SHOWN_PIECES]:
        if sum(map(len, parts)) > SHOWN_HTML:
            break
        if isinstance(segment, CallSegment):
            parts.append(card(segment, calls))
            calls += 1
        else:
            parts.append(broken(segment) if isinstance(segment, MalformedSegment) else words_of(segment.raw))
    more = len(segments) - len(parts)
    return "".join(parts) + (f'<div class="wb-dim">{escape(words.MORE_CALLS.format(count=more))}</div>' if more else "")


# -- cards ----------------------------------------------------------------------------------------


def call_card(call: ToolCall, raw: str, *, tools: Mapping[str, ToolSpec] | None = None, run_key: str | None = None) -> str:
    """A call: its name, whether it is valid, its arguments beside the types of their schema, every problem, the raw text and a copy button.

    Without `tools` nothing is said of its validity, and no types are known.
    """
    spec = tools.get(call.name) if tools is not None else None
    problems = argument_problems(spec, call.arguments) if spec is not None else []
    state, bad = "", ""
    if tools is not None:
        state = chip(words.UNKNOWN_TOOL, "bad") if spec is None else chip(words.INVALID, "bad") if problems else chip(words.VALID, "ok")
        bad = " wrong" if spec is None or problems else ""
    listed = "".join(f"<li>{visible(reason, SHOWN_VALUE)}</li>" for _, reason in problems)
    if tools is not None and spec is None:
        listed = f"<li>{visible(f'there is no tool “{call.name}”', SHOWN_VALUE)}</li>"
    run = f'<button type="button" class="wb-small" data-run="{escape(run_key)}">{escape(words.RUN_CALL)}</button>' if run_key is not None and not bad else ""
    return (
        f'<div class="wb-call{bad}" data-call="{escape(call.name)}"><div class="wb-callhead"><span class="wb-dim">{escape(words.TOOL_CALL)}</span> '
        f'<span class="wb-name">{visible(call.name, SHOWN_VALUE)}</span> {state}{run}</div>{_table(call, spec, problems)}'
        f'{f"<ul>{listed}</ul>" if listed else ""}{_raw(raw)}</div>'
    )


def malformed_card(raw: str, reason: str) -> str:
    """A piece that began like a call and is none: why, and its raw text."""
    return (
        f'<div class="wb-call bad"><div class="wb-callhead"><span class="wb-name">{escape(words.MALFORMED)}</span> '
        f"<span>{visible(reason, SHOWN_VALUE)}</span></div>{_raw(raw, opened=True)}</div>"
    )


def open_card(raw: str) -> str:
    """A call that is being written."""
    return f'<div class="wb-call"><span class="wb-dim">{escape(words.WRITING_CALL)}</span><pre>{visible(raw)}</pre></div>'


def brief_card(call: ToolCall, raw: str) -> str:
    """A call among many replies: its name, its arguments as JSON, the raw text folded away."""
    return (
        f'<div class="wb-call" data-call="{escape(call.name)}"><span class="wb-dim">{escape(words.TOOL_CALL)}</span> '
        f'<span class="wb-name">{visible(call.name, SHOWN_VALUE)}</span><pre>{visible(_json(dict(call.arguments), indent=2))}</pre>'
        f"<details><summary>{escape(words.RAW)}</summary><pre>{visible(raw)}</pre></details></div>"
    )


def brief_malformed(raw: str, reason: str) -> str:
    """A piece that began like a call and is none, among many replies."""
    return f'<div class="wb-call bad"><span class="wb-name">{escape(words.MALFORMED)}</span> — {visible(reason, SHOWN_VALUE)}<pre>{visible(raw)}</pre></div>'


def _raw(raw: str, *, opened: bool = False) -> str:
    button = (
        f'<button type="button" class="wb-small" data-copy="{escape(words.COPY)}" data-copied="{escape(words.COPIED)}" '
        f'data-cant="{escape(words.CANT_COPY)}">{escape(words.COPY)}</button>'
    )
    shown = visible(raw)
    # What is copied is the model's own text, also where another one is shown.
    whole = escape(_HALVES.sub("\ufffd", raw[:COPIED]))
    own = f' data-raw="{whole}"' if shown != whole else ""
    return f'<details{" open" if opened else ""}><summary>{escape(words.RAW)} {button}</summary><pre class="wb-raw"{own}>{shown}</pre></details>'


def _table(call: ToolCall, spec: ToolSpec | None, problems: list[tuple[str, str]]) -> str:
    properties = spec.parameters.get("properties") if spec is not None and isinstance(spec.parameters, Mapping) else None
    types: Mapping[str, Any] = properties if isinstance(properties, Mapping) else {}
    wrong = {re.split(r"[.\[]", path, maxsplit=1)[0] for path, _ in problems} | {path for path, _ in problems}
    missing = [name for name in types if name not in call.arguments and name in wrong]
    lines = [_line(name, value, types.get(name), spec, name in wrong) for name, value in list(call.arguments.items())[:SHOWN_ARGUMENTS]]
    lines += [_line(name, None, types[name], spec, True, given=False) for name in missing[:SHOWN_ARGUMENTS]]
    if not lines:
        return f'<div class="wb-dim wb-noargs">{escape(words.NO_ARGUMENTS)}</div>'
    more = len(call.arguments) - SHOWN_ARGUMENTS
    rest = f'<div class="wb-dim">{escape(words.MORE_ARGUMENTS.format(count=more))}</div>' if more > 0 else ""
    head = f"<tr><th>{escape(words.ARGUMENT)}</th><th>{escape(words.VALUE)}</th><th>{escape(words.TYPE)}</th><th></th></tr>"
    return f'<table class="wb-args">{head}{"".join(lines)}</table>{rest}'


def _line(name: str, value: Any, schema: Any, spec: ToolSpec | None, wrong: bool, *, given: bool = True) -> str:
    shown = visible(value if isinstance(value, str) else _json(value), SHOWN_VALUE) if given else f'<span class="wb-dim">{escape(words.NOT_GIVEN)}</span>'
    kind = "" if spec is None else words.NOT_IN_SCHEMA if schema is None else type_words(schema)
    mark = "" if spec is None else '<span class="wb-cross" title="not valid">✗</span>' if wrong else '<span class="wb-tick" title="valid">✓</span>'
    return f'<tr><td>{visible(name, 120)}</td><td dir="auto">{shown}</td><td class="wb-dim">{visible(kind, 160)}</td><td>{mark}</td></tr>'


def type_words(schema: Any) -> str:
    """The type of an argument as its JSON schema says it, as in `string`, `array of integer` or `one of "a", "b"`."""
    if not isinstance(schema, Mapping):
        return words.ANY_VALUE
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list) and values:
        return f"one of {', '.join(_json(value) for value in values[:8])}{' …' if len(values) > 8 else ''}"
    found = schema.get("type")
    if isinstance(found, list):
        return " or ".join(str(kind) for kind in found[:8])
    if found == "array" and isinstance(schema.get("items"), Mapping) and isinstance(schema["items"].get("type"), str):
        return f"array of {schema['items']['type']}"
    if isinstance(found, str):
        return found
    return str(schema["$ref"]).rsplit("/", 1)[-1] if "$ref" in schema else words.ANY_VALUE


def _json(value: Any, indent: int | None = None) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent)
    except (TypeError, ValueError, RecursionError):
        return str(type(value).__name__)


# -- what changed ---------------------------------------------------------------------------------


def difference(
    left: str, right: str, *, left_dialect: Dialect = TAG, right_dialect: Dialect = TAG, should_call: bool | None = None,
) -> Difference:
    """What changed from the left reply to the right one, each read in its own dialect; both are whole.

    `should_call` says whether the prompt should lead to a call, None where that is not known.
    """
    found = _changed(left_dialect.parse(left), right_dialect.parse(right))
    return found if should_call is None else _JUDGED.get((should_call, found), found)


def _changed(before: Sequence[Segment], after: Sequence[Segment]) -> Difference:
    kinds = verdict(before), verdict(after)
    if kinds == ("tool call", "tool call"):
        calls = [[(call.name, json.dumps(dict(call.arguments), sort_keys=True)) for call in calls_in(side)] for side in (before, after)]
        if calls[0] == calls[1]:
            return "same call"
        return "different arguments" if [name for name, _ in calls[0]] == [name for name, _ in calls[1]] else "different calls"
    if kinds == ("malformed call", "malformed call"):
        return "malformed in both"
    if kinds[1] == "malformed call":
        return "the call is malformed now"
    if kinds[1] == "tool call":
        return "the call is whole now" if kinds[0] == "malformed call" else "learned to call"
    return "both in text" if kinds[0] == "no tool call" else "stopped calling"


def difference_html(left: str, right: str, *, left_dialect: Dialect = TAG, right_dialect: Dialect = TAG, should_call: bool | None = None) -> str:
    """The line between two panes: `difference` as a chip."""
    found = difference(left, right, left_dialect=left_dialect, right_dialect=right_dialect, should_call=should_call)
    return f'<div class="wb-difference">{chip(found, _KIND.get(found, "warn"))}</div>'
