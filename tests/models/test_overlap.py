"""What goes on beside a loading never decides whether it succeeds."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from workbench.models import overlap
from workbench.models.overlap import BLOCK, import_bitsandbytes, read_ahead, wake


def test_every_byte_is_read_once_and_the_readers_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"a": 3 * BLOCK + 5, "b": 0, "c": 7}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(bytes(size))
    read: list[tuple[str, int]] = []
    all_read = threading.Event()
    plain = overlap._read

    class Turn:
        def __init__(self, blocks: list[tuple[Path, int]], turn: object) -> None:
            self.blocks, self.turn = blocks, turn

        def __next__(self) -> int:
            i: int = next(self.turn)  # type: ignore[call-overload]
            if i < len(self.blocks):
                path, at = self.blocks[i]
                read.append((path.name, at))
            else:
                all_read.set()
            return i

    monkeypatch.setattr(overlap, "_read", lambda blocks, turn, ended: plain(blocks, Turn(blocks, turn), ended))  # type: ignore[arg-type]
    with read_ahead([tmp_path / name for name in sizes]):
        assert all_read.wait(60)
    assert sorted(read) == [("a", 0), ("a", BLOCK), ("a", 2 * BLOCK), ("a", 3 * BLOCK), ("c", 0)]
    assert {t.name for t in threading.enumerate() if t.name.startswith("reading ahead")} == set()


def test_a_missing_file_and_a_small_memory_are_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with read_ahead([tmp_path / "missing"]):
        pass
    (tmp_path / "a").write_bytes(bytes(10))
    started: list[object] = []
    monkeypatch.setattr(overlap, "_read", lambda *args: started.append(args))
    monkeypatch.setattr(overlap, "host_memory_gib", lambda: (1.0, BLOCK / 2**30))
    with read_ahead([tmp_path / "a"]):
        pass
    assert started == []


def test_an_error_inside_passes_through_and_ends_the_readers(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(10))
    with pytest.raises(ValueError, match="mine"), read_ahead([tmp_path / "a"]):
        raise ValueError("mine")
    assert {t.name for t in threading.enumerate() if t.name.startswith("reading ahead")} == set()


def test_waking_a_card_that_fails_is_silent() -> None:
    wake(torch.device("cpu"))
    wake(torch.device("mps" if not torch.backends.mps.is_available() else "xpu"))


def test_bitsandbytes_comes_without_the_compiler_and_the_compiler_stays_usable() -> None:
    code = (
        "import sys, torch; compiler = torch.compile\n"
        "from workbench.models.overlap import import_bitsandbytes; import_bitsandbytes()\n"
        "assert 'bitsandbytes' in sys.modules and torch.compile is compiler\n"
        "assert 'torch._inductor.compile_fx' not in sys.modules\n"
        "import bitsandbytes.functional as f\n"
        "w = torch.randn(64, 64); q, s = f.quantize_4bit(w, quant_type='nf4')\n"
        "assert float((f.dequantize_4bit(q, s) - w).norm() / w.norm()) < 0.2\n"
        "assert torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)).item() == 2\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_missing_library_is_left_to_whoever_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # an import of it raises ImportError
    monkeypatch.delitem(sys.modules, "bitsandbytes")

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(overlap.importlib, "import_module", missing)
    compiler = torch.compile
    import_bitsandbytes()
    assert torch.compile is compiler
