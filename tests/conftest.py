"""Fixtures: tiny random models that load like real ones, a workbench folder of its own, and the real embedded model."""

from __future__ import annotations

import gc
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from workbench.models.catalog import DEMO_FOLDER
from workbench.workspace import Workspace

REPOSITORY = Path(__file__).resolve().parent.parent
TEMPLATE = REPOSITORY / "workbench" / "models" / "gemma_template.jinja"
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")  # their ids are 0 to 5
SLIDING_WINDOW = 16
WINDOW_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]


if "PYTEST_XDIST_WORKER" in os.environ:  # two of them on two cores: a second thread would only wait for the other's
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Collecting imports every library: 700,000 objects that all stay. They are counted as such once, not looked through each time
# rubbish is sought, which took a fifth of the fast tests' time.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else bindings complain, as the process ends, of what they were never asked to give back


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A builder of tiny random model folders, each made once: gemma3, -wide, -deep or -vision; llama, llama-3.1, qwen2, qwen3."""
    made: dict[str, Path] = {}

    def build(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("tiny") / f"tiny-{kind}"
            _write_tokenizer(made[kind])
            _write_weights(made[kind], kind)
        return made[kind]

    return build


@pytest.fixture(scope="session")
def tiny_folder(tiny_model_folder: Callable[[str], Path]) -> Path:
    """A tiny random Gemma 3: byte-level tokenizer, Gemma's template, sliding and full attention."""
    return tiny_model_folder("gemma3")


@pytest.fixture(scope="session")
def new_workspace(tiny_folder: Path) -> Callable[[Path], Workspace]:
    """A builder of workbench folders: the repository's data, and the tiny model in the embedded model's place."""

    def build(root: Path) -> Workspace:
        shutil.copytree(REPOSITORY / "data", root / "data")
        (root / "models").mkdir()
        (root / "models" / DEMO_FOLDER).symlink_to(tiny_folder, target_is_directory=True)
        return Workspace(root=root, model="demo")

    return build


@pytest.fixture
def workspace(tmp_path: Path, new_workspace: Callable[[Path], Workspace]) -> Iterator[Workspace]:
    """A workbench of the test's own, open on the tiny model; its engine, if one was started, is closed."""
    space = new_workspace(tmp_path / "workbench")
    yield space
    if "engine" in vars(space):
        space.engine.close()


@pytest.fixture(scope="session")
def demo_folder() -> Path:
    """The real embedded model, a Gemma 3 270M."""
    folder = REPOSITORY / "models" / DEMO_FOLDER
    if not (folder / "config.json").is_file():
        pytest.fail("The embedded model is not here: run `make model` once, then the tests again.")
    return folder


def _write_tokenizer(folder: Path) -> None:
    """Every byte a token, so that any text comes back as it was; Gemma's control tokens in front."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {name: i for i, name in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    config = names | {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copy(TEMPLATE, folder / "chat_template.jinja")


def _write_weights(folder: Path, kind: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    torch.manual_seed(3)  # a seed whose greedy replies are varied and go on for hundreds of tokens
    classes = AutoModelForImageTextToText if kind == "gemma3-vision" else AutoModelForCausalLM
    model = classes.from_config(_config(kind), dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".post_" in name:  # Gemma's norms after a block: without this the block's output hardly counts
                parameter.fill_(6.0)
    model.save_pretrained(folder)
    stops = {"eos_token_id": [SPECIAL.index("<eos>"), SPECIAL.index("<end_of_turn>")], "bos_token_id": 2, "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(stops), encoding="utf-8")


def _config(kind: str) -> Any:
    from transformers import Gemma3Config, Gemma3TextConfig, LlamaConfig, Qwen2Config, Qwen3Config

    # Larger weights than usual: attention must matter, or a row that sees its neighbour would go unnoticed.
    # 64 inputs and 32 outputs at least: 4-bit quantization works on blocks of that size.
    common = {
        "vocab_size": len(SPECIAL) + 256, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 4096,
        "initializer_range": 0.2, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
    }
    gemma = common | {"query_pre_attn_scalar": 16, "sliding_window": SLIDING_WINDOW, "layer_types": WINDOW_LAYERS}
    if kind == "gemma3-wide":
        return Gemma3TextConfig(**gemma | {"hidden_size": 128})
    if kind == "gemma3-deep":
        return Gemma3TextConfig(**gemma | {"num_hidden_layers": 4, "layer_types": [*WINDOW_LAYERS, "full_attention"]})
    if kind == "gemma3-vision":
        vision = {
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 14,
        }
        return Gemma3Config(text_config=gemma, vision_config=vision, mm_tokens_per_image=4, image_token_index=3,
                            boi_token_index=3, eoi_token_index=3)
    if kind == "gemma3":
        return Gemma3TextConfig(**gemma)
    if kind == "llama-3.1":  # its rotary table is scaled by operators that torch's C++ does not know without memory
        scaled = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                  "original_max_position_embeddings": 1024}
        return LlamaConfig(**common | {"rope_parameters": scaled})
    return {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}[kind](**common)
