"""Writing rows for the panel: from families, with the loaded model or with an endpoint, as a stream of steps that can be stopped."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from workbench.dataset import endpoint as endpoints
from workbench.dataset import families
from workbench.dataset.checks import KEPT_APART
from workbench.dataset.endpoint import Endpoint, Written
from workbench.dataset.generate import Refused, Request, admit, make_request, prompt, read_reply, reply_schema
from workbench.engine.client import Ticket
from workbench.errors import InputError, WorkbenchError
from workbench.schema import Example, ToolSpec
from workbench.settings import Sampling
from workbench.ui.header import waiting_words
from workbench.ui.words import generate as words
from workbench.workspace import Workspace

LOCAL_BATCH = 5  # rows in one reply of the loaded model
LOCAL_TOKENS_A_ROW = 200
TICK = 0.25  # seconds between two looks at a job


@dataclass(frozen=True)
class Asked:
    """What the form asks for."""

    source: str
    tool: ToolSpec
    kind: str = "call"
    families: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    language: str = "Russian"
    count: int = 20
    seed: int = 42
    endpoint: Endpoint = field(default=Endpoint("", ""))


@dataclass(frozen=True)
class Step:
    """How far the writing is. `share` counts 0 to 1; `done` with the rows to look at, `failed` where a fault ended it."""

    text: str = ""
    share: float = 0.0
    rows: tuple[Example, ...] = ()
    refused: tuple[Refused, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    done: bool = False
    failed: bool = False

    @property
    def seconds_left(self) -> float | None:
        """How long it still takes at the pace so far; None where that can't be said."""
        return self.seconds * (1 - self.share) / self.share if 0 < self.share < 1 and self.seconds > 1 else None


def kept_apart(space: Workspace) -> tuple[list[str], tuple[str, ...]]:
    """(prompts that no row may repeat, notes on files of them that can't be read)."""
    prompts: list[str] = []
    notes: list[str] = []
    for name in KEPT_APART:
        try:
            prompts += [case.prompt for case in space.cases(name)]
        except WorkbenchError as exc:
            notes.append(words.NOT_COMPARED.format(name=f"data/{name}", reason=exc))
    return prompts, tuple(notes)


def write(space: Workspace, asked: Asked, stop: threading.Event) -> Iterator[Step]:
    """Write rows; the last step is `done` and holds them. `stop` ends it with what there is; so does closing the generator.

    Raises `WorkbenchError` for what can't be asked for.
    """
    begun = time.monotonic()
    writer = {words.FAMILIES: _with_families, words.LOCAL: _with_model, words.ENDPOINT: _with_endpoint}[asked.source]
    for step in writer(space, asked, stop):
        yield Step(**vars(step) | {"seconds": time.monotonic() - begun})


def _with_families(space: Workspace, asked: Asked, stop: threading.Event) -> Iterator[Step]:
    if not asked.families:
        raise InputError(words.NO_FAMILY)
    forbidden, notes = kept_apart(space)
    existing = space.rows.read().rows
    avoid = [*forbidden, *(row.request for row in existing)]
    made = families.generate(asked.tool, families=asked.families, topics=asked.topics, count=asked.count, seed=asked.seed, avoid=avoid)
    # The families keep to the schema where they can; what it still refuses (a pattern, say) is told.
    let_in = admit(made, existing, forbidden, [asked.tool])
    ended = _fewer(len(let_in.rows), asked.count, words.RUN_OUT if len(made) < asked.count else "")
    yield Step(ended, 1.0, let_in.rows, let_in.refused, notes, done=True)


def _with_model(space: Workspace, asked: Asked, stop: threading.Event) -> Iterator[Step]:
    request = _request(asked)
    forbidden, notes = kept_apart(space)
    existing = space.rows.read().rows
    part = Request(request.tool, request.kind, request.language, request.topic, min(LOCAL_BATCH, request.count))
    turns = [prompt(part, existing) for _ in range(math.ceil(request.count / part.count))]
    sampling = Sampling(greedy=False, temperature=0.9, top_p=0.95, top_k=64, seed=asked.seed, max_new_tokens=LOCAL_TOKENS_A_ROW * part.count)
    ticket = space.jobs.generate(turns, reply_schema(part, bounded=True), run=None, sampling=sampling)
    try:
        while not ticket.finished.is_set():
            if stop.is_set() and not ticket.stop_asked:
                space.engine.stop(ticket)
            yield Step(words.STOPPING if stop.is_set() else _said(space, ticket), ticket.share or 0.0)
            ticket.finished.wait(TICK)
    finally:
        if not ticket.finished.is_set():
            space.engine.stop(ticket)
    if stop.is_set() and ticket.result is None:  # taken back before it began
        yield Step(words.STOPPED, 1.0, notes=notes, done=True)
        return
    yield _judged(ticket.wait()["replies"], request, part, existing, forbidden, notes, f"{space.model_name}")


def _said(space: Workspace, ticket: Ticket) -> str:
    written = sum(len(text) for text in ticket.texts)
    return waiting_words(space, ticket) + (f" {written:,} characters in hand" if written else "")


def _judged(
    replies: Sequence[dict[str, object]], request: Request, part: Request, existing: Sequence[Example], forbidden: Sequence[str],
    notes: tuple[str, ...], model: str,
) -> Step:
    """The loaded model's replies as rows and refusals."""
    rows: list[Example] = []
    refused: list[Refused] = []
    why = {"length": " (the reply was cut at its length limit)", "stopped": " (the reply was stopped)"}
    for reply in replies:
        if reply["ended"] == "stopped" and not str(reply["text"]).strip():
            continue  # it had not begun
        found, bad = read_reply(str(reply["text"]), part, model)
        rows += found
        refused += [Refused(r.request, r.reason + why.get(str(reply["ended"]), "")) for r in bad]
    let_in = admit(rows, existing, forbidden, [request.tool])
    taken = let_in.rows[: request.count]
    halted = any(reply["ended"] == "stopped" for reply in replies)
    text = _fewer(len(taken), request.count, words.STOPPED if halted else "")
    return Step(text, 1.0, taken, (*refused, *let_in.refused), notes, done=True)


def _with_endpoint(space: Workspace, asked: Asked, stop: threading.Event) -> Iterator[Step]:
    request, endpoint = _request(asked), endpoints.check_endpoint(asked.endpoint)
    forbidden, notes = kept_apart(space)
    existing = space.rows.read().rows
    told: queue.Queue[Written | None] = queue.Queue()
    halt = threading.Event()  # closing the page stops this writing alone
    ended: list[Written | Exception] = []

    def work() -> None:
        try:
            ended.append(endpoints.write_rows(
                endpoint, request, existing, forbidden, progress=told.put, stop=lambda: stop.is_set() or halt.is_set(),
            ))  # fmt: skip
        except Exception as exc:  # told in the panel's thread
            ended.append(exc)
        told.put(None)

    threading.Thread(target=work, name="endpoint-writer", daemon=True).start()
    now: Written | None = Written()
    try:
        while now is not None:
            yield Step(words.STOPPING if stop.is_set() else _paid(now), len(now.rows) / request.count)
            try:
                now = told.get(timeout=1.0)
            except queue.Empty:
                continue
    finally:
        halt.set()
    result = ended[0]
    if isinstance(result, Exception):
        raise result
    text = f"{result.ended} {_fewer(len(result.rows), request.count, '')}" if len(result.rows) < request.count else result.ended
    yield Step(f"{text} {_paid(result)}", 1.0, result.rows, result.refused, (*notes, *result.notes), done=True, failed=result.failed)


def _paid(now: Written) -> str:
    return f"{words.counted(len(now.rows), 'row')}, {len(now.refused)} refused · {words.counted(now.requests, 'request')}, {words.counted(now.tokens, 'token')}"


def _request(asked: Asked) -> Request:
    return make_request(asked.tool, asked.kind, asked.language, ", ".join(asked.topics), asked.count)


def _fewer(written: int, wanted: int, why: str) -> str:
    if written >= wanted:
        return words.ALL_WRITTEN
    return f"{why} {words.FEWER.format(written=written, asked=wanted)}".strip()
