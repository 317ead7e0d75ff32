"""How other people's records lay a conversation out, and each as a row: chat, ShareGPT, Alpaca, request and answer, query and calls.

Every reader here gives the values of a row (as `formats.parse_row` takes them) and, for each turn, where its text stood in the
record, so that a problem is named by the record's own fields. Keys that no reader uses stay in the row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from workbench.dataset.call_ids import without_made_ids
from workbench.dataset.formats import parse_row
from workbench.dataset.sharegpt import read_turns, unfold_extras
from workbench.dataset.strict import kind, parse_json, short
from workbench.errors import RowError
from workbench.schema import Example

TITLES = {"chat": "chat messages", "sharegpt": "ShareGPT", "alpaca": "Alpaca", "calls": "query and calls", "pairs": "request and answer"}
LISTS = ("messages", "conversations", "conversation", "turns", "dialog", "dialogue")
REQUESTS = ("request", "prompt", "question", "query", "user", "instruction", "input", "запрос", "вопрос", "инструкция", "пользователь")
ANSWERS = ("answer", "response", "completion", "output", "reply", "assistant", "target", "ответ", "ассистент")
SYSTEMS = ("system", "systemprompt", "система", "системный", "системныйпромпт")
INPUTS = ("input", "context")  # beside an instruction


@dataclass(frozen=True)
class Laid:
    """A record as a row's values; `places[i]` is where the text of turn i stood."""

    value: dict[str, Any]
    places: tuple[str, ...] = ()


def plain_name(name: str) -> str:
    """A column's name as it is compared: lower case, letters and digits only."""
    return re.sub(r"[\W_]+", "", name.casefold())


def find_key(record: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The record's own key that means the first of `names` it has."""
    own = {plain_name(key): key for key in reversed(list(record))}
    return next((own[name] for name in names if name in own), None)


def detect(record: Any) -> str:
    """The key in `TITLES` of a record's layout; raises `RowError` that says what was looked for."""
    if not isinstance(record, dict):
        raise RowError(f"expected a JSON object, found {kind(record)}", "line")
    turns = find_list(record)
    if turns == "messages" and not _is_shared(record[turns]):
        return "chat"
    if turns is not None:
        return "sharegpt"
    if "query" in record and "answers" in record:
        return "calls"
    if "instruction" in record and find_key(record, ("output", "response")) is not None:
        return "alpaca"
    request, answer = pair_keys(record)
    if request is not None and answer is not None:
        return "pairs"
    found = ", ".join(short(k)[1:-1] for k in list(record)[:8]) or "none"
    raise RowError(f"no conversation was found: expected messages, conversations, instruction and output, or request and answer; the keys are {found}", "line")


def find_list(record: Mapping[str, Any]) -> str | None:
    """The key under which the record's turns stand."""
    if "messages" in record:
        return "messages"
    return next((k for k in LISTS if isinstance(record.get(k), list) or _is_list_text(record.get(k))), None)


def pair_keys(record: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The record's own keys for the request and the answer."""
    return find_key(record, REQUESTS), find_key(record, ANSWERS)


def _is_list_text(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip().startswith("[")


def _is_shared(turns: Any) -> bool:
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], dict) and "from" in turns[0] and "role" not in turns[0]


def read_record(record: Any, layout: str) -> Example:
    """The row that a record of a known layout is; raises `RowError` with the record's own field and the reason."""
    laid = READERS[layout](dict(record))
    try:
        row = parse_row(laid.value)
        return without_made_ids(row) if layout == "chat" else row
    except RowError as exc:
        raise RowError(exc.reason, _own_field(exc.field, laid.places)) from exc


def _own_field(field: str, places: tuple[str, ...]) -> str:
    match = re.match(r"messages\[(\d+)\]", field)
    if match is None or int(match[1]) >= len(places):
        return "line" if field == "messages" and places else field
    place = places[int(match[1])]
    rest = field[match.end() :]
    if rest == ".role" and place.endswith((".value", ".content")):
        turn, _, own = place.rpartition(".")
        return f"{turn}.{'from' if own == 'value' else 'role'}"
    return place + ("" if rest == ".content" else rest)


def _chat(record: dict[str, Any]) -> Laid:
    record["messages"] = _as_list(record["messages"], "messages")
    return Laid(with_hermes(record))


def _sharegpt(record: dict[str, Any]) -> Laid:
    key = find_list(record)
    assert key is not None
    given = _as_list(record.pop(key), key)
    if not isinstance(given, list) or not given:
        raise RowError(f"expected a non-empty list, found {kind(given)}", key)
    turns = read_turns(given, key)
    places = [f"{key}[{i}].{'value' if isinstance(t, dict) and 'from' in t else 'content'}" for i, t in enumerate(given)]
    system = record.get("system")
    if isinstance(system, str) and not any(t.get("role") == "system" for t in turns if isinstance(t, dict)):
        del record["system"]
        if system.strip():
            turns, places = [{"role": "system", "content": system}, *turns], ["system", *places]
    return Laid(with_hermes({"messages": turns} | unfold_extras(record)), tuple(places))


def _alpaca(record: dict[str, Any]) -> Laid:
    turns, places = _opening(record)
    history = record.pop("history", None)
    for i, pair in enumerate(history if isinstance(history, list) else []):
        if not (isinstance(pair, list) and len(pair) == 2):
            raise RowError("expected a list of two texts, the request and the answer", f"history[{i}]")
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
        places += [f"history[{i}][0]", f"history[{i}][1]"]
    if history is not None and not isinstance(history, list):
        raise RowError(f"expected a list, found {kind(history)}", "history")
    request = record.pop("instruction")
    more_key = next((k for k in INPUTS if isinstance(record.get(k), str)), None)
    more = record.pop(more_key) if more_key else ""
    if isinstance(request, str) and more.strip():
        request = f"{request}\n{more}" if request.strip() else more
    answer_key = find_key(record, ("output", "response")) or "output"
    turns += [{"role": "user", "content": request}, {"role": "assistant", "content": record.pop(answer_key)}]
    return Laid({"messages": turns} | record, (*places, "instruction", answer_key))


def _pairs(record: dict[str, Any]) -> Laid:
    request_key, answer_key = pair_keys(record)
    assert request_key is not None and answer_key is not None
    request, answer = record.pop(request_key), record.pop(answer_key)
    if isinstance(request, list) and isinstance(answer, list):  # both are lists of turns, as preference trainers have them
        places = (*(f"{request_key}[{i}]" for i in range(len(request))), *(f"{answer_key}[{i}]" for i in range(len(answer))))
        return Laid(with_hermes({"messages": [*request, *answer]} | record), places)
    turns, places_before = _opening(record)
    turns += [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]
    return Laid(with_hermes({"messages": turns} | record), (*places_before, request_key, answer_key))


def _calls(record: dict[str, Any]) -> Laid:
    request, answers = record.pop("query"), record.pop("answers")
    calls = _as_list(answers, "answers") if not isinstance(answers, list) else answers
    if not isinstance(calls, list) or not calls:
        raise RowError(f"expected a list of calls, found {kind(calls)}", "answers")
    turns, places = _opening(record)
    items = [c if isinstance(c, dict) and "function" in c else {"type": "function", "function": c} for c in calls]
    turns += [{"role": "user", "content": request}, {"role": "assistant", "content": None, "tool_calls": items}]
    return Laid({"messages": turns} | record, (*places, "query", "answers"))


def _opening(record: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """The system turn, if the record has a text for it; it is taken out of the record."""
    key = find_key(record, SYSTEMS)
    if key is None or not isinstance(record[key], str):
        return [], []
    text = record.pop(key)
    return ([{"role": "system", "content": text}], [key]) if text.strip() else ([], [])


def _as_list(value: Any, field: str) -> Any:
    if not isinstance(value, str) or not value.strip():
        return value
    try:
        return parse_json(value)
    except RowError as exc:
        raise RowError(f"the text is {exc.reason}", field) from exc


def with_hermes(value: dict[str, Any]) -> dict[str, Any]:
    """The row with calls of the form `<tool_call>{JSON}</tool_call>` at the end of an answer as `tool_calls`."""
    messages = value.get("messages")
    if isinstance(messages, list):
        value["messages"] = [_hermes_turn(m) if isinstance(m, dict) else m for m in messages]
    return value


def _hermes_turn(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if message.get("role") != "assistant" or not isinstance(content, str) or "<tool_call>" not in content or "tool_calls" in message:
        return message
    text, *pieces = content.split("<tool_call>")
    calls = []
    for piece in pieces:
        inside, closed, after = piece.partition("</tool_call>")
        if not closed or after.strip():
            return message
        try:
            call = parse_json(inside.strip())
        except RowError:
            return message
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            return message
        calls.append({"type": "function", "function": call})
    return message | {"content": text.strip(), "tool_calls": calls}


READERS: dict[str, Callable[[dict[str, Any]], Laid]] = {"chat": _chat, "sharegpt": _sharegpt, "alpaca": _alpaca, "calls": _calls, "pairs": _pairs}
