"""How soon the app is up, and how quickly its clicks are answered while a run goes on (embedded model, headless Chromium).

    python benchmarks/app_speed.py [--clicks 30]

Uses the browser tests' app. A click's time is from the press to the answer on the screen.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clicks", type=int, default=30)
    options = parser.parse_args()

    from playwright.sync_api import Page, Request, expect, sync_playwright

    from tests.browser.conftest import App, make_root

    def timed(page: Page, press: str, seen: str, text: str) -> float:
        begun = time.perf_counter()
        page.locator(press).click()
        page.wait_for_function("([s, t]) => document.querySelector(s)?.innerText.includes(t)", arg=[seen, text], polling=10)
        return time.perf_counter() - begun

    with tempfile.TemporaryDirectory() as folder:
        app = App(make_root(Path(folder)))
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
                )
                page = browser.new_page(viewport={"width": 1440, "height": 900})
                served: list[float] = []  # from sending a click's request to its answer's last byte

                def note_served(request: Request) -> None:
                    if "/run/predict" in request.url:
                        served.append(request.timing["responseEnd"] / 1000)

                page.on("requestfinished", note_served)
                page.goto(app.url)
                page.locator("#grid").get_by_text("Здравствуйте!").first.wait_for()
                shown = time.monotonic() - app.begun
                expect(page.locator("#header")).to_contain_text("ready", timeout=120_000)
                page.get_by_role("tab", name="2 Tune").click()
                page.locator("#run-name input, #run-name textarea").first.fill("speed")
                page.locator("#start-training").click()
                expect(page.locator("#progress")).to_contain_text("step 1 of", timeout=120_000)
                times: dict[str, list[float]] = {}
                served.clear()
                for turn in range(max(1, options.clicks // 4)):
                    page.get_by_role("tab", name="1 Data").click()
                    page.locator("#row-request textarea").fill("вопрос")
                    times.setdefault("refuse a row", []).append(timed(page, "#row-add", "#data-message", "answer is empty"))
                    page.locator("#row-answer textarea").fill("ответ")
                    times.setdefault("add a row", []).append(timed(page, "#row-add", "#data-counts", "71 rows"))
                    times.setdefault("undo", []).append(timed(page, "#undo", "#data-counts", "70 rows"))
                    page.get_by_role("tab", name="2 Tune").click()
                    page.locator("#lora-rank input").fill("8")
                    times.setdefault("plan anew", []).append(timed(page, "#lora-alpha input", "#plan", "1,898,496"))
                    page.locator("#lora-rank input").fill("16")
                    if turn == 0:  # the same sentence twice is not drawn twice, so it can be timed once only
                        times["second start"] = [timed(page, "#start-training", "#tune-message", "still going on")]
                        page.get_by_role("tab", name="4 Chat").click()
                        times["empty prompt"] = [timed(page, "#send", "#pane-change", "Type a prompt")]
                browser.close()
        finally:
            app.close()
    print(f"server answers after {app.seconds_up:.1f} s, rows on the screen after {shown:.1f} s (a new Chromium's start included)")
    everything = [t for kind in times.values() for t in kind]
    for kind, took in times.items():
        print(f"  {kind:14} median {1000 * statistics.median(took):.0f} ms, slowest {1000 * max(took):.0f} ms")
    print(f"{len(served)} answers of the server: median {1000 * statistics.median(served):.0f} ms, slowest {1000 * max(served):.0f} ms")
    print(f"{len(everything)} clicks during a run: median {1000 * statistics.median(everything):.0f} ms, slowest {1000 * max(everything):.0f} ms")


if __name__ == "__main__":
    main()
