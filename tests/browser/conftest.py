"""The app as a person starts it, on a folder of its own with the embedded model, and headless Chromium before it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]


class App:
    """The running app: its folder, its address, its process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = root / "app.log"
        self.begun = time.monotonic()
        with self.log.open("w") as log:
            command = [sys.executable, str(ROOT / "app.py"), "--root", str(root), "--port", str(self.port)]
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)
        self.seconds_up = self._wait_up()

    def _wait_up(self) -> float:
        while time.monotonic() - self.begun < 90:
            if self.process.poll() is not None:
                pytest.fail(f"the app ended: {self.log.read_text()[-2000:]}")
            try:
                urllib.request.urlopen(self.url, timeout=5).read(1)
                return time.monotonic() - self.begun
            except OSError:
                time.sleep(0.1)
        pytest.fail("the app did not come up within 90 s")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_root(folder: Path) -> Path:
    """A workbench's folder with the project's data and the embedded model."""
    shutil.copytree(ROOT / "data", folder / "data")
    (folder / "adapters").mkdir()
    (folder / "models").mkdir()
    model = ROOT / "models" / "gemma-3-270m"
    if not (model / "config.json").is_file():
        pytest.fail("the embedded model is missing: run `make model`")
    (folder / "models" / "gemma-3-270m").symlink_to(model.resolve())
    return folder


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    running = App(make_root(tmp_path_factory.mktemp("workbench")))
    yield running
    running.close()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        # On a person's machine without a browser the other tests still count; CI turns this into a failure.
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail("Chromium is not installed")
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(app: App, chromium: Browser) -> Iterator[Page]:
    """A fresh page on the app; any traceback or script error fails the test that saw it."""
    context = chromium.new_context(viewport={"width": 1280, "height": 720})
    opened = context.new_page()
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.set_default_timeout(20_000)
    opened.goto(app.url)
    opened.locator("#grid").get_by_text("Здравствуйте!").first.wait_for()
    yield opened
    assert "Traceback" not in opened.content()
    context.close()
    assert faults == []
