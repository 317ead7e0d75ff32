"""What was proven of a base once is not proven again by a later process, unless anything that it rests on is another."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from workbench.models import proofs
from workbench.models.decode_graphs import Decoder
from workbench.models.adapters import put_new_adapter
from workbench.models.loading import load_base
from workbench.settings import Lora, Quantization, Training
from workbench.training import stepper
from workbench.training.encode import Encoded
from workbench.training.step import make_optimizer
from workbench.training.stepper import make_graphed

ROWS = [Encoded(tuple(range(6, 6 + n)), (*[-100] * (n - 3), *range(3 + n, 6 + n))) for n in (12, 20)]


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model", ignore=shutil.ignore_patterns(".*")))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often a static forward was held against the plain one."""
    found: list[int] = []
    real: Callable[..., Any] = stepper.prove_same

    def counted(*args: Any) -> Any:
        found.append(1)
        return real(*args)

    monkeypatch.setattr(stepper, "prove_same", counted)
    return found


def train_on(folder: Path, *, rank: int = 4, keep: bool = True) -> Any:
    """As a process would: the base loaded anew, an adapter, and the forward that its steps would take."""
    base = load_base(folder, Quantization(mode="none"), keep=keep)
    model = put_new_adapter(base, Lora(rank=rank, dropout=0.0), name="t", seed=1, checkpointing=False)
    parameters = [p for p in model.parameters() if p.requires_grad]
    training = Training(epochs=1)
    return make_graphed(model, make_optimizer(parameters, training, fused=True, capturable=True), parameters, training, ROWS, ROWS, record=False).forward


def test_a_later_process_takes_what_was_proven(folder: Path, asked: list[int]) -> None:
    first = train_on(folder)
    assert len(asked) == 1
    again = train_on(folder)
    assert len(asked) == 1 and (again.by_kind, again.fast is None) == (first.by_kind, first.fast is None)


def test_another_shape_of_adapter_is_proven_for_itself(folder: Path, asked: list[int]) -> None:
    train_on(folder)
    train_on(folder, rank=8)
    assert len(asked) == 2
    train_on(folder)
    train_on(folder, rank=8)
    assert len(asked) == 2


def test_other_weights_are_proven_anew(folder: Path, asked: list[int]) -> None:
    train_on(folder)
    path = folder / "model.safetensors"
    save_file({name: tensor * 1.5 for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    train_on(folder)
    assert len(asked) == 2


def test_other_code_or_libraries_or_cards_prove_anew(folder: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    train_on(folder)
    here = proofs._here()
    monkeypatch.setattr(proofs, "_here", lambda: here + " and newer")
    train_on(folder)
    assert len(asked) == 2


def test_the_machine_s_word_changes_with_our_code_and_the_libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = {proofs._here()}
    monkeypatch.setattr(proofs.importlib.metadata, "version", lambda name: "0.0.1")
    proofs._here.cache_clear()
    told.add(proofs._here())
    for text in ("a = 1", "a = 2"):
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models" / "x.py").write_text(text)
        monkeypatch.setattr(proofs, "__file__", str(tmp_path / "models" / "proofs.py"))
        proofs._here.cache_clear()
        told.add(proofs._here())
    monkeypatch.undo()
    proofs._here.cache_clear()
    assert len(told) == 4


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', "\xff"])
def test_a_broken_file_costs_the_proof_and_is_replaced(folder: Path, asked: list[int], text: str) -> None:
    train_on(folder)
    (folder / proofs.FILE).write_text(text, encoding="latin-1")
    train_on(folder)
    assert len(asked) == 2
    train_on(folder)
    assert len(asked) == 2


def test_what_is_written_there_by_another_hand_is_no_proof(folder: Path, asked: list[int]) -> None:
    train_on(folder)
    kept = json.loads((folder / proofs.FILE).read_text(encoding="utf-8"))
    for odd in ("yes", [1, 2], [], [True], {"a": True}, [[True], [True]]):
        (folder / proofs.FILE).write_text(json.dumps(dict.fromkeys(kept, odd)), encoding="utf-8")
        before = len(asked)
        train_on(folder)
        assert len(asked) == before + 1, odd


def test_a_folder_that_takes_no_file_is_no_fault(folder: Path, asked: list[int]) -> None:
    (folder / proofs.FILE).mkdir()
    train_on(folder)
    train_on(folder)
    assert len(asked) == 2


def test_a_proof_that_failed_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any) -> Any:
        raise stepper.NotStaticError("not here")

    monkeypatch.setattr(stepper, "prove_same", fails)
    with pytest.raises(stepper.NotStaticError):
        train_on(folder)
    assert not (folder / proofs.FILE).exists()


def test_nothing_is_kept_of_a_base_that_leaves_no_copy(folder: Path, asked: list[int]) -> None:
    train_on(folder, keep=False)
    train_on(folder, keep=False)
    assert len(asked) == 2 and not (folder / proofs.FILE).exists()


def test_only_the_latest_are_kept(folder: Path) -> None:
    base = load_base(folder, Quantization(mode="none"))
    for number in range(proofs.MOST + 3):
        proofs.prove(base.raw, f"way {number}", [True])
    assert len(json.loads((folder / proofs.FILE).read_text(encoding="utf-8"))) == proofs.MOST
    assert proofs.proven(base.raw, "way 2") is None and proofs.proven(base.raw, f"way {proofs.MOST + 2}") == [True]
    assert proofs.proven(torch.nn.Linear(1, 1), "way 9") is None


def test_fused_kernels_are_trusted_on_an_earlier_proof_and_given_up_without(folder: Path) -> None:
    def decoder() -> Decoder:
        made = Decoder(load_base(folder, Quantization(mode="none")), lambda text: None)
        made.fused = True  # as on a card
        return made

    asked: list[bool] = []

    def held(agree: bool) -> Callable[[], bool]:
        return lambda: asked.append(agree) or agree  # type: ignore[func-returns-value]

    one = decoder()
    for _ in range(2):
        one._trust("fused step", False, held(False))
    assert not one.fused and asked == [False]  # given up, and not kept
    two = decoder()
    for adapted in (False, False, True):
        two._trust("fused step", adapted, held(True))
    assert two.fused and asked == [False, True, True]
    three = decoder()
    three._trust("fused step", True, held(False))
    three._trust("fused reading", True, held(False))
    assert not three.fused and asked == [False, True, True, False]


def test_a_decoder_goes_with_its_base(folder: Path) -> None:
    base = load_base(folder, Quantization(mode="none"))
    decoder = Decoder(base, lambda text: None)
    gone = weakref.ref(base.raw)
    del base
    gc.collect()
    assert gone() is None and decoder.raw() is None
