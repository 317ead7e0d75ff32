"""Loading and downloading that tell how far they are, and that a stop ends between two tensors or two blocks of bytes.

Both libraries report to progress bars only: here such a bar tells the engine instead.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

from workbench.errors import ModelError, WorkbenchError

GIB = 2**30


class StoppedLoadingError(WorkbenchError):
    """Loading was stopped on request before the model was whole."""

    def __init__(self, what: str = "The model") -> None:
        super().__init__(f"{what} was not loaded: it was stopped on request. What was downloaded so far is kept.")


def heed(stop: Callable[[], bool], what: str = "The model") -> None:
    """Raises `StoppedLoadingError` if a stop was asked for."""
    if stop():
        raise StoppedLoadingError(what)


@contextlib.contextmanager
def watched_weights(tell: Callable[[float], None], stop: Callable[[], bool], what: str) -> Iterator[None]:
    """Within, `tell` gets the share (0 to 1) of tensors that transformers has read so far, and `stop` is asked as often."""
    from transformers.utils import logging as bars

    def follow(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _Weights(args[0], tell, stop, what) if args and hasattr(args[0], "__len__") else factory(*args, **kwargs)

    hook = getattr(bars, "set_tqdm_hook", None)
    if hook is None:  # an older transformers: it loads all the same, and a stop waits for its end
        yield
        return
    before = hook(follow)
    try:
        with _logged_faults(what):
            yield
    finally:
        hook(before)


@contextlib.contextmanager
def _logged_faults(what: str) -> Iterator[None]:
    """transformers passes over a tensor that it can't convert, and tells why on its log alone: a fault of the card or its
    memory in there is raised as what it was, anything else as `ModelError`.
    """
    from workbench.models.faults import accelerator_fault

    report = _Kept()
    logger = logging.getLogger("transformers")
    logger.addHandler(report)
    try:
        yield
    except RuntimeError as exc:
        if accelerator_fault(exc) or "conversion of the weights" not in str(exc):
            raise
        errors = [line.strip() for text in report.texts for line in text.splitlines() if re.match(r"\s*[\w.]*(Error|Exception)\b.*: ", line)]
        faults = [fault for line in errors if accelerator_fault(fault := RuntimeError(line[:500]))]
        if faults:
            raise faults[0] from exc
        raise ModelError(f"{what} can't be loaded: {(errors or [str(exc)])[0][:300]}. Choose other base weights or another model.") from exc
    finally:
        logger.removeHandler(report)


class _Kept(logging.Handler):
    """Keeps what is logged as a warning or worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


class _Weights:
    """Stands where transformers wants a progress bar over the tensors to read."""

    def __init__(self, items: Any, tell: Callable[[float], None], stop: Callable[[], bool], what: str) -> None:
        self.items, self.tell, self.stop, self.what = items, tell, stop, what

    def __iter__(self) -> Iterator[Any]:
        for i, item in enumerate(self.items):
            heed(self.stop, self.what)
            self.tell(i / max(1, len(self.items)))
            yield item

    def __len__(self) -> int:
        return len(self.items)

    def __enter__(self) -> _Weights:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None  # a bar's other methods only draw it


def download_bar(tell: Callable[[str, float | None], None], stop: Callable[[], bool], what: str) -> type[Any]:
    """A progress bar's class for the hub's client. `tell` gets words such as "1.2 of 8.6 GiB" with the share."""
    from tqdm.std import tqdm  # type: ignore[import-untyped, unused-ignore]

    class Bar(tqdm):  # type: ignore[misc, type-arg, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Of the client's bars the one that counts whole files' bytes; the other counts what came over the network.
            self.told = kwargs.get("unit") == "B" and "econstruct" in str(kwargs.get("desc"))
            super().__init__(*args, **kwargs | {"disable": False, "file": _Nowhere()})

        def update(self, n: float | None = 1) -> bool | None:
            heed(stop, what)
            drawn: bool | None = super().update(n)
            if self.told and self.total and self.n:
                tell(f"{self.n / GIB:.1f} of {self.total / GIB:.1f} GiB", min(1.0, self.n / self.total))
            return drawn

    return Bar


class _Nowhere:
    """A stream that swallows what a bar draws."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass
