"""The Tune tab without a browser: cards from the model's own layers, presets, the live plan and what makes it fit."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import gradio as gr
import pytest

from tests.training.test_plan import FOUR_B
from workbench.errors import InputError, ModelError, SettingsError
from workbench.models import room
from workbench.models.modules import module_tree
from workbench.models.room import Room
from workbench.models.shapes import lora_parameters, parameter_count
from workbench.settings import Lora, RunSettings, apply_overrides
from workbench.training.calibration import TimeEstimate
from workbench.ui import tune_tab
from workbench.ui.forms import FIELDS, form_values, read_settings
from workbench.ui.highlight import escape
from workbench.ui.tune import cards, held, plan_panel, presets_panel
from workbench.ui.words import tune as words
from workbench.workspace import Workspace
from workbench.workspace.jobs import Jobs


def values(space: Workspace, *pairs: str) -> list:
    return form_values(apply_overrides(space.default_settings(), pairs))


def typed(space: Workspace, group: str, name: str, value) -> list:
    made = values(space)
    made[FIELDS.index((group, name))] = value
    return made


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which next to nothing is free."""
    monkeypatch.setattr(room, "host_memory_gib", lambda: (24.0, 0.001))


# -- cards -------------------------------------------------------------------------------------------


def test_the_cards_hold_every_field_once_with_a_line_for_what_is_wrong(workspace: Workspace) -> None:
    with gr.Blocks():
        form = cards.build(workspace, workspace.default_settings())
    ids = [f"{group}-{name.replace('_', '-')}" for group, name in FIELDS]
    assert [field.elem_id for field in form.fields] == ids
    assert [line.elem_id for line in form.wrong] == [f"wrong-{i}" for i in ids]
    assert [line.visible for line in form.wrong] == [False] * len(ids)
    assert read_settings([field.value for field in form.fields]) == workspace.default_settings()


@pytest.mark.parametrize(("name", "value", "wrong"), [("rank", "0", True), ("rank", "8", False), ("rank", "", True), ("target_modules", [], True)])
def test_a_field_s_line_comes_and_goes_with_its_mistake(name: str, value, wrong: bool) -> None:
    made = cards.field_message("lora", name, value)
    assert (made.visible, bool(made.value)) == (wrong, wrong)


def test_modules_are_offered_with_their_counts_and_foreign_ones_marked() -> None:
    tree = module_tree(FOUR_B)
    found = cards.module_choices(tree, True, ["q_proj", "qkv_proj"])
    assert found[0] == ("q_proj · 34", "q_proj")
    assert found[-1] == ("qkv_proj · not in this model", "qkv_proj")
    assert len(found) == 8
    both = cards.module_choices(tree, False, ["q_proj"])
    assert both[0] == ("q_proj · 61", "q_proj")
    assert ("fc1 · 27", "fc1") in both
    assert cards.module_choices((), True, ["q_proj"]) == [("q_proj", "q_proj")]


def tree(*pairs: str, chosen: list[str] | None = None) -> str:
    lora = apply_overrides(RunSettings(), pairs).lora
    return cards.tree_html(FOUR_B, lora, list(lora.target_modules) if chosen is None else chosen, lora.text_only)


def test_the_tree_says_why_the_vision_tower_is_left_out() -> None:
    assert "Left out: vision tower, 162 layers: text rows never send it a gradient" in tree()
    assert "count too, although text rows never send it a gradient" in tree("lora.text_only=false")
    assert words.TREE_UNKNOWN.split("'")[0] in cards.tree_html({}, Lora(), ["q_proj"], True)


def test_the_tree_counts_what_is_ticked_and_what_it_trains() -> None:
    whole, one = lora_parameters(FOUR_B, Lora()), lora_parameters(FOUR_B, Lora(target_modules=("q_proj",)))
    assert (whole, one) == (29_802_496, 34 * 16 * (2560 + 2048))
    assert f"<b>attention</b> 34 of 136 layers, {one:,} trainable<br><b>MLP</b> 0 of 102 layers, 0 trainable" in tree("lora.target_modules=q_proj")
    assert f"238 of 238 layers, {whole:,} trainable ({whole / (parameter_count(FOUR_B) + whole):.2%} of all)" in tree()
    assert f"34 of 238 layers, {2 * one:,} trainable" in tree("lora.target_modules=q_proj", "lora.rank=8", "lora.attention_rank=32")
    assert "0 of 238 layers, 0 trainable (0.00% of all)" in tree(chosen=[])
    assert "<b>attention</b> 34 of 136 layers<br>" in cards.tree_html(FOUR_B, None, ["q_proj"], True)
    assert "61 of 400 layers" in tree("lora.target_modules=q_proj", "lora.text_only=false")


def form_picks(**changed) -> list:
    given = {"target_modules": ["q_proj"], "text_only": True, "rank": "16", "attention_rank": "0", "mlp_rank": "0", "dora": False} | changed
    return [given[name] for name in cards.PICKED]


def test_the_tree_follows_what_stands_in_the_form(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "shapes", lambda model: FOUR_B)
    assert "2,506,752 trainable" in cards.picked(workspace, form_picks())
    for wrong in ({"rank": ""}, {"rank": "x"}, {"mlp_rank": "-1"}):
        assert "trainable" not in cards.picked(workspace, form_picks(**wrong))
    assert "0 of 238 layers, 0 trainable" in cards.picked(workspace, form_picks(target_modules=[]))
    assert cards.group_choices(module_tree(FOUR_B), True) == [("attention · 136", "attention"), ("MLP · 102", "MLP")]


def test_without_the_model_there_are_no_groups_to_tick(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "shapes", lambda model: {})
    assert "not here yet" in cards.picked(workspace, form_picks())
    with gr.Blocks():
        form = cards.build(workspace, workspace.default_settings())
    assert (form.groups.choices, form.groups.visible) == ([], False)


def test_none_ticked_is_refused_in_words_beside_the_field() -> None:
    assert "Choose at least one module." in cards.field_message("lora", "target_modules", []).value


@pytest.mark.parametrize(("mode", "dora", "wrong"), [("8-bit", True, True), ("8-bit", False, False), ("4-bit", True, False)])
def test_dora_on_8_bit_weights_is_refused_beside_its_box(mode: str, dora: bool, wrong: bool) -> None:
    under_mode, under_dora = cards.pair_messages(mode, dora)
    assert (under_mode.visible, under_dora.visible, "DoRA does not work on 8-bit base weights" in (under_dora.value or "")) == (False, wrong, wrong)
    assert cards.pair_messages("3-bit", True)[0].visible


def test_a_model_that_is_not_here_leaves_the_usual_names(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: str) -> None:
        raise ModelError("not here")

    monkeypatch.setattr(workspace, "shapes", refuse)
    assert cards.model_tree(workspace) == ()
    assert workspace.default_settings().lora == RunSettings().lora


# -- presets ------------------------------------------------------------------------------------------


def test_the_model_s_defaults_stand_before_all_presets(workspace: Workspace) -> None:
    presets_panel.save(workspace, "mine", "", values(workspace))
    found = presets_panel.preset_choices(workspace)
    assert (found[0], found[1][0], found[-1]) == ((words.PRESET_NONE, ""), "First article, 4-bit", ("mine · your own", "mine"))
    assert presets_panel.preset_settings(workspace, None) == workspace.default_settings()


def test_what_differs_is_told_by_title_with_both_values(workspace: Workspace) -> None:
    assert words.AS_PRESET.split("'")[0] in presets_panel.differs_html(workspace, "", values(workspace))
    one = presets_panel.differs_html(workspace, "", values(workspace, "lora.rank=4"))
    assert words.DIFFERS_ONE in one and "Rank: 4 (preset: 16)" in one
    assert "2 settings differ" in presets_panel.differs_html(workspace, "", values(workspace, "lora.rank=4", "training.epochs=3"))
    assert words.CANT_COMPARE in presets_panel.differs_html(workspace, "", typed(workspace, "lora", "rank", "0"))
    assert "There is no preset named gone" in presets_panel.differs_html(workspace, "gone", values(workspace))


def test_a_preset_is_saved_chosen_exported_and_deleted(workspace: Workspace) -> None:
    assert presets_panel.save(workspace, "mine", "why", values(workspace, "lora.rank=4")) == "mine"
    assert presets_panel.preset_settings(workspace, "mine").lora.rank == 4
    file = presets_panel.export(workspace, "mine", "", "", values(workspace, "lora.rank=6"))
    assert (file.name, "rank: 6" in file.read_text(encoding="utf-8")) == ("mine.yaml", True)
    assert presets_panel.export(workspace, "", "", "", values(workspace)).name == "preset.yaml"
    assert presets_panel.delete(workspace, "mine") == words.DELETED.format(name="mine")
    assert presets_panel.bring_back(workspace, workspace.presets.deleted()[0].key) == ("mine", "The preset mine is back.")
    assert presets_panel.take_in(workspace, str(file)) == ("mine-2", words.TAKEN_IN_AS.format(taken="mine", title="mine (2)", name="mine-2"))
    other = shutil.copy(presets_panel.export(workspace, "", "other", "", values(workspace)), file.parent / "fresh.yaml")
    assert presets_panel.take_in(workspace, str(other)) == ("fresh", words.TAKEN_IN.format(title="other", name="fresh"))
    for key in ("", None, "best-quality", "gone"):
        with pytest.raises(SettingsError, match="Choose a preset of your own first"):
            presets_panel.delete(workspace, key)


def test_the_button_brings_the_preset_back_that_was_deleted_last(workspace: Workspace) -> None:
    button, key = presets_panel.bin_values(workspace)
    assert (button.visible, key) == (False, "")
    for name in ("one", "two"):
        presets_panel.save(workspace, name, "", values(workspace))
        presets_panel.delete(workspace, name)
    button, key = presets_panel.bin_values(workspace)
    assert (button.visible, button.value) == (True, "Bring two back")
    presets_panel.save(workspace, "two", "", values(workspace))
    assert presets_panel.bring_back(workspace, key) == ("two-2", "The preset two is back as two-2, since there is another two now.")
    assert presets_panel.bin_values(workspace)[0].value == "Bring one back"


def test_a_preset_s_note_says_what_it_is_for(workspace: Workspace) -> None:
    best = form_values(presets_panel.preset_settings(workspace, "best-quality"))
    assert "a wider adapter, and the best adapter kept by its calls." in presets_panel.differs_html(workspace, "best-quality", best)


def test_a_run_remembers_the_preset_it_started_from(workspace: Workspace) -> None:
    rows = workspace.rows.read().rows
    for name, preset, pairs in (
        ("plain", None, ()), ("as-it-is", "small-card-8-gb", ()), ("changed", "preset:small-card-8-gb", ("lora.rank=4", "training.epochs=3")), ("gone", "gone", ()),
    ):  # fmt: skip
        workspace.create_run(name, rows, workspace.settings_from(None if preset == "gone" else preset, pairs), data_name="examples.json", preset=preset)
    told = {name: workspace.runs.info(name).preset_told for name in workspace.runs.names()}
    assert told == {"plain": "", "as-it-is": "Small card (8 GB)", "changed": "Small card (8 GB), 2 changed", "gone": ""}


def test_a_run_started_from_the_form_remembers_the_chosen_preset(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Jobs, "start_training", lambda self, name: None)
    made = form_values(workspace.settings_from("best-quality", ["lora.rank=4", "training.max_row_tokens=4096"]))
    assert tune_tab.start_run(workspace, "mine", made, "best-quality") == "mine"
    info = workspace.runs.info("mine")
    assert (info.preset, info.preset_changed, info.preset_told) == ("Best quality", 2, "Best quality, 2 changed")


def test_nothing_wrong_is_saved_or_exported(workspace: Workspace) -> None:
    for act in (presets_panel.save, lambda *a: presets_panel.export(a[0], "", *a[1:])):
        with pytest.raises(SettingsError, match="Rank: this is empty"):
            act(workspace, "mine", "", typed(workspace, "lora", "rank", ""))
    assert workspace.presets.read()[0][-1].key == "best-quality"


def test_broken_preset_files_are_named_on_the_screen(workspace: Workspace) -> None:
    (workspace.data_dir / "presets").mkdir()
    (workspace.data_dir / "presets" / "bad.yaml").write_text("title: <b>\nsettings: [", encoding="utf-8")
    assert "The preset bad.yaml can&#x27;t be used." in presets_panel.problems_html(workspace)


# -- the plan -----------------------------------------------------------------------------------------


def test_the_plan_says_what_fires_when_and_what_memory_it_takes(workspace: Workspace) -> None:
    html, button = plan_panel.show_plan(workspace, values(workspace, "training.max_row_tokens=4096"))
    for text in ("trainable parameters", "63 / 7", "40, 25% of them warm-up", "after steps 4, 8, … 40 (10×)", "before step 1, after", "optimizer",
                 'class="activations"', "From the shapes alone", "no run of this model", ">fits<"):  # fmt: skip
        assert text in html
    assert button == ""


def test_a_wrong_setting_is_told_in_the_plan_s_place(workspace: Workspace) -> None:
    html, button = plan_panel.show_plan(workspace, typed(workspace, "lora", "rank", "0"))
    assert "Rank: &#x27;0&#x27; can&#x27;t be used. It takes a whole number from 1 to 512." in html and button == ""
    html, _ = plan_panel.show_plan(workspace, _eight_bit_dora(workspace))
    assert "DoRA does not work on 8-bit base weights" in html


def _eight_bit_dora(space: Workspace) -> list:
    made = values(space, "lora.dora=true")
    made[FIELDS.index(("quantization", "mode"))] = "8-bit"
    return made


def test_a_plan_that_can_t_fit_says_so_and_offers_no_button(workspace: Workspace, no_memory: None) -> None:
    html, button = plan_panel.show_plan(workspace, values(workspace, "training.max_row_tokens=4096"))
    assert "won&#x27;t fit" in html and escape(words.NOT_ENOUGH) in html and words.NOTHING_HELPS in html
    assert escape(words.DO_THIS) not in html and re.search(r'<b title="[^"]+" style="left:\d+\.\d%"></b>', html)
    assert button == ""
    with pytest.raises(InputError, match="Nothing makes it small enough"):
        plan_panel.fitting_settings(workspace, values(workspace, "training.max_row_tokens=4096"))


def test_a_plan_that_can_be_made_to_fit_offers_that(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = ("training.max_row_tokens=4096", "quantization.mode=none")
    needed = plan_panel.plan_of(workspace, apply_overrides(workspace.default_settings(), pairs)).expected_gib
    monkeypatch.setattr("workbench.workspace.space.find_room", lambda *a: Room("this machine's memory", 24.0, 0.7 * needed))
    html, button = plan_panel.show_plan(workspace, values(workspace, *pairs))
    assert button == words.MAKE_FIT and escape(words.DO_THIS) in html
    assert 'style="left:70.0%"' in html, "the free memory's end stands in the bar"
    changed = plan_panel.fitting_settings(workspace, values(workspace, *pairs))
    assert plan_panel.plan_of(workspace, changed).verdict != "won't fit"
    with pytest.raises(InputError, match="fits as it is"):
        monkeypatch.setattr("workbench.workspace.space.find_room", lambda *a: Room("this machine's memory", 24.0, 20.0))
        plan_panel.fitting_settings(workspace, values(workspace, *pairs))


@pytest.mark.parametrize(("low", "high", "text"), [(150.0, 155.0, "about 2:35"), (60.0, 90.0, "1:00 to 1:30")])
def test_the_time_is_one_figure_or_a_span(low: float, high: float, text: str) -> None:
    estimate = TimeEstimate(low, high, ("b", "a"), "they agree within 3%")
    assert plan_panel.time_text(estimate) == text
    assert plan_panel.time_source(estimate) == "Time as of this machine's runs b, a: they agree within 3%."
    assert (plan_panel.time_text(None), plan_panel.time_source(None)) == ("", words.TIME_UNKNOWN)


def test_a_run_keeps_what_its_plan_promised(workspace: Workspace) -> None:
    settings = apply_overrides(workspace.default_settings(), ["training.max_row_tokens=4096"])
    info = workspace.create_run("kept", workspace.rows.read().rows, settings, data_name="examples.json")
    assert list(info.estimated_gib) == ["weights", "adapter", "optimizer", "activations", "head", "total"]
    assert workspace.runs.info("kept").estimated_gib["total"] == pytest.approx(plan_panel.plan_of(workspace, settings).expected_gib, abs=1e-3)


def test_what_was_set_by_a_preset_fills_every_field(workspace: Workspace, tmp_path: Path) -> None:
    settings = apply_overrides(workspace.default_settings(), ["lora.target_modules=q_proj,zzz", "lora.rank=3"])
    made = cards.filled(workspace, form_values(settings))
    boxes = made[FIELDS.index(("lora", "target_modules"))]
    assert boxes.value == ["q_proj", "zzz"] and boxes.choices[-1] == ("zzz · not in this model", "zzz")
    assert made[FIELDS.index(("lora", "rank"))] == "3"


def test_the_tab_is_built_with_its_main_parts(workspace: Workspace) -> None:
    with gr.Blocks() as page:
        with gr.Tabs() as tabs, gr.Tab("x") as tab:
            tune_tab.build(workspace, page, tabs, tab, gr.Dropdown(), gr.State("tune"), gr.Timer(), held.build())
    ids = {getattr(block, "elem_id", None) for block in page.blocks.values()}
    assert {"preset", "preset-differs", "preset-save", "preset-import", "preset-export", "start-training", "run-name", "plan", "make-fit", "module-tree"} <= ids
    assert all(event.queue is False for event in page.fns.values() if event.show_progress == "hidden")


# -- what the browser keeps --------------------------------------------------------------------------


def test_a_page_loaded_anew_has_the_form_as_it_was_left_mistakes_too(workspace: Workspace) -> None:
    left = typed(workspace, "lora", "rank", "x")
    left[FIELDS.index(("lora", "target_modules"))] = ["v_proj", "zzz"]
    left[FIELDS.index(("training", "checkpointing"))] = True
    kept = json.loads(json.dumps(held.hold(workspace, "best-quality", left)))
    assert set(kept["values"]) == {"lora.rank", "lora.target_modules", "training.checkpointing"}
    assert held.held(workspace, kept) == ("best-quality", left)
    boxes = cards.filled(workspace, left)[FIELDS.index(("lora", "target_modules"))]
    assert boxes.value == ["v_proj", "zzz"] and boxes.choices[-1][1] == "zzz"


def test_the_defaults_in_any_order_are_nothing_to_bring_back(workspace: Workspace) -> None:
    left = values(workspace)
    place = FIELDS.index(("lora", "target_modules"))
    left[place] = left[place][::-1]
    assert held.held(workspace, held.hold(workspace, "", left)) is None
    assert held.held(workspace, None) is None


def test_what_another_model_s_form_held_is_left_alone(workspace: Workspace) -> None:
    kept = held.hold(workspace, "", typed(workspace, "lora", "rank", "3"))
    assert held.held(workspace, kept) is not None
    assert held.held(workspace, kept | {"place": [str(workspace.root), "another"]}) is None


@pytest.mark.parametrize(
    ("path", "value"),
    [("lora.rank", 7), ("lora.rank", "1" * 1001), ("lora.text_only", "yes"), ("lora.target_modules", "q_proj"), ("lora.target_modules", [1]),
     ("lora.target_modules", ["q_proj"] * 101), ("lora.target_modules", ["q" * 1001]),
     ("quantization.mode", "2-bit"), ("quantization.mode", ["4-bit"]), ("training.gone", "1"), ("lora.alpha", None)],
)  # fmt: skip
def test_what_no_longer_fits_its_field_is_left_at_its_default(workspace: Workspace, path: str, value) -> None:
    kept = held.hold(workspace, "", typed(workspace, "lora", "dropout", "0.3"))
    kept["values"][path] = value
    assert held.held(workspace, kept | {"preset": ["gone"]}) == ("", typed(workspace, "lora", "dropout", "0.3"))


@pytest.mark.parametrize("kept", [3, "x", [], {}, {"place": []}, {"values": {"lora.rank": "3"}}])
def test_what_is_no_form_at_all_is_left_alone(workspace: Workspace, kept) -> None:
    assert held.held(workspace, kept) is None
