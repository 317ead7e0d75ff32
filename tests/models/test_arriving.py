"""Tensors that come to the device by threads: what the file holds, and a broken file is told before it is trusted."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from workbench.errors import ModelError
from workbench.models import arriving, loading, overlap, quantized_cache
from workbench.models.arriving import LARGE, Arrival, arrival_of, expect, expect_none, read_header
from workbench.models.loading import load_base
from workbench.models.quantized_cache import FOLDER, MANIFEST, WEIGHTS, wait_for_copies
from workbench.settings import Quantization

CPU = torch.device("cpu")


def file_of(path: Path, **tensors: torch.Tensor) -> Path:
    save_file(tensors, str(path))
    return path


def rewritten(path: Path, change: object) -> Path:
    """The file with its header changed by `change(header)`, its bytes left."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)  # type: ignore[operator]
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % 8)
    path.write_bytes(len(told).to_bytes(8, "little") + told + data[8 + length :])
    return path


def test_every_tensor_arrives_as_it_was_saved_large_small_single_and_empty(tmp_path: Path) -> None:
    made = torch.Generator().manual_seed(0)
    tensors = {
        "large": torch.randn((1024, 700), generator=made), "bf16": torch.randn((1024, 1024), generator=made).bfloat16(),
        "bytes": torch.randint(0, 255, (333,), dtype=torch.uint8, generator=made), "one": torch.tensor(7.5), "none": torch.empty((0, 4)),
        "int": torch.arange(5), "half": torch.ones(3, dtype=torch.float16), "yes": torch.tensor([True, False]), "int8": torch.arange(9, dtype=torch.int8),
    }
    assert tensors["large"].nbytes > LARGE > tensors["bytes"].nbytes
    before = sys.getswitchinterval()
    arrived = Arrival(file_of(tmp_path / "m.safetensors", **tensors), CPU).tensors()
    assert arrived.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert arrived[name].dtype == tensor.dtype and arrived[name].shape == tensor.shape and torch.equal(arrived[name], tensor), name
        assert tensor.numel() == 0 or arrived[name].data_ptr() % 16 == 0, name
    assert sys.getswitchinterval() == before
    assert not [t for t in threading.enumerate() if t.name.startswith("tensors arriving")]


def test_what_arrives_does_not_hang_on_the_file(tmp_path: Path) -> None:
    path = file_of(tmp_path / "m.safetensors", a=torch.ones(LARGE), b=torch.ones(3))
    arrived = Arrival(path, CPU).tensors()
    path.write_bytes(b"")
    assert arrived["a"].sum() == LARGE and arrived["b"].sum() == 3
    assert arrived["a"].untyped_storage().nbytes() == 4 * LARGE  # alone in its memory: it may be given back


@pytest.mark.parametrize(("change", "reason"), [
    (lambda h: h["a"].update(dtype="F8_E4M3"), "header can't be read at a"),
    (lambda h: h["a"].update(shape=[5]), "a has another size"),
    (lambda h: h["a"].update(data_offsets=[0, 12]), "a has another size"),
    (lambda h: h["a"].update(data_offsets="xy"), "header can't be read at a"),
    (lambda h: h["a"].pop("shape"), "header can't be read at a"),
    (lambda h: h.pop("a"), "not as its header says"),
    (lambda h: h["b"].update(data_offsets=[0, 16]), "not as its header says"),
])
def test_a_header_that_lies_is_refused(tmp_path: Path, change: object, reason: str) -> None:
    path = rewritten(file_of(tmp_path / "m.safetensors", a=torch.ones(4), b=torch.zeros(4)), change)
    with pytest.raises(ValueError, match=reason):
        Arrival(path, CPU).tensors()


@pytest.mark.parametrize("keep", [0, 4, 20, 100])
def test_a_file_that_is_cut_off_is_refused_before_a_byte_of_it_is_mapped(tmp_path: Path, keep: int) -> None:
    path = file_of(tmp_path / "m.safetensors", a=torch.ones(40))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError):
        read_header(path)


def test_an_arrival_that_nobody_waits_for_ends(tmp_path: Path) -> None:
    arrival = Arrival(file_of(tmp_path / "m.safetensors", **{f"t{i}": torch.ones(LARGE // 4) for i in range(20)}), CPU)
    arrival.stop()
    assert not [t for t in threading.enumerate() if t.name.startswith("tensors arriving")]


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Nothing is expected and nothing was loaded; the event that ends what is begun early."""
    monkeypatch.setattr(arriving, "_loads", threading.Event())
    monkeypatch.setattr(arriving, "_expected", [])
    return threading.Event()


def coming() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("tensors arriving")]


def test_what_is_expected_is_taken_by_who_asks_for_it_once(tmp_path: Path, early: threading.Event) -> None:
    path = file_of(tmp_path / "m.safetensors", a=torch.arange(6.0))
    expect(path, CPU, early)
    (expected,) = [one for one, _ in arriving._expected]
    expect(path, CPU, early)
    assert [one for one, _ in arriving._expected] == [expected]
    found = arrival_of(path, CPU)
    assert found is expected and torch.equal(found.tensors()["a"], torch.arange(6.0)) and not coming()
    again = arrival_of(path, CPU)
    assert again is not expected and torch.equal(again.tensors()["a"], torch.arange(6.0))
    expect(path, CPU, early)  # too late: a base was loaded
    assert arriving._expected == [] and not coming()


@pytest.mark.parametrize("how", ["another file", "replaced", "gone"])
def test_what_was_expected_of_another_file_is_let_go(how: str, tmp_path: Path, early: threading.Event) -> None:
    path = file_of(tmp_path / "m.safetensors", a=torch.arange(6.0))
    expect(path, CPU, early)
    (expected,) = [one for one, _ in arriving._expected]
    other = path
    if how == "another file":
        other = file_of(tmp_path / "n.safetensors", a=torch.ones(6))
    else:
        path.unlink()
        if how == "replaced":
            file_of(path, a=torch.ones(6), b=torch.ones(1))
    found = arrival_of(other, CPU)
    assert found is not expected
    if how == "gone":
        with pytest.raises(FileNotFoundError):
            found.tensors()
    else:
        assert torch.equal(found.tensors()["a"], torch.ones(6))
    assert not coming()


def test_nothing_comes_once_it_was_let_go_or_is_not_there(tmp_path: Path, early: threading.Event) -> None:
    path = file_of(tmp_path / "m.safetensors", a=torch.arange(6.0))
    expect(path, CPU, early)
    assert coming()
    early.set()
    expect_none()
    expect(path, CPU, early)
    assert arriving._expected == [] and not coming()
    early.clear()
    path.unlink()
    expect(path, CPU, early)
    expect_none()
    assert not coming()


def test_a_copy_comes_while_a_command_plans_and_is_let_go_after_a_refusal(
    tiny_folder: Path, tmp_path: Path, early: threading.Event, monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "m", ignore=shutil.ignore_patterns(FOLDER)))
    load_base(folder, Quantization(mode="4-bit"))
    wait_for_copies()
    asked: list[tuple[Path, str]] = []
    done = threading.Event()

    def expected(path: Path, device: torch.device, ended: threading.Event) -> None:
        asked.append((path, device.type))
        expect(path, CPU, ended)
        done.set()

    card = SimpleNamespace(type="cuda")
    monkeypatch.setattr(overlap, "wake_card", lambda: None)
    monkeypatch.setattr(loading, "pick_device", lambda: card)
    monkeypatch.setattr(loading, "pick_dtype", lambda device: torch.float32)
    monkeypatch.setattr(quantized_cache.QuantizedCopy, "folder", property(lambda self: folder / FOLDER / "nf4-double-float32-cpu"))
    monkeypatch.setattr(arriving, "expect", expected)
    with pytest.raises(ModelError), overlap.ahead(folder, Quantization()):
        assert done.wait(60) and len(arriving._expected) == 1
        raise ModelError("refused")
    assert asked == [(folder / FOLDER / "nf4-double-float32-cpu" / WEIGHTS, "cuda")]
    assert arriving._expected == [] and not coming()


@pytest.mark.parametrize("choice", [Quantization(mode="4-bit"), Quantization(mode="8-bit")], ids=["4-bit", "8-bit"])
def test_a_model_of_arrived_tensors_is_the_model_that_transformers_reads(
    tiny_folder: Path, tmp_path: Path, choice: Quantization, monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "m", ignore=shutil.ignore_patterns(FOLDER)))
    load_base(folder, choice)
    wait_for_copies()
    read = load_base(folder, choice)
    monkeypatch.setattr(loading, "_apart", lambda device: True)
    monkeypatch.setattr(arriving, "LARGE", 2048)  # some of a tiny model's tensors go alone, some together
    said: list[str] = []
    came = load_base(folder, choice, say=said.append)
    assert said[0] == "loading the quantized copy kept beside the model" and not [text for text in said if "passed over" in text]
    ours, theirs = came.model.state_dict(), read.model.state_dict()
    assert list(ours) == list(theirs)
    assert [n for n in ours if ours[n].dtype != theirs[n].dtype or not torch.equal(ours[n], theirs[n])] == []
    assert [type(m) for m in came.model.modules()] == [type(m) for m in read.model.modules()]
    ids = torch.tensor([[2, 4, 60, 61, 62]])
    assert torch.equal(came.model(input_ids=ids).logits, read.model(input_ids=ids).logits)
    assert came.model.config.name_or_path == read.model.config.name_or_path == str(folder)


def test_a_copy_that_does_not_arrive_is_passed_over_and_made_anew(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "m", ignore=shutil.ignore_patterns(FOLDER)))
    choice = Quantization(mode="4-bit")
    load_base(folder, choice)
    wait_for_copies()
    (place,) = [path for path in (folder / FOLDER).iterdir() if path.is_dir()]
    broken = rewritten(place / WEIGHTS, lambda header: header.pop(next(n for n in header if n.endswith("q_proj.weight"))))
    manifest = json.loads((place / MANIFEST).read_text())
    (place / MANIFEST).write_text(json.dumps(manifest | {"bytes": broken.stat().st_size}))
    monkeypatch.setattr(loading, "_apart", lambda device: True)
    said: list[str] = []
    base = load_base(folder, choice, say=said.append)
    assert any("passed over and made anew: it can't be read: its tensors are not as its header says" in text for text in said)
    assert base.model(input_ids=torch.tensor([[2, 4]])).logits.isfinite().all()
    wait_for_copies()
    said.clear()
    load_base(folder, choice, say=said.append)
    assert not [text for text in said if "passed over" in text]


def test_transformers_makes_no_room_for_what_lies_there_already(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import modeling_utils

    before = modeling_utils.caching_allocator_warmup
    with pytest.raises(KeyError), quantized_cache._nothing_to_warm_up():
        assert modeling_utils.caching_allocator_warmup is not before
        assert modeling_utils.caching_allocator_warmup(None, {}, None) is None
        raise KeyError
    assert modeling_utils.caching_allocator_warmup is before
