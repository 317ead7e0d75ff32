"""Sweeps on disk: sweeps/NAME/ with sweep.json (what is compared), rows.jsonl and results.jsonl (append-only). No torch.

Screen and command line read everything from there, so a reload, a second browser or a restart shows the same.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from workbench.dataset.formats import dump_jsonl, load_rows, refuse_problems
from workbench.errors import BusyError, DataError, RunError, WorkbenchError
from workbench.files import explain_os_error, safe_name, write_atomic
from workbench.schema import Example
from workbench.training.lines import append_line, read_lines
from workbench.training.resuming import claimed as claim
from workbench.training.runs import Owner
from workbench.training.sweep import SweepSpec
from workbench.training.sweep_view import LINE, Begun, Ended, Line, SweepLine, SweepView

DELETED = ".deleted"  # what was deleted last stays here until something of the same name follows it


class SweepStore:
    """The sweeps in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._cache: dict[str, tuple[tuple[int, int], tuple[Line, ...]]] = {}
        self._unwritten: dict[str, Ended] = {}

    def path(self, name: str) -> Path:
        return self.folder / safe_name(name, what="sweep's name", error=RunError)

    def create(self, spec: SweepSpec, rows: Sequence[Example]) -> SweepView:
        """The folder of a new sweep; raises `RunError` for a taken name or a folder that can't be made."""
        folder = self.path(spec.name)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
        except FileExistsError:
            raise RunError(f"There is a sweep named {spec.name} already: choose another name, or go on with that one.") from None
        except OSError as exc:
            raise RunError(explain_os_error(exc, folder)) from exc
        try:
            write_atomic(folder / "rows.jsonl", dump_jsonl(rows))
            write_atomic(folder / "sweep.json", spec.model_dump_json(indent=2))
        except WorkbenchError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._unwritten.pop(spec.name, None)  # it was another sweep's
        return self.view(spec.name)

    def names(self) -> list[str]:
        """All sweeps, newest first."""
        found: list[tuple[float, str]] = []
        for path in self.folder.glob("*/sweep.json") if self.folder.is_dir() else ():
            with contextlib.suppress(OSError):
                if not path.parent.name.startswith("."):
                    found.append((path.stat().st_mtime, path.parent.name))
        return [name for _, name in sorted(found, reverse=True)]

    def spec(self, name: str) -> SweepSpec:
        """sweep.json; raises `RunError` for an unknown name or a broken file."""
        file = self.path(name) / "sweep.json"
        if not file.is_file():
            raise RunError(f"There is no sweep named {name}; there are: {', '.join(self.names()[:8]) or 'none yet'}.")
        try:
            return SweepSpec.model_validate_json(file.read_text(encoding="utf-8"))
        except (OSError, ValidationError, ValueError) as exc:
            raise RunError(f"The file {name}/sweep.json is broken: restore it or delete the sweep.") from exc

    def rows(self, name: str) -> tuple[Example, ...]:
        """The rows that a sweep is run on; raises `DataError` where they are gone or broken."""
        loaded = load_rows(self.path(name) / "rows.jsonl")
        refuse_problems(loaded.problems, f"{name}/rows.jsonl")
        if len(loaded.rows) != self.spec(name).data_rows:
            raise DataError(f"The file {name}/rows.jsonl was changed: its results would not belong together. Begin a new sweep.")
        return loaded.rows

    def view(self, name: str) -> SweepView:
        """The sweep as its folder tells it now; raises `RunError`."""
        spec = self.spec(name)
        stamp, lines = self._lines(name)
        mark = self._unwritten.get(name)
        if mark is not None and not any(isinstance(line, (Begun, Ended)) and line.time > mark.time for line in lines):
            lines = (*lines, mark)
        return SweepView(spec, self.path(name), lines, stamp)

    def views(self) -> list[SweepView]:
        """All readable sweeps, newest first."""
        found = []
        for name in self.names():
            with contextlib.suppress(RunError):
                found.append(self.view(name))
        return found

    def stamp(self, name: str) -> tuple[int, int]:
        """Size and time of the results, which tell whether there is anything new; (0, 0) before the first."""
        try:
            stat = (self.path(name) / "results.jsonl").stat()
        except OSError:
            return 0, 0
        return stat.st_size, stat.st_mtime_ns

    def _lines(self, name: str) -> tuple[tuple[int, int], tuple[Line, ...]]:
        stamp = self.stamp(name)
        kept = self._cache.get(name)
        if kept is None or kept[0] != stamp:
            kept = (stamp, _read(self.path(name) / "results.jsonl") if stamp[0] else ())
            self._cache[name] = kept
        return kept

    def append(self, name: str, line: SweepLine) -> None:
        """Add one line, on the disk before this returns; raises `RunError`. Half a line of a killed process is not glued to it."""
        path = self.path(name) / "results.jsonl"
        try:
            append_line(path, line, to_disk=True)
        except OSError as exc:
            raise RunError(explain_os_error(exc, path)) from exc

    def begin(self, name: str) -> SweepView:
        """Mark the sweep as run by this process; raises `BusyError` where it is being run already."""
        self.spec(name)
        busy = f"The sweep {name} is being run already: wait for its end, or stop it first."
        with contextlib.ExitStack() as claimed:
            try:
                claimed.enter_context(claim(self.path(name), name))
            except RunError as exc:  # another process begins it at this moment
                raise BusyError(busy) from exc
            if self.view(name).state == "running":
                raise BusyError(busy)
            self.append(name, Begun(owner=Owner.this_process()))
            self._unwritten.pop(name, None)
            return self.view(name)

    def end(self, name: str, ended: Ended) -> None:
        """Close a sweep; raises `RunError` where that can't be written, and remembers it all the same."""
        # On a full disk the line can't be written, and the sweep must not look alive for ever.
        self._unwritten[name] = ended
        self.append(name, ended)
        del self._unwritten[name]

    def delete(self, name: str) -> None:
        """Put a sweep away, so that `bring_back` finds it; raises `RunError` while it runs."""
        running = False
        if (self.path(name) / "sweep.json").is_file():
            with contextlib.suppress(RunError):  # a broken one can be put away, too
                running = self.view(name).state == "running"
        if running:
            raise RunError(f"The sweep {name} is still going on: stop it first.")
        away = self.folder / DELETED / name
        try:
            away.parent.mkdir(exist_ok=True)
            shutil.rmtree(away, ignore_errors=True)
            self.path(name).rename(away)
        except OSError as exc:
            raise RunError(explain_os_error(exc, self.path(name))) from exc

    def bring_back(self, name: str) -> None:
        """Undo `delete`; raises `RunError` where there is nothing to bring back or the name is taken."""
        here, away = self.path(name), self.folder / DELETED / name
        if not away.is_dir():
            raise RunError(f"There is no deleted sweep named {name}.")
        if here.exists():
            raise RunError(f"There is another sweep named {name} now: the deleted one can't come back under that name.")
        try:
            away.rename(here)
        except OSError as exc:
            raise RunError(explain_os_error(exc, here)) from exc


def _read(path: Path) -> tuple[Line, ...]:
    """All whole lines; a cut or foreign one is passed over, the others still tell the sweep."""
    try:
        return tuple(read_lines(path, LINE))
    except OSError:
        return ()
