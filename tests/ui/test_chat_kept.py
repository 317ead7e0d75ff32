"""Chats in files and exports, and the list of answers that a person must look at."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from workbench.calls.dialects import TAG
from workbench.calls.loop import Failed, FellBack, Ran, Refused, Said
from workbench.errors import DataError, InputError, WorkbenchError
from workbench.schema import ToolCall
from workbench.ui.chat import human_panel, keep_panel, kept, shown
from workbench.ui.chat.talk import Chat, Exchange, Piece, Side
from workbench.ui.words import chat as words
from workbench.workspace import Workspace

CALL = ToolCall("get_weather", {"city": "Тверь", "days": [1, 2]})
HOSTILE = '<script>alert(1)</script><img src=x onerror=alert(1)>"\'&\u202e\x1b[2J\ud800 ![x](http://127.0.0.1/x)'


def a_chat() -> Chat:
    steps = (
        Said(TAG.render(CALL), "tool call", 0.5), Ran(CALL, "12°", False, 0.1), Refused(CALL, ("a", "b")), Failed(CALL, "x", 0.2), FellBack("why", "sorry"),
    )  # fmt: skip
    right = Side("a", "a", pieces=[Piece(TAG.render(CALL), "stop token", 4, 0.5, 0.1, 96), Piece("12°", "length", limit=96)], steps=steps, loop="needs a human", moved=3.5)
    right.confirmed.add("k")
    right.pieces[0].changed, right.pieces[0].changes = 1, (("x", "y"),)
    return Chat([Exchange("Погода?", Side(pieces=[Piece("Не знаю", "stop token")]), right, 1), Exchange("Ещё?", None, None, 2)])


def test_each_reply_says_whose_it_is_since_a_pane_may_have_another_voice_by_now() -> None:
    for voice, said in (("", "Base"), ("a<b", "a&lt;b"), ("merged:m", "merged: m")):
        assert f"<span><b>{said}</b> · 4 tokens" in shown.side_html(Side(voice, pieces=[Piece("x", "stop token", 4, 1.0)]), {})
    assert "<b>" not in shown.side_html(Side("a", pieces=[Piece("wri")]), {}) + shown.side_html(Side("a", pieces=[Piece("x", "failed", trouble="It broke.")]), {})


def test_a_tool_that_answers_at_once_took_no_nought_seconds() -> None:
    times = [("0.03", "(in less than 0.1 s)"), ("0.1", "(0.1 s)"), ("2.26", "(2.3 s)")]
    for seconds, said in times:
        side = Side("a", "a", pieces=[Piece("x", "stop token")], steps=(Said("x", "tool call", 0.5), Ran(CALL, "12°", False, float(seconds))))
        assert said in shown.side_html(side, {})


def test_a_chat_comes_back_as_it_was(tmp_path: Path) -> None:
    before = a_chat()
    assert kept.keep(tmp_path / "chats", " мой-чат ", before, "m") == "мой-чат"
    after = kept.read(tmp_path / "chats", "мой-чат")
    assert after.exchanges == before.exchanges and after.name == "мой-чат" and [e.key for e in after.exchanges] == [1, 2]
    assert [type(step) for step in after.exchanges[0].right.steps] == [Said, Ran, Refused, Failed, FellBack]  # type: ignore[union-attr]


def test_another_chat_does_not_overwrite_a_kept_one_and_its_own_does(tmp_path: Path) -> None:
    first = a_chat()
    kept.keep(tmp_path, "one", first, "m")
    with pytest.raises(InputError, match="There is a kept chat one already"):
        kept.keep(tmp_path, "one", a_chat(), "m")
    first.cut(1)
    kept.keep(tmp_path, "one", first, "m")
    assert len(kept.read(tmp_path, "one").exchanges) == 1 and kept.names(tmp_path) == ["one"]


@pytest.mark.parametrize("name", ["../x", "", ".hidden", "a/b", "con"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="can't be used"):
        kept.keep(tmp_path, name, a_chat(), "m")
    with pytest.raises(InputError, match="can't be used"):
        kept.read(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", [
    "", "[]", "{}", '{"format": 2, "exchanges": []}', '{"format": 1, "exchanges": [{"prompt": 1}]}', '{"format": 1, "exchanges": 7}', "[" * 100_000,
    '{"format": 1, "exchanges": [{"prompt": "x", "left": {"dialect_name": "nope"}}]}', '{"format": 1, "exchanges": [{"prompt": "x", "left": {"pieces": []}}]}',
])
def test_a_file_that_is_no_chat_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=r"x\.json is no chat that can be opened"):
        kept.read(tmp_path, "x")
    with pytest.raises(DataError, match="There is no kept chat 'y'"):
        kept.read(tmp_path, "y")


def test_a_deleted_chat_goes_to_the_bin_and_its_name_is_free(tmp_path: Path) -> None:
    kept.keep(tmp_path, "one", a_chat(), "m")
    assert kept.delete(tmp_path, " one ") == "one" and kept.names(tmp_path) == []
    assert [path.name for path in tmp_path.glob(".trash/*/*")] == ["one.json"]
    kept.keep(tmp_path, "one", a_chat(), "m")
    kept.delete(tmp_path, "one")
    with pytest.raises(DataError, match="There is no kept chat 'one' any more"):
        kept.delete(tmp_path, "one")
    with pytest.raises(InputError, match="can't be used"):
        kept.delete(tmp_path, "../one")
    assert len(list(tmp_path.glob(".trash/*/one.json"))) == 2


def test_a_chat_keeps_where_a_new_conversation_began(tmp_path: Path) -> None:
    chat = a_chat()
    chat.take_up(Exchange("Заново", Side(pieces=[Piece("Да", "stop token")]), fresh=True))
    kept.keep(tmp_path, "one", chat, "m")
    found = kept.read(tmp_path, "one")
    assert [exchange.prompt for exchange in found.current()] == ["Заново"] and words.NEW_CONVERSATION in kept.chat_html(found, "m", {})


class Seen(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_the_page_of_a_chat_holds_no_script_and_needs_nothing_from_elsewhere(workspace: Workspace) -> None:
    side = Side("a", "a", pieces=[Piece(HOSTILE, "stop token", trouble=HOSTILE)], steps=(Said("", "no tool call", 0.0), Ran(CALL, HOSTILE, False, 0.0), FellBack(HOSTILE, HOSTILE)))
    chat = Chat([Exchange(HOSTILE, side, Side(pieces=[Piece(TAG.render(CALL), "stop token")]))])
    page = kept.chat_html(chat, HOSTILE, {})
    seen = Seen(page)
    assert seen.found.isdisjoint({"script", "img", "iframe", "link", "a", "form"})
    assert not [name for name in seen.attributes if name.startswith("on") or name in ("src", "href")]
    assert "default-src 'none'" in page and "url(" not in page and "@import" not in page
    assert 'data-run="' not in page and 'data-do="' not in page and "get_weather" in page
    assert json.loads(kept.chat_json(chat, HOSTILE))["exchanges"][0]["prompt"].startswith("<script>")


def test_an_export_is_made_of_a_whole_chat_only(workspace: Workspace) -> None:
    with pytest.raises(InputError, match="nothing to keep"):
        keep_panel.export(workspace, Chat(), "json")
    with pytest.raises(InputError, match="still being written"):
        keep_panel.export(workspace, Chat([Exchange("x", Side(pieces=[Piece("wri")]))]), "html")
    path = Path(keep_panel.export(workspace, a_chat(), "html"))
    assert path.name == "chat.html" and "Погода?" in path.read_text()


def test_the_list_for_a_person_shows_why_and_lets_nothing_act(workspace: Workspace) -> None:
    for i in range(human_panel.LISTED + 2):
        workspace.review.add(f"{i} {HOSTILE}", (HOSTILE, "<tool_call name="), HOSTILE, adapter="a", dialect="nope")
    html = human_panel.list_html(workspace.review.waiting())
    seen = Seen(html)
    assert html.count('data-do="settle"') == human_panel.LISTED and "2 more are shown" in html
    assert seen.found.isdisjoint({"script", "img"}) and not [name for name in seen.attributes if name.startswith("on")]
    workspace.review.settle(workspace.review.waiting()[0].key)
    with pytest.raises(WorkbenchError):
        workspace.review.settle("gone")
    assert "Nothing waits" in human_panel.list_html([])


def test_the_trace_is_shown_between_the_replies() -> None:
    html = shown.exchange_html(a_chat().exchanges[0], 1, {})
    places = [html.index(words) for words in ("get_weather answered", "was not run", "gave no answer", "sorry", "cut at the length limit of 96 tokens")]
    assert places == sorted(places) and "bound calls: changed in 1 place(s): “x” became “y”" in html
