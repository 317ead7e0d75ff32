"""From a chat to a row: the newest request with its right answer filled in, as a draft."""

from __future__ import annotations

from workbench.dataset.store import RowSet
from workbench.errors import InputError
from workbench.evaluation.failures import add_drafts, row_of_reply
from workbench.ui import words as common
from workbench.ui.chat.talk import Chat
from workbench.ui.words import chat as words
from workbench.workspace import Workspace


def row_from(space: Workspace, chat: Chat, should: str) -> tuple[RowSet, str]:
    """Add the newest exchange to the set as a draft whose answer is a "call" or a "text"; raises `InputError` or `DataError`."""
    last = chat.newest
    # What was stopped, or failed, says nothing of the model: no answer can be taken from it.
    if last is None or not last.judged or not last.asked():
        raise InputError(common.NO_REPLY_YET)
    sides = sorted(last.asked(), key=lambda side: not side.voice)  # an adapter's reply before the base's
    dialect = sides[0].dialect
    # A text that was cut at the length limit would teach to break off; what a call is taken from may have gone on.
    replies = [side.first.text for side in sides if side.dialect == dialect and (side.first.whole or should == "call")]
    if not replies:
        raise InputError(common.NO_REPLY_YET)
    tools = list(space.tools.read().tools)
    rows, said = add_drafts(space.rows, [row_of_reply(last.prompt, replies, should=should, tools=tools, dialect=dialect)])
    return rows, f"{said} {words.ROW_ALONE}" if len(chat.current()) > 1 else said
