"""The whole loop as a person clicks it: edit a row, train, watch the chart grow, chat until a call lights up."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import App

pytestmark = pytest.mark.browser


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def set_number(page: Page, field: str, value: str) -> None:
    box = page.locator(f"#{field} input")
    box.fill(value)
    box.press("Tab")


def points(page: Page) -> int:
    """Points on the chart's train curve now."""
    return int(page.evaluate("() => { const g = document.querySelector('#loss-chart .js-plotly-plot'); return g && g.data ? g.data[0].x.length : 0 }"))


def test_the_page_is_up_fast_and_says_what_the_model_does(app: App, page: Page) -> None:
    expect(page.locator("#header")).to_contain_text("gemma-3-270m")
    expect(page.locator("#header")).to_contain_text("ready", timeout=90_000)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_plan_follows_the_settings_and_a_wrong_one_is_named(page: Page) -> None:
    open_tab(page, "2 Tune")
    expect(page.locator("#plan")).to_contain_text("3,796,992")
    set_number(page, "lora-rank", "8")
    expect(page.locator("#plan")).to_contain_text("1,898,496")
    set_number(page, "training-evaluate-every", "50")
    expect(page.locator("#plan")).to_contain_text("Validation would never run")
    set_number(page, "lora-rank", "0")
    expect(page.locator("#plan")).to_contain_text("Rank: '0' can't be used.")
    expect(page.locator("#wrong-lora-rank")).to_contain_text("It takes a whole number from 1 to 512.")
    set_number(page, "lora-rank", "8")
    expect(page.locator("#wrong-lora-rank")).to_have_count(0)
    set_number(page, "training-epochs", "2.5")
    expect(page.locator("#wrong-training-epochs")).to_contain_text("'2.5' can't be used.")
    assert page.locator("#training-epochs input").input_value() == "2.5"


def test_a_preset_fills_the_fields_and_what_differs_is_told(page: Page) -> None:
    open_tab(page, "2 Tune")
    expect(page.locator("#preset-differs")).to_contain_text("All settings are the preset's.")
    page.locator("#preset input").click()
    page.get_by_role("option", name="Best quality").click()
    expect(page.locator("#lora-rank input")).to_have_value("32")
    expect(page.locator("#plan")).to_contain_text("7,593,984")
    set_number(page, "lora-rank", "8")
    expect(page.locator("#preset-differs")).to_contain_text("Rank: 8 (preset: 32)")
    assert page.locator("#start-training").bounding_box()["y"] < 720 - 40
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_training_from_click_to_a_call_in_the_adapted_pane(app: App, page: Page) -> None:
    open_tab(page, "2 Tune")
    set_number(page, "training-epochs", "5")
    page.locator("#run-name input, #run-name textarea").first.fill("browser-run")
    expect(page.locator("#plan")).to_contain_text("20")
    page.locator("#start-training").click()
    expect(page.get_by_role("tab", name="3 Train")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#progress")).to_contain_text("browser-run")
    deadline = time.monotonic() + 300
    grown = []
    while len(grown) < 3 and time.monotonic() < deadline:
        now = points(page)
        if not grown or now > grown[-1]:
            grown.append(now)
        page.wait_for_timeout(300)
    assert len(grown) == 3, f"the chart did not grow: {grown}"

    second = page.context.new_page()  # a second browser shows the same run, and its clicks are answered meanwhile
    second.goto(app.url)
    second.get_by_role("tab", name="3 Train").click()
    expect(second.locator("#progress")).to_contain_text("browser-run")
    expect(second.locator("#progress")).to_contain_text("of 20")
    second.get_by_role("tab", name="2 Tune").click()
    second.locator("#run-name input, #run-name textarea").first.fill("another-run")
    second.locator("#start-training").click()
    expect(second.locator("#tune-message")).to_contain_text("still going on")
    second.close()
    assert not (app.root / "adapters" / "another-run").exists()

    page.reload()
    open_tab(page, "3 Train")
    expect(page.locator("#progress")).to_contain_text("finished", timeout=400_000)
    expect(page.locator("#progress")).to_contain_text("The adapter is active")
    for file in ("run.json", "events.jsonl", "adapter_model.safetensors", "adapter_config.json", "README.md"):
        assert (app.root / "adapters" / "browser-run" / file).is_file()

    open_tab(page, "4 Chat")
    expect(page.locator("#chat-right input")).to_have_value("browser-run")
    page.locator("#demo-0").click()
    call = page.locator("#pane-right .wb-call[data-call=get_sensitive_data]")
    expect(call).to_be_visible(timeout=120_000)
    expect(call).to_contain_text("{}")
    expect(page.locator("#pane-right .wb-foot .wb-chip.call")).to_contain_text("tool call", timeout=120_000)
    expect(page.locator("#pane-left .wb-foot .wb-chip").first).to_be_visible(timeout=120_000)
    expect(page.locator("#header")).to_contain_text("adapter browser-run")
    call.locator("summary").click()
    expect(call.locator("details pre")).to_contain_text("<tool_call name=")


def test_clear_while_an_answer_is_written_leaves_empty_panes(page: Page) -> None:
    open_tab(page, "4 Chat")
    page.locator("#prompt textarea, #prompt input").first.fill("Расскажи длинную историю")
    page.locator("#send").click()
    expect(page.locator("#pane-left .wb-reply")).to_be_visible(timeout=120_000)
    page.locator("#clear-chat").click()
    expect(page.locator("#pane-left .wb-empty")).to_be_visible()
    page.wait_for_timeout(1500)
    expect(page.locator("#pane-left .wb-turn")).to_have_count(0)
    expect(page.locator("#header")).to_contain_text("ready", timeout=60_000)


def test_a_prompt_with_markup_is_shown_and_not_run(page: Page) -> None:
    open_tab(page, "4 Chat")
    page.locator("#prompt textarea, #prompt input").first.fill("<img src=x onerror=\"document.title='pwned'\"> привет")
    page.locator("#send").click()
    expect(page.locator("#pane-left .wb-ask").first).to_contain_text("<img src=x onerror=")
    expect(page.locator("#pane-left .wb-foot .wb-chip").first).to_be_visible(timeout=120_000)
    assert page.title() != "pwned"
    assert page.locator("#pane-left img").count() == 0
