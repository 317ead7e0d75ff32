"""What transformers reads when it is imported: each of its two thousand files, twice over and whole, to learn what they offer. Here once, and its end.

That takes a quarter of a second on each of a command's ways, and twice as long on a slower machine. What is found is the same; a test holds both beside each other.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

READER = "transformers.utils.import_utils"
_MARK = "\n__all__"


def read_once() -> None:
    """Have transformers, where it is imported after this, read its files once."""
    if READER not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds that one module as Python would, and leaves."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != READER:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    def __init__(self, real: Any) -> None:
        self.real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        found: ModuleType | None = self.real.create_module(spec)
        return found

    def exec_module(self, module: ModuleType) -> None:
        self.real.exec_module(module)
        quicken(module)

    def __getattr__(self, name: str) -> Any:  # whoever looks for the module's source or path
        return getattr(self.real, name)


def quicken(module: Any) -> None:
    """Keep what that reader found of every folder (its own cache holds fewer than there are), and look no further than each file's last `__all__`.

    A release of transformers that does it otherwise is left as it is.
    """
    folders, offers = getattr(module, "create_import_structure_from_path", None), getattr(module, "fetch__all__", None)
    read = getattr(folders, "__wrapped__", None)
    if read is not None and callable(offers):
        module.create_import_structure_from_path = functools.cache(read)
        module.fetch__all__ = from_the_last(offers)


def from_the_last(offers: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    """`offers`, which finds the last line that begins with `__all__` by splitting a file's text into all its lines, on the rest from there."""

    def quick(text: str) -> list[str]:
        found = text.rfind(_MARK)
        if found < 0 and not text.startswith(_MARK[1:]):
            return []
        return offers(text[found + 1 :])

    return quick
