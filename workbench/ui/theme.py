"""Colours and layout. One language of colours: base slate, adapted orange, call violet, text green-grey, malformed red."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

TRAIN_BLUE, VALIDATION_AMBER = "#2563eb", "#d97706"


def theme() -> gr.themes.Base:
    # Fonts of the machine: nothing is fetched from elsewhere, and the page works without a network.
    sans = ["ui-sans-serif", "system-ui", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
    mono = ["ui-monospace", "SF Mono", "Menlo", "Consolas", "monospace"]
    return gr.themes.Default(
        primary_hue=gr.themes.colors.orange, neutral_hue=gr.themes.colors.slate, font=sans, font_mono=mono,
        spacing_size=gr.themes.sizes.spacing_sm, text_size=gr.themes.sizes.text_sm,
    )


_HERE = Path(__file__).parent
CSS = "\n".join(file.read_text(encoding="utf-8") for file in (_HERE / "theme.css", _HERE / "tune" / "tune.css", _HERE / "chat" / "chat.css", _HERE / "demo" / "demo.css"))
