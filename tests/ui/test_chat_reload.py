"""A page's chat through a reload."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from workbench.errors import DataError
from workbench.ui.chat import asking, keep_panel, kept, panel, reload
from workbench.ui.chat.talk import Chat, Exchange, Piece, Side
from workbench.ui.words import chat as words
from workbench.workspace import Workspace


def a_chat(*texts: str) -> Chat:
    sides = [Side(pieces=[Piece(text, "stop token")]) for text in texts]
    return Chat([Exchange(f"request {i}", side, Side("a", "a", pieces=[Piece("x", "stop token")]), i + 1) for i, side in enumerate(sides)])


def take(space: Workspace, before: str, page: str) -> Chat | None:
    chat = Chat()
    return chat if reload.take_over(space, before, page, chat) else None


def pages(space: Workspace) -> set[str]:
    return {path.stem for path in (space.chats_dir / reload.OPEN).iterdir()}


def test_the_page_that_comes_next_goes_on_with_the_chat(workspace: Workspace) -> None:
    before = a_chat("да", "нет")
    before.name, before.tries = "kept", 3
    reload.write(workspace, "page1", before)
    after = take(workspace, "page1", "page2")
    assert after is not None and after.exchanges == before.exchanges and (after.name, after.tries) == ("kept", 3)
    again = take(workspace, "page1", "page3")  # before the browser knew of page2, or in a tab that was duplicated
    assert again is not None and len(again.exchanges) == 2 and pages(workspace) == {"page1", "page2", "page3"}
    reload.write(workspace, "page2", after)
    assert pages(workspace) == {"page2", "page3"}, "who goes on needs the earlier page's file no more"
    after.clear()
    reload.write(workspace, "page2", after)
    assert pages(workspace) == {"page3"}


def test_a_chat_that_is_cleared_after_a_reload_stands_nowhere(workspace: Workspace) -> None:
    reload.write(workspace, "page1", a_chat("да"))
    chat = take(workspace, "page1", "page2")
    assert chat is not None
    chat.clear()
    reload.write(workspace, "page2", chat)
    reload.write(workspace, "page2", chat)  # nothing there is nothing to fail at
    assert pages(workspace) == set() and take(workspace, "page2", "page3") is None


def test_what_was_asked_before_the_earlier_chat_was_there_stands_behind_it(workspace: Workspace) -> None:
    reload.write(workspace, "page1", a_chat("да", "нет"))
    chat = Chat()
    chat.take_up(Exchange("asked at once", Side()))
    assert reload.take_over(workspace, "page1", "page2", chat)
    assert [(e.prompt, e.fresh) for e in chat.exchanges] == [("request 0", False), ("request 1", False), ("asked at once", True)]
    assert len({e.key for e in chat.exchanges}) == 3 and [e.prompt for e in chat.current()] == ["asked at once"]
    assert chat.newest is not None and chat.newest.left is not None and not chat.newest.left.first.done, "it is still being answered"


def test_what_was_being_written_is_marked_as_broken_off(workspace: Workspace) -> None:
    reload.write(workspace, "page1", Chat([Exchange("a", Side(pieces=[Piece("полов")]), Side("a", "a", pieces=[Piece("Да", "stop token"), Piece()]))]))
    chat = take(workspace, "page1", "page2")
    assert chat is not None and chat.newest is not None and chat.newest.left is not None and chat.newest.right is not None
    assert [(p.ended, p.trouble) for p in chat.newest.left.pieces] == [("failed", words.PAGE_WENT)] and chat.newest.left.first.text == "полов"
    assert [p.ended for p in chat.newest.right.pieces] == ["stop token", "failed"]
    assert "Broken off" in panel.drawing(workspace)(chat, words.BASE, "a")[2]


def test_open_chats_are_not_among_the_kept_ones(workspace: Workspace) -> None:
    reload.write(workspace, "page3", a_chat("да"))
    assert kept.names(workspace.chats_dir) == []


@pytest.mark.parametrize("before", ["", "never-was", "../../rows", "a/b", "x" * 200, "own"])
def test_there_is_nothing_to_go_on_with(workspace: Workspace, before: str) -> None:
    reload.write(workspace, "own", a_chat("да"))
    assert take(workspace, before, "own") is None and pages(workspace) == {"own"}


def test_a_file_that_can_t_be_read_is_named_and_stays(workspace: Workspace) -> None:
    path = workspace.chats_dir / reload.OPEN / "page9.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"format": 1, "exchanges": [{"prompt": 3}]}')
    with pytest.raises(DataError, match=r"The file \.open/page9\.json is no chat"):
        take(workspace, "page9", "own")
    assert pages(workspace) == {"page9"}


@pytest.mark.parametrize("name", ["../../evil", "/etc/x", 3, None, ["a"]])
def test_a_name_in_a_file_becomes_no_path(workspace: Workspace, name: Any) -> None:
    reload.write(workspace, "page1", a_chat("да"))
    path = workspace.chats_dir / reload.OPEN / "page1.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"name": name, "tries": "x"}))
    chat = take(workspace, "page1", "page2")
    assert chat is not None and (chat.name, chat.tries) == ("", 0)


def test_a_disk_that_refuses_is_told_in_the_log_and_the_chat_goes_on(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    workspace.chats_dir.mkdir(parents=True)
    (workspace.chats_dir / reload.OPEN).write_text("in the way")
    with caplog.at_level(logging.WARNING, "workbench"):
        reload.write(workspace, "page1", a_chat("да"))
        reload.write(workspace, "page1", Chat())
    assert caplog.text.count("The chat will not outlast a reload") == 2 and "Traceback" not in caplog.text


def test_pages_long_gone_are_let_go_of_by_number_and_by_age(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "MOST", 10)
    folder, now = workspace.chats_dir / reload.OPEN, time.time()
    for i in range(15):
        reload.write(workspace, f"page{i}", a_chat("да"))
        os.utime(folder / f"page{i}.json", (now - 1000 + i, now - 1000 + i))
    assert pages(workspace) == {f"page{i}" for i in range(5, 15)}
    for i in range(5, 14):
        os.utime(folder / f"page{i}.json", (now - 8 * 86400, now - 8 * 86400))
    reload.write(workspace, "page14", a_chat("да"))
    assert len(pages(workspace)) == 10, "a page that is known already does not look"
    reload.write(workspace, "new", a_chat("да"))
    assert pages(workspace) == {"page14", "new"}


def test_a_chat_is_written_down_when_it_is_asked_and_when_it_is_answered(workspace: Workspace) -> None:
    chat, written = Chat(), []
    path = workspace.chats_dir / reload.OPEN / "page.json"

    def going() -> Iterator[None]:
        written.append(json.loads(path.read_text())["exchanges"][0]["left"]["pieces"][0]["text"])
        yield
        assert chat.newest is not None and chat.newest.left is not None
        chat.newest.left.pieces = [Piece("да", "stop token")]
        yield

    chat.take_up(Exchange("a", Side(pieces=[Piece("")])))
    asked = asking.Asked(workspace, chat, chat.exchanges[0], asking.Manner(), "page")
    for _ in panel.answering(workspace, asking.Desk(), panel.drawing(workspace))("page", chat, words.BASE, None, lambda: (asked, going(), "")):
        pass
    assert written == [""] and json.loads(path.read_text())["exchanges"][0]["left"]["pieces"][0]["text"] == "да"


def test_an_answer_to_a_chat_that_was_cleared_writes_nothing_more(workspace: Workspace) -> None:
    chat, desk = a_chat("да"), asking.Desk()
    asked = asking.Asked(workspace, chat, chat.exchanges[0], asking.Manner(), "page")
    steps = panel.answering(workspace, desk, panel.drawing(workspace))("page", chat, words.BASE, None, lambda: (asked, (None for _ in range(3)), ""))
    next(steps)
    desk.leave("page")
    other = a_chat("another")
    reload.write(workspace, "page", other)
    list(steps)
    found = take(workspace, "page", "next")
    assert found is not None and found.exchanges == other.exchanges


def test_the_server_s_own_thread_does_not_wait_for_the_disk(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    by: list[threading.Thread] = []
    monkeypatch.setattr(reload, "write", lambda *given: by.append(threading.current_thread()))
    reload.write_aside(workspace, "page", Chat())
    assert by == [threading.current_thread()]

    async def closed() -> None:
        reload.write_aside(workspace, "page", Chat())

    asyncio.run(closed())
    for thread in threading.enumerate():
        if thread.name == "chat-written":
            thread.join(10)
    assert len(by) == 2 and by[1] is not threading.current_thread()


# -- beside the panel that keeps chats ----------------------------------------------------------------


@pytest.fixture
def pressed(workspace: Workspace) -> Callable[..., Any]:
    """Calls what the button of an id does, for the page "page"; with `busy` while something goes on for it."""
    now = {"busy": False}
    with gr.Blocks() as page:
        made, _, _ = panel.build(workspace, [], lambda: None)
        keep_panel.build(workspace, replace(made, busy=lambda name: name == "page" and now["busy"]))

    def press(button: str, *values: Any, busy: bool = False) -> Any:
        now["busy"] = busy
        (act,) = [fn.fn for fn in page.fns.values() if fn.fn and any(at in page.blocks and page.blocks[at].elem_id == button for at, _ in fn.targets)]
        return act(SimpleNamespace(session_hash="page"), *values)

    return press


def test_a_deleted_chat_s_name_does_not_come_back(workspace: Workspace, pressed: Callable[..., Any]) -> None:
    chat = a_chat("да")
    assert "Kept as" in pressed("chat-keep-save", chat, "x")[0]
    assert (found := take(workspace, "page", "next")) is not None and found.name == "x"
    sure = pressed("chat-kept-delete", chat, "x", None)[-1]
    assert "was deleted" in pressed("chat-kept-delete", chat, "x", sure)[0]
    assert (found := take(workspace, "page", "next2")) is not None and found.name == ""


def test_no_chat_is_opened_over_one_that_goes_on_and_an_opened_one_outlasts_a_reload(workspace: Workspace, pressed: Callable[..., Any]) -> None:
    pressed("chat-keep-save", a_chat("да"), "x")
    chat = a_chat("other", "chat")
    assert words.STILL_GOING in pressed("chat-keep-open", chat, words.BASE, None, "x", busy=True)[0]
    assert "Opened x" in pressed("chat-keep-open", chat, words.BASE, None, "x")[0]
    assert (found := take(workspace, "page", "next")) is not None and (found.name, len(found.exchanges)) == ("x", 1)


def test_a_chat_can_be_copied_for_each_page() -> None:
    chat = copy.deepcopy(a_chat("да"))
    chat.take_up(Exchange("more"))
    assert [exchange.key for exchange in chat.exchanges] == [1, 2]
