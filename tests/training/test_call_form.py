"""The form of calls: what a row teaches in every dialect reads back as its calls, and whoever asks a model asks it as it was taught."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from workbench.calls.dialect import openai_of
from workbench.calls.dialects import DIALECTS, DialectError, calls_in, message_text
from workbench.calls.prompting import PLAIN, CallForm
from workbench.dataset.formats import load_rows, parse_row
from workbench.errors import RowError, RunError, SettingsError
from workbench.models.tokenizer import ChatTokenizer
from workbench.schema import Example, Message, ToolCall, ToolSpec
from workbench.settings import RunSettings, Training, apply_overrides, choices
from workbench.training.answers import in_call
from workbench.training.call_form import CallRecord, form_in, may_tell, read_record, settle, write_record
from workbench.training.encode import IGNORED, encode, turns_before_answer, turns_of
from workbench.training.runs import RunStore
from workbench.training.teach import teach
from workbench.training.teachable import Teachable

ROWS = load_rows(Path(__file__).resolve().parents[2] / "data" / "examples.json").rows
CALL = ToolCall("get_weather", {"city": "Ростов", "days": 3})
WEATHER = ToolSpec("get_weather", "The weather of a city.", {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}, {"t": 7})
TALK = Example((
    Message("user", "Какая погода в Ростове?"), Message("assistant", "", (CALL,)), Message("tool", '{"t": 7}'), Message("assistant", "Семь градусов."),
))  # fmt: skip
TOOL_TURNS = """{{ bos_token }}{%- for m in messages -%}
{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + (m.content | trim) + '<end_of_turn>\n' }}
{%- endfor -%}{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"""
WRAPPING = TOOL_TURNS.replace("(m.content | trim)", "('[TOOL_RESULTS]' + m.content if m.role == 'tool' else m.content)")
THINKING = """{{ bos_token }}{%- set empty = '<think>\\n\\n</think>\\n\\n' -%}{%- for m in messages -%}
{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + (empty if loop.last and m.role == 'assistant' else '') + m.content }}
{{- '<end_of_turn>\\n' }}{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' + (empty if enable_thinking is defined and not enable_thinking else '') }}{%- endif -%}"""

words = st.text(st.sampled_from("абв xyz,.'\"{}[]:&<>\\\n|"), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e6, 1e6) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b_1", "city"]), inner, max_size=3), max_leaves=6,
)  # fmt: skip
calls = st.builds(ToolCall, st.sampled_from(["f", "get_weather"]), st.dictionaries(st.sampled_from(["a", "b_1", "city"]), values, max_size=3))


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path) -> ChatTokenizer:
    return ChatTokenizer.load(tiny_folder)


@pytest.fixture(scope="module")
def knowing(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ChatTokenizer]:
    """A builder of tiny tokenizers that hold a dialect's markers as control tokens, as the models of that dialect do."""
    from tokenizers import AddedToken, Tokenizer

    @functools.cache
    def build(name: str) -> ChatTokenizer:
        folder = tmp_path_factory.mktemp("knowing") / name
        shutil.copytree(tiny_folder, folder)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.add_special_tokens([AddedToken(marker, special=True, normalized=False) for marker in DIALECTS[name].control])
        tokenizer.save(str(folder / "tokenizer.json"))
        return ChatTokenizer.load(folder)

    return build


def learned(row: Example, tokenizer: ChatTokenizer, form: CallForm) -> list[str]:
    """Each supervised stretch as text, as decoding would give it: the end of the turn left out."""
    encoded = encode(row, tokenizer, max_tokens=10_000, form=form)
    stretches: list[list[int]] = []
    for before, label in zip((IGNORED, *encoded.labels), encoded.labels, strict=False):
        if label != IGNORED:
            stretches += [[]] if before == IGNORED else []
            stretches[-1].append(label)
    assert all(stretch[-1] in tokenizer.stop_ids for stretch in stretches)
    return [tokenizer.text(stretch[:-1], keep_control=form.dialect.control) for stretch in stretches]


def as_json(found: tuple[ToolCall, ...]) -> list[tuple[str, str]]:
    return [(call.name, json.dumps(dict(call.arguments))) for call in found]


@pytest.mark.parametrize("knows", [False, True])
@pytest.mark.parametrize("name", list(DIALECTS))
@given(st.lists(calls, min_size=1, max_size=2), st.booleans(), st.booleans())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_a_row_teaches_is_read_back_as_its_own_calls(
    name: str, knows: bool, tiny: ChatTokenizer, knowing: Callable[[str], ChatTokenizer], wanted: list[ToolCall], literal: bool, talks: bool
) -> None:
    tokenizer, form = knowing(name) if knows else tiny, CallForm(DIALECTS[name])
    said = "Сейчас посмотрю." if talks else ""
    answer = Message("assistant", said, tuple(wanted))
    if literal:  # as most rows write it: the tag in the text
        answer = Message("assistant", message_text(answer))
    try:
        texts = learned(Example((Message("user", "Привет"), answer)), tokenizer, form)
    except DialectError:
        assume(False)
        return
    assert len(texts) == 1
    assert as_json(calls_in(form.dialect.parse(texts[0]))) == as_json(tuple(wanted))
    assert texts[0].startswith(said) and texts[0] == form.answer_text(answer).strip()


@pytest.mark.parametrize("knows", [False, True])
@pytest.mark.parametrize("name", list(DIALECTS))
def test_training_scoring_chat_and_the_loop_ask_token_by_token_the_same(
    name: str, knows: bool, tiny: ChatTokenizer, knowing: Callable[[str], ChatTokenizer]
) -> None:
    tokenizer, dialect = knowing(name) if knows else tiny, DIALECTS[name]
    for tools in (None, (WEATHER,)):
        form = CallForm(dialect, tools)
        encoded = encode(TALK, tokenizer, max_tokens=10_000, form=form)
        starts = [k for k in range(1, len(encoded.ids)) if encoded.labels[k] != IGNORED and encoded.labels[k - 1] == IGNORED]
        assert len(starts) == 2
        first = tuple(tokenizer.prompt_ids(form.ask(TALK.messages[0].content), allowed=dialect.control))
        assert first == encoded.ids[: starts[0]], "chat and the first answer"
        scored = tokenizer.prompt_ids(turns_before_answer(Example(TALK.messages[:2]), form), allowed=dialect.control)
        assert tuple(scored) == first, "scoring"
        reply = tokenizer.text(encoded.ids[starts[0] : starts[1]], keep_control=True).split("<end_of_turn>")[0]
        going = [*form.ask(TALK.messages[0].content), {"role": "assistant", "content": reply}, *form.result_turns([(CALL, '{"t": 7}')])]
        assert tuple(tokenizer.prompt_ids(going, allowed=dialect.control)) == encoded.ids[: starts[1]], "the loop and the second answer"
        whole = tokenizer.text(first, keep_control=True)
        assert (dialect.render_tools([WEATHER]) in whole) is (tools is not None)


def test_the_tag_form_writes_every_row_as_it_always_did(tiny: ChatTokenizer) -> None:
    for row in (*ROWS, Example((Message("system", " s "), Message("user", "a"), Message("assistant", "b ", (CALL,))))):
        assert turns_of(row) == [{"role": m.role, "content": message_text(m)} for m in row.messages]
    assert PLAIN == CallForm(DIALECTS["tag"], None, "user") == settle(Training(), tiny, [WEATHER], "m")
    assert PLAIN.ask("Привет <b>") == [{"role": "user", "content": "Привет <b>"}]


@pytest.mark.parametrize("name", list(DIALECTS))
def test_every_row_of_the_repository_can_be_taught_in_every_dialect(name: str, tiny: ChatTokenizer, knowing: Callable[[str], ChatTokenizer]) -> None:
    form = settle(Training(dialect=name), knowing(name), [WEATHER], "m")  # type: ignore[arg-type]
    rows = dict(enumerate(ROWS))
    assert Teachable(knowing(name), 2048, form).refused(rows) == {}
    assert Teachable(tiny, 2048, CallForm(DIALECTS[name])).refused(rows) == {}


def test_the_lesson_of_a_row_shows_the_dialect_and_the_tools(knowing: Callable[[str], ChatTokenizer]) -> None:
    form = settle(Training(dialect="gemma4"), knowing("gemma4"), [WEATHER], "m")
    lesson = teach(Example(TALK.messages[:2]), knowing("gemma4"), max_tokens=10_000, form=form)
    assert lesson.target == '<|tool_call>call:get_weather{city:<|"|>Ростов<|"|>,days:3}<tool_call|><end_of_turn>'
    assert "<|tool>declaration:get_weather{" in "".join(t.text for t in lesson.tokens)


# -- tools in the prompt --------------------------------------------------------------------------


def test_tools_stand_behind_the_system_s_own_words_and_gemma_folds_both_into_the_request(tiny: ChatTokenizer) -> None:
    form = CallForm(DIALECTS["hermes"], (WEATHER,))
    told = form.dialect.render_tools([WEATHER])
    row = Example((Message("system", "Отвечай коротко."), *TALK.messages[:2]))
    assert form.turns(row)[0] == {"role": "system", "content": f"Отвечай коротко.\n\n{told}"}
    assert form.turns(TALK)[0] == {"role": "system", "content": told}
    assert tiny.render(form.ask("a"), answer_next=True) == f"<bos><start_of_turn>user\n{told}\n\na<end_of_turn>\n<start_of_turn>model\n"


CHATML = """{%- if tools %}{{ '<|im_start|>system\\n' }}{%- if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{%- endif %}
{{- '# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\n' }}
{{- 'You are provided with function signatures within <tools></tools> XML tags:\\n<tools>' }}
{%- for tool in tools %}{{ '\\n' }}{{ tool | tojson }}{%- endfor %}
{{- '\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:' }}
{{- '\\n<tool_call>\\n{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}{{ '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif %}
{%- for m in messages %}
{%- if m.role == 'user' %}{{ '<|im_start|>user\\n' + m.content + '<|im_end|>\\n' }}
{%- elif m.role == 'tool' %}{{ '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}
{%- elif m.role == 'assistant' %}{{ '<|im_start|>assistant\\n' + (m.content or '') }}
{%- for call in m.tool_calls or [] %}{{ '\\n' if m.content }}{{ '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{ '}\\n</tool_call>' }}{%- endfor %}{{ '<|im_end|>\\n' }}{%- endif %}
{%- endfor %}"""


@pytest.mark.parametrize("system", ["", "Отвечай коротко."])
def test_a_native_dialect_writes_what_the_model_s_own_template_writes_for_tools_calls_and_results(system: str, tiny: ChatTokenizer) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    tokenizer = ChatTokenizer(tiny.folder, CHATML, {}, tiny.stop_ids)
    form = settle(Training(dialect="native"), tokenizer, [WEATHER], "m")
    row = Example((*([Message("system", system)] if system else []), *TALK.messages))
    calls = [{"type": "function", "function": {"name": CALL.name, "arguments": dict(CALL.arguments)}}]
    native = [{"role": m.role, "content": m.content} | ({"tool_calls": calls} if m.tool_calls else {}) for m in row.messages]
    rendered = render_jinja_template(conversations=[native], tools=[openai_of(WEATHER)], chat_template=CHATML)
    theirs = rendered[0][0] if isinstance(rendered, tuple) else rendered[0]
    assert form.dialect.name == "hermes" and tokenizer.render(form.turns(row), answer_next=False) == theirs


def test_gemma_4_s_tools_follow_the_system_s_words_at_once() -> None:
    form = CallForm(DIALECTS["gemma4"], (WEATHER,))
    row = Example((Message("system", "Отвечай коротко."), *TALK.messages[:2]))
    assert form.turns(row)[0]["content"].startswith("Отвечай коротко.<|tool>declaration:get_weather{")


def test_a_row_s_own_tools_come_before_the_form_s_and_a_name_stands_for_a_known_tool() -> None:
    form, other = CallForm(DIALECTS["json"], (WEATHER,)), {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    own = parse_row({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": [other, "get_weather"]})
    told = form.turns(own)[0]["content"]
    assert told == form.dialect.render_tools([ToolSpec("f", "", {"type": "object", "properties": {}}), WEATHER])
    assert CallForm(DIALECTS["json"]).turns(own)[0]["role"] == "user"
    with pytest.raises(RowError, match="names the tool “gone”, which is not known") as caught:
        form.turns(parse_row({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": ["gone"]}))
    assert caught.value.field == "tools[0]"
    broken = Example(own.messages, extras={"tools": ["get_weather", {"name": "f", "parameters": {"type": "object", "properties": 3}}]})
    with pytest.raises(RowError) as found:
        form.turns(broken)
    assert found.value.field.startswith("tools[1].parameters")
    as_text = Example(own.messages, extras={"tools": json.dumps([other])})
    assert "get_weather" not in form.turns(as_text)[0]["content"]


def test_tools_are_told_in_native_dialects_unless_the_setting_says_otherwise(tiny: ChatTokenizer) -> None:
    told = {name for name in DIALECTS if settle(Training(dialect=name), tiny, [WEATHER], "m").tools is not None}  # type: ignore[arg-type]
    assert told == {name for name, dialect in DIALECTS.items() if dialect.native} and "tag" not in told and "hermes" in told
    assert settle(Training(tools_in_prompt="yes"), tiny, [WEATHER], "m").tools == (WEATHER,)
    assert settle(Training(dialect="hermes", tools_in_prompt="no"), tiny, [WEATHER], "m").tools is None
    assert [may_tell(Training(dialect=d)) for d in ("tag", "hermes", "native")] == [False, True, True]  # type: ignore[arg-type]


def test_a_model_that_can_think_is_taught_and_asked_to_answer_at_once(tiny: ChatTokenizer) -> None:
    """As Qwen 3 does: the last answer stands behind an empty thought, and so does an answer to come where none is wanted."""
    tokenizer = ChatTokenizer(tiny.folder, THINKING, tiny.special_names, tiny.stop_ids)
    row = Example(TALK.messages[:2])
    assert learned(row, tokenizer, PLAIN) == [message_text(row.answer)]
    assert tokenizer.text(tokenizer.prompt_ids(PLAIN.before_answer(row)), keep_control=True).endswith("<start_of_turn>model\n<think>\n\n</think>\n\n")


# -- what can't be written, or would be read otherwise --------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "messages", "field", "said"),
    [
        ("hermes", [("user", "a </tool_call> b"), ("assistant", "c")], "messages[0].content", "the text holds </tool_call>, which the dialect “hermes” keeps"),
        ("gemma4", [("user", "a"), ("assistant", 'c <|"|>')], "messages[1].content", 'the text holds <|"|>, which the dialect “gemma4” keeps'),
        ("json", [("user", "a"), ("assistant", '{"function": "f", "arguments": {}}')], "messages[1].content", "would be read as another call in the dialect “json”"),
        ("llama3-json", [("user", "a"), ("assistant", '{"name": "f", "parameters": 1}')], "messages[1].content", "would be read as another call"),
        ("hermes", [("user", "a"), ("assistant", "<tool_call name=")], "messages[1].content", "malformed tool call"),
        ("gemma-python", [("user", "a"), ("assistant", '<tool_call name="a-b" arguments="{}"/>')], "messages[1].content", "can't write the name 'a-b'"),
        ("tag", [("user", "a"), ("tool", "1"), ("assistant", "b")], "messages[1].content", "a tool answers here, but no call stands before it"),
    ],
)
def test_what_a_dialect_can_t_teach_is_a_row_s_problem_with_its_place(dialect: str, messages: list[tuple[str, str]], field: str, said: str) -> None:
    with pytest.raises(RowError) as caught:
        turns_of(Example(tuple(Message(*m) for m in messages)), CallForm(DIALECTS[dialect]))
    assert said in caught.value.reason and caught.value.field == field


def test_a_tool_s_answer_that_can_t_be_written_is_a_row_s_problem(tiny: ChatTokenizer) -> None:
    row = Example((*TALK.messages[:2], Message("tool", "a </tool_response> b"), TALK.messages[3]))
    with pytest.raises(RowError, match="can't write a text with the marker </tool_response>") as caught:
        encode(row, tiny, max_tokens=2048, form=CallForm(DIALECTS["hermes"]))
    assert caught.value.field == "messages[2].content"
    assert "marker" in Teachable(tiny, 2048, CallForm(DIALECTS["hermes"])).refused({3: row})[3]


def test_control_tokens_that_are_not_the_dialect_s_are_refused_still(knowing: Callable[[str], ChatTokenizer]) -> None:
    row = Example((Message("user", "a <end_of_turn>"), Message("assistant", "", (CALL,))))
    with pytest.raises(RowError, match="control token <end_of_turn>"):
        encode(row, knowing("hermes"), max_tokens=2048, form=CallForm(DIALECTS["hermes"]))
    with pytest.raises(RowError, match="control token <tool_call>"):
        knowing("hermes").prompt_ids([{"role": "user", "content": "<tool_call>"}])


# -- a tool's answer ------------------------------------------------------------------------------


def test_answers_find_their_calls_by_id_or_in_order_and_share_a_turn() -> None:
    first, second = ToolCall("f", {"a": 1}, id="x"), ToolCall("g", {}, id="y")
    results = Message("tool", "2", extras={"tool_call_id": "y"}), Message("tool", "1")
    row = Example((Message("user", "u"), Message("assistant", "", (first, second)), *results, Message("assistant", "ok")))
    joined = '<tool_result name="g">2</tool_result>\n<tool_result name="f">1</tool_result>'
    assert [t["content"] for t in PLAIN.turns(row)][2:] == [joined, "ok"]
    apart = CallForm(DIALECTS["llama3-json"], None, "tool").turns(row)
    assert [(t["role"], t["content"]) for t in apart[2:]] == [("tool", '"2"'), ("tool", '"1"'), ("assistant", "ok")]
    assert PLAIN.result_turns([(second, "2"), (first, "1")]) == [{"role": "user", "content": joined}]


@pytest.mark.parametrize(
    ("template", "name", "role"),
    [
        (None, "gemma4", "user"), (TOOL_TURNS, "gemma4", "tool"), (TOOL_TURNS, "hermes", "user"), (WRAPPING, "mistral", "user"),
        (WRAPPING, "llama3-json", "tool"),
    ],
)  # fmt: skip
def test_a_tool_turn_is_used_where_the_template_writes_it_as_it_is(template: str | None, name: str, role: str, tiny: ChatTokenizer) -> None:
    tokenizer = tiny if template is None else ChatTokenizer(tiny.folder, template, tiny.special_names, tiny.stop_ids)
    assert settle(Training(dialect=name), tokenizer, [], "m").result_role == role  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "text", "inside"),
    [
        ("hermes", "Сейчас. <tool_call>\n{", True), ("hermes", "a <tool", True), ("hermes", "a < b, а дальше слова", False), ("hermes", "", False),
        ("hermes", '<tool_call>{"name": "f", "arguments": {}}</tool_call>', False), ("hermes", "<tool_call>{}</tool_call> <tool_call>", True),
        ("json", '{"func', True), ("json", '{"city": 1', False), ("json", '{"function": "f", "arguments": {"a": "', True),
        ("gemma4", "<|tool_call>call:f{a:<|", True), ("mistral-args", "[TOOL_CALLS]f[ARGS]{", True),
        ("gemma-python", "[f(a=", True), ("gemma-python", "Привет!", False),
    ],
)  # fmt: skip
def test_a_reply_in_the_middle_of_a_call_is_told_in_every_dialect(name: str, text: str, inside: bool) -> None:
    assert in_call(text, DIALECTS[name]) is inside


# -- the setting and the record -------------------------------------------------------------------


def test_the_setting_s_choices_are_the_registry_s_and_the_native_one() -> None:
    assert choices(Training, "dialect") == (*DIALECTS, "native") and Training().dialect == "tag"


def test_a_model_s_own_dialect_is_settled_from_its_template_or_refused(tiny: ChatTokenizer) -> None:
    speaks = ChatTokenizer(tiny.folder, tiny.template + "{# tools <start_function_call> #}", tiny.special_names, tiny.stop_ids)
    assert settle(Training(dialect="native"), speaks, [WEATHER], "m").dialect.name == "functiongemma"
    with pytest.raises(SettingsError, match="The chat template of gemma takes no tools, so the model has no dialect of its own. Choose one of tag"):
        settle(Training(dialect="native"), tiny, [], "gemma")


def store_with(tmp_path: Path, *pairs: str, form: CallForm | None) -> RunStore:
    store = RunStore(tmp_path / "adapters")
    store.create("r", model="demo", model_name="m", rows=ROWS[:2], data_name="d", settings=apply_overrides(RunSettings(), pairs), tools=[WEATHER], form=form)
    return store


def test_a_run_records_its_form_and_gives_it_back(tmp_path: Path, tiny: ChatTokenizer) -> None:
    form = settle(Training(dialect="hermes"), tiny, [WEATHER], "m")
    store = store_with(tmp_path, "training.dialect=hermes", form=form)
    assert store.info("r").dialect == "hermes" and store.form("r").turns(TALK) == form.turns(TALK) == store.form("r@best").turns(TALK)
    assert store.form("r").tools == (ToolSpec(WEATHER.name, WEATHER.description, WEATHER.parameters),), "the mock is not for the model"
    assert store.settled_form("r", tiny) == store.form("r")


def test_a_run_whose_model_was_not_here_is_settled_when_it_begins(tmp_path: Path, tiny: ChatTokenizer) -> None:
    store = store_with(tmp_path, "training.dialect=native", form=None)
    assert store.info("r").dialect == "native"
    with pytest.raises(SettingsError, match="has no dialect of its own"):
        store.settled_form("r", tiny)
    speaks = ChatTokenizer(tiny.folder, TOOL_TURNS + "{# tools <|tool_call> #}", tiny.special_names, tiny.stop_ids)
    form = store.settled_form("r", speaks)
    assert (form.dialect.name, form.result_role, [t.name for t in form.tools or ()]) == ("gemma4", "tool", ["get_weather"])
    assert (store.info("r").dialect, store.form("r")) == ("gemma4", form)


def test_an_adapter_from_before_there_was_a_choice_is_in_the_tag_form(tmp_path: Path) -> None:
    store = store_with(tmp_path, form=None)
    assert store.form("r") == PLAIN
    (store.path("r") / "calls.json").unlink()
    assert store.form("r") == PLAIN and read_record(store.path("r"), "r") is None


@pytest.mark.parametrize("text", ["{", "[]", '{"dialect": 3}'])
def test_a_broken_record_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "calls.json").write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=r"The file r/calls.json, which says how its calls are written, is broken: restore it\."):
        form_in(tmp_path, "r", "tag")


def test_a_record_of_an_unknown_dialect_is_told(tmp_path: Path) -> None:
    write_record(tmp_path, CallRecord(dialect="newer"))
    with pytest.raises(RunError, match="can't be used: There is no dialect 'newer': choose one of tag"):
        form_in(tmp_path, "r", "tag")


def test_a_record_that_stands_there_already_is_not_written_again(tmp_path: Path) -> None:
    record = CallRecord.of(CallForm(DIALECTS["hermes"], (WEATHER,)))
    write_record(tmp_path, record)
    before = (tmp_path / "calls.json").stat()
    write_record(tmp_path, record)
    assert (tmp_path / "calls.json").stat().st_ino == before.st_ino and read_record(tmp_path, "r") == record
    write_record(tmp_path, CallRecord(dialect="tag"))
    assert read_record(tmp_path, "r") == CallRecord(dialect="tag")
