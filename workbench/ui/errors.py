"""The one place where an error becomes words on the screen."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import gradio as gr

from workbench.errors import WorkbenchError

log = logging.getLogger("workbench")


def sentence(exc: BaseException) -> str:
    """What a person reads of an error. A fault of ours goes to the log whole and to the screen as one sentence."""
    if isinstance(exc, WorkbenchError):
        return str(exc)
    log.exception("an unexpected fault in the screen", exc_info=exc)
    return f"Something unexpected went wrong ({type(exc).__name__}). Nothing was changed; the log in the terminal has the details."


def shown(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A handler whose errors are shown as a notice, never as a traceback; the outputs stay as they are."""

    @functools.wraps(handler)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return handler(*args, **kwargs)
        except gr.Error:
            raise
        except Exception as exc:
            raise gr.Error(sentence(exc), duration=12, print_exception=False) from None

    return wrapped
