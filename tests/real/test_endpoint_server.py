"""The endpoint against a real OpenAI-compatible server, `transformers serve`, with the embedded model behind it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from workbench.dataset.endpoint import Endpoint, write_rows
from workbench.dataset.generate import Request
from workbench.schema import ToolSpec

pytestmark = [pytest.mark.real_model, pytest.mark.slow]
REQUEST = Request(ToolSpec("get_sensitive_data", "Private data of the client"), "text", "English", "bank account balance", 1)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, demo_folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    log = tmp_path_factory.mktemp("serve") / "serve.log"
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(demo_folder), "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    try:
        end = time.monotonic() + 180
        while not _up(f"http://127.0.0.1:{port}/health"):
            if process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"the server did not come up: {log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _up(url: str) -> bool:
    try:
        return bool(urllib.request.urlopen(url, timeout=2).status == 200)
    except OSError:
        return False


def test_a_real_server_s_reply_comes_through_and_is_let_in_or_refused_with_a_reason(address: str, demo_folder: Path) -> None:
    """The small model hardly ever writes sound rows of its own; what counts is that its reply arrives and is judged."""
    endpoint = Endpoint(address, str(demo_folder), max_requests=1, max_tokens=700, timeout=300, retries=0)
    done = write_rows(endpoint, REQUEST, [], [])
    assert not done.failed, done.ended
    assert done.requests == 1 and done.tokens > 100, "the server counts the prompt's tokens and the reply's"
    assert len(done.rows) + len(done.refused) >= 1 and all(r.reason for r in done.refused)
    assert all(row.source == f"generated:model:{demo_folder}" for row in done.rows)


def test_a_stop_in_the_middle_of_a_real_reply_ends_at_once(address: str, demo_folder: Path) -> None:
    begun = time.monotonic()
    endpoint = Endpoint(address, str(demo_folder), timeout=300, retries=0)
    done = write_rows(endpoint, REQUEST, [], [], stop=lambda: time.monotonic() - begun > 1.0)
    assert (done.rows, done.ended, done.requests) == ((), "Stopped by you.", 1)
