"""The demonstration page: its components and wires. It stands at /demo of the same server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import gradio as gr

from workbench.errors import WorkbenchError
from workbench.evaluation.deck import deck_text, read_deck_text
from workbench.ui.browser_tab import after_js, before_js
from workbench.ui.chat.cards import CARDS_JS
from workbench.ui.demo.pages import Pages
from workbench.ui.demo.saved import saved_html
from workbench.ui.demo.show import Show, choose, deck_store, new_deck, play, stop
from workbench.ui.demo.stage import NEWEST_JS, stage_html
from workbench.ui.downloads import download_folder, fetched
from workbench.ui.errors import sentence, shown
from workbench.ui.forms import SAMPLING_FIELDS, read_sampling, sampling_components, shown_value
from workbench.ui.highlight import escape, note
from workbench.ui.quiet import QUIET, STREAM
from workbench.ui.words import demo as words
from workbench.workspace import Workspace

PATH = "demo"
FOLLOWED = 3.0  # seconds between two looks for new adapters

# Keys press the page's buttons. What is written into a field, and what the browser or a focused button wants for itself, is left alone.
KEYS_JS = """
() => {
  if (window.wbDemoKeys) return;
  window.wbDemoKeys = true;
  for (const [id, told] of Object.entries(NAMES)) { const b = document.getElementById(id); if (b) { b.title = told; b.setAttribute('aria-label', told); } }
  const press = (id) => { const b = document.getElementById(id); if (b && !b.disabled) b.click(); };
  const dark = () => document.body.classList.toggle('dark');
  const edit = () => {
    const open = document.getElementById('demo-drawer').classList.toggle('wb-open');
    document.getElementById('demo-stage').classList.toggle('wb-open', open);
    if (open) document.querySelector('#demo-deck textarea')?.focus(); else document.activeElement?.blur();
  };
  const keys = { ArrowRight: 'demo-next', ArrowDown: 'demo-next', PageDown: 'demo-next', ArrowLeft: 'demo-previous', ArrowUp: 'demo-previous', PageUp: 'demo-previous',
    Space: 'demo-play', Enter: 'demo-play', NumpadEnter: 'demo-play', KeyA: 'demo-all', KeyS: 'demo-stop', KeyF: 'demo-file' };
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
    const at = event.target;
    if (event.code === 'Escape' && document.getElementById('demo-drawer').classList.contains('wb-open')) { edit(); return; }
    if (at.closest('input, textarea, select, [contenteditable=true], [role=listbox]')) return;
    if ((event.code === 'Space' || event.code === 'Enter') && at.closest('button, a, summary')) return;
    if (event.code === 'KeyD') dark();
    else if (event.code === 'KeyE') edit();
    else if (keys[event.code]) { if (!event.repeat || event.code.startsWith('Arrow')) press(keys[event.code]); }
    else return;
    event.preventDefault();
  });
  // A button that was clicked with the mouse does not keep the keys.
  document.addEventListener('click', (event) => {
    const button = event.target.closest('button');
    if (!button) return;
    if (event.detail) button.blur();
    if (button.id === 'demo-dark') dark();
    if (button.id === 'demo-edit') edit();
  });
}
"""


def build(space: Workspace) -> None:
    """The page's components, within its route."""
    show, pages = gr.State(Show()), Pages()
    left = gr.Textbox(visible="hidden", elem_id="demo-before")  # the key of the page that stood in this tab before
    seen = gr.State(None)  # the adapters that the choice holds
    with gr.Row(elem_classes="wb-demo-bar", equal_height=True):
        gr.HTML(_title(space), elem_id="demo-heading")
        run = gr.Dropdown(choices=[], label=words.ADAPTER, min_width=100, elem_id="demo-adapter")
        previous = gr.Button(words.PREVIOUS, size="sm", min_width=0, elem_id="demo-previous")
        one = gr.Button(words.PLAY, size="sm", variant="primary", min_width=0, elem_id="demo-play")
        following = gr.Button(words.NEXT, size="sm", min_width=0, elem_id="demo-next")
        everything = gr.Button(words.ALL, size="sm", min_width=0, elem_id="demo-all")
        halt = gr.Button(words.STOP, size="sm", min_width=0, elem_id="demo-stop")
        gr.Button(words.DARK, size="sm", min_width=0, elem_id="demo-dark")
        gr.Button(words.EDIT, size="sm", min_width=0, elem_id="demo-edit")
        save_file = gr.Button(words.FILE, size="sm", min_width=0, elem_id="demo-file")
        file = gr.DownloadButton(visible="hidden", elem_id="demo-fetch")
    with gr.Column(elem_id="demo-drawer"):
        deck = gr.Textbox(label=words.DECK, info=words.DECK_HELP, lines=6, max_lines=12, elem_id="demo-deck")
        with gr.Row(equal_height=True):
            save = gr.Button(words.SAVE, size="sm", variant="primary", elem_id="demo-save")
            anew = gr.Button(words.ANEW, size="sm", elem_id="demo-anew")
        said = gr.HTML(elem_id="demo-said")
        with gr.Accordion(words.SETTINGS, open=False), gr.Row():
            sampling = sampling_components()
    stage = gr.HTML(stage_html(Show(), []), elem_id="demo-stage", js_on_load=CARDS_JS + NEWEST_JS)

    def picture(now: Show) -> str:
        return stage_html(now, space.adapters())

    def told(now: Show, said: str = "") -> str:
        """The picture after something was pressed: what that led to takes the place of what was said before it.

        The sentence stands in the show, so that a picture drawn later for another reason has it too.
        """
        now.said = said
        return picture(now)

    def opened(request: gr.Request, before: str, now: Show) -> list[Any]:
        names = space.adapters()
        now.run, now.said = (names[0] if names else None), ""
        try:
            now.deck = deck_store(space).read()
        except WorkbenchError as exc:
            now.said = str(exc)
        own = str(request.session_hash)
        goes_on = pages.enter(own, now, before, names)
        how = [shown_value(getattr(now.sampling, name)) if goes_on else gr.skip() for name in SAMPLING_FIELDS]
        told_of = note(now.said, "warn") if now.said else ""
        return [own, picture(now), gr.Dropdown(choices=names, value=now.run), names, deck_text(now.deck.entries), told_of, now, *how]

    def followed(now: Show, known: list[str] | None) -> list[Any]:
        names = space.adapters()
        if known is None or names == known:
            return [gr.skip()] * 3
        if not now.going and (now.run is None or now.run not in names):
            choose(space, now, names[0] if names else None)
            now.said = ""
        return [gr.Dropdown(choices=names, value=now.run), names, gr.skip() if now.going else picture(now)]

    def played(now: Show, places: list[int], values: tuple[Any, ...]) -> Iterator[str]:
        now.said = ""
        try:
            for _ in play(space, now, places, read_sampling(values)):
                yield picture(now)
            now.said = ""  # what keys pressed meanwhile led to, “a prompt is being played” for one, is over with it
        except Exception as exc:
            now.said = sentence(exc)
        yield picture(now)

    def play_one(now: Show, *values: Any) -> Iterator[str]:
        yield from played(now, [now.next_unplayed()] if now.deck.entries else [], values)

    def play_all(now: Show, *values: Any) -> Iterator[str]:
        yield from played(now, list(range(len(now.deck.entries))), values)

    def stopped(now: Show) -> Any:
        # What goes on draws its own end.
        return gr.skip() if stop(space, now) else told(now, words.NOT_PLAYING)

    def moved(by: int) -> Any:
        def move(now: Show) -> str:
            now.move(by)
            return told(now)

        return move

    def picked(now: Show, event: gr.EventData) -> str:
        key = str(event._data.get("key", "")) if isinstance(event._data, dict) else ""
        if key.isdigit():
            now.go(int(key))
        return told(now)

    def chosen(now: Show, name: str | None) -> str:
        choose(space, now, name)
        return told(now)

    def deck_saved(now: Show, text: str) -> list[Any]:
        try:
            new_deck(space, now, deck_store(space).save(read_deck_text(text), now.deck.version))
        except WorkbenchError as exc:
            return [note(str(exc), "warn"), gr.skip(), gr.skip()]
        return [note(words.SAVED.format(count=len(now.deck.entries)), "ok"), deck_text(now.deck.entries), told(now)]

    def begun_anew(now: Show) -> list[Any]:
        return deck_saved(now, deck_text(deck_store(space).beginning()))

    def filed(now: Show) -> list[Any]:
        try:
            text = saved_html(now, space.adapters())
            path = download_folder(space) / f"demonstration-{(now.run or 'base').replace('@', '-')}.html"
            path.write_text(text, encoding="utf-8")
        except WorkbenchError as exc:
            return [gr.skip(), told(now, str(exc))]
        return [gr.DownloadButton(value=str(path)), told(now)]

    for button, played_by in ((one, play_one), (everything, play_all)):
        button.click(played_by, [show, *sampling], stage, **STREAM)
    halt.click(shown(stopped), show, stage, **QUIET)
    for button, by in ((previous, -1), (following, 1)):  # each press counts, also while the one before it is being answered
        button.click(shown(moved(by)), show, stage, trigger_mode="multiple", **QUIET)
    stage.click(shown(picked), show, stage, **QUIET)
    run.input(shown(chosen), [show, run], stage, **QUIET)
    save.click(shown(deck_saved), [show, deck], [said, deck, stage], **QUIET)
    anew.click(shown(begun_anew), show, [said, deck, stage], **QUIET)
    fetched(save_file.click(shown(filed), show, [file, stage], **QUIET), file)
    gr.Timer(FOLLOWED).tick(shown(followed), [show, seen], [run, seen, stage], **QUIET)
    page = gr.context.Context.root_block
    assert page is not None
    loaded = page.load(shown(opened), [left, show], [left, stage, run, seen, deck, said, show, *sampling], js=before_js("demo"), **QUIET)
    loaded.success(None, left, None, js=after_js("demo"), **QUIET)
    page.load(None, js=KEYS_JS.replace("NAMES", json.dumps({"demo-previous": words.PREVIOUS_HELP, "demo-next": words.NEXT_HELP})))


def _title(space: Workspace) -> str:
    return (
        f'<div class="wb-demo-title"><b>{escape(words.HEADING)}</b> <span class="wb-dim">{escape(space.model_name)}</span>'
        f'<a href="./">{escape(words.BACK)}</a></div>'
    )
