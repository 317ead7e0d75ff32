"""The panel of sweeps: a grid of settings tried on folds of the rows, compared with intervals."""

from __future__ import annotations

import gradio as gr

from workbench.ui.highlight import empty
from workbench.ui.words import sweep as words
from workbench.workspace import Workspace


def build(space: Workspace, page: gr.Blocks, timer: gr.Timer, *, current: gr.State | None = None, name: str = "sweep") -> None:
    """The panel, within the tab that is open.

    `current` holds the id of the tab that the page shows: while it is another than `name` nothing is drawn.
    """
    gr.HTML(empty(words.EMPTY), elem_id="sweep-table")
