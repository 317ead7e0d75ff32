"""The Train tab as a person uses it: a run that grows under a zoom, the table, the shelf, and two runs compared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import App, make_root
from workbench.dataset.formats import load_rows
from workbench.evaluation.scores import make_cases, score_reply
from workbench.settings import RunSettings, apply_overrides
from workbench.training import events
from workbench.training.measured import keep_measurement
from workbench.training.runs import RunStore

pytestmark = pytest.mark.browser

CALL = '<tool_call name="get_sensitive_data" arguments="{}"/>'
EVIL = "<img src=x onerror=\"document.title='pwned'\">"


def step(number: int) -> events.Step:
    return events.Step(
        step=number, epoch=number / 10, loss=5 / number, learning_rate=1e-4, gradient_norm=0.5, tokens=600, labels=200, seconds=0.5, memory_gib=2.0
    )


def begin(store: RunStore, name: str, rank: int = 16) -> None:
    store.create(name, model="demo", model_name="gemma-3-270m", rows=[], data_name="examples.json", settings=apply_overrides(RunSettings(), [f"lora.rank={rank}"]))
    store.append(name, events.Started(
        total_steps=100, epochs=10, train_rows=63, validation_rows=7, trainable_parameters=1, total_parameters=2, device=EVIL,
    ))  # fmt: skip
    for number in range(1, 21):
        store.append(name, step(number))
    answer = events.SampleAnswer(prompt=EVIL, expected=CALL, reply=CALL + EVIL, verdict="tool call", right=True)
    store.append(name, events.Sampled(step=20, epoch=2, right=6, asked=7, answers=(answer,)))
    store.append(name, events.Validation(step=20, epoch=2, loss=1.5))


@pytest.fixture(scope="module")
def runs_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The app on a folder with three runs; the newest is still going on, as far as its events tell."""
    root = make_root(tmp_path_factory.mktemp("runs"))
    store, cases = RunStore(root / "adapters"), make_cases(load_rows(root / "data" / "cases.jsonl").rows)
    for name, rank, reply in (("calls", 8, CALL), ("talks", 16, f"Нет. {EVIL}")):
        begin(store, name, rank)
        store.append(name, events.Ended(state="finished", step=20, seconds=10.0))
        keep_measurement(store, name, [score_reply(case, reply) for case in cases], "cases.jsonl")
    begin(store, "grows")
    running = App(root)
    yield running
    running.close()


@pytest.fixture
def train_page(runs_app: App, chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 1280, "height": 720})
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.set_default_timeout(20_000)
    page.goto(runs_app.url)
    page.get_by_role("tab", name="3 Train").click()
    page.locator("#loss-chart .js-plotly-plot").wait_for()
    yield page
    assert page.title() != "pwned"
    assert page.locator("img[src=x]").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    context.close()
    assert faults == []


def ranges(page: Page) -> list[float]:
    return list(page.evaluate("() => { const l = document.querySelector('#loss-chart .js-plotly-plot')._fullLayout; return [...l.xaxis.range, ...l.yaxis.range] }"))


def points(page: Page) -> int:
    return int(page.evaluate("() => document.querySelector('#loss-chart .js-plotly-plot').data[0].x.length"))


def open_runs(page: Page) -> None:
    page.get_by_role("tab", name="Runs", exact=True).click()
    page.locator("#runs-table table").wait_for()


def wait_points(page: Page, count: int) -> None:
    page.wait_for_function(f"document.querySelector('#loss-chart .js-plotly-plot').data[0].x.length === {count}")


def test_a_zoom_stays_while_the_run_grows_and_another_tab_was_open(runs_app: App, train_page: Page) -> None:
    page, store = train_page, RunStore(runs_app.root / "adapters")
    expect(page.locator("#progress")).to_contain_text("grows")
    expect(page.locator("#says-now")).to_contain_text("6 of 7 validation rows")
    before, whole = points(page), ranges(page)
    box = page.locator("#loss-chart .nsewdrag").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 40, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 150, steps=5)
    page.mouse.up()
    page.wait_for_function(f"document.querySelector('#loss-chart .js-plotly-plot')._fullLayout.xaxis.range[1] < {whole[1] - 1}")
    zoomed = ranges(page)
    store.append("grows", step(before + 1))
    wait_points(page, before + 1)
    assert ranges(page) == zoomed
    page.get_by_role("tab", name="4 Chat").click()
    store.append("grows", step(before + 2))
    page.get_by_role("tab", name="3 Train").click()
    wait_points(page, before + 2)
    assert ranges(page) == zoomed
    kind = "() => document.querySelector('#loss-chart .js-plotly-plot')._fullLayout.yaxis.type"
    for scale in ("log", "linear"):  # the steps that are looked at stay; losses have another range on another scale
        page.locator("#chart-log input").click()
        page.wait_for_function(f"({kind})() === '{scale}'")
        assert ranges(page)[:2] == zoomed[:2]
    page.locator("#chart-smoothing input").click()
    page.get_by_role("option", name="smoother").click()
    page.wait_for_function("document.querySelector('#loss-chart .js-plotly-plot').data[1].name === 'train loss, smoothed'")
    assert ranges(page)[:2] == zoomed[:2]
    told = page.locator("#loss-chart .modebar-btn").first.bounding_box()
    legend = page.locator("#loss-chart .legend").bounding_box()
    assert told is not None and legend is not None and legend["x"] + legend["width"] <= told["x"], "the tools cover no word of the legend"


def test_runs_are_found_by_a_setting_and_its_value(train_page: Page) -> None:
    page = train_page
    open_runs(page)
    page.locator("#runs-filter input, #runs-filter textarea").fill("rank 8")
    expect(page.locator("#runs-table")).to_contain_text("1 of 3 runs")
    expect(page.locator("[data-pick]")).to_have_attribute("data-pick", "calls")


@pytest.mark.parametrize("width", [1280, 1440])
def test_the_line_on_top_is_whole_while_nothing_goes_on(train_page: Page, width: int) -> None:
    train_page.set_viewport_size({"width": width, "height": 720})
    whole = "() => { const e = document.querySelector('.wb-loaded'); return e.textContent.includes('no adapter') && e.scrollWidth <= e.clientWidth }"
    train_page.wait_for_function(whole)


def test_a_run_is_noted_renamed_binned_and_brought_back(train_page: Page) -> None:
    page = train_page
    open_runs(page)
    page.locator('button[data-open="talks"]').click()
    expect(page.locator("#runs-opened")).to_contain_text("talks")
    note = page.locator("#runs-note textarea")
    note.press_sequentially("typed while the page ticks", delay=80)
    expect(note).to_have_value("typed while the page ticks")
    page.locator("#runs-save-note").click()
    expect(page.locator("#runs-table")).to_contain_text("typed while the page ticks")
    name = page.locator("#runs-name input, #runs-name textarea").first
    name.fill("../evil")
    page.locator("#runs-rename").click()
    expect(page.locator("#runs-message")).to_contain_text("can't be used")
    name.fill("speaks")
    page.locator("#runs-rename").click()
    expect(page.locator('[data-pick="speaks"]')).to_have_count(1)
    page.locator("#runs-delete").click()
    expect(page.locator('[data-pick="speaks"]')).to_have_count(0)
    page.locator("#runs-restore").click()
    expect(page.locator('[data-pick="speaks"]')).to_have_count(1)
    page.locator('button[data-open="grows"]').click()
    expect(page.locator("#runs-opened")).to_contain_text("grows")
    page.locator("#runs-delete").click()
    expect(page.locator("#runs-message")).to_contain_text("still going on")
    name.fill("talks")
    page.locator('button[data-open="speaks"]').click()
    expect(page.locator("#runs-opened")).to_contain_text("speaks")
    expect(name).to_have_value("speaks")
    name.fill("talks")
    page.locator("#runs-rename").click()
    expect(page.locator('[data-pick="talks"]')).to_have_count(1)


def test_quick_ticks_stay_with_their_runs_through_sorting_and_are_compared(train_page: Page) -> None:
    page = train_page
    open_runs(page)
    for name in ("calls", "talks"):
        page.locator(f'[data-pick="{name}"]').click()
    names = "() => document.querySelector('#overlay-chart .js-plotly-plot')?.data.map(t => t.name.split(' ')[0]).join()"
    page.wait_for_function(f"({names})() === 'calls,calls,talks,talks' || ({names})() === 'talks,talks,calls,calls'", timeout=60_000)
    for _ in range(2):
        page.locator('[data-sort="name"]').click()
        expect(page.locator("[aria-sort]")).to_contain_text("Run")
        page.wait_for_timeout(400)
        assert page.evaluate("[...document.querySelectorAll('[data-pick]:checked')].map(t => t.dataset.pick).sort().join()") == "calls,talks"
    page.get_by_role("tab", name="Settings side by side").click()
    expect(page.locator("#settings-difference")).to_contain_text("Rank")
    page.get_by_role("tab", name="Answers side by side").click()
    expect(page.locator("#answers-difference")).to_contain_text("of 30 right")
    expect(page.locator("#answers-difference .wb-call").first).to_be_visible()


@pytest.mark.parametrize("form", ["csv", "json"])
def test_the_metrics_are_fetched_as_a_file(train_page: Page, form: str) -> None:
    open_runs(train_page)
    with train_page.expect_download() as fetched:
        train_page.locator(f"#runs-export-{form}").click()
    assert "calls" in Path(fetched.value.path()).read_text(encoding="utf-8")
    assert fetched.value.suggested_filename.endswith(f".{form}")


def test_a_long_name_has_the_room_there_is_and_is_told_whole_under_the_pointer(runs_app: App, train_page: Page) -> None:
    """The last test: it adds a run."""
    name = "gemma-3-270m-balance-and-weather-rank16-lr2e-4-run8-longer"
    store = RunStore(runs_app.root / "adapters")
    begin(store, name)
    store.append(name, events.Ended(state="finished", step=20, seconds=10.0))
    page = train_page
    page.reload()
    page.get_by_role("tab", name="3 Train").click()
    box = page.locator("#run-choice input")
    box.click()
    page.get_by_role("option", name=name).click()
    expect(page.locator("#progress b").first).to_have_text(name)
    page.mouse.move(0, 0)
    box.hover()
    expect(box).to_have_attribute("title", name)
    open_runs(page)
    cell = page.locator(f'button[data-open="{name}"]')
    expect(cell).to_have_attribute("title", name)
    over = page.evaluate("(() => { const b = document.querySelector('.wb-runsbox'); return b.scrollWidth - b.clientWidth })()")
    assert over <= 0, "names and notes give way before the table is scrolled sideways"
