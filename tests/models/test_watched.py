"""Loading and downloading tell how far they are, and a stop ends them in between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.errors import ModelError
from workbench.models.catalog import Catalog
from workbench.models.faults import accelerator_fault
from workbench.models.loading import load_base
from workbench.models.watched import StoppedLoadingError, download_bar, watched_weights
from workbench.settings import Quantization

NONE = Quantization(mode="none")


def never() -> bool:
    return False


def test_the_share_of_tensors_grows_from_nothing_and_the_hook_is_taken_off(tiny_folder: Path) -> None:
    shares: list[float] = []
    with watched_weights(shares.append, never, "m"):
        load_base(tiny_folder, NONE)
    assert shares == sorted(shares) and shares[0] == 0.0 and 0.9 < shares[-1] < 1.0
    count = len(shares)
    load_base(tiny_folder, NONE)
    assert len(shares) == count


def test_a_stop_ends_loading_between_two_tensors(tiny_folder: Path) -> None:
    shares: list[float] = []
    with pytest.raises(StoppedLoadingError, match="^tiny was not loaded: it was stopped on request"):
        with watched_weights(shares.append, lambda: len(shares) == 5, "tiny"):
            load_base(tiny_folder, NONE)
    assert len(shares) == 5


def client(steps: int) -> Callable[..., str]:
    """What the hub's client does with a progress bar: two bars of bytes, one of files."""

    def snapshot_download(model: str, *, tqdm_class: Any, local_files_only: bool, **_: Any) -> str:
        if local_files_only:
            from huggingface_hub.errors import LocalEntryNotFoundError

            raise LocalEntryNotFoundError("not here")
        transfer = tqdm_class(desc="Downloading bytes", total=0, initial=0, unit="B", unit_scale=True)
        whole = tqdm_class(desc="Reconstructing (incomplete total...)", total=0, initial=0, unit="B", unit_scale=True)
        whole.total = 4 * 2**30
        for _ in range(steps):
            transfer.update(2**30)
            whole.update(2**30)
        return "nowhere"

    return snapshot_download


def fetch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stop: Callable[[], bool]) -> list[tuple[str, float | None]]:
    # The bar is given to the download alone, not to the look for what is here already.
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda model, **k: client(4)(model, **{"tqdm_class": None} | k))
    told: list[tuple[str, float | None]] = []
    bar = download_bar(lambda text, share: told.append((text, share)), stop, "google/m")
    monkeypatch.setattr("workbench.models.catalog._checked", lambda folder: folder)
    assert Catalog(tmp_path).fetch("google/m", lambda text: None, bar) == Path("nowhere")
    return told


def test_a_download_tells_its_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch(monkeypatch, tmp_path, never) == [
        ("1.0 of 4.0 GiB", 0.25), ("2.0 of 4.0 GiB", 0.5), ("3.0 of 4.0 GiB", 0.75), ("4.0 of 4.0 GiB", 1.0),
    ]
    assert capsys.readouterr() == ("", ""), "the bars are drawn nowhere"


def test_a_stop_ends_a_download_and_is_not_taken_for_a_fault_of_the_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    looks = iter(range(100))
    with pytest.raises(StoppedLoadingError, match="^google/m was not loaded: it was stopped on request"):
        fetch(monkeypatch, tmp_path, lambda: next(looks) >= 3)


@pytest.mark.parametrize(("error", "fault"), [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "memory"),
    (torch.AcceleratorError("CUDA error: device-side assert triggered"), "device"),
    (RuntimeError("a shape that nobody foresaw"), ""),
])
def test_what_a_tensor_could_not_be_converted_for_is_told(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, fault: str
) -> None:
    """transformers passes over a tensor that fails while it is quantized, and tells of it on its log alone."""
    from transformers.integrations.bitsandbytes import Bnb8bitQuantize

    def convert(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(Bnb8bitQuantize, "convert", convert)
    with pytest.raises((RuntimeError, ModelError)) as caught, watched_weights(lambda share: None, never, "m"):
        load_base(tiny_folder, Quantization(mode="8-bit"), keep=False)  # a copy would not be quantized again
    assert accelerator_fault(caught.value) == fault
    assert str(error) in str(caught.value) and isinstance(caught.value, ModelError) is (not fault)
