"""Every setting, declared once: the form, the command line's `--set` and the error messages are built from here.

A field's description is one line of help; its unit and its effect (what raising, lowering or switching it brings) stand in
`json_schema_extra`, and its range in the field's own limits.
The defaults are the first article's recipe where it is right; where it is not, the comment says why.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from workbench.errors import SettingsError, sentence_case

ALL_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MAX_MODULES = 64
DORA_NEEDS = "DoRA does not work on 8-bit base weights: bitsandbytes loses their scales. Choose 4-bit or none for the base weights, or switch DoRA off."
_MODULE_NAME = re.compile(r"[A-Za-z_]\w{0,63}", re.ASCII)


def _field(default: Any, title: str, help_text: str, unit: str = "", *, effect: str = "", **limits: Any) -> Any:
    return Field(default=default, title=title, description=help_text, json_schema_extra={"unit": unit, "effect": effect}, **limits)


def _unique(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names once each: the usual seven in their order, then what other models call theirs."""
    if not names:
        raise ValueError("choose at least one module")
    for name in names:
        if not _MODULE_NAME.fullmatch(name):
            raise ValueError(f"{name[:80]!r} is no module's name: letters, digits and '_', as in q_proj")
    if len(names) > MAX_MODULES:
        raise ValueError(f"{len(names)} names are too many; {MAX_MODULES} are allowed")
    return tuple(dict.fromkeys([n for n in ALL_PROJECTIONS if n in names] + list(names)))


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _a_number_is_no_truth(cls, value: Any, info: ValidationInfo) -> Any:
        # A file's `rank: true` would otherwise quietly be rank 1.
        if isinstance(value, bool) and info.field_name and cls.model_fields[info.field_name].annotation in (int, float):
            raise ValueError("it takes a number, not yes or no")
        return value


class Quantization(_Group):
    """How the frozen base weights are held in memory."""

    mode: Literal["auto", "none", "8-bit", "4-bit"] = _field(
        "auto", "Base weights", "auto: 4-bit on a GPU, none on a CPU.",
        effect="4-bit takes the least memory; 8-bit and none are more exact.",
    )
    type_4bit: Literal["nf4", "fp4"] = _field(
        "nf4", "4-bit type", "How 16 values stand for all weights; for 4-bit only.", effect="NF4 fits normally distributed weights better.",
    )
    double: bool = _field(
        True, "Double quantization", "Quantizes the 4-bit scales too; for 4-bit only.", effect="Saves about 0.4 bit a weight.",
    )
    threshold: float = _field(
        6.0, "8-bit outlier threshold", "Activations above it are multiplied in 16 bit; for 8-bit only.",
        effect="Lower is more exact and slower; 0 turns the detour off.", ge=0, le=100,
    )
    offload: bool = _field(
        False, "Embeddings and head in host memory", "They go to the card piece by piece when they are needed; nothing on a CPU.",
        effect="Saves two fifths of a 4-bit 4B's weights; steps are slower, and answers many times slower.",
    )
    shard: bool = _field(
        False, "Spread over processes", "Under accelerate launch each process holds a part of every layer, in 16 bit; for the command line.",
        effect="For a base that fits no single card; steps are slower, each layer being fetched twice.",
    )

    def resolved(self, has_gpu: bool) -> Quantization:
        """The same settings with `auto` replaced by what this machine will use."""
        if self.mode != "auto":
            return self
        return self.model_copy(update={"mode": "4-bit" if has_gpu and not self.shard else "none"})


class Lora(_Group):
    """The adapter: y = W·x + (alpha / rank) · B·A·x."""

    rank: int = _field(
        16, "Rank", "Width of the adapter's matrices.", effect="More can learn more, takes more memory and overfits sooner.", ge=1, le=512,
    )
    alpha: int = _field(
        32, "Alpha", "The adapter is scaled by alpha / rank.",
        effect="More lets the adapter speak louder, as a higher rate does.", ge=1, le=1024,
    )
    dropout: float = _field(
        0.1, "Dropout", "Share of the adapter's inputs zeroed at random in training.", effect="More guards against learning rows by heart; 0 saves memory.", ge=0, le=0.9,
    )
    target_modules: Annotated[tuple[str, ...], AfterValidator(_unique)] = _field(
        ALL_PROJECTIONS, "Target modules", "The linear layers that get an adapter, in every decoder layer.",
        effect="Fewer take less memory and learn less.",
    )
    text_only: bool = _field(
        True, "Text modules only", "Leaves a vision or audio tower alone.",
        effect="Text rows never send a tower a gradient: its adapter would be dead weight.",
    )
    attention_rank: int = _field(0, "Attention: rank", "Its own rank for the attention layers.", effect="0 takes the rank above.", ge=0, le=512)
    attention_alpha: int = _field(0, "Attention: alpha", "Its own alpha for the attention layers.", effect="0 takes the alpha above.", ge=0, le=1024)
    mlp_rank: int = _field(0, "MLP: rank", "Its own rank for the MLP layers.", effect="0 takes the rank above.", ge=0, le=512)
    mlp_alpha: int = _field(0, "MLP: alpha", "Its own alpha for the MLP layers.", effect="0 takes the alpha above.", ge=0, le=1024)
    rslora: bool = _field(
        False, "rsLoRA", "Scales by alpha / √rank instead of alpha / rank.", effect="High ranks learn as strongly as low ones; lower alpha with it.",
    )
    dora: bool = _field(
        False, "DoRA", "Learns each layer's length apart from its direction.",
        effect="Often better at low ranks; slower and takes more memory, much more with dropout.",
    )


class Training(_Group):
    """One run over the rows."""

    epochs: int = _field(
        10, "Epochs", "How often every training row is seen.", "",
        effect="More learns longer; too many learn the rows by heart.", ge=1, le=1000,
    )
    rows_per_step: int = _field(
        16, "Rows per optimizer step", "Packed into one forward pass without padding.", "",
        effect="More makes fewer, steadier steps; fewer rows make more steps.", ge=1, le=1024,
    )
    # The articles' 1e-4 and 2e-4 leave 40 steps half learned (the model over-calls); see `suggested_rate`.
    learning_rate: float = _field(
        3e-4, "Learning rate", "Peak rate, reached at the end of the warm-up.", "",
        effect="Too high forgets or breaks, too low leaves the rows half learned.", gt=0, le=1.0,
    )
    warmup_steps: int = _field(
        10, "Warm-up", "The rate climbs from 0 over these steps.", "optimizer steps",
        effect="As long as the run, it never reaches the full rate.", ge=0, le=100_000,
    )
    scheduler: Literal["cosine", "linear", "constant"] = _field(
        "cosine", "Scheduler", "How the rate falls after the warm-up.", effect="cosine ends gently, constant learns fully to the last step."
    )
    max_grad_norm: float = _field(
        0.3, "Gradient clip", "Longest gradient that is let through.", "",
        effect="Lower calms jumps and slows learning; 0 clips nothing.", ge=0, le=1000,
    )
    weight_decay: float = _field(
        0.0, "Weight decay", "AdamW's pull of the adapter towards zero.", "",
        effect="More guards against learning rows by heart.", ge=0, le=1,
    )
    validation_share: float = _field(
        0.1, "Validation share", "Share of the rows held back to measure the loss on.", "",
        effect="More measures better and learns from fewer rows; 0 measures nothing.", ge=0, le=0.5,
    )
    unreviewed: Literal["handwritten", "all", "approved"] = _field(
        "handwritten", "Unreviewed rows",
        "Which rows are learned before anybody approved them.",
        effect="handwritten: drafts that a person wrote, generated drafts wait. all: every draft. approved: none.",
    )
    # The article evaluated every 50 of 40 steps, that is never; 0 means once an epoch.
    evaluate_every: int = _field(
        0, "Evaluate every", "0 measures the validation loss after every epoch.", "optimizer steps",
        effect="More than the run has never fires.", ge=0, le=1_000_000,
    )
    save_every: int = _field(
        0, "Save every", "0 saves the adapter after every epoch, a large one less often in a fast run; it is always saved at the end.", "optimizer steps",
        effect="A run that breaks off goes on from the last save.", ge=0, le=1_000_000,
    )
    sample_every: int = _field(
        1, "Answer validation rows every", "The model answers its validation rows in the middle of the run.", "epochs",
        effect="Shows when it begins to call, and takes time; 0: never.", ge=0, le=1000,
    )
    keep_best: Literal["off", "validation loss", "call accuracy"] = _field(
        "validation loss", "Keep the best by", "The best measurement's adapter is kept beside the last one.",
        effect="Call accuracy asks what matters, and moves in larger steps on few rows.",
    )
    early_stopping: int = _field(
        0, "Early stopping", "Ends the run after so many without a better one.", "measurements",
        effect="Saves time once nothing improves; 0: never.", ge=0, le=1000,
    )
    dialect: Literal["tag", "json", "gemma-python", "hermes", "functiongemma", "gemma4", "llama3-json", "mistral", "mistral-args", "native"] = _field(
        "tag", "Tool-call dialect", "The text of a call that the model learns to write. native: that of the model's own chat template.",
        effect="A dialect that the model knows is learned sooner; the adapter keeps it wherever it answers.",
    )
    tools_in_prompt: Literal["auto", "yes", "no"] = _field(
        "auto", "Tools in the prompt", "Tells the model its tools before each request. auto: in the dialects whose models were made for it.",
        effect="Told, it can call tools that no row shows; untold, prompts are shorter and the rows teach the tools.",
    )
    max_row_tokens: int = _field(
        2048, "Longest row", "A longer row is refused by name, never cut.", "tokens",
        effect="More lets longer rows in, which take more memory.", ge=16, le=131_072,
    )
    tokens_per_forward: int = _field(
        4096, "Token budget", "A step with more tokens is split into several forwards.", "tokens",
        effect="Lower it if memory runs out: the same result, slower.", ge=16, le=1_048_576,
    )
    checkpointing: bool = _field(
        False, "Gradient checkpointing", "Computes activations again instead of keeping them.",
        effect="Far less memory for about a third more time.",
    )
    capture: bool = _field(
        True, "Quick steps", "A GPU records an optimizer step once and replays it (CUDA graphs); a CPU computes its small parts together.",
        effect="Many times faster for small steps on a GPU, a third off on a CPU; off runs the plain way: the same but for what the dropout leaves out.",
    )
    seed: int = _field(
        42, "Seed", "Fixes the split, the order of rows, the dropout and the adapter's start.", "",
        effect="Another seed shows how much of a result is chance.", ge=0, le=2**31 - 1,
    )
    tracker: Literal["off", "trackio"] = _field(
        "off", "Tracker", "trackio mirrors the run's figures into trackio's own dashboard on this machine; it wants: pip install trackio.",
        effect="off writes nothing beyond the run's own folder.",
    )


class Sampling(_Group):
    """How a reply is decoded."""

    greedy: bool = _field(True, "Greedy", "Always the likeliest token: repeatable. Off: sample with the settings below.")
    temperature: float = _field(0.7, "Temperature", "Lower is closer to greedy, 0 is greedy. Used when sampling.", "", ge=0, le=5)
    top_p: float = _field(0.95, "Top-p", "Keeps the likeliest tokens that make up this share. Used when sampling.", "", gt=0, le=1)
    top_k: int = _field(64, "Top-k", "Keeps this many likeliest tokens; 0 keeps all. Used when sampling.", "tokens", ge=0, le=1000)
    max_new_tokens: int = _field(96, "Longest reply", "A reply is cut here, and the screen says so.", "tokens", ge=1, le=8192)
    seed: int = _field(42, "Seed", "Repeats a sampled reply.", "", ge=0, le=2**31 - 1)
    constrain: bool = _field(
        False, "Bind calls", "Holds a call that has begun to its dialect and the tool's schema; text stays free.",
        effect="No call can be malformed; what the model would have written otherwise is told.",
    )


class RunSettings(_Group):
    """All settings of one training run."""

    quantization: Quantization = Quantization()
    lora: Lora = Lora()
    training: Training = Training()

    @model_validator(mode="after")
    def _parts_fit(self) -> RunSettings:
        if self.lora.dora and self.quantization.mode == "8-bit":
            raise ValueError(DORA_NEEDS)
        return self


def suggested_rate(hidden_size: int) -> float:
    """The default learning rate for a model of that width: 6e-4 at 640, falling with the square root of the width.

    6e-4 was measured on the embedded model (width 640; benchmarks/RESULTS.md); the square root is the rule of
    thumb that wider models want smaller steps, and gives 3e-4 at 2,560 (4B).
    """
    return float(f"{6e-4 * (640 / max(1, hidden_size)) ** 0.5:.1e}")


GROUPS: dict[str, type[_Group]] = {"quantization": Quantization, "lora": Lora, "training": Training}


def takes(cls: type[_Group], name: str) -> str:
    """What a field takes, in words, as in `a whole number from 1 to 512`."""
    field = cls.model_fields[name]
    if field.annotation is bool:
        return "yes or no"
    if options := choices(cls, name):
        return "one of " + ", ".join(options)
    if field.annotation not in (int, float):
        return "names of modules, as in q_proj"
    kind = "a whole number" if field.annotation is int else "a number"
    limits = range_of(cls, name)
    return f"{kind} {limits}" if limits.startswith("above") else f"{kind} from {limits}"


def range_of(cls: type[_Group], name: str) -> str:
    """A number's range, as in `1 to 512` or `above 0, to 1`; empty for other fields."""
    found: dict[str, float] = {}
    for limit in cls.model_fields[name].metadata:
        found |= {k: getattr(limit, k) for k in ("ge", "gt", "le") if getattr(limit, k, None) is not None}
    if "le" not in found:
        return ""
    low = f"above {found['gt']:,g}, up to" if "gt" in found else f"{found['ge']:,g} to"
    return f"{low} {found['le']:,d}" if isinstance(found["le"], int) else f"{low} {found['le']:g}"


def field_problem(cls: type[_Group], name: str, value: Any) -> str:
    """Why `value` can't be the field's, in a sentence to stand beside it; empty if it can."""
    try:
        cls.model_validate({name: value})
    except ValidationError as exc:
        return _why(cls, name, exc.errors()[0])
    return ""


def _why(cls: type[_Group], name: str, error: Any) -> str:
    got = error.get("input")
    wanted = f"It takes {takes(cls, name)}."
    if got is None or isinstance(got, str) and not got.strip():
        return f"This is empty. {wanted}"
    if error["type"] == "value_error":  # said by the settings themselves
        return sentence_case(str(error["ctx"]["error"])) + "."
    return f"{repr(got)[:60]} can't be used. {wanted}"


def first_error(exc: ValidationError, group: str = "") -> str:
    """One sentence for the first thing pydantic found: which setting, what was wrong, what it takes."""
    error = exc.errors()[0]
    loc = [*([group] if group else []), *(str(part) for part in error["loc"])]
    path = ".".join(loc[:2] if len(loc) > 2 and loc[1] == "target_modules" else loc)
    if error["type"] == "extra_forbidden":
        known = [f"sampling.{name}" for name in Sampling.model_fields] if group == "sampling" else all_paths()
        return f"There is no setting {path}. The settings are: {', '.join(known)}."
    if not loc:  # parts that don't fit together
        return str(error["ctx"]["error"]) if "error" in error.get("ctx", {}) else error["msg"]
    cls = Sampling if group == "sampling" else GROUPS.get(loc[0])
    if cls is None or len(loc) < 2 or loc[1] not in cls.model_fields:
        return f"{path} can't be {repr(error.get('input'))[:60]}: {error['msg'][0].lower()}{error['msg'][1:]}."
    named = f"{cls.model_fields[loc[1]].title} ({path})"
    got, wanted = error.get("input"), takes(cls, loc[1])
    if got is None or isinstance(got, str) and not got.strip():
        return f"{named} is empty: it takes {wanted}."
    if error["type"] == "value_error":
        return f"{named} can't be {repr(got)[:60]}: {error['ctx']['error']}."
    return f"{named} can't be {repr(got)[:60]}: it takes {wanted}."


def all_paths() -> list[str]:
    """Every `group.field` that `--set` takes."""
    return [f"{group}.{name}" for group, cls in GROUPS.items() for name in cls.model_fields]


def make_settings(values: dict[str, dict[str, Any]]) -> RunSettings:
    """`RunSettings` from plain values, as a form or a file gives them; raises `SettingsError`."""
    try:
        return RunSettings.model_validate(values)
    except ValidationError as exc:
        raise SettingsError(first_error(exc)) from exc


def make_sampling(values: dict[str, Any]) -> Sampling:
    """`Sampling` from plain values; raises `SettingsError`."""
    try:
        return Sampling.model_validate(values)
    except ValidationError as exc:
        raise SettingsError(first_error(exc, "sampling")) from exc


def apply_overrides(settings: RunSettings, pairs: Iterable[str]) -> RunSettings:
    """`settings` changed by `group.field=value` texts, as `--set` gives them; raises `SettingsError`."""
    values: dict[str, dict[str, Any]] = {name: getattr(settings, name).model_dump() for name in GROUPS}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        group, dot, name = path.strip().partition(".")
        if not equals or not dot:
            raise SettingsError(f"--set takes group.field=value, as in lora.rank=16; {pair!r} is not of that form.")
        if group not in GROUPS or name not in GROUPS[group].model_fields:
            raise SettingsError(f"There is no setting {path.strip()}. The settings are: {', '.join(all_paths())}.")
        annotation = GROUPS[group].model_fields[name].annotation
        values[group][name] = [t.strip() for t in text.split(",") if t.strip()] if "tuple" in str(annotation) else text.strip()
    return make_settings(values)


def choices(cls: type[_Group], name: str) -> tuple[str, ...]:
    """The allowed words of a `Literal` field, for a dropdown; empty for other fields."""
    options = get_args(cls.model_fields[name].annotation)
    return tuple(options) if options and all(isinstance(o, str) for o in options) else ()
