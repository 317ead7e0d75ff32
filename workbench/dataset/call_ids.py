"""The ids that tie a tool's result to its call: made where a file for others wants them, and taken off again when it comes back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from workbench.schema import Example, Message, ToolCall

RESULT_ID = "tool_call_id"


def with_ids(row: Example) -> Example:
    """The row with an id on every item of `tool_calls`, and the id of its call on every result; those it has already stay.

    Results belong to the calls before them in their order; one without a call gets none.
    """
    taken = {call.id for message in row.messages for call in message.tool_calls}
    messages: list[Message] = []
    waiting: Iterator[str | None] = iter(())
    for turn, message in enumerate(row.messages, 1):
        if message.role == "tool":
            answered = next(waiting, None)
            if answered is not None and RESULT_ID not in message.extras:
                message = replace(message, extras={**message.extras, RESULT_ID: answered})
        else:
            calls = tuple(_named(call, _made(turn, n), taken) for n, call in enumerate(message.tool_calls, 1))
            message = replace(message, tool_calls=calls)
            waiting = iter([call.id for call in calls])
        messages.append(message)
    return replace(row, messages=tuple(messages))


def without_made_ids(row: Example) -> Example:
    """The row without the ids that `with_ids` made for its calls, and with them those of their results; others are the file's own."""
    made = {call.id for turn, message in enumerate(row.messages, 1) for n, call in enumerate(message.tool_calls, 1) if call.id == _made(turn, n)}
    if not made:
        return row
    bare = replace(row, messages=tuple(_bare(message, made) for message in row.messages))
    return bare if with_ids(bare) == row else row


def _named(call: ToolCall, made: str, taken: set[str | None]) -> ToolCall:
    return replace(call, id=made) if call.id is None and "id" not in call.extras and made not in taken else call


def _bare(message: Message, made: set[str]) -> Message:
    given = message.extras.get(RESULT_ID)
    extras = {k: v for k, v in message.extras.items() if k != RESULT_ID} if isinstance(given, str) and given in made else message.extras
    return replace(message, tool_calls=tuple(replace(call, id=None) if call.id in made else call for call in message.tool_calls), extras=extras)


def _made(turn: int, number: int) -> str:
    return f"call_{turn}_{number}"
