"""Adapters on and off one copy of the base: they act, they leave no trace, and a wrong one is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from workbench.errors import AdapterError, ModelError, SettingsError
from workbench.models.adapters import ADAPTER, prove_active, put_new_adapter, put_saved_adapter, take_off_adapter, target_pattern
from workbench.models.faults import accelerator_fault
from workbench.models.loading import Base, load_base
from workbench.models.modules import target_regex
from workbench.models.tokenizer import ChatTokenizer
from workbench.settings import Lora, Quantization, Training
from workbench.training.encode import IGNORED, Encoded
from workbench.training.pack import pack
from workbench.training.step import accumulate, apply_gradient, make_optimizer

PLAIN = Quantization(mode="none")
LORA = Lora(rank=4, alpha=8, dropout=0.1)
IDS = torch.tensor([[2, 4, 60, 61, 62, 63, 64, 5, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 80, 81]])


@pytest.fixture
def base(tiny_folder: Path) -> Base:
    return load_base(tiny_folder, PLAIN)


@pytest.fixture
def saved(tiny_folder: Path, tmp_path: Path) -> Path:
    """A folder with an adapter that acts."""
    return save_adapter(load_base(tiny_folder, PLAIN), tmp_path / "saved", LORA)


def save_adapter(base: Base, folder: Path, lora: Lora) -> Path:
    model = put_new_adapter(base, lora, name="saved", seed=3, checkpointing=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(str(folder), selected_adapters=[ADAPTER])
    for file in (folder / ADAPTER).iterdir():
        file.replace(folder / file.name)
    return folder


@torch.no_grad()
def logits(base: Base) -> torch.Tensor:
    assert not base.model.training
    return base.model(input_ids=IDS, use_cache=False).logits


def assert_bare(base: Base, before: torch.Tensor) -> None:
    """The base is what it was: the same logits bit for bit, no adapter layer, nothing to train."""
    assert torch.equal(logits(base), before)
    assert base.adapter is None and base.raw is base.model
    assert not [n for n, _ in base.model.named_modules() if "lora" in n.lower()]
    assert not [n for n, p in base.model.named_parameters() if p.requires_grad or "lora" in n]
    assert not hasattr(base.model, "peft_config")


def train_one_step(base: Base) -> None:
    """One optimizer step on two rows."""
    parameters = [p for p in base.model.parameters() if p.requires_grad]
    base.model.train()
    rows = [Encoded(ids := tuple(range(a, a + 24)), (*[IGNORED] * 9, *ids[9:])) for a in (20, 90)]
    accumulate(base.model, [pack(rows)], base.device)
    apply_gradient(make_optimizer(parameters, Training(learning_rate=0.01), fused=False), parameters, 0.3)


# -- on and off --------------------------------------------------------------------------------------


def test_a_saved_adapter_acts_and_taking_it_off_restores_every_bit(base: Base, saved: Path) -> None:
    before = logits(base)
    difference = put_saved_adapter(base, saved, "saved")
    assert difference > 1e-3 and base.adapter == "saved"
    assert float((logits(base) - before).abs().max()) > 1e-3
    take_off_adapter(base)
    assert_bare(base, before)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_an_adapter_leaves_the_base_bit_identical(base: Base, checkpointing: bool) -> None:
    before = logits(base)
    put_new_adapter(base, LORA, name="new", seed=1, checkpointing=checkpointing)
    train_one_step(base)
    base.model.eval()
    assert not torch.equal(logits(base), before)
    take_off_adapter(base)
    assert_bare(base, before)
    assert not base.model.is_gradient_checkpointing
    take_off_adapter(base)  # a second time changes nothing
    assert_bare(base, before)


def test_a_new_adapter_takes_the_place_of_the_old_one(base: Base, saved: Path) -> None:
    before = logits(base)
    put_saved_adapter(base, saved, "saved")
    put_new_adapter(base, Lora(rank=2, target_modules=("q_proj",)), name="new", seed=1, checkpointing=False)
    assert base.adapter == "new"
    trained = {n: tuple(p.shape) for n, p in base.model.named_parameters() if p.requires_grad}
    assert len(trained) == 3 * 2 and all(".q_proj.lora_" in n and 2 in shape for n, shape in trained.items())
    base.model.eval()
    assert torch.equal(logits(base), before), "a fresh adapter adds nothing"


def test_a_new_adapter_starts_from_its_seed(base: Base) -> None:
    starts = []
    for seed in (1, 1, 2):
        model = put_new_adapter(base, LORA, name="new", seed=seed, checkpointing=False)
        starts.append({n: p.detach().clone() for n, p in model.named_parameters() if ".lora_A." in n})
    assert all(torch.equal(starts[0][n], starts[1][n]) for n in starts[0])
    assert not any(torch.equal(starts[0][n], starts[2][n]) for n in starts[0])


def test_a_new_adapter_is_not_yet_active(base: Base) -> None:
    put_new_adapter(base, LORA, name="new", seed=1, checkpointing=False)
    with pytest.raises(AdapterError, match="The adapter new changes nothing: its logits equal the base's"):
        prove_active(base)


def test_the_proof_puts_the_training_mode_back(base: Base, saved: Path) -> None:
    put_saved_adapter(base, saved, "saved")
    assert not base.model.training and prove_active(base) > 0 and not base.model.training
    base.model.train()
    assert prove_active(base) > 0 and base.model.training


# -- adapters that can't be used ---------------------------------------------------------------------


def refuse(base: Base, folder: Path, words: str) -> None:
    """The adapter is refused in these words, and base is as it was and takes a good adapter afterwards."""
    before = logits(base)
    with pytest.raises(AdapterError, match=words):
        put_saved_adapter(base, folder, "r1")
    assert_bare(base, before)


def test_an_adapter_of_zeros_is_refused(base: Base, saved: Path) -> None:
    file = saved / "adapter_model.safetensors"
    save_file({k: v * 0 if ".lora_B." in k else v for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    refuse(base, saved, "The adapter r1 changes nothing")


@pytest.mark.parametrize(("kind", "words"), [
    ("gemma3-wide", "(size mismatch|matrices differ)"), ("gemma3-deep", "14 of its matrices differ, .*layers.3."),
])
def test_an_adapter_of_another_model_is_refused(
    tiny_model_folder: Callable[[str], Path], base: Base, tmp_path: Path, saved: Path, kind: str, words: str
) -> None:
    foreign = save_adapter(load_base(tiny_model_folder(kind), PLAIN), tmp_path / "foreign", Lora(rank=4))
    refuse(base, foreign, f"The adapter r1 does not fit tiny-gemma3: .*{words}")
    assert put_saved_adapter(base, saved, "saved") > 0


def test_an_adapter_of_another_rank_than_its_settings_say_is_refused(base: Base, saved: Path) -> None:
    config = json.loads((saved / "adapter_config.json").read_text(encoding="utf-8"))
    (saved / "adapter_config.json").write_text(json.dumps(config | {"r": 8}), encoding="utf-8")
    refuse(base, saved, "The adapter r1 does not fit tiny-gemma3")


def test_an_adapter_with_other_layer_names_is_refused(base: Base, saved: Path) -> None:
    file = saved / "adapter_model.safetensors"
    renamed = {k.replace("model.layers.", "model.language_model.layers."): v for k, v in load_file(file).items()}
    save_file(renamed, file, metadata={"format": "pt"})
    refuse(base, saved, "The adapter r1 does not fit tiny-gemma3: 84 of its matrices differ")


def test_an_adapter_for_modules_that_the_model_lacks_is_refused(base: Base, saved: Path) -> None:
    config = json.loads((saved / "adapter_config.json").read_text(encoding="utf-8"))
    (saved / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["c_attn"]}), encoding="utf-8")
    refuse(base, saved, "The adapter r1 does not fit tiny-gemma3")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_missing_file_is_refused(base: Base, saved: Path, name: str) -> None:
    (saved / name).unlink()
    refuse(base, saved, "r1 holds no finished adapter: train it again or choose another run")


@pytest.mark.parametrize("keep", [0, 4, 300, -8])
def test_a_truncated_file_of_weights_is_refused(base: Base, saved: Path, keep: int) -> None:
    file = saved / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    refuse(base, saved, r"adapter_model\.safetensors of r1 is broken: ")


@pytest.mark.parametrize("text", ["{", "[]", '{"peft_type": "NOPE"}'])
def test_broken_settings_of_an_adapter_are_refused(base: Base, saved: Path, text: str) -> None:
    (saved / "adapter_config.json").write_text(text, encoding="utf-8")
    refuse(base, saved, "adapter")


# -- which modules -----------------------------------------------------------------------------------


def test_text_only_leaves_the_vision_tower_of_a_multimodal_gemma_alone(tiny_model_folder: Callable[[str], Path]) -> None:
    base = load_base(tiny_model_folder("gemma3-vision"), PLAIN)
    for text_only, vision in ((True, 0), (False, 2 * 3)):  # two tower layers with q_proj, k_proj and v_proj
        model = put_new_adapter(base, Lora(rank=2, text_only=text_only), name="new", seed=1, checkpointing=False)
        adapted = [n for n, _ in model.named_modules() if n.endswith(f"lora_A.{ADAPTER}")]
        assert len([n for n in adapted if ".language_model." in n]) == 3 * 7
        assert len([n for n in adapted if "vision" in n]) == vision == len(adapted) - 3 * 7


@pytest.mark.parametrize(
    "tower", ["model.vision_tower.encoder", "vision_model.encoder", "model.multi_modal_projector", "model.audio_tower"]
)
def test_text_only_leaves_out_every_known_tower(tower: str) -> None:
    assert re.fullmatch(target_regex(Lora()), "model.language_model.layers.0.self_attn.q_proj")
    assert not re.fullmatch(target_regex(Lora()), f"{tower}.layers.0.self_attn.q_proj")
    assert re.fullmatch(target_regex(Lora(text_only=False)), f"{tower}.layers.0.self_attn.q_proj")


def test_modules_that_no_layer_has_are_refused_by_name() -> None:
    assert target_pattern(["model.layers.0.mlp.up_proj"], Lora()) == target_regex(Lora())
    with pytest.raises(SettingsError, match=r"no layer named q_proj, k_proj; choose from c_attn\."):
        target_pattern(["transformer.h.0.attn.c_attn", "lm_head"], Lora(target_modules=("q_proj", "k_proj")))


def adapters_of(model) -> dict[str, tuple[int, float]]:
    """(rank, scaling) of each adapted layer's name."""
    found = {n: m for n, m in model.named_modules() if hasattr(m, "lora_A")}
    return {n.rsplit(".", 1)[-1]: (m.r[ADAPTER], m.scaling[ADAPTER]) for n, m in found.items()}


def test_attention_and_mlp_may_have_a_rank_and_alpha_of_their_own(base: Base) -> None:
    lora = Lora(rank=4, alpha=8, attention_rank=2, mlp_alpha=12)
    made = adapters_of(put_new_adapter(base, lora, name="new", seed=1, checkpointing=False))
    attention, mlp = (2, 8 / 2), (4, 12 / 4)
    assert made == dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), attention) | dict.fromkeys(("gate_proj", "up_proj", "down_proj"), mlp)


def test_rslora_divides_by_the_root_of_the_rank(base: Base) -> None:
    made = adapters_of(put_new_adapter(base, Lora(rank=4, alpha=8, rslora=True, mlp_rank=16), name="new", seed=1, checkpointing=False))
    assert (made["q_proj"], made["up_proj"]) == ((4, 8 / 2), (16, 8 / 4))


def test_own_ranks_and_dora_outlive_their_file(base: Base, tmp_path: Path) -> None:
    folder = save_adapter(base, tmp_path / "own", Lora(rank=4, attention_rank=2, mlp_alpha=5, rslora=True, dora=True))
    expected = prove_active(base)
    assert put_saved_adapter(base, folder, "own") == expected > 0


# -- folders ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "words"), [
    ("model.safetensors", "can't be loaded as a causal language model"),
    ("tokenizer.json", "has no tokenizer.json"),
    ("chat_template.jinja", "has no chat template"),
    ("generation_config.json", None),
])
def test_a_folder_that_lacks_a_file_is_refused_or_does_without(
    tiny_folder: Path, tmp_path: Path, name: str, words: str | None
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / name).unlink()
    if words is None:
        assert load_base(folder, PLAIN).tokenizer.stop_ids == (1,)  # config.json names <eos>
        return
    with pytest.raises(ModelError, match=words):
        load_base(folder, PLAIN)


def test_truncated_weights_are_refused_in_one_sentence(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="model can't be loaded as a causal language model: "):
        load_base(folder, PLAIN)


@pytest.mark.parametrize(("error", "fault"), [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "memory"),
    (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), "device"),
])
def test_a_fault_of_the_card_is_not_taken_for_an_adapter_that_does_not_fit(
    base: Base, saved: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, fault: str
) -> None:
    from peft import PeftModel

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)) as caught:
        patch.setattr(PeftModel, "load_adapter", fail)
        put_saved_adapter(base, saved, "saved")
    assert accelerator_fault(caught.value) == fault and base.adapter is None and not hasattr(base.model, "peft_config")
    assert put_saved_adapter(base, saved, "saved") > 0
    take_off_adapter(base)


def test_half_an_adapter_is_taken_off_again(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    import peft

    take_off_adapter(base)
    real = peft.get_peft_model

    def fail(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        raise ValueError("half way")

    layers = [type(m) for m in base.model.modules()]
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="half way"):
        patch.setattr(peft, "get_peft_model", fail)
        put_new_adapter(base, Lora(rank=2), name="half", seed=1, checkpointing=False)
    assert [type(m) for m in base.model.modules()] == layers and base.adapter is None


def test_a_tokenizer_is_built_once_and_again_when_its_files_changed(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_folder, folder)
    first = ChatTokenizer.load(folder)
    assert ChatTokenizer.load(folder) is first
    (folder / "chat_template.jinja").write_text("{{ 'changed' }}", encoding="utf-8")
    assert ChatTokenizer.load(folder) is not first
    assert ChatTokenizer.load(folder).render([{"role": "user", "content": "x"}], answer_next=False) == "changed"
