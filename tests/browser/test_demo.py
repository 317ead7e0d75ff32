"""The demonstration page in a real browser, on a tiny model: the keys alone, the deck, the file that is sent round."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import APIResponse, Browser, Page, Route, expect

from tests.browser.conftest import App
from workbench.dataset.formats import load_rows
from workbench.engine.jobs import Host, Report
from workbench.engine.messages import TrainJob
from workbench.settings import make_settings
from workbench.ui.words import demo as words
from workbench.workspace import Workspace

pytestmark = pytest.mark.browser

EVIL = "<img src=x onerror=\"document.title='pwned'\">"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, new_workspace: Callable[[Path], Workspace]) -> Path:
    """The folder of a run on the tiny model."""
    space = new_workspace(tmp_path_factory.mktemp("trained") / "root")
    small = make_settings({"training": {"epochs": 1, "rows_per_step": 2, "validation_share": 0.0, "warmup_steps": 0, "learning_rate": 0.05}, "lora": {"rank": 4}})
    space.create_run("shown", load_rows(space.data_dir / "examples.json").rows[:4], small, data_name="examples.json")
    Host(space.catalog, space.runs).do(TrainJob(run="shown"), Report())
    return space.runs.path("shown")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, new_workspace: Callable[[Path], Workspace]) -> Iterator[App]:
    root = tmp_path_factory.mktemp("demo") / "root"
    new_workspace(root)
    (root / "adapters").mkdir()
    running = App(root)
    yield running
    running.close()


@pytest.fixture
def page(app: App, chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 1280, "height": 720}, accept_downloads=True)
    opened = context.new_page()
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.set_default_timeout(20_000)
    opened.goto(f"{app.url}/demo")
    opened.locator(".wb-demo-prompt").wait_for()
    yield opened
    assert "Traceback" not in opened.content() and opened.title() != "pwned"
    context.close()
    assert faults == []


def test_the_header_leads_there_an_empty_page_says_what_to_do_and_a_new_adapter_is_taken_up(app: App, adapter: Path, page: Page) -> None:
    expect(page.locator("#demo-stage .wb-empty").first).to_contain_text("No adapter yet. Train one first")
    page.keyboard.press("Space")
    expect(page.locator("#demo-stage .wb-note")).to_contain_text("No adapter yet")
    page.keyboard.press("f")
    expect(page.locator("#demo-stage .wb-note")).to_contain_text(words.FILE_NO_ADAPTER)
    page.goto(app.url)
    with page.context.expect_page() as opened:
        page.locator("#header .wb-demo-link").click()
    beside = opened.value
    expect(beside.locator(".wb-demo-prompt")).to_contain_text("Мой доступ активен?")
    assert beside.url == f"{app.url}/demo"
    assert not beside.locator(".nav-holder").is_visible()  # gradio's own line of pages
    shutil.copytree(adapter, app.root / "adapters" / "shown")
    expect(beside.locator("#demo-adapter input")).to_have_value("shown")
    expect(beside.locator("#demo-stage .wb-pane.adapted h3")).to_contain_text("shown")


def test_a_whole_demonstration_by_the_keys_alone(page: Page) -> None:
    stage = page.locator("#demo-stage")
    page.keyboard.press("Space")
    expect(stage.locator(".wb-demo-score")).to_contain_text("1 of 6 prompts played", timeout=120_000)
    expect(stage.locator(".wb-pane .wb-mark")).to_have_count(2)
    page.keyboard.press("ArrowRight")
    expect(stage.locator(".wb-demo-ask")).to_contain_text("2 of 6")
    expect(stage.locator(".wb-pane .wb-mark")).to_have_count(0)
    page.keyboard.press("ArrowLeft")
    expect(stage.locator(".wb-demo-ask")).to_contain_text("1 of 6")
    page.keyboard.press("a")
    expect(stage.locator(".wb-demo-score")).to_contain_text("6 of 6 prompts played", timeout=240_000)
    expect(stage.locator(".wb-demo-score")).to_contain_text("adapted called 0 of 4, base 0 of 4")
    page.keyboard.press("d")
    assert page.evaluate("document.body.classList.contains('dark')")
    page.keyboard.press("d")
    assert page.evaluate("[document.documentElement.scrollWidth <= innerWidth, document.documentElement.scrollHeight <= innerHeight]") == [True, True]
    stage.locator(".wb-demo-pick").nth(2).click()
    expect(stage.locator(".wb-demo-ask")).to_contain_text("3 of 6")
    page.keyboard.press("s")
    expect(stage.locator(".wb-note")).to_contain_text(words.NOT_PLAYING)
    page.reload()  # in mid-show nothing of it is lost
    expect(stage.locator(".wb-demo-score")).to_contain_text("6 of 6 prompts played")
    expect(stage.locator(".wb-demo-ask")).to_contain_text("3 of 6")
    expect(stage.locator(".wb-pane .wb-mark")).to_have_count(2)


def test_an_answer_that_comes_late_does_not_bring_an_older_page_back(page: Page) -> None:
    held: list[tuple[Route, APIResponse]] = []

    def hold(route: Route) -> None:
        answer = route.fetch()
        if not held and "2 of 6" in answer.text():  # the key's, not the timer's that looks for new adapters
            held.append((route, answer))
        else:
            route.fulfill(response=answer)

    asked = page.locator("#demo-stage .wb-demo-ask")
    page.route("**/run/predict**", hold)
    page.keyboard.press("ArrowRight")
    for _ in range(500):
        if held:  # the server has moved on and answered
            break
        page.wait_for_timeout(20)
    page.keyboard.press("ArrowRight")
    expect(asked).to_contain_text("3 of 6")
    [(route, answer)] = held
    route.fulfill(response=answer)
    page.wait_for_timeout(500)
    expect(asked).to_contain_text("3 of 6")
    page.unroute("**/run/predict**")


def test_a_stop_ends_what_is_played_and_the_keys_go_on_working(page: Page) -> None:
    stage = page.locator("#demo-stage")
    page.keyboard.press("e")
    page.locator("#demo-drawer").get_by_text(words.SETTINGS).click()
    page.locator("#sampling-max-new-tokens input").last.fill("4000")
    page.keyboard.press("Tab")
    page.keyboard.press("Escape")
    expect(page.locator("#demo-drawer")).to_be_hidden()
    page.keyboard.press("a")
    expect(stage.locator(".wb-demo[data-going='1']")).to_be_visible()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("s")
    expect(stage.locator(".wb-demo[data-going='0']")).to_be_visible()
    expect(stage.locator(".wb-demo-score")).to_contain_text(words.NO_SCORE)


def test_the_deck_is_edited_kept_and_its_file_is_safe_to_open(app: App, page: Page, chromium: Browser, tmp_path: Path) -> None:
    page.keyboard.press("e")
    box = page.locator("#demo-deck textarea")
    expect(box).to_be_focused()
    box.fill(f"call | {EVIL}\nПривет")
    page.locator("#demo-save").click()
    expect(page.locator("#demo-said")).to_contain_text("Line 2 can't be used")
    box.fill(f"call | {EVIL}\ntext | Привет")
    page.locator("#demo-save").click()
    expect(page.locator("#demo-said")).to_contain_text("Saved: 2 prompts")
    page.keyboard.press("Escape")
    page.reload()
    stage = page.locator("#demo-stage")
    expect(stage.locator(".wb-demo-prompt")).to_have_text(EVIL)
    assert stage.locator("img").count() == 0
    page.keyboard.press("f")
    expect(stage.locator(".wb-note")).to_contain_text("Nothing was played yet")
    page.keyboard.press("a")
    expect(stage.locator(".wb-demo-score")).to_contain_text("2 of 2 prompts played", timeout=120_000)
    with page.expect_download() as fetched:
        page.keyboard.press("f")
    kept = tmp_path / fetched.value.suggested_filename
    fetched.value.save_as(kept)
    assert kept.name == "demonstration-shown.html"

    context = chromium.new_context(offline=True)
    reader, asked = context.new_page(), list[str]()
    reader.on("request", lambda request: asked.append(request.url))
    reader.goto(kept.as_uri())
    expect(reader.locator("h2").first).to_contain_text(EVIL)
    expect(reader.locator(".score")).to_contain_text("2 of 2 prompts played")
    assert reader.locator(".wb-pane").count() == 4 and reader.locator("img, script, link, iframe").count() == 0
    assert asked == [kept.as_uri()] and reader.title() != "pwned"
    context.close()
