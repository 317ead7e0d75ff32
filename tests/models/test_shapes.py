"""Parameter counts from shapes alone, equal to the published ones, and headers read without the weights."""

import json
import math
import re
import struct

import pytest

from workbench.errors import ModelError
from workbench.models.modules import target_regex
from workbench.models.shapes import (
    KNOWN,
    adapted_shapes,
    folder_shapes,
    gemma3_shapes,
    known_size,
    lora_parameters,
    parameter_count,
)
from workbench.settings import Lora

FOUR_B = gemma3_shapes(KNOWN["gemma-3-4b"])
SMALL = gemma3_shapes(KNOWN["gemma-3-270m"])


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("gemma-3-270m", 268_098_176), ("gemma-3-1b", 999_885_952), ("gemma-3-4b", 4_300_079_472),
     ("gemma-3-12b", 12_187_325_040), ("gemma-3-27b", 27_432_406_640)],
)  # fmt: skip
def test_the_known_sizes_have_their_published_parameter_counts(name, parameters):
    assert parameter_count(gemma3_shapes(KNOWN[name])) == parameters


def test_the_article_s_adapter_of_gemma_3_4b_is_counted_exactly():
    trainable = lora_parameters(FOUR_B, Lora(rank=16, text_only=False))
    assert trainable == 32_788_480
    assert parameter_count(FOUR_B) + trainable == 4_332_867_952


def test_the_vision_tower_s_dead_weight_is_left_out():
    assert lora_parameters(FOUR_B, Lora(rank=16)) == 29_802_496
    assert not [name for name in adapted_shapes(FOUR_B, Lora()) if "vision" in name or "projector" in name]


def test_the_embedded_model_s_adapter_is_counted_exactly():
    assert lora_parameters(SMALL, Lora()) == lora_parameters(SMALL, Lora(text_only=False)) == 3_796_992
    assert len(adapted_shapes(SMALL, Lora())) == 18 * 7


@pytest.mark.parametrize("rank", [1, 8, 64])
def test_the_adapter_grows_with_its_rank(rank):
    assert lora_parameters(FOUR_B, Lora(rank=rank)) * 16 == 29_802_496 * rank


def test_only_the_chosen_modules_are_adapted():
    found = adapted_shapes(SMALL, Lora(target_modules=("q_proj", "down_proj")))
    assert len(found) == 36
    assert found["model.layers.0.self_attn.q_proj"] == (1024, 640)
    assert found["model.layers.17.mlp.down_proj"] == (640, 2048)
    assert lora_parameters(SMALL, Lora(rank=2, target_modules=("q_proj",))) == 18 * 2 * (1024 + 640)


@pytest.mark.parametrize(
    ("module", "text_only", "wanted"),
    [
        ("model.layers.0.self_attn.q_proj", True, True), ("model.layers.0.self_attn.q_norm", True, False),
        ("model.layers.0.mlp.my_q_proj", True, False), ("q_proj", True, False),
        ("model.layers.0.self_attn.q_proj.base", True, False),
        ("model.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj", True, False),
        ("model.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj", False, True),
        ("model.audio_tower.layers.0.self_attn.q_proj", True, False),
        ("model.language_model.layers.0.self_attn.q_proj", True, True),
    ],
)  # fmt: skip
def test_the_pattern_takes_whole_names_of_the_text_model(module, text_only, wanted):
    assert bool(re.fullmatch(target_regex(Lora(text_only=text_only)), module)) is wanted


@pytest.mark.parametrize(
    ("model", "known"),
    [("gemma-3-4b-it", "gemma-3-4b"), ("google/gemma-3-4b-pt", "gemma-3-4b"), ("unsloth/GEMMA-3-1B-IT", "gemma-3-1b"),
     ("gemma-3-270m", "gemma-3-270m")],
)  # fmt: skip
def test_a_known_size_is_found_under_its_names(model, known):
    assert known_size(model) == KNOWN[known]


@pytest.mark.parametrize("model", ["demo", "google/gemma-2-2b-it", "gemma-3-4b-it-gguf", "gemma-3-4b/x", ""])
def test_another_model_has_no_known_size(model):
    assert known_size(model) is None


def write_safetensors(path, shapes, extra=None) -> None:
    """A safetensors file of 16-bit zeros, made by hand: header length, header, data."""
    header, at = dict(extra or {}), 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + b"\0" * at)


def test_the_headers_of_all_files_in_a_folder_are_read(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", {"x.weight": (3, 4), "y": (5,)}, {"__metadata__": {"format": "pt"}})
    write_safetensors(tmp_path / "b.safetensors", {"z": (), "w": (2, 0)})
    shapes = folder_shapes(tmp_path)
    assert shapes == {"x.weight": (3, 4), "y": (5,), "z": (), "w": (2, 0)}
    assert parameter_count(shapes) == 12 + 5 + 1 + 0


def test_a_hand_made_gemma_counts_as_the_table_does(tmp_path):
    """The weights themselves are left out: the header alone is read."""
    header = {name: {"dtype": "BF16", "shape": list(shape), "data_offsets": [0, 0]} for name, shape in FOUR_B.items()}
    raw = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw)
    assert folder_shapes(tmp_path) == FOUR_B
    assert lora_parameters(folder_shapes(tmp_path), Lora()) == 29_802_496


def header_of(value) -> bytes:
    raw = json.dumps(value).encode()
    return struct.pack("<Q", len(raw)) + raw


@pytest.mark.parametrize(
    "raw",
    [b"", b"\1\2", struct.pack("<Q", 100) + b'{"x": ', struct.pack("<Q", 2**62) + b"{}", struct.pack("<Q", 2**29) + b"{}",
     struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc", header_of([]), header_of([1]), header_of({"x": 5}), header_of({"x": {}}),
     header_of({"x": {"shape": 5}}), header_of({"x": {"shape": ["a", "b"]}}), header_of(None)],
    ids=["empty", "no length", "cut header", "length beyond all", "length too long", "not UTF-8", "list", "list of numbers",
         "number", "no shape", "shape a number", "shape of words", "null"],
)  # fmt: skip
def test_a_file_that_is_cut_or_broken_is_named(tmp_path, raw):
    (tmp_path / "model.safetensors").write_bytes(raw)
    with pytest.raises(ModelError) as caught:
        folder_shapes(tmp_path)
    assert str(caught.value) == f"{tmp_path / 'model.safetensors'} is not a whole safetensors file: fetch the model again."


def test_a_folder_without_safetensors_is_told_why_it_is_not_loaded(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError) as caught:
        folder_shapes(tmp_path)
    assert str(caught.value) == f"{tmp_path} holds no .safetensors file; other weight formats can run code and are not loaded."
