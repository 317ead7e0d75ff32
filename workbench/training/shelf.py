"""The shelf of runs: renamed, noted, put into the bin and brought back. Nothing here touches a run that is going on."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import RunError
from workbench.files import explain_os_error, in_bin, into_bin, safe_name, stands, write_atomic
from workbench.files import free_name as first_free
from workbench.training.card import model_card
from workbench.training.runs import RunStore

NOTE = "note.txt"
LONGEST_NOTE = 2000  # characters
BIN = ".trash"  # under the adapters folder: BIN/WHEN/NAME


@dataclass(frozen=True)
class Deleted:
    """A run in the bin: `key` is when it was put there (nanoseconds since 1970), as text."""

    key: str
    name: str

    @property
    def when(self) -> float:
        """Seconds since 1970."""
        return int(self.key) / 1e9


def read_note(store: RunStore, name: str) -> str:
    """A person's note on a run; empty where there is none, or none that can be read."""
    try:
        with (store.path(name) / NOTE).open(encoding="utf-8", errors="replace") as stream:
            return stream.read(LONGEST_NOTE).strip()
    except OSError:
        return ""


def write_note(store: RunStore, name: str, text: str) -> None:
    """Keep a note on a run; an empty one is taken away. Raises `RunError`."""
    _known(store, name)
    kept = "".join(c for c in text if c.isprintable() or c in "\n\t").strip()
    if len(kept) > LONGEST_NOTE:
        raise RunError(f"The note has {len(kept):,} characters; {LONGEST_NOTE:,} are kept. Shorten it.")
    path = store.path(name) / NOTE
    if kept:
        write_atomic(path, kept + "\n")
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        raise RunError(explain_os_error(exc, path)) from exc


def rename(store: RunStore, name: str, new: str, held: Collection[str] = ()) -> str:
    """Give a run another name, in its folder, run.json and model card; returns the name as it is now.

    `held` are the runs that a job is using. Raises `RunError` for a live, held or unknown run, and for a bad or taken name.
    """
    new = safe_name(new, what="run name", error=RunError)
    if new == name:
        return name
    _refuse_held(store, name, held)
    old, target = store.path(name), store.path(new)
    if stands(target):
        raise RunError(f"There is already a run named {new}: choose another name.")
    _move(old, target)
    try:
        store.rewrite_info(new, name=new)
    except Exception:
        with contextlib.suppress(OSError):
            target.rename(old)
        raise
    with contextlib.suppress(Exception):  # a card with the old name is no reason to refuse
        if (target / "README.md").is_file():
            write_atomic(target / "README.md", model_card(store.view(new)))
    return new


def delete(store: RunStore, name: str, held: Collection[str] = ()) -> Deleted:
    """Put a run into the bin. Raises `RunError` for a live, held or unknown run."""
    _refuse_held(store, name, held, broken=True)
    folder = store.path(name)
    try:
        return Deleted(into_bin(folder, store.folder / BIN), folder.name)
    except OSError as exc:
        raise RunError(explain_os_error(exc, Path(exc.filename or folder))) from exc


def deleted(store: RunStore) -> list[Deleted]:
    """What the bin holds, the newest first."""
    return [Deleted(key, run.name) for key, run in in_bin(store.folder / BIN) if run.is_dir()]


def restore(store: RunStore, key: str) -> str:
    """Bring a run back from the bin; returns its name, which is another one where its own has been taken meanwhile.

    Raises `RunError` where the bin does not hold it, and `WorkbenchError` where the disk refuses: then the bin holds it still.
    """
    gone = next((g for g in deleted(store) if g.key == key), None)
    if gone is None:
        raise RunError("This run is no longer in the bin: it was brought back already, or the bin was emptied.")
    name = free_name(store, safe_name(gone.name, what="run name", error=RunError))
    place = store.folder / BIN / gone.key
    source = place / gone.name
    _move(source, store.path(name))
    try:
        if name != gone.name:
            with contextlib.suppress(RunError):  # a broken run.json keeps what it says
                store.rewrite_info(name, name=name)
    except Exception:
        with contextlib.suppress(OSError):
            store.path(name).rename(source)
        raise
    with contextlib.suppress(OSError):
        place.rmdir()
    return name


def free_name(store: RunStore, wanted: str) -> str:
    """`wanted`, or the first of wanted-2, wanted-3 … that no run has, cut to the length that a name may have."""
    found = first_free(wanted, lambda name: stands(store.path(name)))
    if found is None:
        raise RunError(f"There are too many runs named {wanted}: choose another name.")
    return found


def _known(store: RunStore, name: str) -> None:
    if not (store.path(name) / "run.json").is_file():
        store.info(name)  # says which ones there are


def _refuse_held(store: RunStore, name: str, held: Collection[str], *, broken: bool = False) -> None:
    _known(store, name)
    if name in held:
        raise RunError(f"A job is using the run {name}: wait for its end, or stop it.")
    try:
        live = store.view(name).live
    except RunError:
        if not broken:
            raise
        return  # a broken run is in nobody's hands
    if live:
        raise RunError(f"The run {name} is still going on: stop it or wait for its end.")


def _move(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as exc:
        raise RunError(explain_os_error(exc, source)) from exc
