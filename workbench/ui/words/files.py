"""The sentences of the panel “Import and export”."""

from __future__ import annotations

IMPORT_TITLE, EXPORT_TITLE = "Bring rows in", "Hand rows out"
DROP_FILE = "A file: JSON lines, a JSON array, CSV or Parquet"
HUB_NAME, HUB_SPLIT, HUB_PART = "Or a data set", "Split", "Part"
HUB_PLACEHOLDER = "owner/name on the hub, or a path on this machine"
LOOK = "Look"
NOTHING_YET = "Nothing comes in before you have seen it: drop a file, or name a data set and press “Look”."
NO_NAME = "Name a data set first: owner/name on the hub, or a path on this machine."
HEADERS = ["✓", "#", "Request", "Answer", "Kind", "What is wrong"]
LEAVE_DUPLICATES, BRING_BROKEN = "Leave out duplicates", "Bring broken lines along"
MODE = "What becomes of the rows there are"
ADD, REPLACE = "add to the rows", "replace the rows"
CANCEL = "Cancel"
CANCELLED = "Nothing came in."
NOTHING_SEEN = "Look at a file first: nothing came in."
TABLE_SHAPE = "The table of rows to come was changed in its shape: press “Look” again."
LISTED = "The table shows {shown} of {total} records, those with a problem or a duplicate first; all that is chosen comes in."
KIND_CALL, KIND_TEXT, KIND_BROKEN = "call", "text", "broken"
TOOLS_UNKNOWN = "The rows call tools that data/tools.json does not describe: {names}. Bring them in all the same, and add the tools on the panel “Tools”."
TOOLS_FOUND = "The rows bring along {count} not in data/tools.json: {names}."
ADD_TOOLS = "Add them to the tools"
EXPORT_STYLE, ONLY_APPROVED, EXPORT = "Form", "Only approved rows", "Make the file"
NO_ROWS, NONE_APPROVED = "There are no rows to hand out yet.", "No row is approved yet: approve some, or take the tick away."


def counted(number: int, noun: str, plural: str = "") -> str:
    """As in `1 row` or `2,000 rows`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
