"""The worst that a model could write, in Chromium: on the demonstration page, in the file that it sends round, and in a chat while it streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.conftest import free_port
from tests.browser.test_chat import HOSTILE, PAWN, Script, open_chat, say
from workbench.calls.dialects import TAG
from workbench.schema import Example, Message, ToolCall
from workbench.settings import RunSettings
from workbench.training import events
from workbench.ui.theme import CSS, theme
from workbench.ui.workbench import build
from workbench.workspace import Workspace

pytestmark = pytest.mark.browser

UNSEEN = "\u202e\u200b\ufeff\x1b" * 2**18  # a megabyte
REPLIES = {
    "HTML": HOSTILE[0],
    "Markdown": HOSTILE[1],
    "templates": HOSTILE[2],
    "terminal codes, zero-width, right to left": HOSTILE[3] + " \u05e9\u05dc\u05d5\u05dd \u202eabc",
    "a megabyte without a space": "ж" * 2**20,
    "a megabyte of unseen signs": UNSEEN,
    "ten thousand arguments": TAG.render(ToolCall("get_sensitive_data", {f"a{i}": i for i in range(10_000)})),
    "a call of HTML": TAG.render(ToolCall("get_sensitive_data", {"city": HOSTILE[0], HOSTILE[1]: HOSTILE[2]})),
    "a broken call of HTML": "<tool_call name=" + HOSTILE[0],
    "calls without end": ("ж" * 20_000 + TAG.render(ToolCall("get_sensitive_data"))) * 50,
}
ACTING = ("img", "script", "svg", "iframe", "style", "h1", "a", "link", "form", "object")


@dataclass
class Stage:
    """A workbench with the adapter "a" on a scripted engine, and what a browser saw go wrong there."""

    url: str
    script: Script
    space: Workspace
    context: BrowserContext
    faults: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def open(self, path: str = "") -> Page:
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.set_default_timeout(30_000)
        page.goto(self.url + path)
        return page


@pytest.fixture
def stage(tmp_path: Path, new_workspace: Callable[[Path], Workspace], chromium: Browser) -> Iterator[Stage]:
    space = new_workspace(tmp_path / "workbench")
    rows = (Example((Message("user", "Баланс?"), Message("assistant", "Да"))),)
    space.runs.create("a", model="demo", model_name="m", rows=rows, data_name="d", settings=RunSettings())
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        (space.runs.path("a") / file).write_text("{}")
    space.runs.append("a", events.Ended(state="finished", step=1))
    script, port, blocks = Script(space), free_port(), build(space)
    with ExitStack() as stack:
        blocks.queue(default_concurrency_limit=40).launch(
            server_name="127.0.0.1", server_port=port, theme=theme(), css=CSS, share=False, quiet=True, prevent_thread_lock=True, footer_links=[],
            ssr_mode=False, allowed_paths=[str(space.root / ".cache" / "export")],
        )  # fmt: skip
        stack.callback(blocks.close, verbose=False)
        context = stack.enter_context(chromium.new_context(viewport={"width": 1280, "height": 720}, accept_downloads=True))
        made = Stage(f"http://127.0.0.1:{port}", script, space, context)
        yield made
        assert made.faults == [] and not [url for url in made.asked if "evil.example" in url]


def acting(page: Page, within: str) -> list[int]:
    """How many elements stand there that could act, or that only a reply could have made."""
    return [page.locator(f"{within} {tag}").count() for tag in ACTING]


def fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def test_a_hostile_deck_is_played_and_sent_round_as_a_harmless_file(stage: Stage, chromium: Browser, tmp_path: Path) -> None:
    (stage.space.data_dir / "demo_deck.jsonl").unlink(missing_ok=True)
    page = stage.open("/demo")
    page.locator(".wb-demo-prompt").wait_for()
    page.keyboard.press("e")
    page.locator("#demo-deck textarea").fill("\n".join(f"call | {name} {HOSTILE[0]}" for name in REPLIES))
    page.locator("#demo-save").click()
    expect(page.locator("#demo-said")).to_contain_text(f"Saved: {len(REPLIES)} prompts")
    page.keyboard.press("Escape")
    stage.script.replies = [(text, text) for text in REPLIES.values()]
    page.keyboard.press("a")
    expect(page.locator("#demo-stage .wb-demo-score")).to_contain_text(f"{len(REPLIES)} of {len(REPLIES)} prompts played", timeout=120_000)
    for number, name in enumerate(REPLIES):
        page.locator("#demo-stage .wb-demo-pick").nth(number).click()
        expect(page.locator("#demo-stage .wb-demo-prompt")).to_contain_text(name)
        expect(page.locator("#demo-stage .wb-pane .wb-reply")).to_have_count(2)
        assert acting(page, "#demo-stage") == [0] * len(ACTING), name
        assert fits(page) and page.title() != "pwned", name
    with page.expect_download() as fetched:
        page.keyboard.press("f")
    kept = tmp_path / "sent.html"
    fetched.value.save_as(kept)

    context = chromium.new_context(offline=True, viewport={"width": 900, "height": 700})
    reader, asked, faults = context.new_page(), list[str](), list[str]()
    reader.on("request", lambda request: asked.append(request.url))
    reader.on("pageerror", lambda error: faults.append(str(error)))
    reader.goto(kept.as_uri())
    expect(reader.locator(".score")).to_contain_text(f"{len(REPLIES)} of {len(REPLIES)} prompts played")
    assert reader.locator(".wb-pane").count() == 2 * len(REPLIES)
    assert acting(reader, ".wb-pane") == [0] * len(ACTING) and acting(reader, "h2") == [0] * len(ACTING)
    for told in ("U+202E", "U+200B", "U+001B", "U+FEFF", "1,028,576 more characters are not shown here", "9,940 more arguments are not shown here",
                 "more pieces of this reply are not shown here", PAWN, "![picture](https://evil.example/2.png)"):  # fmt: skip
        expect(reader.locator(".wb-pane", has_text=told).first).to_be_visible()
    assert fits(reader)
    reader.set_viewport_size({"width": 500, "height": 700})
    assert fits(reader) and reader.title() != "pwned" and asked == [kept.as_uri()] and faults == []
    assert kept.stat().st_size < 5_000_000
    context.close()


def test_what_is_hostile_streams_into_a_chat_and_the_page_goes_on(stage: Stage) -> None:
    page = stage.open()
    open_chat(page)
    expect(page.locator("#chat-right input")).to_have_value("a")
    stage.script.pieces = 8
    stage.script.replies = [(UNSEEN, REPLIES["calls without end"]), (REPLIES["a megabyte without a space"], REPLIES["ten thousand arguments"]), ("Да", "Нет")]
    say(page, "Раз")
    expect(page.locator("#live-left .wb-foot")).to_contain_text("tokens", timeout=60_000)
    expect(page.locator("#live-left .wb-odd").first).to_have_text("U+202E")
    expect(page.locator("#live-left .wb-reply")).to_contain_text("more characters are not shown here")
    expect(page.locator("#live-right .wb-reply")).to_contain_text("more pieces of this reply are not shown here")
    say(page, "Два")
    expect(page.locator("#live-left .wb-reply")).to_contain_text("1,028,576 more characters are not shown here", timeout=60_000)
    expect(page.locator("#live-right .wb-reply")).to_contain_text("9,940 more arguments are not shown here", timeout=60_000)
    say(page, "Три")
    expect(page.locator("#live-left .wb-reply")).to_have_text("Да", timeout=60_000)
    assert acting(page, ".wb-chatpane .wb-reply") == [0] * len(ACTING) and fits(page) and page.title() != "pwned"
