"""Captures share a stream, and what cuBLAS keeps for it is given back with the base."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from workbench.engine import bases
from workbench.models import overlap, side_stream
from workbench.models.catalog import Catalog
from workbench.training.captured import Graphs


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """The streams that were made, where a card is only pretended."""
    made: list[object] = []

    def make(device: torch.device) -> object:
        made.append(device)
        return SimpleNamespace(device=device, number=len(made))

    monkeypatch.setattr(torch.cuda, "Stream", make)
    side_stream.side_stream.cache_clear()
    yield made
    side_stream.side_stream.cache_clear()


def test_every_run_s_graphs_are_captured_on_one_stream_a_device(streams: list[object]) -> None:
    first, second = Graphs(torch.device("cuda", 0)), Graphs(torch.device("cuda", 0))
    assert first.stream is second.stream is side_stream.side_stream(torch.device("cuda", 0))
    assert Graphs(torch.device("cuda", 1)).stream is not first.stream
    assert streams == [torch.device("cuda", 0), torch.device("cuda", 1)]


@pytest.mark.parametrize("ends", [True, False])
def test_after_a_capture_the_thread_is_on_the_stream_that_it_came_from(monkeypatch: pytest.MonkeyPatch, ends: bool) -> None:
    now = ["plain"]

    @contextlib.contextmanager
    def capture(graph: Any, pool: Any, stream: Any, capture_error_mode: str) -> Iterator[None]:
        """As torch's own: the stream is set back after the capture's end, which may fail."""
        before, now[0] = now[0], stream.name
        yield
        if not ends:
            raise RuntimeError("operation failed due to a previous error during capture")
        now[0] = before

    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: now[0])
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: now.__setitem__(0, stream))
    with contextlib.nullcontext() if ends else pytest.raises(RuntimeError, match="previous error"), \
            side_stream.capturing(SimpleNamespace(), None, SimpleNamespace(device="cuda", name="side")):  # type: ignore[arg-type]
        assert now == ["side"]
    assert now == ["plain"]


def test_working_space_is_given_back_when_no_base_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cleared: list[str] = []
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: cleared.append("cleared"), raising=False)
    monkeypatch.setattr(bases, "release", lambda: cleared.append("graphs gone"))
    holder = bases.Bases(Catalog(tmp_path))
    holder.drop()
    assert cleared == ["graphs gone"]  # without a card in use there is nothing
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    holder.drop()
    assert cleared == ["graphs gone", "graphs gone", "cleared"]
    bases.give_back()  # after a merge, say: a base that was put aside keeps its graphs, and what they were captured with
    assert cleared == ["graphs gone", "graphs gone", "cleared", "graphs gone"]


def test_only_a_card_that_sleeps_is_given_a_product_to_load_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    cleared: list[str] = []
    monkeypatch.setattr(side_stream, "clear_workspaces", lambda: cleared.append("cleared"))
    overlap.wake(torch.device("cpu"))
    assert cleared == ["cleared"]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)  # its graphs may hold a working space
    overlap.wake(torch.device("cpu"))
    assert cleared == ["cleared"]
