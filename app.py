"""Opens the workbench in the browser: `python app.py [--model …] [--host …] [--port …] [--auth user:password]`."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Tool-Call Workbench")
    parser.add_argument("--model", default=os.environ.get("MODEL") or "demo", help="a local folder, a hub name, or demo; a hub token comes from HF_TOKEN alone")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; another than 127.0.0.1 wants --auth")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--auth", metavar="USER:PASSWORD", default=os.environ.get("WORKBENCH_AUTH"), help="ask for a login; or set WORKBENCH_AUTH, which no process list shows")
    parser.add_argument("--root", type=Path, help="the folder that holds data/, adapters/ and models/ (default: this one)")
    return parser.parse_args(arguments)


def refuse(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 2


def port_is_free(host: str, port: int) -> bool:
    """Whether this process may listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def warm_up(space: Any) -> None:
    """Read the tokenizer and make the first plan, so that the first click on Tune does not wait a second for them."""
    from workbench.errors import WorkbenchError

    with contextlib.suppress(WorkbenchError):  # the Tune tab says what is missing
        rows = space.rows.read().rows
        if len(rows) <= 1000:
            space.plan(rows, space.default_settings())
        else:  # encoding them all would keep the first page waiting for its health check
            space.tokenizer  # noqa: B018


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    # A large set's health check computes beside the clicks: they take their turn after 1 ms of it, not after 5.
    sys.setswitchinterval(0.001)
    login: tuple[str, str] | None = None
    if options.auth:
        user, colon, password = options.auth.partition(":")
        if not (user and colon and password):
            return refuse("--auth takes USER:PASSWORD, both not empty.")
        login = (user, password)
    if options.host not in ("127.0.0.1", "localhost", "::1") and login is None:
        return refuse(f"Listening on {options.host} opens the workbench to others: give --auth USER:PASSWORD as well, or use an SSH tunnel to 127.0.0.1.")
    if not 1 <= options.port <= 65535 or not port_is_free(options.host, options.port):
        return refuse(f"The port {options.port} on {options.host} can't be used (occupied?): stop what listens there, or give another --port.")

    # Set before gradio is imported: no telemetry, no look for a newer version.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Uploads and exports stay in the workbench's own folder, readable by its owner alone, not in a shared /tmp.
    cache = (options.root or Path(__file__).resolve().parent) / ".cache" / "gradio"
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.environ["GRADIO_TEMP_DIR"] = str(cache.resolve())
    from workbench.errors import WorkbenchError
    from workbench.models.catalog import is_hub_name
    from workbench.ui.quiet import THREADS
    from workbench.ui.theme import CSS, theme
    from workbench.ui.workbench import build
    from workbench.workspace import ROOT, Workspace

    try:
        space = Workspace(root=options.root or ROOT, model=options.model)
        if not is_hub_name(space.model):
            space.catalog.find(space.model)  # a wrong path is told here, before a page opens
        space.rows.read()
    except WorkbenchError as exc:
        return refuse(str(exc))
    page = build(space)
    space.jobs.load_model()  # in the background: the page is up meanwhile and shows how far it is
    launch: dict[str, Any] = {"server_name": options.host, "server_port": options.port, "auth": login, "theme": theme(), "css": CSS}
    page.queue(default_concurrency_limit=40).launch(
        **launch, max_threads=THREADS, share=False, quiet=True, prevent_thread_lock=True, show_error=True, max_file_size="64mb",
        strict_cors=True, allowed_paths=[str(space.root / ".cache" / "export")], footer_links=[], run_history=False, ssr_mode=False, enable_monitoring=False,
    )
    print(f"Tool-Call Workbench on {space.model_name}: http://{options.host}:{options.port}   (Ctrl+C ends it)", flush=True)
    threading.Thread(target=warm_up, args=(space,), daemon=True).start()
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    over.wait()
    print("Closing: a run in hand is stopped and keeps its adapter.", flush=True)
    space.engine.close()
    page.close(verbose=False)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # gradio's threads would hold the process
