"""The file of rows, edited in place: whole after every change, taken back on demand, never overwritten unseen."""

import errno
import json
import os
import threading
from dataclasses import replace

import pytest

from workbench.dataset import changes
from workbench.dataset import store as store_module
from workbench.dataset.changes import Change
from workbench.dataset.store import UNDO_DEPTH, RowStore, make_row, to_entry
from workbench.errors import ConflictError, DataError, RowError, WorkbenchError
from workbench.schema import Example, Message, ToolCall

CALL = '<tool_call name="get_sensitive_data" arguments="{}"/>'
BROKEN = '{"messages": [oops'
ODD = '{"id":7,   "messages":[{"content":"Пока","role":"user"},{"role":"assistant","content":"\\u041f\\u043e\\u043a\\u0430"}]}'
LINES = (
    '{"messages": [{"role": "user", "content": "Привет"}, {"role": "assistant", "content": "Привет!"}]}',
    BROKEN,
    ODD,
)
NEW = make_row("Какой у меня баланс?", CALL)
NEW_LINE = json.dumps(
    {"messages": [{"role": "user", "content": "Какой у меня баланс?"}, {"role": "assistant", "content": CALL}]},
    ensure_ascii=False,
)  # fmt: skip


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "examples.json"
    path.write_bytes("".join(line + "\n" for line in LINES).encode())
    return RowStore(path)


def lines_of(store: RowStore) -> tuple[str, ...]:
    raw = store.path.read_bytes().decode()
    assert raw.endswith("\n") or not raw
    return tuple(raw.split("\n")[:-1])


def test_reading_gives_every_line_with_its_row_or_its_problem(store):
    found = store.read()
    assert [e.raw for e in found.entries] == list(LINES)
    assert [e.row is None for e in found.entries] == [False, True, False]
    assert [row.request for row in found.rows] == ["Привет", "Пока"]
    assert [(p.line, p.field) for p in found.problems] == [(2, "line")]
    assert len(found.version) == 64


def test_a_missing_file_is_an_empty_set_and_the_first_row_makes_it(tmp_path):
    store = RowStore(tmp_path / "new" / "rows.jsonl")
    assert (store.read().entries, store.read().version) == ((), "")
    store.add(NEW, "")
    assert lines_of(store) == (NEW_LINE,)


def test_adding_puts_the_row_last_and_leaves_the_other_lines_byte_for_byte(store):
    result = store.add(NEW, store.read().version)
    assert lines_of(store) == (*LINES, NEW_LINE)
    assert result == store.read()
    assert result.rows[-1] == NEW


def test_replacing_changes_its_line_alone(store):
    store.replace(0, NEW, store.read().version)
    assert lines_of(store) == (NEW_LINE, BROKEN, ODD)


def test_a_row_that_did_not_change_keeps_its_own_way_of_writing(store):
    before = store.path.stat().st_mtime_ns
    now = store.read()
    assert store.replace(2, now.entries[2].row, now.version).version == now.version
    assert lines_of(store) == LINES
    assert store.path.stat().st_mtime_ns == before
    with pytest.raises(DataError, match=r"^There is no change to take back\.$"):
        store.undo()


def test_the_other_keys_of_a_changed_row_are_kept(store):
    row = store.read().rows[1]
    store.replace(2, make_row("До свидания", "До свидания!", "approved", row), store.read().version)
    assert json.loads(lines_of(store)[2]) == {
        "messages": [{"role": "user", "content": "До свидания"}, {"role": "assistant", "content": "До свидания!"}],
        "status": "approved", "id": 7,
    }  # fmt: skip


def test_a_broken_line_can_be_mended_or_deleted(store):
    version = store.replace(1, NEW, store.read().version).version
    assert lines_of(store) == (LINES[0], NEW_LINE, ODD)
    store.delete(1, version)
    assert lines_of(store) == (LINES[0], ODD)
    assert store.read().problems == ()


def test_deleting_all_leaves_an_empty_file(store):
    for _ in LINES:
        store.delete(0, store.read().version)
    assert (store.path.read_bytes(), store.read().entries) == (b"", ())


@pytest.mark.parametrize("place", [-1, 3, 99])
def test_a_place_outside_the_set_is_refused(store, place):
    for act in (lambda v: store.delete(place, v), lambda v: store.replace(place, NEW, v)):
        with pytest.raises(RowError) as caught:
            act(store.read().version)
        assert str(caught.value) == f"there is no row {place + 1}; the set has 3"
    assert lines_of(store) == LINES


def test_undo_and_redo_walk_through_every_state(store):
    states = [lines_of(store)]
    for change in (lambda v: store.add(NEW, v), lambda v: store.delete(1, v), lambda v: store.replace(0, NEW, v)):
        change(store.read().version)
        states.append(lines_of(store))
    assert len(set(states)) == 4
    for state in reversed(states[:-1]):
        store.undo()
        assert lines_of(store) == state
    with pytest.raises(DataError, match=r"^There is no change to take back\.$"):
        store.undo()
    for state in states[1:]:
        assert tuple(e.raw for e in store.redo().entries) == lines_of(store) == state
    with pytest.raises(DataError, match=r"^There is no change to make again\.$"):
        store.redo()


def test_a_new_change_after_undo_forgets_what_was_undone(store):
    store.add(NEW, store.read().version)
    store.undo()
    store.delete(0, store.read().version)
    with pytest.raises(DataError):
        store.redo()
    store.undo()
    assert lines_of(store) == LINES


def test_only_the_last_changes_are_kept_for_undo(store):
    for _ in range(UNDO_DEPTH + 5):
        store.add(NEW, store.read().version)
    for _ in range(UNDO_DEPTH):
        store.undo()
    with pytest.raises(DataError):
        store.undo()
    assert len(lines_of(store)) == len(LINES) + 5


def test_lines_are_added_or_replace_all_and_names_what_is_broken(store):
    added = store.change(Change(add_raw=(NEW_LINE, "bad")), store.read().version)
    assert lines_of(store) == (*LINES, NEW_LINE, "bad")
    assert [p.line for p in added.problems] == [2, 5]
    replaced = store.change(Change(add_raw=(NEW_LINE,), replace_all=True), added.version)
    assert lines_of(store) == (NEW_LINE,)
    assert replaced.problems == ()
    store.undo()
    store.undo()
    assert lines_of(store) == LINES


CHANGES = {
    "add": lambda s, v: s.add(NEW, v), "replace": lambda s, v: s.replace(0, NEW, v), "delete": lambda s, v: s.delete(0, v),
    "import": lambda s, v: s.change(Change(add_raw=(NEW_LINE,), replace_all=True), v),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_file_changed_by_somebody_else_is_not_overwritten(store, change):
    seen = store.read().version
    theirs = (LINES[0] + "\n" + NEW_LINE + "\n").encode()
    store.path.write_bytes(theirs)
    with pytest.raises(ConflictError) as caught:
        change(store, seen)
    assert str(caught.value) == (
        "examples.json was changed elsewhere since you opened it (row 2 was added, rows 2 and 3 were deleted): "
        "nothing was overwritten. Your change can be merged with the other one."
    )
    assert store.path.read_bytes() == theirs
    assert [e.raw for e in store.read().entries] == [LINES[0], NEW_LINE]


def test_two_browsers_do_not_overwrite_each_other(store):
    seen = store.read().version
    store.add(NEW, seen)
    with pytest.raises(ConflictError):
        store.delete(0, seen)
    assert lines_of(store) == (*LINES, NEW_LINE)


@pytest.mark.parametrize("travel", ["undo", "redo"])
def test_taking_back_does_not_overwrite_what_somebody_else_wrote(store, travel):
    store.add(NEW, store.read().version)
    if travel == "redo":
        store.undo()
    theirs = (LINES[0] + "\n").encode()
    store.path.write_bytes(theirs)
    with pytest.raises(ConflictError):
        getattr(store, travel)()
    assert store.path.read_bytes() == theirs


@pytest.mark.parametrize("change", [*CHANGES.values(), lambda s, v: s.undo()], ids=[*CHANGES, "undo"])
def test_a_full_disk_leaves_the_file_and_the_way_back_whole(store, monkeypatch, change):
    store.add(NEW, store.read().version)
    before = store.path.read_bytes()

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(WorkbenchError, match=r"^The disk is full: .* the old version is untouched"):
            change(store, store.read().version)
    assert store.path.read_bytes() == before
    assert [p.name for p in store.path.parent.iterdir()] == ["examples.json"]
    store.undo()
    assert lines_of(store) == LINES


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_crlf_file_keeps_one_kind_of_line_end(store, change):
    store.path.write_bytes("".join(line + "\r\n" for line in LINES).encode())
    assert [e.raw for e in store.read().entries] == list(LINES)
    change(store, store.read().version)
    raw = store.path.read_bytes()
    assert raw.endswith(b"\n")
    assert raw.count(b"\r\n") in (0, raw.count(b"\n"))


def test_the_untouched_lines_of_a_crlf_file_stay_byte_identical(store):
    raw = "".join(line + "\r\n" for line in LINES).encode()
    store.path.write_bytes(raw)
    store.add(NEW, store.read().version)
    assert store.path.read_bytes().startswith(raw)


def test_line_separators_inside_a_row_stay_where_they_are(store):
    row = make_row("раз\u2028два", "три\u2029четыре")
    store.add(row, store.read().version)
    assert RowStore(store.path).read().rows[-1] == row
    assert len(lines_of(store)) == 4


def test_threads_that_add_at_once_lose_no_row(store):
    def add(number: int) -> None:
        while True:
            try:
                store.add(make_row(f"Вопрос {number}", "Да"), store.read().version)
                return
            except ConflictError:
                continue

    threads = [threading.Thread(target=add, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(r.request for r in store.read().rows[2:]) == sorted(f"Вопрос {n}" for n in range(12))


def test_a_row_from_the_form_is_a_request_and_an_answer():
    assert make_row("Привет", "Да", "approved") == Example((Message("user", "Привет"), Message("assistant", "Да")), "approved")
    assert to_entry(NEW).raw == NEW_LINE


@pytest.mark.parametrize(
    ("request_", "answer", "status", "field"),
    [("", "Да", "draft", "messages[0].content"), ("Привет", " ", "draft", "messages[1].content"), ("Привет", "Да", "x", "status"),
     ("Привет", "<tool_call>", "draft", "messages[1].content")],
)  # fmt: skip
def test_the_form_s_bad_field_is_named(request_, answer, status, field):
    with pytest.raises(RowError) as caught:
        make_row(request_, answer, status)
    assert caught.value.field == field


LONG = Example(
    (Message("system", "Помогай."), Message("user", "Раз"), Message("assistant", "Два"),
     Message("user", "Три", (), {"name": "Аня"}),
     Message("assistant", "", (ToolCall("x", {"a": 1}, "c1"),))), "draft", extras={"id": 7},
)  # fmt: skip


def test_changing_a_long_conversation_touches_its_last_request_and_answer_alone():
    changed = make_row("Четыре", "Пять", "rejected", LONG)
    assert changed.messages == (*LONG.messages[:3], Message("user", "Четыре", (), {"name": "Аня"}), Message("assistant", "Пять"))
    assert (changed.status, changed.extras) == ("rejected", {"id": 7})


def test_calls_given_beside_the_answer_stay_unless_the_answer_is_typed_anew():
    assert make_row("Четыре", "", "draft", LONG).answer == LONG.answer
    assert make_row("Три", CALL, "draft", LONG).answer == Message("assistant", CALL)


# -- changes as values ----------------------------------------------------------------------------


def test_one_change_does_everything_in_one_write_and_one_step(store):
    change = Change(put={0: NEW}, drop=frozenset({1}), add=(make_row("Пока", "Пока!"),), add_raw=("oops", ODD), what="three things were done")
    found = store.change(change, store.read().version)
    assert lines_of(store) == (NEW_LINE, ODD, to_entry(change.add[0]).raw, "oops", ODD)
    assert ([(p.line, p.field) for p in found.problems], store.undo_what, store.redo_what) == ([(4, "line")], "three things were done", None)
    store.undo()
    assert (lines_of(store), store.undo_what, store.redo_what) == (LINES, None, "three things were done")
    store.redo()
    assert (store.read(), store.undo_what) == (found, "three things were done")
    store.delete(0, found.version)
    assert store.steps == ("row 1 was deleted", "three things were done")


def test_everything_can_be_replaced_and_then_no_old_place_is_left(store):
    seen = store.read().version
    with pytest.raises(RowError, match="there is no row 1; the set has 0"):
        store.change(Change(put={0: NEW}, replace_all=True), seen)
    store.change(Change(replace_all=True, add=(NEW,)), seen)
    assert lines_of(store) == (NEW_LINE,)


def test_one_row_is_not_changed_and_deleted_at_once(store):
    with pytest.raises(RowError, match="row 1 can't be changed and deleted at once"):
        store.change(Change(put={0: NEW}, drop=frozenset({0})), store.read().version)


@pytest.mark.parametrize("bad", [
    Example((Message("user", "a"),)), replace(NEW, extras={"x": float("nan")}), Example((Message("user", "\ud800"), Message("assistant", "b"))),
])  # fmt: skip
def test_a_row_that_could_not_be_read_again_is_not_written(store, bad):
    for change in (Change(add=(bad,)), Change(put={0: bad})):
        with pytest.raises(RowError):
            store.change(change, store.read().version)
    with pytest.raises(DataError, match=r"^Line 2 of the new lines holds half a character"):
        store.change(Change(add_raw=("a", "\udc00")), store.read().version)
    assert lines_of(store) == LINES


def test_values_that_compare_as_equal_but_are_written_otherwise_are_a_change(store):
    version = store.add(replace(NEW, extras={"id": 1}), store.read().version).version
    store.replace(3, replace(NEW, extras={"id": True}), version)
    assert lines_of(store)[3].endswith('"id": true}')


def test_new_lines_are_split_and_blank_ones_left_out_as_a_file_would_be_read(store):
    found = store.change(Change(add_raw=(f"{NEW_LINE}\r\noops", " ", "\ufeff[]")), store.read().version)
    assert lines_of(store) == (*LINES, NEW_LINE, "oops", "\ufeff[]")
    assert RowStore(store.path).read() == found


def test_a_byte_order_mark_that_comes_to_stand_in_front_is_none_of_the_line(store):
    version = store.change(Change(add_raw=("\ufeff" + NEW_LINE,)), store.read().version).version
    found = store.change(Change(drop=frozenset(range(3))), version)
    assert (lines_of(store), found.rows) == ((NEW_LINE,), (NEW,))
    assert RowStore(store.path).read() == found


def test_the_problems_keep_the_numbers_of_their_lines(store):
    store.path.write_text(f"\n\n{BROKEN}\n\n{LINES[0]}\n{BROKEN}", encoding="utf-8")
    assert [p.line for p in store.read().problems] == [3, 6]  # as an editor shows them
    version = store.add(NEW, store.read().version).version
    assert [p.line for p in store.read().problems] == [1, 3]
    assert [p.line for p in store.delete(1, version).problems] == [1, 2]
    assert RowStore(store.path).read() == store.read()


ODD_FILES = {
    "byte-order mark": b"\xef\xbb\xbf" + LINES[0].encode() + b"\n", "no last line end": LINES[0].encode(), "blank lines": b"\n\n" + LINES[0].encode() + b"\n\n\n",
    "mixed line ends": f"{LINES[0]}\r\n{BROKEN}\n{ODD}\r\n".encode(), "two returns": f"{LINES[0]}\r\r\n".encode(), "empty": b"",
}  # fmt: skip


@pytest.mark.parametrize("raw", ODD_FILES.values(), ids=ODD_FILES)
def test_taking_back_gives_the_file_back_byte_for_byte_however_it_was_written(store, raw):
    store.path.write_bytes(raw)
    first = store.read()
    store.add(NEW, first.version)
    store.add(NEW, store.read().version)
    after = store.path.read_bytes()
    store.undo()
    assert store.undo() == first == store.read()
    assert store.path.read_bytes() == raw
    store.redo()
    store.redo()
    assert store.path.read_bytes() == after


def test_what_stood_before_a_foreign_change_is_no_place_to_go_back_to(store):
    store.add(NEW, store.read().version)
    store.path.write_text(NEW_LINE + "\n", encoding="utf-8")
    store.add(NEW, store.read().version)
    store.undo()
    with pytest.raises(DataError, match=r"^There is no change to take back\.$"):
        store.undo()
    assert lines_of(store) == (NEW_LINE,)


def test_other_line_ends_alone_are_no_foreign_change(store):
    seen = store.read().version
    store.path.write_bytes("".join(line + "\r\n" for line in LINES).encode())
    store.add(NEW, seen)
    assert store.path.read_bytes() == "".join(line + "\r\n" for line in (*LINES, NEW_LINE)).encode()


def test_a_line_is_parsed_once(store, monkeypatch):
    store.change(Change(add=tuple(make_row(f"Вопрос {n}", "Да") for n in range(50))), store.read().version)
    parsed = []
    parse = changes.parse_jsonl
    monkeypatch.setattr(changes, "parse_jsonl", lambda text: parsed.append(text) or parse(text))
    version = store.delete(7, store.read().version).version
    store.undo(version)
    assert parsed == []
    store.replace(9, NEW, store.read().version)
    assert parsed == [NEW_LINE]
    store.path.write_text("bad\n" + "".join(line + "\n" for line in lines_of(store)), encoding="utf-8")
    store.read()
    assert parsed == [NEW_LINE, "bad"]


def test_a_set_that_would_become_too_large_to_be_read_again_is_not_written(store, monkeypatch):
    monkeypatch.setattr(store_module, "MAX_FILE_BYTES", 1000)
    with pytest.raises(DataError, match=r"^examples\.json would become larger than 0 MiB"):
        store.add(make_row("x" * 1000, "y"), store.read().version)
    assert lines_of(store) == LINES


def test_steps_back_are_fewer_for_very_large_sets(store, monkeypatch):
    monkeypatch.setattr(store_module, "KEPT_LINES", 12)
    for _ in range(4):
        store.add(NEW, store.read().version)
    store.undo()
    store.undo()
    with pytest.raises(DataError):
        store.undo()
    assert len(lines_of(store)) == 5


def test_the_store_knows_when_its_file_was_written(tmp_path):
    store = RowStore(tmp_path / "rows.jsonl")
    assert store.changed_at() == 0.0
    store.path.write_text("", encoding="utf-8")
    os.utime(store.path, (5.0, 7.0))
    assert store.changed_at() == 7.0
