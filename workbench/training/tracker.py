"""A run's figures mirrored into trackio, if the setting asks for it: on this machine alone, in a process of its own.

A process, because trackio prints to standard output (which is the engine's line to the browser's process), looks up who
is logged in to the hub, and could fail: none of that may reach the run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from workbench.errors import SettingsError
from workbench.settings import RunSettings
from workbench.training import events
from workbench.training.runs import RunInfo

PROJECT = "tool-call-workbench"
LOG = "tracker.log"  # in the run's folder: what trackio said
ROOT = Path(__file__).resolve().parent.parent.parent  # where `-m workbench…` is found
PATIENCE = 20.0  # seconds that the tracker gets to write what is left when the run is over
# What would send figures elsewhere, or look up an account.
TO_OTHERS = (
    "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_WRITE_TOKEN", "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID", "TRACKIO_WEBHOOK_URL",
    "TRACKIO_REGISTRY_BUCKET_ID", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN",
)  # fmt: skip


def check_tracker(settings: RunSettings) -> None:
    """Raise `SettingsError` where the settings want a tracker that is not installed."""
    if settings.training.tracker == "trackio" and importlib.util.find_spec("trackio") is None:
        raise SettingsError('The tracker trackio is not installed: run "pip install trackio", or set training.tracker to off.')


def figures(event: events.Event) -> dict[str, float | str] | None:
    """What the tracker keeps of an event, by name; None for an event without figures."""
    if isinstance(event, events.Step):
        found: dict[str, float | str] = {
            "train/loss": event.loss, "train/learning_rate": event.learning_rate, "train/gradient_norm": event.gradient_norm,
            "train/epoch": event.epoch, "speed/tokens_per_second": event.tokens / max(event.seconds, 1e-9), "memory/gib": event.memory_gib,
        }  # fmt: skip
        return found if event.gpu_use is None else found | {"memory/gpu_use": event.gpu_use}
    if isinstance(event, events.Validation):
        return {"validation/loss": event.loss, "train/epoch": event.epoch}
    if isinstance(event, events.Sampled) and event.asked:
        return {"validation/call_accuracy": event.right / event.asked, "train/epoch": event.epoch}
    if isinstance(event, events.Ended):
        over: dict[str, float | str] = {"state": event.state}
        return over if event.peak_memory_gib is None else over | {"memory/peak_gib": event.peak_memory_gib}
    return None


def local_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would make trackio talk to a network."""
    return {k: v for k, v in environment.items() if k not in TO_OTHERS} | {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}


class Tracker:
    """Takes a run's events and never holds it up: what the tracker can't take is dropped, and said once in the run's log."""

    def __init__(self, info: RunInfo, folder: Path) -> None:
        self._lines: queue.Queue[bytes | None] = queue.Queue(maxsize=100_000)
        self._process: subprocess.Popen[bytes] | None = None
        self._fault = ""
        self._told = False
        try:
            with (folder / LOG).open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "workbench.training.trackio_child"], stdin=subprocess.PIPE, stdout=log, stderr=log,
                    cwd=ROOT, env=local_environment(os.environ), start_new_session=True,
                )  # fmt: skip
        except OSError as exc:
            self._fault = str(exc)
            return
        self._put({"project": PROJECT, "name": info.name, "config": config(info)})
        assert self._process.stdin is not None
        self._thread = threading.Thread(target=self._write, args=(self._process.stdin,), name="tracker", daemon=True)
        self._thread.start()

    def tell(self, event: events.Event) -> events.Notice | None:
        """Hand an event on; returns a line for the run's log when the tracker is found to have failed, once."""
        if self._process is not None and not self._fault:
            found = figures(event)
            if found is not None:
                self._put({"step": getattr(event, "step", 0), "figures": found})
        if self._fault and not self._told:
            self._told = True
            return events.Notice(text=f"The tracker gave up ({self._fault}); the run goes on without it. {LOG} in the run's folder may say more.")
        return None

    def close(self) -> None:
        """Let the tracker write what it has and end; kills it if that takes too long."""
        if self._process is None:
            return
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
        self._thread.join(PATIENCE)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _put(self, value: dict[str, Any]) -> None:
        try:
            self._lines.put_nowait(json.dumps(value).encode("utf-8") + b"\n")
        except queue.Full:
            self._fault = "it takes nothing any more"

    def _write(self, stream: BinaryIO) -> None:
        try:
            while (line := self._lines.get()) is not None:
                stream.write(line)
                stream.flush()
        except OSError:
            self._fault = "its process ended"
        with contextlib.suppress(OSError):
            stream.close()


def config(info: RunInfo) -> dict[str, Any]:
    """What the run was asked, as the tracker's table shows it: `group.field` of every setting, and the data."""
    settings = info.settings.model_dump(mode="json")
    flat = {f"{group}.{name}": value for group, values in settings.items() for name, value in values.items()}
    return flat | {"model": info.model_name, "data": info.data_name, "data_rows": info.data_rows, "data_sha256": info.data_sha256}


def open_tracker(info: RunInfo, folder: Path) -> Tracker | None:
    """The tracker that the run's settings ask for; None for none. Raises `SettingsError` where it is not installed."""
    check_tracker(info.settings)
    return Tracker(info, folder) if info.settings.training.tracker == "trackio" else None
