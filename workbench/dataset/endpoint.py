"""Rows from any OpenAI-compatible endpoint: structured output, retries, stop in mid-request, and a cap on what it costs.

The key comes from the environment alone, and no message, note or log of ours holds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from workbench.dataset.generate import BATCH, Refused, Request, admit, prompt, read_reply, reply_schema
from workbench.errors import InputError, WorkbenchError
from workbench.schema import Example

if TYPE_CHECKING:
    from openai import AsyncOpenAI

OWN_KEY, COMMON_KEY = "WORKBENCH_OPENAI_KEY", "OPENAI_API_KEY"
NO_KEY = "no-key-needed"  # local servers want some key and read none
IDLE_REPLIES = 3  # replies in a row without a new row, after which asking on would only cost
TOKENS_A_ROW = 150  # room for one row in a reply
STOP_EVERY = 0.1  # seconds between two looks at the stop request
CHARACTERS_A_TOKEN = 3  # for a server that does not count
LEAST_ROOM = 16  # tokens of a reply below which none is asked for
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds before the first retry, doubled from one to the next, and at most


@dataclass(frozen=True)
class Endpoint:
    """Where to ask and how much it may cost: `max_requests` and `max_tokens` (prompt and reply together) end the writing."""

    address: str
    model: str
    temperature: float = 0.9
    max_requests: int = 20
    max_tokens: int = 50_000
    timeout: float = 120.0  # seconds a reply may take
    retries: int = 3  # of one request, for 429, 5xx and lost connections, with back-off; each counts as a request


@dataclass(frozen=True)
class Written:
    """What came of it. `ended` is a sentence; `failed` where it ended by a fault, `notes` what the person should know."""

    rows: tuple[Example, ...] = ()
    refused: tuple[Refused, ...] = ()
    requests: int = 0
    tokens: int = 0
    ended: str = ""
    failed: bool = False
    notes: tuple[str, ...] = field(default=())


class _Halt(Exception):
    """The person asked to stop."""


class EndpointError(WorkbenchError):
    """The endpoint can't be reached, refused, or said something that is not a reply."""


def key_name(address: str) -> str:
    """Which environment variable's key would be sent to `address`; empty for none.

    `OPENAI_API_KEY` may be another service's: it is never sent unencrypted to another machine.
    """
    if os.environ.get(OWN_KEY, "").strip():
        return OWN_KEY
    split = urlsplit(address.strip())
    if os.environ.get(COMMON_KEY, "").strip() and (split.scheme == "https" or _is_local(split.hostname or "")):
        return COMMON_KEY
    return ""


def check_endpoint(endpoint: Endpoint) -> Endpoint:
    """The endpoint with its address trimmed; raises `InputError` for what can't be asked."""
    address = endpoint.address.strip().rstrip("/")
    try:
        split = urlsplit(address)
        usable = split.scheme in ("http", "https") and bool(split.hostname) and split.port != 0
    except ValueError:
        usable = False
    if not usable or len(address) > 500 or not address.isprintable() or " " in address:
        raise InputError(f"The address {address[:80]!r} can't be asked: give one such as http://127.0.0.1:8000/v1 or https://api.openai.com/v1.")
    if split.username is not None or split.password is not None or split.query or split.fragment:
        raise InputError(f"The address must hold no user, password or query: put the key into the environment variable {OWN_KEY}.")
    if not endpoint.model.strip() or len(endpoint.model) > 200:
        raise InputError("Name the model that the endpoint should use.")
    if not (1 <= endpoint.max_requests <= 1000 and 100 <= endpoint.max_tokens <= 10_000_000):
        raise InputError("The caps must be 1 to 1,000 requests and 100 to 10,000,000 tokens.")
    return replace(endpoint, address=address, model=endpoint.model.strip())


def write_rows(
    endpoint: Endpoint, request: Request, existing: Sequence[Example], forbidden: Sequence[str], *,
    progress: Callable[[Written], None] = lambda _: None, stop: Callable[[], bool] = lambda: False,
) -> Written:
    """Ask for rows in batches until there are `request.count`, a cap is reached, it is stopped, or the endpoint fails.

    What has been written is kept in every case, and `Written.ended` says how it ended. `stop` is asked between and
    during requests. Raises `InputError` for an endpoint that can't be asked at all.
    """
    checked = check_endpoint(endpoint)

    def run() -> Written:
        return asyncio.run(_write(checked, request, existing, forbidden, progress, stop))

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return run()
    with ThreadPoolExecutor(1) as aside:  # this thread's event loop is busy with its caller
        return aside.submit(run).result()


async def _write(
    endpoint: Endpoint, request: Request, existing: Sequence[Example], forbidden: Sequence[str],
    progress: Callable[[Written], None], stop: Callable[[], bool],
) -> Written:
    done, idle = Written(), 0
    async with _client(endpoint) as client:
        asker = _Asker(client, endpoint)
        while len(done.rows) < request.count:
            part = replace(request, count=min(BATCH, request.count - len(done.rows)))
            turns = prompt(part, existing, [r.request for r in done.rows])
            room = endpoint.max_tokens - done.tokens - _estimated(turns)  # the longest reply that is still paid for
            ended = _capped(endpoint, done, room) or ("" if idle < IDLE_REPLIES else f"{idle} replies in a row brought nothing new: ask for another topic or kind.")
            if ended:
                return replace(done, ended=ended)
            try:
                reply = await _unless_stopped(asker.ask(turns, part, room=room, most=endpoint.max_requests - done.requests), stop)
            except _Halt:
                return replace(done, requests=done.requests + asker.sent, ended="Stopped by you.")
            except EndpointError as exc:
                return replace(done, requests=done.requests + asker.sent, notes=tuple(asker.notes), ended=str(exc), failed=True)
            before = len(done.rows)
            done = _taken_in(done, reply, part, existing, forbidden, endpoint.model)
            done = replace(done, requests=done.requests + asker.sent, notes=tuple(asker.notes))
            asker.sent = 0
            idle = idle + 1 if len(done.rows) == before else 0
            progress(done)
    return replace(done, ended="All rows are written.")


def _taken_in(done: Written, reply: _Reply, part: Request, existing: Sequence[Example], forbidden: Sequence[str], model: str) -> Written:
    rows, refused = read_reply(reply.text, part, model)
    if reply.cut:
        refused = [Refused(r.request, f"{r.reason} (the reply was cut at its length limit)") for r in refused]
    let_in = admit(rows, [*existing, *done.rows], forbidden, [part.tool])
    return replace(done, rows=done.rows + let_in.rows, refused=(*done.refused, *refused, *let_in.refused), tokens=done.tokens + reply.tokens)


def _capped(endpoint: Endpoint, done: Written, room: int) -> str:
    """Why no further request may be sent, which would leave a reply `room` tokens; empty if one may."""
    if done.requests >= endpoint.max_requests:
        return f"The cap of {endpoint.max_requests} requests is reached; what was written is kept."
    if done.tokens >= endpoint.max_tokens:
        return f"The cap of {endpoint.max_tokens:,} tokens is reached ({done.tokens:,} used); what was written is kept."
    if room < LEAST_ROOM:
        return f"The cap of {endpoint.max_tokens:,} tokens leaves no room for another request ({done.tokens:,} used): raise it to go on; what was written is kept."
    return ""


def _estimated(turns: Sequence[dict[str, str]], reply: str = "") -> int:
    return (sum(len(t["content"]) for t in turns) + len(reply)) // CHARACTERS_A_TOKEN + 1


# -- one request ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reply:
    text: str
    tokens: int
    cut: bool


@dataclass
class _Asker:
    """Asks in the strictest form that the server takes; what it refused once is not tried again."""

    client: AsyncOpenAI
    endpoint: Endpoint
    form: int = 0  # of `_FORMS`
    length_name: str = "max_tokens"
    with_temperature: bool = True
    sent: int = 0
    notes: list[str] = field(default_factory=list)

    async def ask(self, turns: list[dict[str, str]], request: Request, *, room: int, most: int) -> _Reply:
        """One reply of at most `room` tokens, in at most `most` requests; raises `EndpointError` with one sentence, which never holds the key."""
        import openai

        tries = 0  # that failed in a way that may pass
        while True:
            self.sent += 1
            try:
                completion = await self.client.chat.completions.create(**self._body(turns, request, room))
                return self._read(completion, turns)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as exc:
                if self.sent >= most:
                    raise EndpointError(f"The cap of {self.endpoint.max_requests} requests is reached, and the endpoint refused the last: {self._clean(_said(exc))}") from None
                if not self._step_down(str(exc)):
                    raise EndpointError(f"The endpoint refused the request ({exc.status_code}): {self._clean(_said(exc))}") from None
            except openai.OpenAIError as exc:
                if tries >= self.endpoint.retries or not _may_pass(exc):
                    raise EndpointError(self._sentence(exc)) from None
                if self.sent >= most:
                    raise EndpointError(f"The cap of {self.endpoint.max_requests} requests is reached, and the last failed: {self._sentence(exc)}") from None
                await asyncio.sleep(_wait(exc, tries))
                tries += 1
            except ValueError:
                raise EndpointError(self._garbage()) from None

    def _body(self, turns: list[dict[str, str]], request: Request, room: int) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.endpoint.model, "messages": turns, self.length_name: min(room, TOKENS_A_ROW * (request.count + 1))}
        if self.with_temperature:
            body["temperature"] = self.endpoint.temperature
        name = _FORMS[self.form]
        if name == "json_schema":
            schema = reply_schema(request)
            body["response_format"] = {"type": name, "json_schema": {"name": "rows", "schema": schema, "strict": _is_strict(schema)}}
        elif name == "json_object":
            body["response_format"] = {"type": name}
        return body

    def _step_down(self, said: str) -> bool:
        """Leave out what the server refused; False where nothing is left to leave out."""
        if "max_completion_tokens" in said and self.length_name == "max_tokens":
            self.length_name = "max_completion_tokens"
        elif "temperature" in said and self.with_temperature:
            self.with_temperature = False
            self.notes.append("The endpoint takes no temperature: its own was used.")
        elif self.form + 1 < len(_FORMS):
            refused, self.form = _FORMS[self.form], self.form + 1
            self.notes.append(f"The endpoint refused {refused} output: asked {_INSTEAD[_FORMS[self.form]]} instead.")
        else:
            return False
        return True

    def _read(self, completion: Any, turns: list[dict[str, str]]) -> _Reply:
        choices = getattr(completion, "choices", None)
        message = getattr(choices[0], "message", None) if isinstance(choices, list) and choices else None
        if message is None or not isinstance(choices, list):
            raise EndpointError(self._garbage())
        text = message.content if isinstance(message.content, str) else ""
        used = getattr(getattr(completion, "usage", None), "total_tokens", None)
        if not isinstance(used, int) or used <= 0:
            used = _estimated(turns, text)
            if not any("estimated" in n for n in self.notes):
                self.notes.append("The endpoint counts no tokens: they are estimated.")
        return _Reply(text, used, choices[0].finish_reason == "length")

    def _sentence(self, exc: Exception) -> str:
        import openai

        where, model = self.endpoint.address, self.endpoint.model
        if isinstance(exc, openai.APITimeoutError):
            return f"{where} did not answer within {self.endpoint.timeout:.0f} s: try again, or ask for fewer rows."
        if isinstance(exc, openai.APIConnectionError):
            return f"{where} can't be reached: check the address and whether the server runs."
        if isinstance(exc, (openai.AuthenticationError, openai.PermissionDeniedError)):
            sent = key_name(where)
            return f"{where} refused the key ({f'from {sent}' if sent else 'none was set'}): set {OWN_KEY} or {COMMON_KEY} and start the workbench again."
        if isinstance(exc, openai.NotFoundError):
            return f"{where} knows no model {model!r}, or the address lacks its /v1: check both."
        if isinstance(exc, openai.RateLimitError):
            return f"{where} asks to slow down (rate limit or quota): wait a while, then go on."
        if isinstance(exc, openai.APIStatusError):
            return f"{where} failed with status {exc.status_code}: {self._clean(_said(exc))}"
        return self._garbage()

    def _garbage(self) -> str:
        return f"{self.endpoint.address} answered something that is not a chat completion: check that the address ends as the server's /v1 does."

    def _clean(self, text: str) -> str:
        """What the server said, short and without the key, should it repeat it."""
        for name in (OWN_KEY, COMMON_KEY):
            key = os.environ.get(name, "").strip()
            text = text.replace(key, "[key]") if key else text
        return " ".join(text.split())[:200]


_FORMS = ("json_schema", "json_object", "plain")
_INSTEAD = {"json_object": "for a JSON object", "plain": "in plain words"}


def _may_pass(exc: Exception) -> bool:
    """Whether the same request may be answered later: a lost connection, too many requests, a server in trouble."""
    import openai

    return isinstance(exc, openai.APIConnectionError) or (isinstance(exc, openai.APIStatusError) and (exc.status_code in (408, 409, 429) or exc.status_code >= 500))


def _wait(exc: Any, tries: int) -> float:
    """Seconds before the next try: what the server asks for, else twice as long as the last time."""
    headers: Any = getattr(getattr(exc, "response", None), "headers", {})
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with contextlib.suppress(TypeError, ValueError):
            asked = float(headers.get(name)) * unit
            if 0 <= asked <= LONGEST_WAIT:
                return asked
    return float(min(FIRST_WAIT * 2**tries, LONGEST_WAIT))


def _said(exc: Any) -> str:
    body = exc.body
    message = body.get("message") if isinstance(body, dict) else None
    return message if isinstance(message, str) else str(exc)


async def _unless_stopped(asking: Any, stop: Callable[[], bool]) -> _Reply:
    """The reply; cancels the request (and closes its connection) as soon as `stop` says so."""
    task = asyncio.ensure_future(asking)
    try:
        while True:
            if stop():
                raise _Halt
            finished, _ = await asyncio.wait({task}, timeout=STOP_EVERY)
            if finished:
                reply: _Reply = task.result()
                return reply
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


def _client(endpoint: Endpoint) -> AsyncOpenAI:
    from openai import AsyncOpenAI

    name = key_name(endpoint.address)
    key = os.environ[name].strip() if name else NO_KEY
    return AsyncOpenAI(base_url=endpoint.address, api_key=key, timeout=endpoint.timeout, max_retries=0)  # retries are ours, so that each one counts


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_strict(schema: Any) -> bool:
    """Whether OpenAI's strict mode can take the schema: every object closed, with all its keys required."""
    if isinstance(schema, list):
        return all(_is_strict(s) for s in schema)
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object" and (schema.get("additionalProperties") is not False or set(schema.get("required", ())) != set(schema.get("properties", {}))):
        return False
    return all(_is_strict(s) for s in schema.values())
