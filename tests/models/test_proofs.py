"""What was proven of a base once is not proven again by a later process, unless anything that it rests on is another."""

from __future__ import annotations

import gc
import json
import os
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.fresh_process import run
from workbench.models import proofs
from workbench.models.adapters import put_new_adapter
from workbench.models.decode_graphs import Decoder
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


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', "\xff", "[" * 60_000, " " * 70_000 + "{}"])
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
    for odd in ("yes", [1, 2], [], [1], {"a": 1}, [[1], [1], 0, 0], ["1", "1", "0", "0"], [1, 1, 9, 0]):
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
        proofs.prove(base.raw, f"way {number}", [1])
    assert len(json.loads((folder / proofs.FILE).read_text(encoding="utf-8"))) == proofs.MOST
    assert proofs.proven(base.raw, "way 2") is None and proofs.proven(base.raw, f"way {proofs.MOST + 2}") == [1]
    assert proofs.proven(torch.nn.Linear(1, 1), "way 9") is None


def decoder_on(folder: Path, told: list[str]) -> Decoder:
    base = load_base(folder, Quantization(mode="none"))
    made = Decoder(base, told.append)
    made.fused = True  # as on a card
    vars(made)["held by its user"] = base
    return made


def gives(value: float, asked: list[float]) -> Callable[[], torch.Tensor]:
    def give() -> torch.Tensor:
        asked.append(value)
        return value * torch.arange(4.0)[None]

    return give


def test_fused_kernels_are_trusted_on_an_earlier_proof_and_given_up_without(folder: Path) -> None:
    asked: list[float] = []
    one = decoder_on(folder, [])
    for _ in range(2):
        one._trust("a step", gives(-1, asked), gives(1, asked))
    assert not one.fused and asked == [1, -1]  # given up, and not kept
    two = decoder_on(folder, [])
    for what in ("a step", "a step", "another"):
        two._trust(what, gives(2, asked), gives(1, asked))
    assert two.fused and asked == [1, -1, 1, 2, 1, 2]
    three = decoder_on(folder, [])
    three._trust("another", gives(3, asked), gives(1, asked))
    assert three.fused and asked[6:] == [3]  # it only has to run
    three._trust("a third", gives(-3, asked), gives(1, asked))
    assert not three.fused and asked[7:] == [1, -3]


def test_fused_kernels_that_can_not_be_made_any_more_are_given_up_in_words(folder: Path) -> None:
    def fails() -> torch.Tensor:
        raise RuntimeError("no C compiler")

    decoder_on(folder, [])._trust("a step", gives(1, []), gives(1, []))
    told: list[str] = []
    later = decoder_on(folder, told)
    later._trust("a step", fails, gives(1, []))
    assert not later.fused and "no C compiler" in told[0]


def test_what_went_wrong_where_it_was_trusted_is_proven_anew(folder: Path, asked: list[int]) -> None:
    base = load_base(folder, Quantization(mode="none"))
    model = put_new_adapter(base, Lora(rank=4, dropout=0.0), name="t", seed=1, checkpointing=False)
    train_on(folder)
    stepper._unproven(model)
    train_on(folder)
    assert len(asked) == 2


def test_a_model_s_folder_that_went_does_not_come_back(folder: Path) -> None:
    base = load_base(folder, Quantization(mode="none"))
    folder.rename(folder.with_name("moved"))
    proofs.prove(base.raw, "a way", [1])
    assert not folder.exists()


def test_weights_that_differ_where_no_sample_is_taken_are_others(folder: Path, asked: list[int]) -> None:
    train_on(folder)
    path = folder / "model.safetensors"
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))
    train_on(folder)
    assert len(asked) == 2


@pytest.mark.slow
def test_an_adapter_s_shape_is_the_same_text_in_every_process() -> None:
    code = (
        "from types import SimpleNamespace as N; from workbench.models.proofs import adapters_of; from peft import LoraConfig\n"
        "print(adapters_of(N(peft_config={'a': LoraConfig(target_modules=['q_proj', 'k_proj', 'v_proj', 'o_proj'], base_model_name_or_path='x')})))"
    )
    told = {run(code, PYTHONHASHSEED=seed) for seed in ("1", "2", "3")}
    assert len(told) == 1 and "q_proj" in told.pop()


def test_the_other_processes_of_a_run_write_nothing(folder: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    train_on(folder)
    assert len(asked) == 1 and not (folder / proofs.FILE).exists()


def test_a_decoder_goes_with_its_base(folder: Path) -> None:
    base = load_base(folder, Quantization(mode="none"))
    decoder = Decoder(base, lambda text: None)
    gone = weakref.ref(base.raw)
    del base
    gc.collect()
    assert gone() is None and decoder.raw() is None
