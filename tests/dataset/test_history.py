"""What differs between two states of a set, merging two writers' changes, snapshots: nothing is lost that nobody deleted."""

import errno
import os
import random
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from workbench.dataset.changes import Change, entries_of, line_of, to_entry
from workbench.dataset.history import Diff, diff, match, merge_changes
from workbench.dataset.snapshots import KEPT_DELETED, NOW, SnapshotStore
from workbench.dataset.store import SEEN_DEPTH, RowSet, RowStore, make_row
from workbench.errors import ConflictError, DataError, RowError, WorkbenchError

BROKEN = '{"messages": [oops'


def row(n, answer="Да", **keys):
    return replace(make_row(f"Вопрос номер {n}", answer), **keys)


def entries(*rows):
    return tuple(to_entry(r) for r in rows)


FIVE = entries(*map(row, range(5)))


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "examples.json"
    path.write_text("".join(line_of(row(i)) + "\n" for i in range(5)), encoding="utf-8")
    return RowStore(path)


def requests(store):
    return [r.request.removeprefix("Вопрос номер ") for r in store.read().rows]


# -- diff -----------------------------------------------------------------------------------------


def test_what_came_went_and_changed_is_told_with_its_places():
    after = (FIVE[0], *entries(row(1, "Нет")), FIVE[3], FIVE[4], *entries(row(8), row(9)))
    found = diff(FIVE, after)
    assert [(p.before_place, p.after_place, p.after.row.answer.content) for p in found.changed] == [(1, 1, "Нет")]
    assert ([p for p, _ in found.removed], [p for p, _ in found.added], found.moved) == ([2], [4, 5], False)
    assert found.sentence() == "row 2 was changed, rows 5 and 6 were added, row 3 was deleted"


def test_sets_that_are_the_same_do_not_differ():
    assert (diff(FIVE, FIVE), bool(diff(FIVE, FIVE)), diff((), ()).sentence()) == (Diff(), False, "no row differs")


@pytest.mark.parametrize(("after", "says"), [
    ((), "rows 1 to 5 were deleted"),
    (FIVE[::-1], "the order of the rows was changed"),
    ((FIVE[4], *FIVE[:4]), "the order of the rows was changed"),
    ((*FIVE, FIVE[2]), "row 6 was added"),
    (FIVE[1:], "row 1 was deleted"),
    ((*entries(make_row("Совсем иное", "вот")), *FIVE[1:]), "row 1 was changed"),
    ((FIVE[0], *entries_of(BROKEN), *FIVE[2:]), "row 2 was changed"),
    ((*entries(row(7), row(1, "Как сказать"), row(2, "Пожалуй")), *FIVE[3:]), "rows 1 to 3 were changed"),
])  # fmt: skip
def test_a_difference_in_words(after, says):
    assert diff(FIVE, after).sentence() == says


def test_a_row_whose_request_was_mended_counts_as_changed_beside_new_rows():
    after = (*FIVE[:2], *entries(make_row("Новая погода за окном?", "солнечно и тепло"), row("2!")), *FIVE[3:])
    found = diff(FIVE, after)
    assert [(p.before_place, p.after_place) for p in found.changed] == [(2, 3)]
    assert [p for p, _ in found.added] == [2]


def test_many_runs_are_counted_in_the_sentence():
    before = entries(*map(row, range(40)))
    after = tuple(e if i % 3 else to_entry(row(i, "Нет")) for i, e in enumerate(before))
    assert diff(before, after).sentence() == "rows 1, 4, 7, 10 and 10 more were changed"
    assert diff(before, before[:3] + before[6:20] + before[30:]).sentence() == "rows 4 to 6 and 21 to 30 were deleted"


def test_a_diff_of_large_sets_looks_at_few_pairs(monkeypatch):
    from workbench.dataset import history

    seen = []
    text = history._text
    monkeypatch.setattr(history, "_text", lambda e: seen.append(1) or text(e))
    before = entries(*map(row, range(2000)))
    after = list(before)
    random.Random(3).shuffle(after)
    after[7:7] = entries(row("new"))
    found = diff(before, tuple(after))
    assert (len(found.added), found.removed, found.changed, found.moved, seen) == (1, (), (), True, [])


LINES = st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["Да", "Нет", "Может быть"])), max_size=9)



@settings(max_examples=150, deadline=None)
@given(LINES, LINES)
def test_a_diff_accounts_for_every_line_of_both_sides(left, right):
    before, after = (entries(*(row(n, a) for n, a in side)) for side in (left, right))
    found, pairs = diff(before, after), match(before, after)
    assert len(set(pairs.values())) == len(pairs)
    kept = len(before) - len(found.removed)
    assert kept == len(after) - len(found.added) == len(match(before, after, loose=True))
    assert all(before[p.before_place].raw != after[p.after_place].raw for p in found.changed)
    counts = [[e.raw for e in side] for side in (before, after)]
    assert sum(before[i].raw == after[k].raw for i, k in pairs.items()) == sum(min(c.count(raw) for c in counts) for raw in set(counts[0]))


# -- merging --------------------------------------------------------------------------------------

OURS = row(2, "Наше", status="approved")
DRAFT = replace(OURS, status="draft", note="Another version of row 3, which was changed elsewhere at the same time.")


def merged(store, change, seen, prefer="both"):
    found = store.merge(change, seen, prefer)
    store.change(found.change, found.version)
    return found


def answers(store):
    return [r.answer.content for r in store.read().rows]


def test_a_change_finds_the_rows_that_the_other_side_left_alone_where_they_stand_now(store):
    seen = store.read().version
    store.delete(0, seen)
    store.add(row(9), store.read().version)
    found = merged(store, Change(put={2: OURS}, drop=frozenset({4}), add=(row(7),), what="row 3 was changed"), seen)
    assert (requests(store), answers(store)[1]) == (["1", "2", "3", "9", "7"], "Наше")
    assert (found.conflicts, store.undo_what) == ((), "row 3 was changed, merged with a change made elsewhere")
    assert found.sentence == "Made elsewhere meanwhile: row 5 was added, row 1 was deleted."


@pytest.mark.parametrize(("prefer", "third", "more"), [("both", "Чужое", [DRAFT]), ("ours", "Наше", []), ("theirs", "Чужое", [])])
def test_where_both_sides_changed_one_row_the_caller_decides_and_both_is_the_rule(store, prefer, third, more):
    seen = store.read().version
    store.replace(2, row(2, "Чужое"), seen)
    found = merged(store, Change(put={2: OURS}), seen, prefer)
    assert answers(store)[:5] == ["Да", "Да", third, "Да", "Да"]
    assert list(store.read().rows[5:]) == more
    assert [(c.seen_place, c.place, c.theirs.row.answer.content, c.ours) for c in found.conflicts] == [(2, 2, "Чужое", OURS)]
    end = {"both": "their version stays, yours is added at the end as a draft with a note", "ours": "yours stands", "theirs": "theirs stands"}[prefer]
    assert found.sentence == f"Made elsewhere meanwhile: row 3 was changed. Row 3 you changed too: {end}."


@pytest.mark.parametrize(("prefer", "more"), [
    ("both", [replace(DRAFT, note=DRAFT.note.replace("changed", "deleted"))]), ("ours", [OURS]), ("theirs", []),
])  # fmt: skip
def test_a_row_that_they_deleted_and_we_changed_comes_back_as_a_draft(store, prefer, more):
    seen = store.read().version
    store.delete(2, seen)
    found = merged(store, Change(put={2: OURS}), seen, prefer)
    assert (list(store.read().rows[4:]), found.conflicts[0].theirs, found.conflicts[0].place) == (more, None, None)


@pytest.mark.parametrize(("prefer", "stay"), [("both", "01234"), ("theirs", "01234"), ("ours", "0134")])
def test_a_row_that_they_changed_and_we_deleted_stays_unless_ours_is_preferred(store, prefer, stay):
    seen = store.read().version
    store.replace(2, row(2, "Чужое"), seen)
    found = merged(store, Change(drop=frozenset({2})), seen, prefer)
    assert "".join(requests(store)) == stay
    assert (found.conflicts[0].ours, found.conflicts[0].theirs.row.answer.content) == (None, "Чужое")
    end = "the deletion stands" if prefer == "ours" else "what stands there now is kept"
    assert found.sentence == f"Made elsewhere meanwhile: row 3 was changed. Row 3 you deleted, and elsewhere changed: {end}."


def test_what_both_sides_did_alike_is_no_conflict(store):
    seen = store.read().version
    store.change(Change(put={2: OURS}, drop=frozenset({0})), seen)
    before = store.path.read_bytes()
    assert merged(store, Change(put={2: OURS, 3: row(3)}, drop=frozenset({0})), seen).conflicts == ()
    assert store.path.read_bytes() == before


def test_putting_all_rows_anew_keeps_what_was_never_seen(store):
    seen = store.read().version
    store.change(Change(put={1: row(1, "Чужое")}, add=(row(8),)), seen)
    whole = Change(replace_all=True, add_raw=(line_of(row(6)),), what="5 rows were imported")
    assert [c.seen_place for c in store.merge(whole, seen).conflicts] == [1]
    theirs = store.merge(whole, seen, "ours")
    merged(store, whole, seen)
    assert requests(store) == ["1", "8", "6"]
    store.undo()
    store.change(theirs.change, theirs.version)
    assert requests(store) == ["6"]


def test_a_merge_against_what_is_still_there_is_the_change_itself(store):
    seen = store.read().version
    found = store.merge(Change(drop=frozenset({1})), seen)
    assert (found.change.drop, found.version, found.conflicts) == (frozenset({1}), seen, ())


def test_a_state_that_is_not_known_any_more_takes_new_rows_only(store):
    change = Change(add=(row(7),), add_raw=(BROKEN,))
    found = store.merge(change, "0" * 64)
    assert (found.change, found.version) == (change, store.read().version)
    for other in (Change(put={0: OURS}), Change(drop=frozenset({0})), Change(replace_all=True)):
        with pytest.raises(ConflictError, match="what you saw of it is not known any more .* only new rows can be merged"):
            store.merge(other, "0" * 64)
    with pytest.raises(ConflictError, match=r"^examples\.json was changed elsewhere since you opened it: nothing was overwritten\."):
        store.change(other, "0" * 64)


def test_the_versions_that_were_shown_are_remembered_up_to_a_number(store):
    first = store.read().version
    for n in range(SEEN_DEPTH):
        store.add(row(n), store.read().version)
    with pytest.raises(ConflictError, match="not known any more"):
        store.merge(Change(drop=frozenset({0})), first)
    assert len(store._seen) == SEEN_DEPTH


def test_bad_merges_are_refused():
    now = RowSet(FIVE, "x")
    with pytest.raises(DataError, match="is no way to merge"):
        merge_changes(Change(), FIVE, now, "mine")
    with pytest.raises(RowError, match="there is no row 6; the set has 5"):
        merge_changes(Change(drop=frozenset({5})), FIVE, now)


class TwoWriters(RuleBasedStateMachine):
    """Two browsers, late and early, and somebody with an editor: every line has a mark (T7) of its own.

    A mark may go only when a writer who saw it deleted or changed its row.
    """

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = RowStore(Path(self.folder.name) / "set.jsonl")
        self.count = 0
        self.live: frozenset[str] = frozenset()
        self.past: list[frozenset[str]] = []
        self.seen = [self.store.read(), self.store.read()]

    def teardown(self):
        self.folder.cleanup()

    def mark(self):
        self.count += 1
        return f"T{self.count}"

    def make(self, who, change, gone, new):
        before = self.store.read().version
        try:
            result = self.store.change(change, self.seen[who].version)
        except ConflictError:
            found = self.store.merge(change, self.seen[who].version)
            result = self.store.change(found.change, found.version)
        if result.version != before:
            # After a foreign change there is nothing from before to go back to.
            self.past = [*(self.past if len(self.store._undo) > 1 else []), self.live]
        self.live = (self.live - gone) | frozenset(new)
        self.seen[who] = result

    def plan(self, who, data):
        places = range(len(self.seen[who].entries))
        touched = data.draw(st.sets(st.sampled_from(places), max_size=3)) if places else set()
        return {p: data.draw(st.booleans()) for p in sorted(touched)}

    @rule(who=st.integers(0, 1), data=st.data(), more=st.integers(0, 2), broken=st.booleans(), whole=st.booleans())
    def change(self, who, data, more, broken, whole):
        seen = self.seen[who].entries
        plan, new, put = ({} if whole and more else self.plan(who, data)), [], {}
        for place, edit in plan.items():
            if edit:
                new.append(self.mark())
                old = seen[place].row
                put[place] = make_row(old.request if old is not None else f"Вопрос {place}", new[-1])
        new += [self.mark() for _ in range(more)]
        add = tuple(make_row(f"Вопрос {len(new) % 4}", m) for m in new[len(put) :])
        raw = (f"{{oops {self.mark()}",) if broken else ()
        new += [f"T{self.count}"] if broken else []
        gone = frozenset().union(*(marks([seen[p]]) for p in (range(len(seen)) if whole and more else plan)))
        drop = frozenset(p for p, edit in plan.items() if not edit)
        self.make(who, Change(put, drop, add, raw, replace_all=bool(whole and more)), gone, new)

    @rule(who=st.integers(0, 1))
    def look(self, who):
        self.seen[who] = self.store.read()

    @rule(place=st.integers(0, 5))
    def somebody_edits_the_file(self, place):
        mark = self.mark()
        lines = self.store.path.read_text(encoding="utf-8").split("\n") if self.store.path.exists() else []
        lines[place:place] = ["", line_of(make_row("Чужой вопрос", mark))]
        self.store.path.write_text("\n".join(lines), encoding="utf-8")
        self.live |= {mark}
        self.past = []

    @rule(steps=st.integers(1, 5))
    def back_and_forth(self, steps):
        steps = min(steps, len(self.past))
        before, rows = self.store.path.read_bytes() if self.store.path.exists() else b"", self.store.read()
        for _ in range(steps):
            self.store.undo(self.store.read().version)
        if steps:
            assert marks(self.store.read().entries) == self.past[-steps]
        for _ in range(steps):
            self.store.redo()
        if steps:
            assert (self.store.path.read_bytes(), self.store.read()) == (before, rows)

    @rule()
    def take_back(self):
        if self.past:
            self.store.undo()
            self.live = self.past.pop()

    @rule(who=st.integers(0, 1))
    def full_disk(self, who):
        before = self.store.path.read_bytes() if self.store.path.exists() else None
        rows, what = self.store.read(), (self.store.undo_what, self.store.redo_what)
        real = os.replace
        try:
            os.replace = no_space
            with pytest.raises(WorkbenchError, match="^The disk is full"):
                self.store.add(make_row("Не поместится", "T0"), rows.version)
            if self.past:
                with pytest.raises(WorkbenchError, match="^The disk is full"):
                    self.store.undo()
        finally:
            os.replace = real
        assert (self.store.path.read_bytes() if before is not None else None, self.store.read()) == (before, rows)
        assert (self.store.undo_what, self.store.redo_what) == what

    @invariant()
    def nothing_is_lost_and_nothing_comes_twice(self):
        rows = self.store.read()
        assert len(rows.entries) == len(self.live)
        assert marks(rows.entries) == self.live
        fresh = RowStore(self.store.path).read()
        assert fresh == rows
        assert [p.line for p in rows.problems] == [p.line for p in fresh.problems]


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def marks(lines):
    """The marks that tell the lines' versions apart."""
    return frozenset(m for e in lines for m in re.findall(r"T\d+", e.raw))


TwoWriters.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
TestTwoWriters = TwoWriters.TestCase


# -- snapshots ------------------------------------------------------------------------------------


@pytest.fixture
def snapshots(store):
    return SnapshotStore(store)


def test_a_snapshot_keeps_the_set_and_gives_it_back_as_a_change_that_can_be_undone(store, snapshots):
    kept = snapshots.save("before")
    assert (kept.name, kept.rows) == ("before", 5)
    assert (store.path.parent / "snapshots" / "examples" / "before.jsonl").read_bytes() == store.path.read_bytes()
    now = store.change(Change(put={1: row(1, "Нет")}, drop=frozenset({0}), add_raw=(BROKEN,)), store.read().version)
    assert snapshots.diff("before", NOW).sentence() == "row 1 was changed, row 5 was added, row 1 was deleted"
    assert snapshots.diff(NOW, "before").sentence() == "row 2 was changed, row 1 was added, row 5 was deleted"
    store.change(snapshots.restore("before"), now.version)
    assert (requests(store), store.undo_what) == (list("01234"), "the set was put back to the snapshot “before”")
    assert not snapshots.diff("before", NOW)
    store.undo()
    assert store.read() == now


def test_snapshots_are_listed_the_newest_first(store, snapshots):
    assert snapshots.list() == []
    for age, name in enumerate(["a", "b", "Я-1"]):
        snapshots.save(name)
        os.utime(snapshots.folder / f"{name}.jsonl", (1_000_000 - age, 1_000_000 - age))
    (snapshots.folder / "notes.txt").write_text("x")
    assert [(s.name, s.rows, s.made) for s in snapshots.list()] == [("a", 5, 1_000_000), ("b", 5, 999_999), ("Я-1", 5, 999_998)]
    assert snapshots.list()[0].version == store.read().version


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "con", "a\nb", "<b>"])
def test_a_name_that_is_no_file_name_is_refused_everywhere(snapshots, name):
    for act in (snapshots.save, snapshots.restore, snapshots.delete, snapshots.bring_back):
        with pytest.raises(DataError, match=r"^The snapshot name .* can't be used"):
            act(name)
    assert not snapshots.folder.exists() or list(snapshots.folder.iterdir()) == []


def test_a_name_is_taken_once_whatever_its_case_and_a_missing_one_is_told(store, snapshots):
    snapshots.save("one")
    with pytest.raises(DataError, match=r"^There is a snapshot 'ONE' already"):
        snapshots.save("ONE")
    for act in (snapshots.restore, snapshots.delete, lambda name: snapshots.diff(name, NOW)):
        with pytest.raises(DataError, match=r"^There is no snapshot 'two' any more: choose one of the list\.$"):
            act("two")
    store.change(Change(replace_all=True), store.read().version)
    with pytest.raises(DataError, match=r"^The set holds no rows: there is nothing to keep\.$"):
        snapshots.save("three")


def test_a_deleted_snapshot_can_be_brought_back(snapshots):
    kept = snapshots.save("one")
    snapshots.delete("one")
    assert snapshots.list() == []
    assert snapshots.bring_back("one") == kept
    with pytest.raises(DataError, match=r"^There is a snapshot 'one' again"):
        snapshots.bring_back("one")
    for n in range(KEPT_DELETED + 1):
        snapshots.save(f"n{n}")
        snapshots.delete(f"n{n}")
    with pytest.raises(DataError, match=r"^The deleted snapshot 'n0' is not here any more\.$"):
        snapshots.bring_back("n0")
    assert snapshots.bring_back("n1").rows == 5


def test_a_full_disk_leaves_no_half_snapshot(snapshots, monkeypatch):
    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(WorkbenchError, match="^The disk is full"):
        snapshots.save("one")
    assert snapshots.list() == []


def test_an_emptied_snapshot_is_not_gone_back_to(snapshots):
    snapshots.save("one")
    (snapshots.folder / "one.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"^The snapshot 'one' holds no rows"):
        snapshots.restore("one")


@pytest.mark.parametrize(("name", "says"), [
    ("x" * 65, r"^The snapshot name has 65 characters, 64 are allowed: shorten it\.$"),
    ("aux.old", r"Windows keeps names like 'aux' for devices\. Take another one, as in aux-1\.$"),
    ("a b", "take letters, digits, '-', '_' and '.', no blanks"), ("a..b", "take letters, digits"), ("a.", "not ending with a point"),
])  # fmt: skip
def test_a_refused_name_says_which_rule_it_breaks(snapshots, name, says):
    with pytest.raises(DataError, match=says):
        snapshots.save(name)
