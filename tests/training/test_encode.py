"""What a row teaches: the assistant's tokens and nothing else, proven for every turn."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from workbench.dataset.formats import load_rows, parse_row
from workbench.errors import RowError
from workbench.models.tokenizer import ChatTokenizer
from workbench.schema import Example, Message, RowProblem
from workbench.training.encode import IGNORED, Encoded, encode, encode_all, turns_of

CALL = '<tool_call name="get_sensitive_data" arguments="{}"/>'
DATA = Path(__file__).resolve().parents[2] / "data" / "examples.json"
ROWS = load_rows(DATA).rows


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path) -> ChatTokenizer:
    return ChatTokenizer.load(tiny_folder)


@pytest.fixture(scope="module")
def gemma(demo_folder: Path) -> ChatTokenizer:
    return ChatTokenizer.load(demo_folder)


def conversation(*turns: tuple[str, str]) -> Example:
    return Example(tuple(Message(role, content) for role, content in turns))


def taught(encoded: Encoded, tokenizer: ChatTokenizer) -> list[str]:
    """The text of each unbroken stretch of labels, control tokens included."""
    stretches: list[list[int]] = []
    for before, label in zip((IGNORED, *encoded.labels), encoded.labels, strict=False):
        if label != IGNORED:
            stretches += [[]] if before == IGNORED else []
            stretches[-1].append(label)
    return [tokenizer.text(stretch, keep_control=True) for stretch in stretches]


def check_row(row: Example, tokenizer: ChatTokenizer) -> Encoded:
    """Asserts all that must hold for a row of one request and one answer."""
    encoded = encode(row, tokenizer, max_tokens=2048)
    bos = tokenizer.backend.token_to_id("<bos>")
    prompt = tokenizer.prompt_ids([{"role": "user", "content": row.request}])
    assert taught(encoded, tokenizer) == [row.answer.content.strip() + "<end_of_turn>"]
    assert encoded.ids[0] == bos and encoded.ids.count(bos) == 1
    assert list(encoded.ids[: len(prompt)]) == prompt
    assert encoded.labels == (
        (IGNORED,) * len(prompt) + encoded.ids[len(prompt) : -1] + (IGNORED,)
    ), "labels begin at the answer's first token and leave out what follows the stop token"
    assert tokenizer.text(encoded.ids[-1:]) == "\n" and encoded.labels[-2] in tokenizer.stop_ids
    assert encoded.label_count == len(encoded.ids) - len(prompt) - 1
    return encoded


def test_a_call_is_taught_as_its_exact_text_and_the_stop_token(tiny: ChatTokenizer) -> None:
    encoded = check_row(conversation(("user", "Сколько у меня денег?"), ("assistant", CALL)), tiny)
    assert taught(encoded, tiny) == [CALL + "<end_of_turn>"]
    whole = f"<bos><start_of_turn>user\nСколько у меня денег?<end_of_turn>\n<start_of_turn>model\n{CALL}<end_of_turn>\n"
    assert tiny.text(encoded.ids, keep_control=True) == whole


def test_every_row_of_the_repository_is_taught_exactly_with_the_tiny_tokenizer(tiny: ChatTokenizer) -> None:
    assert len([check_row(row, tiny) for row in ROWS]) == 70


def test_every_assistant_turn_of_a_conversation_is_taught(tiny: ChatTokenizer) -> None:
    row = conversation(("user", "Привет"), ("assistant", "Добрый день!"), ("user", "Мой баланс?"), ("assistant", CALL))
    encoded = encode(row, tiny, max_tokens=2048)
    assert taught(encoded, tiny) == ["Добрый день!<end_of_turn>", CALL + "<end_of_turn>"]
    for end in (1, 3):
        prompt = tiny.prompt_ids(turns_of(row)[:end])
        assert list(encoded.ids[: len(prompt)]) == prompt
        assert encoded.labels[len(prompt) - 1] == IGNORED and encoded.labels[len(prompt)] == encoded.ids[len(prompt)]


def test_a_call_given_as_tool_calls_with_null_content_is_taught_as_its_text(tiny: ChatTokenizer) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_sensitive_data", "arguments": "{}"}}
    given = parse_row({"messages": [
        {"role": "user", "content": "Сколько у меня денег?"}, {"role": "assistant", "content": None, "tool_calls": [call]},
    ]})
    written = conversation(("user", "Сколько у меня денег?"), ("assistant", CALL))
    encoded = encode(given, tiny, max_tokens=2048)
    assert taught(encoded, tiny) == [CALL + "<end_of_turn>"]
    assert encoded == encode(written, tiny, max_tokens=2048)


def test_a_call_with_arguments_beside_words_is_taught_with_both(tiny: ChatTokenizer) -> None:
    row = parse_row({"messages": [
        {"role": "user", "content": "Переведи"},
        {"role": "assistant", "content": "Секунду.", "tool_calls": [{"name": "send", "arguments": {"to": "Аня", "sum": 5}}]},
    ]})
    text = 'Секунду.\n<tool_call name="send" arguments="{&quot;to&quot;: &quot;Аня&quot;, &quot;sum&quot;: 5}"/><end_of_turn>'
    assert taught(encode(row, tiny, max_tokens=2048), tiny) == [text]


def test_a_system_turn_before_the_request_is_read_and_not_taught(tiny: ChatTokenizer) -> None:
    row = conversation(("system", "Ты помощник банка."), ("user", "Мой баланс?"), ("assistant", CALL))
    encoded = encode(row, tiny, max_tokens=2048)
    assert taught(encoded, tiny) == [CALL + "<end_of_turn>"]
    opening = "<bos><start_of_turn>user\nТы помощник банка.\n\nМой баланс?<end_of_turn>\n<start_of_turn>model\n"
    first = next(i for i, label in enumerate(encoded.labels) if label != IGNORED)
    assert tiny.text(encoded.ids[:first], keep_control=True) == opening


def test_space_around_an_answer_is_not_taught(tiny: ChatTokenizer) -> None:
    row = conversation(("user", "Привет"), ("assistant", "  Добрый день! \n"))
    assert taught(encode(row, tiny, max_tokens=2048), tiny) == ["Добрый день!<end_of_turn>"]


def test_a_row_of_exactly_the_allowed_length_passes_and_one_token_more_is_refused(tiny: ChatTokenizer) -> None:
    row = conversation(("user", "abc"), ("assistant", "xyz"))
    length = len(encode(row, tiny, max_tokens=2048).ids)
    assert len(encode(row, tiny, max_tokens=length).ids) == length
    with pytest.raises(RowError, match=rf"the row has {length} tokens, {length - 1} are allowed.*training\.max_row_tokens"):
        encode(row, tiny, max_tokens=length - 1)


def test_two_requests_in_a_row_are_refused_by_the_template(tiny: ChatTokenizer) -> None:
    row = conversation(("user", "Привет"), ("user", "Ты тут?"), ("assistant", "Да."))
    with pytest.raises(RowError, match="chat template refuses these turns: Conversation roles must alternate"):
        encode(row, tiny, max_tokens=2048)


@pytest.mark.parametrize(("place", "field"), [(0, "messages[0].content"), (1, "messages[1].content")])
def test_an_empty_turn_is_refused_with_its_field(tiny: ChatTokenizer, place: int, field: str) -> None:
    contents = ["Привет", "Добрый день!"]
    contents[place] = " \n"
    with pytest.raises(RowError, match="the text is empty") as caught:
        encode(conversation(("user", contents[0]), ("assistant", contents[1])), tiny, max_tokens=2048)
    assert caught.value.field == field


@pytest.mark.parametrize("token", ["<bos>", "<eos>", "<pad>", "<unk>", "<start_of_turn>", "<end_of_turn>"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_control_token_in_a_text_is_refused_by_name(tiny: ChatTokenizer, token: str, place: int) -> None:
    contents = ["Привет", "Добрый день!"]
    contents[place] += f" {token}"
    with pytest.raises(RowError) as caught:
        encode(conversation(("user", contents[0]), ("assistant", contents[1])), tiny, max_tokens=2048)
    assert caught.value.reason == f"the text holds the control token {token}; take it out"
    assert caught.value.field == f"messages[{place}].content"


def test_a_row_without_an_answer_has_nothing_to_learn(tiny: ChatTokenizer) -> None:
    with pytest.raises(RowError, match="no assistant turn: there is nothing to learn"):
        encode(conversation(("user", "Привет")), tiny, max_tokens=2048)


def test_a_template_that_writes_bos_twice_is_refused(tiny: ChatTokenizer) -> None:
    doubled = dataclasses.replace(tiny, template="{{ bos_token }}" + tiny.template)
    with pytest.raises(RowError, match="writes <bos> more than once"):
        encode(ROWS[0], doubled, max_tokens=2048)


def test_a_template_that_rewrites_the_prompt_is_refused(tiny: ChatTokenizer) -> None:
    opening = "'<start_of_turn>model\\n'"
    assert opening in tiny.template
    rewriting = dataclasses.replace(tiny, template=tiny.template.replace(opening, opening[:-1] + "!'"))
    with pytest.raises(RowError, match=r"rewrites the prompt once the answer stands \(no prefix\)"):
        encode(ROWS[0], rewriting, max_tokens=2048)


def test_a_template_that_changes_the_answer_is_refused(tiny: ChatTokenizer) -> None:
    changing = dataclasses.replace(tiny, template=tiny.template.replace("| trim", "| trim | upper"))
    with pytest.raises(RowError, match="the chat template changes the answer: it would teach 'ДОБРЫЙ ДЕНЬ!'"):
        encode(conversation(("user", "Привет"), ("assistant", "Добрый день!")), changing, max_tokens=2048)


def test_a_set_keeps_its_good_rows_and_names_the_bad_ones_by_line(tiny: ChatTokenizer) -> None:
    good, bad = ROWS[0], conversation(("user", "<bos>"), ("assistant", "нет"))
    encoded, problems = encode_all([good, bad, good], tiny, max_tokens=2048, lines=[2, 5, 9])
    assert encoded == [encode(good, tiny, max_tokens=2048), None, encode(good, tiny, max_tokens=2048)]
    assert problems == [RowProblem(5, "messages[0].content", "the text holds the control token <bos>; take it out")]
    assert encode_all([good, bad], tiny, max_tokens=2048)[1][0].line == 2


@pytest.mark.real_model
def test_every_row_of_the_repository_is_taught_exactly_by_the_real_tokenizer(gemma: ChatTokenizer) -> None:
    texts = [taught(check_row(row, gemma), gemma)[0] for row in ROWS]
    assert len(texts) == 70
    assert texts.count('<tool_call name="get_sensitive_data" arguments="{}"/><end_of_turn>') == 33
    assert sum("<tool_call" in text for text in texts) == 33


@pytest.mark.real_model
def test_ids_equal_those_of_transformers_for_every_row(gemma: ChatTokenizer, demo_folder: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(demo_folder)
    for row in ROWS:
        turns = turns_of(row)
        expected = theirs.apply_chat_template(turns, tokenize=True, return_dict=False)
        assert list(encode(row, gemma, max_tokens=2048).ids) == expected
        asked = theirs.apply_chat_template(turns[:-1], tokenize=True, add_generation_prompt=True, return_dict=False)
        assert gemma.prompt_ids(turns[:-1]) == asked


@pytest.mark.real_model
def test_every_turn_of_a_conversation_is_taught_by_the_real_tokenizer(gemma: ChatTokenizer) -> None:
    row = conversation(
        ("system", "Ты помощник."), ("user", "Привет"), ("assistant", "Добрый день!"),
        ("user", "Мой баланс?"), ("assistant", CALL),
    )
    assert taught(encode(row, gemma, max_tokens=2048), gemma) == ["Добрый день!<end_of_turn>", CALL + "<end_of_turn>"]


@pytest.mark.real_model
@pytest.mark.parametrize("token", ["<bos>", "<end_of_turn>", "<start_of_turn>", "<mask>", "<unused0>"])
def test_real_control_tokens_are_refused(gemma: ChatTokenizer, token: str) -> None:
    with pytest.raises(RowError, match="control token"):
        encode(conversation(("user", f"Привет {token}"), ("assistant", "Да.")), gemma, max_tokens=2048)
