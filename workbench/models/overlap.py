"""What goes on beside the loading of a model: files are read ahead, the card wakes up, the tokenizer is built.

Importing the libraries keeps one core busy for seconds; none of this needs that core.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import itertools
import sys
import threading
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError
from workbench.models import machine_cache
from workbench.models.hardware import host_memory_gib
from workbench.models.torch_start import alone
from workbench.settings import Quantization

if TYPE_CHECKING:
    import torch

READERS = 4  # threads
_LEAN = threading.RLock()  # what is put in torch's place is put back in the order it came
_NAMING = threading.Lock()
_NAMED: list[Any] = []  # what gives Triton its digest
BLOCK = 8 * 2**20  # bytes read at a time
MANY = 200  # modules imported at once that were libraries
_based = threading.Event()  # a base was made here once: none must ever escape the search for garbage
COMPILER = "torch._dynamo"
_INDEXING, _MODE = f"{COMPILER}._trace_wrapped_higher_order_op", "TransformGetItemToIndex"  # what transformers' masks take from it
_MARKS = ("disable", "assume_constant_result", "allow_in_graph", "graph_break")  # by which functions are commended to it
LIBRARIES = ("bitsandbytes", "transformers.activations", "transformers.modeling_utils", "transformers.masking_utils", "transformers.quantizers.auto", "peft")


@contextlib.contextmanager
def read_ahead(paths: Sequence[Path]) -> Iterator[None]:
    """Within, threads read `paths` into the system's file cache, in order; leaving it ends them.

    Without enough free memory for the files nothing is read: they would push each other out.
    """
    try:
        blocks = [(path, at) for path in paths for at in range(0, path.stat().st_size, BLOCK)]
    except OSError:  # whoever loads them will say so
        blocks = []
    if host_memory_gib()[1] * 2**30 < 1.5 * BLOCK * len(blocks):
        blocks = []
    ended = threading.Event()
    turn = itertools.count()  # next() of it is one step, whichever thread takes it
    readers = [threading.Thread(target=_read, args=(blocks, turn, ended), name="reading ahead", daemon=True) for _ in range(min(READERS, len(blocks)))]
    for reader in readers:
        reader.start()
    try:
        yield
    finally:
        ended.set()
        for reader in readers:
            reader.join()


def _read(blocks: list[tuple[Path, int]], turn: Iterator[int], ended: threading.Event) -> None:
    buffer = bytearray(BLOCK)
    with contextlib.suppress(OSError):  # whoever loads them will say so
        while not ended.is_set() and (i := next(turn)) < len(blocks):
            path, at = blocks[i]
            with path.open("rb", buffering=0) as stream:
                stream.seek(at)
                stream.readinto(buffer)


def wake(device: torch.device) -> None:
    """Make the card's context and load its matrix products now; it takes some tenths of a second. Whoever computes first will say what is wrong."""
    import torch

    from workbench.models.side_stream import clear_workspaces

    cold = not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with contextlib.suppress(RuntimeError):
        square = torch.zeros((16, 16), device=device, dtype=torch.bfloat16)
        if cold:
            square @ square
            clear_workspaces()  # this thread's; there are no graphs yet


def name_kernels() -> None:
    """Have Triton know the digest of itself that all names of compiled kernels begin with: it goes over half a gigabyte for it, once on this machine."""
    with _NAMING, contextlib.suppress(Exception):  # another release keeps it elsewhere: then its first kernel waits
        importlib.import_module("triton")  # whole, holding no other lock: two threads that meet in the middle of it would each get half of it
        cache: Any = importlib.import_module("triton.runtime.cache")
        if cache.triton_key in _NAMED:
            return
        home = Path(cache.__file__).parent.parent
        parts = [Path(cache.__file__), *(home / name for name in ("compiler", "backends", "language")), *sorted((home / "_C").glob("libtriton.*"))]
        made_of = [sys.modules["triton"].__version__, *machine_cache.stamp(*parts)]
        if not isinstance(digest := machine_cache.recall("triton-key", made_of), str):
            digest = cache.triton_key()
            machine_cache.keep("triton-key", made_of, digest)
        cache.triton_key = lambda: digest
        _NAMED.append(cache.triton_key)


def wake_card() -> None:
    """Import torch, and `wake` the card that a base would be loaded on, if there is one."""
    try:
        import torch
    except ImportError:  # who needs it will say so
        return
    if torch.cuda.is_available():
        wake(torch.device("cuda", torch.cuda.current_device()))


@contextlib.contextmanager
def ahead(folder: Path | None, quantization: Quantization) -> Iterator[None]:
    """Within, a thread imports torch, wakes the card and has the quantized copy of the base in `folder` come to it, for whoever loads that base then.

    `folder` is None where the model is not here yet. Leaving it lets go of what nobody has asked for.
    """
    ended = threading.Event()
    threading.Thread(target=_begin, args=(folder, quantization, ended), name="importing torch", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        let_go = getattr(sys.modules.get("workbench.models.arriving"), "expect_none", None)
        if let_go is not None:
            let_go()


def _begin(folder: Path | None, quantization: Quantization, ended: threading.Event) -> None:
    wake_card()
    if folder is None or "torch" not in sys.modules:
        return
    from workbench.models.arriving import expect
    from workbench.models.loading import pick_device, pick_dtype
    from workbench.models.quantized_cache import copy_of

    with contextlib.suppress(WorkbenchError, RuntimeError, OSError):  # whoever loads the base will say so
        device = pick_device()
        if device.type != "cuda":  # the file is mapped where it lies
            return
        copy = copy_of(folder, quantization.resolved(True), pick_dtype(device), device)
        if copy is not None and copy.ready(lambda text: None):
            expect(copy.weights, device, ended)
        name_kernels()


@contextlib.contextmanager
def no_sweeps() -> Iterator[None]:
    """Within, Python looks for no cycles of garbage: imports make a million objects that stay, and looking at them takes a sixth of the time.

    Where many modules were imported within, it never looks at what there is by then: the first look alone would take half a second.
    """
    looking, known = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) - known >= MANY and not _based.is_set():
            gc.freeze()
        if looking:
            gc.enable()


def base_made() -> None:
    """From now on there may be a base among what Python looks at."""
    _based.set()


def import_libraries() -> None:
    """Import what loading and training take, leanly: it is there when they ask for it."""
    with lean():
        for name in LIBRARIES:
            with contextlib.suppress(Exception):  # whoever needs it imports it again, plainly, and says what is wrong
                importlib.import_module(name)


@contextlib.contextmanager
def lean() -> Iterator[None]:
    """Within, libraries are imported without torch's compiler and without its tensors that lie over several processes.

    Both take a third of the time that all the libraries take. bitsandbytes, transformers and Liger import them to compile
    what is for devices that we do not have, or to mark what a compiler is to leave alone, and nothing here is compiled. Without the
    other, transformers and accelerate take torch for one that was built for one process. Where a launcher started several,
    or somebody has imported the compiler already, that part is left as it is. One thread at a time: another one waits.
    """
    import torch
    import torch.distributed

    with _LEAN:
        yield from _leanly(torch)


def _leanly(torch: Any) -> Iterator[None]:
    held: list[tuple[Any, str, Any]] = []

    def put(owner: Any, name: str, value: Any) -> None:
        held.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    stands_in = COMPILER not in sys.modules
    try:
        put(torch, "compile", as_it_is)
        put(torch.compiler, "disable", as_it_is)
        if hasattr(torch._library.utils, "get_source"):  # of each operator that bitsandbytes brings along: for messages alone
            put(torch._library.utils, "get_source", lambda stacklevel: "a library")
        if hasattr(torch, "_disable_dynamo"):  # around the kernels that bitsandbytes brings along
            put(torch, "_disable_dynamo", as_it_is)
        if alone():
            put(torch.distributed, "is_available", lambda: False)
        if stands_in:
            _stand_in(torch)
        yield
    finally:
        for owner, name, value in reversed(held):
            setattr(owner, name, value)
        if stands_in:
            _step_aside(torch)


def as_it_is(function: Any = None, *_: Any, **__: Any) -> Any:
    """A decorator, with settings or without, that does nothing."""
    return function if callable(function) else as_it_is


def _stand_in(torch: Any) -> None:
    """Modules that stand for the compiler: its decorators do nothing, and whoever wants more of it gets the compiler itself."""
    compiler, indexing = types.ModuleType(COMPILER), types.ModuleType(_INDEXING)

    def look_up(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in _MARKS:
            return as_it_is
        _step_aside(torch)
        return getattr(importlib.import_module(COMPILER), name)

    compiler.__path__ = []
    vars(compiler)["__getattr__"] = look_up
    vars(indexing)[_MODE] = _mode
    sys.modules[COMPILER], sys.modules[_INDEXING] = compiler, indexing
    torch._dynamo = compiler


def _step_aside(torch: Any) -> None:
    if "__file__" not in vars(sys.modules.get(COMPILER, torch)):
        for name in (COMPILER, _INDEXING):
            sys.modules.pop(name, None)
        vars(torch).pop("_dynamo", None)


def _mode(*how: Any) -> Any:
    _step_aside(sys.modules["torch"])
    return getattr(importlib.import_module(_INDEXING), _MODE)(*how)
