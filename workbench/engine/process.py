"""One worker process and its three pipes. Nothing here blocks the caller, however badly the process behaves."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

LONGEST_LINE = 2**26  # bytes of one message: a whole evaluation's replies fit many times
MOST_NOISE = 10_000  # lines that are no messages on the pipe for messages: more is a fault of the process
KEPT_WORDS = 2**14  # bytes of what it said last
QUEUED = 10_000  # messages that wait to be read: a process that says more has to wait itself


class WorkerProcess:
    """A started process that takes and says JSON lines. Raises `OSError` if it can't be started."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        # A session of its own: Ctrl+C in the terminal is the app's, and its children can be ended with it.
        self._popen = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder, start_new_session=True
        )
        self._lines: queue.Queue[bytes | None] = queue.Queue(maxsize=QUEUED)
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._words = b""
        self._words_lock = threading.Lock()
        self._left = False
        self.noise = 0
        """Lines so far, on the pipe for messages, that are none."""
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._read, self._read_words, self._write)]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def send(self, message: BaseModel) -> None:
        """Hand a message over; it is written as soon as the process takes it. One that is gone is told by `hear`."""
        self._outbox.put(message.model_dump_json().encode() + b"\n")

    def hear(self, seconds: float) -> bytes | None:
        """The next line, b"" once its output has ended, or None if there is none within `seconds`."""
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            return None
        if line is None:
            self._lines.put(None)  # the end stays the end
            return b""
        return line

    def noted(self, line: bytes) -> None:
        """A line that was no message: kept among its words, and counted."""
        self.noise += 1
        self._keep(line)

    def last_words(self) -> str:
        """The last line it said (to its log, or where only messages belong) that is no warning; "nothing" if there is none."""
        with self._words_lock:
            lines = re.split(r"[\r\n]+", self._words.decode("utf-8", errors="replace"))
        # A library's warnings are not what it died of.
        return next((line.strip() for line in reversed(lines) if line.strip() and "warn" not in line.lower()), "nothing")

    def close_input(self) -> None:
        """Tell it to come to an end: a run in hand is stopped and keeps its adapter."""
        self._outbox.put(None)

    def kill(self) -> None:
        """End it and its children at once."""
        self._left = True
        if self._popen.poll() is None:
            try:
                os.killpg(self._popen.pid, signal.SIGKILL)
            except (AttributeError, ProcessLookupError, PermissionError):  # no groups on this system, or gone meanwhile
                self._popen.kill()

    def ended(self, seconds: float) -> int | None:
        """Its exit code (negative: the signal), or None if it has not ended within `seconds`; its last words are in by then."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._popen.wait(seconds)
            self._left = True
            self.close_input()
            self._threads[1].join(timeout=2)  # the last words
            return code
        return None

    # -- its pipes --------------------------------------------------------------------------------

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as stream, contextlib.suppress(OSError):
            while line := stream.readline(LONGEST_LINE):
                self._hand_on(line)
        self._hand_on(None)

    def _hand_on(self, line: bytes | None) -> None:
        while True:
            try:
                return self._lines.put(line, timeout=0.2)
            except queue.Full:
                if self._left:  # nobody reads any more: make room for the end
                    with contextlib.suppress(queue.Empty):
                        self._lines.get_nowait()

    def _read_words(self) -> None:
        assert self._popen.stderr is not None
        with self._popen.stderr as stream, contextlib.suppress(OSError):
            while chunk := os.read(stream.fileno(), 2**16):
                self._keep(chunk)

    def _keep(self, words: bytes) -> None:
        with self._words_lock:
            self._words = (self._words + words)[-KEPT_WORDS:]

    def _write(self) -> None:
        stream = self._popen.stdin
        assert stream is not None
        with contextlib.suppress(OSError, ValueError):  # it is gone: the reader of its output says so
            while (line := self._outbox.get()) is not None:
                stream.write(line)
                stream.flush()
        with contextlib.suppress(OSError, ValueError):
            stream.close()
