"""What the panels of the Data tab share: the set as the page saw it, the line that says what happened, and one way to change rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from workbench.dataset.changes import Change
from workbench.dataset.history import match
from workbench.dataset.store import RowSet
from workbench.errors import ConflictError, WorkbenchError, sentence_case
from workbench.ui import words
from workbench.ui.errors import shown
from workbench.ui.highlight import note
from workbench.ui.quiet import QUIET
from workbench.workspace import Workspace

SMALL = 400  # rows: up to here the health check is part of every answer; a larger set's follows in an event of its own


def waiting(text: str) -> str:
    """A message whose change waits for a decision: its mark shows the buttons Merge and Drop (theme.css), without a request."""
    return f'{note(text, "bad")}<i class="wb-waits"></i>'


def refusal(reason: object, kind: str = "bad") -> str:
    """Why something was not done, as a message: it begins with a capital and ends with a full stop."""
    text = str(reason).strip()
    return note(f"{sentence_case(text)}{'' if text.endswith(('.', '!', '?', '…')) else '.'}", kind)


class Only:
    """The places that the grid is narrowed to, as they stand in the rows of `version`. Told from another by identity."""

    def __init__(self, version: str, places: Sequence[int]) -> None:
        self.version, self.places = version, tuple(places)

    def now(self, space: Workspace, rows: RowSet) -> list[int]:
        """The places of the same rows in `rows`; those that are gone are left out."""
        if self.version == rows.version:
            return list(self.places)
        seen = space.rows.at(self.version)
        if seen is None:
            return []
        there = match(seen.entries, rows.entries)
        return [there[place] for place in self.places if place in there]


class Pending:
    """A change that met a foreign one, with the version it was made for. Told from another by identity alone."""

    def __init__(self, change: Change, version: str) -> None:
        self.change, self.version = change, version


@dataclass(frozen=True)
class Bench:
    """`version` is the set's version that this page shows, `changed` counts up whenever it has become another,
    `only` holds an `Only` while the grid is narrowed to a finding's rows, `pending` a change that met a foreign one.

    `changed` is a hidden number, not a gr.State: a state's change is not told to events outside the queue.
    """

    space: Workspace
    page: gr.Blocks
    message: gr.HTML
    version: gr.State
    changed: gr.Number
    pending: gr.State
    only: gr.State
    tabs: gr.Tabs  # the panels; the grid's id is "rows"
    panel: gr.State  # the id of the open panel
    panels: dict[str, gr.Tab] = field(default_factory=dict)
    stale: dict[str, gr.Number] = field(default_factory=dict)
    """Hidden numbers by panel: one counts up when the set has changed while its panel was open."""

    def open_panel(self, key: str, title: str) -> gr.Tab:
        """The tab of a panel, to be filled."""
        self.panels[key] = gr.Tab(title, id=key)
        return self.panels[key]

    def drawn_when_seen(self, key: str, draw: Callable[..., list[Any]], inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Draw a panel when it is opened, and when the set changes while it is open: what nobody sees costs no click anything."""
        self.stale[key] = gr.Number(0, precision=0, visible="hidden", elem_id=f"stale-{key}")
        self.panels[key].select(shown(lambda *given: [key, *draw(*given)]), [*inputs], [self.panel, *outputs], **QUIET)
        self.stale[key].change(shown(draw), [*inputs], [*outputs], trigger_mode="always_last", **QUIET)

    @property
    def outputs(self) -> list[Any]:
        """What a handler made by `changing` fills."""
        return [self.message, self.version, self.changed, self.pending]

    @property
    def inputs(self) -> list[Any]:
        """What such a handler wants after its own inputs."""
        return [self.version, self.changed]

    def changing(self, plan: Callable[..., Change]) -> Callable[..., list[Any]]:
        """A handler that makes the change which `plan(*its own inputs)` returns, or says why not.

        Wire it as `button.click(bench.changing(plan), [*own, *bench.inputs], bench.outputs, **QUIET)`.
        """

        def run(*args: Any) -> list[Any]:
            *given, version, count = args
            try:
                change = plan(*given)
            except WorkbenchError as exc:
                return [refusal(exc), *[gr.skip()] * 3]
            return self.make(change, version, count)[1]

        return shown(run)

    def settle(self, change: Change, made_for: str, version: str, count: float) -> tuple[Change, RowSet | None, list[Any]]:
        """Make a change whose places count in the rows of `made_for`, on a page that shows `version`.

        What the page itself has done since moves the places along. What another has done is told, and waits for a
        decision. Returns the change as it was made, and `make`'s answer.
        """
        try:
            if made_for != version and self.space.rows.read().version == version:
                merged = self.space.rows.merge(change, made_for)
                if merged.conflicts:
                    return change, None, [waiting(f"{words.ROW_CHANGED} {words.IF_MERGED}"), gr.skip(), gr.skip(), Pending(change, made_for)]
                return merged.change, *self.make(merged.change, version, count)
        except WorkbenchError as exc:
            return change, None, [refusal(exc), *[gr.skip()] * 3]
        return change, *self.make(change, made_for, count)

    def make(self, change: Change, version: str, count: float) -> tuple[RowSet | None, list[Any]]:
        """Make a change: the rows as they stand then (None where it was not made) and the values for `outputs`."""
        if not change:
            return self.space.rows.read(), [note(change.what or words.NOTHING_CHANGED), *[gr.skip()] * 3]
        try:
            rows = self.space.rows.change(change, version)
        except ConflictError as exc:
            return None, [waiting(str(exc)), gr.skip(), gr.skip(), Pending(change, version)]
        except WorkbenchError as exc:
            return None, [refusal(exc), *[gr.skip()] * 3]
        if rows.version == version:
            return rows, [note(words.NOTHING_CHANGED), *[gr.skip()] * 3]
        what = sentence_case(change.what)
        return rows, [note(f"{words.SAVED} {what}." if what else words.SAVED, "ok"), rows.version, count + 1, None]
