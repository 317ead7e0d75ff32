"""Passes through a model that tell of every layer, so that whoever waits for a sign of progress need not wait for a whole pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch


def watch_passes(model: torch.nn.Module, got_on: Callable[[], None]) -> Callable[[], None]:
    """Call `got_on` after every decoder layer, on the way forward and on the way back; returns what takes the hooks off again.

    One pass on a CPU may take longer than a watchdog waits; a layer of it does not. The hooks are Python alone: they touch
    no tensor and wait for no card, so that they may run while a CUDA graph is captured (its replay runs none of them).
    """

    def after(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        got_on()
        first = output[0] if isinstance(output, (tuple, list)) and output else output
        if isinstance(first, torch.Tensor) and first.requires_grad:
            first.register_hook(back)  # type: ignore[no-untyped-call]

    def back(gradient: torch.Tensor) -> None:
        got_on()

    handles = [layer.register_forward_hook(after) for layer in _layers(model)]
    if not handles:
        with contextlib.suppress(NotImplementedError, AttributeError):  # a model without one: steps and tokens are signs enough
            handles = [model.get_input_embeddings().register_forward_hook(after)]  # type: ignore[operator, union-attr]

    def take_off() -> None:
        for handle in handles:
            handle.remove()

    return take_off


def _layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The layers of every tower: the outermost lists of modules, not the experts or blocks within a layer."""
    found: list[torch.nn.Module] = []
    for child in model.children():
        found += list(child) if isinstance(child, torch.nn.ModuleList) else _layers(child)
    return found
