"""The sentences of the panel of tools."""

from __future__ import annotations

TITLE = "Tools"
HELP = (
    "The tools that rows may call. A schema says which arguments a call has: the form for a call, the check of the rows "
    "and the demonstration in the chat come from it."
)
EMPTY = "No tool yet. Write the first one on the right, or press “Add the tools that rows call”."
LIST = "Tools of this set"
NAME, NAME_INFO = "Name", "As calls write it: letters, digits, underscore, point or hyphen; the first one a Latin letter or an underscore."
DESCRIPTION, DESCRIPTION_INFO = "Description", "What the tool does and when to call it."
PARAMETERS, MOCK = "Parameters (a JSON schema of an object)", "Answer in a demonstration (JSON; empty for none)"
RENAME = "Rename it in the rows' calls too"
SAVE, NEW, DELETE, UNDO, ADD_SEEN = "Save tool", "New tool", "Delete tool", "Undo the last change", "Add the tools that rows call"
NO_TOOL_OPEN = "No tool is open: choose one of the list first."
NEW_FORM = "A new tool: give it a name and press “Save tool”."
NONE_UNKNOWN = "Every tool that rows call is in the list already."
UNSAVED = "The form holds changes that are not saved: press “Save tool”, or do the same again to let them go."
UNDONE = "Undone: the last change of the tools."
NO_ARGUMENTS = "A call has no arguments."
NO_OBJECT = "The parameters must be a JSON schema of an object, as in {\"type\": \"object\", \"properties\": {}}."
FIELDS = ("Argument", "Asked for as", "Must be given", "Help")
KINDS = {
    "text": "text", "number": "a number", "integer": "a whole number", "boolean": "true or false", "choice": "a choice", "json": "JSON",
}


def listed(name: str, rows: int) -> str:
    """A tool in the list."""
    return f"{name} · {'no row' if not rows else '1 row' if rows == 1 else f'{rows} rows'}"


def saved(name: str) -> str:
    return f"The tool “{name}” was saved."


def renamed(was: str, name: str, rows: int, rejected: int) -> str:
    counting = ", counting rejected ones," if rejected else ""
    left = f" {_rows(rows)}{counting} still {'calls' if rows == 1 else 'call'} “{was}”: press “{RENAME}”." if rows else ""
    return f"The tool “{was}” is called “{name}” now.{left}"


def calls_renamed(was: str, name: str, rows: int) -> str:
    """For the line that tells of a change: in the past tense, without a full stop."""
    return f"{_rows(rows)} {'calls' if rows == 1 else 'call'} “{name}” instead of “{was}”"


def deleted(name: str) -> str:
    return f"The tool “{name}” was deleted. “{UNDO}” brings it back."


def still_called(name: str, rows: int) -> str:
    return f"{_rows(rows)} {'calls' if rows == 1 else 'call'} “{name}” and would name an unknown tool: press “{DELETE}” again to delete it all the same."


def added(names: list[str], failed: list[str]) -> str:
    one = len(names) == 1
    parts = [f"{', '.join(names)} {'was' if one else 'were'} added as the rows call {'it' if one else 'them'}: write what {'it does' if one else 'they do'}."] if names else []
    return " ".join(parts + failed)


def unknown(names: list[str], rows: int) -> str:
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{_rows(rows)} {'calls' if rows == 1 else 'call'} what is not in the list: {shown}."


def not_json(what: str, reason: str) -> str:
    return f"{what}: not valid JSON: {reason}. Nothing was saved."


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"
