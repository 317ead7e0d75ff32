"""The jobs that answer: a conversation in several lanes, two voices together, the cases of an evaluation, rows to be written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from workbench.calls.dialect import Dialect
from workbench.calls.prompting import PLAIN, CallForm
from workbench.calls.tools import parse_specs
from workbench.engine.bases import Key, Proven, Report
from workbench.engine.messages import AnswerJob, EvaluateJob, GenerateJob, TogetherJob
from workbench.errors import AdapterError, InputError, WorkbenchError
from workbench.models.decoding import Bound, Lane, Reply, generate, release, room_for, together
from workbench.models.loading import Base
from workbench.models.passes import watch_passes
from workbench.models.watched import StoppedLoadingError
from workbench.training.batching import alike
from workbench.training.merged import model_form, voice_form

if TYPE_CHECKING:
    from workbench.engine.jobs import Host

MAX_PROMPT_TOKENS = 8192  # a pasted book must not take the engine down
BATCH = 10  # prompts answered at once in an evaluation, at most
BATCH_TOKENS = 16_384  # of such a batch at most, its padding and the room for the replies included: what a training step holds by default
CARD_BATCH = 128  # the same on a card, where its free memory allows
KEPT_BYTES = 2**30  # a decoding cache up to this size outlives its evaluation
WRITERS = 4  # replies of generated rows that are written at once


def run_answer(host: Host, job: AnswerJob, report: Report) -> dict[str, Any]:
    """Answer in every lane at once: `replies`, and by how much the adapter moves the logits."""
    base = _base_of(host, job, report)
    lanes = _lanes(host, base, job, report)
    report.progress("answering", None)
    replies = generate(base, lanes, job.sampling, on_text=report.texts, stop=report.stop, say=_says(report))
    return _told(job, host.proven, lanes, replies)


def run_together(host: Host, job: TogetherJob, report: Report) -> dict[str, Any]:
    """Answer both parts together; `parts` holds the result of each. Two adapters of one base are one batch; two bases take a token each in turns.

    Where the memory does not hold both bases, one part comes after the other, and it is said. A part that can't be answered has an
    `error` in the place of its replies; raises `WorkbenchError` where neither can.
    """
    try:
        ready = _ready(host, job, report)
    except StoppedLoadingError:
        raise
    except WorkbenchError:
        ready = None  # alone, each tells whose fault it is
    if ready is None:
        return _one_by_one(host, job, report)
    report.progress("answering", None)
    (base, lanes, moved), (other, others, other_moved) = ready
    sampling = job.parts[0].sampling
    if base is other:
        replies = generate(base, [*lanes, *others], sampling, on_text=report.texts, stop=report.stop, say=_says(report))
        made = [replies[: len(lanes)], replies[len(lanes) :]]
    else:
        with contextlib.ExitStack() as watching:  # the other one is in hand, and watched
            watching.callback(watch_passes(base.raw, host.got_on))
            made = together([(base, lanes), (other, others)], sampling, on_text=report.texts, stop=report.stop, say=_says(report))
    return {"parts": [_told(job.parts[0], moved, lanes, made[0]), _told(job.parts[1], other_moved, others, made[1])]}


Ready = tuple[Base, list[Lane], dict[str, Proven]]  # what a part is answered on, its lanes, and what is known of the base's adapters


def _ready(host: Host, job: TogetherJob, report: Report) -> list[Ready] | None:
    """Both parts as they can be answered at once; None where the memory does not hold both bases."""
    keys = [_key_of(host, part) for part in job.parts]
    if keys[0] == keys[1]:
        base = _base_with(host, job.parts, report)
        return [(base, _lanes(host, base, part, report), host.proven) for part in job.parts]
    host.make_room(keys, report)
    base = _base_of(host, job.parts[0], report)
    if not host.room_beside(keys[1]):
        report.progress("one answers after the other: the memory does not hold both", None)
        return None
    found = [(base, _lanes(host, base, job.parts[0], report), host.proven)]
    other = _base_of(host, job.parts[1], report)
    if host.beside is None or host.beside.base is not base:  # it had to go for the other one after all
        return None
    return [*found, (other, _lanes(host, other, job.parts[1], report), host.proven)]


def _one_by_one(host: Host, job: TogetherJob, report: Report) -> dict[str, Any]:
    """Each part by itself; the first one's texts stay when the second can't be answered, or is stopped before its turn."""
    results: list[dict[str, Any]] = []
    faults: list[WorkbenchError] = []
    said = [[""] * len(part.lanes) for part in job.parts]
    for place, part in enumerate(job.parts):

        def tell(texts: list[str], place: int = place) -> None:
            said[place] = texts
            report.texts([text for part in said for text in part])

        if place and report.stop():
            stopped = vars(Reply("", 0, 0.0, 0.0, "stopped"))
            results.append({"replies": [stopped for _ in part.lanes], "adapter_difference": None})
            continue
        try:
            results.append(run_answer(host, part, replace(report, texts=tell)))
            said[place] = [reply["text"] for reply in results[-1]["replies"]]  # whole: an unfinished character is not told while it is written
        except WorkbenchError as exc:
            if isinstance(exc, StoppedLoadingError):
                if not place:
                    raise
                host.drop()
                host.tell(report)
            faults.append(exc)
            results.append({"replies": [], "adapter_difference": None, "error": str(exc)})
    if len(faults) == len(job.parts):
        raise faults[0]
    return {"parts": results}


def _key_of(host: Host, job: AnswerJob) -> Key:
    if job.run is None:
        return host.key_of(job.model, job.quantization)
    info = host.finished_adapter(job.run)[0]
    return host.key_of(info.model, info.settings.quantization)


def _base_of(host: Host, job: AnswerJob | EvaluateJob | GenerateJob, report: Report) -> Base:
    """The job's base, with its adapter on it (the run's own model and quantization), proven active."""
    return _base_with(host, [job], report)


def _base_with(host: Host, jobs: Sequence[AnswerJob | EvaluateJob | GenerateJob], report: Report) -> Base:
    """The one base of several jobs, with the adapters of all on it."""
    for job in jobs:
        if job.run is None and (isinstance(job, EvaluateJob) and job.adapted or isinstance(job, AnswerJob) and any(job.lanes)):
            raise AdapterError("No adapter is named: choose the run whose adapter should answer.")
    runs = list(dict.fromkeys(job.run for job in jobs if job.run is not None))
    return host.ensure_adapters(runs, report) if runs else host.ensure_base(jobs[0].model, jobs[0].quantization, report, beside=True)


def _number(base: Base, run: str | None) -> int:
    """The number that lanes name an adapter on the base by; 0 for none."""
    return base.adapters.index(run) + 1 if run is not None else 0


def _moved(proven: dict[str, Proven], run: str | None) -> float | None:
    """By how much the adapter moves the logits."""
    return proven[run].difference if run is not None else None


def _lanes(host: Host, base: Base, job: AnswerJob, report: Report) -> list[Lane]:
    form = _form(host, job)
    prompts = [_prompt(base, turns, form) for turns in job.prompts] or [_prompt(base, job.turns, form)] * len(job.lanes)
    bound = _bound(base, job, form.dialect, report)
    number = _number(base, job.run)
    keep, stops = form.dialect.control, (*form.dialect.stops, *job.stops)
    return [Lane(prompt, number if adapted else 0, bound(), keep, stops) for prompt, adapted in zip(prompts, job.lanes, strict=True)]


def _told(job: AnswerJob, proven: dict[str, Proven], lanes: Sequence[Lane], replies: Sequence[Reply]) -> dict[str, Any]:
    told = [vars(reply) | _bent(lane) for reply, lane in zip(replies, lanes, strict=True)]
    return {"replies": told, "adapter_difference": _moved(proven, job.run)}


def _form(host: Host, job: AnswerJob | EvaluateJob) -> CallForm:
    """How the conversations of a job are written: as its adapter, its merged model or the voice that it names was taught, or as a base that nothing was."""
    voice = job.run or (job.form_of if isinstance(job, AnswerJob) else None)
    return voice_form(host.runs, host.catalog, voice) if voice is not None else model_form(host.catalog, job.model)


def _bound(base: Base, job: AnswerJob | EvaluateJob, dialect: Dialect, report: Report) -> Callable[[], Bound | None]:
    """Makes what binds the calls of a reply; nothing where the job leaves them free."""
    if not job.sampling.constrain:
        return lambda: None
    from workbench.models.call_bound import CallGrammar  # its compiler takes a while, and few need it

    report.progress("reading the tools that calls are bound to", None)
    return CallGrammar(base, dialect, parse_specs(list(job.tools))).bound


def run_evaluation(host: Host, job: EvaluateJob, report: Report) -> dict[str, Any]:
    """Answer every prompt, in batches of like length; raises `WorkbenchError` where it was stopped."""
    base = _base_of(host, job, report)
    form = _form(host, job)
    dialect = form.dialect
    prompts = [_prompt(base, turns, form) for turns in job.prompts]
    bound = _bound(base, job, dialect, report)
    number = _number(base, job.run) if job.adapted else 0
    replies: dict[int, Reply] = {}
    bent: dict[int, dict[str, Any]] = {}
    lengths = [len(p) + job.sampling.max_new_tokens for p in prompts]
    budget, most = _batch(base, lengths)
    counted = _Counted(report, len(prompts), job.sampling.max_new_tokens)
    for chunk in alike(lengths, budget, most=most):
        counted.begin(len(replies), len(chunk))
        lanes = [Lane(prompts[i], number, bound(), dialect.control, dialect.stops) for i in chunk]
        made = [] if report.stop() else generate(base, lanes, job.sampling, stop=report.stop, say=counted.say, on_step=counted.step)
        if not made or any(reply.ended == "stopped" for reply in made):
            # The finished ones are no sample of the whole: short prompts come first, and short replies end first.
            raise WorkbenchError(f"The evaluation was stopped after {counted.answered} of {len(prompts)} prompts. It gives no figures: they need all of them.")
        replies |= dict(zip(chunk, made, strict=True))
        bent |= {i: _bent(lane) for i, lane in zip(chunk, lanes, strict=True)}
    release(above=KEPT_BYTES)
    told = {"constrained": [bent[i]["constrained"] for i in range(len(prompts))]} if job.sampling.constrain else {}
    return {"replies": [replies[i].text for i in range(len(prompts))], "adapter_difference": _moved(host.proven, job.run)} | told


class _Counted:
    """Tells how far an evaluation is while a batch is decoded: a reply counts once it has ended, the others by their tokens so far."""

    def __init__(self, report: Report, total: int, longest: int) -> None:
        self.report, self.total, self.longest = report, total, longest
        self.before = self.lanes = self.answered = 0
        self.notice, self.told = "", ("", -1)

    def begin(self, before: int, lanes: int) -> None:
        """A batch of so many lanes begins, and so many prompts were answered before it."""
        self.before, self.lanes, self.answered = before, lanes, before
        if not before:  # without a share: reading the prompts, and what a first batch has to set up, says nothing of the pace
            self.report.progress(self._text(), None)

    def step(self, finished: int, steps: int) -> None:
        """So many lanes are finished, after so many steps."""
        finished = self.lanes if steps >= self.longest else finished
        self.answered = self.before + finished
        share = (self.answered + (self.lanes - finished) * steps / self.longest) / self.total
        told = self._text(), int(100 * share)
        if told != self.told:  # a message at every token would be more than anybody sees
            self.told = told
            self.report.progress(told[0], share)

    def say(self, text: str) -> None:
        """Take a notice of decoding along, which the next step would wipe away."""
        self.notice = f" ({text.rstrip('.')})"
        self.report.progress(text, None)

    def _text(self) -> str:
        return f"answered {self.answered} of {self.total} prompts{self.notice}"


def run_generation(host: Host, job: GenerateJob, report: Report) -> dict[str, Any]:
    """Replies that are bound to the job's form; a stop keeps those that were begun, marked as "stopped"."""
    from workbench.models.constrained import Grammar  # its compiler takes a while, and only this job needs it

    base = _base_of(host, job, report)
    prompts = [_prompt(base, turns) for turns in job.prompts]
    report.progress("reading the form that replies must have", None)
    grammar = Grammar(base, job.form)
    number = _number(base, job.run)
    replies: list[Reply] = []
    for start in range(0, len(prompts), WRITERS):
        if report.stop():
            break
        report.progress(f"wrote {len(replies)} of {len(prompts)} replies", len(replies) / len(prompts))
        lanes = [Lane(ids, number, grammar.bound()) for ids in prompts[start : start + WRITERS]]
        # Another seed for each batch, or like prompts would get the same reply again.
        sampling = job.sampling.model_copy(update={"seed": (job.sampling.seed + start) % 2**31})
        replies += generate(base, lanes, sampling, on_text=report.texts, stop=report.stop, say=_says(report))
    return {"replies": [vars(r) for r in replies], "adapter_difference": _moved(host.proven, job.run)}


def _bent(lane: Lane) -> dict[str, Any]:
    """What the bound of a finished reply changed: at how many steps it forbade the likeliest token; nothing for a free reply."""
    if lane.bound is None:
        return {}
    from workbench.models.call_bound import CallBound

    assert isinstance(lane.bound, CallBound)
    count, first = lane.bound.changes()
    return {"constrained": {"changed": count, "first": [vars(change) for change in first]}}


def _prompt(base: Base, turns: Sequence[dict[str, str]], form: CallForm = PLAIN) -> tuple[int, ...]:
    ids = tuple(base.tokenizer.prompt_ids(turns, allowed=form.dialect.control))
    most = min(MAX_PROMPT_TOKENS, _context(base) - 1)
    if len(ids) > most:
        raise InputError(f"The prompt has {len(ids):,} tokens; {most:,} are allowed here. Shorten it, or begin a new conversation.")
    return ids


def _context(base: Base) -> int:
    """Tokens that the model was made for; as many as are allowed anyway where it does not say."""
    config = getattr(base.raw.config, "text_config", base.raw.config)
    known = getattr(config, "max_position_embeddings", None)
    return known if isinstance(known, int) and known > 1 else MAX_PROMPT_TOKENS + 1


def _batch(base: Base, lengths: Sequence[int]) -> tuple[int, int]:
    """Tokens and prompts at most in a batch of an evaluation, by the card's free memory where there is a card."""
    if base.device.type != "cuda" or not lengths:
        return BATCH_TOKENS, BATCH
    most = room_for(base, max(lengths), most=CARD_BATCH)
    return most * max(lengths), most


def _says(report: Report) -> Callable[[str], None]:
    """Where decoding says that it goes a slower way: in the job's progress."""
    return lambda text: report.progress(text, None)
