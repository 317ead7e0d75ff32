"""The form is the settings: every field once, and its values come back as the same settings."""

import gradio as gr
import pytest

from workbench.errors import SettingsError
from workbench.settings import GROUPS, Lora, RunSettings, Sampling, Training
from workbench.ui import forms


def component(group: str, name: str, default) -> gr.components.Component:
    return forms.field_component(GROUPS[group], name, group, default)


@pytest.mark.parametrize(("group", "name"), forms.FIELDS)
def test_every_setting_has_a_component_with_its_title_unit_range_help_and_consequence(group, name):
    cls = GROUPS[group]
    field = cls.model_fields[name]
    made = component(group, name, getattr(getattr(RunSettings(), group), name))
    assert field.title in made.label
    assert (f"({field.json_schema_extra['unit']})" in made.label) is bool(field.json_schema_extra["unit"])
    assert made.info == forms.field_help(cls, name)
    assert made.info.endswith(f"{field.description} {field.json_schema_extra['effect']}")
    assert made.elem_id == f"{group}-{name.replace('_', '-')}"


def test_help_begins_with_a_number_s_range():
    assert forms.field_help(Lora, "rank").startswith("1 to 512. Width of the adapter's matrices.")
    assert forms.field_help(Training, "learning_rate").startswith("Above 0, up to 1. Peak rate")
    assert forms.field_help(Lora, "dora").startswith("Learns each layer's length")
    assert forms.field_label(Training, "warmup_steps") == "Warm-up (optimizer steps)"


@pytest.mark.parametrize(
    ("value", "shown"), [(16, "16"), (3e-4, "0.0003"), (6.1e-5, "6.1e-05"), (0.0, "0"), (True, True), ("4-bit", "4-bit"), (("q_proj",), ["q_proj"])]
)
def test_numbers_are_held_as_text(value, shown):
    assert forms.shown_value(value) == shown


def test_the_kind_of_a_field_decides_its_component():
    kinds = {(g, n): type(component(g, n, getattr(getattr(RunSettings(), g), n))) for g, n in forms.FIELDS}
    assert kinds["lora", "rank"] is kinds["training", "learning_rate"] is gr.Textbox
    assert kinds["quantization", "mode"] is gr.Dropdown
    assert kinds["lora", "dora"] is gr.Checkbox
    assert kinds["lora", "target_modules"] is gr.CheckboxGroup
    assert gr.Number not in kinds.values()


def test_a_forms_values_come_back_as_the_settings():
    settings = RunSettings(lora=Lora(rank=4, target_modules=("q_proj", "v_proj")), training=Training(epochs=3, checkpointing=True, learning_rate=1.5e-5))
    assert forms.read_settings(forms.form_values(settings)) == settings
    assert forms.form_values(settings)[forms.FIELDS.index(("lora", "rank"))] == "4"


@pytest.mark.parametrize(("field", "value", "says"), [
    (("lora", "rank"), "0", "Rank: '0' can't be used. It takes a whole number from 1 to 512."), (("lora", "rank"), "", "Rank: this is empty. It takes"),
    (("lora", "rank"), None, "Rank: this is empty."), (("lora", "rank"), "many", "Rank: 'many' can't be used."),
    (("training", "epochs"), "2.5", "Epochs: '2.5' can't be used."),
    (("quantization", "mode"), "3-bit", "Base weights: '3-bit' can't be used."),
    (("lora", "target_modules"), [], "Target modules: choose at least one module."),
])  # fmt: skip
def test_a_wrong_value_names_its_field(field, value, says):
    values = forms.form_values(RunSettings())
    values[forms.FIELDS.index(field)] = value
    with pytest.raises(SettingsError) as caught:
        forms.read_settings(values)
    assert str(caught.value).startswith(says)


def test_what_is_wrong_stands_beside_its_field_and_is_escaped():
    assert forms.problem_html(Training, "epochs", "3") == ""
    assert "&#x27;2.5&#x27; can&#x27;t be used. It takes a whole number from 1 to 1,000." in forms.problem_html(Training, "epochs", "2.5")
    assert "<img" not in forms.problem_html(Training, "epochs", "<img src=x>")


def test_sampling_is_read_in_the_order_of_its_fields():
    wanted = Sampling(greedy=False, temperature=0.5, top_p=0.9, top_k=10, max_new_tokens=20, seed=3, constrain=True)
    assert forms.read_sampling([False, 0.5, 0.9, 10, 20, 3, True]) == wanted
    assert forms.read_sampling([False, "0.5", "0.9", "10", "20", "3", True]) == wanted
