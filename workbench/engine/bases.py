"""The bases that a process holds: one in hand, and where memory allows a second one beside it. Loading, taking turns, giving back."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from workbench.engine.messages import Holds, Phase
from workbench.errors import ModelError, WorkbenchError
from workbench.models.catalog import MERGED_RECORD, Catalog, display_name, is_merged
from workbench.models.decoding import release
from workbench.models.fingerprint import fingerprint
from workbench.models.hardware import host_memory_gib
from workbench.models.loading import Base, load_base
from workbench.models.passes import watch_passes
from workbench.models.room import fits_beside, weights_gib
from workbench.models.shapes import folder_shapes
from workbench.models.side_stream import clear_workspaces
from workbench.models.watched import StoppedLoadingError, download_bar, heed, watched_weights
from workbench.settings import Quantization
from workbench.training import events

Key = tuple[str, Quantization, int | None]  # a base: its model, how it is quantized, and of a merged one when it was made (ns)


@dataclass
class Report:
    """Where a job tells how it goes, and asks whether it should stop.

    `sign` is called whenever the job has really got on, with what it is at: a watchdog may wait for it.
    """

    progress: Callable[[str, float | None], None] = lambda text, share: None
    texts: Callable[[list[str]], None] = lambda texts: None
    holds: Callable[[Holds], None] = lambda holds: None
    event: Callable[[events.Event], None] = lambda event: None
    stop: Callable[[], bool] = lambda: False
    left: Callable[[], bool] = lambda: False
    """Whether a stop is nobody's wish: whoever handed the job in is gone."""
    sign: Callable[[Phase], None] = lambda phase: None


def no_sign(phase: Phase) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class Proven:
    """What is known of an adapter that was put on: by how much it moves the logits of a probe, and when its file was written (ns)."""

    difference: float
    written: int | None


@dataclass(frozen=True)
class Beside:
    """A base that stays loaded while another one answers, with what the host knows of it. Its decoder stays with it (`decode_static`)."""

    base: Base
    key: Key
    proven: dict[str, Proven]
    weighed: str


@dataclass
class Bases:
    """Owns the loaded bases: one copy of the weights for every job, and two adapters on each at most.

    Where memory allows, a second base stays `beside` the one in hand, so that two voices of different bases take turns without reloading.
    """

    catalog: Catalog
    base: Base | None = field(default=None, init=False)
    proven: dict[str, Proven] = field(default_factory=dict, init=False)
    """What is known of the adapters that are on, by the names of their runs. Never changed in place: another base has its own."""
    key: Key | None = field(default=None, init=False)
    weighed: str = field(default="", init=False)
    """`models.fingerprint` of the base as it was loaded; "" where its folder can't be weighed."""
    beside: Beside | None = field(default=None, init=False, repr=False)
    one_only: bool = field(default=False, init=False)
    """Whether two bases were more than the memory holds once: they are not tried again."""
    _sign: Callable[[Phase], None] = field(default_factory=lambda: no_sign, init=False, repr=False)  # a function on the class would be a method
    _phase: Phase = field(default="computing", init=False)
    _watching: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, init=False, repr=False)
    """Takes the hooks off the base that tell of every layer's pass."""

    def got_on(self) -> None:
        """The job has really got on."""
        self._sign(self._phase)

    def ensure_base(self, model: str, quantization: Quantization, report: Report, *, beside: bool = False) -> Base:
        """The base that a job needs, loaded unless it is already there.

        With `beside` the one that was there before stays loaded where memory allows; without, this one has the memory for itself.
        """
        wanted = self.key_of(model, quantization)
        if self.beside is not None and self.beside.key == wanted:
            self._swap()
            self.tell(report)
        if not beside or self.beside is not None and self.key != wanted:
            self._drop_beside(report)
        if self.base is not None and self.key == wanted:
            return self._watched(self.base)
        if self.base is not None:
            self._make_way(wanted, report, stay=beside)
        self._phase = "loading"
        try:
            self.base = self._load(model, wanted[1], report)
        except StoppedLoadingError:
            raise
        except WorkbenchError:
            if self.beside is not None:  # the other one goes on answering
                self._swap()
                self.tell(report)
            raise
        self._phase = computing()
        self.key = wanted
        self.tell(report)
        return self._watched(self.base)

    def key_of(self, model: str, quantization: Quantization) -> Key:
        """What a base is known by; raises `ModelError` for a merged model that is gone."""
        return model, quantization.resolved(torch.cuda.is_available()), self._made(model)

    def make_room(self, keys: Sequence[Key], report: Report) -> None:
        """Give the memory of bases that are none of these back."""
        if self.beside is not None and self.beside.key not in keys:
            self._drop_beside(report)
        if self.base is not None and self.key not in keys:
            if self.beside is None:
                self.drop()
            else:
                self._swap()
                self._drop_beside(report)
            self.tell(report)

    def room_beside(self, wanted: Key) -> bool:
        """Whether that base is in hand or beside it, or fits there."""
        return self.key == wanted or self.beside is not None and self.beside.key == wanted or self._fits_beside(wanted)

    def _made(self, model: str) -> int | None:
        """When a merged model was made, ns: another one may stand under its name by now. Raises `ModelError` for one that is gone."""
        return (self.catalog.find(model) / MERGED_RECORD).stat().st_mtime_ns if is_merged(model) else None

    def _make_way(self, wanted: Key, report: Report, *, stay: bool) -> None:
        """Put the base aside for another one, or give its memory back where both would not fit, or it may not stay."""
        assert self.base is not None and self.key is not None
        what = display_name(self.key[0])
        if stay and self._fits_beside(wanted):
            self._put_aside()
            report.progress(f"{what} stays loaded beside it", None)
            return
        self.drop()
        self.tell(report)
        if stay:
            report.progress(f"{what} makes room for {display_name(wanted[0])}: the memory does not hold both", None)

    def _fits_beside(self, wanted: Key) -> bool:
        """Whether the free memory, of the card where there is one, holds another base beside the one that is loaded."""
        if self.one_only:
            return False
        try:
            weights = weights_gib(folder_shapes(self.catalog.find(wanted[0])), wanted[1], torch.cuda.is_available())
        except ModelError:  # it is not here yet, or broken: its loading tells
            return False
        return fits_beside(weights, _free_gib())

    def _put_aside(self) -> None:
        """The base in hand, if there is one, stays loaded beside the one that comes."""
        self._watching.close()
        if self.base is not None and self.key is not None:
            self.beside = Beside(self.base, self.key, self.proven, self.weighed)
        self.base, self.key, self.proven = None, None, {}

    def _swap(self) -> None:
        """The base that was put aside takes its turn, and the other one is put aside, if there is one."""
        put, self.beside = self.beside, None
        assert put is not None
        self._put_aside()
        self.base, self.key, self.proven, self.weighed = put.base, put.key, put.proven, put.weighed

    def _drop_beside(self, report: Report) -> None:
        """Give the memory of the base that was put aside back, if there is one."""
        if self.beside is None:
            return
        self.beside = None
        give_back()
        self.tell(report)

    def _watched(self, base: Base) -> Base:
        """The base, giving a sign after every layer of every pass until the job is over: training, validation and decoding alike."""
        self._watching.close()
        self._watching.callback(watch_passes(base.raw, self.got_on))
        return base

    def fetch(self, model: str, report: Report) -> Path:
        """The folder of a model, downloaded if it must be; a stop is obeyed between two blocks."""
        what = display_name(model)

        def say(text: str) -> None:
            heed(report.stop, what)
            report.progress(text, None)

        def downloaded(text: str, share: float | None) -> None:
            report.progress(f"downloading {what}: {text}", share)

        say(f"looking for {what}")
        return self.catalog.fetch(model, say, download_bar(downloaded, report.stop, what))

    def _load(self, model: str, resolved: Quantization, report: Report) -> Base:
        """Load a base; a stop is obeyed between two tensors, and between two blocks of a download."""
        what, doing = display_name(model), f"looking for {display_name(model)}"

        def say(text: str) -> None:
            nonlocal doing
            doing = text
            heed(report.stop, what)
            report.progress(text, None)

        def read(share: float) -> None:
            if int(50 * share) != int(50 * told[0]) or not share:  # some hundred tensors a second: not every one is worth a message
                told[0] = share
                report.progress(doing, share)

        told = [0.0]
        folder = self.fetch(model, report)
        self.weighed = weigh(folder)
        with watched_weights(read, report.stop, what):
            return load_base(folder, resolved, say=say)

    def drop(self) -> None:
        """Forget every base and give the memory back."""
        self._watching.close()
        self.base, self.key, self.proven, self.beside = None, None, {}, None
        give_back(last=True)

    def tell(self, report: Report) -> None:
        """Report what is loaded now, or that nothing is."""
        if self.base is None or self.key is None:
            report.holds(Holds())
            return
        device = self.base.device
        report.holds(Holds(
            model=display_name(self.key[0]), quantization=self.key[1].mode, adapter=" and ".join(self.base.adapters) or None,
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
            also=display_name(self.beside.key[0]) if self.beside is not None else "",
        ))


def computing() -> Phase:
    return "computing" if torch.cuda.is_available() else "computing on a CPU"


def weigh(folder: Path) -> str:
    with contextlib.suppress(ModelError):  # whether it can be loaded, the loading tells
        return fingerprint(folder)
    return ""


def give_back(*, last: bool = False) -> None:
    """Hand what no base holds any more back, to the card and to the system; where the `last` base has gone, cuBLAS' working space too."""
    release()  # the decoder's cache and graphs hold the layers
    gc.collect()
    if last:  # the graphs of a base that was put aside go on using theirs
        clear_workspaces()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    _return_to_system()


def _free_gib() -> float:
    """Memory that another base may take: the card's, with what torch keeps of it unused, or the host's."""
    if not torch.cuda.is_available():
        return host_memory_gib()[1]
    free, _ = torch.cuda.mem_get_info()
    return float(free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()) / 2**30


def _return_to_system() -> None:
    """Ask the C library to hand freed memory on to the system: glibc keeps what small tensors lay in."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
