"""A page acts on the rows it shows: what itself or another page did meanwhile never makes it hit another row."""

from __future__ import annotations

import gradio as gr
import pytest

from workbench.dataset.changes import Change
from workbench.dataset.draft import draft_of
from workbench.ui import words
from workbench.ui.data import grid, rows_panel
from workbench.ui.data.bench import Bench, Pending
from workbench.ui.data.editor import Editor, delete, open_row, review
from workbench.ui.data_tab import drop_mine, merge


class Page:
    """What one browser page holds, and its handlers called as gradio calls them."""

    def __init__(self, space) -> None:
        self.space = space
        self.bench = Bench(space, None, None, None, None, None, None, None, None)
        self.editor = Editor(self.bench, None, None, None, None, lambda *_: list(range(len(space.rows.read().entries))), [])
        self.count, self.pending, self.message, self.form = 0, None, "", None
        self.look()

    def look(self) -> None:
        """The grid is drawn anew: a search does that."""
        self.version = self.drawn = self.space.rows.read().version

    def take(self, answer: list) -> None:
        message, version, count, pending = answer[:4]
        self.message = message if isinstance(message, str) else self.message
        self.version = version if isinstance(version, str) else self.version
        self.pending = pending if pending is None or isinstance(pending, Pending) else self.pending
        if isinstance(count, (int, float)):
            self.count = count
            self.look()

    def open(self, place: int) -> None:
        self.form = open_row(grid.as_drawn(self.space, self.drawn), place)

    def press(self, plan, then: str = "next") -> None:
        self.take(self.editor.change(plan, then)(self.form, draft_of(self.form.was), self.version, self.count))

    def bulk(self, action: str, *places: int) -> None:
        cells = [[i in places, i + 1, *[""] * 6] for i in range(len(grid.as_drawn(self.space, self.drawn).entries))]
        self.take(rows_panel.do_bulk(self.bench)(cells, action, "ticked", self.drawn, *[""] * 6, "place", None, self.version, self.count))


def approve(form, draft):
    return review(form, draft, "approved")


def requests(space) -> list[str]:
    return [f"{e.row.request}{'+' if e.row.status == 'approved' else ''}" for e in space.rows.read().entries]


@pytest.fixture
def space(workspace):
    letters = "".join(f'{{"messages": [{{"role": "user", "content": "{w}"}}, {{"role": "assistant", "content": "да"}}]}}\n' for w in ("alpha", "bravo", "charlie", "delta"))
    workspace.rows.path.write_text(letters, encoding="utf-8")
    return workspace


def test_the_form_finds_its_row_after_a_deletion_on_the_same_page(space):
    page = Page(space)
    page.open(1)
    page.bulk("delete", 0)
    page.press(approve)
    assert requests(space) == ["bravo+", "charlie", "delta"]


def test_the_form_deletes_its_own_row_and_no_other(space):
    page = Page(space)
    page.open(1)
    page.bulk("delete", 0)
    page.press(lambda form, _: delete(form), "same")
    assert requests(space) == ["charlie", "delta"]


def test_a_search_that_takes_a_foreign_change_in_does_not_make_the_form_overwrite(space):
    page, other = Page(space), Page(space)
    page.open(1)
    other.open(1)
    other.press(approve)
    page.look()
    page.press(lambda form, draft: review(form, draft, "rejected"))
    assert words.ROW_CHANGED in page.message
    assert page.pending is not None
    assert requests(space) == ["alpha", "bravo+", "charlie", "delta"]


def test_a_bulk_action_after_a_foreign_deletion_waits_and_then_hits_the_rows_that_were_ticked(space):
    page, other = Page(space), Page(space)
    other.bulk("delete", 0)
    page.bulk("approve", 1)
    assert "changed elsewhere" in page.message
    assert requests(space) == ["bravo", "charlie", "delta"]
    page.take(merge(page.bench, page.pending, page.version, page.count))
    assert requests(space) == ["bravo+", "charlie", "delta"]
    assert page.pending is None


def test_a_cell_typed_into_an_old_grid_changes_its_own_row_alone(space):
    page, other = Page(space), Page(space)
    rows = grid.as_drawn(space, page.drawn)
    cells = grid.grid_values(rows, range(4), grid.Marks())
    cells[1][2] = "bravo edited"
    other.bulk("delete", 0)
    change = grid.edit_cells(rows, cells)
    assert list(change.put) == [1]
    page.take(page.bench.settle(change, page.drawn, page.version, page.count)[2])
    page.take(merge(page.bench, page.pending, page.version, page.count))
    assert requests(space) == ["bravo edited", "charlie", "delta"]


def test_a_row_clicked_in_an_old_grid_is_the_row_that_was_seen(space):
    page, other = Page(space), Page(space)
    other.bulk("delete", 0)
    page.open(1)
    assert page.form.was.request == "bravo"
    page.press(approve)
    page.take(merge(page.bench, page.pending, page.version, page.count))
    assert requests(space) == ["bravo+", "charlie", "delta"]


def test_a_dropped_change_leaves_the_rows_and_shows_them(space):
    page, other = Page(space), Page(space)
    page.open(2)
    other.bulk("delete", 0)
    page.press(approve)
    answer = drop_mine(page.bench, page.form, page.count)
    page.take(answer)
    assert requests(space) == ["bravo", "charlie", "delta"]
    assert (answer[4].place, answer[4].was.request) == (1, "charlie")


def test_a_grid_of_rows_that_nobody_remembers_asks_to_look_again(space):
    page = Page(space)
    page.drawn = "0" * 64
    cells = [[True, 1, *[""] * 6]]
    answer = rows_panel.do_bulk(page.bench)(cells, "approve", "ticked", page.drawn, *[""] * 6, "place", None, page.version, 0)
    assert "too old" in answer[0]
    assert answer[1:] == [gr.skip()] * 5


def test_a_change_of_undo_moves_the_form_along(space):
    page = Page(space)
    page.bulk("delete", 0)
    page.open(0)
    space.rows.change(Change(), page.version)
    space.rows.undo()
    page.look()
    page.press(approve)
    assert requests(space) == ["alpha", "bravo+", "charlie", "delta"]
