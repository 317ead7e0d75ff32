"""Loading a base model once. Only here: bitsandbytes and the model classes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from workbench.errors import ModelError
from workbench.models import proofs
from workbench.models.arriving import Arrival, arrival_of, no_arrival
from workbench.models.denormals import prepare_helpers
from workbench.models.faults import accelerator_fault, first_line
from workbench.models.offload import offload
from workbench.models.overlap import base_made, import_libraries, lean, name_kernels, no_sweeps, read_ahead, wake
from workbench.models.quantized_cache import QuantizedCopy, UnusableCopyError, copy_of
from workbench.models.sharding import refuse_shard, spread
from workbench.models.tokenizer import ChatTokenizer
from workbench.models.torch_start import with_whole
from workbench.settings import Quantization

# bitsandbytes says on every 8-bit call that it casts; the casts are what we asked for.
logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
# And that a faster kernel for CPUs could be fetched: as a worker's last words it would pass for the cause of its death.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


@dataclass
class Base:
    """A loaded base, its tokenizer, and the adapters that are on it: the names of their runs, in the order of `adapters.SLOTS`.

    `adapters` is another object whenever one was put on or taken off, also under the same name.
    """

    model: Any
    tokenizer: ChatTokenizer
    folder: Path
    quantization: Quantization
    adapters: tuple[str, ...] = ()

    @property
    def adapter(self) -> str | None:
        """The adapter that is trained, saved and asked where only one is."""
        return self.adapters[0] if self.adapters else None

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def raw(self) -> Any:
        """The transformers model itself, without peft's wrapper."""
        return self.model.get_base_model() if self.adapters else self.model


def pick_device() -> torch.device:
    """The card in use (a launcher gives each process its own), or the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def pick_dtype(device: torch.device) -> torch.dtype:
    """bf16 on a GPU that has it, fp32 otherwise; never fp16, in which Gemma 3's activations overflow."""
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32


def load_base(folder: Path, quantization: Quantization, *, say: Callable[[str], None] = lambda _: None, keep: bool = True) -> Base:
    """Load the weights in `folder` (safetensors only, no remote code).

    With `keep` quantized weights are read from the copy beside the model, and the first loading makes that copy; what is proven of the
    base is kept there too. Raises
    `ModelError` for a folder that can't be loaded; `torch.OutOfMemoryError` passes through.
    """
    device = pick_device()
    if device.type == "cpu":
        prepare_helpers()  # before anything is computed here
    dtype = pick_dtype(device)
    resolved = quantization.resolved(device.type == "cuda")
    refuse_shard(resolved)
    tokenizer = ChatTokenizer.load(folder)
    copy = copy_of(folder, resolved, dtype, device) if keep else None
    kept = copy if copy is not None and copy.ready(say) else None
    beside = ThreadPoolExecutor(3)
    arrival = arrival_of(kept.weights, device) if kept is not None and _apart(device) else None
    if arrival is None and _apart(device):
        no_arrival()  # they would lie on the card beside what is loaded
    try:
        if device.type == "cuda":
            beside.submit(wake, device)
            beside.submit(name_kernels)
        words = beside.submit(lambda: tokenizer.backend)  # read now, so that the first answer does not wait for it
        files = [] if arrival is not None else [kept.weights] if kept is not None else sorted(folder.glob("*.safetensors"))
        with read_ahead(files):
            with no_sweeps():
                import_libraries()
            model = _from_copy(kept, resolved, dtype, device, say, arrival) if kept is not None else None
            fresh = model is None
            into = torch.device("cpu") if resolved.shard else device
            model = model if model is not None else _from_weights(folder, resolved, dtype, into, say)
        if not words.done():
            say("reading the tokenizer")
        words.result()
    finally:
        if arrival is not None:
            arrival.stop()
        beside.shutdown(wait=False, cancel_futures=True)
    if fresh and copy is not None:
        copy.keep(model, say)
    if resolved.offload and device.type == "cuda":
        say("moving the embeddings and the head to the host's memory")
        offload(model, device)
    model = _settled(model)
    if resolved.shard:
        say("spreading the base over the processes")
        spread(model, device)
    if keep:
        proofs.remember_for(model, folder, f"{resolved.model_dump_json()} {dtype} {device.type}")
    return Base(model, tokenizer, folder, resolved)


def _apart(device: torch.device) -> bool:
    """Whether a file's bytes have to go somewhere else than the host's memory, where they are mapped."""
    return device.type == "cuda"


def load_unquantized(folder: Path, dtype: torch.dtype, device: torch.device, *, say: Callable[[str], None] = lambda _: None) -> Base:
    """The weights in `folder` as they are, to be worked on there; raises `ModelError` as `load_base` does."""
    whole = Quantization(mode="none")
    return Base(_settled(_from_weights(folder, whole, dtype, device, say)), ChatTokenizer.load(folder), folder, whole)


def _from_copy(
    copy: QuantizedCopy, quantization: Quantization, dtype: torch.dtype, device: torch.device, say: Callable[[str], None], arrival: Arrival | None = None,
) -> Any:
    """The model as it was kept, or None (and a sentence) where that can't be read."""
    say("loading the quantized copy kept beside the model")
    try:
        return copy.load(_bitsandbytes(quantization, dtype), arrival, **_how(dtype, device))
    except UnusableCopyError as exc:
        say(copy.passed_over(exc))
        return None


def _from_weights(folder: Path, quantization: Quantization, dtype: torch.dtype, device: torch.device, say: Callable[[str], None]) -> Any:
    from transformers import AutoModelForCausalLM

    say(f"loading the weights of {folder.name}, {quantization.mode if quantization.mode != 'none' else str(dtype).removeprefix('torch.')}")
    try:
        with lean():
            return with_whole(lambda: AutoModelForCausalLM.from_pretrained(
                str(folder), quantization_config=_bitsandbytes(quantization, dtype), **_how(dtype, device),
            ))
    except (OSError, ValueError, KeyError, SafetensorError, ImportError) as exc:
        if accelerator_fault(exc):
            raise
        raise ModelError(f"{folder} can't be loaded as a causal language model: {first_line(exc)}") from exc


def _how(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """How transformers is to load anything."""
    return {
        "dtype": dtype, "device_map": {"": device}, "use_safetensors": True,
        "trust_remote_code": False, "local_files_only": True, "attn_implementation": "sdpa",
    }


def _settled(model: Any) -> Any:
    """The model frozen and with nothing of its own that bends decoding or loses a gradient."""
    from transformers import GenerationConfig

    base_made()
    model.eval()
    model.requires_grad_(False)
    # Decoding follows the workbench's settings alone: a folder's own penalties or beams would bend "greedy".
    model.generation_config = GenerationConfig()
    _keep_gradients(model)
    return model


def _keep_gradients(model: Any) -> None:
    """Keep bitsandbytes from repacking 4-bit layers on CPUs with AVX512-BF16 at their first forward in eval mode.

    Its repacked product passes no gradient back through the base weight: training would go wrong without an error.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _bitsandbytes(quantization: Quantization, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    if quantization.mode == "4-bit":
        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type=quantization.type_4bit,
            bnb_4bit_use_double_quant=quantization.double, bnb_4bit_compute_dtype=dtype,
        )
    if quantization.mode == "8-bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=quantization.threshold)
    return None
