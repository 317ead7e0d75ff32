"""A page's chat through a reload."""

from __future__ import annotations

import json
import logging
import os

import pytest

from workbench.ui.chat import asking, panel, reload
from workbench.ui.chat.talk import Chat, Exchange, Piece, Side
from workbench.ui.words import chat as words
from workbench.workspace import Workspace


def a_chat(*texts: str) -> Chat:
    sides = [Side(pieces=[Piece(text, "stop token")]) for text in texts]
    return Chat([Exchange(f"request {i}", side, Side("a", "a", pieces=[Piece("x", "stop token")]), i + 1) for i, side in enumerate(sides)])


def test_the_page_that_comes_next_goes_on_with_the_chat_and_leaves_the_first_ones_alone(workspace: Workspace) -> None:
    before = a_chat("да", "нет")
    before.name = "kept"
    reload.write(workspace, "page1", before)
    after = reload.take_over(workspace, "page1", "page2")
    assert after is not None and after.exchanges == before.exchanges and after.name == "kept"
    after.cut(1)
    reload.write(workspace, "page2", after)
    again = reload.take_over(workspace, "page1", "page3")  # the tab was duplicated
    assert again is not None and len(again.exchanges) == 2
    assert {path.stem for path in (workspace.data_dir / "chats" / ".open").iterdir()} == {"page1", "page2", "page3"}


def test_what_was_being_written_is_marked_as_broken_off(workspace: Workspace) -> None:
    reload.write(workspace, "page1", Chat([Exchange("a", Side(pieces=[Piece("полов")]), Side("a", "a", pieces=[Piece("Да", "stop token"), Piece()]))]))
    chat = reload.take_over(workspace, "page1", "page2")
    assert chat is not None and chat.newest is not None and chat.newest.left is not None and chat.newest.right is not None
    assert [(p.ended, p.trouble) for p in chat.newest.left.pieces] == [("failed", words.PAGE_WENT)] and chat.newest.left.first.text == "полов"
    assert [p.ended for p in chat.newest.right.pieces] == ["stop token", "failed"]
    assert "Broken off" in panel.drawing(workspace)(chat, words.BASE, "a")[2]


def test_a_cleared_chat_leaves_nothing_and_kept_chats_are_told_without_the_open_ones(workspace: Workspace) -> None:
    chat = a_chat("да")
    reload.write(workspace, "page1", chat)
    chat.clear()
    reload.write(workspace, "page1", chat)
    reload.write(workspace, "page1", chat)  # nothing there is nothing to fail at
    assert reload.take_over(workspace, "page1", "page2") is None
    reload.write(workspace, "page3", a_chat("да"))
    assert panel.asking is asking and reload.kept.names(reload.folder_of(workspace)) == []


@pytest.mark.parametrize("before", ["", "never-was", "../../rows", "a/b", "x" * 200, "page9", "own"])
def test_there_is_nothing_to_go_on_with(workspace: Workspace, before: str) -> None:
    folder = reload.folder_of(workspace) / reload.OPEN
    folder.mkdir(parents=True)
    (folder / "page9.json").write_text('{"format": 1, "exchanges": [{"prompt": 3}]}')
    assert reload.take_over(workspace, before, "own") is None
    assert [path.name for path in folder.iterdir()] == ["page9.json"]


def test_a_disk_that_refuses_is_told_in_the_log_and_the_chat_goes_on(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    reload.folder_of(workspace).mkdir(parents=True)
    (reload.folder_of(workspace) / reload.OPEN).write_text("in the way")
    with caplog.at_level(logging.WARNING, "workbench"):
        reload.write(workspace, "page1", a_chat("да"))
        reload.write(workspace, "page1", Chat())
    assert caplog.text.count("The chat will not outlast a reload") >= 1 and "Traceback" not in caplog.text


def test_only_so_many_pages_are_remembered_the_newest(workspace: Workspace) -> None:
    for i in range(reload.MOST + 5):
        reload.write(workspace, f"page{i}", a_chat("да"))
        path = reload.folder_of(workspace) / reload.OPEN / f"page{i}.json"
        os.utime(path, (1000 + i, 1000 + i))
    assert reload.take_over(workspace, "page0", "new") is not None
    left = {path.stem for path in (reload.folder_of(workspace) / reload.OPEN).iterdir()}
    assert len(left) == reload.MOST and "new" in left and "page24" in left and "page0" not in left


def test_a_chat_is_written_down_when_it_is_asked_and_when_it_is_answered(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    chat, written = Chat(), []
    path = reload.folder_of(workspace) / reload.OPEN / "page.json"

    def going():  # type: ignore[no-untyped-def]
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
