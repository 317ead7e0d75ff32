"""Which rows a model can't be taught: every one in a small set, the likely ones in a large set."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.models.tokenizer import ChatTokenizer
from workbench.schema import Example, Message
from workbench.training import teachable
from workbench.training.teachable import Teachable


@pytest.fixture
def tiny(tiny_folder: Path) -> ChatTokenizer:
    return ChatTokenizer.load(tiny_folder)


def talk(*turns: tuple[str, str]) -> Example:
    return Example(tuple(Message(role, content) for role, content in turns))


ROWS = dict(enumerate([
    talk(("user", "Привет"), ("assistant", "Да")),
    talk(("user", "a"), ("user", "b"), ("assistant", "c")),
    talk(("user", "a <end_of_turn>"), ("assistant", "c")),
    talk(("user", "a" * 300), ("assistant", "c")),
    talk(("user", "<b>a</b>"), ("assistant", "c")),
    talk(("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")),
]))  # fmt: skip


@pytest.mark.parametrize("encoded", [1000, 5])
def test_refused_rows_are_named_with_the_reason_in_small_and_in_large_sets(tiny: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, encoded: int) -> None:
    monkeypatch.setattr(teachable, "ENCODED", encoded)
    found = Teachable(tiny, 200).refused(ROWS)
    assert list(found) == [1, 2, 3]
    assert "chat template refuses these turns" in found[1]
    assert "control token <end_of_turn>" in found[2]
    assert "tokens, 200 are allowed" in found[3]


def test_what_was_asked_once_is_not_encoded_again(tiny: ChatTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Teachable(tiny, 200)
    first = asked.refused(ROWS)
    encode, seen = teachable.encode, list[Example]()
    monkeypatch.setattr(teachable, "encode", lambda row, *args, **more: seen.append(row) or encode(row, *args, **more))
    new = talk(("user", "новое"), ("assistant", "Да"))
    assert asked.refused({**ROWS, 9: new}) == first
    assert seen == [new]


def test_of_a_large_set_the_longest_are_encoded_as_far_as_the_limit_goes(tiny: ChatTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teachable, "ENCODED", 2)
    rows = {place: talk(("user", "a" * (300 + place)), ("assistant", "c")) for place in range(5)}
    assert list(Teachable(tiny, 200).refused(rows)) == [3, 4]
