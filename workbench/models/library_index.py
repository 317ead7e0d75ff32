"""What transformers reads when it is imported: each of its two thousand files, twice over and whole, to learn what they offer. Here once in its life.

That takes a quarter of a second each time, and more on a busy machine. What is found is the same; a test holds both beside each other.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from workbench.models import machine_cache

READER = "transformers.utils.import_utils"
KEPT = "transformers-index"
_MARK = "\n__all__"

Index = dict[frozenset[str], dict[str, set[str]]]  # libraries wanted -> module -> the names it offers


def read_once() -> None:
    """Have transformers, where it is imported after this, read its files once."""
    if READER not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds that one module as Python would, and leaves."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != READER:
            return None
        sys.meta_path = [finder for finder in sys.meta_path if finder is not self]  # another thread may be walking the old list
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
    """Keep the index of all models, and look no further than each file's last `__all__` where one has to be made.

    A release of transformers that does it otherwise is left as it is.
    """
    index, offers, home = getattr(module, "define_import_structure", None), getattr(module, "fetch__all__", None), getattr(module, "__file__", None)
    if callable(index) and callable(offers) and home:
        module.define_import_structure = _kept(index, Path(home).parent.parent / "models")
        module.fetch__all__ = from_the_last(offers)


def _kept(index: Callable[..., Index], models: Path) -> Callable[..., Index]:
    """`index`, whose answer for the folder of all models is kept."""

    @functools.cache
    def whole() -> Index:
        try:
            made_of = machine_cache.stamp(models / "__init__.py", models.parent / "__init__.py", models, *sorted(p for p in models.iterdir() if p.is_dir()))
        except OSError:
            return index(str(models))
        if (found := _from_json(machine_cache.recall(KEPT, made_of))) is None:
            found = index(str(models))
            machine_cache.keep(KEPT, made_of, [[sorted(wanted), {name: sorted(of) for name, of in offered.items()}] for wanted, offered in found.items()])
        return found

    @functools.cache
    def define_import_structure(module_path: Any, prefix: str | None = None) -> Index:
        if Path(module_path) not in (models, models / "__init__.py"):
            return index(module_path, prefix)
        begin = f"{prefix}." if prefix else ""
        return {wanted: {begin + name: set(of) for name, of in offered.items()} for wanted, offered in whole().items()}

    return define_import_structure


def _from_json(value: Any) -> Index | None:
    if not isinstance(value, list) or not value:
        return None
    try:
        return {frozenset(map(str, wanted)): {str(name): set(map(str, of)) for name, of in offered.items()} for wanted, offered in value}
    except (TypeError, ValueError, AttributeError):  # written by another hand
        return None


def from_the_last(offers: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    """`offers`, which finds the last line that begins with `__all__` by splitting a file's text into all its lines, on the rest from there."""

    def quick(text: str) -> list[str]:
        found = text.rfind(_MARK)
        if found < 0 and not text.startswith(_MARK[1:]):
            return []
        return offers(text[found + 1 :])

    return quick
