"""What the browser's process and the engine process say to each other: one JSON object a line."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from workbench.settings import Quantization, RunSettings, Sampling
from workbench.training.events import Cause


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Phase = Literal["starting", "loading", "computing", "computing on a CPU"]
"""What the worker is at: each phase has a limit of its own for how long it may give no sign of progress."""


class LoadJob(_Message):
    """Load a base (from the hub if it is not here) so that the first answer does not wait for it."""

    kind: Literal["load"] = "load"
    model: str
    quantization: Quantization = Quantization()


class UnloadJob(_Message):
    """Give the memory of the base back. With `leave` the process ends too, and with it what the card's driver keeps for it."""

    kind: Literal["unload"] = "unload"
    leave: bool = False


class TrainJob(_Message):
    """Train a run whose folder has been created, or go on with one from its checkpoint."""

    kind: Literal["train"] = "train"
    run: str
    resume: bool = False

    @property
    def training(self) -> str:
        """What its progress says while it trains; a screen that names the run beside it leaves that out."""
        return f"training {self.run}"


class AnswerJob(_Message):
    """Answer a conversation in every lane at once. A lane is True where the adapter is on.

    `run` names the adapter; without it only the base lane can be asked, on `model`. Where the lanes are asked different conversations,
    `prompts` holds one for each, and `turns` none. A reply also ends before one of the texts in `stops`. `tools` are those that calls are
    bound to where the sampling says so, as OpenAI's interface describes them. `form_of` names the voice (an adapter, or merged:NAME) in
    whose form of calls all of it is written, where that is not the form of `run`, or else of `model`.
    """

    kind: Literal["answer"] = "answer"
    turns: tuple[dict[str, str], ...] = ()
    prompts: tuple[tuple[dict[str, str], ...], ...] = ()
    stops: tuple[str, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    lanes: tuple[bool, ...]
    run: str | None = None
    form_of: str | None = None
    model: str = "demo"
    quantization: Quantization = Quantization()
    sampling: Sampling = Sampling()


class TogetherJob(_Message):
    """Answer with two voices at once that are not one base and its adapter: two adapters, or a base, an adapter and merged models by twos.

    Its texts are those of the first part's lanes, then the second's; its result holds the `parts`' own. The sampling is the first part's.
    """

    kind: Literal["together"] = "together"
    parts: tuple[AnswerJob, AnswerJob]


class EvaluateJob(_Message):
    """Answer every prompt (one conversation each) with the adapter of `run`, or with the base alone. `tools` as an `AnswerJob` has them."""

    kind: Literal["evaluate"] = "evaluate"
    prompts: tuple[tuple[dict[str, str], ...], ...]
    tools: tuple[dict[str, Any], ...] = ()
    adapted: bool
    run: str | None = None
    model: str = "demo"
    quantization: Quantization = Quantization()
    sampling: Sampling = Sampling()


class GenerateJob(_Message):
    """Write one reply per prompt that is JSON of `form` (a JSON schema), with the adapter of `run`, or with the base alone."""

    kind: Literal["generate"] = "generate"
    prompts: tuple[tuple[dict[str, str], ...], ...]
    form: dict[str, Any]
    run: str | None = None
    model: str = "demo"
    quantization: Quantization = Quantization()
    sampling: Sampling = Sampling(greedy=False, max_new_tokens=1024)


class FoldJob(_Message):
    """Train on the places `learned` of the rows in a file and measure on the places `held`; no adapter is kept.

    Its result is a `FoldResult` as plain values, or `{"stopped": True}`. `rows` is the file's whole path, `tools` are those that
    prompts may tell, as OpenAI's interface describes them.
    """

    kind: Literal["fold"] = "fold"
    model: str
    rows: str
    learned: tuple[int, ...]
    held: tuple[int, ...]
    settings: RunSettings
    tools: tuple[dict[str, Any], ...] = ()


class MergeJob(_Message):
    """Merge the adapter `run` (NAME or NAME@best) into its own base, as the model merged:`name`.

    Its result: `model` (merged:NAME), `folder`, `bytes`, `adapter_difference` and `rounding` (see `MergedRecord`).
    """

    kind: Literal["merge"] = "merge"
    run: str
    name: str


Job = Annotated[LoadJob | UnloadJob | TrainJob | AnswerJob | TogetherJob | EvaluateJob | GenerateJob | FoldJob | MergeJob, Field(discriminator="kind")]


class Do(_Message):
    """To the engine: do this job."""

    type: Literal["do"] = "do"
    number: int
    job: Job


class Stop(_Message):
    """To the engine: stop the job in hand if it is this one."""

    type: Literal["stop"] = "stop"
    number: int


class Ready(_Message):
    """From the engine: its libraries are there, it takes jobs."""

    type: Literal["ready"] = "ready"


class Beat(_Message):
    """From the engine's work: it got on (a tensor was loaded, a layer passed, a step done, a token made) and is in `phase`.

    Never sent by a clock: no beat means no progress. `gap` is the longest time in seconds so far between two looks for a stop.
    """

    type: Literal["beat"] = "beat"
    number: int
    phase: Phase
    gap: float = 0.0


class Progress(_Message):
    """From the engine: what it is doing, and how far (0 to 1, None if unknown)."""

    type: Literal["progress"] = "progress"
    number: int
    text: str
    share: float | None = None


class Texts(_Message):
    """From the engine: each lane's text so far."""

    type: Literal["texts"] = "texts"
    number: int
    texts: tuple[str, ...]


class Holds(_Message):
    """From the engine: what it has loaded; empty words where that is nothing."""

    type: Literal["holds"] = "holds"
    model: str = ""
    quantization: str = ""
    adapter: str | None = None
    device: str = ""
    also: str = ""
    """A second model that stays loaded beside it."""


class Done(_Message):
    """From the engine: the job ended well; `result` is the job's own."""

    type: Literal["done"] = "done"
    number: int
    result: dict[str, Any] = {}


class Failed(_Message):
    """From the engine: the job failed with one sentence. `expected` tells a person's mistake from a fault of ours.

    `cause` sorts the reason. After "device" the engine ends: the card's context is lost with its process.
    """

    type: Literal["failed"] = "failed"
    number: int
    reason: str
    expected: bool = True
    cause: Cause = ""


ToEngine: TypeAdapter[Do | Stop] = TypeAdapter(Annotated[Do | Stop, Field(discriminator="type")])
FromEngine: TypeAdapter[Ready | Beat | Progress | Texts | Holds | Done | Failed] = TypeAdapter(
    Annotated[Ready | Beat | Progress | Texts | Holds | Done | Failed, Field(discriminator="type")]
)
