"""torch imported without the part of it that tells compilers what its operators would do (their Python "meta" kernels), until somebody wants that.

It is a sixth of torch's import, and with its own imports more. What a tensor without memory needs is mostly in torch's C++; the rest comes when an
attribute of that part is asked for, when the compiler or torch's tensors over several processes are imported, or by `whole`. An operator alone does not
bring it: whoever builds a model without memory does so `with_whole`. Those tensors over several processes, which bring the same along, can be left out
for the time of an import as well (`unspread`).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TypeVar

PART = "torch._meta_registrations"
SPREAD = "torch.distributed.tensor"
WANT_IT = ("torch._dynamo", "torch._inductor", SPREAD)  # modules that compute with tensors without memory

T = TypeVar("T")
_lock = threading.RLock()


def alone() -> bool:
    """Whether no launcher started this process as one of several; asked without torch."""
    return os.environ.get("WORLD_SIZE", "1") == "1"


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        whole()
        return getattr(sys.modules[PART], name)


class _Finder(MetaPathFinder):
    """Finds nothing itself; sees what is imported."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname in WANT_IT:
            whole()
        return None


def leave_out() -> None:
    """Have torch, where it is imported after this, leave that part out. With several processes it is needed and stays."""
    with _lock:
        if "torch" not in sys.modules and PART not in sys.modules and alone():
            sys.modules[PART] = _StandIn(PART)
            sys.meta_path.insert(0, _Finder())


def whole() -> bool:
    """Import what was left out, if it was; False if nothing was missing."""
    with _lock:
        if not isinstance(sys.modules.get(PART), _StandIn):
            return False
        del sys.modules[PART]
        sys.meta_path = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]  # another thread may be walking the old list
        importlib.import_module(PART)
        return True


def with_whole(work: Callable[[], T]) -> T:
    """`work`, once more with torch whole if an operator was missing."""
    try:
        return work()
    except NotImplementedError:
        if not whole():
            raise
    return work()


class _NoTensor:
    """What nothing is an instance of."""


class _Unspread(ModuleType):
    DTensor = _NoTensor

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        with _lock:
            _put_aside(self)
        return getattr(importlib.import_module(SPREAD), name)  # without the lock: another thread that imports it may wait for us in the finder


def _put_aside(stand_in: _Unspread) -> None:
    if sys.modules.get(SPREAD) is stand_in:
        del sys.modules[SPREAD]


@contextlib.contextmanager
def unspread() -> Iterator[None]:
    """Within, a library that is imported, only to tell such tensors from others, finds a stand-in for torch's tensors over several processes.

    It may look there ever after: the stand-in stays torch's attribute until the real part is imported. A library that imports a module of that
    part fails, and can be imported again without this. With several processes everything is as it comes.
    """
    import torch.distributed

    with _lock:
        stand_in = None
        if SPREAD not in sys.modules and alone():
            sys.modules[SPREAD] = stand_in = _Unspread(SPREAD)
            stand_in.__spec__ = ModuleSpec(SPREAD, None)
            vars(torch.distributed)["tensor"] = stand_in
    try:
        yield
    finally:
        if stand_in is not None:
            with _lock:
                _put_aside(stand_in)
