"""The panel of snapshots: save the set under a name, see what differs, go back."""

from __future__ import annotations

import difflib
import itertools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from workbench.calls.dialects import message_text
from workbench.dataset.changes import Change, Entry
from workbench.dataset.history import Diff
from workbench.dataset.snapshots import NOW, Snapshot, SnapshotStore
from workbench.errors import DataError, WorkbenchError
from workbench.ui.data.bench import Bench
from workbench.ui.errors import shown
from workbench.ui.highlight import chip, empty, escape, note
from workbench.ui.quiet import QUIET
from workbench.ui.words import history as words

SHOWN = 200  # rows that a difference shows; the rest is counted
SHOWN_LINES = 40  # of one row
SHOWN_TEXT = 600  # characters of a line
SHOWN_STEPS = 15
_BOX = "border-top:1px solid var(--wb-line);padding:6px 0"
_LINE = "white-space:pre-wrap;overflow-wrap:anywhere"


# -- what is shown --------------------------------------------------------------------------------


def table_html(found: list[Snapshot]) -> str:
    """All snapshots with their rows and times."""
    if not found:
        return empty(words.EMPTY)
    head = "".join(f"<th>{escape(word)}</th>" for word in words.HEADERS)
    body = "".join(
        f'<tr><td class="wb-long" title="{escape(s.name)}">{escape(s.name)}</td><td>{s.rows:,}</td>'
        f"<td>{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(s.made))}</td></tr>"
        for s in found
    )
    return f'<div style="max-height:260px;overflow-y:auto"><table class="wb-runs"><tr>{head}</tr>{body}</table></div>'


def steps_html(steps: tuple[str, ...]) -> str:
    """The changes that Undo takes back, one by one."""
    if not steps:
        return f'<div class="wb-dim">{escape(words.NO_STEPS)}</div>'
    items = "".join(f"<li>{escape(what or words.UNNAMED)}</li>" for what in steps[:SHOWN_STEPS])
    more = f"<li>… {len(steps) - SHOWN_STEPS}</li>" if len(steps) > SHOWN_STEPS else ""
    return f'<details><summary class="wb-dim">{escape(words.STEPS)} ({len(steps)})</summary><ol style="margin:4px 0 0 22px;list-style:decimal">{items}{more}</ol></details>'


def diff_html(found: Diff, before: str, after: str) -> str:
    """A difference to read: its sentence, then row by row what stood there and what stands there now."""
    said = words.from_to(words.snapshot(before), words.snapshot(after), found.sentence())
    if not found:
        return note(said, "ok")
    count = len(found.changed) + len(found.added) + len(found.removed)
    parts = [note(said)]
    parts += itertools.islice(_cards(found), SHOWN)
    if count > SHOWN:
        parts.append(note(words.more(count - SHOWN)))
    elif not count:
        parts.append(note(words.MOVED))
    return f'<div style="max-height:60vh;overflow-y:auto">{"".join(parts)}</div>'


def _cards(found: Diff) -> Iterator[str]:
    for pair in found.changed:
        yield _card(words.row_now(pair.before_place, pair.after_place), words.CHANGED, "warn", entry_lines(pair.before), entry_lines(pair.after))
    for place, entry in found.added:
        yield _card(words.row(place), words.ADDED, "ok", [], entry_lines(entry))
    for place, entry in found.removed:
        yield _card(words.row(place), words.REMOVED, "bad", entry_lines(entry), [])


def _card(title: str, what: str, kind: str, before: list[str], after: list[str]) -> str:
    lines = list(_marked(before, after))
    body = "".join(lines[:SHOWN_LINES])
    if len(lines) > SHOWN_LINES:
        body += f'<div class="wb-dim">{escape(words.more_lines(len(lines) - SHOWN_LINES))}</div>'
    return f'<div style="{_BOX}"><b>{escape(title)}</b> {chip(what, kind)}{body}</div>'


def _marked(before: list[str], after: list[str]) -> Iterator[str]:
    """The lines of both sides in their order; a sign, besides the colour, tells what went and what came."""
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False) if len(before) + len(after) < 400 else None
    codes = matcher.get_opcodes() if matcher is not None else [("replace", 0, len(before), 0, len(after))]
    for tag, a, b, c, d in codes:
        if tag == "equal":
            yield from (f'<div class="wb-dim" style="{_LINE}">&nbsp; {_cut(line)}</div>' for line in before[a:b])
        else:
            yield from (f'<div style="{_LINE};color:var(--wb-bad);background:var(--wb-bad-soft)">− {_cut(line)}</div>' for line in before[a:b])
            yield from (f'<div style="{_LINE};color:var(--wb-ok)">+ {_cut(line)}</div>' for line in after[c:d])


def _cut(line: str) -> str:
    return escape(line if len(line) <= SHOWN_TEXT else line[:SHOWN_TEXT] + "…")


def entry_lines(entry: Entry) -> list[str]:
    """A row as a person reads it, a line each turn and each thing said about it; a broken line as it stands."""
    row = entry.row
    if row is None:
        return [entry.raw]
    lines = [f"{m.role}: {message_text(m)}" for m in row.messages]
    own = [("status", row.status if row.status != "draft" else ""), ("note", row.note), ("pin", row.pin), ("source", row.source)]
    lines += [f"{name}: {value}" for name, value in own if value]
    extras = [(f"messages[{i}].{k}", v) for i, m in enumerate(row.messages) for k, v in m.extras.items()] + list(row.extras.items())
    return lines + [f"{name}: {json.dumps(value, ensure_ascii=False, default=str)}" for name, value in extras]


# -- verbs ----------------------------------------------------------------------------------------


def save(snapshots: SnapshotStore, name: str) -> Snapshot:
    """Keep the set under `name`, or under the time where it is empty; raises `DataError`."""
    return snapshots.save(name.strip() or time.strftime("%Y-%m-%d-%H%M%S"))


def restore(snapshots: SnapshotStore, name: str | None) -> Change:
    """The change that goes back to a snapshot; raises `DataError`."""
    return snapshots.restore(_chosen(name))


def compare(snapshots: SnapshotStore, before: str | None, after: str | None) -> str:
    """What became of the set between two snapshots, as HTML; raises `DataError`."""
    first, then = _chosen(before), after or NOW
    return diff_html(snapshots.diff(first, then), first, then)


def delete(snapshots: SnapshotStore, name: str | None) -> str:
    """Delete the chosen snapshot; its name, for bringing it back."""
    snapshots.delete(_chosen(name))
    return _chosen(name)


def bring_back(snapshots: SnapshotStore, name: str | None) -> str:
    if not name:
        raise DataError(words.NONE_DELETED)
    return snapshots.bring_back(name).name


def _chosen(name: str | None) -> str:
    if not name:
        raise DataError(words.NONE_CHOSEN)
    return name


def listing(snapshots: SnapshotStore, chosen: str | None, against: str | None) -> list[Any]:
    """The table, both choosers, and whether compare, restore and delete can be pressed; a snapshot that is gone gives way to the newest."""
    found = snapshots.list()
    names = [s.name for s in found]
    chosen = chosen if chosen in names else names[0] if names else None
    against = against if against in names else NOW
    choosers = [gr.Dropdown(choices=names, value=chosen), gr.Dropdown(choices=[(words.NOW, NOW), *names], value=against)]
    return [table_html(found), *choosers, *(gr.Button(interactive=bool(names)) for _ in range(3))]


def build(bench: Bench) -> None:
    """The panel, within the column or tab that is open."""
    store = bench.space.rows
    snapshots = SnapshotStore(store)
    deleted = gr.State("")
    gr.HTML(f'<div class="wb-dim">{escape(words.HELP)}</div>')
    message = gr.HTML(elem_id="history-message")
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            name = gr.Textbox(label=words.NAME, info=words.NAME_INFO, placeholder=words.NAME_HINT, max_lines=1, elem_id="history-name")
            save_it = gr.Button(words.SAVE, variant="primary", size="sm", elem_id="history-save")
            table = gr.HTML()
            chosen = gr.Dropdown([], label=words.CHOSEN, elem_id="history-chosen")
            against = gr.Dropdown([(words.NOW, NOW)], value=NOW, label=words.AGAINST, elem_id="history-against")
            with gr.Row():
                show = gr.Button(words.COMPARE, size="sm", min_width=140, interactive=False, elem_id="history-compare")
                go = gr.Button(words.RESTORE, size="sm", min_width=140, interactive=False, elem_id="history-restore")
                drop = gr.Button(words.DELETE, size="sm", min_width=140, interactive=False, elem_id="history-delete")
                back = gr.Button(words.BACK, size="sm", min_width=140, visible=False, elem_id="history-back")
            steps = gr.HTML()
        with gr.Column(scale=3, min_width=360):
            difference = gr.HTML(elem_id="history-diff")
    lists = [table, chosen, against, show, go, drop]

    def told(act: Callable[..., tuple[str, str | None, list[Any]]], outputs: int = 1) -> Callable[..., list[Any]]:
        """A handler from a verb `act(*own)` that returns what to say, the snapshot to choose, and its own `outputs` values."""

        def run(*args: Any) -> list[Any]:
            *own, now, other = args
            try:
                said, pick, values = act(*own)
                return [note(said, "ok"), *listing(snapshots, pick or now, other), *values]
            except WorkbenchError as exc:
                return [note(str(exc), "bad"), *[gr.skip()] * (len(lists) + outputs)]

        return shown(run)

    def saved(given: str) -> tuple[str, str | None, list[Any]]:
        kept = save(snapshots, given)
        return words.saved(kept.name, kept.rows), kept.name, [""]

    def dropped(which: str | None) -> tuple[str, str | None, list[Any]]:
        gone = delete(snapshots, which)
        return words.deleted(gone), None, [gone, gr.Button(visible=True)]

    def returned(which: str) -> tuple[str, str | None, list[Any]]:
        found = bring_back(snapshots, which)
        return words.brought_back(found), found, ["", gr.Button(visible=False)]

    def compared(first: str | None, then: str | None) -> list[Any]:
        try:
            return ["", compare(snapshots, first, then)]
        except WorkbenchError as exc:
            return [note(str(exc), "bad"), gr.skip()]

    def begun(first: str | None, then: str | None, seen: str) -> list[Any]:
        try:
            stale = note(words.STALE) if seen and seen != note(words.STALE) else gr.skip()
            return [*listing(snapshots, first, then), steps_html(store.steps), stale]
        except WorkbenchError as exc:
            return [note(str(exc), "bad"), *[gr.skip()] * (len(lists) + 1)]

    both = [chosen, against]
    save_it.click(told(saved), [name, *both], [message, *lists, name], **QUIET)
    name.submit(told(saved), [name, *both], [message, *lists, name], **QUIET)
    drop.click(told(dropped, 2), [chosen, *both], [message, *lists, deleted, back], **QUIET)
    back.click(told(returned, 2), [deleted, *both], [message, *lists, deleted, back], **QUIET)
    for event in (show.click, chosen.input, against.input):
        event(shown(compared), both, [message, difference], **QUIET)
    go.click(bench.changing(lambda which: restore(snapshots, which)), [chosen, *bench.inputs], bench.outputs, **QUIET)
    bench.drawn_when_seen("history", begun, [chosen, against, difference], [*lists, steps, difference])
