"""A quantized copy of a base's weights, kept beside them: it is read instead of them, and nothing is ever held unquantized.

The copy is written after the first loading in 4 or 8 bit, and its folder may be deleted at any time. Its file holds what
bitsandbytes and transformers save of a quantized model, and transformers reads it, so a loaded copy equals freshly quantized
weights bit for bit. A copy that was made of other weights or by other versions, or that is cut off, is passed over and replaced.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from workbench.errors import ModelError
from workbench.files import make_last
from workbench.models.arriving import Arrival
from workbench.models.faults import accelerator_fault
from workbench.models.fingerprint import provenance
from workbench.models.hardware import host_memory_gib
from workbench.models.overlap import lean
from workbench.models.tokenizer import read_json
from workbench.models.torch_start import with_whole
from workbench.settings import Quantization

FOLDER = ".quantized"
WEIGHTS, MANIFEST, LOCK = "model.safetensors", "manifest.json", "lock"
FORM = 1  # of the folder; another number is another form
LIBRARIES = ("bitsandbytes", "transformers", "torch")
SPARE = 2 * 2**30  # bytes that a copy leaves free on the disk, and in the host's memory while it is being written
AT_ONCE = 64 * 2**20  # bytes; a smaller copy is written on the spot, a larger one beside the work that goes on
_UNFINISHED = ".writing-"

Say = Callable[[str], None]
log = logging.getLogger(__name__)
_writing: list[threading.Thread] = []


class UnusableCopyError(Exception):
    """A quantized copy is there and can't be used; the text says why."""


@dataclass(frozen=True)
class QuantizedCopy:
    """Where the weights in `model` lie quantized (a resolved choice, 4 or 8 bit), the rest of them in `dtype`.

    `device` ("cuda", "cpu") counts, since a card and a processor may round differently.
    """

    model: Path
    quantization: Quantization
    dtype: torch.dtype
    device: str

    @property
    def folder(self) -> Path:
        chosen = self.quantization
        kind = "int8" if chosen.mode == "8-bit" else f"{chosen.type_4bit}-{'double' if chosen.double else 'single'}"
        return self.model / FOLDER / f"{kind}-{str(self.dtype).removeprefix('torch.')}-{self.device}"

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    @cached_property
    def origin(self) -> dict[str, Any]:
        """What the copy must have been made from and by, asked once: before the weights are read. Raises `ModelError`."""
        return {"form": FORM, **provenance(self.model), "versions": {name: version(name) for name in LIBRARIES}}

    def ready(self, say: Say) -> bool:
        """Whether the copy is there to be loaded; for one that is stale or broken a sentence says why it is not."""
        try:
            return self._is_there()
        except UnusableCopyError as exc:
            say(self.passed_over(exc))
            return False

    def passed_over(self, exc: UnusableCopyError) -> str:
        return f"the quantized copy beside {self.model.name} is passed over and made anew: {exc}"

    def _is_there(self) -> bool:
        try:
            origin = self.origin
            told = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
            size = self.weights.stat().st_size
        except (FileNotFoundError, NotADirectoryError, ModelError):  # broken weights are another's to tell
            return False
        except (OSError, ValueError) as exc:
            raise UnusableCopyError("its files can't be read") from exc
        if not isinstance(told, dict) or told.get("form") != FORM:
            raise UnusableCopyError("it has another form")
        if (told.get("fingerprint"), told.get("made")) != (origin["fingerprint"], origin["made"]):
            raise UnusableCopyError("it was made of other weights")
        if told.get("versions") != origin["versions"]:
            raise UnusableCopyError("it was made by other versions of the libraries")
        if told.get("bytes") != size:
            raise UnusableCopyError("its file is cut off")
        return True

    def load(self, quantization_config: Any, arrival: Arrival | None = None, **how: Any) -> Any:
        """The model, read from the copy; `how` goes to from_pretrained. Raises `UnusableCopyError` if the file is broken.

        With `arrival` its tensors are on their way to the device already. A fault of the card and a stop pass through.
        """
        from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

        config = AutoConfig.from_pretrained(str(self.model), trust_remote_code=False, local_files_only=True)
        config.quantization_config = quantization_config.to_dict()  # the form it has in the config of a quantized checkpoint
        how |= {"config": config, "generation_config": GenerationConfig(), "output_loading_info": True}
        try:
            with lean(), _one_quantizer(), _nothing_drawn():
                kind = _class_of(config) if arrival is not None else None
                if arrival is not None and kind is not None:
                    model, report = _of_tensors(kind, arrival.tensors(), how)
                else:
                    model, report = with_whole(lambda: AutoModelForCausalLM.from_pretrained(str(self.folder), **how))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as exc:
            if accelerator_fault(exc):
                raise
            raise UnusableCopyError(f"it can't be read: {str(exc).splitlines()[0][:200] if str(exc) else type(exc).__name__}") from exc
        for what, names in report.items():  # transformers only warns, and fills what is missing with random numbers
            if names:
                raise UnusableCopyError(f"{len(names)} of its tensors are wrong ({what.replace('_', ' ')})")
        model.name_or_path = model.config.name_or_path = str(self.model)
        return model

    def keep(self, model: Any, say: Say) -> None:
        """Write the copy from a `model` that was just loaded and not yet used. Where that can't be, one sentence says so.

        The weights are put into the host's memory at once (no other thread may touch the card: it would break the capture
        of a CUDA graph), and go to the disk beside the work that follows.
        """
        try:
            origin = self.origin
            (self.model / FOLDER).mkdir(exist_ok=True)
            lock = _lock(self.model / FOLDER / LOCK)
        except (OSError, ModelError) as exc:
            say(self._excuse(exc))
            return
        if lock is None:  # another process is at it
            return
        try:
            tensors = _tensors(model)
            size = sum(tensor.nbytes for tensor in tensors.values())
            self._check_room(size)
            held = {name: tensor.cpu() for name, tensor in tensors.items()}
            del tensors
        except OSError as exc:
            os.close(lock)
            say(self._excuse(exc))
            return
        except BaseException:
            os.close(lock)
            raise
        if size < AT_ONCE:
            self._write(held, origin, lock, say)
            return
        thread = threading.Thread(target=self._write, args=(held, origin, lock, log.warning), name="quantized copy")
        _writing[:] = [one for one in _writing if one.is_alive()] + [thread]
        thread.start()

    def _check_room(self, size: int) -> None:
        """Raises `OSError` if the disk or the host's memory has no room for `size` more bytes."""
        free = shutil.disk_usage(self.model / FOLDER).free
        if free < size + SPARE:
            raise OSError(f"the disk has {free / 2**30:.1f} GiB left, and it takes {(size + SPARE) / 2**30:.1f}")
        available = host_memory_gib()[1] * 2**30
        if self.device != "cpu" and available < size + SPARE:
            raise OSError(f"the host has {available / 2**30:.1f} GiB of memory left, and it takes {(size + SPARE) / 2**30:.1f}")

    def _write(self, tensors: dict[str, torch.Tensor], origin: dict[str, Any], lock: int, say: Say) -> None:
        """Write everything into a folder of its own, make it last, and put it in place whole."""
        home = self.model / FOLDER
        made: str | None = None
        try:
            _sweep(home)
            made = tempfile.mkdtemp(prefix=_UNFINISHED, dir=home)
            new = Path(made) / "new"
            new.mkdir()
            save_file(tensors, str(new / WEIGHTS), metadata={"format": "pt"})
            manifest = origin | {"bytes": (new / WEIGHTS).stat().st_size, "tensors": len(tensors)}
            (new / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
            for path in (new / WEIGHTS, new / MANIFEST, new):
                make_last(path)
            with contextlib.suppress(FileNotFoundError):
                self.folder.replace(Path(made) / "old")
            new.replace(self.folder)
            make_last(home)
        except (OSError, SafetensorError) as exc:
            say(self._excuse(exc))
        finally:
            tensors.clear()
            if made is not None:
                shutil.rmtree(made, ignore_errors=True)
            os.close(lock)

    def _excuse(self, exc: Exception) -> str:
        why = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        return f"no quantized copy is kept beside {self.model.name}, so each loading quantizes it again: {why}"


def copy_of(folder: Path, quantization: Quantization, dtype: torch.dtype, device: torch.device) -> QuantizedCopy | None:
    """Where the copy for a resolved choice belongs; None where there is nothing to quantize."""
    if quantization.mode == "none" or "quantization_config" in read_json(folder / "config.json"):
        return None
    return QuantizedCopy(folder, quantization, dtype, device.type)


def wait_for_copies() -> None:
    """Return when no copy is being written any more."""
    for thread in _writing:
        thread.join()


def _tensors(model: Any) -> dict[str, torch.Tensor]:
    """What is to be saved of a quantized model: every tensor once, none sharing its memory with another."""
    state = model.state_dict()
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in state.items():
        if tied.get(name) in state:  # tied to another one, and tied again when it is loaded
            continue
        tensor = tensor.detach().contiguous()
        if tensor.data_ptr() in seen:  # bitsandbytes' table of a type's values, one for all layers
            tensor = tensor.clone()
        seen.add(tensor.data_ptr())
        found[name] = tensor
    return found


def _of_tensors(kind: Any, tensors: dict[str, Any], how: dict[str, Any]) -> tuple[Any, Any]:
    """The model of that class, and transformers' report, from tensors that lie where they belong; nobody else keeps them afterwards."""
    try:
        with _nothing_to_warm_up():
            found: tuple[Any, Any] = with_whole(lambda: kind.from_pretrained(None, state_dict=dict(tensors), **how))
            return found
    finally:
        tensors.clear()


def _class_of(config: Any) -> Any | None:
    """The class that transformers has for a causal model of that config; None where it takes only a part of the config."""
    from transformers import AutoModelForCausalLM

    kind = AutoModelForCausalLM._model_mapping.get(type(config), None)
    return kind if kind is not None and getattr(kind, "config_class", None) is type(config) else None


@contextlib.contextmanager
def _nothing_to_warm_up() -> Iterator[None]:
    """Keep transformers from making room on the card for tensors that lie there already: it would be twice the memory."""
    from transformers import modeling_utils

    name = "caching_allocator_warmup"
    before = getattr(modeling_utils, name, None)
    if before is None:
        yield
        return
    setattr(modeling_utils, name, lambda *args, **kwargs: None)
    try:
        yield
    finally:
        setattr(modeling_utils, name, before)


@contextlib.contextmanager
def _nothing_drawn() -> Iterator[None]:
    """Keep layers from drawing random weights when they are made: all of theirs come from the copy, and one that did not would be told."""
    kinds: tuple[Any, ...] = (torch.nn.Linear, torch.nn.Embedding)
    before = [kind.reset_parameters for kind in kinds]
    for kind in kinds:
        kind.reset_parameters = lambda self: None
    try:
        yield
    finally:
        for kind, reset in zip(kinds, before, strict=True):
            kind.reset_parameters = reset


@contextlib.contextmanager
def _one_quantizer() -> Iterator[None]:
    """Let transformers share its quantizer: it copies it for each tensor that it reads, which takes a third of the time."""
    from transformers.quantizers.base import HfQuantizer

    if hasattr(HfQuantizer, "__deepcopy__"):
        yield
        return
    HfQuantizer.__deepcopy__ = lambda self, memo: self
    try:
        yield
    finally:
        del HfQuantizer.__deepcopy__


def _lock(path: Path) -> int | None:
    """A handle that keeps other writers out until it is closed, or None if there is one already."""
    handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        locks: Any = importlib.import_module("fcntl")
        locks.flock(handle, locks.LOCK_EX | locks.LOCK_NB)
    except ImportError:  # Windows: two writers at once write one file twice, and the later one stays
        pass
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError:  # a file system without locks
        pass
    return handle


def _sweep(home: Path) -> None:
    """Remove what a writer that was killed has left; called with the lock held."""
    for left in home.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)
