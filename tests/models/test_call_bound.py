"""Calls bound to their dialect's grammar and their tools' schemas, over schemas that nobody thought of, and on a random model."""

from __future__ import annotations

import json
import random
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
from workbench.errors import InputError
from workbench.models.call_bound import TOLD, CallBound, CallGrammar, Change
from workbench.models.call_grammar import FORMS, MAX_TOOLS, call_grammar
from workbench.models.decoding import Lane, generate
from workbench.models.loading import Base, load_base
from workbench.models.tokenizer import ChatTokenizer
from workbench.schema import ToolCall, ToolSpec
from workbench.settings import Quantization, Sampling

OPENINGS = {"tag": "<tool_call", "json": '{"function":', "hermes": "<tool_call>"}
DAYS: dict[str, Any] = {
    "type": "object", "required": ["city", "days"],
    "properties": {"city": {"type": "string", "maxLength": 8}, "days": {"type": "integer", "minimum": 1, "maximum": 7}, "metric": {"type": "boolean"}},
}
WEATHER = ToolSpec("weather", "", DAYS)
PING = ToolSpec("net.ping", "", {"type": "object", "properties": {}})


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
    """A reply of `opening` and then tokens drawn at random from those allowed, until the call is closed; short texts are likelier to close."""
    chance = random.Random(seed)
    last, mask = write(bound, base, opening)
    ids = base.tokenizer.ids(opening)
    closing = set(base.tokenizer.ids('"}]/>&;'))
    while mask is not None and len(ids) < 3000:
        open_to = torch.nonzero(mask).flatten().tolist()
        near = [i for i in open_to if i in closing]
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


def _objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def build(fields: dict[str, Any], needed: set[int], more: dict[str, Any]) -> dict[str, Any]:
        required = [name for i, name in enumerate(fields) if i in needed]
        return {"type": "object", "properties": fields} | ({"required": required} if required else {}) | more

    more = st.sampled_from([{}, {"additionalProperties": False}, {"additionalProperties": True}])
    return st.builds(build, st.dictionaries(NAMES, inner, max_size=3), st.sets(st.integers(0, 2)), more)


INNER = st.recursive(
    SCALARS | ENUMS,
    lambda inner: _objects(inner) | inner.map(lambda s: {"type": "array", "items": s, "maxItems": 2}) | st.lists(inner, min_size=1, max_size=2).map(lambda s: {"anyOf": s}),
    max_leaves=4,
)


@pytest.mark.parametrize("name", sorted(FORMS))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(schema=_objects(INNER), seed=st.integers(0, 2**32))
def test_whatever_is_drawn_once_a_call_has_begun_is_a_whole_call_that_fits_its_schema(base: Base, name: str, schema: dict[str, Any], seed: int) -> None:
    dialect = dialect_named(name)
    text = wander(CallGrammar(base, dialect, [ToolSpec("do_it", "", schema)]).bound(), base, OPENINGS[name], seed)
    [segment] = dialect.parse(text)
    assert isinstance(segment, CallSegment), segment
    assert segment.call.name == "do_it"
    jsonschema.validate(dict(segment.call.arguments), schema)


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
    text = wander(bound, base, OPENINGS[name], 5)
    assert calls_in(dialect.parse(text)) == (ToolCall("net.ping", {}),)


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


def marked_tokenizer(folder: Path, *, special: bool) -> ChatTokenizer:
    """A byte-level tokenizer in which Hermes' two markers are tokens, as in Qwen's."""
    markers, controls = ("<tool_call>", "</tool_call>"), ("<pad>", "<eos>", "<bos>")
    vocabulary = {name: i for i, name in enumerate([*controls, *markers, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in controls])
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
    opening = OPENINGS[name]
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
    [reply] = generate(base, [lane], Sampling(max_new_tokens=400))
    [call] = calls_in(dialect.parse(opening + reply.text))
    assert call.name == "weather"
    jsonschema.validate(dict(call.arguments), DAYS)
    assert isinstance(lane.bound, CallBound)
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


def test_every_other_dialect_too_many_tools_and_none_are_refused_in_a_sentence() -> None:
    for name in DIALECTS.keys() - FORMS.keys():
        with pytest.raises(InputError, match=f"“{name}” can't be bound.*tag, json, hermes.*switch “Bind calls” off"):
            call_grammar(DIALECTS[name], [WEATHER])
    with pytest.raises(InputError, match="no tool that a call could be bound to"):
        call_grammar(dialect_named("tag"), [])
    with pytest.raises(InputError, match="64 tools at most, and there are 65"):
        call_grammar(dialect_named("tag"), [WEATHER] * (MAX_TOOLS + 1))


def test_a_schema_without_a_grammar_is_refused_with_the_tool_s_name(base: Base) -> None:
    strange = ToolSpec("odd", "", {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?<=x)y"}}, "required": ["a"]})
    with pytest.raises(InputError, match="The arguments of odd can't bind a call: .*Simplify the tool's schema"):
        call_grammar(dialect_named("json"), [strange])
