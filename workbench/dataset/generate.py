"""Rows written by a model, without the model: what it is asked, the form of its reply, and which of its rows are let in.

A reply is read strictly: what is not of the asked form is refused with a reason, never mended.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from workbench.calls.dialects import TAG, message_calls, verdict
from workbench.calls.tools import call_problems
from workbench.dataset.checks import is_call
from workbench.dataset.formats import dump_row, parse_row
from workbench.dataset.novelty import Known
from workbench.dataset.strict import parse_json, parse_listed
from workbench.errors import InputError, RowError
from workbench.schema import Example, Message, ToolCall, ToolSpec

SOURCE = "generated:model"
BATCH = 10  # rows that are asked for at once: longer lists get repetitive
MAX_ROWS = 500
MAX_REQUEST, MAX_ANSWER, MAX_REPLY = 300, 500, 1_000_000  # characters
BOUND_REQUEST, BOUND_ANSWER = 120, 160  # characters in a bound reply: each one costs the grammar time to compile
SHOWN = 4  # rows of the set that stand in the prompt
TOLD = 20  # requests that stand in the prompt as already written
LANGUAGES = ("Russian", "English", "German", "Spanish", "Kazakh")
CUT = "the reply breaks off within this row"
_BEGUN = re.compile(r'\s*(?:```(?:json)?[ \t]*\n)?\s*\{\s*"rows"\s*:\s*\[')
_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*)\n[ \t]*```", re.DOTALL)


@dataclass(frozen=True)
class Request:
    """What rows are wanted: for which tool, whether they call it or must not, in which language, about what, how many."""

    tool: ToolSpec
    kind: Literal["call", "text"]
    language: str
    topic: str
    count: int


@dataclass(frozen=True)
class Refused:
    """A row that was not let in: its request as far as it can be read, and why."""

    request: str
    reason: str


@dataclass(frozen=True)
class Admitted:
    """The rows that are new and sound, and those that are not, with reasons."""

    rows: tuple[Example, ...] = ()
    refused: tuple[Refused, ...] = field(default=())


def make_request(tool: ToolSpec, kind: str, language: str, topic: str, count: int) -> Request:
    """A request from a form's values; raises `InputError`."""
    if kind not in ("call", "text"):
        raise InputError(f"The kind of rows must be call or text, not {str(kind)[:40]!r}.")
    if not language.strip() or len(language) > 60:
        raise InputError("Name the language of the rows, as in Russian.")
    if len(topic) > 500:
        raise InputError("The topic is too long: 500 characters are enough.")
    if not 1 <= count <= MAX_ROWS:
        raise InputError(f"The number of rows must be 1 to {MAX_ROWS}, not {count}.")
    return Request(tool, "call" if kind == "call" else "text", " ".join(language.split()), " ".join(topic.split()), count)


def prompt(request: Request, examples: Sequence[Example] = (), written: Sequence[str] = ()) -> list[dict[str, str]]:
    """The turns that ask a model for `request.count` rows; `written` are requests that it should not repeat."""
    system = "You write rows for a data set that teaches a chat assistant when to call a tool. Reply with one JSON object and nothing else."
    tool = {"name": request.tool.name, "description": request.tool.description, "parameters": dict(request.tool.parameters)}
    call = request.kind == "call"
    parts = [
        f"The tool:\n{json.dumps(tool, ensure_ascii=False)}",
        f"Write {request.count} different user requests in {request.language}" + (f" about: {request.topic}." if request.topic else "."),
        "Every request must need this tool: it asks for the user's own data or action, and can't be answered from general knowledge."
        if call else
        "No request may need this tool: definitions, how-to questions, general knowledge, small talk, or the tool's words in a question that is not about "
        f"the user's own data. Give each a short and correct answer in {request.language}.",
        "Vary the length, tone, wording and grammar; include terse and informal ones.",
        f"The form: {json.dumps(_sample(request), ensure_ascii=False)}",
    ]
    shown = [_as_item(row, request) for row in examples if is_call(row) == call][:SHOWN]
    if shown:
        parts.append(f"Rows of the set, for the style:\n{json.dumps({'rows': shown}, ensure_ascii=False)}")
    if written:
        parts.append("Already written, do not repeat:\n" + "\n".join(f"- {text}" for text in written[-TOLD:]))
    return [{"role": "system", "content": system}, {"role": "user", "content": "\n\n".join(parts)}]


def reply_schema(request: Request, *, bounded: bool = False) -> dict[str, Any]:
    """The JSON schema of a reply. `bounded` also limits the number of rows and the lengths, so that a reply must end."""
    text: dict[str, Any] = {"type": "string"}
    item: dict[str, Any] = {"request": text | ({"minLength": 1, "maxLength": BOUND_REQUEST} if bounded else {})}
    root: dict[str, Any] = {}
    if request.kind == "text":
        item["answer"] = text | ({"minLength": 1, "maxLength": BOUND_ANSWER} if bounded else {})
    elif _has_parameters(request.tool):
        parameters = dict(request.tool.parameters)
        # References count from the root, so the definitions must stand there too.
        root = {key: parameters.pop(key) for key in ("$defs", "definitions") if key in parameters}
        item["arguments"] = {"additionalProperties": False} | parameters
    rows: dict[str, Any] = {"type": "array", "items": _closed(item)}
    if bounded:
        rows |= {"minItems": request.count, "maxItems": request.count}
    return _closed({"rows": rows}) | root


def read_reply(text: str, request: Request, model: str = "") -> tuple[list[Example], list[Refused]]:
    """The rows in a model's reply, and what in it can't be used. A whole reply in one ```json fence is unwrapped.

    Of a reply that breaks off within its list, the rows before the break are read like any other.
    """
    if len(text) > MAX_REPLY:
        return [], [Refused("", f"the reply is longer than {MAX_REPLY:,} characters")]
    fence = _FENCE.fullmatch(text.strip())
    try:
        value = parse_json(fence[1] if fence else text)
    except RowError as exc:
        begun = _BEGUN.match(text)
        listed = parse_listed(text, begun.end()) if begun else None
        if listed is None:
            return [], [Refused(_short(text), f"the reply is {exc.reason}" if text.strip() else "the reply is empty")]
        rows, refused = _read_items(listed[0], request, model)
        return rows, [*refused, Refused(_begun_request(listed[1]), CUT)] if listed[1] or not listed[0] else refused
    items = value.get("rows") if isinstance(value, dict) and set(value) == {"rows"} else None
    if not isinstance(items, list):
        return [], [Refused(_short(text), 'the reply is not of the form {"rows": [...]}')]
    return _read_items(items, request, model)


def _read_items(items: Sequence[Any], request: Request, model: str) -> tuple[list[Example], list[Refused]]:
    rows: list[Example] = []
    refused: list[Refused] = []
    for n, item in enumerate(items):
        try:
            if n >= request.count:
                raise RowError(f"more rows than the {request.count} that were asked for")
            rows.append(_read_item(item, request, model))
        except RowError as exc:
            refused.append(Refused(_short(item.get("request", "") if isinstance(item, dict) else item), exc.reason))
    return rows, refused


def _begun_request(item: str) -> str:
    """What stands of the request in an item that breaks off; the item itself where none does."""
    found = re.search(r'"request"\s*:\s*"((?:[^"\\]|\\.)*)', item)
    return _short(found[1] if found else item)


def admit(new: Iterable[Example], existing: Sequence[Example], forbidden: Sequence[str], tools: Sequence[ToolSpec] = ()) -> Admitted:
    """Let in the rows that repeat nothing and call `tools` as their schemas say; without `tools` the calls are not checked.

    A request is refused if it is the same or nearly the same (`checks.NEAR`) as one in the set, one in `forbidden`
    (the evaluation's and the demonstration's prompts), or one let in before it.
    """
    sides = {"a prompt that is kept for measuring": Known(forbidden), "a row of the set": Known(r.request for r in existing), "another new row": Known()}
    by_name = {tool.name: tool for tool in tools}
    rows: list[Example] = []
    refused: list[Refused] = []
    for row in new:
        reason = next((f"repeats {name}, or nearly so: {_short(like)}" for name, known in sides.items() if (like := known.like(row.request)) is not None), "")
        if not reason and by_name:
            reason = next((problem for call in message_calls(row.answer) for problem in call_problems(call, by_name)), "")
        if reason:
            refused.append(Refused(_short(row.request), reason))
            continue
        sides["another new row"].add(row.request)
        rows.append(row)
    return Admitted(tuple(rows), tuple(refused))


def _sample(request: Request) -> dict[str, Any]:
    """The form of a reply, as the prompt shows it."""
    item: dict[str, Any] = {"request": "…"}
    if request.kind == "text":
        item["answer"] = "…"
    elif _has_parameters(request.tool):
        item["arguments"] = dict.fromkeys(request.tool.parameters["properties"], "…")
    return {"rows": [item]}


def _as_item(row: Example, request: Request) -> dict[str, Any]:
    item: dict[str, Any] = {"request": row.request}
    if request.kind == "text":
        item["answer"] = row.answer.content
    elif _has_parameters(request.tool):
        item["arguments"] = dict(message_calls(row.answer)[0].arguments)
    return item


def _read_item(item: Any, request: Request, model: str) -> Example:
    """One item of a reply as a draft row; raises `RowError`."""
    wanted = {"request"} | ({"answer"} if request.kind == "text" else {"arguments"} if _has_parameters(request.tool) else set())
    if not isinstance(item, dict) or set(item) != wanted:
        raise RowError(f"expected an object with {', '.join(sorted(wanted))}")
    said = _text(item["request"], "request", MAX_REQUEST)
    if request.kind == "text":
        answer = _text(item["answer"], "answer", MAX_ANSWER)
    else:
        arguments = item.get("arguments", {})
        if not isinstance(arguments, dict):
            raise RowError("the arguments are not an object")
        problems = call_problems(call := ToolCall(request.tool.name, arguments), {request.tool.name: request.tool})
        if problems:
            raise RowError(problems[0])
        answer = TAG.render(call)
    row = Example((Message("user", said), Message("assistant", answer)), source=f"{SOURCE}:{model}" if model else SOURCE)
    return parse_row(dump_row(row))


def _text(value: Any, name: str, most: int) -> str:
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"the {name} is not a text")
    if len(value) > most:
        raise RowError(f"the {name} is longer than {most} characters")
    if verdict(TAG.parse(value)) != "no tool call":
        raise RowError(f"the {name} holds a tool call's text")
    return value.strip()


def _has_parameters(tool: ToolSpec) -> bool:
    return bool(tool.parameters.get("properties"))


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object with exactly these keys."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else text[:79] + "…"
