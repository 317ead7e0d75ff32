"""What goes on beside a loading never decides whether it succeeds."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from tests.models.fresh_process import run
from workbench.models import overlap
from workbench.models.overlap import BLOCK, import_libraries, read_ahead, wake


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


@pytest.mark.slow
def test_the_libraries_come_without_the_compiler_and_the_compiler_stays_usable() -> None:
    run(
        "import sys, torch; compiler, marks, told = torch.compile, torch.compiler.disable, torch.distributed.is_available\n"
        "from workbench.models.overlap import COMPILER, LIBRARIES, import_libraries; import_libraries()\n"
        "assert set(LIBRARIES) <= sys.modules.keys()\n"
        "assert (torch.compile, torch.compiler.disable, torch.distributed.is_available) == (compiler, marks, told)\n"
        "assert not {COMPILER, 'sympy', 'torch.distributed.tensor'} & sys.modules.keys() and '_dynamo' not in vars(torch)\n"
        "kept = [n for n, m in list(sys.modules.items()) for v in list(vars(m).values()) if type(v) is type(sys) and v.__name__ == COMPILER]\n"
        "assert not kept, kept\n"
        "import bitsandbytes.functional as f\n"
        "w = torch.randn(64, 64); q, s = f.quantize_4bit(w, quant_type='nf4')\n"
        "assert float((f.dequantize_4bit(q, s) - w).norm() / w.norm()) < 0.2\n"
        "from workbench.settings import Training\n"
        "from workbench.training.step import make_optimizer\n"
        "p = torch.nn.Parameter(torch.ones(3)); optimizer = make_optimizer([p], Training(), fused=False)\n"
        "p.grad = torch.ones(3); optimizer.step(); optimizer.zero_grad(); optimizer.load_state_dict(optimizer.state_dict())\n"
        "assert COMPILER not in sys.modules\n"
        "from transformers.masking_utils import sdpa_mask, sliding_window_causal_mask_function as sliding\n"
        "masks = [sdpa_mask(batch_size=1, q_length=5, kv_length=5, mask_function=sliding(3), allow_is_causal_skip=False, use_vmap=v, device='cpu') for v in (False, True)]\n"
        "assert torch.equal(*masks) and COMPILER in sys.modules\n"  # the class that masks take from the compiler
        "assert torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)).item() == 2\n"
    )


@pytest.mark.slow
def test_whoever_asks_for_the_compiler_itself_meanwhile_gets_it() -> None:
    run(
        "import sys, torch\n"
        "from workbench.models.overlap import COMPILER, as_it_is, lean\n"
        "with lean():\n"
        "    import torch._dynamo\n"
        "    assert torch._dynamo.disable is as_it_is and not hasattr(torch._dynamo, '__file__')\n"
        "    found = torch._dynamo.config\n"
        "    assert found is sys.modules[COMPILER].config and torch._dynamo.__file__\n"
        "assert sys.modules[COMPILER] is torch._dynamo and torch._dynamo.disable is not as_it_is\n"
        "with lean():\n"
        "    assert torch._dynamo.disable is not as_it_is\n"
        "assert sys.modules[COMPILER] is torch._dynamo\n"
    )


def test_one_of_several_processes_keeps_what_lies_over_them(monkeypatch: pytest.MonkeyPatch) -> None:
    told = torch.distributed.is_available
    monkeypatch.setenv("WORLD_SIZE", "2")
    with overlap.lean():
        assert torch.distributed.is_available is told
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(KeyError), overlap.lean():
        assert not torch.distributed.is_available()
        raise KeyError
    assert torch.distributed.is_available is told


def test_a_missing_library_is_left_to_whoever_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def missing(name: str) -> None:
        asked.append(name)
        raise ImportError(name)

    monkeypatch.setattr(overlap.importlib, "import_module", missing)
    compiler = torch.compile
    import_libraries()
    assert torch.compile is compiler and asked == list(overlap.LIBRARIES)


def test_a_decorator_that_does_nothing_takes_settings_too() -> None:
    def work() -> int:
        return 1

    assert overlap.as_it_is(work) is work and overlap.as_it_is(work, True, reason="x") is work
    assert overlap.as_it_is(recursive=False)(work) is work


def test_two_threads_that_import_leanly_take_turns_and_torch_is_whole_afterwards() -> None:
    """Entering one after the other and leaving in the same order, the second would have kept the first one's stand-ins for good."""
    before = torch.compile, torch.distributed.is_available
    within, let = threading.Event(), threading.Event()
    order: list[str] = []

    def first() -> None:
        with overlap.lean():
            within.set()
            let.wait(60)
            order.append("first left")

    def second() -> None:
        with overlap.lean():
            order.append("second came")

    threads = [threading.Thread(target=work) for work in (first, second)]
    threads[0].start()
    assert within.wait(60)
    threads[1].start()
    threads[1].join(0.2)
    let.set()
    for thread in threads:
        thread.join(60)
    assert order == ["first left", "second came"] and (torch.compile, torch.distributed.is_available) == before
