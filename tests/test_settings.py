"""Settings: defaults that give the expected run, limits that hold, and messages that name the setting."""

import json

import pytest
from pydantic import ValidationError

from workbench.errors import SettingsError
from workbench.settings import (
    GROUPS,
    Lora,
    Quantization,
    RunSettings,
    Sampling,
    Training,
    all_paths,
    apply_overrides,
    choices,
    field_problem,
    make_sampling,
    make_settings,
    range_of,
)


def refusal(*pairs: str) -> str:
    with pytest.raises(SettingsError) as caught:
        apply_overrides(RunSettings(), pairs)
    return str(caught.value)


def test_the_defaults_are_the_recipe():
    s = RunSettings()
    assert s.quantization == Quantization(mode="auto", type_4bit="nf4", double=True, threshold=6.0)
    assert (s.lora.rank, s.lora.alpha, s.lora.dropout, s.lora.text_only) == (16, 32, 0.1, True)
    assert s.lora.target_modules == ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    t = s.training
    assert (t.epochs, t.rows_per_step, t.learning_rate, t.warmup_steps, t.scheduler) == (10, 16, 3e-4, 10, "cosine")
    assert (t.max_grad_norm, t.weight_decay, t.validation_share, t.evaluate_every, t.save_every) == (0.3, 0.0, 0.1, 0, 0)
    assert (t.max_row_tokens, t.tokens_per_forward, t.checkpointing, t.seed) == (2048, 4096, False, 42)
    assert Sampling().model_dump() == {
        "greedy": True, "temperature": 0.7, "top_p": 0.95, "top_k": 64, "max_new_tokens": 96, "seed": 42, "constrain": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "has_gpu", "resolved"),
    [("auto", True, "4-bit"), ("auto", False, "none"), ("none", True, "none"), ("8-bit", False, "8-bit"),
     ("4-bit", False, "4-bit")],
)
def test_auto_is_4_bit_on_a_gpu_and_none_without(mode, has_gpu, resolved):
    assert Quantization(mode=mode, type_4bit="fp4").resolved(has_gpu) == Quantization(mode=resolved, type_4bit="fp4")


def test_every_setting_has_a_title_and_one_line_of_help():
    for cls in (*GROUPS.values(), Sampling):
        for field in cls.model_fields.values():
            assert field.title
            assert field.description
            assert "\n" not in field.description
            assert len(field.description) <= 110
            assert isinstance(field.json_schema_extra["unit"], str)


def test_every_setting_of_a_run_tells_its_consequence_and_every_number_its_range():
    for cls in GROUPS.values():
        for name, field in cls.model_fields.items():
            assert field.json_schema_extra["effect"].endswith(".")
            assert bool(range_of(cls, name)) is (field.annotation in (int, float))


def test_every_path_can_be_set():
    assert [p for p in all_paths() if p.startswith("lora.")] == [
        "lora.rank", "lora.alpha", "lora.dropout", "lora.target_modules", "lora.text_only",
        "lora.attention_rank", "lora.attention_alpha", "lora.mlp_rank", "lora.mlp_alpha", "lora.rslora", "lora.dora",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pair", "group", "name", "value"),
    [
        ("lora.rank= 8 ", "lora", "rank", 8),
        (" lora.rank=8", "lora", "rank", 8),
        ("lora.text_only=false", "lora", "text_only", False),
        ("lora.target_modules=v_proj, q_proj,v_proj", "lora", "target_modules", ("q_proj", "v_proj")),
        ("training.learning_rate=1e-4", "training", "learning_rate", 1e-4),
        ("quantization.mode=8-bit", "quantization", "mode", "8-bit"),
        ("training.validation_share=0", "training", "validation_share", 0.0),
        ("training.max_grad_norm=0", "training", "max_grad_norm", 0.0),
    ],
)
def test_an_override_changes_its_setting_and_no_other(pair, group, name, value):
    changed = apply_overrides(RunSettings(), [pair])
    expected = RunSettings().model_dump()
    expected[group][name] = value
    assert changed.model_dump() == expected


def test_later_overrides_win_and_earlier_settings_stay():
    first = apply_overrides(RunSettings(), ["lora.rank=8", "training.epochs=3"])
    second = apply_overrides(first, ["lora.rank=4", "lora.rank=2"])
    assert (second.lora.rank, second.training.epochs) == (2, 3)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("lora.rank=0", "Rank (lora.rank) can't be '0': it takes a whole number from 1 to 512."),
        ("lora.rank=513", "Rank (lora.rank) can't be '513': it takes a whole number from 1 to 512."),
        ("lora.rank=1.5", "Rank (lora.rank) can't be '1.5': it takes a whole number from 1 to 512."),
        ("lora.rank=", "Rank (lora.rank) is empty: it takes a whole number from 1 to 512."),
        ("lora.text_only=maybe", "Text modules only (lora.text_only) can't be 'maybe': it takes yes or no."),
        ("quantization.mode=3-bit", "Base weights (quantization.mode) can't be '3-bit': it takes one of auto, none, 8-bit, 4-bit."),
        ("training.learning_rate=0", "Learning rate (training.learning_rate) can't be '0': it takes a number above 0, up to 1."),
        ("training.validation_share=0.6", "Validation share (training.validation_share) can't be '0.6': it takes a number from 0 to 0.5."),
        ("lora.rank", "--set takes group.field=value, as in lora.rank=16; 'lora.rank' is not of that form."),
        ("lora=1", "--set takes group.field=value, as in lora.rank=16; 'lora=1' is not of that form."),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(pair, message):
    assert refusal(pair) == message


@pytest.mark.parametrize("pair", ["lora.foo=1", "foo.rank=1", "sampling.top_p=1", "lora.rank.x=1", ".rank=1"])
def test_an_unknown_setting_is_named_and_the_known_ones_are_listed(pair):
    assert refusal(pair) == f"There is no setting {pair.partition('=')[0]}. The settings are: {', '.join(all_paths())}."


@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("path", ["training.learning_rate", "training.max_grad_norm", "lora.dropout", "quantization.threshold"])
def test_a_number_that_is_not_finite_is_refused(path, text):
    assert f"({path}) can't be '{text}': it takes a number " in refusal(f"{path}={text}")


def test_target_modules_are_names_of_modules_and_one_at_least_is_wanted():
    assert refusal("lora.target_modules=") == "Target modules (lora.target_modules) can't be []: choose at least one module."
    assert "'a.b' is no module's name" in refusal("lora.target_modules=q_proj,a.b")
    assert "'q_proj|.*' is no module's name" in refusal("lora.target_modules=q_proj|.*")
    assert "65 names are too many" in refusal("lora.target_modules=" + ",".join(f"m{i}" for i in range(65)))


def test_target_modules_stand_once_each_the_usual_ones_first():
    made = apply_overrides(RunSettings(), ["lora.target_modules=qkv_proj,down_proj,out_proj,o_proj,qkv_proj"])
    assert made.lora.target_modules == ("o_proj", "down_proj", "qkv_proj", "out_proj")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("epochs", 0, "0 can't be used. It takes a whole number from 1 to 1,000."),
        ("epochs", 2.5, "2.5 can't be used. It takes a whole number from 1 to 1,000."),
        ("epochs", "2.5", "'2.5' can't be used. It takes a whole number from 1 to 1,000."),
        ("epochs", "many", "'many' can't be used. It takes a whole number from 1 to 1,000."),
        ("epochs", "", "This is empty. It takes a whole number from 1 to 1,000."),
        ("epochs", None, "This is empty. It takes a whole number from 1 to 1,000."),
        ("epochs", True, "It takes a number, not yes or no."),
        ("epochs", " 7 ", ""), ("epochs", 3.0, ""), ("learning_rate", "3e-4", ""),
        ("learning_rate", "0", "'0' can't be used. It takes a number above 0, up to 1."),
        ("scheduler", "steps", "'steps' can't be used. It takes one of cosine, linear, constant."),
    ],
)  # fmt: skip
def test_why_a_value_is_refused_is_said_for_its_field_alone(name, value, said):
    assert field_problem(Training, name, value) == said


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora": {"rank": None}}, "Rank (lora.rank) is empty: it takes a whole number from 1 to 512."),
        ({"lora": {"rank": True}}, "Rank (lora.rank) can't be True: it takes a number, not yes or no."),
        ({"lora": 5}, "lora can't be 5: input should be a valid dictionary or instance of Lora."),
        ({"lora": {"x": 1}}, f"There is no setting lora.x. The settings are: {', '.join(all_paths())}."),
    ],
)
def test_a_form_s_or_a_file_s_bad_values_are_named(values, message):
    with pytest.raises(SettingsError) as caught:
        make_settings(values)
    assert str(caught.value) == message


def test_settings_outlive_their_file():
    pairs = ["lora.target_modules=q_proj", "training.scheduler=linear", "quantization.mode=none"]
    settings = apply_overrides(RunSettings(), pairs)
    assert make_settings(json.loads(settings.model_dump_json())) == settings


def test_bad_sampling_is_named():
    with pytest.raises(SettingsError) as caught:
        make_sampling({"top_p": 0})
    assert str(caught.value) == "Top-p (sampling.top_p) can't be 0: it takes a number above 0, up to 1."


def test_an_unknown_sampling_setting_is_told_the_sampling_settings():
    with pytest.raises(SettingsError) as caught:
        make_sampling({"beams": 4})
    assert str(caught.value).startswith("There is no setting sampling.beams.")
    assert "max_new_tokens" in str(caught.value)


@pytest.mark.parametrize("group", [Quantization(), Lora(), Training(), Sampling(), RunSettings()])
def test_settings_can_not_be_changed_in_place(group):
    with pytest.raises(ValidationError):
        setattr(group, next(iter(type(group).model_fields)), 1)


def test_a_dropdown_offers_the_allowed_words():
    assert choices(Quantization, "mode") == ("auto", "none", "8-bit", "4-bit")
    assert choices(Training, "scheduler") == ("cosine", "linear", "constant")
    assert choices(Lora, "target_modules") == ()
    assert choices(Lora, "rank") == ()
