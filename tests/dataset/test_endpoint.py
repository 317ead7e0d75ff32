"""The OpenAI-compatible endpoint, against a real HTTP server on this machine that answers as the test says."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from workbench.dataset import endpoint as module
from workbench.dataset.endpoint import Endpoint, Written, check_endpoint, key_name, write_rows
from workbench.dataset.generate import Request, reply_schema
from workbench.errors import InputError
from workbench.schema import Example, Message, ToolSpec

KEY = "sk-test-0123456789"
REQUEST = Request(ToolSpec("get_sensitive_data"), "call", "Russian", "баланс", 3)
WORDS = ["баланс карты", "где мои деньги сегодня", "последние операции", "лимит на снятие", "долг по ипотеке", "номер договора", "штрафы за парковку",
         "мой тариф", "статус посылки", "бонусные мили", "срок вклада", "адрес доставки", "кто входил в кабинет", "начисленный кэшбэк", "комиссия вчера"]
Answer = tuple[int, Any]


class Server:
    """Speaks /v1/chat/completions. `script` gives each request's answer: (status, JSON value, text or seconds to be silent)."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.script: Callable[[dict[str, Any]], Answer] = lambda body: (200, completion(rows_of(body)))
        self.gone = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                server.keys.append(self.headers["Authorization"])
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.bodies.append(body | {"path": self.path})
                status, value = server.script(body)
                if status == 0:  # say nothing until the client hangs up
                    self.connection.settimeout(20)
                    if self.connection.recv(1) == b"":
                        server.gone.set()
                    return
                raw = (value if isinstance(value, str) else json.dumps(value)).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("retry-after-ms", "1")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def completion(content: Any, *, tokens: int | None = 40, finish: str = "stop") -> dict[str, Any]:
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    made: dict[str, Any] = {
        "id": "1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
    }
    return made | ({"usage": {"prompt_tokens": 10, "completion_tokens": tokens - 10, "total_tokens": tokens}} if tokens else {})


def rows_of(body: dict[str, Any], count: int = 1) -> dict[str, Any]:
    """The next unused words, as a model would that heeds what is already written."""
    left = [w for w in WORDS if w not in body["messages"][1]["content"]]
    return {"rows": [{"request": text} for text in left[:count]]}


def refusal(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "error", "code": None, "param": None}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("WORKBENCH_OPENAI_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made = Server()
    yield made
    made.close()


def ask(server: Server, request: Request = REQUEST, **change: Any) -> Written:
    told = change.pop("told", [])
    existing, forbidden = change.pop("existing", []), change.pop("forbidden", [])
    stop = change.pop("stop", lambda: False)
    endpoint = replace(Endpoint(server.url, "m", timeout=20, retries=2), **change)
    return write_rows(endpoint, request, existing, forbidden, progress=told.append, stop=stop)


def requests(done: Written) -> list[str]:
    return [row.request for row in done.rows]


def test_rows_come_in_structured_output_until_there_are_enough(server: Server) -> None:
    told: list[Written] = []
    done = ask(server, told=told)
    assert requests(done) == WORDS[:3]
    assert (done.requests, done.tokens, done.refused, done.ended, done.failed, done.notes) == (3, 120, (), "All rows are written.", False, ())
    assert [len(t.rows) for t in told] == [1, 2, 3]
    assert all(row.source == "generated:model:m" and row.status == "draft" and row.awaits_review for row in done.rows)
    assert all(row.answer.content == '<tool_call name="get_sensitive_data" arguments="{}"/>' for row in done.rows)
    assert [b["path"] for b in server.bodies] == ["/v1/chat/completions"] * 3 and set(server.keys) == {f"Bearer {KEY}"}
    first = server.bodies[0]
    assert (first["model"], first["temperature"], first["max_tokens"]) == ("m", 0.9, 600)
    assert first["response_format"] == {"type": "json_schema", "json_schema": {"name": "rows", "schema": reply_schema(REQUEST), "strict": True}}
    assert WORDS[0] in server.bodies[1]["messages"][1]["content"]


def test_no_request_asks_for_more_than_ten_rows(server: Server) -> None:
    server.script = lambda body: (200, completion(rows_of(body, 10)))
    done = ask(server, replace(REQUEST, count=13))
    assert requests(done) == WORDS[:13]
    assert ["Write 10 different" in b["messages"][1]["content"] for b in server.bodies] == [True, False]
    assert "Write 3 different" in server.bodies[1]["messages"][1]["content"]
    assert [r.reason for r in done.refused] == ["more rows than the 3 that were asked for"] * 2


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again_and_then_answers(server: Server, status: int) -> None:
    script = iter([(status, refusal("slow down")), (status, refusal("slow down"))])
    server.script = lambda body: next(script, (200, completion(rows_of(body, 3))))
    done = ask(server)
    assert requests(done) == WORDS[:3] and len(server.bodies) == 3 and done.requests == 3


@pytest.mark.parametrize(("status", "says", "asked"), [
    (401, r"refused the key \(from OPENAI_API_KEY\): set WORKBENCH_OPENAI_KEY or OPENAI_API_KEY", 1),
    (403, "refused the key", 1), (404, "knows no model 'm', or the address lacks its /v1", 1),
    (429, r"asks to slow down \(rate limit or quota\)", 3), (500, "failed with status 500: Bearer \\[key\\] was bad", 3),
    (400, r"refused the request \(400\): Bearer \[key\] was bad", 3),
])
def test_a_refusal_is_one_sentence_without_the_key(server: Server, caplog: pytest.LogCaptureFixture, status: int, says: str, asked: int) -> None:
    caplog.set_level(logging.DEBUG)
    server.script = lambda body: (status, refusal(f"Bearer {KEY} was bad"))
    done = ask(server)
    assert (done.rows, done.failed) == ((), True) and len(server.bodies) == asked
    assert re.search(says, done.ended), done.ended
    assert KEY not in done.ended + repr(done) and "\n" not in done.ended
    assert KEY not in "".join(record.getMessage() for record in caplog.records if record.name.startswith("workbench"))


def test_what_was_written_before_a_fault_is_kept(server: Server) -> None:
    script = iter([(200, completion({"rows": [{"request": WORDS[0]}]})), (401, refusal("no"))])
    server.script = lambda body: next(script)
    done = ask(server)
    assert requests(done) == WORDS[:1] and done.failed and (done.requests, done.tokens) == (2, 40)


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_without_structured_output_is_asked_more_plainly_and_says_so(server: Server, status: int) -> None:
    def script(body: dict[str, Any]) -> Answer:
        form = body.get("response_format", {}).get("type")
        if form == "json_schema" or (form == "json_object" and plain_only):
            return status, refusal("response_format is not supported")
        return 200, completion(rows_of(body, 2))

    server.script, plain_only = script, False
    done = ask(server)
    assert [b.get("response_format", {}).get("type") for b in server.bodies] == ["json_schema", "json_object", "json_object"]
    assert (requests(done), done.requests) == (WORDS[:3], 3)
    assert done.notes == ("The endpoint refused json_schema output: asked for a JSON object instead.",)
    server.bodies.clear()
    plain_only = True
    done = ask(server)
    assert [b.get("response_format", {}).get("type") for b in server.bodies] == ["json_schema", "json_object", None, None]
    assert done.notes[1:] == ("The endpoint refused json_object output: asked in plain words instead.",)


def test_newer_names_of_parameters_are_followed(server: Server) -> None:
    def script(body: dict[str, Any]) -> Answer:
        if "max_tokens" in body:
            return 400, refusal("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        if "temperature" in body:
            return 400, refusal("Unsupported value: 'temperature' does not support 0.9.")
        return 200, completion(rows_of(body, 3))

    server.script = script
    done = ask(server)
    assert requests(done) == WORDS[:3]
    assert server.bodies[-1]["max_completion_tokens"] == 600 and server.bodies[-1]["response_format"]["type"] == "json_schema"
    assert done.notes == ("The endpoint takes no temperature: its own was used.",)


@pytest.mark.parametrize(("content", "reason"), [
    ("Sure! Here are the rows", "the reply is not valid JSON"), ('{"rows": "x"}', 'not of the form {"rows": [...]}'), ("", "the reply is empty"),
    ({"rows": [{"text": "x"}]}, "expected an object with request"),
])
def test_replies_that_bring_nothing_end_the_writing_instead_of_costing_on(server: Server, content: Any, reason: str) -> None:
    server.script = lambda body: (200, completion(content))
    done = ask(server)
    assert (done.rows, done.requests) == ((), 3) and done.ended == "3 replies in a row brought nothing new: ask for another topic or kind."
    assert len(done.refused) == 3 and all(reason in r.reason for r in done.refused)


@pytest.mark.parametrize("said", ["<html>hello</html>", '{"error": null}', "[]", "null", '{"choices": []}', '{"choices": [{}]}', '"x"'])
def test_what_is_no_chat_completion_is_said_so(server: Server, said: str) -> None:
    server.script = lambda body: (200, said)
    done = ask(server)
    assert done.failed and done.ended.startswith(f"{server.url} answered something that is not a chat completion")


def test_a_reply_cut_at_its_length_says_why_it_is_not_json(server: Server) -> None:
    server.script = lambda body: (200, completion('{"rows": [{"request": "мой ба', finish="length"))
    assert ask(server).refused[0].reason.endswith("(the reply was cut at its length limit)")


def test_a_slow_reply_is_stopped_in_mid_request_and_its_connection_closed(server: Server) -> None:
    server.script = lambda body: (0, None)
    stopping = threading.Event()
    threading.Thread(target=lambda: (wait_for(lambda: server.bodies), stopping.set()), daemon=True).start()
    done = ask(server, stop=stopping.is_set)
    assert (done.rows, done.requests, done.ended, done.failed) == ((), 1, "Stopped by you.", False)
    assert server.gone.wait(10), "the server must see that nobody waits any more"


def wait_for(condition: Callable[[], Any]) -> None:
    while not condition():
        time.sleep(0.01)


def test_a_stop_between_requests_keeps_what_was_written(server: Server) -> None:
    told: list[Written] = []
    done = ask(server, told=told, stop=lambda: bool(told))
    assert requests(done) == WORDS[:1] and done.ended == "Stopped by you." and len(server.bodies) == 1


def test_a_reply_that_takes_too_long_is_given_up(server: Server) -> None:
    server.script = lambda body: (0, None)
    done = ask(server, timeout=0.2, retries=0)
    assert done.failed and done.ended == f"{server.url} did not answer within 0 s: try again, or ask for fewer rows."


def test_a_server_that_is_not_there_is_said_so(server: Server) -> None:
    server.close()
    done = ask(server, retries=0)
    assert done.failed and done.ended == f"{server.url} can't be reached: check the address and whether the server runs."


def test_the_caps_on_requests_and_tokens_end_the_writing_with_what_there_is(server: Server) -> None:
    done = ask(server, max_requests=2)
    assert requests(done) == WORDS[:2] and done.ended == "The cap of 2 requests is reached; what was written is kept."
    server.script = lambda body: (200, completion(rows_of(body), tokens=500))
    done = ask(server, max_tokens=1000)
    assert requests(done) == WORDS[:2] and done.tokens == 1000
    assert done.ended == "The cap of 1,000 tokens is reached (1,000 used); what was written is kept."
    sent = [sum(len(m["content"]) for m in b["messages"]) // 3 + 1 for b in server.bodies[-2:]]
    assert [b["max_tokens"] for b in server.bodies[-2:]] == [600, 1000 - 500 - sent[1]], "a prompt and its reply are never longer than what is still paid for"


def test_no_request_is_sent_whose_prompt_alone_costs_more_than_is_left(server: Server) -> None:
    done = ask(server, max_tokens=150)
    assert (server.bodies, done.rows, done.failed) == ([], (), False)
    assert done.ended == "The cap of 150 tokens leaves no room for another request (0 used): raise it to go on; what was written is kept."


@pytest.mark.parametrize("status", [429, 503])
def test_retries_count_as_requests(server: Server, status: int) -> None:
    server.script = lambda body: (status, refusal("slow down"))
    done = ask(server, max_requests=1)
    assert (len(server.bodies), done.requests, done.failed) == (1, 1, True)
    assert done.ended.startswith("The cap of 1 requests is reached, and the last failed: ")
    done = ask(server, max_requests=20, retries=3)
    assert (len(server.bodies), done.requests) == (5, 4)


@pytest.mark.parametrize(("headers", "tries", "seconds"), [
    ({"retry-after-ms": "250"}, 0, 0.25), ({"retry-after": "3"}, 0, 3.0), ({"retry-after": "soon"}, 1, 1.0), ({"retry-after": "9999"}, 2, 2.0), ({}, 9, 60.0), ({}, 0, 0.5),
])
def test_the_wait_is_what_the_server_asks_for_or_doubles(headers: dict[str, str], tries: int, seconds: float) -> None:
    assert module._wait(SimpleNamespace(response=SimpleNamespace(headers=headers)), tries) == seconds


def test_forms_that_were_refused_count_as_requests_too(server: Server) -> None:
    server.script = lambda body: (400, refusal("no")) if "response_format" in body else (200, completion(rows_of(body)))
    done = ask(server, max_requests=1)
    assert (done.requests, done.failed, done.ended) == (1, True, "The cap of 1 requests is reached, and the endpoint refused the last: no")
    done = ask(server, max_requests=4)
    assert (done.requests, requests(done)) == (4, WORDS[:2])


def test_tokens_are_estimated_where_the_server_counts_none(server: Server) -> None:
    server.script = lambda body: (200, completion(rows_of(body, 3), tokens=None))
    done = ask(server)
    body = server.bodies[0]
    written = json.dumps({"rows": [{"request": w} for w in WORDS[:3]]}, ensure_ascii=False)
    assert done.tokens == (sum(len(m["content"]) for m in body["messages"]) + len(written)) // 3 + 1
    assert done.notes == ("The endpoint counts no tokens: they are estimated.",)


def test_repeats_of_the_set_and_of_prompts_kept_for_measuring_are_refused_by_name(server: Server) -> None:
    row = Example((Message("user", WORDS[0]), Message("assistant", "x")))
    server.script = lambda body: (200, completion({"rows": [{"request": WORDS[0] + "!"}, {"request": WORDS[1].upper()}, {"request": WORDS[2]}]}))
    done = ask(server, existing=[row], forbidden=[WORDS[1]], max_requests=1)
    assert requests(done) == [WORDS[2]]
    assert [r.reason for r in done.refused] == [
        f"repeats a row of the set, or nearly so: {WORDS[0]}", f"repeats a prompt that is kept for measuring, or nearly so: {WORDS[1]}",
    ]


# -- addresses and keys ----------------------------------------------------------------------------


@pytest.mark.parametrize(("change", "says"), [
    ({"address": "ftp://x/v1"}, "can't be asked: give one such as"), ({"address": "file:///etc/passwd"}, "can't be asked"), ({"address": ""}, "can't be asked"),
    ({"address": "http://"}, "can't be asked"), ({"address": "http://a b/v1"}, "can't be asked"), ({"address": "http://x:99999/v1"}, "can't be asked"),
    ({"address": "http://[::1"}, "can't be asked"), ({"address": "http://me:secret@x/v1"}, "must hold no user, password"), ({"address": "http://x/v1?key=1"}, "must hold no"),
    ({"model": " "}, "Name the model"), ({"max_requests": 0}, "The caps must be"), ({"max_tokens": 5}, "The caps must be"),
])
def test_an_endpoint_that_can_t_be_asked_is_refused_before_anything_is_sent(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        check_endpoint(replace(Endpoint("http://127.0.0.1:1/v1", "m"), **change))
    assert "secret" not in str(caught.value)


def test_which_key_goes_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORKBENCH_OPENAI_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert key_name("https://api.openai.com/v1") == ""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    addresses = ("https://api.openai.com/v1", "http://127.0.0.1:8000/v1", "http://localhost/v1", "http://[::1]/v1", "http://192.168.0.5/v1", "http://example.com/v1")
    assert [key_name(a) for a in addresses] == ["OPENAI_API_KEY"] * 4 + ["", ""]
    monkeypatch.setenv("WORKBENCH_OPENAI_KEY", "own")
    assert {key_name(a) for a in addresses} == {"WORKBENCH_OPENAI_KEY"}


def test_without_a_key_a_dummy_is_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    server.script = lambda body: (200, completion(rows_of(body, 3)))
    assert len(ask(server).rows) == 3 and server.keys == [f"Bearer {module.NO_KEY}"]
    monkeypatch.setenv("WORKBENCH_OPENAI_KEY", "own")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    ask(server)
    assert server.keys[-1] == "Bearer own"


def test_strict_output_is_asked_for_only_where_the_schema_allows_it(server: Server) -> None:
    loose = ToolSpec("f", "", {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "required": ["a"]})
    server.script = lambda body: (200, completion({"rows": [{"request": WORDS[0], "arguments": {"a": "x"}}]}))
    done = ask(server, Request(loose, "call", "Russian", "", 1))
    assert server.bodies[0]["response_format"]["json_schema"]["strict"] is False
    assert done.rows[0].answer.content == '<tool_call name="f" arguments="{&quot;a&quot;: &quot;x&quot;}"/>'


def test_rows_are_written_from_a_thread_with_a_running_event_loop_too():
    """A caller inside asyncio gets its rows all the same."""
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    async def caller():
        return write_rows(Endpoint("http://127.0.0.1:9", "m", retries=0), Request(ToolSpec("f"), "call", "Russian", "", 1), [], [])

    with ThreadPoolExecutor(1) as aside:  # the browser's tests leave a loop running in this thread
        assert aside.submit(asyncio.run, caller()).result().failed
