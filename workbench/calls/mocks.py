"""What a tool answers in a demonstration: a fixed value, a template over the call's arguments, or a Python function of the user's.

A mock is any JSON value, given as it is. Two forms are no fixed answers: {"$template": value}, in whose texts {{city}} stands for an
argument ({{place.city}} for one inside it, {{days=3}} with a value for a call without it), and {"$python": "file.py:function"}, which is
called with the arguments by their names, in a process of its own. Its file must stand in the one folder for such functions.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from workbench.errors import RowError, WorkbenchError
from workbench.files import safe_name
from workbench.schema import ToolCall, ToolSpec

MockKind = Literal["none", "fixed", "template", "python"]
TEMPLATE, PYTHON = "$template", "$python"
CHILD = Path(__file__).with_name("mock_child.py")
LOOK = 0.1  # seconds between two looks for a stop
_PLACE = re.compile(r"\{\{\s*([\w\-]+(?:\.[\w\-]+)*)\s*(?:=([^{}]*))?\}\}")
_WHERE = re.compile(r"(?P<file>[^:/\\]+\.py):(?P<function>[A-Za-z_]\w*)")


class MockError(WorkbenchError):
    """A tool gave no answer that can be used: it has none, it failed, it took too long or its answer is too large."""


@dataclass(frozen=True)
class MockLimits:
    """What one execution may take: seconds, characters of its answer as JSON, bytes of memory beyond Python's own."""

    seconds: float = 5.0
    result_chars: int = 16_384
    memory_bytes: int = 512 * 2**20


def mock_kind(mock: Any) -> MockKind:
    """How a mock answers; an object with other keys beside "$template" or "$python" is a fixed answer."""
    if mock is None:
        return "none"
    if isinstance(mock, Mapping) and len(mock) == 1:
        return "template" if TEMPLATE in mock else "python" if PYTHON in mock else "fixed"
    return "fixed"


def check_mock(mock: Any) -> None:
    """Raise `RowError` (field "mock") for one that names a function otherwise than as file.py:function."""
    if mock_kind(mock) == "python" and (not isinstance(mock[PYTHON], str) or not _WHERE.fullmatch(mock[PYTHON])):
        raise RowError("a function is named as file.py:function, by its file in data/functions", "mock")


def run_mock(
    tool: ToolSpec, call: ToolCall, *, functions: Path | None = None, limits: MockLimits = MockLimits(), stop: Callable[[], bool] = lambda: False
) -> str:
    """The tool's answer to a call as text: JSON, or the text itself where it is one. Raises `MockError` with one sentence.

    `functions` is the folder of the user's functions; without it none is run. A function hangs no longer than `limits` say, and
    ends when `stop` says so.
    """
    kind = mock_kind(tool.mock)
    if kind == "none":
        raise MockError(f"The tool {tool.name} has no answer to give: write one on the Data tab, “Tools”.")
    if kind == "python":
        value = _from_function(tool, call, functions, limits, stop)
    elif kind == "template":
        value = _filled(tool.mock[TEMPLATE], call)
    else:
        value = tool.mock
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) > limits.result_chars:
        raise MockError(_too_large(tool.name, len(text), limits))
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        raise MockError(f"The answer of {tool.name} holds half a character (a lone surrogate): mend it.")
    return text


def _too_large(name: str, size: int, limits: MockLimits) -> str:
    return f"The answer of {name} has {size:,} characters; {limits.result_chars:,} are allowed. Let it answer less."


# -- a template -----------------------------------------------------------------------------------


def _filled(template: Any, call: ToolCall) -> Any:
    if isinstance(template, Mapping):
        return {key: _filled(value, call) for key, value in template.items()}
    if isinstance(template, list):
        return [_filled(value, call) for value in template]
    if not isinstance(template, str):
        return template
    whole = _PLACE.fullmatch(template)
    if whole is not None:
        return _argument(whole, call)  # alone in its text, an argument keeps its type
    return _PLACE.sub(lambda found: _as_text(_argument(found, call)), template)


def _argument(place: re.Match[str], call: ToolCall) -> Any:
    value: Any = call.arguments
    for key in place[1].split("."):
        if not isinstance(value, Mapping) or key not in value:
            if place[2] is not None:
                return place[2].strip()
            raise MockError(f"The answer of {call.name} wants the argument {place[1]}, which the call does not have: write {{{{{place[1]}=…}}}} for such calls.")
        value = value[key]
    return value


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# -- a function -----------------------------------------------------------------------------------


def _from_function(tool: ToolSpec, call: ToolCall, folder: Path | None, limits: MockLimits, stop: Callable[[], bool]) -> Any:
    where = _WHERE.fullmatch(str(tool.mock[PYTHON]))
    if where is None:
        raise MockError(f"The tool {tool.name} names its function as {str(tool.mock[PYTHON])[:80]!r}: write it as file.py:function.")
    if folder is None:
        raise MockError(f"The tool {tool.name} answers by a Python function, and none may be run here: allow it, or give the tool a fixed answer.")
    file = folder / safe_name(where["file"], what="name of the function's file", error=MockError)
    if not file.is_file():
        raise MockError(f"The function of {tool.name} is looked for in {file.name}, which does not stand in the folder {folder.name}.")
    asked = {
        "file": str(file.resolve()), "function": where["function"], "arguments": dict(call.arguments),
        "chars": limits.result_chars, "memory": limits.memory_bytes, "seconds": limits.seconds,
    }  # fmt: skip
    told = _ask_child(tool.name, asked, limits, stop)
    if "value" in told:
        return told["value"]
    if "large" in told:
        raise MockError(_too_large(tool.name, int(told["large"]), limits))
    raise MockError(f"The function of {tool.name} failed: {str(told.get('failed'))[:300]}.")


def _ask_child(name: str, asked: dict[str, Any], limits: MockLimits, stop: Callable[[], bool]) -> dict[str, Any]:
    """What the child said; it is gone afterwards, with all that it started."""
    with tempfile.TemporaryFile() as request, tempfile.TemporaryDirectory() as nowhere:
        request.write(json.dumps(asked).encode())
        request.seek(0)
        child = subprocess.Popen(
            [sys.executable, "-I", "-B", str(CHILD)], stdin=request, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=nowhere,
            env={"PYTHONIOENCODING": "utf-8", "LC_ALL": "C.UTF-8"}, start_new_session=True,
        )
        try:
            raw = _read(child, name, limits, stop)
        finally:
            _end(child)
    try:
        told = json.loads(raw)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise MockError(f"The function of {name} ended its process before it answered: let it return its answer.")
    return told


def _read(child: subprocess.Popen[bytes], name: str, limits: MockLimits, stop: Callable[[], bool]) -> bytes:
    """All that the child wrote, up to what an answer may take (a character may be written as twelve)."""
    assert child.stdout is not None
    until, most, raw = time.monotonic() + limits.seconds, 12 * limits.result_chars + 4096, b""
    with selectors.DefaultSelector() as waiting:
        waiting.register(child.stdout, selectors.EVENT_READ)
        while True:
            left = until - time.monotonic()
            if stop():
                raise MockError(f"The function of {name} was stopped on request.")
            if left <= 0:
                raise MockError(f"The function of {name} had not answered after {limits.seconds:g} s and was ended.")
            if not waiting.select(min(LOOK, left)):
                continue
            piece = os.read(child.stdout.fileno(), 65_536)
            if not piece:
                return raw
            raw += piece
            if len(raw) > most:
                raise MockError(_too_large(name, len(raw), limits))


def _end(child: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        child.kill()
    if child.stdout is not None:
        child.stdout.close()
    child.wait()
