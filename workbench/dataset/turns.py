"""One turn and its calls, from JSON and back: what a row's file said, and in which of several forms it said it.

What the workbench has no field for stays in `extras`, of the message or the call. The form (a call without "type", null for
no content) stands there under `FORM`; it is never written, and it counts only as long as the turn still says the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from workbench.calls.dialects import TAG, CallSegment, MalformedSegment, message_text
from workbench.dataset.strict import check_value, kind, missing_key, parse_json, short
from workbench.errors import RowError
from workbench.schema import ROLES, Message, ToolCall

FORM = "#form"
KEYS = ("role", "content", "tool_calls", "tool_call_id", "name")  # of a turn; others are kept, and mean nothing here
ROLE_NAMES, CONTENT_NAMES = ("from", "speaker", "sender", "author", "роль"), ("text", "value", "message", "текст")  # as others call them
_NAME = re.compile(r"[A-Za-z_][\w.\-]{0,127}")  # as a call in a reply is read; another name could pass for more than one call


def parse_message(value: Any, field: str) -> Message:
    """A turn from parsed JSON; raises `RowError` with `field` as the place."""
    if not isinstance(value, dict):
        raise RowError(f"expected a JSON object, found {kind(value)}", field)
    role = value.get("role")
    if role is None:
        raise RowError(missing_key(value, "role", KEYS, ROLE_NAMES), f"{field}.role")
    if role not in ROLES:
        raise RowError(f"unknown role {short(role)}; the roles are {', '.join(ROLES)}", f"{field}.role")
    calls = _parse_calls(value.get("tool_calls"), f"{field}.tool_calls")
    if "content" not in value and not calls:
        raise RowError(missing_key(value, "content", KEYS, CONTENT_NAMES), f"{field}.content")
    content = value.get("content")
    form: dict[str, Any] = {"content": None if "content" in value else "absent"} if content is None else {}
    content = "" if content is None and calls else content
    if not isinstance(content, str):
        raise RowError(f"expected text, found {kind(content)}", f"{field}.content")
    if not content.strip() and not calls:
        raise RowError("the text is empty", f"{field}.content")
    if "tool_calls" in value and not calls:
        form["tool_calls"] = value["tool_calls"]
    extras = {k: v for k, v in value.items() if k not in ("role", "content", "tool_calls")}
    return Message(role, content, calls, _with_form(extras, form))


def _with_form(extras: dict[str, Any], form: dict[str, Any]) -> dict[str, Any]:
    """The extras and the form together; a key of the file that is called like ours is kept inside the form."""
    if FORM in extras:
        form = form | {"same": extras[FORM]}
    return extras | {FORM: form} if form else extras


def _split_form(extras: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The file's own extras, and the form."""
    own = dict(extras)
    form = own.pop(FORM, None)
    form = dict(form) if isinstance(form, Mapping) else {}
    return (own | {FORM: form["same"]} if "same" in form else own), form


def _parse_calls(value: Any, field: str) -> tuple[ToolCall, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise RowError(f"expected a list, found {kind(value)}", field)
    return tuple(parse_call(item, f"{field}[{i}]") for i, item in enumerate(value))


def parse_call(item: Any, field: str) -> ToolCall:
    """A call as OpenAI writes it, or flat ({"name": …, "arguments": …}); raises `RowError`."""
    item = item if isinstance(item, dict) else {}
    function = item.get("function", item)
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name.strip():
        raise RowError("the call has no function name", field)
    if not _NAME.fullmatch(name):
        raise RowError(f"the tool's name {short(name)} is not a name: it has 1 to 128 letters, digits, '_', '.' or '-', beginning with a letter or '_'", field)
    given = function.get("arguments", {})
    arguments = _read_arguments(given, f"{field}.arguments") if isinstance(given, str) else given
    if not isinstance(arguments, dict):
        raise RowError(f"expected a JSON object, found {kind(arguments)}", f"{field}.arguments")
    form: dict[str, Any] = {"flat": True} if function is item else {}
    if "type" not in item:
        form["type"] = "absent"
    if "arguments" not in function:
        form["arguments"] = "absent"
    elif isinstance(given, str) and given != json.dumps(arguments, ensure_ascii=False):
        form["arguments"] = given
    hidden = ["function", *(["id"] if isinstance(item.get("id"), str) else []), *(["type"] if item.get("type") == "function" else [])]
    extras = {k: v for k, v in item.items() if k not in hidden and not (function is item and k in ("name", "arguments"))}
    inner = {k: v for k, v in function.items() if k not in ("name", "arguments")} if function is not item else {}
    extras |= {"function": inner} if inner else {}
    identity = item.get("id")
    as_text = isinstance(given, str) or "arguments" not in function
    return ToolCall(name, arguments, identity if isinstance(identity, str) else None, _with_form(extras, form), as_text)


def _read_arguments(text: str, field: str) -> Any:
    try:
        value = parse_json(text)
        check_value(value, field)
    except RowError as exc:
        if exc.field != "line":
            raise
        # Where in the text it breaks off is of no use: the text stands inside another.
        detail = "" if " at column " in exc.reason else exc.reason.removeprefix("not valid JSON")
        raise RowError(f"the arguments are not valid JSON{detail}", field) from exc
    return value


def check_turns(messages: tuple[Message, ...]) -> None:
    """Raise `RowError` where the turns teach nothing: no user, no answer at the end, a call that can't be read."""
    if not any(m.role == "user" for m in messages):
        raise RowError("there is no user turn", "messages")
    last = len(messages) - 1
    if messages[last].role != "assistant":
        raise RowError("the last turn must be the assistant's: it is what the row teaches", f"messages[{last}].role")
    for i, message in enumerate(messages):
        if message.role == "assistant":
            _check_calls(message_text(message), f"messages[{i}].content")


def _check_calls(text: str, field: str) -> None:
    for segment in TAG.parse(text) if "<" in text else ():
        if isinstance(segment, MalformedSegment):
            raise RowError(f"malformed tool call: {segment.reason}", field)
        if isinstance(segment, CallSegment):
            check_value(dict(segment.call.arguments), f"{field}: arguments of {segment.call.name}")


def dump_message(message: Message) -> dict[str, Any]:
    """The turn as JSON values, in the form in which it was read."""
    extras, form = _split_form(message.extras)
    value: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        value["tool_calls"] = [dump_call(call) for call in message.tool_calls]
        if not message.content and "content" in form:
            value["content"] = None
            if form["content"] == "absent":
                del value["content"]
    elif "tool_calls" in form:
        value["tool_calls"] = form["tool_calls"]
    return value | extras


def dump_call(call: ToolCall) -> dict[str, Any]:
    """The call as an item of `tool_calls`, in the form in which it was read; OpenAI's form for one made here."""
    extras, form = _split_form(call.extras)
    flat = bool(form.get("flat"))
    inner = {} if flat else extras.pop("function", {})
    function = {"name": call.name} | _dump_arguments(call, form.get("arguments")) | dict(inner)
    item: dict[str, Any] = {} if call.id is None else {"id": call.id}
    if form.get("type") != "absent":
        item["type"] = "function"
    return item | (function if flat else {"function": function}) | extras


def _dump_arguments(call: ToolCall, written: Any) -> dict[str, Any]:
    arguments = dict(call.arguments)
    if not call.as_text:
        return {"arguments": arguments}
    text = json.dumps(arguments, ensure_ascii=False)
    if written == "absent" and not arguments:
        return {}
    # The wording of the file, as long as it still says what the call says.
    if isinstance(written, str) and written != "absent" and json.dumps(parse_json(written), ensure_ascii=False) == text:
        return {"arguments": written}
    return {"arguments": text}
