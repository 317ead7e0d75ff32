"""The list of answers that a person must look at: nothing on it is lost, and what was looked at is gone from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.errors import DataError
from workbench.training.review import LONGEST, ReviewList


def test_an_answer_stays_on_the_list_until_somebody_has_looked_at_it(tmp_path: Path) -> None:
    one = ReviewList(tmp_path / "data" / "review.jsonl")
    assert one.waiting() == []
    first = one.add("Погода?", ("<tool_call", "x"), "malformed", adapter="r", dialect="hermes")
    second = ReviewList(one.path).add("a\nb", (), "nothing")
    assert one.waiting() == [first, second] and (first.prompt, first.replies, first.dialect) == ("Погода?", ("<tool_call", "x"), "hermes")
    one.settle(first.key)
    assert ReviewList(one.path).waiting() == [second]
    with pytest.raises(DataError, match="not on the list any more"):
        one.settle(first.key)
    assert one.waiting() == [second]


def test_a_line_that_was_cut_costs_no_other(tmp_path: Path) -> None:
    one = ReviewList(tmp_path / "review.jsonl")
    first = one.add("a", (), "r")
    with one.path.open("ab") as stream:
        stream.write(b'{"type": "waiting", "key": "x')
    assert one.waiting() == [first]
    second = one.add("b", (), "r")
    assert one.waiting() == [first, second]


def test_a_long_text_is_cut_with_a_sign_and_half_a_character_is_kept_as_a_mark(tmp_path: Path) -> None:
    entry = ReviewList(tmp_path / "review.jsonl").add("я" * (LONGEST + 5), ("\ud800",), "r")
    assert entry.prompt == "я" * LONGEST + "…" and entry.replies == ("?",)


def test_a_list_that_can_t_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "review.jsonl").mkdir()
    with pytest.raises(DataError, match=r"review\.jsonl"):
        ReviewList(tmp_path / "review.jsonl").add("a", (), "r")
