"""Chats in files: kept under data/chats/, opened again, and written as JSON or as one HTML page that needs nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from workbench.errors import DataError, InputError, SettingsError
from workbench.files import explain_os_error, into_bin, safe_name, write_atomic
from workbench.ui.chat import shown
from workbench.ui.chat.talk import KEPT, Chat, Exchange
from workbench.ui.highlight import escape
from workbench.ui.theme import CSS
from workbench.ui.words import chat as words

FORMAT = 1
BIN = ".trash"  # under the folder of kept chats: BIN/WHEN/NAME.json
LARGEST = 32 * 2**20  # bytes of a file that is opened
_EXCHANGES: TypeAdapter[list[Exchange]] = TypeAdapter(list[Exchange])
# No script, no picture, no address is allowed, whatever a model wrote.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_PAGE_CSS = """body { margin:0 auto; max-width:1400px; padding:16px; font-family:var(--font); background:var(--background-fill-primary); color:var(--ink); }
:root { --background-fill-primary:#fff; --ink:#0f172a; --font:ui-sans-serif, system-ui, sans-serif; --font-mono:ui-monospace, Menlo, Consolas, monospace; color-scheme:light; }
.dark { --background-fill-primary:#0b0f19; --ink:#f1f5f9; color-scheme:dark; }
h1 { font-size:20px; } .pair { display:grid; grid-template-columns:1fr 1fr; gap:16px; border-top:1px solid var(--wb-line); padding:8px 0; }
.pair > div { min-width:0; } .wb-small { display:none; } .wb-turn { border:none; }
@media (max-width:800px) { .pair { grid-template-columns:1fr; } }"""


def chat_json(chat: Chat, model: str) -> str:
    """The chat as JSON text; what is no UTF-8 in it is replaced."""
    said = [dataclasses.asdict(exchange) for exchange in chat.exchanges]
    told: dict[str, Any] = {"format": FORMAT, "model": model, "name": chat.name, "tries": chat.tries, "saved": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "exchanges": said}
    return json.dumps(told, ensure_ascii=False, indent=1, default=sorted).encode("utf-8", "replace").decode("utf-8")


def keep(folder: Path, name: str, chat: Chat, model: str) -> str:
    """Write the chat into the folder under a name; returns the name. Over a chat of that name it is written only where it came from it.

    Raises `InputError` for a bad or taken name and for an empty chat, `WorkbenchError` where the disk refuses.
    """
    if not chat.exchanges:
        raise InputError(words.NOTHING_TO_KEEP)
    safe = safe_name(name, what="name of the chat")
    path = folder / f"{safe}.json"
    if path.exists() and chat.name != safe:
        raise InputError(words.NAME_TAKEN.format(name=safe))
    write_atomic(path, chat_json(chat, model))
    chat.name = safe
    return safe


def names(folder: Path) -> list[str]:
    """The kept chats, the newest first."""
    try:
        found = [(path.stat().st_mtime, path.stem) for path in folder.glob("*.json")]
    except OSError:
        return []
    return [name for _, name in sorted(found, reverse=True)]


def read(folder: Path, name: str) -> Chat:
    """A kept chat; raises `DataError` for one that is gone or can't be read, `InputError` for a name that can be none."""
    safe = safe_name(name, what="name of the chat")
    chat = read_file(folder / f"{safe}.json", safe)
    chat.name = safe
    return chat


def read_file(path: Path, name: str) -> Chat:
    """The chat in a file, with the name that it was kept under when the file was written; raises `DataError`, which calls it `name`."""
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(words.CHAT_TOO_LARGE.format(name=name, most=LARGEST // 2**20))
        told = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(told, dict) or told.get("format") != FORMAT:
            raise DataError(words.BROKEN_CHAT.format(name=name))
        exchanges = _EXCHANGES.validate_python(told.get("exchanges"))
        for exchange in exchanges:
            for side in exchange.asked():
                if not side.pieces:
                    raise DataError(words.BROKEN_CHAT.format(name=name))
                side.dialect  # noqa: B018  an unknown one is told here
    except FileNotFoundError as exc:
        raise DataError(words.NO_SUCH_CHAT.format(name=name)) from exc
    except OSError as exc:
        raise DataError(explain_os_error(exc, path)) from exc
    except (ValueError, ValidationError, RecursionError, SettingsError) as exc:
        raise DataError(words.BROKEN_CHAT.format(name=name)) from exc
    chat = Chat()
    for exchange in exchanges[-KEPT:]:
        chat.take_up(exchange)
    tries, was = told.get("tries"), told.get("name")
    chat.tries = tries if isinstance(tries, int) else 0
    with contextlib.suppress(InputError):  # it may become a file's name
        chat.name = safe_name(was, what="name of the chat") if isinstance(was, str) and was else ""
    return chat


def delete(folder: Path, name: str) -> str:
    """Put a kept chat into the bin; returns its name. Raises `InputError` for a name that can be none, `DataError` for a chat that is gone."""
    safe = safe_name(name, what="name of the chat")
    path = folder / f"{safe}.json"
    try:
        into_bin(path, folder / BIN)
    except FileNotFoundError as exc:
        raise DataError(words.NO_SUCH_CHAT.format(name=safe)) from exc
    except OSError as exc:
        raise DataError(explain_os_error(exc, Path(exc.filename or path))) from exc
    return safe


def chat_html(chat: Chat, model: str, tools: shown.Tools, *, dark: bool = False) -> str:
    """The chat as one page that can be read without a network and holds no script: everything that was said is escaped."""
    pairs = []
    for exchange in chat.exchanges:
        panes = [
            f"<div>{shown.title_html(side.voice)}{shown.exchange_html(exchange, pane, tools, buttons=False)}</div>"
            for pane, side in enumerate(exchange.sides) if side is not None
        ]  # fmt: skip
        changed = shown.changed_html(Chat([exchange]))
        pairs.append(f'{changed}<div class="pair">{"".join(panes)}</div>')
    title = words.HTML_TITLE.format(model=model)
    head = words.HTML_HEAD.format(count=len(chat.exchanges), when=time.strftime("%Y-%m-%d %H:%M"))
    page = (
        f'<!doctype html><html class="{"dark" if dark else ""}"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title><style>{CSS}\n{_PAGE_CSS}</style></head>'
        f"<body><h1>{escape(title)}</h1><p>{escape(head)}</p>{''.join(pairs)}</body></html>"
    )
    return page.encode("utf-8", "replace").decode("utf-8")
