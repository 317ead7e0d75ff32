"""The Chat tab in Chromium: several turns with the real model, and everything a hostile model could write, from a scripted engine."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import App, free_port
from workbench.calls.dialects import TAG
from workbench.engine.client import Ticket
from workbench.engine.messages import AnswerJob, TogetherJob
from workbench.schema import Example, Message, ToolCall, ToolSpec
from workbench.settings import RunSettings
from workbench.training import events
from workbench.training.call_form import CallRecord
from workbench.training.merged import MergedRecord
from workbench.ui.theme import CSS, theme
from workbench.ui.words import chat as words
from workbench.ui.workbench import build
from workbench.workspace import Workspace

pytestmark = pytest.mark.browser

PAWN = "document.title='pwned'"
CALL = TAG.render(ToolCall("get_sensitive_data"))


def open_chat(page: Page) -> None:
    page.get_by_role("tab", name="4 Chat").click()
    expect(page.locator("#prompt textarea")).to_be_visible()


def say(page: Page, text: str) -> None:
    """Send a request; while the last answer is not over yet it is refused and stays in the box."""
    page.locator("#prompt textarea").fill(text)
    for _ in range(30):
        page.locator("#send").click()
        page.wait_for_timeout(1000)
        if not page.locator("#prompt textarea").input_value():
            return
    pytest.fail(f"{text!r} was not taken: {page.locator('#pane-change').inner_text()}")


def setting(page: Page, name: str, value: str) -> None:
    box = page.locator(f"#{name} input, #{name} textarea").first
    if not box.is_visible():
        page.locator("#chat-settings > button").click()
    box.fill(value)
    box.blur()


def replies(page: Page, pane: str = "left") -> Any:
    return page.locator(f"#pane-{pane} .wb-foot .wb-chip")


# -- the real model -----------------------------------------------------------------------------------


def test_several_turns_again_edited_kept_and_exported(app: App, page: Page) -> None:
    open_chat(page)
    setting(page, "sampling-max-new-tokens", "12")
    page.locator("#chat-settings > button").click()
    say(page, "Привет")
    expect(replies(page)).to_have_count(1, timeout=120_000)
    expect(page.locator("#pane-left .wb-foot")).to_contain_text("tokens/s")
    expect(page.locator("#pane-right")).to_contain_text("Not asked: no voice was chosen for this pane")
    say(page, "Как дела?")
    expect(replies(page)).to_have_count(2, timeout=120_000)
    expect(page.locator("#pane-left .wb-ask")).to_have_count(2)

    for _ in range(30):  # while the last answer is not over yet this is refused
        page.locator("#chat-again").click()
        page.wait_for_timeout(1000)
        if "Greedy decoding gives the same reply again" in page.locator("#pane-change").inner_text():
            break
    else:
        pytest.fail("it was not answered again")
    expect(replies(page)).to_have_count(2, timeout=120_000)
    expect(page.locator("#header")).to_contain_text("ready", timeout=60_000)

    page.locator("#pane-left .wb-edit").first.click()
    expect(page.locator("#prompt textarea")).to_have_value("Привет")
    expect(page.locator("#pane-change")).to_contain_text("Sending replaces message 1")
    say(page, "Здравствуйте")
    expect(page.locator("#pane-left .wb-ask")).to_have_count(1, timeout=60_000)
    expect(replies(page)).to_have_count(1, timeout=120_000)
    expect(page.locator("#header")).to_contain_text("ready", timeout=60_000)

    page.locator("#chat-keep > button").click()
    page.locator("#chat-keep-name input, #chat-keep-name textarea").first.fill("первый")
    page.locator("#chat-keep-save").click()
    expect(page.locator("#chat-keep-message")).to_contain_text("Kept as data/chats/первый.json.")
    kept = json.loads((app.root / "data" / "chats" / "первый.json").read_text())
    assert [exchange["prompt"] for exchange in kept["exchanges"]] == ["Здравствуйте"]
    with page.expect_download() as download:
        page.locator("#chat-export-html").click()
    exported = Path(download.value.path()).read_text()
    assert "Здравствуйте" in exported and "<script" not in exported

    page.locator("#clear-chat").click()
    expect(page.locator("#pane-left .wb-turn")).to_have_count(0)
    page.locator("#chat-kept input").click()
    page.get_by_role("option", name="первый").click()
    page.locator("#chat-keep-open").click()
    expect(page.locator("#pane-left .wb-ask")).to_contain_text("Здравствуйте")


def test_a_closed_browser_frees_the_engine_at_once(app: App, page: Page, chromium: Browser) -> None:
    other = chromium.new_page()
    other.goto(app.url)
    open_chat(other)
    setting(other, "sampling-max-new-tokens", "8000")
    say(other, "Расскажи очень длинную историю")
    expect(other.locator("#pane-left .wb-reply")).to_be_visible(timeout=120_000)
    expect(page.locator("#header")).to_contain_text("an answer")
    other.close()
    expect(page.locator("#header")).to_contain_text("ready", timeout=30_000)


# -- a scripted engine --------------------------------------------------------------------------------


class Script:
    """Answers `AnswerJob`s, also two together, from a list, a lane each, in growing pieces."""

    def __init__(self, space: Workspace) -> None:
        self.replies: list[tuple[str, ...]] = []
        self.pieces = 3
        space.engine.submit = self.submit  # type: ignore[method-assign]
        self.stopped: list[Ticket] = []
        self.jobs: list[AnswerJob] = []

    def submit(self, job: Any, label: str) -> Ticket:
        assert isinstance(job, AnswerJob | TogetherJob)
        self.jobs += job.parts if isinstance(job, TogetherJob) else (job,)
        ticket = Ticket(1, job, label, begun=time.time(), progress="answering")
        threading.Thread(target=self._answer, args=(ticket, self.replies.pop(0)), daemon=True).start()
        return ticket

    def _answer(self, ticket: Ticket, texts: tuple[str, ...]) -> None:
        for piece in range(1, self.pieces):
            ticket.texts = tuple(text[: len(text) * piece // self.pieces] for text in texts)
            ticket.touch()
            time.sleep(0.25)
        told = [{"text": text, "tokens": 9, "seconds": 1.0, "first_token_seconds": 0.1, "ended": "stop token"} for text in texts]
        parts = ticket.job.parts if isinstance(ticket.job, TogetherJob) else (ticket.job,)
        replies = iter(told)
        results = [{"replies": [next(replies) for _ in part.lanes], "adapter_difference": 4.0 if part.run else None} for part in parts]  # type: ignore[union-attr]
        ticket.result = {"parts": results} if len(results) > 1 else results[0]
        ticket.finished.set()
        ticket.touch()


@pytest.fixture
def scripted(tmp_path: Path, new_workspace: Any, chromium: Browser) -> Iterator[tuple[Page, Script, Workspace]]:
    """A page at the Chat tab of a workbench with the adapter "a"; any script error of the page fails the test."""
    space = new_workspace(tmp_path / "workbench")
    rows = (Example((Message("user", "Баланс?"), Message("assistant", CALL))),)
    space.runs.create("a", model="demo", model_name="m", rows=rows, data_name="d", settings=RunSettings())
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        (space.runs.path("a") / file).write_text("{}")
    space.runs.append("a", events.Ended(state="finished", step=1))
    script, port = Script(space), free_port()
    blocks = build(space)
    blocks.queue(default_concurrency_limit=40).launch(
        server_name="127.0.0.1", server_port=port, theme=theme(), css=CSS, share=False, quiet=True, prevent_thread_lock=True, footer_links=[], ssr_mode=False,
    )  # fmt: skip
    context = chromium.new_context(viewport={"width": 1280, "height": 720})
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=f"http://127.0.0.1:{port}")
    page = context.new_page()
    faults: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.set_default_timeout(20_000)
    page.goto(f"http://127.0.0.1:{port}")
    open_chat(page)
    expect(page.locator("#chat-right input")).to_have_value("a")
    yield page, script, space
    assert faults == [] and page.title() != "pwned"
    assert not [url for url in asked if "evil.example" in url]
    context.close()
    blocks.close(verbose=False)


HOSTILE = [
    f'<img src=x onerror="{PAWN}"><script>{PAWN}</script><svg onload="{PAWN}"></svg><a href="javascript:{PAWN}">press</a><iframe src="https://evil.example/1"></iframe>',
    "![picture](https://evil.example/2.png) [link](javascript:alert(1)) <style>body{display:none}</style>",
    f"${{{PAWN}}} {{{{{PAWN}}}}} <%= {PAWN} %> {{@html '<img src=https://evil.example/3>'}} </div></div></div><h1>out</h1>",
    "\x1b[31mred\x1b[2J\x1b]0;pwned\x07 a\u200bb \u202egnp.exe\u202c \ufeff \u2066iso\u2069",
]


def test_nothing_that_a_model_writes_acts_on_the_page(scripted: tuple[Page, Script, Workspace]) -> None:
    page, script, _ = scripted
    call = TAG.render(ToolCall("get_sensitive_data", {"city": HOSTILE[0], HOSTILE[1]: HOSTILE[2]}))
    for i, text in enumerate([*HOSTILE, call, "<tool_call name=" + HOSTILE[0]]):
        script.replies = [(text, text)]
        say(page, text.replace("\x1b", "") if i < 3 else "Ещё")
        expect(replies(page, "right").filter(has_text="call")).to_have_count(i + 1, timeout=30_000)
    page.wait_for_timeout(500)
    shown = page.locator(".wb-chatpane")
    assert [shown.locator(tag).count() for tag in ("img", "script", "svg:not(button svg)", "iframe", "style", "h1", "a")] == [0] * 7
    assert page.locator("#prompt textarea").is_visible(), "a style of the model's would have hidden it"
    expect(shown.first).to_contain_text("U+202E")
    expect(shown.first).to_contain_text("U+001B")
    expect(shown.first).to_contain_text("“city” is none of the tool's arguments")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_megabyte_without_a_space_is_cut_and_the_page_lives(scripted: tuple[Page, Script, Workspace]) -> None:
    page, script, _ = scripted
    script.replies = [("ж" * 2**20, "Да"), ("Один", "Два")]
    say(page, "Длинно")
    expect(page.locator("#pane-left")).to_contain_text("1,028,576 more characters are not shown here", timeout=60_000)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    say(page, "Дальше")
    expect(replies(page, "right")).to_have_count(4, timeout=30_000)  # each with the adapter's badge


def test_a_call_with_ten_thousand_arguments_is_shown_in_part(scripted: tuple[Page, Script, Workspace]) -> None:
    page, script, _ = scripted
    script.replies = [("Да", TAG.render(ToolCall("get_sensitive_data", {f"a{i}": i for i in range(10_000)})))]
    say(page, "Много")
    expect(page.locator("#pane-right")).to_contain_text("9,940 more arguments are not shown here", timeout=60_000)
    expect(page.locator("#pane-right .wb-call")).to_contain_text("not valid")


def test_a_call_is_copied_run_answered_and_what_fails_is_settled_on_the_list(scripted: tuple[Page, Script, Workspace]) -> None:
    page, script, space = scripted
    spec = ToolSpec("get_sensitive_data", "", {"type": "object", "properties": {}, "additionalProperties": False}, f"<img src=x onerror={PAWN}> 12 ₽")
    space.tools.save(spec, space.tools.read().version)
    script.replies = [("Не знаю", CALL), ("У вас 12 ₽",), ("Да", "<tool_call name=")]
    say(page, "Баланс?")
    run = page.locator("#pane-right [data-run]")
    expect(run).to_be_visible(timeout=30_000)
    expect(page.locator("#pane-change")).to_contain_text("learned to call")
    page.locator("#pane-right [data-copy]").click()
    expect(page.locator("#pane-right [data-copy]")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == CALL
    run.click()
    expect(page.locator("#pane-right")).to_contain_text("get_sensitive_data answered", timeout=30_000)
    expect(page.locator("#pane-right")).to_contain_text("У вас 12 ₽", timeout=30_000)
    assert page.locator("#pane-right img").count() == 0
    expect(page.locator("#header")).to_contain_text("not loaded")

    page.wait_for_timeout(500)
    say(page, "Ещё")
    expect(page.locator("#pane-right")).to_contain_text("needs a human", timeout=30_000)
    panel = page.locator("#chat-human")
    expect(panel).to_contain_text("Needs a human (1)", timeout=20_000)
    panel.locator("button").first.click()
    panel.get_by_role("button", name="I have looked at it").click()
    expect(panel).to_contain_text("Taken off the list.")
    expect(panel).to_contain_text("Nothing waits")
    assert space.review.waiting() == []


def test_an_adapter_that_is_deleted_in_mid_chat_is_named(scripted: tuple[Page, Script, Workspace]) -> None:
    page, script, space = scripted
    script.replies = [("Да", "Нет")]
    say(page, "Привет")
    expect(page.locator("#pane-right .wb-reply")).to_contain_text("Нет", timeout=30_000)
    expect(replies(page)).to_have_count(1)
    page.wait_for_timeout(500)
    space.runs.remove("a")
    page.locator("#prompt textarea").fill("Ещё?")
    page.locator("#send").click()
    expect(page.locator("#pane-change")).to_contain_text("The adapter a is not there any more", timeout=20_000)
    expect(page.locator("#prompt textarea")).to_have_value("Ещё?")
    expect(page.locator("#pane-right .wb-reply")).to_contain_text("Нет")


def test_a_chat_outlasts_a_reload_also_in_mid_answer_and_belongs_to_its_tab(scripted: tuple[Page, Script, Workspace]) -> None:
    page, script, _ = scripted
    script.replies = [("Да", CALL), ("Один", "Два")]
    say(page, "Баланс?")
    expect(page.locator("#pane-right [data-run]")).to_be_visible(timeout=30_000)
    page.wait_for_timeout(500)
    page.reload()
    open_chat(page)
    expect(page.locator("#pane-left .wb-ask")).to_have_text(["EditБаланс?"])
    expect(page.locator("#pane-right .wb-call")).to_be_visible()
    expect(page.locator("#pane-change")).to_contain_text("learned to call")
    expect(page.locator("#pane-change")).to_contain_text(words.WENT_ON)
    expect(page.locator("#chat-right input")).to_have_value("a")

    script.pieces = 40  # ten seconds
    say(page, "Ещё?")
    expect(page.locator("#pane-left .wb-ask")).to_have_count(2)
    page.reload()
    open_chat(page)
    expect(page.locator("#pane-left .wb-turn").last).to_contain_text(words.PAGE_WENT)
    expect(page.locator("#pane-left .wb-ask")).to_have_count(2)

    other = page.context.new_page()
    other.goto(page.url)
    open_chat(other)
    expect(other.locator("#pane-left .wb-empty")).to_be_visible()
    other.close()
    page.locator("#clear-chat").click()
    expect(page.locator("#pane-left .wb-turn")).to_have_count(0)
    page.reload()
    open_chat(page)
    page.wait_for_timeout(500)
    expect(page.locator("#pane-left .wb-turn")).to_have_count(0)
    expect(page.locator("#pane-left .wb-empty")).to_be_visible()


def merged_model(space: Workspace) -> None:
    """A folder that the catalog takes for a merged model; the scripted engine loads nothing."""
    folder = space.catalog.models_dir / "mine"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text("")
    (folder / "merged.json").write_text(MergedRecord(adapter="a", base="m", calls=CallRecord(dialect="tag")).model_dump_json())


def test_a_merged_model_is_chosen_answers_is_deleted_and_named_as_gone(scripted: tuple[Page, Script, Workspace]) -> None:
    page, script, space = scripted
    merged_model(space)
    script.replies = [("Да", "Нет")]
    page.locator("#chat-left input").click()
    page.get_by_role("option", name="merged: mine").click()
    expect(page.locator("#pane-left .wb-voice")).to_have_text("Merged · mine")
    expect(page.locator("#prompt").get_by_text("Your message")).to_be_visible()
    page.get_by_label("Your message").fill("Привет")
    page.locator("#send").click()
    expect(page.locator("#pane-left .wb-reply")).to_have_text("Да", timeout=30_000)
    expect(page.locator("#pane-right .wb-reply")).to_have_text("Нет", timeout=30_000)
    expect(page.locator("#chat-left input")).to_have_value("merged: mine")
    page.locator("#chat-merge > button").click()
    remove = page.get_by_label("Delete the merged model mine")
    remove.click()
    expect(page.locator("#chat-merge-message")).to_contain_text("Press again to delete the merged model mine for good")
    expect(remove).to_have_text("Sure? Delete it")
    remove.click()
    expect(page.locator("#chat-merge-message")).to_contain_text("The merged model mine was deleted")
    expect(page.locator("#chat-merged")).to_contain_text("No merged models yet.")
    expect(page.locator("#pane-change")).to_contain_text("The merged model mine is not there any more", timeout=20_000)
    assert not (space.catalog.models_dir / "mine").exists()
    page.locator("#chat-merge-name input, #chat-merge-name textarea").first.fill("../x")
    page.locator("#chat-merge-begin").click()
    expect(page.locator("#chat-merge-message")).to_contain_text("can't be used: take 1 to 64 letters")


def test_a_prompt_of_the_deck_begins_a_new_conversation_and_a_kept_chat_is_deleted(scripted: tuple[Page, Script, Workspace]) -> None:
    page, script, space = scripted
    script.replies = [("Да", "Нет"), ("Один", "Два"), ("Три", "Четыре")]
    asked = script.jobs
    say(page, "Привет")
    expect(replies(page)).to_have_count(1, timeout=30_000)
    page.wait_for_timeout(500)
    deck = page.locator("#demo-0").inner_text()
    page.locator("#demo-0").click()
    expect(replies(page)).to_have_count(2, timeout=30_000)
    expect(page.locator("#pane-left .wb-fresh")).to_have_text("New conversation: the models are not told what stands above.")
    expect(page.locator("#pane-left .wb-turn.old")).to_contain_text("Привет")
    page.wait_for_timeout(500)
    say(page, "Ещё?")
    expect(replies(page)).to_have_count(3, timeout=30_000)
    assert [[turn["content"] for turn in job.prompts[0]] for job in asked] == [["Привет"], [deck], [deck, "Один", "Ещё?"]]

    page.wait_for_timeout(500)
    page.locator("#chat-keep > button").click()
    page.locator("#chat-keep-name input, #chat-keep-name textarea").first.fill("первый")
    page.locator("#chat-keep-save").click()
    expect(page.locator("#chat-keep-message")).to_contain_text("Kept as data/chats/первый.json.")
    page.locator("#chat-kept-delete").click()
    expect(page.locator("#chat-keep-message")).to_contain_text("Press again to delete the kept chat первый. What is on the screen stays.")
    expect(page.locator("#chat-kept-delete")).to_have_text("Sure? Delete it")
    assert (space.data_dir / "chats" / "первый.json").is_file()
    page.locator("#chat-kept-delete").click()
    expect(page.locator("#chat-keep-message")).to_contain_text("The kept chat первый was deleted. It stays in the bin")
    expect(page.locator("#chat-kept-delete")).to_have_text("Delete")
    assert not (space.data_dir / "chats" / "первый.json").exists() and list(space.data_dir.glob("chats/.trash/*/первый.json"))
    expect(page.locator("#pane-left .wb-ask")).to_have_count(3)
    page.locator("#chat-kept-delete").click()
    expect(page.locator("#chat-keep-message")).to_contain_text("Choose a kept chat first.")
