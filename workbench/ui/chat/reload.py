"""A page's chat through a reload: it stands in a file of the page's own, and the page that takes the other's place in the same browser tab goes on with it."""

from __future__ import annotations

import logging
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.files import explain_os_error, safe_name, write_atomic
from workbench.ui.chat import kept
from workbench.ui.chat.talk import Chat
from workbench.ui.words import chat as words
from workbench.workspace import Workspace

log = logging.getLogger("workbench")

OPEN = ".open"  # under the folder of kept chats: OPEN/PAGE.json
MOST = 20  # pages whose chats stay there, the newest
_KEY = "toolcall-workbench-chat"  # of what the browser tab remembers: which page it showed

# A tab's own storage lives as long as the tab, and no other tab sees it.
BEFORE_JS = f"""(before, ...others) => {{
  try {{ before = sessionStorage.getItem('{_KEY}') || ''; }} catch (refused) {{ before = ''; }}
  return [before, ...others];
}}"""
AFTER_JS = f"(page) => {{ try {{ sessionStorage.setItem('{_KEY}', page || ''); }} catch (refused) {{ }} }}"


def folder_of(space: Workspace) -> Path:
    """Where kept chats stand."""
    return space.data_dir / "chats"


def write(space: Workspace, page: str, chat: Chat) -> None:
    """Write down how the page's chat stands; nothing is left of one that is empty. A disk that refuses is told in the log: the chat itself goes on."""
    try:
        path = _path(space, page)
        if chat.exchanges:
            write_atomic(path, kept.chat_json(chat, space.model_name))
        else:
            path.unlink(missing_ok=True)
    except OSError as exc:
        log.warning("The chat will not outlast a reload: %s", explain_os_error(exc, Path(exc.filename or folder_of(space))))
    except WorkbenchError as exc:
        log.warning("The chat will not outlast a reload: %s", exc)


def take_over(space: Workspace, before: str, page: str) -> Chat | None:
    """The chat of the page that stood there `before`, now that of `page`; None where there is none that can be read.

    What was being written when the page went is marked as broken off.
    """
    if not before or before == page:
        return None
    try:
        chat = kept.read_file(_path(space, before), "of this page")
    except WorkbenchError:
        return None
    for exchange in chat.exchanges:
        for side in exchange.asked():
            for piece in side.pieces:
                if not piece.done:
                    piece.ended, piece.trouble = "failed", words.PAGE_WENT
                    side.state = words.PAGE_WENT
    write(space, page, chat)
    _tidy(space)
    return chat


def _path(space: Workspace, page: str) -> Path:
    return folder_of(space) / OPEN / f"{safe_name(page, what='page')}.json"


def _tidy(space: Workspace) -> None:
    """Let go of the chats of pages long gone."""
    try:
        found = sorted((folder_of(space) / OPEN).glob("*.json"), key=lambda path: path.stat().st_mtime)
        for path in found[:-MOST]:
            path.unlink(missing_ok=True)
    except OSError as exc:
        log.warning("Chats of pages long gone stay: %s", explain_os_error(exc, Path(exc.filename or folder_of(space))))
