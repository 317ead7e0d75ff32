"""A whole training run in its folder: what it tells, what it keeps, and how it ends when it can't go on."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft.peft_model
import pytest
from safetensors import SafetensorError, safe_open

from workbench.dataset.formats import load_rows
from workbench.errors import DataError, SettingsError, WorkbenchError
from workbench.models.adapters import probe, put_saved_adapter, take_off_adapter
from workbench.models.loading import Base, load_base
from workbench.schema import Example, Message
from workbench.settings import Quantization, RunSettings, Training, make_settings
from workbench.training import events, job
from workbench.training.runs import RunStore, RunView

pytestmark = pytest.mark.slow

ROWS = load_rows(Path(__file__).resolve().parents[2] / "data" / "examples.json").rows[:6]
FILES = {"adapter_config.json", "adapter_model.safetensors", "best", "README.md", "run.json", "events.jsonl", "rows.jsonl", "calls.json"}
# 6 rows: 4 to learn, 2 held back; 2 epochs of 2 steps. The answers of an epoch are in test_answers.
SMALL = {"epochs": 2, "rows_per_step": 2, "validation_share": 0.34, "warmup_steps": 0, "learning_rate": 0.01, "sample_every": 0}


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> Base:
    return load_base(tiny_folder, Quantization(mode="none"))


@pytest.fixture
def runs(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "adapters")


def settings(**training: Any) -> RunSettings:
    return make_settings({"training": SMALL | training, "lora": {"rank": 4, "alpha": 8}})


def create(runs: RunStore, rows: Sequence[Example] = ROWS, chosen: RunSettings | None = None, name: str = "r1") -> None:
    runs.create(name, model="demo", model_name="gemma-3-270m", rows=rows, data_name="rows.json", settings=chosen or settings())


def after(steps: int) -> Callable[[], bool]:
    """A stop that is asked for once `steps` optimizer steps are done: it is asked once before every step."""
    asked = iter(range(10_000))
    return lambda: next(asked) >= steps


def never() -> bool:
    return False


def kinds(view: RunView) -> list[tuple[str, int]]:
    return [(e.type, getattr(e, "step", 0)) for e in view.happened]


def conversation(request: str, answer: str, status: str = "draft") -> Example:
    return Example((Message("user", request), Message("assistant", answer)), status)


def test_a_run_tells_every_step_validation_and_saving_in_order(base: Base, runs: RunStore) -> None:
    create(runs)
    ended = job.run_training(base, runs, "r1", stop=never)
    view = runs.view("r1")
    assert kinds(view) == [
        ("started", 0), ("step", 1), ("step", 2), ("validation", 2), ("saved", 2), ("notice", 0),
        ("step", 3), ("step", 4), ("validation", 4), ("saved", 4), ("ended", 4),
    ]
    assert view.state == "finished" and view.ended == ended
    assert ended.reason == "" and ended.seconds > 0 and ended.adapter_difference is not None and ended.adapter_difference > 0
    started = view.started
    assert started is not None
    assert (started.total_steps, started.epochs, started.train_rows, started.validation_rows) == (4, 2, 4, 2)
    # rank · (in + out) for q, k, v, o and gate, up, down of each of the 3 layers.
    assert started.trainable_parameters == 3 * 4 * (128 + 96 + 96 + 128 + 192 + 192 + 192)
    own = sum(p.numel() for n, p in base.raw.named_parameters() if "lora_" not in n)
    assert started.total_parameters == own + started.trainable_parameters
    assert [v.epoch for v in view.validations] == [1.0, 2.0]
    assert view.steps[-1].loss < view.steps[0].loss


def test_the_folder_holds_the_adapter_and_its_papers_and_nothing_else(base: Base, runs: RunStore) -> None:
    create(runs)
    job.run_training(base, runs, "r1", stop=never)
    folder = runs.path("r1")
    assert {p.name for p in folder.iterdir()} == FILES
    with safe_open(str(folder / "adapter_model.safetensors"), framework="pt") as stream:
        keys = list(stream.keys())
        assert len(keys) == 2 * 7 * 3
        assert all(float(stream.get_tensor(k).abs().max()) > 0 for k in keys)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["r"], config["lora_alpha"], config["peft_type"], config["inference_mode"]) == (4, 8, "LORA", True)
    assert runs.info("r1").data_rows == 6
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| ended | finished |" in card and "# r1" in card and "base_model: gemma-3-270m" in card


def test_no_file_of_a_run_names_a_folder_of_this_machine(base: Base, runs: RunStore) -> None:
    create(runs)
    job.run_training(base, runs, "r1", stop=never)
    config = json.loads((runs.path("r1") / "adapter_config.json").read_text(encoding="utf-8"))
    assert os.sep not in config["base_model_name_or_path"]
    for file in (f for f in runs.path("r1").rglob("*") if f.is_file()):
        assert str(base.folder.parent).encode() not in file.read_bytes(), file.name


def test_a_finished_adapter_can_be_put_on_again_and_makes_the_same_difference(base: Base, runs: RunStore) -> None:
    create(runs)
    ended = job.run_training(base, runs, "r1", stop=never)
    take_off_adapter(base)
    assert put_saved_adapter(base, runs.path("r1"), "r1") == pytest.approx(ended.adapter_difference, rel=1e-6)


def test_a_run_stopped_in_the_middle_keeps_a_working_adapter(base: Base, runs: RunStore) -> None:
    create(runs)
    ended = job.run_training(base, runs, "r1", stop=after(1))
    view = runs.view("r1")
    assert kinds(view) == [("started", 0), ("step", 1), ("saved", 1), ("notice", 0), ("ended", 1)]
    assert (view.state, ended.reason) == ("stopped", "stopped on request after 1 optimizer step")
    assert {p.name for p in runs.path("r1").iterdir()} == FILES - {"best"} | {"checkpoint"}
    take_off_adapter(base)
    assert put_saved_adapter(base, runs.path("r1"), "r1") == pytest.approx(ended.adapter_difference, rel=1e-6)


def test_a_run_whose_workbench_went_away_says_so_and_names_nobody_s_request(base: Base, runs: RunStore) -> None:
    create(runs)
    ended = job.run_training(base, runs, "r1", stop=after(2), left=lambda: True)
    assert (ended.state, ended.reason) == ("stopped", "stopped after 2 optimizer steps, since the workbench was closed or killed")
    assert runs.view("r1").ended == ended


def test_a_run_stopped_before_its_first_step_keeps_no_adapter(base: Base, runs: RunStore) -> None:
    create(runs)
    ended = job.run_training(base, runs, "r1", stop=lambda: True)
    view = runs.view("r1")
    assert kinds(view) == [("started", 0), ("ended", 0)]
    assert view.state == "stopped" and not view.has_adapter and ended.adapter_difference is None
    assert ended.reason == "stopped on request after 0 optimizer steps; there is no adapter to keep"
    assert {p.name for p in runs.path("r1").iterdir()} == FILES - {"adapter_config.json", "adapter_model.safetensors", "best"}


def test_validation_and_saving_come_as_often_as_asked_and_at_the_end(base: Base, runs: RunStore) -> None:
    create(runs, chosen=settings(rows_per_step=1, evaluate_every=3, save_every=5))
    job.run_training(base, runs, "r1", stop=never)
    seen = kinds(runs.view("r1"))
    assert [step for kind, step in seen if kind == "step"] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [step for kind, step in seen if kind == "validation"] == [3, 6]
    assert [step for kind, step in seen if kind == "saved"] == [3, 5, 6, 8], "a better measurement is saved at once"


def test_without_held_back_rows_there_is_no_validation(base: Base, runs: RunStore) -> None:
    create(runs, chosen=settings(validation_share=0.0))
    job.run_training(base, runs, "r1", stop=never)
    view = runs.view("r1")
    assert view.validations == [] and view.started is not None and view.started.train_rows == 6


def test_rejected_rows_are_not_learned(base: Base, runs: RunStore) -> None:
    create(runs, [replace(ROWS[0], status="rejected"), *ROWS[1:]])
    job.run_training(base, runs, "r1", stop=never)
    started = runs.view("r1").started
    assert started is not None and started.train_rows + started.validation_rows == 5


GENERATED = [replace(row, source="generated:families") for row in ROWS]


@pytest.mark.parametrize(("unreviewed", "count"), [("handwritten", 4), ("all", 6), ("approved", 2)])
def test_generated_drafts_wait_for_review_unless_the_settings_say_otherwise(base: Base, unreviewed: Any, count: int) -> None:
    rows = [*GENERATED[:2], *(replace(row, status="approved") for row in GENERATED[2:4]), *ROWS[4:]]
    learned, held_back = job.prepare(rows, base, Training(validation_share=0.5, unreviewed=unreviewed), "rows.json")
    assert len(learned) == len(held_back) == count // 2


# -- runs that can't go on --------------------------------------------------------------------------


def refused(base: Base, runs: RunStore, error: type[WorkbenchError]) -> str:
    """The sentence a run is refused with, which must also stand in its folder as its end."""
    with pytest.raises(error) as caught:
        job.run_training(base, runs, "r1", stop=never)
    view = runs.view("r1")
    assert view.state == "failed" and view.ended is not None and view.ended.reason == str(caught.value)
    return str(caught.value)


def test_a_row_that_cannot_be_learned_is_named_by_its_line(base: Base, runs: RunStore) -> None:
    create(runs, [*ROWS[:2], conversation("Что значит <end_of_turn>?", "Не знаю."), *ROWS[3:]])
    assert refused(base, runs, DataError) == (
        "rows.json: 1 row(s) can't be learned: line 3, messages[0].content: the text holds the control token "
        "<end_of_turn>; take it out. Mend or delete them, then start again."
    )
    assert kinds(runs.view("r1")) == [("ended", 0)]


def test_the_line_counts_the_rejected_rows_before_it(base: Base, runs: RunStore) -> None:
    create(runs, [replace(ROWS[0], status="rejected"), ROWS[1], conversation("<bos>", "Не знаю."), *ROWS[3:]])
    assert "line 3, messages[0].content" in refused(base, runs, DataError)


def test_a_row_that_is_too_long_is_refused_with_its_length(base: Base, runs: RunStore) -> None:
    create(runs, [*ROWS, conversation("а" * 600, "Да.")], settings(max_row_tokens=700))
    assert "line 7, messages: the row has 1" in refused(base, runs, DataError)


def test_a_single_row_is_too_little(base: Base, runs: RunStore) -> None:
    create(runs, ROWS[:1])
    assert refused(base, runs, DataError) == "rows.json holds 1 usable row(s): add at least two before training."


def test_without_a_reviewed_row_there_is_nothing_to_learn(base: Base, runs: RunStore) -> None:
    create(runs, GENERATED)
    assert refused(base, runs, DataError) == (
        "rows.json holds 0 usable row(s): add at least two before training. 6 generated drafts wait for review and are left out: "
        "approve them on the Data tab, or set Unreviewed rows to “all”."
    )


def test_a_set_pinned_to_validation_alone_leaves_nothing_to_learn(base: Base, runs: RunStore) -> None:
    create(runs, [replace(row, pin="validation") for row in ROWS])
    assert refused(base, runs, DataError) == (
        "Every row of rows.json is pinned to validation, so none is left to learn: take pins off on the Data tab."
    )


def test_layers_that_the_model_lacks_are_refused(base: Base, runs: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    create(runs)
    take_off_adapter(base)
    plain = base.model.named_modules  # asked with a prefix where parameters are listed
    monkeypatch.setattr(base.model, "named_modules", lambda *args, **how: plain(*args, **how) if args or how else iter(()))
    assert "this model has no layer named q_proj, " in refused(base, runs, SettingsError)


DISK_FULL = {
    "the settings file": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    # The library that writes the weights wraps the system's error into its own.
    "the weights": SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
}


@pytest.fixture(params=sorted(DISK_FULL))
def full_disk(request: pytest.FixtureRequest, base: Base, runs: RunStore, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A run whose second saving meets a full disk half-way; the adapter as the first saving left it."""
    kept: list[bytes] = []
    real = peft.peft_model.safe_save_file

    def save(tensors: Any, path: str, metadata: Any = None) -> None:
        if kept:
            Path(path).write_bytes(b"half")
            raise DISK_FULL[request.param]
        real(tensors, path, metadata=metadata)
        kept.append(Path(path).read_bytes())

    monkeypatch.setattr(peft.peft_model, "safe_save_file", save)
    create(runs, chosen=settings(keep_best="off"))
    with pytest.raises(Exception):  # noqa: B017  which one is judged below
        job.run_training(base, runs, "r1", stop=never)
    return kept[0]


def test_a_full_disk_fails_the_run_with_one_sentence(full_disk: bytes, runs: RunStore) -> None:
    view = runs.view("r1")
    assert view.state == "failed" and view.ended is not None
    assert view.ended.reason == (
        f"The disk is full: {runs.path('r1')} was not written and the old version is untouched. Free some space and try again. "
        "Then resume the run: it goes on after optimizer step 2."
    )
    assert view.ended.cause == "disk" and view.resumable
    assert kinds(view)[-3:] == [("step", 4), ("validation", 4), ("ended", 4)]


def test_a_full_disk_leaves_the_adapter_saved_before_whole(full_disk: bytes, base: Base, runs: RunStore) -> None:
    assert (runs.path("r1") / "adapter_model.safetensors").read_bytes() == full_disk
    take_off_adapter(base)
    assert put_saved_adapter(base, runs.path("r1"), "r1") > 0


def test_a_full_disk_leaves_no_half_written_files(full_disk: bytes, runs: RunStore) -> None:
    assert {p.name for p in runs.path("r1").iterdir()} <= FILES | {"checkpoint"}


def test_an_unexpected_fault_ends_the_run_in_its_file_too(base: Base, runs: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(job, "train", broken)
    create(runs)
    with pytest.raises(Exception, match="boom"):
        job.run_training(base, runs, "r1", stop=never)
    view = runs.view("r1")
    assert view.state == "failed" and view.ended is not None and "boom" in view.ended.reason


def test_events_hold_no_line_that_cannot_be_read(base: Base, runs: RunStore) -> None:
    create(runs)
    job.run_training(base, runs, "r1", stop=never)
    lines = (runs.path("r1") / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(events.read_events(runs.path("r1") / "events.jsonl")) == 11


def test_what_a_kept_decoder_tells_of_the_adapter_is_the_run_s_proof(base: Base, runs: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    create(runs)
    monkeypatch.setattr(job, "difference_made", lambda asked, prompt: 3.25 if asked is base and prompt == probe(base) else None)
    assert job.run_training(base, runs, "r1", stop=never).adapter_difference == 3.25
