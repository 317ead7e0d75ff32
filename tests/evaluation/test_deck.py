"""The deck of a demonstration: as text, in its file, and how its replies are counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import ConflictError, DataError, InputError
from workbench.evaluation.deck import MAX_ENTRIES, MAX_PROMPT, DeckStore, Entry, deck_text, read_deck_text, tally
from workbench.evaluation.scores import Rate

SIX = (Entry("Мой доступ активен?", True), Entry("Привет!", False))


def store(folder: Path) -> DeckStore:
    return DeckStore(folder / "demo_deck.jsonl", lambda: SIX)


def test_without_a_file_it_begins_with_what_it_is_given_and_a_saved_deck_is_read_back(tmp_path: Path) -> None:
    deck = store(tmp_path).read()
    assert (deck.entries, deck.version) == (SIX, "")
    saved = store(tmp_path).save([Entry("a | b", True)], deck.version)
    assert store(tmp_path).read() == saved
    assert (tmp_path / "demo_deck.jsonl").read_text(encoding="utf-8") == '{"prompt": "a | b", "should_call": true}\n'
    assert store(tmp_path).begin_anew(saved.version).entries == SIX


def test_another_s_change_is_not_overwritten(tmp_path: Path) -> None:
    first = store(tmp_path).save(SIX, "")
    store(tmp_path).save(SIX[:1], first.version)
    with pytest.raises(ConflictError, match="was changed elsewhere"):
        store(tmp_path).save(SIX, first.version)
    assert store(tmp_path).read().entries == SIX[:1]


@pytest.mark.parametrize(("written", "says"), [
    ("{", "Line 1 of demo_deck.jsonl is not valid JSON"), ('{"prompt": "a", "should_call": 1}\n', "Line 1 of demo_deck.jsonl can't be used: it should be as in"),
    ('\n{"prompt": " ", "should_call": true}\n', "Line 2 of demo_deck.jsonl can't be used: it has no prompt"), ("", "needs one prompt at least"),
    ("[1]", "Line 1 of demo_deck.jsonl can't be used"), ("[" * 100_000, "is not valid JSON"), (b"\xff\xfe", "is not UTF-8"),
])  # fmt: skip
def test_a_file_that_cant_be_used_names_its_line(tmp_path: Path, written: str | bytes, says: str) -> None:
    (tmp_path / "demo_deck.jsonl").write_bytes(written if isinstance(written, bytes) else written.encode())
    with pytest.raises(DataError, match=says):
        store(tmp_path).read()


@given(st.lists(st.builds(Entry, st.text(max_size=40).map(lambda t: "\n".join(t.split("\n"))), st.booleans()), min_size=1, max_size=5))
def test_as_text_a_deck_comes_back_as_it_was_but_for_spaces_around_a_prompt(entries: list[Entry]) -> None:
    wanted = tuple(Entry("\n".join(e.prompt.splitlines()).strip(), e.should_call) for e in entries)
    if not all(e.prompt for e in wanted):
        return
    read = read_deck_text(deck_text(entries))
    assert [(e.prompt.strip(), e.should_call) for e in read] == [(e.prompt, e.should_call) for e in wanted]


@pytest.mark.parametrize(("text", "says"), [
    ("call | a\nПривет", "Line 2 can't be used: begin it with “call |”"), ("tool | a", "Line 1 can't be used"), ("call |  ", "Line 1 can't be used: it has no prompt"),
    ("\n \n", "needs one prompt at least"), ("text | a\n" * (MAX_ENTRIES + 1), "100 prompts at most, and these are 101"),
    (f"call | {'a' * (MAX_PROMPT + 1)}", "its prompt has 4,001 characters, and 4,000 are allowed"),
])  # fmt: skip
def test_a_text_that_is_no_deck_is_refused_by_its_line(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_deck_text(text)


def test_half_a_character_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="half a character"):
        store(tmp_path).save([Entry(json.loads('"\\ud800"'), True)], "")
    assert not (tmp_path / "demo_deck.jsonl").exists()


def test_a_malformed_call_is_no_call_where_one_is_wanted_and_an_over_call_where_none_is() -> None:
    call, text = Entry("a", True), Entry("b", False)
    found = tally([(call, "tool call"), (call, "malformed call"), (call, "no tool call"), (text, "malformed call"), (text, "tool call"), (text, "no tool call")])
    assert (found.called, found.over) == (Rate(1, 3), Rate(2, 3))
    assert call.right("tool call") and text.right("no tool call") and not call.right("malformed call") and not text.right("malformed call")
