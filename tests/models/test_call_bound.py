"""Calls bound to their dialect's grammar and their tools' schemas, over schemas that nobody thought of, and on a random model."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from workbench.calls.dialects import DIALECTS, CallSegment, calls_in, dialect_named
from workbench.calls.segments import DialectError
from workbench.errors import InputError
from workbench.models.call_bound import TOLD, CallBound, CallGrammar, Change
from workbench.models.call_forms import FORMS
from workbench.models.call_grammar import MAX_TOOLS, call_grammar
from workbench.models.decoding import Lane, generate
from workbench.models.loading import Base, load_base
from workbench.models.tokenizer import ChatTokenizer
from workbench.schema import ToolCall, ToolSpec
from workbench.settings import Quantization, Sampling

OPENINGS = {
    "tag": "<tool_call", "json": '{"function":', "hermes": "<tool_call>", "llama3-json": '{"name":', "mistral": "[TOOL_CALLS]", "mistral-args": "[TOOL_CALLS]",
    "gemma-python": "[", "functiongemma": "<start_function_call>", "gemma4": "<|tool_call>",
}
DAYS: dict[str, Any] = {
    "type": "object", "required": ["city", "days"],
    "properties": {"city": {"type": "string", "maxLength": 8}, "days": {"type": "integer", "minimum": 1, "maximum": 7}, "metric": {"type": "boolean"}},
}
WEATHER = ToolSpec("weather", "", DAYS)
PING = ToolSpec("net.ping", "", {"type": "object", "properties": {}})


def opening_of(name: str, tool: str, argument: str = "") -> str:
    """What begins a call; in Python the tool's name and the first argument's, or none, are part of it."""
    return f"[{tool}({f'{argument}=' if argument else ')'}" if name == "gemma-python" else OPENINGS[name]


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> Base:
    return load_base(tiny_folder, Quantization(mode="none"))


def width(base: Base) -> int:
    return int(base.raw.get_output_embeddings().out_features)


def write(bound: CallBound, base: Base, text: str, last: int | None = None) -> tuple[int | None, torch.Tensor | None]:
    """Feed `text`; (the last token, the mask after it). Every token must have been allowed."""
    mask = bound.allowed(last, width(base))
    for token in base.tokenizer.ids(text):
        assert mask is None or mask[token], f"{base.tokenizer.text([token])!r} of {text!r} is forbidden"
        mask = bound.allowed(token, width(base))
        last = token
    return last, mask


def wander(bound: CallBound, base: Base, opening: str, seed: int) -> str:
    """A reply of `opening` and then tokens drawn at random from those allowed, until the call is closed; short texts are likelier to close.

    Where a text's end is several tokens, they are begun now and then, and gone on with as far as they are allowed.
    """
    chance = random.Random(seed)
    last, mask = write(bound, base, opening)
    ids = base.tokenizer.ids(opening)
    closing, quote, begun = set(base.tokenizer.ids('"}]/>&;')), base.tokenizer.ids(bound.grammar.form.notation.quote), list[int]()
    while mask is not None and len(ids) < 3000:
        open_to = torch.nonzero(mask).flatten().tolist()
        near = [i for i in open_to if i in closing]
        begun = begun or (list(quote) if len(quote) > 1 and chance.random() < 0.3 else [])
        if begun and mask[begun[0]]:
            ids.append(begun.pop(0))
        else:
            begun = []
            ids.append(chance.choice(near if near and chance.random() < 0.3 else open_to))
        mask = bound.allowed(ids[-1], width(base))
    assert mask is None, "the call did not come to its end"
    return base.tokenizer.text(ids)


# -- schemas ------------------------------------------------------------------------------------------

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
VALUES = st.none() | st.booleans() | st.integers(-99, 99) | st.text(st.characters(codec="utf-8"), max_size=6)
SCALARS = st.sampled_from([
    {"type": "string"}, {"type": "string", "maxLength": 3}, {"type": "string", "minLength": 2, "maxLength": 5}, {"type": "integer"}, {"type": "number"},
    {"type": "integer", "minimum": 3}, {"type": "number", "maximum": 0.5}, {"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"]}, {},
    {"type": "string", "format": "date"}, {"type": "string", "format": "email"}, {"type": "object"}, {"type": "object", "additionalProperties": {"type": "integer"}},
])
ENUMS = st.lists(VALUES, min_size=1, max_size=4, unique_by=lambda v: json.dumps(v)).map(lambda values: {"enum": values})


def _objects(inner: st.SearchStrategy[Any], names: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    def build(fields: dict[str, Any], needed: set[int], more: dict[str, Any]) -> dict[str, Any]:
        required = [name for i, name in enumerate(fields) if i in needed]
        return {"type": "object", "properties": fields} | ({"required": required} if required else {}) | more

    more = st.sampled_from([{}, {"additionalProperties": False}, {"additionalProperties": True}])
    return st.builds(build, st.dictionaries(names, inner, max_size=3), st.sets(st.integers(0, 2)), more)


def _schemas(names: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    inner = st.recursive(
        SCALARS | ENUMS,
        lambda inner: _objects(inner, names) | inner.map(lambda s: {"type": "array", "items": s, "maxItems": 2})
        | st.lists(inner, min_size=1, max_size=2).map(lambda s: {"anyOf": s}),
        max_leaves=4,
    )
    return _objects(inner, names)


SCHEMAS = _schemas(NAMES)
OF_WORDS = _schemas(st.from_regex(r"[a-z_][a-zA-Z0-9_]{0,4}", fullmatch=True))  # for dialects in which a name stands without quotes


@pytest.mark.parametrize("name", sorted(FORMS))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_whatever_is_drawn_once_a_call_has_begun_is_a_whole_call_that_fits_its_schema(base: Base, name: str, data: st.DataObject, seed: int) -> None:
    schema = data.draw(OF_WORDS if FORMS[name].notation.keys else SCHEMAS)
    dialect = dialect_named(name)
    try:
        grammar = CallGrammar(base, dialect, [ToolSpec("do_it", "", schema)])
    except InputError as exc:
        assert f"the dialect “{name}” can't write the name" in str(exc)  # as of an argument “if”
        return
    text = wander(grammar.bound(), base, opening_of(name, "do_it", *schema.get("required", [])[:1]), seed)
    segments = dialect.parse(text)
    assert all(isinstance(segment, CallSegment) for segment in segments), segments
    for call in calls_in(segments):
        assert call.name == "do_it"
        jsonschema.validate(dict(call.arguments), schema)


TEXTS = st.text(st.sampled_from('ab"\\<>|{}[]&;\n\t/ж😀_') | st.characters(codec="utf-8"), max_size=8)
ANY = st.none() | st.booleans() | st.integers(-99, 99) | TEXTS | st.lists(st.integers(-(10**9), 10**9), max_size=2) | st.dictionaries(st.just("a"), TEXTS, max_size=1)


def values_of(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that fit a schema of those above, as far as its grammar admits them."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of(*map(values_of, schema["anyOf"]))
    kind = schema.get("type")
    if kind == "string":
        dates = {"date": st.dates().map(str)}
        return dates[schema["format"]] if schema.get("format") in dates else TEXTS.filter(
            lambda text: schema.get("minLength", 0) <= len(text) <= schema.get("maxLength", 99) and ("maxLength" not in schema or not set("<>") <= set(text))
        )
    if kind == "array":
        return st.lists(values_of(schema["items"]), max_size=2)
    if kind == "object":
        required = schema.get("required", [])
        some = {key: values_of(part) for key, part in schema.get("properties", {}).items()}
        if not some:
            more = schema.get("additionalProperties", False)
            return st.just({}) if more is False else st.dictionaries(st.just("key"), values_of(more) if isinstance(more, dict) else ANY, max_size=1)
        drawn = st.fixed_dictionaries({k: v for k, v in some.items() if k in required}, optional={k: v for k, v in some.items() if k not in required})
        return drawn.map(lambda value: {key: value[key] for key in some if key in value})
    simple = {"integer": st.integers(max(schema.get("minimum", -99), -99), 99), "boolean": st.booleans(), "null": st.none()}
    if kind == "number":
        return st.integers(-99, int(schema.get("maximum", 1) * 100)).map(lambda n: n / 100)
    return TEXTS | st.none() if isinstance(kind, list) else simple[kind] if kind else ANY


@pytest.mark.parametrize("name", sorted(FORMS))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_every_call_of_any_schema_may_be_written_as_it_is_taught(base: Base, name: str, data: st.DataObject) -> None:
    schema, dialect = data.draw(OF_WORDS if FORMS[name].notation.keys else SCHEMAS), dialect_named(name)
    call = ToolCall("do_it", data.draw(values_of(schema)))
    try:
        text = dialect.render(call)
        grammar = CallGrammar(base, dialect, [ToolSpec("do_it", "", schema)])
    except (DialectError, InputError) as exc:
        assert f"the dialect “{name}” can't write" in str(exc)
        return
    assert write(grammar.bound(), base, text)[1] is None


@pytest.mark.parametrize("name", sorted(FORMS))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(city=st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=8), days=st.integers(1, 7), metric=st.none() | st.booleans())
def test_every_call_that_a_row_teaches_may_be_written_and_then_the_text_is_free(base: Base, name: str, city: str, days: int, metric: bool | None) -> None:
    arguments = {"city": city, "days": days} | ({"metric": metric} if metric is not None else {})
    dialect = dialect_named(name)
    text = dialect.render(ToolCall("weather", arguments))
    bound = CallGrammar(base, dialect, [PING, WEATHER]).bound()
    last, mask = write(bound, base, "Сейчас < { \"посмотрю\": " + text)
    assert mask is None
    assert write(bound, base, " и ещё: <b>{\"a\": 1}", None)[1] is None


@pytest.mark.parametrize("name", sorted(FORMS))
def test_a_second_call_is_bound_as_the_first_was(base: Base, name: str) -> None:
    dialect = dialect_named(name)
    bound = CallGrammar(base, dialect, [PING]).bound()
    write(bound, base, dialect.render(ToolCall("net.ping", {})) + "\n")
    text = wander(bound, base, opening_of(name, "net.ping"), 5)
    calls = calls_in(dialect.parse(text))
    assert calls and {(call.name, str(call.arguments)) for call in calls} == {("net.ping", "{}")}


@pytest.mark.parametrize(("name", "wrong"), [
    ("tag", "<tool_call>"), ("tag", '<tool_call name="o'), ("tag", '<tool_call name="weather" arguments="{&quot;d'), ("json", '{"function": "weax'),
    ("json", '{"function": "weather", "arguments": {"city": "a", "days": 8'), ("hermes", '<tool_call>\n{"name": "net.ping", "arguments": {"'),
    ("hermes", '<tool_call>{"name": "weather", "arguments": {"city": "\n'),
])  # fmt: skip
def test_what_no_call_is_written_as_is_forbidden(base: Base, name: str, wrong: str) -> None:
    bound = CallGrammar(base, dialect_named(name), [PING, WEATHER]).bound()
    _, mask = write(bound, base, wrong[:-1])
    assert mask is not None and not mask[base.tokenizer.ids(wrong[-1])].any()
    assert not mask[list(base.tokenizer.control_ids)].any()  # neither an end nor a control token


@pytest.mark.parametrize("special", [True, False])
def test_markers_that_are_one_token_each_end_a_call_and_stand_in_no_text(tmp_path: Path, special: bool) -> None:
    tokenizer = marked_tokenizer(tmp_path, special=special)
    base: Any = SimpleNamespace(tokenizer=tokenizer, raw=SimpleNamespace(get_output_embeddings=lambda: SimpleNamespace(out_features=264)))
    tool = ToolSpec("w", "", {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]})
    dialect = dialect_named("hermes")
    bound = CallGrammar(base, dialect, [tool]).bound()
    begin, end = tokenizer.ids("<tool_call></tool_call>")
    last, mask, seen = None, None, []
    for token in tokenizer.ids("Да " + dialect.render(ToolCall("w", {"a": "</x"}))):
        mask = bound.allowed(last, 264)
        assert mask is None or mask[token]
        seen += [(token, mask[begin].item(), mask[end].item())] if mask is not None else []
        last = token
    assert bound.allowed(last, 264) is None
    assert seen[-1] == (end, False, True) and seen[-2] == (tokenizer.ids("\n")[0], False, True)  # the line end before the marker may be left out
    assert not any(first or second for _, first, second in seen[:-2])


@pytest.mark.parametrize("name", sorted(FORMS))
def test_every_dialect_s_own_tokens_and_those_of_several_signs_may_be_written_where_they_are_meant(tmp_path: Path, name: str) -> None:
    dialect = dialect_named(name)
    tokenizer = marked_tokenizer(tmp_path, special=True, markers=dialect.control, joined=('")]', '"}}', '"}', '{"', '", ', "}}"))
    size = tokenizer.backend.get_vocab_size()
    base: Any = SimpleNamespace(tokenizer=tokenizer, raw=SimpleNamespace(get_output_embeddings=lambda: SimpleNamespace(out_features=size)))
    tool = ToolSpec("w", "", {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string", "maxLength": 9}}, "required": ["a"]})
    text = dialect.render_calls([ToolCall("w", {"a": "x < y [z] |", "b": "ж"}), ToolCall("w", {"a": ""}), ToolCall("w", {"a": "b", "b": "<c"})])
    ids = tokenizer.ids("Да " + text)
    assert [tokenizer.control_ids[i] for i in ids if i in tokenizer.control_ids] == re.findall("|".join(map(re.escape, dialect.control)) or "(?!)", text)
    bound = CallGrammar(base, dialect, [tool]).bound()
    marks = {i for i in tokenizer.control_ids if tokenizer.control_ids[i] in dialect.control}
    inside, last = False, None
    for token in ids:
        mask = bound.allowed(last, size)
        assert mask is None or mask[token], f"{tokenizer.text([token], keep_control=True)!r} is forbidden after {tokenizer.text(bound.ids, keep_control=True)!r}"
        if inside and mask is not None:  # behind "x < y ": the text goes on, and no marker may stand in it but one that ends it
            assert {i for i in marks if mask[i]} <= set(tokenizer.ids(FORMS[name].notation.quote)) - set(tokenizer.ids('"'))
        inside = tokenizer.text(bound.ids, keep_control=True).endswith("x < y")
        last = token
    assert bound.allowed(last, size) is None


def marked_tokenizer(
    folder: Path, *, special: bool, markers: tuple[str, ...] = ("<tool_call>", "</tool_call>"), joined: tuple[str, ...] = ()
) -> ChatTokenizer:
    """A byte-level tokenizer in which a dialect's markers are tokens (Hermes' two, as in Qwen's), and other texts are one token too."""
    controls = ("<pad>", "<eos>", "<bos>")
    vocabulary = {name: i for i, name in enumerate([*controls, *markers, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in controls])
    backend.add_tokens([AddedToken(name, special=False, normalized=False) for name in joined])
    (backend.add_special_tokens if special else backend.add_tokens)([AddedToken(name, special=special, normalized=False) for name in markers])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}", "pad_token": "<pad>"}), encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 1}), encoding="utf-8")
    return ChatTokenizer.load(folder)


def test_a_key_in_front_or_wide_spaces_begin_a_json_call_too(base: Base) -> None:
    dialect = dialect_named("json")
    for opening in ('{\n  "arguments" :', '{ "function":'):
        text = wander(CallGrammar(base, dialect, [PING]).bound(), base, opening, 1)
        assert calls_in(dialect.parse(text)) == (ToolCall("net.ping", {}),)
    bound = CallGrammar(base, dialect, [PING]).bound()
    _, mask = write(bound, base, '{\u00a0"function"')  # a space that JSON does not know: the parser would take it for a call, and for a malformed one
    assert mask is not None and not mask[base.tokenizer.ids(":")].any()


def test_text_without_a_call_is_what_it_would_be_unbound(base: Base) -> None:
    prompt = tuple(base.tokenizer.prompt_ids([{"role": "user", "content": "Привет"}]))
    sampling = Sampling(max_new_tokens=60)
    lane = Lane(prompt, False, CallGrammar(base, dialect_named("tag"), [WEATHER]).bound())
    [free] = generate(base, [Lane(prompt, False)], sampling)
    [bound] = generate(base, [lane], sampling)
    assert (bound.text, bound.tokens) == (free.text, free.tokens)
    assert isinstance(lane.bound, CallBound) and lane.bound.changes() == (0, [])


@pytest.mark.parametrize("name", sorted(FORMS))
def test_a_model_that_knows_nothing_of_calls_writes_a_whole_one_and_what_changed_is_counted(base: Base, name: str) -> None:
    dialect = dialect_named(name)
    opening = opening_of(name, "weather", "city")
    prompt = (*base.tokenizer.prompt_ids([{"role": "user", "content": "Погода?"}]), *base.tokenizer.ids(opening))

    class Begun(CallBound):
        """Has seen the opening, which stands at the prompt's end."""

        def __init__(self, grammar: CallGrammar) -> None:
            super().__init__(grammar)
            write(self, base, opening)
            self.ids = []

    class Again(CallGrammar):
        def bound(self) -> CallBound:
            return Begun(self)

    lane = Lane(prompt, False, Again(base, dialect, [WEATHER]).bound())
    assert isinstance(lane.bound, CallBound)
    whole = lane.bound
    [reply] = generate(base, [lane], Sampling(max_new_tokens=3000), stop=lambda: whole._call is None)
    calls = calls_in(dialect.parse(opening + reply.text))
    assert calls and all(call.name == "weather" for call in calls)
    for call in calls:
        jsonschema.validate(dict(call.arguments), DAYS)
    count, told = lane.bound.changes()
    wanted = [change for change in told if change.step == 0][0]
    assert 0 < count <= reply.tokens + 1 and (count, told) == in_another_pass(base, lane, lane.bound.grammar.bound())
    [free] = generate(base, [Lane(prompt, False)], Sampling(max_new_tokens=1))
    assert (wanted.wanted, wanted.wrote) == (free.text or "<end_of_turn>", reply.text[0])  # what it would have said, and what the grammar made of it


def in_another_pass(base: Base, lane: Lane, again: CallBound) -> tuple[int, list[Change]]:
    """What the bound changed, learned from one more pass over the finished reply: what the model would have chosen at each step. `again` is a new bound of the same kind."""
    bound = lane.bound
    assert isinstance(bound, CallBound)
    whole_1T = torch.tensor([[*lane.prompt_ids, *bound.ids]])
    with torch.inference_mode():
        wanted = base.model(input_ids=whole_1T, use_cache=False).logits[0, -len(bound.ids) - 1 :].argmax(-1).tolist()
    told, text = list[Change](), base.tokenizer.text
    for step, token in enumerate(wanted):
        mask = again.allowed(bound.ids[step - 1] if step else None, width(base))
        if mask is not None and not mask[token]:
            told.append(Change(step, text([token], keep_control=True), text(bound.ids[step : step + 1], keep_control=True)))
    return len(told), told[:TOLD]


@pytest.mark.parametrize("capture", [True, False])
def test_both_ways_of_decoding_count_the_changes_lane_by_lane(base: Base, capture: bool) -> None:
    prompt = tuple(base.tokenizer.prompt_ids([{"role": "user", "content": "Погода?"}]))
    free, lanes = Lane(prompt, False), []
    for name in ("tag", "hermes"):
        grammar = CallGrammar(base, dialect_named(name), [WEATHER])
        lanes.append(Lane(prompt, False, Forced(grammar, base.tokenizer.ids(OPENINGS[name]))))
    replies = generate(base, [lanes[0], free, lanes[1]], Sampling(max_new_tokens=90), capture=capture)
    assert replies[1].text == generate(base, [free], Sampling(max_new_tokens=90))[0].text
    for lane in lanes:
        assert isinstance(lane.bound, Forced)
        count, told = lane.bound.changes()
        assert count >= len(lane.bound.opening) and (count, told) == in_another_pass(base, lane, Forced(lane.bound.grammar, lane.bound.opening))


class Forced(CallBound):
    """Allows nothing but an opening at first, and then what the grammar does."""

    def __init__(self, grammar: CallGrammar, opening: list[int]) -> None:
        super().__init__(grammar)
        self.opening = opening

    def allowed(self, last: int | None, width: int) -> torch.Tensor | None:
        mask_V = super().allowed(last, width)
        if len(self.ids) >= len(self.opening):
            return mask_V
        only_V = torch.zeros(width, dtype=torch.bool)
        only_V[self.opening[len(self.ids)]] = True
        return only_V


def test_every_dialect_can_be_bound_and_one_without_a_form_too_many_tools_and_none_are_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert FORMS.keys() == DIALECTS.keys()
    monkeypatch.delitem(FORMS, "hermes")
    with pytest.raises(InputError, match="“hermes” can't be bound.*tag, json, llama3-json.*switch “Bind calls” off"):
        call_grammar(DIALECTS["hermes"], [WEATHER])
    with pytest.raises(InputError, match="no tool that a call could be bound to"):
        call_grammar(dialect_named("tag"), [])
    with pytest.raises(InputError, match="64 tools at most, and there are 65"):
        call_grammar(dialect_named("tag"), [WEATHER] * (MAX_TOOLS + 1))


@pytest.mark.parametrize(("name", "tool"), [
    ("gemma-python", ToolSpec("get-it")), ("gemma-python", ToolSpec("f", "", {"type": "object", "properties": {"from": {"type": "string"}}})),
    ("gemma4", ToolSpec("f", "", {"type": "object", "properties": {"a": {"type": "object", "properties": {"b c": {"type": "null"}}}}})),
    ("functiongemma", ToolSpec("f", "", {"type": "object", "properties": {"a": {"enum": ["<escape>"]}}})),
])  # fmt: skip
def test_a_name_or_value_that_the_dialect_has_no_way_to_write_is_told_with_the_tool(name: str, tool: ToolSpec) -> None:
    with pytest.raises(InputError, match=f"The tool {tool.name} can't bind a call: the dialect “{name}” can't write .*switch “Bind calls” off"):
        call_grammar(dialect_named(name), [tool])


@pytest.mark.parametrize(("name", "opening", "wrong"), [
    ("llama3-json", "<|python_tag|>{", "x"), ("llama3-json", '{"type" : "function", "name": "', "x"), ("llama3-json", '{"parameters": {}, "name": "', "x"),
    ("mistral", "[TOOL_CALLS][", "]"), ("mistral-args", "[TOOL_CALLS]net.ping[ARGS]{", '"'), ("gemma-python", "```tool_code\nnet.ping(", "a"),
    ("gemma-python", "[net.ping(), weather(city=", "1"), ("functiongemma", "<start_function_call>call:weather{city:", "1"),
    ("gemma4", '<|tool_call>call:weather{city:<|"|>12345678', "9"),
])  # fmt: skip
def test_other_ways_to_begin_a_call_are_bound_too(base: Base, name: str, opening: str, wrong: str) -> None:
    dialect = dialect_named(name)
    bound = CallGrammar(base, dialect, [PING, WEATHER]).bound()
    _, mask = write(bound, base, opening)
    assert mask is not None and not mask[base.tokenizer.ids(wrong)].any()
    for seed in range(3):
        segments = dialect.parse(wander(CallGrammar(base, dialect, [PING, WEATHER]).bound(), base, opening, seed))
        assert {type(segment) for segment in segments} == {CallSegment} and {call.name for call in calls_in(segments)} <= {"net.ping", "weather"}


@pytest.mark.parametrize("text", ["[ссылка](https://a.b/c?d=e)", "[sin(x)]", "```python\nprint(1)\n```", "f(x)[1] = [g(2)]", "[a, b] = [1, 2]"])
def test_python_that_is_no_call_stays_free(base: Base, text: str) -> None:
    assert write(CallGrammar(base, dialect_named("gemma-python"), [PING]).bound(), base, text)[1] is None


def test_a_schema_without_a_grammar_is_refused_with_the_tool_s_name(base: Base) -> None:
    strange = ToolSpec("odd", "", {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?<=x)y"}}, "required": ["a"]})
    with pytest.raises(InputError, match="The arguments of odd can't bind a call: .*Simplify the tool's schema"):
        call_grammar(dialect_named("json"), [strange])
