"""The engine process: reads jobs from standard input, does one at a time, says what happens on standard output.

It owns the card and the loaded base. When its parent goes away it stops the job in hand (a run keeps
its adapter) and ends.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import traceback
from pathlib import Path
from typing import TextIO

from pydantic import BaseModel, ValidationError

from workbench.engine.messages import Do, Done, Failed, Progress, Stop, Texts, ToEngine


def main(models_dir: Path, adapters_dir: Path) -> None:
    out = _private_stdout()
    inbox: queue.Queue[Do | None] = queue.Queue()
    stopped: set[int] = set()
    gone = threading.Event()
    threading.Thread(target=_listen, args=(inbox, stopped, gone), daemon=True).start()

    # Imported after the listener is up: torch takes seconds, and a stop may come meanwhile.
    from workbench.engine.jobs import Host
    from workbench.models.catalog import Catalog
    from workbench.training.runs import RunStore

    _give_way()
    host = Host(Catalog(models_dir), RunStore(adapters_dir))
    lock = threading.Lock()

    def say(message: BaseModel) -> None:
        with lock:
            out.write(message.model_dump_json() + "\n")
            out.flush()

    while (do := inbox.get()) is not None:
        try:
            _one_job(host, do, say, lambda number=do.number: gone.is_set() or number in stopped)
        except BrokenPipeError:
            break
    os._exit(0)  # a library's non-daemon thread must not keep the card


def _give_way() -> None:
    """On a CPU the engine computes on every core: a lower priority keeps the screen's clicks quick."""
    import torch

    if not torch.cuda.is_available() and hasattr(os, "nice"):
        os.nice(19)


def _one_job(host, do: Do, say, stop) -> None:  # type: ignore[no-untyped-def]
    from workbench.engine.jobs import Report
    from workbench.errors import EngineError, WorkbenchError

    report = Report(
        progress=lambda text, share: say(Progress(number=do.number, text=text, share=share)),
        texts=lambda texts: say(Texts(number=do.number, texts=tuple(texts))),
        holds=say, stop=stop,
    )
    try:
        say(Done(number=do.number, result=host.do(do.job, report)))
    except WorkbenchError as exc:
        say(Failed(number=do.number, reason=str(exc), expected=not isinstance(exc, EngineError)))
    except BrokenPipeError:
        raise
    except Exception as exc:
        traceback.print_exc()  # into the engine's log
        say(Failed(number=do.number, reason=f"The engine met an unexpected fault: {type(exc).__name__}: {str(exc)[:300]}", expected=False))
        if _is_accelerator_fault(exc):
            sys.stderr.flush()
            os._exit(3)  # a CUDA context is unusable after such a fault; the next job gets a fresh process


def _is_accelerator_fault(exc: Exception) -> bool:
    import torch

    return isinstance(exc, torch.AcceleratorError) or "CUDA error" in str(exc)


def _listen(inbox: queue.Queue[Do | None], stopped: set[int], gone: threading.Event) -> None:
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


def _private_stdout() -> TextIO:
    """Standard output for messages alone: what libraries print goes to standard error."""
    private = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return private


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
