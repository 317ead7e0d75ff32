"""The panel of snapshots: its verbs, called without a server."""

import re
from dataclasses import replace

import pytest

from workbench.dataset.changes import Change, entries_of, to_entry
from workbench.dataset.history import Diff, diff
from workbench.dataset.snapshots import NOW, SnapshotStore
from workbench.dataset.store import make_row
from workbench.errors import DataError
from workbench.schema import Example, Message, ToolCall
from workbench.ui.data import history_panel as panel
from workbench.ui.words import history as words


@pytest.fixture
def snapshots(workspace):
    return SnapshotStore(workspace.rows)


def change(workspace, **parts):
    return workspace.rows.change(Change(**parts), workspace.rows.read().version)


def texts(html):
    return re.sub(r"<[^>]*>", "|", html)


def test_a_snapshot_is_saved_listed_and_gone_back_to(workspace, snapshots):
    before = workspace.rows.path.read_bytes()
    assert panel.save(snapshots, " before ").name == "before"
    now = change(workspace, drop=frozenset({0}))
    table, chosen, against, *buttons = panel.listing(snapshots, None, None)
    assert [button.interactive for button in buttons] == [True] * 3
    assert re.search(r">before</td><td>70</td><td>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d</td>", table)
    assert (chosen.value, against.value, against.choices) == ("before", NOW, [(words.NOW, NOW), ("before", "before")])
    workspace.rows.change(panel.restore(snapshots, "before"), now.version)
    assert workspace.rows.path.read_bytes() == before


def test_without_a_name_a_snapshot_is_called_by_the_time(snapshots):
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-\d{6}", panel.save(snapshots, "").name)


def test_nothing_chosen_is_told(snapshots):
    for act in (panel.restore, panel.delete, lambda s, n: panel.compare(s, n, NOW)):
        with pytest.raises(DataError, match=r"^No snapshot is chosen"):
            act(snapshots, None)
    with pytest.raises(DataError, match=r"^No snapshot was deleted here\.$"):
        panel.bring_back(snapshots, "")


def test_a_deleted_snapshot_gives_way_to_the_newest_and_comes_back(snapshots):
    for name in ("a", "b"):
        panel.save(snapshots, name)
    gone = panel.delete(snapshots, "b")
    assert [c.value for c in panel.listing(snapshots, "b", "b")[1:3]] == ["a", NOW]
    assert panel.bring_back(snapshots, gone) == "b"


def test_no_snapshot_invites(snapshots):
    table, chosen, against, *buttons = panel.listing(snapshots, "x", "y")
    assert [button.interactive for button in buttons] == [False] * 3, "there is nothing to compare, restore or delete"
    assert (words.EMPTY in table, chosen.value, against.value) == (True, None, NOW)


def test_a_difference_is_shown_row_by_row(workspace, snapshots):
    panel.save(snapshots, "a")
    row = workspace.rows.read().rows[1]
    change(workspace, put={1: replace(row, status="approved")}, add=(make_row("Новый", "Да"),))
    html = panel.compare(snapshots, "a", NOW)
    assert "From “a” to the set as it stands now: row 2 was changed, row 71 was added." in html
    assert "|row 2| |changed|" in texts(html)
    assert "|&nbsp; user: Здравствуйте!|" in texts(html)
    assert "|+ status: approved|" in texts(html)
    assert "|row 71| |added||+ user: Новый||+ assistant: Да|" in texts(html)
    back = panel.diff_html(snapshots.diff(NOW, "a"), NOW, "a")
    assert "|− status: approved|" in texts(back)
    assert panel.compare(snapshots, "a", "a") == '<div class="wb-note ok" role="status">From “a” to “a”: no row differs.</div>'


def test_what_rows_say_is_never_run():
    evil = "<img src=x onerror=alert(1)>"
    row = replace(make_row(evil, evil), note=evil, extras={evil: evil})
    html = panel.diff_html(diff(entries_of("{" + evil), (to_entry(row),)), evil, NOW)
    assert "<img" not in html
    assert html.count("&lt;img") == 7
    assert "<img" not in panel.steps_html((evil,))


def test_many_rows_and_long_ones_are_summed_up():
    rows = tuple(to_entry(make_row(f"Вопрос {n}", "x" * 1000)) for n in range(250))
    html = panel.diff_html(diff((), rows), "a", NOW)
    assert html.count(">added<") == 200
    assert "And 50 more rows differ." in html
    assert "+ assistant: " + "x" * (panel.SHOWN_TEXT - len("assistant: ")) + "…<" in html
    long = Example(tuple(Message(role, f"{n}") for n in range(500) for role in ("user", "assistant")))
    html = panel.diff_html(diff((), (to_entry(long),)), "a", NOW)
    assert f"… and {1000 - panel.SHOWN_LINES} more lines" in html


def test_another_order_alone_is_told():
    rows = tuple(to_entry(make_row(f"Вопрос {n}", "Да")) for n in range(3))
    html = panel.diff_html(diff(rows, rows[::-1]), "a", "b")
    assert "From “a” to “b”: the order of the rows was changed." in html
    assert words.MOVED in html
    assert panel.diff_html(Diff(), "a", "b").count("no row differs") == 1


def test_a_row_is_read_as_its_turns_and_what_is_said_of_it():
    row = replace(
        make_row("q", "a"), messages=(Message("user", "q", extras={"name": "Аня"}), Message("assistant", "", (ToolCall("f", {"a": 1}),))),
        status="rejected", note="n", pin="train", source="from:x", extras={"id": 7},
    )  # fmt: skip
    assert panel.entry_lines(to_entry(row)) == [
        "user: q", 'assistant: <tool_call name="f" arguments="{&quot;a&quot;: 1}"/>', "status: rejected", "note: n", "pin: train", "source: from:x",
        'messages[0].name: "Аня"', "id: 7",
    ]  # fmt: skip


def test_the_steps_that_undo_takes_back_are_listed(workspace):
    assert words.NO_STEPS in panel.steps_html(workspace.rows.steps)
    for n in range(20):
        change(workspace, add=(make_row(f"{n}", "Да"),), what=f"row <{n}> was added" if n != 18 else "")
    html = panel.steps_html(workspace.rows.steps)
    assert "(20)</summary>" in html
    assert "<li>row &lt;19&gt; was added</li><li>a change</li><li>row &lt;17&gt; was added</li>" in html
    assert "<li>… 5</li>" in html
