"""Every setting, declared once: the form, the command line's `--set` and the error messages are built from here.

A field's description is one line of help; `unit` and `title` stand in `json_schema_extra`.
The defaults are the first article's recipe where it is right; where it is not, the comment says why.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from workbench.errors import SettingsError

ALL_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TargetModule = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def _field(default: Any, title: str, help_text: str, unit: str = "", **limits: Any) -> Any:
    return Field(default=default, title=title, description=help_text, json_schema_extra={"unit": unit}, **limits)


def _unique(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("choose at least one module")
    return tuple(name for name in ALL_PROJECTIONS if name in names)


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Quantization(_Group):
    """How the frozen base weights are held in memory."""

    mode: Literal["auto", "none", "8-bit", "4-bit"] = _field(
        "auto", "Base weights", "auto: 4-bit on a GPU, none on a CPU. 4-bit needs the least memory, none is the most exact."
    )
    type_4bit: Literal["nf4", "fp4"] = _field(
        "nf4", "4-bit type", "NF4 fits normally distributed weights better than FP4. Used with 4-bit only."
    )
    double: bool = _field(
        True, "Double quantization", "Quantizes the 4-bit scales too: about 0.4 bit less per weight. Used with 4-bit only."
    )
    threshold: float = _field(
        6.0, "8-bit outlier threshold",
        "Activations above it are multiplied in 16 bit; 0 turns the detour off. Used with 8-bit only.", "", ge=0, le=100,
    )

    def resolved(self, has_gpu: bool) -> Quantization:
        """The same settings with `auto` replaced by what this machine will use."""
        if self.mode != "auto":
            return self
        return self.model_copy(update={"mode": "4-bit" if has_gpu else "none"})


class Lora(_Group):
    """The adapter: y = W·x + (alpha / rank) · B·A·x."""

    rank: int = _field(16, "Rank", "Width of the adapter's matrices: more can learn more and overfits sooner.", "", ge=1, le=512)
    alpha: int = _field(32, "Alpha", "The adapter is scaled by alpha / rank.", "", ge=1, le=1024)
    dropout: float = _field(0.1, "Dropout", "Share of the adapter's inputs zeroed at random while training.", "", ge=0, le=0.9)
    target_modules: Annotated[tuple[TargetModule, ...], AfterValidator(_unique)] = _field(
        ALL_PROJECTIONS, "Target modules", "The linear layers that get an adapter, in every decoder layer."
    )
    text_only: bool = _field(
        True, "Text modules only",
        "Leaves a vision tower alone: text rows never send it a gradient, its adapter would be dead weight.",
    )


class Training(_Group):
    """One run over the rows."""

    epochs: int = _field(10, "Epochs", "How often every training row is seen.", "", ge=1, le=1000)
    rows_per_step: int = _field(16, "Rows per optimizer step", "Packed into one forward pass without padding.", "", ge=1, le=1024)
    # The articles' 1e-4 and 2e-4 leave 40 steps half learned (the model over-calls); see `suggested_rate`.
    learning_rate: float = _field(3e-4, "Learning rate", "Peak rate, reached at the end of the warm-up.", "", gt=0, le=1.0)
    warmup_steps: int = _field(10, "Warm-up", "The rate climbs from 0 over these steps.", "optimizer steps", ge=0, le=100_000)
    scheduler: Literal["cosine", "linear", "constant"] = _field(
        "cosine", "Scheduler", "How the rate falls after the warm-up; constant keeps it."
    )
    max_grad_norm: float = _field(0.3, "Gradient clip", "Longest gradient that is let through; 0 clips nothing.", "", ge=0, le=1000)
    weight_decay: float = _field(0.0, "Weight decay", "AdamW's pull of the adapter towards zero.", "", ge=0, le=1)
    validation_share: float = _field(0.1, "Validation share", "Share of the rows held back to measure the loss on.", "", ge=0, le=0.5)
    unreviewed: Literal["handwritten", "all", "approved"] = _field(
        "handwritten", "Unreviewed rows",
        "handwritten: drafts that a person wrote are learned, generated drafts wait. all: every draft. approved: approved rows alone.",
    )
    # The article evaluated every 50 of 40 steps, that is never; 0 means once an epoch.
    evaluate_every: int = _field(0, "Evaluate every", "0 measures the validation loss after every epoch.", "optimizer steps", ge=0, le=1_000_000)
    save_every: int = _field(0, "Save every", "0 saves the adapter after every epoch; it is always saved at the end.", "optimizer steps", ge=0, le=1_000_000)
    sample_every: int = _field(
        1, "Answer validation rows every", "The model answers its validation rows, so that you see when it begins to call; 0: never.", "epochs", ge=0, le=1000
    )
    keep_best: Literal["off", "validation loss", "call accuracy"] = _field(
        "validation loss", "Keep the best by", "The adapter of the best measurement is kept beside the last one.",
    )
    early_stopping: int = _field(
        0, "Early stopping", "Ends the run after this many measurements without a better one; 0: never.", "measurements", ge=0, le=1000
    )
    max_row_tokens: int = _field(2048, "Longest row", "A longer row is refused by name, never cut.", "tokens", ge=16, le=131_072)
    tokens_per_forward: int = _field(
        4096, "Token budget", "A step with more tokens is split into several forwards; lower it if memory runs out.", "tokens", ge=16, le=1_048_576
    )
    checkpointing: bool = _field(False, "Gradient checkpointing", "Trades about a third more time for less activation memory.")
    seed: int = _field(42, "Seed", "Fixes the split, the order of rows, the dropout and the adapter's start.", "", ge=0, le=2**31 - 1)
    tracker: Literal["off", "trackio"] = _field(
        "off", "Tracker", "trackio mirrors the run's figures into trackio's own dashboard on this machine; it wants: pip install trackio.",
    )


class Sampling(_Group):
    """How a reply is decoded."""

    greedy: bool = _field(True, "Greedy", "Always the likeliest token: repeatable. Off: sample with the settings below.")
    temperature: float = _field(0.7, "Temperature", "Lower is closer to greedy, 0 is greedy. Used when sampling.", "", ge=0, le=5)
    top_p: float = _field(0.95, "Top-p", "Keeps the likeliest tokens that make up this share. Used when sampling.", "", gt=0, le=1)
    top_k: int = _field(64, "Top-k", "Keeps this many likeliest tokens; 0 keeps all. Used when sampling.", "tokens", ge=0, le=1000)
    max_new_tokens: int = _field(96, "Longest reply", "A reply is cut here, and the screen says so.", "tokens", ge=1, le=8192)
    seed: int = _field(42, "Seed", "Repeats a sampled reply.", "", ge=0, le=2**31 - 1)


class RunSettings(_Group):
    """All settings of one training run."""

    quantization: Quantization = Quantization()
    lora: Lora = Lora()
    training: Training = Training()


def suggested_rate(hidden_size: int) -> float:
    """The default learning rate for a model of that width: 6e-4 at 640, falling with the square root of the width.

    6e-4 was measured on the embedded model (width 640; benchmarks/RESULTS.md); the square root is the rule of
    thumb that wider models want smaller steps, and gives 3e-4 at 2,560 (4B).
    """
    return float(f"{6e-4 * (640 / max(1, hidden_size)) ** 0.5:.1e}")


GROUPS: dict[str, type[_Group]] = {"quantization": Quantization, "lora": Lora, "training": Training}


def first_error(exc: ValidationError, group: str = "") -> str:
    """One sentence for the first thing pydantic found: which setting, what was wrong, what is allowed."""
    error = exc.errors()[0]
    path = ".".join([group, *(str(part) for part in error["loc"])]).strip(".")
    if error["type"] == "extra_forbidden":
        known = [f"sampling.{name}" for name in Sampling.model_fields] if group == "sampling" else all_paths()
        return f"There is no setting {path}. The settings are: {', '.join(known)}."
    got = repr(error.get("input"))[:60]
    return f"{path} can't be {got}: {error['msg'][0].lower()}{error['msg'][1:]}."


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
    if name == "target_modules":
        return ALL_PROJECTIONS
    options = get_args(cls.model_fields[name].annotation)
    return tuple(options) if options and all(isinstance(o, str) for o in options) else ()
