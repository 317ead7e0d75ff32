"""Colours and layout. One language of colours: base slate, adapted orange, call violet, text green-grey, malformed red."""

from __future__ import annotations

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


CSS = """
:root { --wb-line:#cbd5e1; --wb-soft:#f1f5f9; --wb-dim:#64748b; --wb-base:#475569; --wb-adapted:#c2410c;
  --wb-call:#6d28d9; --wb-call-soft:#f5f3ff; --wb-text:#3f6357; --wb-text-soft:#eef4f1; --wb-bad:#b91c1c; --wb-bad-soft:#fef2f2;
  --wb-ok:#15803d; --wb-warn:#b45309; --wb-warn-soft:#fffbeb; }
.dark { --wb-line:#334155; --wb-soft:#1e293b; --wb-dim:#94a3b8; --wb-base:#94a3b8; --wb-adapted:#fb923c;
  --wb-call:#c4b5fd; --wb-call-soft:#2e1f52; --wb-text:#a3c9b8; --wb-text-soft:#1c2f29; --wb-bad:#fca5a5; --wb-bad-soft:#3b1717;
  --wb-ok:#86efac; --wb-warn:#fcd34d; --wb-warn-soft:#35270a; }
.gradio-container { max-width: 100% !important; padding: 8px 16px !important; }
.gradio-container, .gradio-container * { font-variant-numeric: tabular-nums; }
footer { display: none !important; }
.wb-head { display:flex; gap:14px; align-items:center; white-space:nowrap; overflow:hidden; padding:6px 2px; min-height:34px; }
.wb-head .wb-title { font-weight:700; font-size:16px; } .wb-head .wb-grow { flex:1; overflow:hidden; text-overflow:ellipsis; }
.wb-dot { display:inline-block; width:9px; height:9px; border-radius:50%; margin-right:6px; background:var(--wb-dim); }
.wb-dot.idle { background:var(--wb-ok); } .wb-dot.busy { background:var(--wb-adapted); animation:wb-pulse 1.4s infinite; } .wb-dot.fault { background:var(--wb-bad); }
@keyframes wb-pulse { 50% { opacity:.35; } }
.wb-dim { color:var(--wb-dim); } .wb-bar { background:var(--wb-soft); border:1px solid var(--wb-line); border-radius:6px; height:12px; overflow:hidden; min-width:90px; display:inline-block; vertical-align:middle; }
.wb-bar > i { display:block; height:100%; background:var(--wb-base); } .wb-bar.run { height:16px; width:100%; } .wb-bar.run > i { background:#2563eb; transition:width .4s; }
.wb-chip { display:inline-block; border-radius:999px; padding:1px 9px; font-size:12px; font-weight:600; border:1px solid currentColor; }
.wb-chip.call { color:var(--wb-call); background:var(--wb-call-soft); } .wb-chip.text { color:var(--wb-text); background:var(--wb-text-soft); }
.wb-chip.bad { color:var(--wb-bad); background:var(--wb-bad-soft); } .wb-chip.warn { color:var(--wb-warn); background:var(--wb-warn-soft); } .wb-chip.ok { color:var(--wb-ok); }
.wb-note { border-left:3px solid var(--wb-line); padding:3px 10px; margin:3px 0; } .wb-note.warn { border-color:var(--wb-warn); background:var(--wb-warn-soft); color:var(--wb-warn); }
.wb-note.bad { border-color:var(--wb-bad); background:var(--wb-bad-soft); color:var(--wb-bad); } .wb-note.ok { border-color:var(--wb-ok); }
.wb-empty { border:1px dashed var(--wb-line); border-radius:8px; padding:22px; text-align:center; color:var(--wb-dim); }
.wb-facts { width:100%; border-collapse:collapse; } .wb-facts td { padding:3px 8px 3px 0; border-bottom:1px solid var(--wb-line); vertical-align:top; } .wb-facts td:last-child { text-align:right; font-weight:600; }
.wb-pane { border:1px solid var(--wb-line); border-top:4px solid var(--wb-base); border-radius:8px; padding:10px 12px; height:calc(100vh - 385px); min-height:230px; overflow-y:auto; }
.wb-pane.adapted { border-top-color:var(--wb-adapted); } .wb-pane h3 { margin:0 0 6px; font-size:14px; color:var(--wb-base); } .wb-pane.adapted h3 { color:var(--wb-adapted); }
.wb-turn { border-top:1px solid var(--wb-line); padding:8px 0; } .wb-turn:first-of-type { border-top:none; } .wb-turn.old { opacity:.72; }
.wb-ask { font-weight:600; margin-bottom:4px; overflow-wrap:anywhere; } .wb-reply { white-space:pre-wrap; overflow-wrap:anywhere; font-size:15px; line-height:1.45; } .wb-foot { margin-top:5px; font-size:12px; color:var(--wb-dim); display:flex; gap:8px; flex-wrap:wrap; align-items:center; }
.wb-call { border:1px solid var(--wb-call); background:var(--wb-call-soft); border-radius:8px; padding:8px 10px; margin:4px 0; white-space:normal; }
.wb-call .wb-name { font-weight:700; color:var(--wb-call); font-family:var(--font-mono); } .wb-call pre { margin:5px 0 0; white-space:pre-wrap; overflow-wrap:anywhere; font-family:var(--font-mono); font-size:13px; background:transparent; }
.wb-call.bad { border-color:var(--wb-bad); background:var(--wb-bad-soft); } .wb-call.bad .wb-name { color:var(--wb-bad); } .wb-call details { margin-top:5px; font-size:12px; } .wb-call summary { cursor:pointer; color:var(--wb-dim); }
.wb-log { font-size:12px; color:var(--wb-dim); max-height:150px; overflow-y:auto; white-space:pre-wrap; overflow-wrap:anywhere; }
.wb-runs { width:100%; border-collapse:collapse; font-size:13px; } .wb-runs th { text-align:left; color:var(--wb-dim); font-weight:600; } .wb-runs th, .wb-runs td { padding:3px 10px 3px 0; border-bottom:1px solid var(--wb-line); }
.wb-cursor { animation:wb-pulse 1s infinite; }
"""
