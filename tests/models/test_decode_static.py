"""The loop of our own: transformers' tokens, for every kind of layer it knows; lanes that go early, faults, and the way a card takes."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TopPLogitsWarper

from workbench.errors import AdapterError
from workbench.models import decode_graphs, decode_static, decoding
from workbench.models.adapters import probe, prove_active, put_adapter_beside, put_new_adapter, take_off_beside
from workbench.models.decode_choice import Chooser
from workbench.models.decode_graphs import Decoder, up_to
from workbench.models.decode_lanes import Progress
from workbench.models.decode_stack import UnsupportedError, read_stack
from workbench.models.decode_static import DecodingFault, difference_made
from workbench.models.decode_step import Cache, begin, prefill, step
from workbench.models.decoding import Lane, Reply, generate
from workbench.models.loading import Base, load_base
from workbench.settings import Lora, Quantization, Sampling

GREEDY = Sampling(max_new_tokens=24)
SAMPLED = Sampling(greedy=False, temperature=1.3, top_p=0.9, top_k=40, max_new_tokens=16, seed=5)
# Of different lengths, the longest well beyond the tiny model's window of 16 tokens.
PROMPTS = ((2, 4, 50, 60, 70), (2, *range(30, 75)), (2, 99, 98))


@pytest.fixture(scope="module")
def adapted_base(tiny_model_folder: Callable[[str], Path]) -> Callable[[str], Base]:
    made: dict[str, Base] = {}

    def build(kind: str) -> Base:
        if kind not in made:
            made[kind] = load_base(tiny_model_folder(kind), Quantization(mode="none"))
            model = put_new_adapter(made[kind], Lora(rank=4, alpha=8, dropout=0.5), name="r1", seed=1, checkpointing=False)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if ".lora_B." in name:
                        parameter.normal_(std=0.2)
        return made[kind]

    return build


def lanes(*adapted: bool) -> list[Lane]:
    return [Lane(prompt, on) for prompt, on in zip(PROMPTS, adapted, strict=True)]


def refuse(text: str) -> None:
    pytest.fail(f"the loop was left: {text}")


def facts(replies: list[Reply]) -> list[tuple[str, int, str]]:
    return [(r.text, r.tokens, r.ended) for r in replies]


@pytest.mark.parametrize("kind", ["gemma3", "gemma3-vision", "llama", "qwen2", "qwen3"])
def test_the_loop_s_tokens_are_those_of_transformers(adapted_base: Callable[[str], Base], kind: str) -> None:
    base = adapted_base(kind)
    expected = facts(generate(base, lanes(False, True, True), GREEDY, capture=False))
    assert facts(generate(base, lanes(False, True, True), GREEDY, say=refuse)) == expected
    assert len({text for text, _, _ in expected}) == 3 and expected[0][1] > 3


@pytest.mark.parametrize("kind", ["gemma3", "qwen3"])
def test_two_adapters_and_the_base_share_a_batch_and_say_what_each_says_alone(adapted_base: Callable[[str], Base], tmp_path: Path, kind: str) -> None:
    base = adapted_base(kind)
    base.model.save_pretrained(str(tmp_path), selected_adapters=["adapted"])
    alone = [facts(generate(base, [lane], GREEDY, capture=False))[0] for lane in lanes(0, 1, 1)]
    other = other_adapter(base, tmp_path / "other")
    assert put_adapter_beside(base, other, "other") > 0 and base.adapters[1:] == ("other",)
    mixed = [Lane(PROMPTS[0], 0), Lane(PROMPTS[1], 1), Lane(PROMPTS[1], 2), Lane(PROMPTS[2], 1)]
    made = facts(generate(base, mixed, GREEDY, say=refuse))
    assert [made[0], made[1], made[3]] == alone and made[2] not in alone
    assert made == facts(generate(base, mixed, GREEDY, capture=False)), "and what peft's mixed batch says"
    assert made[2] == facts(generate(base, mixed[2:3], GREEDY, capture=False))[0] == facts(generate(base, mixed[2:3], GREEDY, say=refuse))[0]
    take_off_beside(base)
    assert facts(generate(base, lanes(0, 1, 1), GREEDY, say=refuse)) == alone and len(base.adapters) == 1


def other_adapter(base: Base, folder: Path) -> Path:
    """An adapter of another rank on fewer layers, saved."""
    from peft import LoraConfig

    base.model.add_adapter("saved", LoraConfig(r=3, lora_alpha=30, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False))
    base.model.save_pretrained(str(folder), selected_adapters=["saved"])
    base.model.delete_adapter("saved")
    return folder / "saved"


@pytest.mark.parametrize("change", [{}, {"top_k": 0}, {"top_p": 1.0}, {"temperature": 1.0}, {"temperature": 0.0}, {"greedy": True}])
def test_tokens_are_drawn_as_transformers_draws_them(change: dict[str, Any]) -> None:
    """From the same logits: in two ways of summing, a token may lie on either side of a cut."""
    sampling = SAMPLED.model_copy(update=change)
    logits_BV = torch.randn((400, 50), generator=torch.Generator().manual_seed(1)) * 3
    drawn = Chooser(sampling)(logits_BV)
    if change in ({"temperature": 0.0}, {"greedy": True}):
        assert torch.equal(drawn, logits_BV.argmax(-1))
        return
    cut_BV = logits_BV / sampling.temperature
    if sampling.top_k:
        cut_BV = cut_BV.masked_fill(cut_BV < cut_BV.topk(sampling.top_k).values[:, -1:], -torch.inf)
    if sampling.top_p < 1:
        cut_BV = TopPLogitsWarper(sampling.top_p)(None, cut_BV)
    torch.manual_seed(sampling.seed)
    assert torch.equal(drawn, torch.multinomial(cut_BV.softmax(-1), 1)[:, 0])
    assert (drawn != logits_BV.argmax(-1)).sum() > 40


@pytest.mark.parametrize("kind", ["gemma3", "qwen3"])
def test_lanes_without_the_adapter_have_the_bare_base_s_logits_to_the_bit(
    adapted_base: Callable[[str], Base], tiny_model_folder: Callable[[str], Path], kind: str
) -> None:
    bare = load_base(tiny_model_folder(kind), Quantization(mode="none"))
    made = []
    with torch.inference_mode():
        for base, on in ((bare, [False] * 3), (adapted_base(kind), [False, True, False])):
            stack = read_stack(base)
            stack.copy_adapter()
            cache = Cache(stack, 3, 64)
            first_BV = prefill(stack, cache, begin(cache, PROMPTS, on), any(on))
            cache.ids_B.copy_(torch.tensor([50, 60, 70]))
            made.append((first_BV, step(stack, cache, 3, 47, any(on))))
    for plain_BV, mixed_BV in zip(*made, strict=True):
        assert torch.equal(plain_BV[[0, 2]], mixed_BV[[0, 2]]) and not torch.allclose(plain_BV[1], mixed_BV[1], atol=1e-2)


def test_a_lane_that_has_ended_is_dropped_and_the_others_go_on_as_before(adapted_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch) -> None:
    base = adapted_base("gemma3")
    before = Progress(lanes(True, True, True), base.tokenizer, lambda texts: None, lambda: False)
    for _ in decode_static.steps(base, lanes(True, True, True), GREEDY, before, refuse):
        pass
    expected = facts(before.replies())
    first, *others = (state.ids for state in before.states)
    stop = next(t for k, t in enumerate(first) if 2 < k < 20 and t not in first[:k] and all(t not in ids for ids in others))
    stopping = dataclasses.replace(base, tokenizer=dataclasses.replace(base.tokenizer, stop_ids=(stop,)))
    rows: list[int] = []
    real = Decoder.launch
    monkeypatch.setattr(Decoder, "launch", lambda self, n, upto, on: rows.append(n) or real(self, n, upto, on))
    made = facts(generate(stopping, lanes(True, True, True), GREEDY, say=refuse))
    assert made[1:] == expected[1:] and made[0][2] == "stop token"
    assert rows == sorted(rows, reverse=True) and set(rows) == {3, 2}


# -- what a card does, without one ----------------------------------------------------------------------


class Replay:
    """A graph that is none: it does the step again and leaves its logits where the capture left them."""

    def __init__(self, work: Callable[[], torch.Tensor], logits_BV: torch.Tensor) -> None:
        self.work, self.logits_BV = work, logits_BV

    def replay(self) -> None:
        self.logits_BV.copy_(self.work())


@pytest.fixture
def as_on_a_card(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, bool]]]:
    """Graph sizes, filler rows and columns, looking one token behind: all but the capture itself. Yields the steps that were captured."""
    captured: list[tuple[int, bool]] = []
    real = Decoder.__init__

    def made(self: Decoder, base: Base, say: Callable[[str], None]) -> None:
        real(self, base, say)
        self.cuda = True

    def capture(self: Decoder, rows: int, adapted: bool) -> None:
        if (rows, adapted) in self.graphs:
            return
        cache, column = self.cache, self.cache.column.clone() if self.cache else None
        assert cache is not None
        self.graphs[rows, adapted] = self.record(lambda: self._step(cache, rows, adapted))
        cache.column.copy_(column)
        captured.append((rows, adapted))

    def record(self: Decoder, work: Callable[[], torch.Tensor]) -> tuple[Any, torch.Tensor]:
        logits_BV = work().clone()
        return Replay(work, logits_BV), logits_BV

    monkeypatch.setattr(Decoder, "__init__", made)
    monkeypatch.setattr(Decoder, "capture", capture)
    monkeypatch.setattr(Decoder, "record", record)
    monkeypatch.setattr(decode_graphs, "ROWS", (1, 2, 4, 8))
    monkeypatch.setattr(decode_graphs, "COLUMNS", (96, 192))
    yield captured


@pytest.mark.parametrize("kind", ["gemma3", "llama"])
def test_graphs_of_few_sizes_with_rows_that_fill_them_give_the_same_tokens(
    adapted_base: Callable[[str], Base], as_on_a_card: list[tuple[int, bool]], kind: str
) -> None:
    base = adapted_base(kind)
    expected = facts(generate(base, lanes(False, True, True), GREEDY, capture=False))
    assert facts(generate(base, lanes(False, True, True), GREEDY, say=refuse)) == expected
    assert as_on_a_card[0] == (4, True)


def test_prompts_of_a_size_that_comes_again_are_read_by_a_graph(
    adapted_base: Callable[[str], Base], as_on_a_card: list[tuple[int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder that lasts, as a card's does: eagerly, captured, replayed with other prompts, and eagerly where prompts are long."""
    base = adapted_base("gemma3")
    kept = Decoder(base, refuse)
    monkeypatch.setattr(decode_static, "_decoder", lambda base, say: kept)
    some = [Lane(PROMPTS[0], 1), Lane(PROMPTS[1], 0), Lane(PROMPTS[2], 1)]
    other = [Lane(tuple(range(20, 57)), 1), Lane(PROMPTS[2], 0), Lane(PROMPTS[0], 1)]  # 37 tokens: 48 columns, as 46 take
    first, second = (facts(generate(base, lanes, GREEDY, capture=False)) for lanes in (some, other))
    sizes = []
    for lanes, expected in ((some, first), (other, second), (some, first), (other, second)):
        assert facts(generate(base, lanes, GREEDY, say=refuse)) == expected
        sizes.append(set(kept.read_graphs))
    assert sizes == [set(), {(4, 48, True)}, {(4, 48, True)}, {(4, 48, True)}]
    monkeypatch.setattr(decode_graphs, "MOST_READ", 100)
    long = [Lane(tuple(range(20, 80)), 1), Lane(PROMPTS[1], 0)]
    expected = facts(generate(base, long, GREEDY, capture=False))
    assert [facts(generate(base, long, GREEDY, say=refuse)) for _ in range(2)] == [expected] * 2 and (2, 64, True) not in kept.read_graphs


def test_a_token_launched_after_the_last_stop_is_thrown_away(adapted_base: Callable[[str], Base], as_on_a_card: list[tuple[int, bool]]) -> None:
    base = adapted_base("gemma3")
    seen: list[list[str]] = []
    asked: list[None] = []
    replies = generate(base, lanes(True, True, True), GREEDY, on_text=seen.append, stop=lambda: asked.append(None) or len(asked) == 3, say=refuse)
    assert [(r.tokens, r.ended) for r in replies] == [(3, "stopped")] * 3
    assert len(seen) == 3 and seen[-1] == [r.text.rstrip("\ufffd") for r in replies]


class OnlyEven:
    """Allows tokens of even number."""

    def __init__(self) -> None:
        self.heard: list[int | None] = []
        self.refused: list[tuple[int, int]] = []

    def allowed(self, last: int | None, width: int) -> torch.Tensor:
        self.heard.append(last)
        return torch.arange(width) % 2 == 0

    def forbade(self, wanted: int) -> None:
        self.refused.append((len(self.heard), wanted))


def test_a_bound_hears_every_token_before_the_next_is_chosen(adapted_base: Callable[[str], Base], as_on_a_card: list[tuple[int, bool]]) -> None:
    bounds = [OnlyEven(), OnlyEven()]
    expected, made = (
        generate(adapted_base("gemma3"), [Lane(PROMPTS[0], True, bound), Lane(PROMPTS[1], False)], GREEDY, say=refuse, capture=capture)
        for bound, capture in zip(bounds, (False, True), strict=True)
    )
    assert facts(made) == facts(expected) and made[0].tokens > 3
    assert bounds[0].heard == bounds[1].heard and all(t is None or t % 2 == 0 for t in bounds[1].heard)
    assert bounds[0].refused == bounds[1].refused and bounds[1].refused and all(wanted % 2 for _, wanted in bounds[1].refused)


# -- the way back to transformers -----------------------------------------------------------------------


def test_a_capture_that_fails_ends_at_transformers_and_says_why(
    adapted_base: Callable[[str], Base], as_on_a_card: list[tuple[int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = adapted_base("gemma3")
    expected = facts(generate(base, lanes(False, True, True), GREEDY, capture=False))

    def fails(self: Decoder, rows: int, adapted: bool) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(Decoder, "capture", fails)
    said: list[str] = []
    assert facts(generate(base, lanes(False, True, True), GREEDY, say=said.append)) == expected
    assert said == ["Decoding goes by transformers, which is slower: RuntimeError: operation not permitted when stream is capturing"]


def test_what_a_reader_or_a_bound_raises_is_no_fault_of_the_loop(adapted_base: Callable[[str], Base]) -> None:
    def reader(texts: list[str]) -> None:
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        generate(adapted_base("gemma3"), lanes(True, True, True), GREEDY, on_text=reader, say=refuse)


def test_a_fault_in_the_middle_of_a_bound_reply_is_raised(adapted_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Decoder, rows: int, upto: int, adapted: bool) -> torch.Tensor:
        raise RuntimeError("lost")

    monkeypatch.setattr(Decoder, "launch", fails)
    with pytest.raises(RuntimeError, match="lost"):
        generate(adapted_base("gemma3"), [Lane(PROMPTS[0], True, OnlyEven())], GREEDY)


def test_a_device_that_answers_no_more_is_told_as_such(adapted_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch) -> None:
    class Card:
        device = torch.device("cuda")

    def dead(*_: Any, **__: Any) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(decode_static.torch, "zeros", dead)
    with pytest.raises(RuntimeError, match="illegal memory access") as told:
        decode_static.check_device(Card(), DecodingFault(RuntimeError("capture failed")))  # type: ignore[arg-type]
    assert str(told.value.__cause__) == "capture failed"
    decode_static.check_device(Card(), DecodingFault(torch.OutOfMemoryError("no room")))  # type: ignore[arg-type]


def test_a_model_of_another_kind_is_named_and_decoded_by_transformers(adapted_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch) -> None:
    base = adapted_base("llama")
    expected = facts(generate(base, lanes(False, True, True), GREEDY, capture=False))
    monkeypatch.setattr("workbench.models.decode_stack.LAYERS", ("Gemma3DecoderLayer",))
    said: list[str] = []
    assert facts(generate(base, lanes(False, True, True), GREEDY, say=said.append)) == expected
    assert said == ["Decoding goes by transformers, which is slower: LlamaDecoderLayer is not one of the layers it knows."]


def test_an_adapter_that_changes_more_than_the_known_layers_is_refused(tiny_model_folder: Callable[[str], Path]) -> None:
    from peft import LoraConfig, get_peft_model

    base = load_base(tiny_model_folder("llama"), Quantization(mode="none"))
    base.model = get_peft_model(base.model, LoraConfig(r=2, target_modules=["q_proj", "lm_head"]), adapter_name="adapted")
    base.adapters = ("other",)
    with pytest.raises(UnsupportedError, match="its adapter also changes lm_head"):
        read_stack(base)


@pytest.mark.slow
@pytest.mark.real_model
def test_the_embedded_model_s_replies_are_those_of_transformers(demo_folder: Path) -> None:
    base = load_base(demo_folder, Quantization(mode="none"))
    texts = ("Привет!", "Сколько у меня денег на счёте?", "Write one sentence about the sea.")
    asked = [Lane(tuple(base.tokenizer.prompt_ids([{"role": "user", "content": text}])), False) for text in texts]
    sampling = Sampling(max_new_tokens=16)
    assert facts(generate(base, asked, sampling, say=refuse)) == facts(generate(base, asked, sampling, capture=False))


def test_sizes_go_up_to_the_next() -> None:
    assert [up_to((1, 2, 4), n) for n in (1, 2, 3, 4, 9)] == [1, 2, 4, 4, 9]


def test_texts_are_decoded_only_for_somebody(adapted_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress, "texts", lambda self: pytest.fail("nobody asked"))
    assert len(decoding.generate(adapted_base("gemma3"), lanes(True, True, True), GREEDY, say=refuse)) == 3


@pytest.mark.parametrize("kind", ["gemma3", "llama"])
def test_a_kept_decoder_tells_what_the_adapter_changes_as_two_forwards_do(tiny_model_folder: Callable[[str], Path], kind: str) -> None:
    base = load_base(tiny_model_folder(kind), Quantization(mode="none"))
    model = put_new_adapter(base, Lora(rank=4, alpha=8, dropout=0.5), name="r1", seed=1, checkpointing=False)
    assert difference_made(base, PROMPTS[0]) is None, "nothing was decoded yet"
    decode_static._kept[base.raw] = Decoder(base, refuse)
    try:
        assert difference_made(base, probe(base)) == 0.0, "its second matrices are still zero"
        assert prove_active(base, known=1.5) == 1.5
        with pytest.raises(AdapterError, match="changes nothing"):
            prove_active(base, known=difference_made(base, probe(base)))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".lora_B." in name:
                    parameter.normal_(std=0.2)
        told = difference_made(base, probe(base))
        assert told is not None and told == pytest.approx(prove_active(base), rel=1e-3)
        put_new_adapter(base, Lora(rank=4), name="r1", seed=1, checkpointing=False)
        assert difference_made(base, probe(base)) is None, "the decoder was made for another adapter"
    finally:
        decode_static.release()


@pytest.mark.parametrize("fault", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("operation not permitted when stream is capturing")])
def test_a_decoder_that_fails_leaves_the_difference_to_the_plain_way(
    adapted_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch, fault: Exception,
) -> None:
    def full(self: Decoder, rows: int, columns: int) -> Cache:
        raise fault

    base = adapted_base("llama")
    decode_static._kept[base.raw] = Decoder(base, refuse)
    gone, there = weakref.ref(decode_static._kept[base.raw]), []
    lets_go = decode_static.lets_go
    monkeypatch.setattr(decode_static, "lets_go", lambda exc: there.append((lets_go(exc), gc.collect(), gone())))
    monkeypatch.setattr(Decoder, "room", full)
    assert difference_made(base, PROMPTS[0]) is None and base.raw not in decode_static._kept
    assert [decoder for *_, decoder in there] == [None], "what it holds is free before the card's memory is given back"


def test_what_the_decoder_can_t_tell_two_forwards_decide(adapted_base: Callable[[str], Base]) -> None:
    base = adapted_base("llama")
    assert prove_active(base, known=0.0) == prove_active(base, known=float("nan")) == prove_active(base) > 0


def test_a_prompt_that_comes_once_is_read_in_a_size_that_has_its_graph(adapted_base: Callable[[str], Base]) -> None:
    decoder = Decoder(adapted_base("llama"), refuse)
    assert decoder.size_read(2, 20) == (2, 20)
    decoder.read_graphs = dict.fromkeys([(1, 32, True), (8, 64, True), (8, 32, True), (2, 32, False), (8, 16, True)])  # type: ignore[arg-type]
    assert decoder.size_read(2, 20) == (8, 32) and decoder.size_read(8, 33) == (8, 64) and decoder.size_read(1, 20) == (1, 32)
    assert decoder.size_read(2, 65) == (2, 65) and decoder.size_read(9, 20) == (9, 20)
