"""The tensors of a safetensors file on their way to the card, brought by threads while Python imports and builds the model.

transformers reads each of them in turn by a few lines of Python, which have to wait for the other lines that are run meanwhile: of a
quantized model, which has six small tensors to each matrix, the reading takes longer than the bytes need. Here the large ones are
copied whole, each in one call that needs no Python, and the small ones go together.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

LARGE = 2**20  # bytes; what is smaller goes together with its like
ALIGNED = 256  # bytes, between the beginnings of the small ones, as the allocator has it
WORKERS = 3  # threads that copy large tensors
LONGEST_HEADER = 100_000_000  # bytes, the form's own limit
SWITCH = 0.0005  # seconds that a thread waits for Python at most, while tensors are on their way

TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Placed:
    """Where a tensor lies: bytes [begin, end) of the file."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> list[Placed]:
    """What a safetensors file holds, in the order of its bytes; raises `ValueError` if they are not as it says, `OSError`."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= min(size - 8, LONGEST_HEADER):
            raise ValueError("its header is cut off")
        told = json.loads(stream.read(length))
    found = [_placed(name, entry, 8 + length) for name, entry in told.items() if name != "__metadata__"] if isinstance(told, dict) else []
    found.sort(key=lambda placed: (placed.begin, placed.end))
    ends = [8 + length, *(placed.end for placed in found)]
    if any(placed.begin != before for placed, before in zip(found, ends, strict=False)) or ends[-1] != size:
        raise ValueError("its tensors are not as its header says")
    return found


def _placed(name: str, entry: Any, start: int) -> Placed:
    try:
        dtype, shape = TYPES[entry["dtype"]], tuple(int(n) for n in entry["shape"])
        begin, end = (start + int(place) for place in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as exc:
        raise ValueError(f"its header can't be read at {name[:80]}") from exc
    if end - begin != prod(shape) * dtype.itemsize or begin % dtype.itemsize:
        raise ValueError(f"{name[:80]} has another size than its header says")
    return Placed(name, dtype, shape, begin, end)


_early = threading.Lock()
_expected: list[tuple[Arrival, tuple[int, ...]]] = []  # at most one, and what tells its file from a later one
_loads = threading.Event()  # a base is being loaded, or was: nothing comes early any more


def expect(path: Path, device: torch.device, ended: threading.Event) -> None:
    """Have the tensors of `path` come before anybody asks for them, unless that is too late by now, or it has `ended`."""
    with _early, contextlib.suppress(OSError):
        if not (ended.is_set() or _loads.is_set() or _expected):
            stamp = _stamp(path)
            _expected.append((Arrival(path, device), stamp))


def expect_none() -> None:
    """Let go of what was expected and never asked for."""
    with _early:
        while _expected:
            _expected.pop()[0].stop()


def no_arrival() -> None:
    """A base is being loaded that wants no tensors: what was expected is let go of, and nothing comes early any more."""
    _loads.set()
    expect_none()


def arrival_of(path: Path, device: torch.device) -> Arrival:
    """The tensors of `path` on their way to `device`: those that are expected already, if the file is still the same."""
    with _early:
        _loads.set()
        found, stamp = _expected.pop() if _expected else (None, ())
    if found is not None:
        with contextlib.suppress(OSError):
            if (found.path, found.device, stamp) == (path, device, _stamp(path)):
                return found
        found.stop()
    return Arrival(path, device)


def _stamp(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


class Arrival:
    """The tensors of `path` on their way to `device`, begun at once. `tensors()` waits for them, `stop()` lets go of what has not come."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path, self.device = path, device
        self._ended = threading.Event()
        self._switch = sys.getswitchinterval()
        sys.setswitchinterval(min(SWITCH, self._switch))
        self._pool = ThreadPoolExecutor(1 + WORKERS, thread_name_prefix="tensors arriving")
        self._all: Future[dict[str, torch.Tensor]] = self._pool.submit(self._bring)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor by its name, on the device. Raises `ValueError` or `OSError` for a broken file; a fault of the card passes through."""
        coming, self._all = self._all, Future()  # kept by nobody but the model: an embedding may have to leave the card
        try:
            return coming.result()
        finally:
            self.stop()

    def stop(self) -> None:
        self._ended.set()
        self._pool.shutdown(wait=True)
        sys.setswitchinterval(self._switch)

    def _bring(self) -> dict[str, torch.Tensor]:
        placed = read_header(self.path)
        _announce(self.path)
        # Bytes are read as they are copied; nothing is written to them, so that the file is mapped and not held.
        whole_N = torch.from_file(str(self.path), shared=False, size=self.path.stat().st_size, dtype=torch.uint8)
        large = sorted((one for one in placed if one.end - one.begin >= LARGE), key=lambda one: one.begin - one.end)
        coming = [self._pool.submit(self._one, whole_N, one) for one in large]
        found = self._together(whole_N, [one for one in placed if one.end - one.begin < LARGE])
        found |= {one.name: future.result() for one, future in zip(large, coming, strict=True)}
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return found

    def _one(self, whole_N: torch.Tensor, one: Placed) -> torch.Tensor:
        if self._ended.is_set():
            raise ValueError("it is not wanted any more")
        return _view(whole_N[one.begin : one.end], one).to(self.device, copy=True)

    def _together(self, whole_N: torch.Tensor, small: Sequence[Placed]) -> dict[str, torch.Tensor]:
        """The small tensors by one copy: they lie in one piece of memory on the card, where none of them is ever given back alone."""
        starts, size = [], 0
        for one in small:
            starts.append(size)
            size += -(-(one.end - one.begin) // ALIGNED) * ALIGNED
        held = torch.empty(size, dtype=torch.uint8)
        source, target = whole_N.numpy(), held.numpy()
        for one, start in zip(small, starts, strict=True):
            target[start : start + one.end - one.begin] = source[one.begin : one.end]
        moved = held.to(self.device, copy=True)
        return {one.name: _view(moved[start : start + one.end - one.begin], one) for one, start in zip(small, starts, strict=True)}


def _announce(path: Path) -> None:
    """Let the system read the file ahead of us, where it takes such a hint."""
    with contextlib.suppress(AttributeError, OSError), path.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _view(bytes_N: torch.Tensor, one: Placed) -> torch.Tensor:
    return bytes_N.view(one.dtype).view(one.shape)
