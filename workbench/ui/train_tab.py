"""The Train tab: one run as it goes on, all runs compared, and sweeps. Everything is read from the runs' folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from workbench.ui.errors import shown
from workbench.ui.quiet import QUIET
from workbench.ui.train import run_panel, runs_panel, sweep_panel
from workbench.ui.words import train as words
from workbench.workspace import Workspace


def build(space: Workspace, timer: gr.Timer, opened: gr.Tab, current: gr.State) -> tuple[gr.Dropdown, Callable[[Sequence[gr.components.Component]], None]]:
    """The tab's components and their wires. `current` is the tab that the page shows.

    Returns the list of runs, and what wires the sweeps' form once the fields of the Tune form are there.
    """
    chosen = gr.State("run")  # the panel within this tab
    watched = gr.State("")  # the panel that a person sees: none while another tab is open
    with gr.Tabs(selected="run", elem_id="train-panels") as panels:
        with gr.Tab(words.PANELS["run"], id="run") as run_tab:
            run = run_panel.build(space)
        with gr.Tab(words.PANELS["runs"], id="runs") as runs_tab:
            runs = runs_panel.build(space)
        with gr.Tab(words.PANELS["sweep"], id="sweep") as sweep_tab:
            wire_sweeps = sweep_panel.build(space, sweep_tab, timer, current=watched, above=opened)
    count = len(run.inputs)
    outputs = [*run.outputs, *runs.outputs, watched]

    def draw(panel: str, seen_panel: str, *values: Any) -> list[Any]:
        """What the open panel shows; the others are left as they are."""
        first = run.refresh(*values[:count]) if panel == "run" else [gr.skip()] * len(run.outputs)
        second = runs.refresh(*values[count:]) if panel == "runs" else [gr.skip()] * len(runs.outputs)
        return [*first, *second, panel if panel != seen_panel else gr.skip()]

    inputs = [watched, *run.inputs, *runs.inputs]
    timer.tick(shown(lambda tab, panel, *v: draw(panel if tab == "train" else "", *v)), [current, chosen, *inputs], outputs, trigger_mode="once", **QUIET)
    opened.select(shown(draw), [chosen, *inputs], outputs, **QUIET)
    for key, tab in (("run", run_tab), ("runs", runs_tab), ("sweep", sweep_tab)):
        tab.select(_selected(draw, key), inputs, [chosen, *outputs], **QUIET)
    # A run that is chosen elsewhere (it was started on the Tune tab, or is to be shown from the table) is brought to the front.
    show: dict[str, Any] = {"outputs": [panels, chosen], **QUIET}
    run.runs.change(shown(brought), [run.runs, run.seen], **show)
    bring = shown(lambda query: [gr.Dropdown(choices=space.runs.names(), value=query.opened), gr.Tabs(selected="run"), "run"])
    runs.show.click(bring, runs.query, [run.runs, panels, chosen], **QUIET)
    return run.runs, wire_sweeps


def brought(name: str | None, seen: dict[str, Any]) -> list[Any]:
    """The tab and the panel to show once the list of runs has changed: none where the panel's own drawing changed it.

    The first drawing fills the list; whoever has gone to another panel by then stays there.
    """
    drawn = seen.get("chooser", (None,))[0]
    return [gr.skip(), gr.skip()] if name == drawn else [gr.Tabs(selected="run"), "run"]


def _selected(draw: Any, key: str) -> Any:
    return shown(lambda *values: [key, *draw(key, *values)])
