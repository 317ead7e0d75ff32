"""Replies bound to a JSON schema, on a random model that would never write JSON of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from workbench.errors import InputError
from workbench.models.constrained import Grammar
from workbench.models.decoding import Lane, Reply, generate
from workbench.models.loading import Base, load_base
from workbench.settings import Quantization, Sampling

FORM: dict[str, Any] = {
    "type": "object", "required": ["rows"], "additionalProperties": False,
    "properties": {"rows": {"type": "array", "minItems": 2, "maxItems": 2, "items": {
        "type": "object", "required": ["request", "days"], "additionalProperties": False,
        "properties": {"request": {"type": "string", "minLength": 1, "maxLength": 12}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
    }}},
}
SAMPLED = Sampling(greedy=False, temperature=1.5, top_p=1.0, top_k=0, max_new_tokens=300, seed=1)
GREEDY = Sampling(max_new_tokens=300)


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> Base:
    return load_base(tiny_folder, Quantization(mode="none"))


@pytest.fixture(scope="module")
def grammar(base: Base) -> Grammar:
    return Grammar(base, FORM)


def prompt(base: Base, text: str) -> tuple[int, ...]:
    return tuple(base.tokenizer.prompt_ids([{"role": "user", "content": text}]))


def write(base: Base, grammar: Grammar, sampling: Sampling, *texts: str) -> list[Reply]:
    return generate(base, [Lane(prompt(base, t), False, grammar.bound()) for t in texts], sampling)


@pytest.mark.parametrize("sampling", [GREEDY, *[SAMPLED.model_copy(update={"seed": n}) for n in range(12)]], ids=lambda s: f"{s.greedy}-{s.seed}")
def test_every_bound_reply_of_a_batch_is_json_of_the_schema(base: Base, grammar: Grammar, sampling: Sampling) -> None:
    for reply in write(base, grammar, sampling, "Привет", "Сколько у меня сейчас денег на счёте?"):
        assert reply.ended == "stop token"
        value = json.loads(reply.text)
        jsonschema.validate(value, FORM)
        assert len(value["rows"]) == 2 and "\ufffd" not in reply.text


def test_a_reply_cut_at_its_length_is_the_beginning_of_the_whole_one_and_says_so(base: Base, grammar: Grammar) -> None:
    [whole] = write(base, grammar, GREEDY, "Привет")
    [cut] = write(base, grammar, GREEDY.model_copy(update={"max_new_tokens": 20}), "Привет")
    assert (cut.ended, cut.tokens) == ("length", 20)
    assert whole.text.startswith(cut.text) and cut.text == '{"rows": [{"request"'
    with pytest.raises(json.JSONDecodeError):
        json.loads(cut.text)


def test_a_lane_without_a_bound_answers_as_it_does_alone(base: Base, grammar: Grammar) -> None:
    lane = Lane(prompt(base, "Привет"), False)
    short = GREEDY.model_copy(update={"max_new_tokens": 30})
    [alone] = generate(base, [lane], short)
    bound, beside = generate(base, [Lane(lane.prompt_ids, False, grammar.bound()), lane], short)
    assert (beside.text, beside.tokens) == (alone.text, alone.tokens)
    assert bound.text.startswith('{"rows": [')


def test_a_stop_token_is_allowed_only_once_the_json_is_whole(base: Base, grammar: Grammar) -> None:
    bound = grammar.bound()
    width = base.raw.get_output_embeddings().out_features
    stops = list(base.tokenizer.stop_ids)
    ids = base.tokenizer.ids('{"rows": [{"request": "a", "days": 3}, {"request": "b", "days": 7}]}')
    last: int | None = None
    for token in ids:
        mask = bound.allowed(last, width)
        assert mask is not None and mask.shape == (width,)
        assert not mask[stops].any() and mask[token]
        last = token
    end = bound.allowed(last, width)
    assert end is not None and torch.nonzero(end).flatten().tolist() == sorted(stops)
    assert bound.allowed(stops[0], width) is None


def test_control_tokens_are_never_allowed_inside_a_text(base: Base, grammar: Grammar) -> None:
    bound = grammar.bound()
    last: int | None = None
    for token in base.tokenizer.ids('{"rows": [{"request": "a'):
        bound.allowed(last, 262)
        last = token
    mask = bound.allowed(last, 262)
    assert mask is not None and mask[base.tokenizer.ids("b")].all()
    assert not mask[list(base.tokenizer.control_ids)].any()


def test_a_schema_that_has_no_grammar_is_refused_in_one_sentence(base: Base) -> None:
    with pytest.raises(InputError, match="can't bind a model's reply.*Simplify its schema"):
        Grammar(base, {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}, "required": ["a"]})
