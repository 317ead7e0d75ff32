"""The measurement on prompts that no row holds: the rates, every wrong reply, and a wrong reply as a new draft row."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import gradio as gr

from workbench.dataset.changes import RowSet
from workbench.engine.client import Ticket
from workbench.engine.turns import asked_by
from workbench.errors import InputError, WorkbenchError, sentence_case
from workbench.evaluation.failures import add_drafts, row_of_miss
from workbench.evaluation.report import MALFORMED_COUNTS, TITLES, Bent, expected_text, got_text, rate_text
from workbench.evaluation.scores import Scored, score, score_reply
from workbench.models.catalog import display_name, is_merged
from workbench.settings import Sampling
from workbench.training.measured import keep_measurement
from workbench.ui import words
from workbench.ui.data.bench import Bench
from workbench.ui.errors import sentence, shown
from workbench.ui.header import waiting_words
from workbench.ui.highlight import escape, facts, note
from workbench.ui.quiet import STREAM
from workbench.ui.room import Room
from workbench.workspace import Workspace


class Misses:
    """The wrong replies of one measurement. Told from another by identity alone: gradio compares states by their hash."""

    def __init__(self, found: Sequence[Scored]) -> None:
        self.found = tuple(found)


def measure(
    space: Workspace, run: str | None, *, adapted: bool, constrain: bool = False, begun: Callable[[Ticket], None] = lambda _: None,
    model: str | None = None, page: str = "",
) -> Generator[str, None, Misses]:
    """Answers all cases and yields the progress, then the table of rates with every wrong reply; returns the misses.

    Without a `run` a merged `model` may be measured.

    With `constrain` calls are bound; what that gives is shown and not kept: beside other adapters' figures it would mislead.

    `begun` gets the job, for a Stop button; `page` is whose turn it takes. Closing the generator (the page was closed) stops the job too.
    """
    cases, dialect = space.cases("cases.jsonl"), space.form(run or model).dialect
    with asked_by(page):
        ticket = space.jobs.evaluate(cases, run=run, adapted=adapted, sampling=Sampling(max_new_tokens=64, constrain=constrain), model=model)
    begun(ticket)
    try:
        while not ticket.finished.is_set():
            yield note(f"{ticket.label}: {waiting_words(space, ticket)}")
            ticket.wait_change(1.0)
    finally:
        if not ticket.finished.is_set():
            space.engine.stop(ticket)
    done = ticket.wait()
    scored = [score_reply(c, r, dialect) for c, r in zip(cases, done["replies"], strict=True)]
    scores = score(scored)
    if run and adapted and not constrain:
        keep_measurement(space.runs, run, scored, "cases.jsonl")
    wrong = "".join(
        note(f"{s.case.prompt} — expected {expected_text(s)}, got: {got_text(s)}", "warn") for s in scored if not s.right
    )
    bent = note(f"{sentence_case(Bent.of_replies(done['constrained']).text())}. {words.MEASURE_BOUND}") if constrain else ""
    name = run if run and adapted else display_name(model) if model else words.BASE
    yield f"<b>{escape(name)}</b>" + facts((title, rate_text(getattr(scores, name))) for name, title in TITLES.items()) + bent + wrong
    return Misses([s for s in scored if not s.right])


def measure_key(request: gr.Request, with_adapter: bool) -> str:
    """Where the room keeps a page's measurement."""
    return f"{request.session_hash}/measure/{with_adapter}"


def build(space: Workspace, room: Room, bench: Bench, run: gr.Dropdown) -> None:
    """The panel's components and their wires; `run` is the chat's choice of adapter."""
    with gr.Accordion("Measure on unseen prompts", open=False, elem_id="measure"):
        gr.Markdown(f"{words.MEASURE_HELP} {MALFORMED_COUNTS}")
        with gr.Row(equal_height=True):
            measure_run = gr.Button(f"{words.MEASURE}: adapted", scale=4, elem_id="measure-adapted")
            measure_base = gr.Button(f"{words.MEASURE}: base", scale=4, elem_id="measure-base")
            stop = gr.Button(words.CHAT_STOP, scale=1, min_width=60, elem_id="measure-stop")
            constrain = gr.Checkbox(False, label=str(Sampling.model_fields["constrain"].title), scale=1, min_width=130, elem_id="measure-bind")
        with gr.Row():
            result_run, result_base = gr.HTML(elem_id="scores-adapted"), gr.HTML(elem_id="scores-base")
        misses = gr.State(None)
        with gr.Row(equal_height=True):
            chosen = gr.CheckboxGroup([], label=words.MISSES, visible=False, scale=5, elem_id="misses")
            take = gr.Button(words.TAKE_MISSES, visible=False, scale=1, min_width=180, elem_id="take-misses")
        said = gr.HTML(elem_id="misses-message")
    quiet: dict[str, Any] = {"show_progress": "hidden"}
    measure_run.click(_measured(space, room, True), [run, constrain], [result_run, misses, chosen, take], **STREAM)
    measure_base.click(_measured(space, room, False), [run, constrain], [result_base, misses, chosen, take], **STREAM)

    def halt(request: gr.Request) -> None:
        for with_adapter in (True, False):
            ticket = room.leave(measure_key(request, with_adapter))
            if ticket is not None:
                space.engine.stop(ticket)

    def taken(found: Misses | None, picked: Sequence[int], count: float) -> list[Any]:
        try:
            rows, what = take_misses(space, found, picked)
        except WorkbenchError as exc:
            return [note(str(exc), "warn"), gr.skip(), gr.skip()]
        return [note(what, "ok"), rows.version, count + 1]

    stop.click(shown(halt), None, None, **quiet)
    take.click(shown(taken), [misses, chosen, bench.changed], [said, bench.version, bench.changed], **quiet)


def take_misses(space: Workspace, found: Misses | None, picked: Sequence[int]) -> tuple[RowSet, str]:
    """Add the picked misses to the set as drafts; raises `InputError` where none is picked."""
    rows = [row_of_miss(s) for i, s in enumerate(found.found if found else ()) if i in set(picked)]
    if not rows:
        raise InputError(words.NO_MISS_PICKED)
    after, said = add_drafts(space.rows, rows)
    return after, f"{said} {words.MISS_LEAKS}"


def _measured(space: Workspace, room: Room, with_adapter: bool) -> Any:
    def pressed(request: gr.Request, chosen: str | None, constrain: bool = False) -> Iterator[list[Any]]:
        untouched = [gr.skip()] * 3
        key, mine = measure_key(request, with_adapter), list[Ticket]()

        def begun(ticket: Ticket) -> None:
            before = room.leave(key)
            if before is not None:  # pressed twice: Stop must find the one that goes on
                space.engine.stop(before)
            mine.append(ticket)
            room.enter(key, ticket)

        if with_adapter and (not chosen or chosen not in space.voices()):
            yield [note(words.CHAT_NO_ADAPTER, "warn"), *untouched]
            return
        try:
            run = chosen if chosen in space.adapters() else None
            merged = chosen if with_adapter and is_merged(chosen) else None
            steps = measure(space, run, adapted=with_adapter and not merged, constrain=constrain, begun=begun, model=merged, page=str(request.session_hash))
            picture = ""
            while True:
                try:
                    picture = next(steps)
                except StopIteration as end:
                    yield [picture, *_misses_shown(end.value)]
                    return
                yield [picture, *untouched]
        except Exception as exc:
            yield [note(sentence(exc), "bad"), *untouched]
        finally:
            for ticket in mine:
                room.leave(key, ticket)

    return pressed


def _misses_shown(misses: Misses) -> list[Any]:
    choices = [(f"{s.case.prompt[:80]} ({s.verdict})", i) for i, s in enumerate(misses.found)]
    some = bool(choices)
    return [misses, gr.CheckboxGroup(choices=choices, value=[i for _, i in choices], visible=some), gr.Button(visible=some)]
