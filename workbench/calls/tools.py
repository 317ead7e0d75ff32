"""The tools that rows may call: their book in data/tools.json, checked when read and written whole or not at all."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.calls.arguments import ArgumentField as ArgumentField
from workbench.calls.arguments import argument_fields as argument_fields
from workbench.calls.arguments import argument_problems as argument_problems
from workbench.calls.arguments import call_problems as call_problems
from workbench.calls.arguments import infer_spec as infer_spec
from workbench.calls.arguments import read_arguments as read_arguments
from workbench.calls.mocks import check_mock
from workbench.calls.schemas import check_schema
from workbench.errors import ConflictError, DataError, RowError
from workbench.files import explain_os_error, write_atomic
from workbench.schema import ToolSpec

MAX_FILE_BYTES = 4 * 2**20
MAX_TOOLS = 1000
MAX_DESCRIPTION = 4000  # characters
MAX_MOCK = 64 * 1024  # characters of JSON
UNDO_DEPTH = 20
_NAME = re.compile(r"[A-Za-z_][\w.\-]{0,127}")  # as a call in a reply is read


def no_parameters() -> dict[str, Any]:
    """The schema of a tool without arguments."""
    return {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True)
class ToolSet:
    """The usable tools by name, in the file's order, the file's version ("" while there is none), and what can't be used."""

    tools: Mapping[str, ToolSpec] = field(default_factory=dict)
    version: str = ""
    problems: tuple[str, ...] = ()


def check_spec(spec: ToolSpec) -> None:
    """Raise `RowError` (its `field` names the place, as its sentence does) unless the tool can be used."""
    try:
        _check(spec)
    except RowError as exc:
        raise RowError(f"The tool {spec.name[:80]!r} can't be used: {exc.field}: {exc.reason}.", exc.field) from exc


def _check(spec: ToolSpec) -> None:
    if not isinstance(spec.name, str) or not _NAME.fullmatch(spec.name):
        raise RowError("a name has 1 to 128 letters, digits, '_', '.' or '-', beginning with a Latin letter or '_'", "name")
    if not isinstance(spec.description, str) or len(spec.description) > MAX_DESCRIPTION:
        raise RowError(f"expected a text of at most {MAX_DESCRIPTION} characters", "description")
    check_schema(spec.parameters)
    try:
        long = len(json.dumps(spec.mock, ensure_ascii=False, allow_nan=False)) > MAX_MOCK
        f"{spec.name}{spec.description}{json.dumps([spec.parameters, spec.mock], ensure_ascii=False)}".encode()
    except UnicodeEncodeError as exc:
        raise RowError("a text holds half a character (a lone surrogate)", "tool") from exc
    except (TypeError, ValueError, RecursionError) as exc:
        raise RowError("the answer is not JSON", "mock") from exc
    check_mock(spec.mock)
    if long:
        raise RowError(f"the answer is longer than {MAX_MOCK // 1024} KiB", "mock")


# -- entries --------------------------------------------------------------------------------------


def parse_specs(value: Any, where: str = "tools") -> tuple[ToolSpec, ...]:
    """The tools of a row's `tools`: a list of OpenAI's entries or bare {"name", "parameters"}, or that list as JSON text.

    Raises `RowError` with the field, as in `tools[1].function.name`. Equal values are checked once.
    """
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as exc:
        raise RowError("the tools can't be written as JSON", where) from exc
    if len(text) > MAX_FILE_BYTES:
        raise RowError("the tools are too long", where)
    specs, problem = _specs_of(text, where)
    if problem is not None:
        raise RowError(*problem)
    return specs


@functools.lru_cache(maxsize=256)
def _specs_of(text: str, where: str) -> tuple[tuple[ToolSpec, ...], tuple[str, str] | None]:
    try:
        items = json.loads(text, parse_constant=_refuse_constant)
        if not isinstance(items, list) or len(items) > MAX_TOOLS:
            raise RowError(f"expected a list of at most {MAX_TOOLS} tools", where)
        specs = tuple(_parse(item, f"{where}[{i}]") for i, item in enumerate(items))
        twice = next((s.name for i, s in enumerate(specs) if s.name in {t.name for t in specs[:i]}), None)
        if twice is not None:
            raise RowError(f"the tool “{twice}” stands there twice", where)
    except RowError as exc:
        return (), (exc.reason, exc.field)
    except (ValueError, RecursionError):
        return (), ("the tools are not valid JSON", where)
    return specs, None


def _parse(item: Any, where: str) -> ToolSpec:
    """One entry as a checked tool; raises `RowError`. Parameters that are left out mean that there are none."""
    if not isinstance(item, dict):
        raise RowError("expected a JSON object", where)
    function = item.get("function", item)
    inner = f"{where}.function" if "function" in item else where
    if not isinstance(function, dict):
        raise RowError("expected a JSON object", inner)
    parameters = function.get("parameters") or no_parameters()
    if isinstance(parameters, dict) and "type" not in parameters:
        parameters = {"type": "object", **parameters}
    description = function.get("description")
    spec = ToolSpec(function.get("name", ""), "" if description is None else description, parameters, item.get("mock"))
    try:
        _check(spec)
    except RowError as exc:
        raise RowError(exc.reason, f"{where if exc.field == 'mock' else inner}.{exc.field}") from exc
    return spec


def _entry(spec: ToolSpec, was: Mapping[str, Any] | None) -> dict[str, Any]:
    """The tool as the file holds it, with the keys that stood beside it before."""
    said = {"name": spec.name, "description": spec.description, "parameters": spec.parameters}
    if was is None:
        entry: dict[str, Any] = {"type": "function", "function": said}
    elif isinstance(was.get("function"), dict):
        entry = {**was, "function": {**was["function"], **said}}
    else:
        entry = {**was, **said}
    entry.pop("mock", None)
    return entry | ({"mock": spec.mock} if spec.mock is not None else {})


def _name_of(item: Any) -> str | None:
    function = item.get("function", item) if isinstance(item, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


# -- the book -------------------------------------------------------------------------------------


class ToolStore:
    """Reads and changes a file of tools. Safe for several threads; a writer names the version it saw."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._cache: tuple[list[Any], ToolSet] | None = None
        self._undo: list[bytes] = []
        self._written = ""  # the version our own last change left

    def read(self) -> ToolSet:
        """The tools as they stand; none while there is no file. Raises `DataError` if the file can't be read."""
        with self._lock:
            return self._now()[1]

    def save(self, spec: ToolSpec, version: str, was: str | None = None) -> ToolSet:
        """Add a tool, or put it in the place of the one called `was` (of its own name without `was`).

        Raises `RowError` for a tool that can't be used, `DataError` for a name that is taken, `ConflictError` if the
        file is not as it was at `version`. Keys of the file that the workbench does not know are kept.
        """
        check_spec(spec)
        with self._lock:
            items = self._seen(version)
            names = [_name_of(item) for item in items]
            old = was or spec.name
            if was is not None and was not in names:
                raise DataError(f"There is no tool {was!r} any more: save it as a new one.")
            if spec.name != old and spec.name in names:
                raise DataError(f"There is a tool {spec.name!r} already: take another name, or edit that one.")
            if old not in names and len(items) >= MAX_TOOLS:
                raise DataError(f"{self.path.name} holds {MAX_TOOLS} tools already: delete one first.")
            place = names.index(old) if old in names else len(items)
            entry = _entry(spec, items[place] if place < len(items) else None)
            return self._write([*items[:place], entry, *items[place + 1 :]])

    def delete(self, name: str, version: str) -> ToolSet:
        """Take a tool out of the book; raises `DataError` if it is not there, `ConflictError` as `save` does."""
        with self._lock:
            items = self._seen(version)
            kept = [item for item in items if _name_of(item) != name]
            if len(kept) == len(items):
                raise DataError(f"There is no tool {name!r} in {self.path.name} any more.")
            return self._write(kept)

    def undo(self, version: str) -> ToolSet:
        """Take the last change back; raises `DataError` if there is none, `ConflictError` if the file is not as seen."""
        with self._lock:
            self._seen(version)
            if not self._undo:
                raise DataError("There is no change of the tools to take back.")
            if self._now()[1].version != self._written:
                raise ConflictError(f"{self.path.name} was changed elsewhere since: nothing was taken back, so that the other change is not lost.")
            write_atomic(self.path, self._undo[-1])
            self._undo.pop()
            self._written = self._now()[1].version
            return self._now()[1]

    def _seen(self, version: str) -> list[Any]:
        items, tools = self._now()
        if version != tools.version:
            raise ConflictError(f"{self.path.name} was changed elsewhere since you opened it: nothing was overwritten. Look at it as it is now and try again.")
        return items

    def _now(self) -> tuple[list[Any], ToolSet]:
        raw = self._bytes()
        version = "" if raw is None else hashlib.sha256(raw).hexdigest()
        if self._cache is None or self._cache[1].version != version:
            items = [] if raw is None else self._items(raw)
            self._cache = items, _tool_set(items, version)
        return self._cache

    def _bytes(self) -> bytes | None:
        try:
            if not self.path.exists():
                return None
            if self.path.stat().st_size > MAX_FILE_BYTES:
                raise DataError(f"{self.path.name} is larger than {MAX_FILE_BYTES // 2**20} MiB: it can't be a list of tools.")
            return self.path.read_bytes()
        except OSError as exc:
            raise DataError(explain_os_error(exc, self.path)) from exc

    def _items(self, raw: bytes) -> list[Any]:
        try:
            items = json.loads(raw.decode("utf-8-sig"), parse_constant=_refuse_constant)
        except UnicodeDecodeError as exc:
            raise DataError(f"{self.path.name} is not UTF-8: save it as UTF-8 and try again.") from exc
        except json.JSONDecodeError as exc:
            raise DataError(f"{self.path.name} is not valid JSON (line {exc.lineno}: {exc.msg}): mend it in an editor, or move it away to begin anew.") from exc
        except (ValueError, RecursionError) as exc:
            raise DataError(f"{self.path.name} is not valid JSON (a number or the nesting is too large): mend it, or move it away to begin anew.") from exc
        if not isinstance(items, list):
            raise DataError(f"{self.path.name} must hold a JSON list of tools: mend it in an editor, or move it away to begin anew.")
        return items

    def _write(self, items: list[Any]) -> ToolSet:
        before, version = self._bytes() or b"", self._now()[1].version
        raw = self._laid_out(items)
        if len(raw) > MAX_FILE_BYTES:
            raise DataError(f"{self.path.name} would become larger than {MAX_FILE_BYTES // 2**20} MiB: nothing was changed.")
        write_atomic(self.path, raw)
        self._undo = [*(self._undo if version == self._written else []), before or b"[]\n"][-UNDO_DEPTH:]
        self._written = self._now()[1].version
        return self._now()[1]

    def _laid_out(self, items: list[Any]) -> bytes:
        try:
            try:
                return (json.dumps(items, ensure_ascii=False, allow_nan=False, indent=2) + "\n").encode()
            except UnicodeEncodeError:  # half a character in an entry that is not ours to mend: escaped it can be kept
                return (json.dumps(items, allow_nan=False, indent=2) + "\n").encode()
        except (ValueError, RecursionError) as exc:
            raise DataError(f"{self.path.name} holds a number or a nesting that can't be written again: mend it in an editor first.") from exc


def _tool_set(items: list[Any], version: str) -> ToolSet:
    tools: dict[str, ToolSpec] = {}
    problems: list[str] = []
    for i, item in enumerate(items):
        try:
            spec = _parse(item, f"tools[{i}]")
        except RowError as exc:
            problems.append(f"Tool {i + 1} ({(_name_of(item) or 'without a name')[:80]}) can't be used: {exc.field}: {exc.reason}.")
            continue
        if spec.name in tools:
            problems.append(f"Tool {i + 1} ({spec.name}) has the name of another: the first one counts.")
        else:
            tools[spec.name] = spec
    return ToolSet(tools, version, tuple(problems))


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")
