"""Adapters on a loaded base: a new one, saved ones, two side by side; put on, proven to do something, taken off."""

from __future__ import annotations

import contextlib
import gc
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from workbench.errors import AdapterError, SettingsError
from workbench.models.faults import accelerator_fault, first_line
from workbench.models.loading import Base
from workbench.models.modules import adaptable, is_wrapped, name_of, own_values, target_regex
from workbench.settings import DORA_NEEDS, Lora

ADAPTER = "adapted"  # what peft calls the adapter that is on the base
CHECKPOINTS, BEFORE = "is_activation_checkpointing", "is_gradient_checkpointing"  # what transformers calls it, and called it up to 5.1x
SLOTS = (ADAPTER, "beside")  # and a second one beside it, which only answers


def target_pattern(names: list[str], lora: Lora) -> str:
    """The pattern of the modules to adapt, proven to fit some of the model's linear `names`; raises `SettingsError`."""
    pattern = target_regex(lora, wrapped=is_wrapped(names))
    if not any(re.fullmatch(pattern, name) for name in names):
        have = dict.fromkeys(name_of(n) for n in names if adaptable(n))
        raise SettingsError(
            f"lora.target_modules: this model has no layer named {', '.join(lora.target_modules)}; "
            f"choose from {', '.join(have) or 'none: it has no linear layer'}."
        )
    return pattern


def put_new_adapter(base: Base, lora: Lora, *, name: str, seed: int, checkpointing: bool, model_name: str = "", alike: bool = False) -> Any:
    """A fresh adapter on the base, ready to train (fp32 parameters); returns the peft model.

    `model_name` is what the saved adapter calls its base. Its first numbers are drawn where it stays (a large adapter's take a processor
    half a second), or where several processes have to draw `alike`, on the host: unlike cards draw unlike. Raises `SettingsError` where the settings don't fit the base.
    """
    from peft import LoraConfig, get_peft_model

    if lora.dora and base.quantization.mode == "8-bit":
        raise SettingsError(DORA_NEEDS)
    take_off_adapter(base)
    linear = [n for n, m in base.model.named_modules() if isinstance(m, torch.nn.Linear)]
    pattern = target_pattern(linear, lora)
    ranks, alphas = own_values([n for n in linear if re.fullmatch(pattern, n)], lora)
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, bias="none", task_type="CAUSAL_LM", target_modules=pattern,
        rank_pattern=ranks, alpha_pattern=alphas, use_rslora=lora.rslora, use_dora=lora.dora,
    )
    torch.manual_seed(seed)
    raw = base.model
    try:
        with contextlib.nullcontext() if alike else base.device:
            base.model = get_peft_model(raw, config, adapter_name=ADAPTER)
    except BaseException:
        _unwrap(raw)  # the next run must not learn through half an adapter
        raise
    # peft writes the folder's whole path there; the adapter goes round, the path must not.
    config.base_model_name_or_path = model_name
    base.adapters = (name,)
    if checkpointing:
        base.raw.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        base.raw.enable_input_require_grads()
    return base.model


def put_saved_adapter(base: Base, folder: Path, name: str) -> float:
    """Put the adapter in `folder` on the base and prove that it is active.

    Returns the largest absolute difference it makes to the logits of a probe. Raises `AdapterError`
    for a missing, broken or foreign adapter: peft itself would only warn about keys that don't match.
    """
    from peft import PeftModel

    take_off_adapter(base)
    saved = _saved_shapes(folder, name)
    raw = base.model
    try:
        base.model = PeftModel.from_pretrained(raw, str(folder), adapter_name=ADAPTER, is_trainable=False)
    except (RuntimeError, ValueError, KeyError, TypeError, OSError) as exc:
        _unwrap(raw)
        base.model = raw
        if accelerator_fault(exc):
            raise  # the caller frees the memory, or lets the card's process go
        raise AdapterError(f"The adapter {name} does not fit {base.folder.name}: {first_line(exc)}") from exc
    base.adapters = (name,)
    base.model.eval()
    try:
        _check_keys(base, saved, 0)
        difference = prove_active(base)
        base.model.set_adapter(ADAPTER, inference_mode=True)  # peft lets it learn again where it was left out for a while
        return difference
    except AdapterError:
        take_off_adapter(base)
        raise


def put_adapter_beside(base: Base, folder: Path, name: str) -> float:
    """Put a second adapter on the base, beside the one that is there (and instead of one that was beside it), as `put_saved_adapter` does.

    Both may answer in one batch. The first one stays the one in force; after a failure it is still there, alone.
    """
    slot = SLOTS[1]
    take_off_beside(base)
    saved = _saved_shapes(folder, name)
    kept = base.adapters
    try:
        base.model.load_adapter(str(folder), adapter_name=slot, is_trainable=False)
    except (RuntimeError, ValueError, KeyError, TypeError, OSError) as exc:
        base.adapters = (*kept, name)
        take_off_beside(base)
        if accelerator_fault(exc):
            raise
        raise AdapterError(f"The adapter {name} does not fit {base.folder.name}: {first_line(exc)}") from exc
    base.adapters = (*kept, name)
    try:
        _check_keys(base, saved, 1)
        with asked_alone(base, 2):
            return prove_active(base, name)
    except AdapterError:
        take_off_beside(base)
        raise
    finally:
        base.model.eval()


def take_off_beside(base: Base) -> None:
    """Take the second adapter off, if there is one."""
    if len(base.adapters) < 2:
        return
    with contextlib.suppress(ValueError):  # its loading had not come so far
        base.model.delete_adapter(SLOTS[1])
    base.model.set_adapter(SLOTS[0], inference_mode=True)
    base.adapters = base.adapters[:1]


@contextlib.contextmanager
def asked_alone(base: Base, number: int) -> Iterator[None]:
    """For a while the adapter of that number (from 1) is the one in force."""
    base.model.set_adapter(SLOTS[number - 1], inference_mode=True)
    try:
        yield
    finally:
        base.model.set_adapter(SLOTS[0], inference_mode=True)


def _saved_shapes(folder: Path, name: str) -> dict[str, tuple[int, ...]]:
    """The matrices of a saved adapter; raises `AdapterError` for one that is missing or broken."""
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file() or not (folder / "adapter_config.json").is_file():
        raise AdapterError(f"{name} holds no finished adapter: train it again or choose another run.")
    try:
        with safe_open(str(weights), framework="pt") as stream:
            return {key: tuple(stream.get_slice(key).get_shape()) for key in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as exc:
        raise AdapterError(f"{weights.name} of {name} is broken: {first_line(exc)}. Train it again.") from exc


def _check_keys(base: Base, saved: dict[str, tuple[int, ...]], place: int) -> None:
    from peft import get_peft_model_state_dict

    wanted = {k: tuple(v.shape) for k, v in get_peft_model_state_dict(base.model, adapter_name=SLOTS[place], save_embedding_layers=False).items()}
    if saved != wanted:
        odd = sorted(set(saved.items()) ^ set(wanted.items()))
        raise AdapterError(
            f"The adapter {base.adapters[place]} does not fit {base.folder.name}: {len(odd)} of its matrices differ, "
            f"{odd[0][0]} for one. Choose the base it was trained on."
        )


def _unwrap(raw: Any) -> None:
    """Take half-injected adapter layers out of `raw` after a failed load."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for parent in list(raw.modules()):
        for child_name, child in list(parent.named_children()):
            if isinstance(child, BaseTunerLayer):
                setattr(parent, child_name, child.get_base_layer())
    if hasattr(raw, "peft_config"):
        del raw.peft_config


def take_off_adapter(base: Base) -> None:
    """The bare base again; its weights were never touched."""
    if not base.adapters:
        return
    raw = base.model.unload()
    if getattr(raw, CHECKPOINTS if hasattr(type(raw), CHECKPOINTS) else BEFORE):
        raw.gradient_checkpointing_disable()
        raw.disable_input_require_grads()
    if hasattr(raw, "peft_config"):
        del raw.peft_config
    base.model, base.adapters = raw, ()
    base.model.requires_grad_(False)
    base.model.eval()
    gc.collect()


def prove_active(base: Base, name: str | None = None, known: float | None = None) -> float:
    """Largest absolute difference between the last logits with and without the adapter, on a fixed probe; `known`, where that is one.

    Raises `AdapterError` if it is zero (or not a number): then the adapter (of that name, where it is not the first one) does nothing.
    """
    difference = known if known is not None and known > 0 else _difference(base)
    if not difference > 0:
        raise AdapterError(f"The adapter {name or base.adapter} changes nothing: its logits equal the base's. Train it for longer.")
    return difference


@torch.no_grad()
def _difference(base: Base) -> float:
    model, was_training = base.model, base.model.training
    model.eval()
    adapted = probe_logits(base)
    with model.disable_adapter():
        plain = probe_logits(base)
    model.train(was_training)
    return float((adapted - plain).abs().max())


def probe(base: Base) -> list[int]:
    """The tokens that adapters are proven on."""
    return base.tokenizer.prompt_ids([{"role": "user", "content": "Проверка: 1, 2, 3."}])


@torch.no_grad()
def probe_logits(base: Base) -> torch.Tensor:
    """The last logits (fp32) of what is loaded now, on the probe that adapters are proven on."""
    ids = torch.tensor([probe(base)], device=base.device)
    logits: torch.Tensor = base.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits.float()
    return logits
