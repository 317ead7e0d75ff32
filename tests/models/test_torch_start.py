"""torch without its Python meta kernels does all that a run asks of it, and gets them as soon as somebody wants them. Each in a process of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.models import fresh_process

BEGIN = (
    "import workbench.models, sys, torch\n"
    "from workbench.models.torch_start import PART, with_whole, whole\n"
    "def missing(): return not hasattr(sys.modules[PART], '__file__')\n"
)


def run(code: str, **environment: str) -> None:
    fresh_process.run(BEGIN + code, **environment)


@pytest.mark.slow
def test_an_operator_that_needs_them_gets_them_at_the_second_try() -> None:
    run(
        "assert missing() and 'torch._prims' not in sys.modules, 'the start was not shorter'\n"
        "x = torch.empty(4, 4, device='meta')\n"
        "assert (x @ x + 1).sum().shape == () and missing()\n"
        "asked = []\n"
        "def work():\n"
        "    asked.append(1)\n"
        "    return torch.cdist(x, x)\n"
        "assert with_whole(work).shape == (4, 4) and len(asked) == 2 and not missing() and not whole()\n"
        "def never(): raise NotImplementedError('mine')\n"
        "try: with_whole(never)\n"
        "except NotImplementedError as exc: assert str(exc) == 'mine'\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("what", [
    "import torch._dynamo", "assert torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)).item() == 2", "import torch.distributed.tensor",
    "from torch._meta_registrations import meta_index_Tensor",
])
def test_whoever_wants_them_has_them(what: str) -> None:
    run(f"assert missing()\n{what}\nassert not missing() and torch.cdist(*[torch.empty(4, 4, device='meta')] * 2).shape == (4, 4)\n")


@pytest.mark.slow
def test_several_processes_have_torch_whole_from_the_start() -> None:
    run("assert not missing()\n", WORLD_SIZE="2")


@pytest.mark.slow
def test_a_run_s_work_leaves_them_out(tiny_folder: Path) -> None:
    run(
        "from pathlib import Path\n"
        "from workbench.models.loading import load_base\n"
        "from workbench.models.adapters import prove_active, put_new_adapter\n"
        "from workbench.models.decoding import Lane, generate\n"
        "from workbench.settings import Lora, Quantization, Sampling, Training\n"
        "from workbench.training.step import make_optimizer\n"
        f"base = load_base(Path({str(tiny_folder)!r}), Quantization(mode='4-bit'), keep=False)\n"
        "model = put_new_adapter(base, Lora(rank=4), name='r', seed=1, checkpointing=False)\n"
        "learning = [p for p in model.parameters() if p.requires_grad]\n"
        "optimizer = make_optimizer(learning, Training(learning_rate=0.1), fused=False)\n"
        "ids = torch.randint(3, 60, (2, 9))\n"
        "for _ in range(2):\n"
        "    model(input_ids=ids, labels=ids).loss.backward(); optimizer.step(); optimizer.zero_grad()\n"
        "assert prove_active(base) > 0\n"
        "assert len(generate(base, [Lane((2, 4, 5), 0), Lane((2, 4), 1)], Sampling(max_new_tokens=3))) == 2\n"
        "assert missing(), 'something asked for them'\n"
    )


@pytest.mark.slow
def test_a_library_that_only_tells_spread_tensors_from_others_does_without_them() -> None:
    run(
        "from workbench.models.torch_start import SPREAD, unspread\n"
        "with unspread():\n"
        "    import torch.distributed.tensor\n"
        "    from torch.distributed.tensor import DTensor\n"
        "    assert not isinstance(torch.ones(1), torch.distributed.tensor.DTensor) and not hasattr(torch.distributed.tensor, '__file__')\n"
        "assert SPREAD not in sys.modules and missing()\n"
        "assert torch.distributed.tensor.DTensor is DTensor, 'the library looks there again at each call'\n"
        "import torch.distributed.tensor\n"
        "assert torch.distributed.tensor.__file__ and torch.distributed.tensor.DTensor is not DTensor and not missing()\n"
        "with unspread():\n"
        "    assert torch.distributed.tensor.__file__, 'what is there stays'\n"
    )


@pytest.mark.slow
def test_who_wants_more_of_spread_tensors_gets_the_real_ones() -> None:
    run(
        "from workbench.models.torch_start import SPREAD, unspread\n"
        "with unspread():\n"
        "    from torch.distributed.tensor import distribute_tensor\n"
        "assert sys.modules[SPREAD].distribute_tensor is distribute_tensor and torch.distributed.tensor is sys.modules[SPREAD]\n"
    )


@pytest.mark.slow
def test_a_library_that_needs_more_of_them_is_imported_with_them(tmp_path: Path) -> None:
    (tmp_path / "liger_kernel" / "ops").mkdir(parents=True)
    (tmp_path / "liger_kernel" / "ops" / "__init__.py").write_text(
        "from torch.distributed.tensor.placement_types import Shard\n"
        "LigerRMSNormFunction = LigerGELUMulFunction = LigerSiLUMulFunction = Shard\n"
    )
    run(
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from workbench.models.torch_start import SPREAD, unspread\n"
        "from workbench.training.fast_pass import _liger\n"
        "with unspread():\n"
        "    import importlib.util\n"
        "    assert importlib.util.find_spec(SPREAD) is not None\n"
        "ops = _liger()\n"
        "assert ops.__file__ and ops.Shard is sys.modules[SPREAD].Shard and torch.distributed.tensor is sys.modules[SPREAD]\n"
    )


@pytest.mark.slow
def test_two_threads_that_want_them_at_once_both_get_them() -> None:
    run(
        "import importlib, threading, time\n"
        "from workbench.models import torch_start\n"
        "aside = torch_start._put_aside\n"
        "def slowly(stand_in): aside(stand_in); met.set(); time.sleep(0.5)\n"
        "torch_start._put_aside, met, got = slowly, threading.Event(), []\n"
        "def asks(): got.append(stand_in.distribute_tensor)\n"
        "def imports(): met.wait(); got.append(importlib.import_module(torch_start.SPREAD).distribute_tensor)\n"
        "with torch_start.unspread():\n"
        "    stand_in = sys.modules[torch_start.SPREAD]\n"
        "    threads = [threading.Thread(target=work, daemon=True) for work in (asks, imports)]\n"
        "    for thread in threads: thread.start()\n"
        "    for thread in threads: thread.join(60)\n"
        "assert len(got) == 2 and got[0] is got[1], got\n"
    )


@pytest.mark.slow
def test_one_of_several_processes_finds_spread_tensors_as_they_are() -> None:
    run("from workbench.models.torch_start import unspread\nwith unspread():\n    import torch.distributed.tensor\n    assert torch.distributed.tensor.__file__\n", WORLD_SIZE="2")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama-3.1", "gemma3"])
def test_a_quantized_copy_is_read_again_in_every_process(tiny_model_folder: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder(kind), folder, ignore=shutil.ignore_patterns(".*"))  # without a copy that another test made
    told = []
    for _ in range(3):
        run(
            "from pathlib import Path\n"
            "from workbench.models.loading import load_base\n"
            "from workbench.models.quantized_cache import wait_for_copies\n"
            "from workbench.settings import Quantization\n"
            f"said = []; base = load_base(Path({str(folder)!r}), Quantization(mode='4-bit'), say=said.append); wait_for_copies()\n"
            f"Path({str(tmp_path / 'said')!r}).write_text('\\n'.join(said))\n"
        )
        told.append((tmp_path / "said").read_text())
    assert "loading the quantized copy" not in told[0]
    assert all("loading the quantized copy" in text and "passed over" not in text and "loading the weights" not in text for text in told[1:]), told
