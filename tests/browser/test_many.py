"""Ten browsers at one workbench: each is told its place, each has its turn, none loses text, and whoever leaves makes room.

The engine's client, its queue and its pipes are the real ones; the process behind them is a stand-in that answers when it is let.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import free_port
from workbench.engine.client import Engine
from workbench.ui.quiet import THREADS
from workbench.ui.theme import CSS, theme
from workbench.ui.workbench import build
from workbench.workspace import Workspace

pytestmark = pytest.mark.browser

PAGES = 10
DEADLINE = 30.0

# Notes which request it takes up, waits until the file "let" allows it that many, and answers in growing pieces; "endless" until it is stopped.
STAND_IN = """#!{python}
import json, os, sys, threading, time
from pathlib import Path

folder, lines, stopped, taken = Path({folder!r}), [], set(), 0

def listen():
    for line in sys.stdin:
        told = json.loads(line)
        stopped.add(told["number"]) if told["type"] == "stop" else lines.append(told)
    os._exit(0)

def say(**message):
    print(json.dumps(message), flush=True)

threading.Thread(target=listen, daemon=True).start()
while True:
    if not lines:
        time.sleep(0.01)
        continue
    do = lines.pop(0)
    number, job = do["number"], do["job"]
    asked = job["prompts"][0][-1]["content"] if job["kind"] == "answer" else job["kind"]
    with (folder / "taken").open("a") as file:
        file.write(asked + "\\n")
    taken += 1
    say(type="progress", number=number, text="answering")
    while int((folder / "let").read_text() or 0) < taken and number not in stopped:
        time.sleep(0.01)
    whole, told = " ".join(f"{{asked}} word {{k}}" for k in range(200)), ""
    for piece in range(1, 10**9 if "endless" in asked else 9):
        if number in stopped:
            break
        told = f"endless {{piece}}" if "endless" in asked else whole[: len(whole) * piece // 8]
        say(type="texts", number=number, texts=[told])
        time.sleep(0.05)
    if job["kind"] == "answer":
        ended = "stopped" if number in stopped else "stop token"
        say(type="done", number=number, result=dict(replies=[dict(text=told, tokens=8, seconds=0.4, first_token_seconds=0.05, ended=ended)], adapter_difference=None))
    else:
        say(type="failed", number=number, reason="It was not measured.")
"""


def reply_to(prompt: str) -> str:
    return " ".join(f"{prompt} word {k}" for k in range(200))


def until(condition: Callable[[], Any], page: Page) -> None:
    """Wait while the browser goes on."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        page.wait_for_timeout(20)


class Crowd:
    """A workbench with a stand-in for the engine's process, and ten browsers at its Chat tab, each with cookies and connections of its own."""

    def __init__(self, folder: Path, space: Workspace, chromium: Browser, stack: ExitStack) -> None:
        self.folder, self.space = folder, space
        script = folder / "worker"
        script.write_text(STAND_IN.format(python=sys.executable, folder=str(folder)), encoding="utf-8")
        script.chmod(0o755)
        self.let(0)
        vars(space)["engine"] = self.engine = Engine(folder, folder, space.runs, python=str(script))
        stack.callback(self.engine.close, timeout=2)
        port, self.faults = free_port(), list[str]()
        blocks = build(space)
        blocks.queue(default_concurrency_limit=40).launch(
            server_name="127.0.0.1", server_port=port, theme=theme(), css=CSS, share=False, quiet=True, prevent_thread_lock=True, footer_links=[],
            ssr_mode=False, max_threads=THREADS,
        )  # fmt: skip
        stack.callback(blocks.close, verbose=False)
        self.pages = [stack.enter_context(chromium.new_context(viewport={"width": 1280, "height": 720})).new_page() for _ in range(PAGES)]
        for page in self.pages:
            page.on("pageerror", lambda error: self.faults.append(str(error)))
            page.set_default_timeout(1000 * DEADLINE)
            page.goto(f"http://127.0.0.1:{port}", wait_until="commit")
        for page in self.pages:
            page.get_by_role("tab", name="4 Chat").click()
        for page in self.pages:
            expect(page.locator("#prompt textarea")).to_be_visible()

    def taken(self) -> list[str]:
        """The requests that the engine has taken up, in that order."""
        file = self.folder / "taken"
        return file.read_text().splitlines() if file.exists() else []

    def let(self, count: int) -> None:
        """Let the engine answer so many requests in all."""
        (self.folder / "let").write_text(str(count))

    def jobs(self) -> int:
        """Those in hand or waiting."""
        return len(self.engine.queue())

    def say(self, page: Page, text: str) -> None:
        """Send a request and wait until it stands in the queue."""
        before = self.jobs()
        page.locator("#prompt textarea").fill(text)
        page.locator("#send").click()
        until(lambda: self.jobs() == before + 1, page)


@pytest.fixture
def crowd(tmp_path: Path, new_workspace: Callable[[Path], Workspace], chromium: Browser) -> Iterator[Crowd]:
    with ExitStack() as stack:
        crowd = Crowd(tmp_path, new_workspace(tmp_path / "workbench"), chromium, stack)
        yield crowd
        assert crowd.faults == []


def said(page: Page) -> Any:
    return page.locator("#live-left .wb-said-text")


def expect_place(page: Page, place: int, pane: str = "#live-left") -> None:
    told = "next in the queue" if place == 1 else f"number {place} in the queue"
    expect(page.locator(pane)).to_contain_text(f"waiting, {told}: an answer holds the engine")


def test_ten_browsers_have_their_turns_and_whoever_leaves_makes_room(crowd: Crowd) -> None:
    first, *others, stopper, leaver = crowd.pages
    prompts = [f"request {number}" for number in range(PAGES)]
    crowd.say(first, prompts[0])
    until(lambda: crowd.taken() == prompts[:1], first)
    first.locator("#measure > button").click()
    first.locator("#measure-base").click()  # a second job of the first page: the turns of the others come before it
    until(lambda: crowd.jobs() == 2, first)
    for page, prompt in zip(crowd.pages[1:], prompts[1:], strict=True):
        crowd.say(page, prompt)
    expect(first.locator("#live-left")).to_contain_text("answering")
    expect_place(first, 10, "#scores-base")
    for place, page in enumerate(crowd.pages[1:], start=1):
        expect_place(page, place)

    stopper.locator("#stop-answer").click()
    expect(stopper.locator("#live-left")).to_contain_text("was taken back before it began")
    leaver.close()
    until(lambda: crowd.jobs() == PAGES - 1, first)
    expect_place(first, 8, "#scores-base")

    for answered in (1, 2):
        crowd.let(answered)
        for place, page in enumerate(others[answered:], start=1):
            expect_place(page, place)
    crowd.let(100)
    for page, prompt in zip([first, *others], prompts, strict=False):
        expect(page.locator("#live-left .wb-foot .wb-chip")).to_have_count(1)
        assert said(page).inner_text() == reply_to(prompt)
    until(lambda: crowd.jobs() == 0, first)
    assert crowd.taken() == [*prompts[:-2], "evaluate"]

    crowd.say(stopper, "endless")  # a page that took its request back goes on
    expect(said(stopper)).to_contain_text("endless 2")
    stopper.close()
    until(lambda: crowd.jobs() == 0, first)
    assert crowd.taken()[-1] == "endless"
