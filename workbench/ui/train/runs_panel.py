"""The panel of all runs: the table, what is done to one of them, what is exported; below it they are compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr

from workbench.engine.using import runs_used
from workbench.errors import DataError, RunError, WorkbenchError
from workbench.files import write_atomic
from workbench.training.export_metrics import metrics_csv, metrics_json
from workbench.training.run_search import filter_rows
from workbench.training.run_table import SORTS, DataHashes, RunRow, RunTable, sort_rows
from workbench.training.shelf import delete, deleted, read_note, rename, restore, write_note
from workbench.ui import words as common
from workbench.ui.downloads import download_folder, fetched
from workbench.ui.errors import shown
from workbench.ui.highlight import escape, note
from workbench.ui.quiet import QUIET
from workbench.ui.train import compare_panel
from workbench.ui.train.table import TABLE_JS, table_html
from workbench.ui.words import train as words
from workbench.workspace import Workspace

EXPORTS = {"csv": words.EXPORT_CSV, "json": words.EXPORT_JSON}


@dataclass(frozen=True)
class Query:
    """How a page looks at the table: its filter, its order, the ticked runs and the opened one."""

    text: str = ""
    state: str = ""
    sort: str = "created"
    descending: bool = True
    picked: tuple[str, ...] = ()
    opened: str | None = None

    def turned(self, key: str) -> Query:
        """Sorted by `key`: the best end first, the other way round at the second click."""
        if key not in SORTS:
            return self
        up = key in ("name", "state", "data", "quantization", "loss", "over-calls", "time", "memory", "note")
        return replace(self, sort=key, descending=not self.descending if key == self.sort else not up)

    def ticked(self, shown: Sequence[str], on: Sequence[str]) -> Query:
        """With the ticks that the table has now; those of runs that the filter hides stay."""
        kept = tuple(n for n in self.picked if n in on or n not in shown)
        return replace(self, picked=(*kept, *(n for n in on if n not in kept)))


@dataclass
class Shelf:
    """The table that all pages share, and the verbs on it."""

    space: Workspace
    table: RunTable = field(init=False)

    def __post_init__(self) -> None:
        self.table = RunTable(self.space.runs, DataHashes(self.space.data_dir))

    def rows(self, query: Query) -> tuple[int, list[RunRow], int]:
        """(the table's version, the rows that the query asks for, how many runs there are)."""
        version, everything = self.table.read()
        now = dict(self.now())
        told = [_as_it_is(row, now.get(row.name, "")) for row in everything]
        found = sort_rows(filter_rows(told, query.text, query.state, common.STATE_WORDS), query.sort, descending=query.descending)
        return version, found, len(everything)

    def now(self) -> tuple[tuple[str, str], ...]:
        """(run, "waiting" or "stopping") for the runs of which the engine knows more than their folders tell."""
        ticket = self.space.engine.training()
        run = getattr(ticket.job, "run", "") if ticket else ""
        if ticket is None or not (ticket.stop_asked or ticket.begun is None):
            return ()
        return ((run, "stopping" if ticket.stop_asked else "waiting"),)

    def html(self, query: Query) -> str:
        _, found, total = self.rows(query)
        broken = "".join(note(text, "bad") for text in self.broken())
        return broken + table_html(found, total, sort=query.sort, descending=query.descending, picked=query.picked, opened=query.opened)

    def broken(self) -> tuple[str, ...]:
        """One sentence for each run that can't be read."""
        good = {row.name for row in self.table.read()[1]}
        return tuple(self.space.runs.broken()) if set(self.space.runs.names()) - good else ()

    def names(self) -> list[str]:
        """The runs that can be read, each with its best adapter where that is not the last."""
        return [name for row in self.table.read()[1] for name in row.adapters]

    def export(self, query: Query, form: str) -> tuple[str, str]:
        """Write the ticked runs, or all that the filter lets through, as a file: its path, and what it is. Raises `DataError`."""
        names = [n for n in query.picked if n in set(self.space.runs.names())] or [row.name for row in self.rows(query)[1]]
        views = [self.space.runs.view(name) for name in names]
        if not views:
            raise DataError(words.NOTHING_TO_EXPORT)
        target = download_folder(self.space) / f"runs-{time.strftime('%Y%m%d-%H%M%S')}.{form}"
        write_atomic(target, metrics_csv(views) if form == "csv" else metrics_json(self.space.runs, views))
        count = f"{len(views)} run{'' if len(views) == 1 else 's'}"
        return str(target), words.EXPORTED.format(count=count, name=target.name)


def _as_it_is(row: RunRow, doing: str) -> RunRow:
    """The row with what the engine knows of it, and with a worker that has outlived its workbench told as such."""
    if doing == "waiting":
        return replace(row, state="waiting", told=words.RESUME_CHIP if row.steps else "")
    if doing == "stopping" or row.orphaned:
        return replace(row, told=words.STOPPING if doing else words.ORPHAN_CHIP)
    return row


def _names_in(value: Any) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def held_runs(space: Workspace) -> set[str]:
    """The runs that the engine's jobs, in hand or waiting, are using."""
    return runs_used(space.engine)


def bin_choices(space: Workspace) -> list[tuple[str, str]]:
    """The runs in the bin as choices: (name and when it was deleted, key)."""
    return [(f"{gone.name} · {time.strftime('%d.%m. %H:%M', time.localtime(gone.when))}", gone.key) for gone in deleted(space.runs)]


# -- the panel -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunsPanel:
    """What the tab needs: `refresh` from the inputs' values, the button that shows a run on its own panel, and the run that is open."""

    refresh: Callable[..., list[Any]]
    inputs: list[Any]
    outputs: list[Any]
    show: gr.Button
    query: gr.State


def build(space: Workspace) -> RunsPanel:
    """The panel's components and their wires."""
    shelf = Shelf(space)
    query, drawn = gr.State(Query()), gr.State(None)
    with gr.Row(equal_height=True, elem_classes="wb-filters"):
        search = gr.Textbox(label=words.FILTER_LABEL, placeholder=words.FILTER, max_lines=1, show_label=False, container=False, scale=6, min_width=200, elem_id="runs-filter")
        states = [(words.ANY_STATE, ""), *((title, key) for key, title in common.STATE_WORDS.items())]
        state = gr.Dropdown(states, value="", label=words.STATE_LABEL, show_label=False, container=False, scale=2, min_width=140, elem_id="runs-state")
        exports = {form: gr.Button(title, size="sm", scale=1, min_width=120, elem_id=f"runs-export-{form}") for form, title in EXPORTS.items()}
        file = gr.DownloadButton(visible="hidden", elem_id="runs-export-file")
    table = gr.HTML(elem_id="runs-table", js_on_load=TABLE_JS)
    said = gr.HTML(elem_id="runs-message")
    with gr.Row():
        with gr.Column(scale=7, min_width=480):
            compare = compare_panel.build(space, shelf.names)
        with gr.Column(scale=3, min_width=280):
            title = gr.HTML(note(words.CHOOSE_RUN), elem_id="runs-opened")
            with gr.Column(visible=False, elem_id="runs-card") as card:
                with gr.Row(equal_height=True):
                    name = gr.Textbox(label=words.NEW_NAME, max_lines=1, scale=3, min_width=120, elem_id="runs-name")
                    rename_it = gr.Button(words.RENAME, size="sm", scale=1, min_width=80, elem_id="runs-rename")
                text = gr.Textbox(label=words.NOTE, lines=2, max_lines=6, elem_id="runs-note")
                with gr.Row():
                    save = gr.Button(words.SAVE_NOTE, size="sm", min_width=90, elem_id="runs-save-note")
                    show = gr.Button(words.SHOW_RUN, size="sm", min_width=90, elem_id="runs-show")
                    remove = gr.Button(words.DELETE, size="sm", variant="stop", min_width=70, elem_id="runs-delete")
            with gr.Row(equal_height=True, visible=False, elem_id="runs-bin-row") as bin_row:
                bin_list = gr.Dropdown([], label=words.BIN, scale=3, min_width=150, elem_id="runs-bin", allow_custom_value=True)
                back = gr.Button(words.BRING_BACK, size="sm", scale=1, min_width=90, elem_id="runs-restore")

    opened = [title, card, name, text]
    binned = [bin_row, bin_list]

    def refresh(asked: Query, stamp: Any, known: Any) -> list[Any]:
        """The table, the bin and what compares runs, as far as the page has them by another stamp."""
        version = shelf.table.read()[0]
        bins = tuple(key for _, key in bin_choices(space))
        now = (version, bins, shelf.broken(), shelf.now())
        before = stamp if isinstance(stamp, tuple) else (None, None, None, None)
        parts = [shelf.html(asked) if (now[0], *now[2:]) != (before[0], *before[2:]) else gr.skip()]
        parts += _bin_values(space) if now[1] != before[1] else [gr.skip()] * 2
        return [*parts, now if now != before else gr.skip(), *compare.refresh(asked.picked, known)]

    panel = RunsPanel(refresh, [query, drawn, compare.known], [table, *binned, drawn, *compare.outputs], show, query)

    def filtered(asked: Query, words_typed: str, chosen: str) -> list[Any]:
        asked = replace(asked, text=words_typed or "", state=chosen if chosen in common.STATE_WORDS else "")
        return [asked, shelf.html(asked)]

    gr.on([search.change, state.input], shown(filtered), [query, search, state], [query, table], trigger_mode="always_last", **QUIET)

    def hit(event: gr.EventData, asked: Query, known: Any) -> list[Any]:
        told: dict[str, Any] = event._data or {}
        names = set(space.runs.names())
        stay = [gr.skip()] * len(opened)
        asked = asked.ticked(_names_in(told.get("shown")), [n for n in _names_in(told.get("picked")) if n in names])
        compared = compare.refresh(asked.picked, known)
        if told.get("sort"):
            asked = asked.turned(str(told["sort"]))
            return [asked, shelf.html(asked), *stay, *compared]
        if told.get("open") in names:
            asked = replace(asked, opened=told["open"])
            return [asked, shelf.html(asked), *_opened_values(space, asked.opened), *compared]
        return [asked, gr.skip(), *stay, *compared]

    # Every click tells all ticks. Each is answered: of those that came meanwhile gradio's "always_last" repeats the last without what it told.
    table.click(shown(hit), [query, compare.known], [query, table, *opened, *compare.outputs], trigger_mode="multiple", **QUIET)

    def doing(verb: Callable[..., tuple[str, str | None]]) -> Callable[..., list[Any]]:
        """A handler of a verb on the opened run, which returns what it did and which run is open then."""

        def run(asked: Query, *given: Any) -> list[Any]:
            try:
                what, now_open = verb(asked.opened, *given)
            except WorkbenchError as exc:
                return [note(str(exc), "bad"), *[gr.skip()] * (2 + len(opened) + len(binned))]
            gone = asked.opened if asked.opened not in space.runs.names() else None
            # A renamed run stays ticked under its new name.
            picked = tuple(n for n in ((now_open if n == gone else n) for n in asked.picked) if n)
            asked = replace(asked, opened=now_open, picked=picked)
            return [note(what, "ok"), asked, shelf.html(asked), *_opened_values(space, now_open), *_bin_values(space)]

        return shown(run)

    outputs = [said, query, table, *opened, *binned]
    rename_it.click(doing(lambda run, new: rename_run(space, run, new)), [query, name], outputs, **QUIET)
    save.click(doing(lambda run, told: note_run(space, run, told)), [query, text], outputs, **QUIET)
    remove.click(doing(lambda run: delete_run(space, run)), query, outputs, **QUIET)
    back.click(doing(lambda run, key: restore_run(space, key)), [query, bin_list], outputs, **QUIET)
    for form, button in exports.items():
        fetched(button.click(shown(_exporting(shelf, form)), query, [file, said], **QUIET), file)
    compare.wire(query)
    return panel


def _opened_values(space: Workspace, name: str | None) -> list[Any]:
    """The values for the opened run's card: its heading, whether it is there, name and note."""
    if not name:
        return [note(words.CHOOSE_RUN), gr.update(visible=False), gr.skip(), gr.skip()]
    return [f'<div class="wb-cardhead">{escape(name)}</div>', gr.update(visible=True), name, read_note(space.runs, name)]


def _bin_values(space: Workspace) -> list[Any]:
    choices = bin_choices(space)
    return [gr.update(visible=bool(choices)), gr.Dropdown(choices=choices, value=choices[0][1] if choices else None)]


def _exporting(shelf: Shelf, form: str) -> Callable[[Query], list[Any]]:
    def make(asked: Query) -> list[Any]:
        try:
            path, what = shelf.export(asked, form)
        except WorkbenchError as exc:
            return [None, note(str(exc), "warn")]
        return [path, note(what, "ok")]

    return make


# -- verbs on one run: what was done, and the run that is open then ---------------------------------


def _open_run(space: Workspace, name: str | None) -> str:
    if not name or name not in space.runs.names():
        raise RunError(words.CHOOSE_RUN)
    return name


def rename_run(space: Workspace, name: str | None, new: str) -> tuple[str, str | None]:
    old = _open_run(space, name)
    now = rename(space.runs, old, new, held_runs(space))
    return words.RENAMED.format(name=old, new=now), now


def note_run(space: Workspace, name: str | None, text: str) -> tuple[str, str | None]:
    write_note(space.runs, _open_run(space, name), text or "")
    return words.NOTED.format(name=name), name


def delete_run(space: Workspace, name: str | None) -> tuple[str, str | None]:
    gone = delete(space.runs, _open_run(space, name), held_runs(space))
    return words.DELETED_NOW.format(name=gone.name), None


def restore_run(space: Workspace, key: str | None) -> tuple[str, str | None]:
    before = next((gone.name for gone in deleted(space.runs) if gone.key == key), "")
    name = restore(space.runs, str(key or ""))
    return (words.BACK if name == before else words.BACK_AS).format(name=before, new=name), name
