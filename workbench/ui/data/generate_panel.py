"""The panel that writes draft rows: from families, with the loaded model or with an endpoint. They are looked at before they come in."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from workbench.calls.dialects import message_calls
from workbench.dataset.changes import Change
from workbench.dataset.endpoint import Endpoint, key_name
from workbench.dataset.families import BY_KEY, FAMILIES, topics
from workbench.dataset.families import SOURCE as FAMILIES_SOURCE
from workbench.dataset.generate import LANGUAGES, MAX_ROWS, Refused, admit
from workbench.errors import DataError, InputError, WorkbenchError
from workbench.schema import Example
from workbench.ui import words as common
from workbench.ui.data.bench import Bench, Pending
from workbench.ui.data.writing import Asked, Step, kept_apart, write
from workbench.ui.errors import sentence, shown
from workbench.ui.highlight import bar, chip, empty, escape, note
from workbench.ui.quiet import QUIET
from workbench.ui.words import generate as words
from workbench.workspace import Workspace

CHOSEN = ("question", "command", "fragment", "polite", "terse", "typos", "definition", "howto", "near-miss", "greeting")
LISTED = 200  # refused rows that are listed


@dataclass(frozen=True)
class Batch:
    """Rows that were written and wait for a person's look."""

    rows: tuple[Example, ...] = ()
    refused: tuple[Refused, ...] = ()


@dataclass
class Writers:
    """Which pages have rows written just now, so that their Stop button finds it."""

    stops: dict[str, threading.Event] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, page: str) -> threading.Event | None:
        """A stop signal for the page; None while it has rows written already."""
        with self.lock:
            return None if page in self.stops else self.stops.setdefault(page, threading.Event())

    def leave(self, page: str) -> None:
        with self.lock:
            self.stops.pop(page, None)

    def stop(self, page: str) -> bool:
        with self.lock:
            found = self.stops.get(page)
        if found is not None:
            found.set()
        return found is not None


# -- what the form asks for ----------------------------------------------------------------------


def read_form(
    space: Workspace, source: str, tool: str | None, kind: str, calls: Sequence[str], texts: Sequence[str], chosen: Sequence[str] | None, language: str | None,
    count: Any, seed: Any, address: str, model: str, max_requests: Any, max_tokens: Any,
) -> Asked:
    """The form's values as one; raises `WorkbenchError`."""
    spec = space.tools.read().tools.get(tool or "")
    if spec is None:
        raise InputError(words.NO_TOOL)
    wanted = _whole(count, words.COUNT)
    if not 1 <= wanted <= MAX_ROWS:
        raise InputError(words.BAD_COUNT.format(most=MAX_ROWS, given=wanted))
    if source not in (words.FAMILIES, words.LOCAL, words.ENDPOINT):
        raise InputError(f"Rows can't be written by {str(source)[:60]!r}.")
    endpoint = Endpoint("", "")
    if source == words.ENDPOINT:
        endpoint = Endpoint(address or "", model or "", max_requests=_whole(max_requests, words.MAX_REQUESTS), max_tokens=_whole(max_tokens, words.MAX_TOKENS))
    return Asked(
        source, spec, kind, (*calls, *texts), tuple(str(t) for t in chosen or ()), str(language or ""),
        wanted, _whole(seed, words.SEED), endpoint,
    )  # fmt: skip


def _whole(value: Any, name: str) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name}: give a whole number.") from None
    return number


def tool_names(space: Workspace) -> list[str]:
    """The tools to choose from; none while the book of tools can't be read, which is told where it is edited."""
    try:
        return list(space.tools.read().tools)
    except WorkbenchError:
        return []


# -- what is shown -------------------------------------------------------------------------------


def progress_html(step: Step) -> str:
    left = step.seconds_left
    parts = [bar(step.share), escape(step.text), f"{common.duration(step.seconds)} so far" + (f", about {common.duration(left)} left" if left is not None else "")]
    return f'<div style="display:flex;gap:10px;align-items:center" role="status">{" ".join(f"<span>{p}</span>" for p in parts)}</div>'


def ended_html(step: Step) -> str:
    """How the writing ended: the counts, then what else the person should know."""
    kind = "bad" if step.failed else "ok" if step.rows else "warn"
    counts = chip(words.counted(len(step.rows), "row"), "ok" if step.rows else "warn") + " " + chip(f"{len(step.refused):,} refused", "warn" if step.refused else "text")
    return f"<div>{counts}</div>" + note(step.text, kind) + "".join(note(text) for text in step.notes)


def refused_html(refused: Sequence[Refused]) -> str:
    """The rows that were not let in, with the reasons; folded."""
    if not refused:
        return ""
    items = "".join(f"<li><b>{escape(r.request or '—')}</b> — {escape(r.reason)}</li>" for r in refused[:LISTED])
    more = f"<li>and {len(refused) - LISTED:,} more</li>" if len(refused) > LISTED else ""
    return f'<details class="wb-log"><summary>{words.counted(len(refused), "row")} refused</summary><ul>{items}{more}</ul></details>'


def table_values(batch: Batch) -> list[list[Any]]:
    """A line a row: tick, number from 1, request, answer, where it came from."""
    return [[True, i, row.request, _answer(row), _origin(row)] for i, row in enumerate(batch.rows, 1)]


def _answer(row: Example) -> str:
    calls = [f"{c.name} {json.dumps(dict(c.arguments), ensure_ascii=False)}" for c in message_calls(row.answer)]
    return words.CALL + ", ".join(calls) if calls else row.answer.content


def _origin(row: Example) -> str:
    key = row.source.rpartition(":")[2]
    return BY_KEY[key].title if row.source == f"{FAMILIES_SOURCE}:{key}" else row.source.removeprefix("generated:model:")


def chosen_rows(batch: Batch | None, table: Sequence[Sequence[Any]]) -> list[Example]:
    """The ticked rows; the browser may have sorted the table, so a row is known by its number. Raises `DataError`."""
    if batch is None:
        raise DataError(words.NOTHING_SEEN)
    try:
        ticks = {int(line[1]): line[0] is True or str(line[0]).lower() == "true" for line in table if len(line) == len(words.HEADERS)}
    except (TypeError, ValueError):
        ticks = {}
    if set(ticks) != set(range(1, len(batch.rows) + 1)) or len(table) != len(batch.rows):
        raise DataError(words.TABLE_SHAPE)
    return [row for i, row in enumerate(batch.rows, 1) if ticks[i]]


def plan(space: Workspace, batch: Batch | None, table: Sequence[Sequence[Any]]) -> tuple[Change, tuple[Refused, ...]]:
    """The change that brings the ticked rows in, and those that the set has come to hold meanwhile. Raises `DataError`."""
    ticked = chosen_rows(batch, table)
    if not ticked:
        raise DataError(words.NONE_TICKED)
    admitted = admit(ticked, space.rows.read().rows, kept_apart(space)[0])
    if not admitted.rows:
        raise DataError(f"Nothing came in: {admitted.refused[0].reason}.")
    return Change(add=admitted.rows, what=words.brought(len(admitted.rows))), admitted.refused


# -- verbs: each gives the values for `filled` below: progress, batch, group, table, refused, take ----


def opened(step: Step) -> list[Any]:
    batch = Batch(step.rows, step.refused)
    return [
        ended_html(step), batch, gr.update(visible=bool(step.rows)), table_values(batch), refused_html(step.refused),
        gr.update(value=words.take(len(step.rows)), interactive=bool(step.rows)),
    ]  # fmt: skip


def closed(said: str = "") -> list[Any]:
    return [said or empty(words.NOTHING_YET), None, gr.update(visible=False), [], "", gr.update(value=words.TAKE, interactive=False)]


def stream(space: Workspace, writers: Writers, page: str, values: Sequence[Any]) -> Iterator[list[Any]]:
    """Write rows and yield the progress, then the preview. Closing the generator (the page was closed) stops it."""
    stop = writers.enter(page)
    if stop is None:
        yield [note(words.STILL_WRITING, "warn"), *[gr.skip()] * 5]
        return
    try:
        for step in write(space, read_form(space, *values), stop):
            yield opened(step) if step.done else [progress_html(step), *[gr.skip()] * 5]
    except Exception as exc:  # what was written before stays to be looked at
        yield [note(sentence(exc), "bad"), *[gr.skip()] * 5]
    finally:
        stop.set()
        writers.leave(page)


def take(bench: Bench, batch: Batch | None, table: Any, version: str, count: float) -> list[Any]:
    """Bring the ticked rows in: the values for `Bench.outputs`, then for the preview, which closes when they are in."""
    try:
        change, repeated = plan(bench.space, batch, table or [])
    except WorkbenchError as exc:
        return [note(str(exc), "bad"), *[gr.skip()] * 9]
    rows, said = bench.make(change, version, count)
    if rows is None and not isinstance(said[-1], Pending):
        return [*said, *[gr.skip()] * 6]
    left = "".join(note(f"{r.request}: {r.reason}", "warn") for r in repeated[:10])
    return [*said, *closed(empty(words.NOTHING_YET) + left)]


# -- the panel -----------------------------------------------------------------------------------


def build(bench: Bench) -> None:
    """The panel's components and their wires."""
    space, writers = bench.space, Writers()
    gr.HTML(f'<div class="wb-cardhead">{words.TITLE}</div><div class="wb-dim">{words.HELP}</div>')
    with gr.Row():
        with gr.Column(scale=2, min_width=400):
            with gr.Row():
                start = gr.Button(words.START, variant="primary", size="sm", min_width=120, elem_id="generate-start")
                stop = gr.Button(words.STOP, size="sm", min_width=70, scale=0, elem_id="generate-stop")
            form = _build_form(space)
        with gr.Column(scale=3, min_width=480):
            progress = gr.HTML(empty(words.NOTHING_YET), elem_id="generate-progress")
            batch = gr.State(None)
            with gr.Column(visible=False, elem_id="generate-preview") as group:
                table = gr.Dataframe(
                    headers=words.HEADERS, datatype=["bool", "number", "str", "str", "str"], type="array", interactive=True, static_columns=[1, 2, 3, 4],
                    max_height=380, show_label=False, elem_id="generate-table", wrap=True, column_widths=["7%", "7%", "38%", "32%", "16%"], buttons=[], max_chars=120,
                )  # fmt: skip
                with gr.Row():
                    bring = gr.Button(words.TAKE, variant="primary", size="sm", min_width=160, elem_id="generate-take")
                    throw = gr.Button(words.THROW, size="sm", min_width=110, scale=0, elem_id="generate-throw")
            refused = gr.HTML(elem_id="generate-refused")

    filled = [progress, batch, group, table, refused, bring]

    def pressed(request: gr.Request, *values: Any) -> Iterator[list[Any]]:
        yield from stream(space, writers, str(request.session_hash), values)

    def halted(request: gr.Request) -> Any:
        return gr.skip() if writers.stop(str(request.session_hash)) else note(words.NOTHING_TO_STOP, "warn")

    start.click(pressed, form, filled, show_progress="hidden", concurrency_limit=10, concurrency_id="writing")
    stop.click(shown(halted), None, bench.message, **QUIET)
    table.input(shown(_label), [batch, table], bring, **QUIET)
    throw.click(shown(lambda: closed(note(words.THROWN))), None, filled, **QUIET)
    bring.click(shown(lambda *given: take(bench, *given)), [batch, table, *bench.inputs], [*bench.outputs, *filled], show_progress="hidden")
    tool = form[1]
    bench.drawn_when_seen("generate", lambda now: [_tools(space, now)], [tool], [tool])


def _label(batch: Batch | None, table: Any) -> Any:
    """The button's words, with how many rows would come in."""
    try:
        return words.take(len(chosen_rows(batch, table or [])))
    except DataError:
        return words.TAKE


def _tools(space: Workspace, now: str | None) -> Any:
    names = tool_names(space)
    return gr.Dropdown(choices=names, value=now if now in names else (names[0] if names else None))


def _build_form(space: Workspace) -> list[Any]:
    """The form's components, in the order of `read_form`'s parameters; what a source does not need is hidden."""
    names = tool_names(space)
    source = gr.Radio([words.FAMILIES, words.LOCAL, words.ENDPOINT], value=words.FAMILIES, label=words.SOURCE, elem_id="generate-source")
    with gr.Row():
        tool = gr.Dropdown(names, value=names[0] if names else None, label=words.TOOL, scale=2, min_width=200, elem_id="generate-tool")
        count = gr.Number(20, precision=0, label=words.COUNT, min_width=70, elem_id="generate-count")
        seed = gr.Number(42, precision=0, label=words.SEED, min_width=70, elem_id="generate-seed")
    kind = gr.Radio(words.KINDS, value="call", label=words.KIND, visible=False, elem_id="generate-kind")
    chosen = gr.Dropdown(topics(), value=[], multiselect=True, allow_custom_value=True, label=words.TOPICS, info=words.TOPICS_INFO, elem_id="generate-topics")
    language = gr.Dropdown(list(LANGUAGES), value="Russian", allow_custom_value=True, label=words.LANGUAGE, visible=False, elem_id="generate-language")
    with gr.Group(visible=True) as families:
        calls = gr.CheckboxGroup(_ticks("call"), value=_usual("call"), label=words.CALLS, elem_id="generate-calls")
        texts = gr.CheckboxGroup(_ticks("text"), value=_usual("text"), label=words.TEXTS, elem_id="generate-texts")
    local = gr.HTML(note(words.LOCAL_HELP), visible=False)
    with gr.Column(visible=False) as remote:
        with gr.Row():
            address = gr.Textbox(label=words.ADDRESS, placeholder=words.ADDRESS_PLACEHOLDER, max_lines=1, scale=2, min_width=200, elem_id="generate-address")
            model = gr.Textbox(label=words.MODEL, placeholder=words.MODEL_PLACEHOLDER, max_lines=1, min_width=120, elem_id="generate-model")
        with gr.Row():
            max_requests = gr.Number(20, precision=0, label=words.MAX_REQUESTS, min_width=100, elem_id="generate-max-requests")
            max_tokens = gr.Number(50_000, precision=0, label=words.MAX_TOKENS, min_width=100, elem_id="generate-max-tokens")
        key = gr.HTML(note(words.key(key_name(""))), elem_id="generate-key")

    source.change(shown(_visible), source, [families, kind, language, local, remote], **QUIET)
    address.change(shown(_key), address, key, **QUIET)
    return [source, tool, kind, calls, texts, chosen, language, count, seed, address, model, max_requests, max_tokens]


def _visible(source: str) -> list[Any]:
    model = source in (words.LOCAL, words.ENDPOINT)
    return [gr.update(visible=v) for v in (source == words.FAMILIES, model, model, source == words.LOCAL, source == words.ENDPOINT)]


def _key(address: str) -> str:
    try:
        return note(words.key(key_name(address or "")))
    except ValueError:  # half an address
        return note(words.key(""))


def _ticks(kind: str) -> list[tuple[str, str]]:
    return [(f.title, f.key) for f in FAMILIES if f.kind == kind]


def _usual(kind: str) -> list[str]:
    return [f.key for f in FAMILIES if f.kind == kind and f.key in CHOSEN]
