"""The quantized copy beside a model: it equals freshly quantized weights bit for bit, and a bad one never costs a loading."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from workbench.models import loading, quantized_cache
from workbench.models.adapters import ADAPTER, put_new_adapter, put_saved_adapter, take_off_adapter
from workbench.models.catalog import Catalog
from workbench.models.fingerprint import fingerprint
from workbench.models.loading import Base, load_base
from workbench.models.quantized_cache import FOLDER, LOCK, MANIFEST, WEIGHTS, wait_for_copies
from workbench.models.watched import StoppedLoadingError, watched_weights
from workbench.settings import Lora, Quantization
from workbench.training.encode import IGNORED, Encoded
from workbench.training.pack import pack
from workbench.training.step import accumulate

pytestmark = pytest.mark.slow

NF4 = Quantization(mode="4-bit")
CHOICES = {
    "nf4": NF4, "fp4-single": Quantization(mode="4-bit", type_4bit="fp4", double=False),
    "int8": Quantization(mode="8-bit"),
}
FROM_COPY = "loading the quantized copy kept beside the model"
IDS = torch.tensor([[2, 4, 60, 61, 62, 63, 64, 5, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 80, 81]])


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return copied(tiny_folder, tmp_path)


def copied(made: Path, tmp_path: Path) -> Path:
    """The model without what other tests have kept beside it."""
    return Path(shutil.copytree(made, tmp_path / "m", ignore=shutil.ignore_patterns(FOLDER)))


def load(folder: Path, choice: Quantization = NF4) -> tuple[Base, list[str]]:
    said: list[str] = []
    return load_base(folder, choice, say=said.append), [text for text in said if text != "reading the tokenizer"]


def only_copy(folder: Path) -> Path:
    """The one copy in the folder, whole and with nothing unfinished beside it."""
    (place,) = [path for path in (folder / FOLDER).iterdir() if path.name != LOCK]
    assert sorted(path.name for path in place.iterdir()) == sorted([WEIGHTS, MANIFEST])
    return place


@torch.no_grad()
def logits(base: Base) -> torch.Tensor:
    assert not base.model.training
    return base.model(input_ids=IDS, use_cache=False).logits


def first_loss(base: Base) -> tuple[float, dict[str, torch.Tensor]]:
    put_new_adapter(base, Lora(rank=4, alpha=8, dropout=0.1), name="t", seed=1, checkpointing=False)
    base.model.train()
    torch.manual_seed(5)
    loss = accumulate(base.model, [pack([Encoded(ids := tuple(range(a, a + 24)), (*[IGNORED] * 9, *ids[9:])) for a in (20, 90)])], base.device)
    gradients = {n: p.grad for n, p in base.model.named_parameters() if p.grad is not None}
    take_off_adapter(base)
    return loss, gradients


def assert_equal(fresh: Base, kept: Base) -> None:
    """Every tensor, every layer's kind, what the model knows of itself, its answers and its first step of training."""
    ours, theirs = kept.model.state_dict(), fresh.model.state_dict()
    assert list(ours) == list(theirs)
    assert [n for n in ours if ours[n].dtype != theirs[n].dtype or not torch.equal(ours[n], theirs[n])] == []
    buffers = dict(fresh.model.named_buffers())
    assert buffers and all(torch.equal(b, buffers[n]) and b.dtype == buffers[n].dtype for n, b in kept.model.named_buffers())
    assert [(n, type(m)) for n, m in kept.model.named_modules()] == [(n, type(m)) for n, m in fresh.model.named_modules()]
    assert vars(kept.model).keys() == vars(fresh.model).keys()
    assert kept.model.config.to_dict() == fresh.model.config.to_dict()
    assert kept.model.name_or_path == fresh.model.name_or_path
    tied = fresh.model.get_output_embeddings().weight is fresh.model.get_input_embeddings().weight
    assert (kept.model.get_output_embeddings().weight is kept.model.get_input_embeddings().weight) == tied
    assert not [n for n, p in kept.model.named_parameters() if p.requires_grad]
    assert torch.equal(logits(kept), logits(fresh))
    (loss, gradients), (expected, wanted) = first_loss(kept), first_loss(fresh)
    assert loss == expected and gradients.keys() == wanted.keys() and len(gradients) > 0
    assert all(torch.equal(gradients[n], wanted[n]) for n in wanted)
    assert torch.equal(logits(kept), logits(fresh))


@pytest.mark.parametrize(("kind", "choice"), [
    ("gemma3", "fp4-single"), ("gemma3-vision", "nf4"), ("gemma3-vision", "int8"), ("llama", "nf4"), ("qwen2", "int8"), ("qwen3", "nf4"),
])
def test_a_model_from_the_copy_equals_a_freshly_quantized_one(
    tiny_model_folder: Callable[[str], Path], tmp_path: Path, kind: str, choice: str
) -> None:
    folder = copied(tiny_model_folder(kind), tmp_path)
    fresh, said = load(folder, CHOICES[choice])
    assert said == [f"loading the weights of m, {CHOICES[choice].mode}"]
    kept, said = load(folder, CHOICES[choice])
    assert said == [FROM_COPY]
    assert_equal(fresh, kept)


@pytest.mark.parametrize("choice", ["nf4", "int8"])
def test_the_copy_of_a_bfloat16_model_is_equal_too_and_lies_beside_the_other(folder: Path, monkeypatch: pytest.MonkeyPatch, choice: str) -> None:
    load(folder, CHOICES[choice])
    monkeypatch.setattr(loading, "pick_dtype", lambda device: torch.bfloat16)
    fresh, said = load(folder, CHOICES[choice])
    assert said == [f"loading the weights of m, {CHOICES[choice].mode}"]
    kept, said = load(folder, CHOICES[choice])
    assert said == [FROM_COPY]
    assert kept.model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert_equal(fresh, kept)
    kind = {"nf4": "nf4-double", "int8": "int8"}[choice]
    assert {p.name for p in (folder / FOLDER).iterdir()} == {LOCK, f"{kind}-float32-cpu", f"{kind}-bfloat16-cpu"}


def test_one_copy_serves_every_threshold(folder: Path) -> None:
    load(folder, Quantization(mode="8-bit", threshold=6.0))
    base, said = load(folder, Quantization(mode="8-bit", threshold=0.0))
    assert said == [FROM_COPY]
    assert base.model.model.layers[0].mlp.up_proj.state.threshold == 0.0
    assert base.model.config.quantization_config.llm_int8_threshold == 0.0


def test_an_adapter_goes_from_the_one_to_the_other(folder: Path, tmp_path: Path) -> None:
    fresh, _ = load(folder)
    put_new_adapter(fresh, Lora(rank=4), name="t", seed=1, checkpointing=False)
    with torch.no_grad():
        for name, parameter in fresh.model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
    fresh.model.save_pretrained(str(tmp_path / "saved"), selected_adapters=[ADAPTER])
    kept, said = load(folder)
    assert said == [FROM_COPY]
    fresh.model.eval()
    assert put_saved_adapter(kept, tmp_path / "saved" / ADAPTER, "t") > 0
    assert torch.equal(logits(kept), logits(fresh))


# -- what the rest sees of it ------------------------------------------------------------------------


def test_the_model_is_what_it_was_for_everybody_else(folder: Path, tmp_path: Path) -> None:
    before, files = fingerprint(folder), sorted(folder.iterdir())
    load(folder)
    assert fingerprint(folder) == before
    assert sorted(folder.iterdir()) == sorted([*files, folder / FOLDER])
    assert Catalog(tmp_path).find(str(folder)) == folder
    told = json.loads((only_copy(folder) / MANIFEST).read_text(encoding="utf-8"))
    assert told["fingerprint"] == before and told["bytes"] == (only_copy(folder) / WEIGHTS).stat().st_size
    assert set(told["versions"]) == {"bitsandbytes", "transformers", "torch"}


@pytest.mark.parametrize(("choice", "keep"), [(Quantization(mode="none"), True), (NF4, False)])
def test_nothing_is_kept_of_what_is_not_quantized_or_not_wanted(folder: Path, choice: Quantization, keep: bool) -> None:
    load_base(folder, choice, keep=keep)
    assert not (folder / FOLDER).exists()


def test_a_checkpoint_that_is_quantized_itself_needs_no_copy(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"load_in_4bit": True}}), encoding="utf-8")
    assert quantized_cache.copy_of(folder, NF4, torch.float32, torch.device("cpu")) is None


# -- copies that can't be used -----------------------------------------------------------------------


def other_weights(place: Path) -> None:
    path = place.parent.parent / "model.safetensors"
    tensors = load_file(str(path))
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1
    save_file(tensors, str(path), metadata={"format": "pt"})


def sister(place: Path) -> None:
    path = place.parent.parent / "model.safetensors"
    stat = path.stat()
    save_file({name: tensor + 0.01 for name, tensor in load_file(str(path)).items()}, str(path), metadata={"format": "pt"})
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def other_versions(place: Path) -> None:
    told = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
    told["versions"]["bitsandbytes"] = "0.1"
    (place / MANIFEST).write_text(json.dumps(told), encoding="utf-8")


def cut_off(place: Path) -> None:
    os.truncate(place / WEIGHTS, (place / WEIGHTS).stat().st_size - 1)


def same_size_and_broken(place: Path) -> None:
    size = (place / WEIGHTS).stat().st_size
    (place / WEIGHTS).write_bytes(b"\xff" * size)


def a_tensor_missing(place: Path) -> None:
    tensors = load_file(str(place / WEIGHTS))
    del tensors["model.layers.1.self_attn.q_proj.weight.absmax"], tensors["model.norm.weight"]
    save_file(tensors, str(place / WEIGHTS), metadata={"format": "pt"})
    told = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
    (place / MANIFEST).write_text(json.dumps(told | {"bytes": (place / WEIGHTS).stat().st_size}), encoding="utf-8")


def no_json(place: Path) -> None:
    (place / MANIFEST).write_text("{", encoding="utf-8")


def another_form(place: Path) -> None:
    (place / MANIFEST).write_text("[]", encoding="utf-8")


BAD = {
    other_weights: "it was made of other weights", sister: "it was made of other weights", other_versions: "it was made by other versions of the libraries",
    cut_off: "its file is cut off", no_json: "its files can't be read", another_form: "it has another form",
    same_size_and_broken: "it can't be read: ", a_tensor_missing: "",
}


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
def test_a_bad_copy_is_passed_over_with_a_sentence_and_made_anew(folder: Path, spoil: Callable[[Path], None]) -> None:
    fresh, _ = load(folder)
    spoil(only_copy(folder))
    again, said = load(folder)
    assert [text.startswith("the quantized copy beside m is passed over and made anew: " + BAD[spoil]) for text in said].count(True) == 1, said
    assert said[-1] == "loading the weights of m, 4-bit"
    assert torch.equal(logits(again), logits(fresh)) == (spoil not in (other_weights, sister))
    kept, said = load(folder)
    assert said == [FROM_COPY]
    assert torch.equal(logits(kept), logits(again))
    only_copy(folder)


@pytest.mark.parametrize("gone", [WEIGHTS, MANIFEST])
def test_half_a_copy_is_no_copy(folder: Path, gone: str) -> None:
    load(folder)
    (only_copy(folder) / gone).unlink()
    assert load(folder)[1] == ["loading the weights of m, 4-bit"]
    assert load(folder)[1] == [FROM_COPY]


def test_a_stop_ends_the_reading_of_a_copy(folder: Path) -> None:
    load(folder)
    shares: list[float] = []
    with pytest.raises(StoppedLoadingError), watched_weights(shares.append, lambda: len(shares) == 5, "m"):
        load_base(folder, NF4)
    assert len(shares) == 5 and load(folder)[1] == [FROM_COPY]


def test_a_fault_of_the_memory_is_no_fault_of_the_copy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    load(folder)

    def full(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched, pytest.raises(torch.OutOfMemoryError):
        patched.setattr(AutoModelForCausalLM, "from_pretrained", full)
        load(folder)
    assert load(folder)[1] == [FROM_COPY]


# -- copies that can't be written --------------------------------------------------------------------

NONE_KEPT = "no quantized copy is kept beside m, so each loading quantizes it again: "


def test_a_place_that_can_not_be_written_costs_the_copy_alone(folder: Path) -> None:
    (folder / FOLDER).write_text("in the way")
    base, said = load(folder)
    assert said == ["loading the weights of m, 4-bit", NONE_KEPT + "File exists"]
    assert logits(base).shape[1] == IDS.shape[1]


def test_a_disk_without_room_is_not_filled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type(shutil.disk_usage(folder))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12 - 2**31, 2**31))
    assert load(folder)[1][1] == NONE_KEPT + "the disk has 2.0 GiB left, and it takes 2.0"
    assert [path.name for path in (folder / FOLDER).iterdir()] == [LOCK]
    monkeypatch.undo()
    assert load(folder)[1] == ["loading the weights of m, 4-bit"], "and it is made as soon as there is room"
    assert load(folder)[1] == [FROM_COPY]


def test_a_fault_while_writing_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: object, path: str, metadata: object) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(quantized_cache, "save_file", full)
        assert load(folder)[1][1] == NONE_KEPT + "No space left on device"
    assert [path.name for path in (folder / FOLDER).iterdir()] == [LOCK]
    load(folder)
    assert load(folder)[1] == [FROM_COPY]


def test_a_second_writer_leaves_it_to_the_first_and_what_a_killed_one_left_goes(folder: Path) -> None:
    left = folder / FOLDER / ".writing-abc" / "new"
    left.mkdir(parents=True)
    (left / WEIGHTS).write_bytes(b"half of it")
    lock = quantized_cache._lock(folder / FOLDER / LOCK)
    assert lock is not None
    assert load(folder)[1] == ["loading the weights of m, 4-bit"]
    assert left.exists() and len(list((folder / FOLDER).iterdir())) == 2
    os.close(lock)
    load(folder)
    only_copy(folder)


def test_a_large_copy_is_written_beside_the_work_that_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(quantized_cache, "AT_ONCE", 0)
    fresh, said = load(folder)
    before = logits(fresh)
    wait_for_copies()
    assert said == ["loading the weights of m, 4-bit"] and torch.equal(logits(fresh), before)
    kept, said = load(folder)
    assert said == [FROM_COPY] and torch.equal(logits(kept), before)

    def full(tensors: object, path: str, metadata: object) -> None:
        raise OSError(28, "No space left on device")

    shutil.rmtree(folder / FOLDER)
    monkeypatch.setattr(quantized_cache, "save_file", full)
    with caplog.at_level(logging.WARNING):
        load(folder)
        wait_for_copies()
    assert [record.message for record in caplog.records] == [NONE_KEPT + "No space left on device"]
