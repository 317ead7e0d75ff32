"""One cell of a sweep on a loaded base: train on a fold's rows, then measure on the rows held back. No adapter is kept, no run folder made."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from workbench.calls.prompting import PLAIN, CallForm
from workbench.dataset.formats import refuse_problems
from workbench.errors import DataError
from workbench.evaluation.scores import Rate, Scored, make_cases, score, score_reply
from workbench.models.adapters import put_new_adapter, take_off_adapter
from workbench.models.decoding import Lane, generate
from workbench.models.loading import Base
from workbench.schema import Example
from workbench.settings import RunSettings, Sampling, Training
from workbench.training import events
from workbench.training.batching import alike, reply_tokens
from workbench.training.encode import Encoded, encode_all, turns_before_answer
from workbench.training.loop import NotFiniteError, memory_gib, train
from workbench.training.pack import pack_within
from workbench.training.plan import step_count
from workbench.training.step import mean_loss

NEW_TOKENS = 64  # of a reply: whether it calls shows early
TRAINING_SHARE = 0.85  # of a cell's time, for its progress: the rest is answering

Tell = Callable[[str, float | None], None]


@dataclass(frozen=True)
class FoldResult:
    """What one cell measured. Losses are nats per label; `loss` is over the rows held back, `train_loss` that of the last step.

    `right` counts rows held back that were answered by a call of the row's own tools where it calls, and by none where it does not.
    `seconds` is training and measuring together, `peak_memory_gib` the card's peak (on a CPU what the process holds).
    """

    loss: float
    train_loss: float
    call_recall: Rate
    over_calls: Rate
    malformed: Rate
    right: Rate
    steps: int
    seconds: float
    peak_memory_gib: float
    device: str

    def as_json(self) -> dict[str, Any]:
        return {name: (value.k, value.n) if isinstance(value, Rate) else value for name, value in vars(self).items()}


def run_fold(
    base: Base, rows: Sequence[Example], learned: Sequence[int], held: Sequence[int], settings: RunSettings, *,
    stop: Callable[[], bool], tell: Tell = lambda text, share: None, form: CallForm = PLAIN,
) -> FoldResult | None:
    """Train on the places `learned` of `rows` and measure on the places `held`; None if it was stopped before it was whole.

    The base is bare again afterwards, however it ended. Raises `DataError` for a row that can't be learned, and
    `NotFiniteError` where the training or the measured loss is no number.
    """
    begun = time.perf_counter()
    training = _plain(settings.training)
    teach, ask = _encoded(base, rows, learned, training, form), _encoded(base, rows, held, training, form)
    if base.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(base.device)
    try:
        model = put_new_adapter(base, settings.lora, name="a sweep's cell", seed=training.seed, checkpointing=training.checkpointing)
        watched = _Watched(step_count(len(teach), training), tell)
        outcome = train(model, teach, [], training, emit=watched, stop=stop, save=lambda moment: None)
        if outcome.stopped or stop():
            return None
        tell("measuring the loss", TRAINING_SHARE)
        loss = mean_loss(model, pack_within(ask, training.tokens_per_forward), base.device, stop)
        if loss is None:
            return None
        if not math.isfinite(loss):
            raise NotFiniteError("The loss of the rows held back is not a finite number: lower the learning rate or try other quantization.")
        scored = _answered(base, [rows[i] for i in held], training.tokens_per_forward, form, stop, tell)
        if scored is None:
            return None
        scores = score(scored)
        return FoldResult(
            loss, watched.loss, scores.call_recall, scores.over_call_rate, scores.malformed_rate, Rate(sum(s.right for s in scored), len(scored)),
            outcome.steps, time.perf_counter() - begun, memory_gib(base.device),
            torch.cuda.get_device_name(base.device) if base.device.type == "cuda" else "CPU",
        )
    finally:
        take_off_adapter(base)


def _plain(training: Training) -> Training:
    """Without what a run does besides training: every cell is measured once, at its end."""
    return training.model_copy(update={"sample_every": 0, "keep_best": "off", "early_stopping": 0, "evaluate_every": 0})


def _encoded(base: Base, rows: Sequence[Example], places: Sequence[int], training: Training, form: CallForm) -> list[Encoded]:
    if not places:
        raise DataError("A fold holds no rows to learn from, or none to measure on: take fewer folds.")
    lines = [i + 1 for i in places]
    encoded, problems = encode_all([rows[i] for i in places], base.tokenizer, max_tokens=training.max_row_tokens, lines=lines, form=form)
    refuse_problems(problems, "the sweep's rows")
    return [e for e in encoded if e is not None]


class _Watched:
    """Hears the loop's events: tells how far it is, and keeps the last step's loss."""

    def __init__(self, total: int, tell: Tell) -> None:
        self.total, self.tell, self.loss = total, tell, math.nan

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.Step):
            self.loss = event.loss
            self.tell(f"step {event.step} of {self.total}", TRAINING_SHARE * event.step / self.total)


class _Writing:
    """Tells token by token how far a group's replies are: quantized weights on a CPU take minutes for one group."""

    def __init__(self, tell: Tell, before: int, group: int, rows: int, most: int) -> None:
        self.tell, self.before, self.group, self.rows, self.most = tell, before, group, rows, most
        self._say(0, "")

    def __call__(self, finished: int, tokens: int) -> None:
        self._say(tokens, f", token {tokens} of at most {self.most}")

    def _say(self, tokens: int, more: str) -> None:
        share = (self.before + self.group * min(1.0, tokens / self.most)) / self.rows
        self.tell(f"answered {self.before} of {self.rows} rows held back{more}", TRAINING_SHARE + (1 - TRAINING_SHARE) * share)


def _answered(
    base: Base, rows: Sequence[Example], budget: int, form: CallForm, stop: Callable[[], bool], tell: Tell
) -> list[Scored] | None:
    """Every row's own request answered greedily by the adapted model, and judged; None if a stop came first."""
    cases = make_cases(rows)
    dialect = form.dialect
    prompts = [tuple(base.tokenizer.prompt_ids(turns_before_answer(row, form), allowed=dialect.control)) for row in rows]
    sampling = Sampling(max_new_tokens=reply_tokens(base, cases, NEW_TOKENS, form))
    replies: dict[int, str] = {}
    for group in alike([len(p) + sampling.max_new_tokens for p in prompts], budget):
        wrote = _Writing(tell, len(replies), len(group), len(rows), sampling.max_new_tokens)
        made = generate(base, [Lane(prompts[i], 1, keep=dialect.control, stops=dialect.stops) for i in group], sampling, on_step=wrote, stop=stop)
        if any(reply.ended == "stopped" for reply in made):
            return None
        replies |= {i: reply.text for i, reply in zip(group, made, strict=True)}
    return [score_reply(case, replies[i], dialect) for i, case in enumerate(cases)]

