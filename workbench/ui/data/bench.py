"""What the panels of the Data tab share: the set as the page saw it, the line that says what happened, and one way to change rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from workbench.dataset.changes import Change
from workbench.errors import ConflictError, WorkbenchError
from workbench.ui import words
from workbench.ui.errors import shown
from workbench.ui.highlight import note
from workbench.workspace import Workspace

QUIET: dict[str, Any] = {"show_progress": "hidden", "queue": False}  # quick verbs answer the click itself


@dataclass(frozen=True)
class Bench:
    """`version` is the set's version that this page shows, `changed` counts up whenever it has become another,
    `only` holds the places that the grid is narrowed to (None for all), `pending` a change that met a foreign one."""

    space: Workspace
    page: gr.Blocks
    message: gr.HTML
    version: gr.State
    changed: gr.State
    pending: gr.State
    only: gr.State
    tabs: gr.Tabs  # the panels; the grid's id is "rows"

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
            change: Change | None = None
            try:
                change = plan(*given)
                if not change:
                    return [note(change.what or words.NOTHING_CHANGED), gr.skip(), gr.skip(), gr.skip()]
                rows = self.space.rows.change(change, version)
            except ConflictError as exc:
                return [note(str(exc), "bad"), gr.skip(), gr.skip(), (change, version)]
            except WorkbenchError as exc:
                return [note(str(exc), "bad"), gr.skip(), gr.skip(), gr.skip()]
            if rows.version == version:
                return [note(words.NOTHING_CHANGED), gr.skip(), gr.skip(), gr.skip()]
            what = change.what[:1].upper() + change.what[1:]
            return [note(f"{words.SAVED} {what}." if what else words.SAVED, "ok"), rows.version, count + 1, None]

        return shown(run)
