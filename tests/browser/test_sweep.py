"""The Sweep panel as a person uses it: an empty page, and a finished sweep with its answer, chart and exports in two browsers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import App, make_root
from workbench.training.sweep import cells
from workbench.training.sweep_view import CellDone, Ended
from workbench.workspace import Workspace

pytestmark = pytest.mark.browser


def finish(root: Path, name: str) -> None:
    """A finished sweep on the set's rows in which 8-bit has the lower loss and all else is equal."""
    space = Workspace(root=root, model="demo")
    axes = {"quantization.mode": ("8-bit", "4-bit"), "training.epochs": (5, 10)}
    spec, rows = space.make_sweep(name, space.rows.read().rows, space.default_settings(), axes, folds=5, seed=42, data_name=space.rows.path.name)
    store = space.sweeps.store
    store.create(spec, rows)
    for cell in cells(spec):
        loss = 1.0 + cell.fold / 50 + (0.1 + cell.fold / 100 if cell.values["quantization.mode"] == "4-bit" else 0)
        store.append(name, CellDone(
            values=dict(cell.values), fold=cell.fold, loss=loss, train_loss=0.1, call_recall=(6, 7), over_calls=(1, 7), malformed=(0, 14),
            right=(12, 14), steps=40, seconds=30.0, peak_memory_gib=1.5, device="CPU",
        ))  # fmt: skip
    store.append(name, Ended(state="finished"))


@pytest.fixture(scope="module")
def sweep_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    running = App(make_root(tmp_path_factory.mktemp("sweeps")))
    yield running
    running.close()


@pytest.fixture
def open_sweeps(sweep_app: App, chromium: Browser) -> Iterator[object]:
    """Opens the panel in a browser of its own, as often as it is called; a script error in any fails the test."""
    contexts, faults = [], []

    def opened(width: int = 1280, height: int = 720) -> Page:
        context = chromium.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.set_default_timeout(20_000)
        page.goto(sweep_app.url)
        page.get_by_role("tab", name="3 Train").click()
        page.get_by_role("tab", name="Sweep", exact=True).click()
        expect(page.locator("#sweep-plan")).to_contain_text("optimizer steps")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == []


UNNAMED = """() => [...document.querySelectorAll('#train-panels input, #train-panels textarea, #train-panels button')].filter((e) => e.offsetParent
  && !(e.getAttribute('aria-label') || [...(e.labels || [])].some((l) => l.innerText.trim()) || e.innerText.trim())).map((e) => e.outerHTML)"""


def test_an_empty_page_says_what_to_do_and_a_finished_sweep_answers_in_every_browser(sweep_app, open_sweeps) -> None:
    page = open_sweeps()
    expect(page.locator("#sweep-progress")).to_contain_text("To begin, choose on the left what to compare")
    for button in ("csv", "json", "delete", "stop"):
        expect(page.locator(f"#sweep-{button}")).to_be_disabled()
    assert page.evaluate(UNNAMED) == []
    # What is typed wrong is told by the form's own names, and the next line comes when it is wanted.
    expect(page.get_by_label("Setting 4", exact=True)).to_have_count(0)
    page.get_by_label("Values to compare of setting 2", exact=True).fill("1, x")
    expect(page.locator("#sweep-wrong-1")).to_have_text("Seed: 'x' can't be used. It takes a whole number from 0 to 2,147,483,647.")
    page.get_by_label("Values to compare of setting 2", exact=True).fill("1, 2")
    page.get_by_label("Setting 3", exact=True).click()
    page.get_by_role("option", name="Rank", exact=True).click()
    expect(page.locator("#sweep-wrong-2")).to_contain_text("Give two or more values, with commas. It takes a whole number from 1 to 512.")
    expect(page.get_by_label("Setting 4", exact=True)).to_be_visible()
    page.get_by_label("All other settings as in").click()
    for name in ("the Tune form as it stands", "preset: Second article"):
        expect(page.get_by_role("option", name=name, exact=True)).to_be_visible()
    page.keyboard.press("Escape")

    finish(sweep_app.root, "real")
    other = open_sweeps(1440, 900)
    for seen in (page, other):
        expect(seen.locator("#sweep-progress")).to_contain_text("20 of 20 cells")
        expect(seen.locator("#sweep-answer")).to_contain_text("Which is better, 8-bit or 4-bit? It is 8-bit in validation loss; no difference is shown in call recall")
        expect(seen.locator("#sweep-sentences")).to_contain_text("In validation loss 8-bit is better than 4-bit: lower by 0.120 on average")
        assert seen.locator("#sweep-table tbody tr").count() == 4
        seen.wait_for_function("document.querySelector('#sweep-chart .js-plotly-plot')?.data?.some((t) => t.error_y?.array?.length === 2)")
        assert seen.evaluate("() => { const t = document.querySelector('#sweep-table table').parentElement; return t.scrollWidth <= t.clientWidth }")
        assert seen.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    with page.expect_download() as download:
        page.locator("#sweep-csv").click()
    assert (download.value.suggested_filename, len(Path(download.value.path()).read_text().splitlines())) == ("real.csv", 21)
    with page.expect_download() as download:
        page.locator("#sweep-json").click()
    assert json.loads(Path(download.value.path()).read_text())["cells"] == {"planned": 20, "done": 20, "failed": 0}
