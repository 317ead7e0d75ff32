"""The form is the settings: every field once, and its values come back as the same settings."""

import pytest

from workbench.errors import SettingsError
from workbench.settings import GROUPS, Lora, RunSettings, Sampling, Training
from workbench.ui import forms


def values_of(settings: RunSettings) -> list:
    return [getattr(getattr(settings, group), name) for group, name in forms.FIELDS]


def test_every_setting_has_one_component_with_its_title_and_help():
    import gradio as gr

    with gr.Blocks():
        made = [c for group in GROUPS for c in forms.group_components(group, RunSettings(), columns=2)]
    assert len(made) == len(forms.FIELDS) == sum(len(cls.model_fields) for cls in GROUPS.values())
    for (group, name), component in zip(forms.FIELDS, made, strict=True):
        field = GROUPS[group].model_fields[name]
        assert field.title in component.label
        assert component.info == field.description
        assert component.elem_id == f"{group}-{name.replace('_', '-')}"


def test_the_form_starts_from_the_settings_it_is_given():
    import gradio as gr

    with gr.Blocks():
        made = forms.group_components("training", RunSettings(training=Training(learning_rate=1e-5, seed=7)))
    assert [c.value for c in made if c.elem_id in ("training-learning-rate", "training-seed")] == [1e-5, 7]


def test_a_forms_values_come_back_as_the_settings():
    settings = RunSettings(lora=Lora(rank=4, target_modules=("q_proj", "v_proj")), training=Training(epochs=3, checkpointing=True))
    assert forms.read_settings(values_of(settings)) == settings


@pytest.mark.parametrize(("field", "value", "says"), [
    (("lora", "rank"), 0, "lora.rank can't be 0"), (("lora", "rank"), None, "lora.rank can't be None"),
    (("training", "epochs"), 1.5, "training.epochs can't be 1.5"), (("quantization", "mode"), "3-bit", "quantization.mode can't be '3-bit'"),
    (("lora", "target_modules"), [], "lora.target_modules"),
])  # fmt: skip
def test_a_wrong_value_names_its_field(field, value, says):
    values = values_of(RunSettings())
    values[forms.FIELDS.index(field)] = value
    with pytest.raises(SettingsError, match=says.replace("(", r"\(")):
        forms.read_settings(values)


def test_sampling_is_read_in_the_order_of_its_fields():
    assert forms.read_sampling([False, 0.5, 0.9, 10, 20, 3]) == Sampling(greedy=False, temperature=0.5, top_p=0.9, top_k=10, max_new_tokens=20, seed=3)
