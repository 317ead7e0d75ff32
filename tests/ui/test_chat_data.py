"""A chat's reply as a row of the set: only what the model really said to its end."""

from __future__ import annotations

import pytest

from workbench.errors import InputError
from workbench.ui import words
from workbench.ui.chat.rows import row_from
from workbench.ui.chat.talk import Chat, Exchange, Piece, Side
from workbench.ui.words.chat import ROW_ALONE
from workbench.workspace import Workspace

ASKED = "Как звали кота у Буратино?"


def side(text: str, ended: str, voice: str = "") -> Side:
    return Side(voice, pieces=[Piece(text, ended)])


@pytest.mark.parametrize("should", ["call", "text"])
@pytest.mark.parametrize("last", [
    [], [Exchange(ASKED)], [Exchange(ASKED, side("Кота зв", "stopped"))], [Exchange(ASKED, None)],
    [Exchange(ASKED, side("Базилио.", "stop token"), side("Кота зв", "stopped", "r"))],
])
def test_a_reply_that_is_not_whole_becomes_no_row(workspace: Workspace, last: list[Exchange], should: str) -> None:
    with pytest.raises(InputError) as caught:
        row_from(workspace, Chat(last), should)
    assert str(caught.value) == words.NO_REPLY_YET
    assert len(workspace.rows.read().rows) == 70


def test_a_text_cut_at_its_length_limit_is_no_answer_but_a_call_may_follow_it(workspace: Workspace) -> None:
    cut = Chat([Exchange(ASKED, side("Кота звали и звали и", "length"))])
    with pytest.raises(InputError, match="no whole reply yet"):
        row_from(workspace, cut, "text")
    rows, _ = row_from(workspace, cut, "call")
    assert rows.rows[-1].answer.content == '<tool_call name="get_sensitive_data" arguments="{}"/>'


def test_the_whole_reply_is_taken_beside_a_cut_one_and_the_adapter_s_before_the_base_s(workspace: Workspace) -> None:
    rows, said = row_from(workspace, Chat([Exchange(ASKED, side("Базилио.", "stop token"), side("Кота звали и", "length", "r"))]), "text")
    assert (rows.rows[-1].request, rows.rows[-1].answer.content) == (ASKED, "Базилио.") and ROW_ALONE not in said
    both = Exchange("Ещё раз?", side("Нет.", "stop token"), side("Да.", "stop token", "r"))
    rows, said = row_from(workspace, Chat([Exchange(ASKED, side("x", "stop token")), both]), "text")
    assert (rows.rows[-1].request, rows.rows[-1].answer.content) == ("Ещё раз?", "Да.") and said.endswith(ROW_ALONE)
