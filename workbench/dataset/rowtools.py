"""The tools that a row brings along or names, under its key `tools`."""

from __future__ import annotations

from typing import Any

from workbench.dataset.strict import check_value, kind, parse_json
from workbench.errors import RowError
from workbench.schema import Example, ToolSpec


def read_tools(value: Any) -> list[Any]:
    """A row's `tools` as a list, from a list or from the JSON text of one; raises `RowError` (field "tools")."""
    if isinstance(value, str):
        try:
            value = parse_json(value) if value.strip() else None
        except RowError as exc:
            raise RowError(f"expected a list, or a list as JSON text; the text is {exc.reason}", "tools") from exc
        check_value(value, "tools")
    if value is None:
        return []
    if not isinstance(value, list):
        raise RowError(f"expected a list, or a list as JSON text, found {kind(value)}", "tools")
    return value


def row_tools(row: Example, *, strict: bool = False) -> tuple[ToolSpec | str, ...]:
    """The tools that a row may call: a specification where the row brings one along, a name where it only names it.

    A broken item is left out, or raises `RowError` with its place where `strict`.
    """
    found: list[ToolSpec | str] = []
    try:
        items = read_tools(row.extras.get("tools"))
    except RowError:
        if strict:
            raise
        return ()
    for i, item in enumerate(items):
        try:
            found.append(parse_tool(item, f"tools[{i}]"))
        except RowError:
            if strict:
                raise
    return tuple(found)


def parse_tool(item: Any, field: str) -> ToolSpec | str:
    """One item of a row's `tools`: a name, an OpenAI function schema, or the schema's inside alone; raises `RowError`."""
    if isinstance(item, str) and item.strip():
        return item
    if not isinstance(item, dict):
        raise RowError(f"expected a name or a function schema, found {kind(item)}", field)
    function = item.get("function", item)
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name.strip():
        raise RowError("the tool has no name", field)
    description, parameters = function.get("description"), function.get("parameters")
    if description is not None and not isinstance(description, str):
        raise RowError(f"expected text, found {kind(description)}", f"{field}.description")
    if parameters is not None and not isinstance(parameters, dict):
        raise RowError(f"expected a JSON object, found {kind(parameters)}", f"{field}.parameters")
    spec = ToolSpec(name, description or "")
    return ToolSpec(spec.name, spec.description, parameters) if parameters else spec
