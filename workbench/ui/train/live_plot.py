"""A chart that grows under a person's eyes: zoom and drag stay, because new points go into the plot that stands there.

gradio's own Plot makes a new plot for each new value, so Plotly's `uirevision` has nothing to keep. Here the Plot gets the first figure
alone; each later one is told to a hidden component, whose script hands it to `Plotly.react`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
import plotly.graph_objects as go

_SCRIPT = """let latest = null, waiting = false, tries = 0, looks = 0;
const again = () => {  // gradio may still be drawing the first figure, and then puts it over this one
  if (waiting || !latest || looks-- <= 0) return;
  const plot = document.querySelector('#%s .js-plotly-plot');
  if (!plot || !plot.offsetParent || (plot.layout || {}).uirevision !== latest.layout.uirevision) return;  // gone, or another chart by now
  if (plot.data !== latest.data && !plot._dragging) window.Plotly.react(plot, latest.data, latest.layout);
  setTimeout(again, 500);
};
const put = () => {
  waiting = false;
  const plot = document.querySelector('#%s .js-plotly-plot');
  const ready = plot && window.Plotly && plot.offsetParent && !plot._dragging;
  if (!ready) {  // not drawn yet, not seen, or held by the mouse
    if (tries++ < 240) { waiting = true; setTimeout(put, 250); }
    return;
  }
  window.Plotly.react(plot, latest.data, latest.layout);
  looks = 20;
  setTimeout(again, 500);
};
watch('value', () => {
  try { latest = JSON.parse(props.value); } catch { return; }
  tries = 0;
  if (!waiting) put();
});"""


@dataclass(frozen=True)
class LivePlot:
    """The plot, and the hidden component that its later figures are told to."""

    plot: gr.Plot
    push: gr.HTML

    @property
    def outputs(self) -> list[Any]:
        return [self.plot, self.push]


def build(element: str, **more: Any) -> LivePlot:
    """The two components; `element` is the plot's id on the page."""
    plot = gr.Plot(show_label=False, elem_id=element, **more)
    push = gr.HTML("", html_template="<i></i>", js_on_load=_SCRIPT.replace("%s", element), visible="hidden", elem_id=f"{element}-push")
    return LivePlot(plot, push)


def pushed(figure: go.Figure) -> str:
    """The figure as the hidden component is told it; gradio fits its own plots to their place, so this does too."""
    figure.update_layout(autosize=True)
    return str(figure.to_json())
