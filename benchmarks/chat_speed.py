"""How quick the chat is: the first text after the click, what a long reply costs the browser, ten browsers at once, a browser closed in mid-stream.

    python benchmarks/chat_speed.py [--only first long many] [--turns 10] [--json FILE]

`first` and `many` answer with the embedded model, base and adapter side by side; `long` streams a reply of 2,000 tokens with calls from a
stand-in for the engine's process at a card's pace, so that it shows what the page and the browser cost, whatever the machine decodes.
Headless Chromium on the same machine. A time is from the click to the paint that shows it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PARTS = ("first", "long", "many")
PATIENCE = 170.0  # seconds for one thing to happen
LENGTHS = (20, 100)  # tokens of the prompts, the template's included
WORD = "баланс "
PACE = 100  # tokens a second of the long reply
TOKENS, LETTERS = 2000, 4  # of the long reply; letters a token
QUIET = 4  # seconds for which the page is looked at before, while nothing goes on
BROWSERS, SHORT = 10, 12  # browsers at once, and tokens that each is answered with
RUN = "bench"

# Answers with the text in a file, letter by letter at a pace, until it is stopped.
STAND_IN = """#!{python}
import json, os, sys, threading, time
from pathlib import Path

text, lines, stopped = Path({text!r}).read_text(encoding="utf-8"), [], set()

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
        time.sleep(0.005)
        continue
    do = lines.pop(0)
    number, lanes = do["number"], len(do["job"].get("lanes", [0]))
    begun, count = time.monotonic(), 0
    while count < {tokens} and number not in stopped:
        time.sleep(max(0.0, begun + (count + 1) / {pace} - time.monotonic()))
        count += 1
        say(type="texts", number=number, texts=[text[: count * {letters}]] * lanes)
    reply = dict(text=text[: count * {letters}], tokens=count, seconds=time.monotonic() - begun, first_token_seconds=0.01,
                 ended="stopped" if number in stopped else "stop token")
    say(type="done", number=number, result=dict(replies=[reply] * lanes, adapter_difference=1.0))
"""

# Notes for each click on “Send” when the first text of a pane was painted, and while it streams every picture and long task; with `frames` every frame
# too, which keeps the browser drawing.
WATCH_JS = """(frames) => {
  const seen = window.seen = {clicked: null, first: null, pictures: 0, frames: [], long: []};
  const live = document.querySelector('#live-left');
  document.querySelector('#send').addEventListener('click', () => { Object.assign(seen, {clicked: performance.now(), first: null, pictures: 0, frames: [], long: []}); }, true);
  new MutationObserver(() => {
    seen.pictures += 1;
    if (seen.clicked === null || seen.first !== null || !live.querySelector('.wb-reply .wb-said-text, .wb-reply .wb-call')) return;
    requestAnimationFrame(() => setTimeout(() => { seen.first ??= performance.now(); }));
  }).observe(live, {subtree: true, childList: true, characterData: true});
  new PerformanceObserver((list) => { for (const entry of list.getEntries()) seen.long.push(entry.duration); }).observe({entryTypes: ['longtask']});
  let last = performance.now();
  if (!frames) return;
  const frame = (now) => { seen.frames.push(now - last); last = now; requestAnimationFrame(frame); };
  requestAnimationFrame(frame);
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS), metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--turns", type=int, default=10, help="requests of each kind")
    parser.add_argument("--json", type=Path, help="keep the figures there too")
    parser.add_argument("--adapter", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.adapter:
        make_adapter(options.adapter)
        return
    measures: dict[str, Callable[[int], dict[str, Any]]] = {"first": first_text, "long": long_reply, "many": many_browsers}
    found: dict[str, Any] = {"cores": os.cpu_count()}
    for part in options.only:
        begun = time.perf_counter()
        found[part] = measures[part](options.turns)
        print(f"  ({part} took {time.perf_counter() - begun:.0f} s)", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


# -- what all parts need ----------------------------------------------------------------------------


@contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        try:
            yield browser
        finally:
            browser.close()


def make_adapter(root: Path) -> None:
    """An adapter of two steps: that it answers well does not matter, that it is on does."""
    from workbench.dataset.formats import load_rows
    from workbench.engine.jobs import Host, Report
    from workbench.engine.messages import TrainJob
    from workbench.settings import make_settings
    from workbench.workspace import Workspace

    space = Workspace(root=root)
    changed = {"epochs": 1, "rows_per_step": 2, "validation_share": 0.0, "warmup_steps": 0, "sample_every": 0}
    space.create_run(RUN, load_rows(space.data_dir / "examples.json").rows[:4], make_settings({"training": changed}), data_name="examples.json")
    Host(space.catalog, space.runs).do(TrainJob(run=RUN), Report())


@contextmanager
def embedded_root() -> Iterator[Path]:
    """A workbench's folder with the embedded model and an adapter on it."""
    from tests.browser.conftest import make_root

    with tempfile.TemporaryDirectory() as folder:
        root = make_root(Path(folder))
        # In a process of its own, whose memory is free again when something is measured.
        subprocess.run([sys.executable, __file__, "--adapter", str(root)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        yield root


@contextmanager
def served(space: Any) -> Iterator[str]:
    """The workbench in this process, whose engine can be looked at; its address."""
    from tests.browser.conftest import free_port
    from workbench.ui.quiet import THREADS
    from workbench.ui.theme import CSS, theme
    from workbench.ui.workbench import build

    port, page = free_port(), build(space)
    page.queue(default_concurrency_limit=40).launch(
        server_name="127.0.0.1", server_port=port, theme=theme(), css=CSS, share=False, quiet=True, prevent_thread_lock=True, footer_links=[],
        ssr_mode=False, max_threads=THREADS,
    )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        space.engine.close()
        page.close(verbose=False)


def open_chat(page: Any, url: str, new_tokens: int, *, frames: bool = False) -> None:
    page.set_default_timeout(1000 * PATIENCE)
    if page.url.rstrip("/") != url:
        page.goto(url)
    page.get_by_role("tab", name="4 Chat").click()
    page.locator("#prompt textarea").wait_for()
    page.wait_for_function(f"document.querySelector('#chat-right input')?.value === '{RUN}'")
    page.locator("#chat-settings > button").click()
    box = page.locator("#sampling-max-new-tokens input").first
    box.fill(str(new_tokens))
    box.blur()
    page.locator("#chat-settings > button").click()
    page.evaluate(WATCH_JS, frames)


def over(page: Any, count: int = 1) -> None:
    """Wait until so many requests are answered in both panes, and the page takes the next."""
    page.wait_for_function(f"document.querySelectorAll('#pane-left .wb-turn .wb-foot .wb-chip').length >= {count}")
    page.wait_for_function(f"document.querySelectorAll('#pane-right .wb-turn .wb-foot .wb-chip').length >= {count}")
    page.wait_for_timeout(400)


def ask(page: Any, prompt: str) -> None:
    page.locator("#prompt textarea").fill(prompt)
    page.wait_for_timeout(50)
    page.locator("#send").click()


def clear(page: Any) -> None:
    page.locator("#clear-chat").click()
    page.wait_for_function("!document.querySelector('#pane-left .wb-turn')")


def spread(seconds: list[float]) -> dict[str, Any]:
    return {"median_s": statistics.median(seconds), "slowest_s": max(seconds), "count": len(seconds), "all_s": seconds}


def told(what: str, figures: dict[str, Any]) -> None:
    print(f"  {what:58} median {figures['median_s']:.2f} s, slowest {figures['slowest_s']:.2f} s of {figures['count']}", flush=True)


# -- the first text ---------------------------------------------------------------------------------


def first_text(turns: int) -> dict[str, Any]:
    """From the click to the first text in the pane, and beside it from handing the job in to the first token's text, without a page."""
    from tests.browser.conftest import App
    from workbench.settings import Sampling
    from workbench.workspace import Workspace

    found: dict[str, Any] = {}
    with embedded_root() as root:
        space = Workspace(root=root)
        prompts = {length: prompt_of(space, length) for length in LENGTHS}
        space.jobs.load_model().wait(PATIENCE)
        for lanes in ((False,), (False, True)):
            for length, prompt in prompts.items():
                took = []
                for _ in range(turns + 1):
                    begun = time.perf_counter()
                    turn = space.form(RUN).ask(prompt)
                    ticket = space.jobs.answer_together([space.jobs.answer_job([turn] * len(lanes), run=RUN, lanes=lanes, sampling=Sampling(max_new_tokens=4))])
                    while not any(ticket.texts) and not ticket.finished.is_set():
                        ticket.wait_change(0.05)
                    took.append(time.perf_counter() - begun)
                    ticket.wait(PATIENCE)
                name = f"engine alone, {length} tokens, {'both panes' if len(lanes) == 2 else 'one pane'}"
                found[name] = spread(took[1:])  # the first one puts the adapter on
                told(name, found[name])
        space.engine.close()
        app = App(root)
        try:
            with chromium() as browser:
                page = browser.new_page(viewport={"width": 1440, "height": 900})
                open_chat(page, app.url, 4)
                page.wait_for_function("document.querySelector('#header').innerText.includes('ready')")
                for length, prompt in prompts.items():
                    took = []
                    for _ in range(turns + 1):
                        ask(page, prompt)
                        over(page)
                        took.append(page.evaluate("(seen.first - seen.clicked) / 1000"))
                        clear(page)
                    name = f"click to text, {length} tokens, both panes"
                    found[name] = spread(took[1:])
                    told(name, found[name])
        finally:
            app.close()
    return found


def prompt_of(space: Any, tokens: int) -> str:
    """A request that makes a prompt of about so many tokens."""
    words = 1
    while len(space.tokenizer.prompt_ids(space.form(RUN).ask(WORD * (words + 1)))) <= tokens:
        words += 1
    return (WORD * words).strip()


# -- a long reply -----------------------------------------------------------------------------------


def reply_text() -> str:
    """A reply of 2,000 tokens: text, and a call with three arguments about every hundred tokens."""
    from workbench.calls.dialects import TAG
    from workbench.schema import ToolCall

    call = TAG.render(ToolCall("get_sensitive_data", {"city": "Москва", "days": 3, "units": ["руб", "usd"]}))
    text = ""
    while len(text) < TOKENS * LETTERS:
        text += "Сейчас посмотрю, сколько у вас на счёте и что было на этой неделе. " * 4 + "\n" + call + "\n"
    return text[: TOKENS * LETTERS]


def long_reply(turns: int) -> dict[str, Any]:
    """What a reply of 2,000 tokens costs the browser's main thread while it streams into both panes, and how far the page lags behind the engine."""
    from tests.browser.conftest import make_root
    from workbench.engine.client import Engine
    from workbench.training import events
    from workbench.workspace import Workspace

    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        root = make_root(Path(folder))
        space = Workspace(root=root)
        rows = space.rows.read().rows[:4]
        space.create_run(RUN, rows, space.default_settings(), data_name="examples.json")
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            (space.runs.path(RUN) / file).write_text("{}")
        space.runs.append(RUN, events.Ended(state="finished", step=1))
        script, text = root / "worker", root / "text"
        text.write_text(reply_text(), encoding="utf-8")
        script.write_text(STAND_IN.format(python=sys.executable, text=str(text), tokens=TOKENS, pace=PACE, letters=LETTERS), encoding="utf-8")
        script.chmod(0o755)
        vars(space)["engine"] = Engine(root, root, space.runs, python=str(script))
        found = {}
        with served(space) as url:
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            open_chat(page, url, 4000, frames=True)
            wire = page.context.new_cdp_session(page)
            wire.send("Performance.enable", {"timeDomain": "threadTicks"})  # the thread's own time: other work on the machine does not count
            wire.send("Network.enable")
            received = [0]
            wire.on("Network.dataReceived", lambda part: received.__setitem__(0, received[0] + part["dataLength"]))
            before = metrics(wire)
            page.wait_for_timeout(1000 * QUIET)
            after = metrics(wire)
            idle = {name: (after[name] - before[name]) / QUIET * TOKENS / PACE for name in after}
            received[0] = 0
            before, process = metrics(wire), time.process_time()
            ask(page, "Расскажи")
            while not space.engine.queue():
                page.wait_for_timeout(20)
            while space.engine.queue():
                page.wait_for_timeout(20)
            ended = time.perf_counter()
            page.wait_for_function("document.querySelector('#live-left .wb-foot .wb-chip')")
            lag = time.perf_counter() - ended
            after, seen = metrics(wire), page.evaluate("seen")
            frames = seen["frames"]
            found = {
                "stream_s": TOKENS / PACE, "lag_at_the_end_s": lag, "pictures": seen["pictures"], "received_mb": received[0] / 1e6,
                "long_tasks": len(seen["long"]), "long_tasks_ms": sum(seen["long"]), "longest_task_ms": max(seen["long"], default=0.0),
                "frames": len(frames), "frames_over_50_ms": sum(f > 50 for f in frames), "longest_frame_ms": max(frames),
                "server_cpu_s": time.process_time() - process, **{name: after[name] - before[name] for name in after},
                "main_thread_idle_s": idle["main_thread_s"],
            }
    print(f"  a reply of {TOKENS:,} tokens with calls at {PACE} tokens/s in both panes ({found['stream_s']:.0f} s):")
    for name, value in found.items():
        print(f"    {name:20} {value:.2f}" if isinstance(value, float) else f"    {name:20} {value}")
    return found


def metrics(wire: Any) -> dict[str, float]:
    """Seconds that the browser's main thread has worked so far, in all and by what it did."""
    names = {"ScriptDuration": "script_s", "LayoutDuration": "layout_s", "RecalcStyleDuration": "style_s", "TaskDuration": "main_thread_s"}
    return {names[one["name"]]: one["value"] for one in wire.send("Performance.getMetrics")["metrics"] if one["name"] in names}


# -- many browsers ----------------------------------------------------------------------------------


def many_browsers(turns: int) -> dict[str, Any]:
    """Ten browsers ask at once; then one after the other is closed while its answer streams."""
    from workbench.workspace import Workspace

    with embedded_root() as root, chromium() as browser:
        space = Workspace(root=root)
        space.jobs.load_model()
        with served(space) as url:
            pages = [browser.new_context().new_page() for _ in range(BROWSERS)]
            for page in pages:
                page.goto(url, wait_until="commit")  # all at once: what they then wait for is the same
            for page in pages:
                open_chat(page, url, SHORT)
            space.jobs.load_model().wait(PATIENCE)
            for number, page in enumerate(pages):
                page.locator("#prompt textarea").fill(f"Сколько у меня денег на счёте номер {number}?")
            begun = time.perf_counter()
            for page in pages:
                page.evaluate("document.querySelector('#send').click()")
            for page in pages:
                over(page)
            whole = time.perf_counter() - begun
            waited = sorted(page.evaluate("(seen.first - seen.clicked) / 1000") for page in pages)
            freed = []
            for page in pages[:5]:
                page.locator("#chat-settings > button").click()
                box = page.locator("#sampling-max-new-tokens input").first
                box.fill("2000")
                box.blur()
                ask(page, "Расскажи длинную историю")
                page.wait_for_function("seen.first !== null")
                closed = time.perf_counter()
                page.close()
                while space.engine.queue():
                    pages[-1].wait_for_timeout(5)
                freed.append(time.perf_counter() - closed)
    found = {"all_answered_s": whole, "waited_s": waited, "closed_to_idle": spread(freed)}
    print(f"  {BROWSERS} browsers at once, {SHORT} tokens in both panes: all answered after {whole:.1f} s; the first text after "
          f"{waited[0]:.1f} s for the first, {waited[-1]:.1f} s for the last, {statistics.mean(b - a for a, b in zip(waited, waited[1:], strict=False)):.1f} s apart")
    told("from closing a browser in mid-stream to the engine idle", found["closed_to_idle"])
    return found


if __name__ == "__main__":
    main()
