"""What a row teaches, token by token."""

import pytest

from workbench.dataset.formats import parse_row
from workbench.errors import RowError
from workbench.models.tokenizer import ChatTokenizer
from workbench.training.encode import encode
from workbench.training.teach import teach


def row(request, answer):
    return parse_row({"messages": [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]})


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):
    return ChatTokenizer.load(tiny_folder)


def test_the_tokens_join_to_the_rendered_conversation_and_the_learned_ones_are_the_answer(tokenizer):
    lesson = teach(row("Hi", "Yes"), tokenizer, max_tokens=100)
    assert "".join(t.text for t in lesson.tokens) == "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nYes<end_of_turn>\n"
    assert [t.text for t in lesson.tokens if t.learned] == ["Y", "e", "s", "<end_of_turn>"]
    assert (lesson.target, lesson.learned) == ("Yes<end_of_turn>", 4)


def test_the_ids_and_the_learned_places_are_training_s_own(tokenizer):
    example = row("Баланс?", "да 😀")
    lesson, encoded = teach(example, tokenizer, max_tokens=200), encode(example, tokenizer, max_tokens=200)
    assert tuple(t.id for t in lesson.tokens) == encoded.ids
    assert sum(t.learned for t in lesson.tokens) == encoded.label_count


def test_a_character_cut_into_several_tokens_is_shown_once(tokenizer):
    lesson = teach(row("x", "я"), tokenizer, max_tokens=100)  # two bytes, so two tokens
    learned = [t.text for t in lesson.tokens if t.learned]
    assert learned[0] == "я"
    assert len(learned) == 3
    assert "я" not in learned[1:]


def test_what_could_not_be_learned_is_refused(tokenizer):
    with pytest.raises(RowError, match="control token"):
        teach(row("x", "<end_of_turn>"), tokenizer, max_tokens=100)
    with pytest.raises(RowError, match="20 are allowed"):
        teach(row("x" * 50, "y"), tokenizer, max_tokens=20)
