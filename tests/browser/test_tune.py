"""The Tune tab in a browser: ticked modules, presets that come and go, mistakes beside their fields, names for a screen reader."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from workbench.ui.forms import FIELDS

pytestmark = pytest.mark.browser


@pytest.fixture
def tune(page: Page) -> Page:
    page.get_by_role("tab", name="2 Tune").click()
    expect(page.locator("#plan")).to_contain_text("3,796,992")
    return page


def fill(page: Page, field: str, value: str) -> None:
    box = page.locator(f"#{field} input").first
    box.fill(value)
    box.blur()


def save_as(page: Page, name: str, rank: str) -> None:
    page.locator("#preset-files > button").click()
    fill(page, "lora-rank", rank)
    fill(page, "preset-name", name)
    page.locator("#preset-save").click()


def bring_in(page: Page, file: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.locator("#preset-import").click()
    chooser.value.set_files(file)


def test_the_tree_and_the_boxes_of_groups_follow_each_other(tune: Page) -> None:
    names, groups, tree = (tune.locator(f"#{i}") for i in ("lora-target-modules", "module-groups", "module-tree"))
    expect(tree).to_contain_text("126 of 126 layers, 3,796,992 trainable (1.40% of all)")
    names.get_by_label("q_proj").uncheck()
    expect(tree).to_contain_text("attention 54 of 72 layers")
    expect(groups.get_by_label("attention")).not_to_be_checked()
    expect(groups.get_by_label("MLP")).to_be_checked()
    groups.get_by_label("MLP").uncheck()
    expect(names.get_by_label("up_proj")).not_to_be_checked()
    expect(tree).to_contain_text("MLP 0 of 54 layers, 0 trainable")
    groups.get_by_label("attention").check()
    expect(names.get_by_label("q_proj")).to_be_checked()
    expect(tree).to_contain_text("72 of 126 layers, 1,474,560 trainable")
    expect(tune.locator("#plan")).to_contain_text("1,474,560")
    fill(tune, "lora-rank", "8")
    expect(tree).to_contain_text("72 of 126 layers, 737,280 trainable")


def test_none_ticked_is_refused_beside_the_field_and_no_run_begins(tune: Page) -> None:
    for group in ("attention", "MLP"):
        tune.locator("#module-groups").get_by_label(group).uncheck()
    expect(tune.locator("#wrong-lora-target-modules")).to_have_text("Choose at least one module.")
    expect(tune.locator("#module-tree")).to_contain_text("0 of 126 layers, 0 trainable (0.00% of all)")
    expect(tune.locator("#plan")).to_have_text("Target modules: choose at least one module.")
    tune.locator("#start-training").click()
    expect(tune.locator("#tune-message")).to_contain_text("Target modules: choose at least one module.")
    expect(tune.get_by_role("tab", name="2 Tune")).to_have_attribute("aria-selected", "true")


def test_a_preset_is_saved_deleted_and_brought_back(tune: Page) -> None:
    save_as(tune, "four", "4")
    expect(tune.locator("#preset-said")).to_contain_text("Saved as four")
    expect(tune.locator("#preset input")).to_have_value("four · your own")
    expect(tune.locator("#preset-differs")).to_contain_text("All settings are the preset's.")
    tune.locator("#preset-delete").click()
    expect(tune.locator("#preset-said")).to_contain_text("The preset four was deleted; the settings below stay as they are.")
    expect(tune.locator("#preset-differs")).to_contain_text("Rank: 4 (preset: 16)")
    tune.get_by_role("button", name="Bring four back").click()
    expect(tune.locator("#preset-said")).to_contain_text("The preset four is back.")
    expect(tune.locator("#preset input")).to_have_value("four · your own")
    expect(tune.locator("#preset-differs")).to_contain_text("All settings are the preset's.")
    expect(tune.locator("#preset-back")).to_have_count(0)


def test_a_file_that_can_t_be_brought_in_leaves_the_form_and_a_title_gets_a_number(tune: Page, tmp_path: Path) -> None:
    tune.locator("#preset-files > button").click()
    fill(tune, "lora-rank", "7")
    file = tmp_path / "shared.yaml"
    file.write_text("settings: {lora: {rank: 0}}", encoding="utf-8")
    bring_in(tune, file)
    expect(tune.locator("#preset-said")).to_contain_text("The preset shared.yaml can't be used. Rank")
    expect(tune.locator("#lora-rank input")).to_have_value("7")
    file.write_text("title: Best quality\nsettings: {lora: {rank: 5}}", encoding="utf-8")
    bring_in(tune, file)
    expect(tune.locator("#preset-said")).to_contain_text("There is a preset called Best quality already, so this one is called Best quality (2).")
    expect(tune.locator("#lora-rank input")).to_have_value("5")
    expect(tune.locator("#preset input")).to_have_value("Best quality (2) · your own")


def test_dora_on_8_bit_weights_is_refused_beside_its_box(tune: Page) -> None:
    tune.locator("#more-lora > button").click()
    tune.get_by_label("DoRA", exact=True).check()
    tune.locator("#quantization-mode input").click()
    tune.get_by_role("option", name="8-bit").click()
    expect(tune.locator("#wrong-lora-dora")).to_contain_text("DoRA does not work on 8-bit base weights")
    tune.get_by_label("DoRA", exact=True).uncheck()
    expect(tune.locator("#wrong-lora-dora")).to_have_count(0)


def load_anew(tune: Page) -> None:
    tune.reload()
    tune.get_by_role("tab", name="2 Tune").click()


def test_a_reload_leaves_the_form_as_it_was(tune: Page) -> None:
    fill(tune, "lora-rank", "8")
    expect(tune.locator("#preset-differs")).to_contain_text("Rank: 8 (preset: 16)")
    load_anew(tune)
    expect(tune.locator("#lora-rank input")).to_have_value("8")
    expect(tune.locator("#tune-message")).to_contain_text("Your settings are back as you left them.")
    expect(tune.locator("#plan")).to_contain_text("1,898,496")
    tune.locator("#preset input").click()
    tune.get_by_role("option", name="The model's defaults").click()
    expect(tune.locator("#lora-rank input")).to_have_value("16")
    expect(tune.locator("#tune-message")).to_be_empty()
    load_anew(tune)
    expect(tune.locator("#plan")).to_contain_text("3,796,992")
    expect(tune.locator("#lora-rank input")).to_have_value("16")


def test_a_reload_keeps_a_preset_of_ones_own_that_was_saved_since_the_start(tune: Page) -> None:
    save_as(tune, "five", "5")
    expect(tune.locator("#preset-differs")).to_contain_text("All settings are the preset's.")
    load_anew(tune)
    expect(tune.locator("#preset input")).to_have_value("five · your own")
    expect(tune.locator("#preset-differs")).to_contain_text("All settings are the preset's.")
    fill(tune, "lora-rank", "6")
    expect(tune.locator("#preset-differs")).to_contain_text("Rank: 6 (preset: 5)")


NAMELESS = """() => [...document.querySelectorAll('#tune-form .wb-field .block[id]')].filter((block) => block.querySelector('input')).filter((block) => {
  const inputs = block.querySelectorAll('input');
  const node = inputs.length > 1 ? block : inputs[0];
  const help = document.getElementById((node.getAttribute('aria-describedby') || '').split(' ')[0]);
  const title = block.querySelector('[data-testid=block-info], .label-text').innerText.trim();
  const name = node.getAttribute('aria-label') || [...node.labels].map((label) => label.innerText.trim()).join(' ');
  return name !== title || (block.id !== 'module-groups' && !(help && help.innerText.length > 20));
}).map((block) => block.id)"""


def test_every_field_has_its_title_as_name_and_its_help_as_description(tune: Page) -> None:
    for card in ("quantization", "lora", "training"):
        tune.locator(f"#more-{card} > button").click()
    expect(tune.get_by_role("textbox", name="Seed", exact=True)).to_be_visible()
    tune.wait_for_function(f"({NAMELESS})().length === 0")
    assert tune.locator("#tune-form .wb-field .block[id]:has(input)").count() == len(FIELDS) + 1  # and the boxes of whole groups
    fill(tune, "lora-rank", "x")
    rank = tune.get_by_role("textbox", name="Rank", exact=True)
    expect(rank).to_have_attribute("aria-invalid", "true")
    expect(rank).to_have_attribute("aria-describedby", "lora-rank-help wrong-lora-rank")
    fill(tune, "lora-rank", "16")
    expect(rank).to_have_attribute("aria-invalid", "false")
