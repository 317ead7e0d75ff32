"""A chat's reply as a row of the set: only what the model really said to its end."""

from __future__ import annotations

import pytest

from workbench.errors import InputError
from workbench.ui import chat_tab, words
from workbench.ui.chat_tab import Exchange, Side
from workbench.workspace import Workspace

ASKED = "Как звали кота у Буратино?"


def side(text: str, ended: str) -> Side:
    return Side(text, done=True, judged=ended in ("stop token", "length"), whole=ended == "stop token")


@pytest.mark.parametrize("should", ["call", "text"])
@pytest.mark.parametrize("last", [
    [], [Exchange(ASKED, None, Side())], [Exchange(ASKED, None, side("Кота зв", "stopped"))],
    [Exchange(ASKED, "r", side("Базилио.", "stop token"), side("Кота зв", "stopped"))],
])
def test_a_reply_that_is_not_whole_becomes_no_row(workspace: Workspace, last: list[Exchange], should: str) -> None:
    with pytest.raises(InputError) as caught:
        chat_tab.row_from(workspace, last, should)
    assert str(caught.value) == words.NO_REPLY_YET
    assert len(workspace.rows.read().rows) == 70


def test_a_text_cut_at_its_length_limit_is_no_answer_but_a_call_may_follow_it(workspace: Workspace) -> None:
    cut = Exchange(ASKED, None, side("Кота звали и звали и", "length"))
    with pytest.raises(InputError, match="no whole reply yet"):
        chat_tab.row_from(workspace, [cut], "text")
    rows, _ = chat_tab.row_from(workspace, [cut], "call")
    assert rows.rows[-1].answer.content == '<tool_call name="get_sensitive_data" arguments="{}"/>'


def test_the_whole_reply_is_taken_beside_a_cut_one(workspace: Workspace) -> None:
    rows, _ = chat_tab.row_from(workspace, [Exchange(ASKED, "r", side("Базилио.", "stop token"), side("Кота звали и", "length"))], "text")
    assert (rows.rows[-1].request, rows.rows[-1].answer.content) == (ASKED, "Базилио.")
