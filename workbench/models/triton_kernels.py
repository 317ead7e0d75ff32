"""Our own Triton kernels, where they can be had: torch's builds for CUDA bring Triton along, others don't."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any


@cache
def kernels(module: str) -> Any:
    """The module of kernels of that name; None without Triton, or with one that doesn't load here."""
    try:
        return importlib.import_module(module)
    except Exception:  # a compiler, a driver: whatever it lacks, the plain ways stay
        return None
