"""The plan of a run: its figures, exact, and each warning exactly when it should come."""

import json
from dataclasses import replace

import pytest

from workbench.dataset.split import split_examples
from workbench.models.estimate import estimate_memory
from workbench.models.room import Room
from workbench.models.shapes import KNOWN, gemma3_shapes
from workbench.schema import Example, Message, ToolCall
from workbench.settings import RunSettings, Training, apply_overrides
from workbench.training.encode import IGNORED, Encoded
from workbench.training.plan import make_plan, step_count

SHAPES = gemma3_shapes(KNOWN["gemma-3-270m"])
SEVENTY = [True, False] * 35


def settings(*pairs: str) -> RunSettings:
    return apply_overrides(RunSettings(), pairs)


def examples(kinds) -> list[Example]:
    """Rows of the given kinds (True: a call) without near-duplicates among them."""
    answers = {True: Message("assistant", "", (ToolCall("look_up"),)), False: Message("assistant", "Да")}
    return [Example((Message("user", chr(0x4E00 + i) * 3), answers[kind])) for i, kind in enumerate(kinds)]


def plan(*pairs: str, kinds=SEVENTY, encoded=None, shapes=SHAPES, notes=(), has_gpu=False, **more):
    return make_plan(shapes, settings(*pairs), rows=examples(kinds), encoded=encoded, has_gpu=has_gpu, notes=notes, **more)


def warnings(*pairs: str, kinds=SEVENTY, shapes=SHAPES) -> list[str]:
    return list(plan(*pairs, kinds=kinds, shapes=shapes).warnings)


def row(tokens: int, labels: int) -> Encoded:
    return Encoded(tuple(range(tokens)), (IGNORED,) * (tokens - labels) + tuple(range(labels)))


@pytest.mark.parametrize(
    ("rows", "per_step", "epochs", "steps"),
    [(63, 16, 10, 40), (64, 16, 10, 40), (65, 16, 10, 50), (1, 16, 10, 10), (16, 1, 2, 32), (0, 16, 10, 0), (15, 16, 1, 1)],
)
def test_the_last_smaller_group_of_an_epoch_is_a_step_too(rows, per_step, epochs, steps):
    assert step_count(rows, Training(rows_per_step=per_step, epochs=epochs)) == steps


def test_the_seeds_run_is_40_steps_over_63_rows_without_a_warning():
    made = plan()
    assert (made.rows, made.train_rows, made.validation_rows, made.optimizer_steps) == (70, 63, 7, 40)
    assert (made.trainable_parameters, made.total_parameters) == (3_796_992, 268_098_176 + 3_796_992)
    assert made.trainable_share == 3_796_992 / 271_895_168
    assert (made.tokens_per_epoch, made.labels_per_epoch, made.warnings) == (None, None, ())


def test_tokens_are_those_of_the_rows_to_learn_alone():
    encoded = [row(100 + i, 10) for i in range(70)]
    made = plan(encoded=encoded)
    learned, _ = split_examples(examples(SEVENTY), 0.1, 42)
    assert made.tokens_per_epoch == sum(100 + i for i in learned)
    assert made.labels_per_epoch == 630


@pytest.mark.parametrize(
    ("pairs", "tokens", "labels"),
    [((), 640, 160), (("training.tokens_per_forward=100",), 80, 20), (("training.rows_per_step=2",), 80, 20),
     (("training.tokens_per_forward=16",), 40, 10), (("training.rows_per_step=1024",), 2520, 630)],
)  # fmt: skip
def test_memory_is_that_of_the_largest_forward(pairs, tokens, labels):
    encoded = [row(40, 10)] * 70
    expected = estimate_memory(SHAPES, settings(*pairs), tokens=tokens, labels=labels, has_gpu=False)
    assert plan(*pairs, encoded=encoded).memory == expected


def test_the_plan_is_plain_json():
    made = plan("training.validation_share=0", notes=["a note"])
    values = json.loads(json.dumps(made.as_json()))
    assert values["optimizer_steps"] == 50
    assert values["trainable_share"] == round(made.trainable_share, 6) == 0.013965
    assert values["memory_gib"] == round(made.memory.total_gib, 2)
    assert sorted(values["memory"]) == ["activations_gib", "adapter_gib", "head_gib", "optimizer_gib", "weights_gib"]
    assert values["warnings"][0] == "a note"
    assert len(values["warnings"]) == 2


NEVER_VALIDATED = (
    "Validation would never run: it is set to every 41 optimizer steps, and the run has 40. Set 0 for once an epoch."
)
NEVER_SAVED = (
    "Saving in between would never happen: it is set to every 41 optimizer steps, and the run has 40. "
    "The adapter is saved at the end only; set 0 for once an epoch."
)
NONE_HELD_BACK = "No row is held back, so there will be no validation loss: raise the validation share."
NO_LAYER = "No layer of this model is named q_proj: there is nothing to train. Choose other target modules. It has up_proj."
TOO_FEW = "There are too few rows to train on: add rows first."


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (["training.evaluate_every=40"], []), (["training.evaluate_every=41"], [NEVER_VALIDATED]),
        (["training.evaluate_every=0"], []),
        (["training.save_every=40"], []), (["training.save_every=41"], [NEVER_SAVED]), (["training.save_every=0"], []),
        (["training.validation_share=0"], [NONE_HELD_BACK]), (["training.validation_share=0.02"], []),
        (["training.validation_share=0.005"], [NONE_HELD_BACK]),
    ],
)  # fmt: skip
def test_what_would_never_happen_is_told_and_nothing_else(pairs, expected):
    assert warnings(*pairs) == expected


def never_reached(warmup: int) -> str:
    return f"The warm-up ({warmup} steps) is as long as the run (40 steps): the full learning rate is never reached."


@pytest.mark.parametrize("scheduler", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("warmup", "told"), [(0, False), (39, False), (40, True), (100, True)])
def test_a_warm_up_that_never_ends_is_told_for_every_scheduler(scheduler, warmup, told):
    found = warnings(f"training.warmup_steps={warmup}", f"training.scheduler={scheduler}")
    assert found == ([never_reached(warmup)] if told else [])


def lopsided(calls: int, texts: int, kind: str, other: str) -> str:
    return f"{calls} of {calls + texts} rows are calls: expect the model to favour {kind}. Add {other}."


@pytest.mark.parametrize(
    ("calls", "texts", "expected"),
    [(70, 30, None), (30, 70, None), (71, 29, ("calls", "text answers")), (29, 71, ("text answers", "calls")),
     (50, 0, ("calls", "text answers")), (0, 50, ("text answers", "calls"))],
)  # fmt: skip
def test_a_lopsided_set_is_told_with_what_to_add(calls, texts, expected):
    found = warnings(kinds=[True] * calls + [False] * texts)
    assert found == ([lopsided(calls, texts, *expected)] if expected else [])


def test_a_model_without_the_chosen_layers_is_told():
    assert warnings("lora.target_modules=q_proj", shapes={"model.layers.0.mlp.up_proj.weight": (4, 4)}) == [NO_LAYER]


def test_no_rows_are_told_and_counted_as_no_steps():
    made = plan(kinds=[], encoded=[])
    assert (made.rows, made.train_rows, made.validation_rows, made.optimizer_steps, made.tokens_per_epoch) == (0, 0, 0, 0, None)
    assert made.warnings == (TOO_FEW, NONE_HELD_BACK)


@pytest.mark.parametrize(("rows", "told"), [(1, True), (2, False)])
def test_a_single_row_is_too_few(rows, told):
    found = warnings("training.warmup_steps=0", kinds=[True, False][:rows])
    assert (TOO_FEW in found) is told


def test_notes_stand_before_the_warnings():
    assert plan("training.validation_share=0", notes=["first", "second"]).warnings == ("first", "second", NONE_HELD_BACK)


def test_rows_that_stay_together_are_told_where_they_leave_too_few_to_hold_back():
    alike = [replace(row, messages=(Message("user", "Привет"), row.answer)) for row in examples([True, False] * 10)]
    made = make_plan(SHAPES, settings("training.warmup_steps=0"), rows=alike, encoded=None, has_gpu=False)
    assert (made.train_rows, made.validation_rows) == (20, 0)
    assert made.warnings == (
        "0 of 2 row(s) could be held back: the others are near-duplicates or pinned, and stay together. "
        "Add rows that are worded differently, or take pins off.",
    )


def test_a_plan_says_when_things_fire_and_how_rows_are_packed():
    made = plan(encoded=[row(40, 10)] * 70)
    assert [list(s) for s in (made.schedule.validation, made.schedule.answers, made.schedule.checkpoints)] == [[*range(4, 41, 4)]] * 3
    assert (made.packing.fewest, made.packing.most, made.packing.largest_tokens, made.packing.longest_row) == (1, 1, 640, 40)
    assert made.warmup_share == 10 / 40
    assert plan().packing is None


def test_names_that_the_model_lacks_are_told_with_those_it_has():
    assert warnings("lora.target_modules=q_proj,qkv_proj") == [
        "No layer of this model is named qkv_proj: the other target modules are trained without it. "
        "It has q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj."
    ]


def test_a_best_adapter_by_calls_wants_answers():
    told = "The best adapter can't be told by its calls"
    assert [w.startswith(told) for w in warnings("training.keep_best=call accuracy", "training.sample_every=0")] == [True]
    assert warnings("training.keep_best=call accuracy") == []


def test_dora_with_dropout_is_told_to_take_memory():
    assert [w for w in warnings("lora.dora=true") if "32-bit copy" in w]
    assert warnings("lora.dora=true", "lora.dropout=0") == []
    assert warnings("lora.dora=true", "training.checkpointing=true") == []


FOUR_B = gemma3_shapes(KNOWN["gemma-3-4b"])


def on_card(free: float, *pairs: str, earlier=(), **more):
    card = Room("a card", 24.0, free)
    asked = ("training.capture=false", *pairs)
    return plan(*asked, shapes=FOUR_B, has_gpu=True, encoded=[row(38, 17)] * 70, room=card, model_name="gemma-3-4b", earlier=earlier, **more)


@pytest.mark.parametrize(("free", "verdict"), [(20.0, "fits"), (10.5, "tight"), (9.0, "won't fit")])
def test_the_verdict_is_against_the_memory_that_is_free(free, verdict):
    made = on_card(free)
    assert 9.5 < made.expected_gib < 10.2
    assert made.verdict == verdict
    assert plan().verdict == "unknown"


def test_a_plan_that_fits_offers_nothing():
    made = on_card(20.0)
    assert (made.way_down, made.smaller) == ((), None)


def test_a_plan_that_won_t_fit_says_what_to_do_until_it_does():
    made = on_card(6.0, "quantization.mode=8-bit")
    assert [text.split(":")[0] for text in made.way_down] == [
        "The base weights are held in 4 bit instead of 8 bit", "Gradient checkpointing is turned on",
    ]
    assert (made.smaller.quantization.mode, made.smaller.training.checkpointing, made.smaller_fits) == ("4-bit", True, True)
    assert make_plan(
        FOUR_B, made.smaller, rows=examples(SEVENTY), encoded=[row(38, 17)] * 70, has_gpu=True, room=made.room
    ).verdict == "fits"


def test_changes_that_a_later_one_made_needless_are_taken_back():
    """Without a card the weights are quantized last; with them the adapter may stay as it was."""
    made = plan("quantization.mode=none", shapes=FOUR_B, encoded=[row(38, 17)] * 70, room=Room("this machine's memory", 24.0, 14.0))
    assert [text.split(":")[0] for text in made.way_down] == [
        "The token budget goes from 4,096 to 304", "The token budget goes from 304 to 152", "The base weights are held in 4 bit instead of 32 bit",
    ]
    assert made.smaller == settings("quantization.mode=4-bit", "training.tokens_per_forward=152")
    assert made.smaller_fits


def test_where_nothing_helps_the_plan_says_so():
    made = on_card(1.0)
    assert (made.verdict, made.smaller_fits) == ("won't fit", False)
    assert len(made.way_down) >= 4
    assert "Only attention gets an adapter" in made.way_down[-1]


def test_the_estimate_is_corrected_by_measured_runs_and_the_run_keeps_both():
    from tests.training.test_calibration import ESTIMATE, run

    earlier = [run("last", device="a card", peak=12.0, estimated=ESTIMATE, model_name="gemma-3-4b", seconds=0.5, tokens=600)]
    plain, made = on_card(24.0), on_card(24.0, earlier=earlier)
    assert made.memory == plain.memory
    assert made.expected_gib == pytest.approx(1.2 * plain.expected_gib)
    kept = made.estimated_gib()
    assert list(kept) == ["weights", "adapter", "optimizer", "activations", "head", "total"]
    assert kept["total"] == pytest.approx(1.2 * sum(v for k, v in kept.items() if k != "total"), abs=1e-3)
    assert made.time.runs == ("last",)
    assert made.as_json()["memory_corrected_by"] == 1.2
    assert plain.time is None
    assert plain.as_json()["time"] is None


def test_the_plan_s_json_holds_what_the_screen_shows():
    values = json.loads(json.dumps(on_card(6.0).as_json()))
    assert (values["verdict"], values["free_gib"], values["forwards_per_step"], values["largest_forward_tokens"]) == ("won't fit", 6.0, [1, 1], 608)
    assert values["fires"]["validation"] == "after steps 4, 8, … 40 (10×)"
    assert values["do_this"] == list(on_card(6.0).way_down)
    assert values["warmup_share"] == 0.25


def test_an_adapter_too_large_for_every_epoch_is_saved_as_the_time_allows():
    small, large, chosen = (
        plan(*pairs, shapes=shapes, encoded=[row(38, 17)] * 70).saving for pairs, shapes in (((), SHAPES), ((), FOUR_B), (("training.save_every=20",), FOUR_B))
    )
    assert (small, large, chosen) == (
        "after steps 4, 8, … 40 (10×)", "when a tenth of the time allows it, and at the end", "after steps 20, 40",
    )
