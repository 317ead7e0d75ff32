"""Runs one function of the user's in a process of its own and prints its answer as JSON. Run as a script; imports nothing of the workbench.

Prints {"value": …}, {"large": characters} or {"failed": sentence}. No network, no other process, no file written: a slip of the
function's author does no harm. It is no wall against somebody who means harm: only files that one trusts belong in the folder.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
from typing import Any

NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000  # Linux: namespaces of its own, in which there is no network
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
REFUSED = (
    "socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.startfile", "pty.", "ctypes.", "os.kill",
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown", "shutil.", "signal.pthread_kill",
)


class NotAllowedError(Exception):
    """The function wanted something that a tool's answer does not need."""


def refuse(event: str, details: tuple[Any, ...]) -> None:
    """The interpreter tells here what is about to be done."""
    if event.startswith(REFUSED):
        raise NotAllowedError(f"{event} is not allowed here")
    if event == "open" and isinstance(details[2], int) and details[2] & WRITES:
        raise NotAllowedError("writing a file is not allowed here")


def limit(memory: int, seconds: float) -> None:
    """Cap memory and processor time, and leave the network behind, where the system lets it."""
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).unshare(NEW_USER | NEW_NETWORK)
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def answered(asked: dict[str, Any]) -> dict[str, Any]:
    """What the function makes of its arguments."""
    spec = importlib.util.spec_from_file_location("tool", asked["file"])
    if spec is None or spec.loader is None:
        return {"failed": "its file is no Python file"}
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, asked["function"], None)
    if not callable(function):
        return {"failed": f"its file has no function {asked['function']}"}
    value = function(**asked["arguments"])
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as exc:
        return {"failed": f"it returned what is no JSON ({str(exc)[:120]})"}
    return {"large": len(text)} if len(text) > asked["chars"] else {"value": value}


def main() -> None:
    asked = json.load(sys.stdin)
    out = os.dup(1)
    os.dup2(2, 1)  # what the function prints is not its answer
    limit(asked["memory"], asked["seconds"])
    sys.addaudithook(refuse)
    try:
        told = answered(asked)
    except BaseException as exc:  # a function may raise anything, SystemExit too
        told = {"failed": f"{type(exc).__name__}: {str(exc)[:200]}"}
    text = json.dumps(told).encode()
    while text:
        text = text[os.write(out, text) :]
    os._exit(0)  # threads that it left behind keep nobody waiting


if __name__ == "__main__":
    main()
