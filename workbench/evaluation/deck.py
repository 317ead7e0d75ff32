"""The prompts of a demonstration: a deck that says of each whether it should lead to a call, kept in a file, and how its replies are counted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.calls.segments import Verdict
from workbench.errors import ConflictError, DataError, InputError
from workbench.evaluation.scores import Case, Rate
from workbench.files import explain_os_error, write_atomic

MAX_ENTRIES = 100
MAX_PROMPT = 4000  # characters
MAX_BYTES = 2 * 2**20
CALL, TEXT = "call", "text"


@dataclass(frozen=True)
class Entry:
    """A prompt of a demonstration, and whether it should lead to a call."""

    prompt: str
    should_call: bool

    def right(self, found: Verdict) -> bool:
        """Whether a reply of that verdict is what the prompt should lead to."""
        return found == ("tool call" if self.should_call else "no tool call")


@dataclass(frozen=True)
class Deck:
    """The entries, and the file's version ("" while there is none)."""

    entries: tuple[Entry, ...] = ()
    version: str = ""


def deck_of(cases: Iterable[Case]) -> tuple[Entry, ...]:
    """Cases as a deck: what expects a call should call."""
    return tuple(Entry(case.prompt, bool(case.expected)) for case in cases)


# -- as text ----------------------------------------------------------------------------------------


def deck_text(entries: Sequence[Entry]) -> str:
    """The deck as a person edits it: one prompt a line, behind `call |` or `text |`. A prompt's own line ends stand as \\n."""
    return "\n".join(f"{CALL if e.should_call else TEXT} | {_folded(e.prompt)}" for e in entries)


def read_deck_text(text: str) -> tuple[Entry, ...]:
    """`deck_text` read back; raises `InputError` with the first line that can't be used."""
    found: list[Entry] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        kind, bar, prompt = line.partition("|")
        if not bar or kind.strip().lower() not in (CALL, TEXT):
            raise InputError(f"Line {number} can't be used: begin it with “{CALL} |” (the prompt should lead to a call) or “{TEXT} |” (it should not).")
        found.append(_checked(Entry(_unfolded(prompt.strip()), kind.strip().lower() == CALL), f"Line {number}"))
    return _counted(found)


def _folded(prompt: str) -> str:
    return "\\n".join(line for line in prompt.replace("\\", "\\\\").splitlines())


def _unfolded(written: str) -> str:
    return "\\".join(part.replace("\\n", "\n") for part in written.split("\\\\"))


def _checked(entry: Entry, where: str) -> Entry:
    if not entry.prompt.strip():
        raise InputError(f"{where} can't be used: it has no prompt.")
    if len(entry.prompt) > MAX_PROMPT:
        raise InputError(f"{where} can't be used: its prompt has {len(entry.prompt):,} characters, and {MAX_PROMPT:,} are allowed. Shorten it.")
    return entry


def _counted(entries: list[Entry]) -> tuple[Entry, ...]:
    if not entries:
        raise InputError(f"A deck needs one prompt at least: write one a line, as in “{CALL} | What is my balance?”.")
    if len(entries) > MAX_ENTRIES:
        raise InputError(f"A deck holds {MAX_ENTRIES} prompts at most, and these are {len(entries)}: take some out.")
    return tuple(entries)


# -- the file ---------------------------------------------------------------------------------------


class DeckStore:
    """Reads and writes the deck: JSON lines {"prompt": …, "should_call": true}. While there is no file, `beginning` gives the entries."""

    def __init__(self, path: Path, beginning: Callable[[], tuple[Entry, ...]]) -> None:
        self.path, self.beginning = path, beginning

    def read(self) -> Deck:
        """The deck as it stands; raises `DataError` if the file can't be read, or what it begins with can't."""
        raw = self._bytes()
        if raw is None:
            return Deck(self.beginning())
        entries: list[Entry] = []
        try:
            lines = raw.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as exc:
            raise DataError(f"{self.path.name} is not UTF-8: save it as UTF-8, or delete it to begin anew.") from exc
        for number, line in enumerate(lines, 1):
            if line.strip():
                entries.append(self._entry(line, number))
        try:
            return Deck(_counted(entries), _version(raw))
        except InputError as exc:
            raise DataError(f"{self.path.name} can't be used. {exc}") from exc

    def save(self, entries: Sequence[Entry], version: str) -> Deck:
        """Write the deck whole or not at all; raises `ConflictError` if the file is not as it was at `version`, `InputError` for an entry that can't be used."""
        raw = self._bytes()
        if version != ("" if raw is None else _version(raw)):
            raise ConflictError(f"{self.path.name} was changed elsewhere since you opened it: nothing was overwritten. Reload the page to see it as it is now.")
        checked = _counted([_checked(entry, f"Prompt {i}") for i, entry in enumerate(entries, 1)])
        lines = (json.dumps({"prompt": e.prompt, "should_call": e.should_call}, ensure_ascii=False) for e in checked)
        try:
            written = "".join(f"{line}\n" for line in lines).encode()
        except UnicodeEncodeError as exc:
            raise InputError("A prompt holds half a character (a lone surrogate): take it out.") from exc
        write_atomic(self.path, written)
        return Deck(checked, _version(written))

    def begin_anew(self, version: str) -> Deck:
        """The entries that a deck begins with, saved; raises as `save` does."""
        return self.save(self.beginning(), version)

    def _bytes(self) -> bytes | None:
        try:
            if not self.path.exists():
                return None
            if self.path.stat().st_size > MAX_BYTES:
                raise DataError(f"{self.path.name} is larger than {MAX_BYTES // 2**20} MiB: it can't be a deck. Delete it to begin anew.")
            return self.path.read_bytes()
        except OSError as exc:
            raise DataError(explain_os_error(exc, self.path)) from exc

    def _entry(self, line: str, number: int) -> Entry:
        where = f"Line {number} of {self.path.name}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as exc:
            raise DataError(f"{where} is not valid JSON: mend it, or delete the file to begin anew.") from exc
        if not isinstance(value, dict) or not isinstance(value.get("prompt"), str) or not isinstance(value.get("should_call"), bool):
            raise DataError(f'{where} can\'t be used: it should be as in {{"prompt": "…", "should_call": true}}. Mend it, or delete the file to begin anew.')
        try:
            return _checked(Entry(value["prompt"], value["should_call"]), where)
        except InputError as exc:
            raise DataError(f"{exc} Mend it, or delete the file to begin anew.") from exc


def _version(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


# -- counting ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tally:
    """Of one side's replies: how many of those that should call did so, well-formed; and how many of the others began a call, malformed ones included."""

    called: Rate
    over: Rate


def tally(judged: Iterable[tuple[Entry, Verdict]]) -> Tally:
    found = list(judged)
    wanting = [verdict for entry, verdict in found if entry.should_call]
    others = [verdict for entry, verdict in found if not entry.should_call]
    return Tally(
        Rate(sum(v == "tool call" for v in wanting), len(wanting)),
        Rate(sum(v != "no tool call" for v in others), len(others)),
    )
