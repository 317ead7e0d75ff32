"""Replies: the same tokens as transformers' own, alone or in a batch, with the adapter or without, and why they ended."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.models.adapters import put_new_adapter, take_off_adapter
from workbench.models.decode_lanes import Progress
from workbench.models.decoding import Lane, Reply, generate
from workbench.models.loading import Base, load_base
from workbench.settings import Lora, Quantization, Sampling

# Of different lengths, the longest well beyond the tiny model's sliding window of 16 tokens.
PROMPTS = ("Привет!", "Сколько у меня сейчас денег на счёте, и когда придёт зарплата?", "2+2")
GREEDY = Sampling(max_new_tokens=40)
SAMPLED = Sampling(greedy=False, temperature=1.5, top_p=1.0, top_k=0, max_new_tokens=30, seed=5)


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> Base:
    return load_base(tiny_folder, Quantization(mode="none"))


@pytest.fixture(scope="module")
def adapted(tiny_folder: Path) -> Base:
    """A base with an adapter on it that changes nearly every token."""
    base = load_base(tiny_folder, Quantization(mode="none"))
    put_adapter(base)
    return base


def put_adapter(base: Base, dora: bool = False) -> None:
    model = put_new_adapter(base, Lora(rank=4, alpha=8, dropout=0.5, dora=dora), name="r1", seed=1, checkpointing=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.2)


def prompt(base: Base, text: str) -> tuple[int, ...]:
    return tuple(base.tokenizer.prompt_ids([{"role": "user", "content": text}]))


def lanes(base: Base, *adapters: int, stops: tuple[str, ...] = ()) -> list[Lane]:
    return [Lane(prompt(base, text), number, stops=stops) for text, number in zip(PROMPTS, adapters, strict=True)]


def reference(base: Base, text: str) -> list[int]:
    """The new tokens of transformers' own `generate` for one prompt."""
    ids = torch.tensor([prompt(base, text)])
    base.model.eval()
    with torch.inference_mode():
        made = base.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=GREEDY.max_new_tokens
        )
    return made[0, ids.shape[1] :].tolist()


def stopping_at(base: Base, *ids: int) -> Base:
    return dataclasses.replace(base, tokenizer=dataclasses.replace(base.tokenizer, stop_ids=ids))


def facts(replies: list[Reply]) -> list[tuple[str, int, str]]:
    return [(r.text, r.tokens, r.ended) for r in replies]


@pytest.mark.parametrize("text", PROMPTS)
def test_a_greedy_reply_equals_that_of_transformers_token_for_token(base: Base, text: str) -> None:
    expected = reference(base, text)
    [reply] = generate(base, [Lane(prompt(base, text), False)], GREEDY)
    assert len(expected) == 40 and not set(expected) & set(base.tokenizer.stop_ids)
    assert len(set(expected)) >= 10, "a reply of one repeated token would prove little"
    assert facts([reply]) == [(base.tokenizer.text(expected), 40, "length")]
    assert 0 < reply.first_token_seconds < reply.seconds


def test_prompts_padded_in_one_batch_get_the_replies_they_get_alone(base: Base) -> None:
    alone = [generate(base, [lane], GREEDY)[0] for lane in lanes(base, False, False, False)]
    assert facts(generate(base, lanes(base, False, False, False), GREEDY)) == facts(alone)
    assert len({len(lane.prompt_ids) for lane in lanes(base, False, False, False)}) == 3


def test_lanes_with_and_without_the_adapter_in_one_batch_equal_each_alone(base: Base, adapted: Base) -> None:
    mixed = generate(adapted, [Lane(prompt(base, t), on) for t in PROMPTS for on in (False, True)], GREEDY)
    for k, text in enumerate(PROMPTS):
        plain, with_adapter = mixed[2 * k], mixed[2 * k + 1]
        assert plain.text == base.tokenizer.text(reference(base, text))
        assert with_adapter.text == adapted.tokenizer.text(reference(adapted, text))
        assert plain.text != with_adapter.text


def test_a_dora_adapter_that_peft_mixes_into_no_batch_answers_beside_its_base(tiny_folder: Path, base: Base) -> None:
    own = load_base(tiny_folder, Quantization(mode="none"))
    put_adapter(own, dora=True)
    seen: list[list[str]] = []
    counts: list[tuple[int, int]] = []
    mixed = generate(
        own, [Lane(prompt(own, PROMPTS[0]), on) for on in (True, False)], GREEDY, on_text=seen.append, on_step=lambda *count: counts.append(count)
    )
    alone = [generate(who, [Lane(prompt(who, PROMPTS[0]), on)], GREEDY)[0] for who, on in ((own, True), (base, False))]
    assert [r.text for r in mixed] == [r.text for r in alone]
    assert seen[-1] == [r.text.rstrip("\ufffd") for r in mixed]
    assert mixed[0].text != mixed[1].text
    assert len(seen) == sum(r.tokens + (r.ended == "stop token") for r in mixed)
    assert seen[0][0] == ""
    assert len(counts) == len(seen) and counts[0] == (0, 1) and counts[-1][0] == 1 + (mixed[0].ended == "stop token")


def test_lanes_all_without_the_adapter_leave_it_on_for_the_next(base: Base, adapted: Base) -> None:
    plain = generate(adapted, lanes(adapted, False, False, False), GREEDY)
    assert facts(plain) == facts(generate(base, lanes(base, False, False, False), GREEDY))
    again = generate(adapted, lanes(adapted, True, True, True), GREEDY)
    assert [r.text for r in again] == [adapted.tokenizer.text(reference(adapted, t)) for t in PROMPTS]


def test_a_reply_after_training_has_no_dropout(adapted: Base) -> None:
    expected = facts(generate(adapted, lanes(adapted, True, False, True), GREEDY))
    adapted.model.train()
    assert facts(generate(adapted, lanes(adapted, True, False, True), GREEDY)) == expected


def test_replies_on_a_base_whose_adapter_was_taken_off_are_the_base_s(tiny_folder: Path, base: Base) -> None:
    other = load_base(tiny_folder, Quantization(mode="none"))
    put_adapter(other)
    take_off_adapter(other)
    expected = facts(generate(base, lanes(base, False, False, False), GREEDY))
    assert facts(generate(other, lanes(other, False, False, False), GREEDY)) == expected


# -- why a reply ends --------------------------------------------------------------------------------


def test_a_stop_token_ends_its_lane_and_stands_in_no_text(base: Base) -> None:
    first, second = reference(base, PROMPTS[0]), reference(base, PROMPTS[1])
    place, stop = next((k, token) for k, token in enumerate(first) if k > 3 and token not in first[:k] and token not in second)
    replies = generate(stopping_at(base, stop), lanes(base, False, False, False)[:2], GREEDY)
    assert facts(replies) == [
        (base.tokenizer.text(first[:place]), place, "stop token"), (base.tokenizer.text(second), 40, "length"),
    ]
    assert replies[0].seconds < replies[1].seconds


def test_a_reply_that_stops_at_once_is_empty(base: Base) -> None:
    seen: list[list[str]] = []
    stopping = stopping_at(base, reference(base, "2+2")[0])
    [reply] = generate(stopping, [Lane(prompt(base, "2+2"), False)], GREEDY, on_text=seen.append)
    assert facts([reply]) == [("", 0, "stop token")] and seen == [[""]]


@pytest.mark.parametrize("length", [1, 7])
def test_a_reply_is_cut_at_the_length_asked_for(base: Base, length: int) -> None:
    [reply] = generate(base, [Lane(prompt(base, "2+2"), False)], GREEDY.model_copy(update={"max_new_tokens": length}))
    assert facts([reply]) == [(base.tokenizer.text(reference(base, "2+2")[:length]), length, "length")]


def test_a_stop_asked_for_in_the_middle_ends_every_lane_after_that_token(base: Base) -> None:
    asked: list[None] = []

    def stop() -> bool:
        asked.append(None)
        return len(asked) == 3  # a request that is seen once is enough

    replies = generate(base, lanes(base, False, False, False), GREEDY, stop=stop)
    assert facts(replies) == [(base.tokenizer.text(reference(base, t)[:3]), 3, "stopped") for t in PROMPTS]


# -- what the screen sees ----------------------------------------------------------------------------


def test_every_token_is_reported_with_all_lanes_texts(base: Base) -> None:
    seen: list[list[str]] = []
    generate(base, lanes(base, False, False, False), GREEDY, on_text=seen.append)
    tokens = [reference(base, t) for t in PROMPTS]
    assert seen == [[base.tokenizer.text(ids[: k + 1]).rstrip("\ufffd") for ids in tokens] for k in range(40)]


@pytest.mark.parametrize("capture", [True, False], ids=["own loop", "transformers"])
def test_the_steps_and_the_finished_lanes_are_counted_without_decoding_a_text(base: Base, monkeypatch: pytest.MonkeyPatch, capture: bool) -> None:
    tokens = [reference(base, t) for t in PROMPTS]
    stop = tokens[1][4]
    places = [ids.index(stop) + 1 if stop in ids else len(ids) + 1 for ids in tokens]
    monkeypatch.setattr(Progress, "texts", lambda self: pytest.fail("nobody asked"))
    counts: list[tuple[int, int]] = []
    generate(stopping_at(base, stop), lanes(base, False, False, False), GREEDY, capture=capture, on_step=lambda *count: counts.append(count))
    assert counts == [(sum(place <= step for place in places), step) for step in range(1, len(counts) + 1)]
    assert counts[4][0] >= 1 and len(counts) == min(40, max(places))


def test_a_letter_of_several_tokens_is_shown_only_once_it_is_whole(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    spoken = base.tokenizer.ids("Да €")

    def fake(*, input_ids: torch.Tensor, streamer: Any, **rest: Any) -> None:
        streamer.put(input_ids)
        for token in spoken:
            streamer.put(torch.tensor([token]))

    monkeypatch.setattr(base.model, "generate", fake)
    seen: list[str] = []
    [reply] = generate(base, [Lane((2,), False)], GREEDY, on_text=lambda texts: seen.append(texts[0]), capture=False)
    assert seen == ["", "Д", "Д", "Да", "Да ", "Да ", "Да ", "Да €"]
    assert reply.text == "Да €"


# -- sampling ----------------------------------------------------------------------------------------


def sampled(base: Base, sampling: Sampling) -> str:
    return generate(base, [Lane(prompt(base, "Привет!"), False)], sampling)[0].text


def test_a_sampled_reply_repeats_with_its_seed_and_changes_with_another(base: Base) -> None:
    first = sampled(base, SAMPLED)
    torch.rand(3)
    assert sampled(base, SAMPLED) == first
    assert sampled(base, SAMPLED.model_copy(update={"seed": 6})) != first
    assert sampled(base, GREEDY) != first


@pytest.mark.parametrize("change", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-3}])
def test_the_narrowest_sampling_is_greedy(base: Base, change: dict[str, Any]) -> None:
    narrow = SAMPLED.model_copy(update=change)
    assert sampled(base, narrow) == base.tokenizer.text(reference(base, "Привет!")[:30])


def test_sampling_follows_the_settings_and_not_the_model_folder_s_own(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    own = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    own |= {"do_sample": True, "top_k": 1, "top_p": 0.01, "temperature": 0.01, "max_new_tokens": 3}
    (folder / "generation_config.json").write_text(json.dumps(own), encoding="utf-8")
    base = load_base(folder, Quantization(mode="none"))
    ids = list(prompt(base, "Привет!"))
    torch.manual_seed(SAMPLED.seed)
    with torch.inference_mode():
        for _ in range(SAMPLED.max_new_tokens):
            logits = base.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1] / SAMPLED.temperature
            ids.append(int(torch.multinomial(logits.softmax(-1), 1)))
    assert not set(ids[-30:]) & set(base.tokenizer.stop_ids)
    assert sampled(base, SAMPLED) == base.tokenizer.text(ids[-30:])


@pytest.mark.parametrize("own_settings", [
    {"do_sample": True, "temperature": 2.0}, {"num_beams": 3}, {"repetition_penalty": 5.0}, {"no_repeat_ngram_size": 1},
], ids=lambda own: next(iter(own)))
def test_greedy_is_the_likeliest_token_whatever_the_model_folder_says(
    tiny_folder: Path, tmp_path: Path, base: Base, own_settings: dict[str, Any]
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    own = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    (folder / "generation_config.json").write_text(json.dumps(own | own_settings), encoding="utf-8")
    assert sampled(load_base(folder, Quantization(mode="none")), GREEDY) == sampled(base, GREEDY)


@pytest.mark.parametrize("capture", [True, False])
def test_a_reply_ends_before_a_stop_text_and_the_others_go_on(adapted: Base, capture: bool) -> None:
    whole = [r.text for r in generate(adapted, lanes(adapted, True, True, True), GREEDY)]
    pairs = [(k, whole[0][k : k + 2]) for k in range(4, len(whole[0]) - 4)]
    stop = next(pair for k, pair in pairs if pair.isascii() and whole[0].find(pair) == k)
    cut = [text[: text.find(stop)] if stop in text else text for text in whole]
    made = generate(adapted, lanes(adapted, True, True, True, stops=("<never>", stop)), GREEDY, capture=capture)
    assert [r.text for r in made] == cut and made[0].text != whole[0] and made[0].ended == "stop token"


@pytest.mark.parametrize("capture", [True, False])
def test_a_stop_text_that_is_one_token_ends_a_reply_too(adapted: Base, capture: bool) -> None:
    whole = generate(adapted, lanes(adapted, True, True, True), GREEDY)[0].text
    letter = next(c for k, c in enumerate(whole) if k > 4 and c.isascii() and c.isprintable() and c not in whole[:k])
    made = generate(adapted, lanes(adapted, True, True, True, stops=(letter,)), GREEDY, capture=capture)[0]
    assert (made.text, made.ended) == (whole[: whole.index(letter)], "stop token")


def test_control_tokens_stay_in_a_reply_only_where_they_are_asked_for(base: Base) -> None:
    heard = Progress([Lane((), 0, keep=("<unk>",))], base.tokenizer, lambda texts: None, lambda: False)
    names = ["<unk>", "<start_of_turn>", "a", "<end_of_turn>", "b"]
    for name in names:
        heard.take([base.tokenizer.backend.token_to_id(name)], [0])
    assert [(r.text, r.ended) for r in heard.replies()] == [("<unk>a", "stop token")]
