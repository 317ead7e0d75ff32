"""The engine process: reads jobs from standard input, does one at a time, says what happens on standard output.

It owns the card and the loaded base. When its parent goes away it stops the job in hand (a run keeps
its adapter) and ends; where that job hangs it ends all the same, or it would hold the card for ever.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from pydantic import BaseModel, ValidationError

from workbench.engine.messages import Beat, Do, Done, Failed, Phase, Progress, Ready, Stop, Texts, ToEngine, UnloadJob
from workbench.engine.watch import Limits, Sign, Watch

if TYPE_CHECKING:
    from workbench.engine.jobs import Host

ALONE = 70  # the exit code of a worker that outlived its app in a job that hangs
SPINS = {"GOMP_SPINCOUNT": "1000"}
"""How often a thread of torch's looks whether the others are done before it sleeps (GNU's OpenMP; its own default is 300,000 times).

A CPU's work is dealt to a thread a core, many hundred times a token. Where something else takes a core, the browser for one, two threads
share what is left, and the one that is done would hold it, looking, until its time is over: a token took a second instead of a tenth.
"""
BEAT_SECONDS = 0.25  # signs of progress are told this often at most

Say = Callable[[BaseModel], None]


class Signs:
    """Tells the watchdog that the job gets on. Called by whoever made progress, never by a clock of its own."""

    def __init__(self, number: int, say: Say) -> None:
        self.number, self.say = number, say
        self.phase: Phase | None = None
        self.told = self.asked = time.monotonic()
        self.gap = 0.0

    def __call__(self, phase: Phase) -> None:
        now = time.monotonic()
        if phase != self.phase or now - self.told >= BEAT_SECONDS:
            self.phase, self.told = phase, now
            self.say(Beat(number=self.number, phase=phase, gap=self.gap))

    def looked_for_a_stop(self) -> None:
        now = time.monotonic()
        self.gap, self.asked = max(self.gap, now - self.asked), now


def main(models_dir: Path, adapters_dir: Path) -> None:
    share_cores(os.environ)
    out = _private_stdout()
    inbox: queue.Queue[Do | None] = queue.Queue()
    stopped: set[int] = set()
    gone = threading.Event()
    watch = Watch(Limits(), fresh=True)
    threading.Thread(target=_listen, args=(inbox, stopped, gone, watch), daemon=True).start()

    # Imported after the listener is up: torch takes seconds, and a stop may come meanwhile.
    from workbench.engine.jobs import Host
    from workbench.models.catalog import Catalog
    from workbench.training.runs import RunStore

    _give_way()
    host = Host(Catalog(models_dir), RunStore(adapters_dir))
    lock = threading.Lock()

    def say(message: BaseModel) -> None:
        if isinstance(message, Sign):
            watch.heard(message)
        try:
            with lock:
                out.write(message.model_dump_json() + "\n")
                out.flush()
        except BrokenPipeError:
            gone.set()  # nobody listens any more: the job in hand comes to its end in its own way, and a run keeps its adapter

    say(Ready())
    while (do := inbox.get()) is not None:
        if _one_job(host, do, say, stopped, gone):
            break
    sys.stderr.flush()
    os._exit(0)  # a library's non-daemon thread must not keep the card


def share_cores(environment: MutableMapping[str, str]) -> None:
    """Let threads that wait for each other sleep soon (see `SPINS`), unless whoever started this has chosen; read when torch is imported."""
    if "OMP_WAIT_POLICY" not in environment:
        for name, value in SPINS.items():
            environment.setdefault(name, value)


def _give_way() -> None:
    """On a CPU the engine computes on every core: a lower priority keeps the screen's clicks quick."""
    import torch

    if not torch.cuda.is_available() and hasattr(os, "nice"):
        os.nice(19)


def _one_job(host: Host, do: Do, say: Say, stopped: set[int], gone: threading.Event) -> bool:
    """Do a job and say how it went; True if the process must end now, since its context on the card is lost or given back.

    It stops where its number is in `stopped`, or where the app is `gone`.
    """
    from workbench.engine.jobs import FaultError, Report
    from workbench.errors import EngineError, WorkbenchError

    signs = Signs(do.number, say)

    def asked() -> bool:
        signs.looked_for_a_stop()
        return gone.is_set() or do.number in stopped

    report = Report(
        progress=lambda text, share: say(Progress(number=do.number, text=text, share=share)),
        texts=lambda texts: say(Texts(number=do.number, texts=tuple(texts))),
        holds=say, stop=asked, left=lambda: gone.is_set() and do.number not in stopped, sign=signs,
    )
    try:
        say(Done(number=do.number, result=host.do(do.job, report)))
        return isinstance(do.job, UnloadJob) and do.job.leave
    except FaultError as exc:
        traceback.print_exc()  # into the engine's log
        say(Failed(number=do.number, reason=str(exc), expected=False, cause=exc.cause))
        return exc.cause == "device"
    except WorkbenchError as exc:
        say(Failed(number=do.number, reason=str(exc), expected=not isinstance(exc, EngineError)))
    except ImportError as exc:
        traceback.print_exc()
        reason = f"A library is missing or broken: {str(exc)[:200]}. Install what requirements.txt lists (`make install`), then start again."
        say(Failed(number=do.number, reason=reason, expected=False))
    except Exception as exc:
        traceback.print_exc()
        say(Failed(number=do.number, reason=f"The engine met an unexpected fault: {type(exc).__name__}: {str(exc)[:300]}", expected=False))
    return False


def _listen(inbox: queue.Queue[Do | None], stopped: set[int], gone: threading.Event, watch: Watch) -> None:
    for line in sys.stdin:
        try:
            message = ToEngine.validate_json(line)
        except ValidationError as exc:
            print(f"engine: a message was not understood: {exc}", file=sys.stderr)
            continue
        if isinstance(message, Stop):
            stopped.add(message.number)
        else:
            inbox.put(message)
    gone.set()
    inbox.put(None)
    _watch_alone(watch)


def _watch_alone(watch: Watch, *, pause: Callable[[float], None] = time.sleep, end: Callable[[int], None] = os._exit) -> None:
    """Nobody watches over this process any more: end it once its last job overruns what a job may take to obey a stop."""
    asked = watch.clock()
    while not (overrun := watch.overrun(asked)):
        pause(watch.limits.patience)
    with contextlib.suppress(OSError, ValueError):
        print(f"engine: its app is gone, and the job in hand {overrun}", file=sys.stderr, flush=True)
    end(ALONE)


def _private_stdout() -> TextIO:
    """Standard output for messages alone: what libraries print goes to standard error."""
    private = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return private


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
