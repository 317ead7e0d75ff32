"""One cell of a sweep on a tiny random model: what it measures, what it leaves behind, and how it ends."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from workbench.dataset.formats import load_rows
from workbench.errors import DataError, WorkbenchError
from workbench.evaluation.scores import Rate
from workbench.models.loading import load_base
from workbench.schema import Example, Message
from workbench.settings import Quantization, make_settings
from workbench.training import fold as fold_module
from workbench.training.batching import alike
from workbench.training.fold import FoldResult, run_fold
from workbench.training.loop import NotFiniteError

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).resolve().parent.parent.parent
SHORT = {"epochs": 2, "rows_per_step": 2, "warmup_steps": 0, "learning_rate": 0.05}


def settings(**training):
    return make_settings({"training": SHORT | training, "lora": {"rank": 4}})


@pytest.fixture(scope="module")
def base(tiny_folder: Path):
    return load_base(tiny_folder, Quantization(mode="none"))


@pytest.fixture(scope="module")
def rows() -> tuple[Example, ...]:
    return load_rows(REPOSITORY / "data" / "examples.json").rows[:6]


@pytest.fixture
def measure(base, rows) -> Callable[..., FoldResult | None]:
    def run(learned=(0, 1, 2, 3), held=(4, 5), stop=lambda: False, tell=lambda text, share: None, **training):
        return run_fold(base, rows, learned, held, settings(**training), stop=stop, tell=tell)

    return run


def test_a_cell_is_trained_and_measured_and_leaves_the_base_bare(base, measure):
    before = {name: p.clone() for name, p in base.model.named_parameters()}
    said = []
    found = measure(tell=lambda text, share: said.append((text, share)))
    assert found.steps == 4
    assert 0 < found.loss < 20 and 0 < found.train_loss < 20
    assert found.call_recall.n + found.over_calls.n == found.malformed.n == found.right.n == 2
    assert found.seconds > 0 and found.peak_memory_gib > 0
    assert found.device == ("CPU" if base.device.type == "cpu" else torch.cuda.get_device_name())
    assert base.adapter is None and not hasattr(base.model, "peft_config")
    assert all(torch.equal(before[name], p) for name, p in base.model.named_parameters())
    assert said[0] == ("step 1 of 4", pytest.approx(0.85 / 4))
    answering = [(text, share) for text, share in said if text.startswith("answered ")]
    assert answering[0] == ("answered 0 of 2 rows held back", 0.85)
    assert answering[1][0].startswith("answered 0 of 2 rows held back, token 1 of at most ")
    shares = [share for _, share in answering]
    assert shares == sorted(set(shares)) and 0.85 < shares[-1] <= 1


def test_the_same_cell_measures_the_same_and_another_seed_another(measure):
    first, again, other = measure(), measure(), measure(seed=7)
    assert (first.loss, first.train_loss, first.right) == (again.loss, again.train_loss, again.right)
    assert other.loss != first.loss


def test_a_longer_training_fits_its_rows_better(measure):
    assert measure(held=(0, 1), epochs=12).loss < measure(held=(0, 1), epochs=1).loss


def test_samples_and_early_stopping_have_no_place_in_a_cell(measure):
    plain = measure(sample_every=0, keep_best="off")
    asked = measure(sample_every=1, keep_best="call accuracy", early_stopping=1, evaluate_every=1, save_every=1)
    assert (plain.loss, plain.steps) == (asked.loss, asked.steps)


def test_replies_are_judged_row_by_row(base, rows, measure, monkeypatch):
    calls = [i for i in range(6) if rows[i].answer.content.startswith("<tool_call") or rows[i].answer.tool_calls]
    assert 0 < len(calls) < 6

    def replies(base, lanes, sampling, **_):
        made = '<tool_call name="get_sensitive_data" arguments="{}"/>'
        return [type("R", (), {"text": made, "ended": "stop token"})() for _ in lanes]

    monkeypatch.setattr(fold_module, "generate", replies)
    found = measure(learned=(0, 1), held=(2, 3, 4, 5))
    wanting = len([i for i in calls if i >= 2])
    assert found.call_recall == Rate(wanting, wanting)
    assert found.over_calls == Rate(4 - wanting, 4 - wanting)
    assert found.right == Rate(wanting, 4)
    assert found.as_json()["right"] == (wanting, 4)


def test_a_call_of_another_tool_than_the_row_s_is_not_right(base, rows, measure, monkeypatch):
    def replies(base, lanes, sampling, **_):
        made = '<tool_call name="get_money" arguments="{}"/>'
        return [type("R", (), {"text": made, "ended": "stop token"})() for _ in lanes]

    monkeypatch.setattr(fold_module, "generate", replies)
    found = measure(learned=(0, 1), held=(2, 3, 4, 5))
    assert found.call_recall.k == found.call_recall.n > 0 and found.right == Rate(0, 4)


@pytest.mark.parametrize("asked", [0, 2, 6, 40])
def test_a_stop_gives_the_cell_up_wherever_it_comes(base, measure, asked):
    count = 0

    def stop() -> bool:
        nonlocal count
        count += 1
        return count > asked

    assert measure(stop=stop) is None
    assert base.adapter is None


def test_a_loss_that_is_no_number_is_told(base, measure, monkeypatch):
    monkeypatch.setattr(fold_module, "mean_loss", lambda *args: float("nan"))
    with pytest.raises(NotFiniteError, match="^The loss of the rows held back is not a finite number"):
        measure()
    assert base.adapter is None


def test_a_row_that_can_t_be_learned_is_named(base):
    rows = (Example((Message("user", "a"), Message("assistant", "b"))), Example((Message("user", "x" * 300), Message("assistant", "b"))))
    with pytest.raises(WorkbenchError, match=r"line 2, messages: the row has \d+ tokens, 64 are allowed"):
        run_fold(base, rows, [0], [1], settings(max_row_tokens=64), stop=lambda: False)
    with pytest.raises(DataError, match="^A fold holds no rows"):
        run_fold(base, rows, [], [0], settings(), stop=lambda: False)


def test_batches_hold_like_lengths_within_their_budget():
    assert alike([5, 30, 6, 31, 100], 62) == [[0, 2], [1, 3], [4]]
    assert alike([10, 10, 10], 20) == [[0, 1], [2]]
    assert alike([10, 10, 10, 10, 10], 1000, most=2) == [[0, 1], [2, 3], [4]]
