"""The row in the form: which one it is, what a person may do with it, and what is opened next. The form itself is drawn by row_form."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from workbench.dataset.changes import Change
from workbench.dataset.draft import EMPTY, Draft, draft_of, row_of, same
from workbench.dataset.formats import parse_jsonl
from workbench.dataset.history import match
from workbench.dataset.store import RowSet
from workbench.errors import DataError, RowError, WorkbenchError
from workbench.schema import Example
from workbench.ui import words
from workbench.ui.data.bench import Bench, refusal
from workbench.ui.highlight import note
from workbench.ui.quiet import QUIET
from workbench.workspace import Workspace

_serials = itertools.count(1)


class Form:
    """The row in the form: its place (None for a new one) in the rows of `version`, the row as it was opened, and the
    draft the form begins with. `visit` stays the same as long as the same row is drawn anew.

    Told from another by identity: gradio compares states by their hash.
    """

    def __init__(self, draft: Draft = EMPTY, place: int | None = None, was: Example | None = None, broken: str = "", version: str = "") -> None:
        self.serial = self.visit = next(_serials)
        self.draft, self.place, self.was, self.broken, self.version = draft, place, was, broken, version

    def redrawn(self, draft: Draft) -> Form:
        """The same row with another draft."""
        return Form(draft, self.place, self.was, self.broken, self.version).visited(self)

    def visited(self, before: Form) -> Form:
        """This form, as another drawing of the row that `before` shows."""
        self.visit = before.visit
        return self


def open_row(rows: RowSet, place: int | None) -> Form:
    """The form for a row of the set; empty for None or a place that is not there."""
    if place is None or not 0 <= place < len(rows.entries):
        return Form()
    entry = rows.entries[place]
    if entry.row is None:
        return Form(Draft(()), place, None, entry.raw, rows.version)
    return Form(draft_of(entry.row), place, entry.row, "", rows.version)


def follow(space: Workspace, form: Form | None, typed: Draft | str | None) -> Form | None:
    """The form for the same row in the set as it stands now; None where the form stays as it is.

    Text that is not saved stays untouched: saving finds the row's place by itself.
    """
    now = space.rows.read()
    if form is None or form.place is None or form.version == now.version or is_unsaved(form, typed):
        return None
    seen = space.rows.at(form.version)
    place = match(seen.entries, now.entries).get(form.place) if seen is not None else None
    return open_row(now, place).visited(form)


def is_unsaved(form: Form | None, typed: Draft | str | None) -> bool:
    """Whether the form holds something that is in no row yet."""
    if typed is None:
        return False
    form = form or Form()
    return typed != form.broken if isinstance(typed, str) else not same(typed, opened_draft(form))


def opened_draft(form: Form) -> Draft:
    """The draft of the row as it stands in the set, whatever the form was changed to meanwhile."""
    return draft_of(form.was) if form.was is not None else EMPTY


# -- verbs: each says what to change, and which place to open next ---------------------------------


def save(form: Form, draft: Draft) -> Change:
    """Put the draft in its place, or add it as a new row; raises `RowError`."""
    row = row_of(draft, form.was)
    if form.place is None:
        return Change(add=(row,), what="the row was added")
    if row == form.was:
        return Change(what=words.NOTHING_CHANGED)
    return Change(put={form.place: row}, what=f"row {form.place + 1} was changed")


def review(form: Form, draft: Draft, status: str) -> Change:
    """Save the draft with a review status; a generated row that is approved keeps its source."""
    change = save(form, replace(draft, status=status))
    return replace(change, what=f"row {form.place + 1} is {status}") if change and form.place is not None else change


def duplicate(form: Form, draft: Draft) -> Change:
    """The draft as a new draft row at the end; the row itself stays."""
    row = replace(row_of(draft, form.was), status="draft")
    return Change(add=(row,), what=f"row {form.place + 1} was copied" if form.place is not None else "the row was added")


def delete(form: Form) -> Change:
    if form.place is None:
        raise DataError(words.NO_ROW_CHOSEN)
    return Change(drop=frozenset({form.place}), what=f"row {form.place + 1} was deleted; Undo brings it back")


def mend_line(form: Form, text: str) -> Change:
    """Put a mended line in the place of a broken one; raises `RowError` if it still can't be used."""
    loaded = parse_jsonl(text.strip().replace("\n", " "))
    if loaded.problems or not loaded.rows:
        problem = loaded.problems[0].told if loaded.problems else "it is empty"
        raise RowError(f"The line still can't be used: {problem}.", "line")
    assert form.place is not None
    return Change(put={form.place: loaded.rows[0]}, what=f"row {form.place + 1} was mended")


def neighbour(found: Sequence[int], place: int | None, step: int) -> int | None:
    """The place after (or before) `place` among the rows found; None where there is none.

    From a row that is not among them one goes on to those further down (or up) in the file; from a new one to the first.
    """
    if place is None:
        return next(iter(found), None)
    if place in found:
        index = found.index(place) + step
        return found[index] if 0 <= index < len(found) else None
    beyond = [p for p in found if (p > place if step > 0 else p < place)]
    return beyond[0 if step > 0 else -1] if beyond else None


@dataclass(frozen=True)
class Editor:
    """The states between the grid and the form. `opening` tells the form to be drawn anew; `typed` is what stands in it now."""

    bench: Bench
    opened: gr.State
    opening: gr.Number
    typed: gr.State
    lesson: gr.HTML
    found: Callable[..., list[int]]  # the places that the grid's filters let through, from `query`'s values
    query: list[Any]

    @property
    def outputs(self) -> list[Any]:
        return [self.opened, self.opening, self.typed]

    @property
    def quiet(self) -> dict[str, Any]:
        """QUIET for the events of the form, which are made after the page was built (see `quiet.quieten`)."""
        return QUIET | {"show_progress_on": []}

    def show(self, form: Form) -> list[Any]:
        return [form, form.serial, None]

    def change(self, plan: Callable[[Form, Draft], Change], then: str) -> Callable[..., list[Any]]:
        """A handler that makes the plan's change and then opens `then`: "same", "next" or "last"."""

        def run(form: Form, draft: Draft, version: str, count: float, *query: Any) -> list[Any]:
            try:
                change = plan(form, draft)
            except WorkbenchError as exc:
                return [refusal(exc), *[gr.skip()] * 6]
            # A new row has no place that could have moved.
            further = neighbour(self.found(*query), form.place, 1) if then == "next" else None  # before the change, which may take the row out of those found
            count_before = len(self.bench.space.rows.read().entries)
            change, rows, said = self.bench.settle(change, version if form.place is None else form.version or version, version, count)
            if rows is None:
                return [*said, *[gr.skip()] * 3]
            place = next(iter([*change.put, *change.drop]), form.place)
            if then == "last" or form.place is None:
                place = len(rows.entries) - 1 if change.add else place
            elif then == "next":
                if further is None and isinstance(said[0], str):
                    said = [f"{said[0]}{note(words.LAST_ROW)}", *said[1:]]
                if place is not None and further is not None:
                    moved = len(rows.entries) != count_before  # by another's change, which came in beside this one
                    further = neighbour(self.found(*query), place, 1) if moved else further
                    place = place if further is None else further
            return [*said, *self.show(open_row(rows, place))]

        return run
