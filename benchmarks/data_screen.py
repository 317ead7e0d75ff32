"""How quick the Data tab is in a browser: search, filter, open, save and undo, on 70 and on 10,000 rows.

    python benchmarks/data_screen.py [--rows 10000] [--turns 5]

A time is from the press (or the last letter) to the answer on the screen, in headless Chromium on the same machine.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
PATIENCE = 30  # seconds for one answer


def timed(page: Any, act: Any, seen: str, argument: Any) -> float:
    """Seconds from `act()` until the script `seen` holds in the page; ends the benchmark with what is missing where it does not."""
    from playwright.sync_api import TimeoutError

    begun = time.perf_counter()
    act()
    try:
        page.wait_for_function(seen, arg=argument, polling=5, timeout=1000 * PATIENCE)
    except TimeoutError:
        shown = page.evaluate("(where) => document.querySelector(where)?.innerText", argument[0])
        raise SystemExit(f"A press was not answered within {PATIENCE} s: {argument[0]} should tell {argument[1]!r} and tells {shown!r}.") from None
    return time.perf_counter() - begun


TEXT = "([where, text]) => document.querySelector(where)?.innerText.includes(text)"


def measure(rows: int, turns: int) -> None:
    from playwright.sync_api import expect, sync_playwright

    from benchmarks.data_health import make_rows
    from tests.browser.conftest import App, make_root
    from workbench.dataset.formats import dump_jsonl

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        root = make_root(Path(folder))
        if rows != 70:
            (root / "data" / "examples.json").write_text(dump_jsonl(make_rows(rows, 42)), encoding="utf-8")
        app = App(root)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        try:
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            begun = time.perf_counter()
            page.goto(app.url)
            page.wait_for_function("() => document.querySelectorAll('#grid .body-cell').length > 20", polling=10)
            drawn = time.perf_counter() - begun
            page.wait_for_function("() => document.querySelectorAll('#health-strip .wb-chip').length > 1", polling=10, timeout=60_000)
            checked = time.perf_counter() - begun
            expect(page.locator("#header")).to_contain_text("ready", timeout=120_000)
            times: dict[str, list[float]] = {}
            search = page.locator("#search input, #search textarea").first
            for _ in range(turns):
                times.setdefault("search", []).append(timed(page, lambda: search.fill("нет такого слова"), TEXT, ["#grid-where", "No row matches"]))
                times.setdefault("show all", []).append(timed(page, lambda: page.locator("#show-all").click(), TEXT, ["#grid-where", f"{rows}"]))
                for place in (3, 5):
                    cell = page.locator(f"#grid [data-testid=cell-{place - 1}-3]")
                    times.setdefault("open a row", []).append(timed(page, cell.click, TEXT, ["#row-title", f"Row {place}"]))
                times.setdefault("approve, next row", []).append(timed(page, lambda: page.locator("#row-approve").click(), TEXT, ["#row-title", "Row 6"]))
                times.setdefault("undo", []).append(timed(page, lambda: page.locator("#undo").click(), TEXT, ["#data-message", "Undone"]))
                page.wait_for_timeout(400)
            print(f"{rows} rows: on the screen {drawn:.2f} s after the page was asked for, health after {checked:.2f} s")
            for name, took in times.items():
                print(f"  {name:18} median {1000 * statistics.median(took):.0f} ms, slowest {1000 * max(took):.0f} ms")
        finally:
            browser.close()
            app.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[70, 10_000])
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    for rows in options.rows:
        measure(rows, options.turns)


if __name__ == "__main__":
    main()
