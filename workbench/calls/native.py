"""Which dialect a model's own chat template speaks, told from the template's text."""

from __future__ import annotations

import re

from workbench.calls.dialect import Dialect
from workbench.calls.dialects import DIALECTS
from workbench.errors import SettingsError

_TAKES_TOOLS = re.compile(r"\btools\b")
# What only that dialect's templates write, the first that is found counts. Other models write <tool_call> too, with other things in it.
_MARKS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("functiongemma", re.compile(r"<start_function_call>")),
    ("gemma4", re.compile(r"<\|tool_call>")),
    ("mistral-args", re.compile(r"\[TOOL_CALLS\].*\[ARGS\]|\[ARGS\].*\[TOOL_CALLS\]", re.DOTALL)),
    ("mistral", re.compile(r"\[TOOL_CALLS\]")),
    ("llama3-json", re.compile(r"<\|python_tag\|>|\"parameters\": .*ipython|ipython.*\"parameters\": ", re.DOTALL)),
    ("hermes", re.compile(r"<tool_call>\\?n?.{0,40}?\{\\?[\"']name\\?[\"']: ", re.DOTALL)),
)


def native_dialect(template: str, model: str) -> Dialect:
    """The dialect of the model whose chat template that is; raises `SettingsError` where it has none, or one that is not known here."""
    others = f"Choose one of {', '.join(name for name in DIALECTS)} as training.dialect."
    if not _TAKES_TOOLS.search(template):
        raise SettingsError(f"The chat template of {model} takes no tools, so the model has no dialect of its own. {others}")
    for name, mark in _MARKS:
        if mark.search(template):
            return DIALECTS[name]
    raise SettingsError(f"The chat template of {model} writes tool calls in a form that the workbench does not know. {others}")
