"""A template that opens an answer with an empty thought and writes a standing answer without one, as Gemma 4's does."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.calls.dialects import DIALECTS
from workbench.calls.prompting import CallForm
from workbench.errors import RowError
from workbench.models.tokenizer import ChatTokenizer
from workbench.schema import Example, Message, ToolCall
from workbench.training.encode import IGNORED, encode, turns_before_answer
from workbench.training.teach import teach

THOUGHT = "<|channel>thought\n<channel|>"
TEMPLATE = """{{ bos_token }}
{%- macro strip_thinking(text) -%}{%- for part in text.split('<channel|>') -%}{{ part.split('<|channel>')[0] }}{%- endfor -%}{%- endmacro -%}
{%- for m in messages -%}
    {%- if not loop.first and messages[loop.index0 - 1].role == m.role -%}{{ raise_exception('Roles must alternate') }}{%- endif -%}
    {{- '<|turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' -}}
    {{- strip_thinking(m.content) | trim if m.role == 'assistant' else m.content | trim -}}{{- '<turn|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|turn>model\\n' -}}
    {%- if not enable_thinking | default(false) -%}{{- '<|channel>thought\\n<channel|>' -}}{%- endif -%}
{%- endif -%}"""
FORM = CallForm(DIALECTS["gemma4"])
CALL = ToolCall("get_weather", {"city": "Ош"})
TALK = Example((
    Message("user", "Погода в Оше?"), Message("assistant", "", (CALL,)), Message("tool", '{"t": 7}'), Message("assistant", "Семь градусов."),
    Message("user", "Спасибо"), Message("assistant", "Не за что."),
))  # fmt: skip


@pytest.fixture(scope="module")
def gemma4(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    """A tiny tokenizer with Gemma 4's control tokens and a template of its form."""
    from tokenizers import AddedToken, Tokenizer

    folder = tmp_path_factory.mktemp("thought") / "gemma4"
    shutil.copytree(tiny_folder, folder)
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = ("<|turn>", "<turn|>", "<|channel>", "<channel|>", *FORM.dialect.control)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    backend.save(str(folder / "tokenizer.json"))
    return ChatTokenizer(folder, TEMPLATE, {"bos_token": "<bos>"}, (1, backend.token_to_id("<turn|>")))


def spans(labels: tuple[int, ...]) -> list[tuple[int, int]]:
    starts = [k for k in range(1, len(labels)) if labels[k] != IGNORED and labels[k - 1] == IGNORED]
    ends = [k for k in range(1, len(labels)) if labels[k] == IGNORED and labels[k - 1] != IGNORED]
    return list(zip(starts, ends, strict=True))


def test_the_thought_is_found_by_what_the_template_does_and_others_have_none(gemma4: ChatTokenizer, tiny_folder: Path) -> None:
    assert gemma4.thought == THOUGHT
    assert ChatTokenizer.load(tiny_folder).thought == ""
    begun, off = TEMPLATE.replace("thought\\n<channel|>'", "thought\\n'"), TEMPLATE.replace("not enable_thinking", "enable_thinking")
    assert len({begun, off, TEMPLATE}) == 3
    for other in ("{{ messages[0].content }}", "{{ raise_exception('no') }}", begun, off):
        assert dataclasses.replace(gemma4, template=other).thought == ""


def test_a_row_teaches_what_follows_the_prompt_that_asks_for_it(gemma4: ChatTokenizer) -> None:
    row = Example(TALK.messages[:2])
    prompt = gemma4.render(FORM.ask("Погода в Оше?"), answer_next=True)
    assert prompt == f"<bos><|turn>user\nПогода в Оше?<turn|>\n<|turn>model\n{THOUGHT}"
    reply = '<|tool_call>call:get_weather{city:<|"|>Ош<|"|>}<tool_call|>'
    assert gemma4.render(FORM.turns(row), answer_next=False) == f"{prompt}{reply}<turn|>\n"
    encoded = encode(row, gemma4, max_tokens=1000, form=FORM)
    [(start, end)] = spans(encoded.labels)
    assert gemma4.text(encoded.ids[:start], keep_control=True) == prompt
    assert gemma4.text(encoded.ids[start:end], keep_control=True) == f"{reply}<turn|>"
    assert teach(row, gemma4, max_tokens=1000, form=FORM).target == f"{reply}<turn|>"


def test_every_answer_of_a_conversation_goes_on_from_its_own_prompt_in_training_scoring_chat_and_the_loop(gemma4: ChatTokenizer) -> None:
    encoded, allowed = encode(TALK, gemma4, max_tokens=1000, form=FORM), FORM.dialect.control
    places = spans(encoded.labels)
    assert len(places) == 3
    turns = FORM.turns(TALK)
    for (start, end), count in zip(places, (1, 3, 5), strict=True):
        assert tuple(gemma4.prompt_ids(turns[:count], allowed=allowed)) == encoded.ids[:start]
        said = gemma4.text(encoded.ids[start : end - 1], keep_control=allowed)
        assert said == turns[count]["content"]
    assert tuple(gemma4.prompt_ids(turns_before_answer(TALK, FORM), allowed=allowed)) == encoded.ids[: places[-1][0]], "scoring"
    # The loop goes on from what the model said, spaces around it and all.
    said = f" \n{turns[1]['content']} "
    going = [*turns[:1], {"role": "assistant", "content": said}, *FORM.result_turns([(CALL, '{"t": 7}')])]
    assert tuple(gemma4.prompt_ids(going, allowed=allowed)) == encoded.ids[: places[1][0]]


ANSWERS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")) | st.sampled_from("\ue000\n <|>"), min_size=1, max_size=8)


@given(st.lists(st.tuples(ANSWERS, ANSWERS), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_row_is_its_prompts_and_answers_one_behind_the_other(gemma4: ChatTokenizer, pairs: list[tuple[str, str]]) -> None:
    row = Example(tuple(m for asked, said in pairs for m in (Message("user", asked), Message("assistant", said))))
    try:
        encoded = encode(row, gemma4, max_tokens=1000, form=FORM)
    except RowError as exc:
        assert "is empty" in str(exc) or "control token" in str(exc) or "keeps for itself" in str(exc)
        return
    expected, turns = "", FORM.turns(row)
    for place in range(0, len(turns), 2):
        expected = gemma4.render(turns[: place + 1], answer_next=True)
        assert expected.endswith(f"<|turn>model\n{THOUGHT}") and expected.count(THOUGHT) == place // 2 + 1
        expected += f"{turns[place + 1]['content']}<turn|>\n"
        assert gemma4.render(turns[: place + 2], answer_next=False) == expected
    assert gemma4.text(encoded.ids, keep_control=True) == expected
    assert len(spans(encoded.labels)) == len(pairs)


def test_a_turn_that_is_opened_without_a_thought_gets_none(gemma4: ChatTokenizer) -> None:
    """After a tool's answer some templates go on in the same turn: the thought stands only where a new one is opened."""
    quiet = TEMPLATE.replace("{%- if not enable_thinking", "{%- if messages[-1].role != 'tool' and not enable_thinking")
    tokenizer = dataclasses.replace(gemma4, template=quiet)
    form = dataclasses.replace(FORM, result_role="tool")
    text = tokenizer.render(form.turns(TALK), answer_next=False)
    assert text.count(THOUGHT) == 2 and "<|turn>model\nСемь градусов." in text
    assert len(spans(encode(TALK, tokenizer, max_tokens=1000, form=form).labels)) == 3
