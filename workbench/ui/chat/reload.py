"""A page's chat through a reload: it stands in a file of the page's own, and the page that takes the other's place in the same browser tab goes on with it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.files import explain_os_error, safe_name, write_atomic
from workbench.ui.chat import kept
from workbench.ui.chat.talk import Chat
from workbench.ui.words import chat as words
from workbench.workspace import Workspace

log = logging.getLogger("workbench")

OPEN = ".open"  # under the folder of kept chats: OPEN/PAGE.json
MOST, DAYS = 200, 7  # pages whose chats stay there, the newest, and for how long


def write(space: Workspace, page: str, chat: Chat) -> None:
    """Write down how the page's chat stands; nothing is left of one that is empty. A disk that refuses is told in the log: the chat itself goes on.

    The page that it was taken over from needs its file no more.
    """
    try:
        path = _path(space, page)
        new = not path.exists()
        if chat.exchanges:
            write_atomic(path, kept.chat_json(chat, space.model_name))
        else:
            path.unlink(missing_ok=True)
        if chat.before:
            _path(space, chat.before).unlink(missing_ok=True)
            chat.before = ""
        if new:
            _tidy(path.parent)
    except (WorkbenchError, OSError) as exc:
        why = explain_os_error(exc, Path(exc.filename or space.chats_dir)) if isinstance(exc, OSError) else exc
        log.warning("The chat will not outlast a reload: %s", why)


def write_aside(space: Workspace, page: str, chat: Chat) -> None:
    """`write`, where the thread is the server's own (a page that is closed ends its answer there) in another one: no page waits for the disk."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        write(space, page, chat)
    else:
        threading.Thread(target=write, args=(space, page, chat), name="chat-written").start()


def take_over(space: Workspace, before: str, page: str, chat: Chat) -> bool:
    """Put what the page that stood there `before` showed in front of the chat of `page`; whether there was something.

    What was being written when that page went is marked as broken off. Its file stays until this chat is written down
    again, since the browser may not remember yet that there is another one. Raises `DataError` for a file that can't be read.
    """
    if not before or before == page:
        return False
    try:
        path = _path(space, before)
    except WorkbenchError:  # nothing that this workbench has told the browser
        return False
    if not path.exists():
        return False
    earlier = kept.read_file(path, f"{OPEN}/{before}")
    for exchange in earlier.exchanges:
        for side in exchange.asked():
            for piece in side.pieces:
                if not piece.done:
                    piece.ended, piece.trouble = "failed", words.PAGE_WENT
                    side.state = words.PAGE_WENT
    chat.put_before(earlier)
    write(space, page, chat)
    chat.before = before
    return True


def _path(space: Workspace, page: str) -> Path:
    return space.chats_dir / OPEN / f"{safe_name(page, what='page')}.json"


def _tidy(folder: Path) -> None:
    """Let go of the chats of pages long gone."""
    now, found = time.time(), list[tuple[float, Path]]()
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another page tidies as well
            found.append((path.stat().st_mtime, path))
    found.sort()
    for i, (at, path) in enumerate(found):
        if i < len(found) - MOST or now - at > DAYS * 86400:
            path.unlink(missing_ok=True)
