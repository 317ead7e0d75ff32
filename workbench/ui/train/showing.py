"""One run as HTML: where it stands, what it says now, its figures, its story. All that a run or a row says is escaped."""

from __future__ import annotations

import math
import time

from workbench.calls.dialects import DIALECTS, TAG, Dialect, calls_in
from workbench.engine.client import Ticket
from workbench.engine.messages import TrainJob, UnloadJob
from workbench.errors import sentence_case
from workbench.settings import RunSettings
from workbench.training import events
from workbench.training.calibration import estimate_against_measured
from workbench.training.runs import AT_BEST, RunView
from workbench.training.smaller import next_smaller
from workbench.training.tracker import PROJECT
from workbench.ui import words as common
from workbench.ui.chat.cards import brief_reply_html
from workbench.ui.header import freeing_words, waiting_words
from workbench.ui.highlight import bar, chip, empty, escape, facts, note, verdict_chip, verdict_of
from workbench.ui.train.run_charts import best_step
from workbench.ui.words import train as words
from workbench.workspace import Workspace

STATE_KIND = {"waiting": "warn", "running": "warn", "finished": "ok", "stopped": "text", "failed": "bad", "interrupted": "bad"}
LOGGED = 400  # lines of a log that the page gets


def state_chip(state: str, told: str = "") -> str:
    """The state as a pill; `told` is what to call it where the state's own word does not say all."""
    return chip(told or common.STATE_WORDS.get(state, state), STATE_KIND.get(state, ""))


def ticket_of(space: Workspace, view: RunView) -> Ticket | None:
    """The run's own job, in hand or waiting, if the engine here has one."""
    ticket = space.engine.training()
    return ticket if ticket is not None and getattr(ticket.job, "run", None) == view.folder.name else None


def _pill(view: RunView, ticket: Ticket | None) -> str:
    """What the run is at now, as far as the engine and the machine know more than its events."""
    if ticket is not None and ticket.stop_asked:
        return chip(words.STOPPING, "warn")
    if ticket is not None and ticket.begun is not None and view.state != "running":
        return chip(words.STARTING_CHIP, "warn")
    if ticket is not None and not view.live:  # to be resumed: its folder tells the end before
        return chip(words.RESUME_CHIP, "warn")
    return state_chip(view.state, words.ORPHAN_CHIP if view.orphaned else "")


def _says_the_name(ticket: Ticket) -> bool:
    """Whether it says no more than that it trains this run."""
    return isinstance(ticket.job, TrainJob) and ticket.progress == ticket.job.training


def progress_html(space: Workspace, view: RunView) -> str:
    """State, steps done, time left and the bar; what it waits for; for a run that ended, why, and what helps."""
    ticket = ticket_of(space, view)
    total = view.started.total_steps if view.started else 0
    done = view.steps[-1].step if view.steps else 0
    stopping = ticket is not None and ticket.stop_asked
    left = None if stopping or view.orphaned else view.seconds_left()
    parts = [f"<b>{escape(view.info.name)}</b>", _pill(view, ticket)]
    if total:
        parts.append(f"step {done} of {total}")
    if stopping:
        parts.append(words.STOPPING_AFTER if view.state == "running" and view.steps else words.STOPPING_SOON)
    elif ticket is not None and ticket.begun is not None and (view.state != "running" or not view.steps) and not _says_the_name(ticket):
        parts.append(escape(ticket.progress) + (f" {ticket.share:.0%}" if ticket.share else ""))
    if left is not None:
        parts.append(f"<b>{common.duration(left)} left</b>")
    if view.ended and view.ended.seconds and ticket is None:
        parts.append(f"took {common.duration(view.ended.seconds)}")
    line = "".join(f"<span>{part}</span>" for part in parts if part)
    return f'<div class="wb-runline">{line}</div>' + bar(done / total if total else 0.0, "run") + (outcome_html(space, view) if ticket is None else _waits(space, ticket))


def _waits(space: Workspace, ticket: Ticket) -> str:
    """Why a run has not begun: who holds the engine, for how long, its place, the ways out; nothing once its turn has come."""
    return note(sentence_case(waiting_words(space, ticket)), "warn") if ticket.begun is None and not ticket.stop_asked else ""


def freeing_html(space: Workspace) -> str:
    """That the memory is freed later, and what that waits for; nothing where nobody asked for it, or it is being done."""
    waiting = next((t for t in space.engine.queue() if isinstance(t.job, UnloadJob) and t.begun is None), None)
    return note(freeing_words(space, waiting), "warn") if waiting is not None else ""


def outcome_html(space: Workspace, view: RunView) -> str:
    """Why the run ended as it did, and what helps; while it goes on, only who has it where that is not this workbench."""
    go_on = words.GO_ON if view.resumable else words.BEGIN_ANEW
    if view.orphaned:
        return note(words.ORPHANED, "warn")
    if view.elsewhere:
        return note(words.ELSEWHERE.format(pid=view.info.owner.pid), "warn")
    if view.state == "interrupted":
        return note(f"{words.INTERRUPTED} {go_on}", "bad")
    ended = view.ended
    if ended is None:
        return ""
    made = note(_sentence(ended.reason), "bad" if view.state == "failed" else "warn") if ended.reason else ""
    if ended.cause in words.CAUSES:
        title, help_text = words.CAUSES[ended.cause]
        if ended.cause == "memory" and smaller_of(space, view) is None:
            help_text = words.NO_SMALLER
        named = "" if ended.cause == "early stop" else f"{sentence_case(title)}. "  # its reason has said so
        kept = words.ENDED_EARLY_KEPT.format(name=view.info.name + AT_BEST) if ended.cause == "early stop" and view.has_best else ""
        made += note(f"{named}{help_text.format(go_on=go_on)}{kept}")
    elif ended.adapter_difference is not None and not ended.reason:
        made += note(f"The adapter is active: it moves the base's logits by up to {ended.adapter_difference:.1f}.", "ok")
    return made


def _sentence(text: str) -> str:
    text = text.strip()
    return sentence_case(text) + ("" if text.endswith((".", "!", "?", "…")) else ".")


def smaller_of(space: Workspace, view: RunView) -> tuple[RunSettings, str] | None:
    """The settings that the run should be tried with next and what they change; None unless it ran out of memory."""
    if view.ended is None or view.ended.cause != "memory":
        return None
    return next_smaller(view.info.settings, space.has_gpu, largest_forward=max((s.tokens for s in view.steps), default=None))


# -- what it says now ------------------------------------------------------------------------------


def epoch_choices(view: RunView) -> list[tuple[str, int]]:
    """The measured epochs as choices, the newest (-1) first; the others are told by their step."""
    return [(words.NEWEST, -1), *((_when(sample), sample.step) for sample in reversed(view.samples))]


def _when(sample: events.Sampled) -> str:
    return words.EPOCH.format(epoch=round(sample.epoch, 2)) if sample.step else words.BEFORE


def says_html(view: RunView, step: int | None = -1) -> str:
    """The sample answers that were given after `step` optimizer steps; the newest for -1 and for a step without any."""
    samples = view.samples
    if not samples:
        off = view.info.settings.training.sample_every == 0
        nobody = view.started is not None and view.started.validation_rows == 0
        return empty(words.SAYS_OFF if off else words.SAYS_NOBODY if nobody else words.SAYS_NONE if view.live else words.SAYS_ENDED)
    sample = next((s for s in reversed(samples) if s.step == step), samples[-1])
    count = words.SAYS_RIGHT.format(right=sample.right, asked=sample.asked)
    head = f'<div class="wb-runline"><b>{escape(_when(sample))}</b>{bar(sample.right / sample.asked if sample.asked else 0.0, "calls")}</div>'
    body = "".join(_answer_html(answer, _dialect(view)) for answer in sample.answers)
    return f'<div class="wb-saysbox">{head}<div class="wb-dim">{escape(count)}. {escape(first_call_words(view))}</div>{body}</div>'


def _dialect(view: RunView) -> Dialect:
    """What the run's replies are written in."""
    return DIALECTS.get(view.info.dialect, TAG)


def _answer_html(answer: events.SampleAnswer, dialect: Dialect) -> str:
    wants = chip(words.SHOULD_CALL, "call") if should_call(answer) else chip(words.SHOULD_TEXT, "text")
    judged = f'<span class="wb-judged {"ok" if answer.right else "bad"}">{words.RIGHT if answer.right else words.WRONG}</span>'
    said = brief_reply_html(answer.reply, dialect) if answer.reply.strip() else f'<div class="wb-dim">{words.NO_REPLY}</div>'
    return (
        f'<div class="wb-said"><div class="wb-ask">{escape(answer.prompt)}</div>{said}'
        f'<div class="wb-foot">{verdict_chip(verdict_of(answer.reply, dialect))}{judged}{wants}</div>'
        f"<details><summary>{words.EXPECTED}</summary><pre>{escape(answer.expected)}</pre></details></div>"
    )


def should_call(answer: events.SampleAnswer) -> bool:
    return bool(calls_in(TAG.parse(answer.expected)))


def first_call_words(view: RunView) -> str:
    """When one of the sampled rows that should call did so for the first time, as a sentence."""
    wanting = [(s, a) for s in view.samples for a in s.answers if should_call(a)]
    if not wanting:
        return ""
    first = next((s for s, a in wanting if calls_in(_dialect(view).parse(a.reply))), None)
    if first is None:
        return words.NO_CALL_YET
    when = words.FIRST_IN.format(epoch=round(first.epoch, 2), step=first.step) if first.step else words.FIRST_BEFORE
    return words.FIRST_CALL.format(when=when)


# -- figures and story -----------------------------------------------------------------------------


def facts_html(view: RunView) -> str:
    """What the run says now: losses, pace, memory, parameters; for one that ended, the estimate beside the measurement."""
    started, steps = view.started, view.steps
    rows = [("rows", f"{view.info.data_rows} from {view.info.data_name}"), ("model", view.info.model_name)]
    rows += [("preset", view.info.preset_told)] if view.info.preset_told else []
    if started:
        rows += [("device", started.device), ("learned / held back", f"{started.train_rows} / {started.validation_rows}"),
                 ("trainable", f"{started.trainable_parameters:,} of {started.total_parameters:,}")]
    if steps:
        recent = steps[-5:]
        pace = sum(s.tokens for s in recent) / max(sum(s.seconds for s in recent), 1e-9)
        rows += [("train loss", f"{steps[0].loss:.3f} → {steps[-1].loss:.3f}"), ("speed", f"{pace:,.0f} tokens/s, {recent[-1].seconds:.2f} s a step"),
                 ("learning rate", f"{steps[-1].learning_rate:.2e}"), ("gradient norm", f"{steps[-1].gradient_norm:.2f}"),
                 ("memory", f"{max(s.memory_gib for s in steps):.1f} GiB" + (f", GPU {steps[-1].gpu_use:.0%} in use" if steps[-1].gpu_use is not None else ""))]
    measured = [v for v in view.validations if math.isfinite(v.loss)]
    if measured:
        best = min(measured, key=lambda v: v.loss)
        rows.append(("validation loss", f"{measured[-1].loss:.3f} (best {best.loss:.3f}, epoch {best.epoch:.0f})"))
    kept = best_step(view)
    if kept is not None:
        rows.append(("best adapter", f"after step {kept}"))
    rows += estimate_rows(view)
    if view.info.settings.training.tracker == "trackio":
        rows.append(("trackio", words.TRACKED.format(project=PROJECT)))
    return facts(rows)


def estimate_rows(view: RunView) -> list[tuple[str, str]]:
    """The plan's memory beside the measured peak, once the run is over and both are known."""
    found = estimate_against_measured(view) if view.ended else None
    if found is None:
        return []
    off = found.measured_gib / found.planned_gib - 1  # by how much the promise was missed, upwards
    return [(words.ESTIMATE, words.ESTIMATE_VALUE.format(estimated=found.planned_gib, measured=found.measured_gib, off=off))]


def log_html(view: RunView) -> str:
    """The run's story in plain words, newest first."""
    lines = [f"{time.strftime('%H:%M:%S', _clock(event.time))} {told}" for event in view.happened if (told := told_of(event))]
    shown = list(reversed(lines))[:LOGGED]
    more = [f"… and {len(lines) - LOGGED} lines before"] if len(lines) > LOGGED else []
    return f'<div class="wb-log">{escape(chr(10).join([*shown, *more]))}</div>'


def _clock(seconds: float) -> time.struct_time:
    try:
        return time.localtime(seconds)
    except (ValueError, OverflowError, OSError):  # a file that was written by hand
        return time.localtime(0)


def told_of(event: events.Event) -> str:
    """One event in plain words; empty for a step, of which there are too many."""
    if isinstance(event, events.Started):
        return f"started on {event.device}: {event.total_steps} optimizer steps over {event.train_rows} rows"
    if isinstance(event, events.Resumed):
        return f"resumed after step {event.step}"
    if isinstance(event, events.Validation):
        return f"epoch {event.epoch:.2g}: validation loss {event.loss:.4f}"
    if isinstance(event, events.Sampled):
        return f"{_when(event)}: {words.SAYS_RIGHT.format(right=event.right, asked=event.asked)}"
    if isinstance(event, events.Saved):
        return f"adapter saved after step {event.step}{', the best so far' if event.best else ''}"
    if isinstance(event, events.Notice):
        return event.text
    if isinstance(event, events.Ended):
        cause = f" ({words.CAUSES[event.cause][0]})" if event.cause in words.CAUSES else ""
        if event.cause == "early stop" or event.state == "stopped" and event.reason.startswith("stopped "):
            return event.reason  # it says all of this itself
        return f"{event.state} after step {event.step}{cause}. {sentence_case(event.reason)}".rstrip()
    return ""
