"""Runs on disk: what was asked, what happened, and the state that amounts to, whoever looks and whenever."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from workbench.dataset.formats import load_rows, rows_hash
from workbench.dataset.store import make_row
from workbench.errors import RunError, WorkbenchError
from workbench.settings import RunSettings, apply_overrides
from workbench.training import events
from workbench.training.card import model_card
from workbench.training.runs import Owner, RunStore

CALL = '<tool_call name="get_sensitive_data" arguments="{}"/>'
ROWS = [make_row("Какой у меня баланс?", CALL), make_row("Привет", "Привет!", "approved")]
SETTINGS = apply_overrides(RunSettings(), ["lora.rank=8", "training.epochs=3", "quantization.mode=4-bit"])
BEGUN = events.Started(
    time=1000.0, total_steps=40, epochs=10, train_rows=63, validation_rows=7,
    trainable_parameters=3_796_992, total_parameters=271_895_168, device="CPU, 2 threads",
)  # fmt: skip


def step(number: int, at: float, loss: float = 2.0) -> events.Step:
    return events.Step(
        time=at, step=number, epoch=number / 4, loss=loss, learning_rate=1e-4, gradient_norm=0.5,
        tokens=640, labels=160, seconds=2.0, memory_gib=1.5,
    )  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    return RunStore(tmp_path / "adapters")


def create(runs: RunStore, name: str = "first", model: str = "demo", model_name: str = "gemma-3-270m"):
    return runs.create(name, model=model, model_name=model_name, rows=ROWS, data_name="examples.json", settings=SETTINGS)


def refusal(act) -> str:
    with pytest.raises(RunError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def give_to(runs: RunStore, name: str, owner: Owner) -> None:
    """Rewrite run.json as if another process answered for the run."""
    path = runs.path(name) / "run.json"
    path.write_text(runs.info(name).model_copy(update={"owner": owner}).model_dump_json(), encoding="utf-8")


def dead_owner() -> Owner:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return Owner(pid=process.pid, started=time.time())


def test_a_created_run_holds_what_was_asked_and_the_rows(runs):
    before = time.time()
    info = create(runs)
    folder = runs.folder / "first"
    assert sorted(p.name for p in folder.iterdir()) == ["calls.json", "rows.jsonl", "run.json"]
    assert load_rows(folder / "rows.jsonl").rows == tuple(ROWS)
    assert (info.name, info.model, info.model_name) == ("first", "demo", "gemma-3-270m")
    assert (info.data_name, info.data_rows) == ("examples.json", 2)
    assert (info.data_sha256, info.dialect, info.settings) == (rows_hash(ROWS), "tag", SETTINGS)
    assert info.owner == Owner.this_process()
    assert info.owner.pid == os.getpid()
    assert before <= info.created <= time.time()
    assert {"torch", "transformers"} <= set(info.versions)
    assert runs.info("first") == info


def test_a_taken_name_is_refused_and_the_first_run_stays(runs):
    info = create(runs)
    assert refusal(lambda: create(runs)) == "There is already a run named first: choose another name."
    assert runs.info("first") == info


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "con", "x" * 65, "a b", "/tmp/x"])
def test_an_unsafe_name_is_refused_everywhere(runs, name):
    for act in (runs.path, runs.info, runs.view, lambda n: create(runs, n)):
        assert refusal(lambda act=act: act(name)).startswith(f"The run name {name!r} can't be used")
    assert not runs.folder.exists()


def test_an_unknown_run_is_told_with_those_that_are_there(runs):
    assert refusal(lambda: runs.info("none")) == "There is no run named none; there are: none yet."
    create(runs)
    assert refusal(lambda: runs.view("none")) == "There is no run named none; there are: first."


def test_a_full_disk_leaves_no_half_made_run(runs, monkeypatch):
    def full(*args):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(WorkbenchError, match=r"^The disk is full: "):
        create(runs)
    assert list(runs.folder.iterdir()) == []


def test_runs_are_listed_newest_first_and_other_folders_are_none(runs):
    assert (runs.names(), runs.views()) == ([], [])
    for age, name in ((300, "old"), (100, "new"), (200, "middle")):
        create(runs, name)
        os.utime(runs.path(name) / "run.json", (time.time() - age,) * 2)
    (runs.folder / "no-run").mkdir()
    (runs.folder / ".gitkeep").write_text("")
    assert runs.names() == [view.info.name for view in runs.views()] == ["new", "middle", "old"]


def state_after(runs: RunStore, *happened: events.Event) -> str:
    create(runs)
    for event in happened:
        runs.append("first", event)
    return runs.view("first").state


@pytest.mark.parametrize(
    ("happened", "state"),
    [
        ([], "waiting"), ([events.Notice(text="x")], "waiting"), ([BEGUN], "running"), ([BEGUN, step(1, 1.0)], "running"),
        ([BEGUN, events.Ended(state="finished")], "finished"), ([BEGUN, events.Ended(state="stopped")], "stopped"),
        ([events.Ended(state="failed", reason="x")], "failed"),
    ],
)  # fmt: skip
def test_the_state_is_what_the_events_amount_to(runs, happened, state):
    assert state_after(runs, *happened) == state
    assert runs.view("first").live is (state in ("waiting", "running"))


@pytest.mark.parametrize("happened", [[], [BEGUN], [BEGUN, step(1, 1.0)]])
def test_a_run_whose_process_is_gone_is_interrupted(runs, happened):
    state_after(runs, *happened)
    give_to(runs, "first", dead_owner())
    assert (runs.view("first").state, runs.view("first").live) == ("interrupted", False)


def test_a_run_that_ended_needs_no_living_process(runs):
    state_after(runs, BEGUN, events.Ended(state="finished"))
    give_to(runs, "first", dead_owner())
    assert runs.view("first").state == "finished"


def test_a_process_number_used_again_is_not_the_owner():
    me = Owner.this_process()
    assert me.alive() is True
    assert Owner(pid=me.pid, started=me.started - 100).alive() is False


def test_a_new_event_is_seen_at_the_next_look(runs):
    assert state_after(runs, BEGUN) == "running"
    runs.append("first", step(1, 1.0))
    assert [s.step for s in runs.view("first").steps] == [1]
    assert RunStore(runs.folder).view("first").steps == runs.view("first").steps


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[]", b'{"name": "first"}'])
def test_a_broken_run_is_named_and_hides_no_other(runs, raw):
    create(runs)
    create(runs, "second")
    (runs.path("first") / "run.json").write_bytes(raw)
    sentence = "The file first/run.json is broken: restore it or remove the run's folder."
    assert refusal(lambda: runs.info("first")) == sentence
    assert runs.broken() == [sentence]
    assert [view.info.name for view in runs.views()] == ["second"]


def test_the_first_reason_of_a_failure_stays(runs):
    state_after(runs, BEGUN, step(3, 1.0))
    runs.mark_failed("first", "The engine died.")
    runs.mark_failed("first", "another reason")
    ended = runs.view("first").ended
    assert (ended.state, ended.reason, ended.step) == ("failed", "The engine died.", 3)
    assert sum(isinstance(e, events.Ended) for e in runs.view("first").happened) == 1


def test_a_run_that_died_in_the_middle_of_a_line_can_still_be_marked_failed(runs):
    state_after(runs, BEGUN, step(1, 1.0))
    with (runs.path("first") / "events.jsonl").open("ab") as stream:
        stream.write(b'{"time": 1')
    runs.mark_failed("first", "The engine died.")
    assert runs.view("first").state == "failed"
    assert runs.view("first").ended.reason == "The engine died."


def answered(number: int, at: float, seconds: float) -> events.Sampled:
    return events.Sampled(time=at, step=number, epoch=number / 4, right=1, asked=2, seconds=seconds)


@pytest.mark.parametrize(
    ("happened", "now", "left"),
    [
        ([BEGUN], 1001.0, None), ([step(1, 1003.0)], 1003.0, None),
        ([BEGUN, step(10, 1020.0), events.Ended(state="stopped")], 1025.0, None),
        ([BEGUN, step(39, 1078.0)], 2000.0, 0.0),
        # 2 s a step and nothing else known: 39 steps of 2 s, or 30, less the 5 s since the last was told.
        ([BEGUN, step(1, 1003.0)], 1003.0, 78.0), ([BEGUN, step(10, 1020.0)], 1025.0, 55.0),
        # Answers took 4 s before the first step: each of the 10 epochs will end with as much.
        ([BEGUN, answered(0, 1004.0, 4.0), step(1, 1006.0)], 1006.0, 78.0 + 40.0),
        # The first epoch's end took 6 s (answers and saving), so the other 9 will: 35 steps of 2 s and 54 s.
        ([BEGUN, *(step(k, 1000.0 + 2 * k) for k in (1, 2, 3, 4)), answered(4, 1012.0, 4.0), step(5, 1016.0)], 1016.0, 70.0 + 54.0),
        # The last step is done, the last epoch's end (6 s, as the one before) is not.
        ([BEGUN, step(36, 1072.0), *(step(k, 1006.0 + 2 * k) for k in range(37, 41))], 1087.0, 5.0),
        # An hour's pause and what was told before it do not weigh in.
        ([BEGUN, step(1, 1100.0), step(2, 1200.0), events.Resumed(step=2, time=5000.0), BEGUN.model_copy(update={"time": 5001.0}), step(3, 5003.0)],
         5003.0, 74.0),
    ],
)  # fmt: skip
def test_the_seconds_left_follow_from_the_steps_and_from_what_an_epoch_s_end_takes(runs, monkeypatch, happened, now, left):
    state_after(runs, *happened)
    view = runs.view("first")
    monkeypatch.setattr(time, "time", lambda: now)
    assert view.seconds_left() == (pytest.approx(left) if left is not None else None)


def test_a_view_sorts_the_events_and_knows_whether_there_is_an_adapter(runs):
    happened = [BEGUN, step(1, 1.0, 3.0), events.Validation(step=1, epoch=0.25, loss=2.5), step(2, 2.0), events.Saved(step=2)]
    assert state_after(runs, *happened) == "running"
    view = runs.view("first")
    assert (view.started, view.ended) == (BEGUN, None)
    assert ([s.step for s in view.steps], [v.loss for v in view.validations]) == ([1, 2], [2.5])
    assert view.happened == tuple(happened)
    assert view.has_adapter is False
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert runs.view("first").has_adapter is False
        (view.folder / file).write_text("")
    assert runs.view("first").has_adapter is True


def test_scores_are_kept_beside_the_adapter(runs):
    create(runs)
    runs.write_scores("first", {"reply": "Привет", "call_recall": {"k": 1, "n": 2, "rate": 0.5}})
    written = (runs.path("first") / "scores.json").read_text(encoding="utf-8")
    assert "Привет" in written
    assert json.loads(written)["call_recall"] == {"k": 1, "n": 2, "rate": 0.5}


def test_the_model_card_tells_what_was_trained_and_how_it_ended(runs):
    create(runs)
    validation = events.Validation(step=40, epoch=10.0, loss=1.25)
    for event in (BEGUN, step(1, 1.0, 3.5), step(40, 2.0, 0.25), validation, events.Ended(state="finished", step=40)):
        runs.append("first", event)
    card = model_card(runs.view("first"))
    assert card.startswith("---\nlibrary_name: peft\nbase_model: gemma-3-270m\ntags: [tool-calling, lora]\n---\n\n# first\n")
    for line in (
        f"| rows | 2 from examples.json, SHA-256 `{rows_hash(ROWS)[:16]}…` |", "| base weights | 4-bit nf4 |",
        "| LoRA | rank 8, alpha 32, dropout 0.1, q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj |",
        "| training | 3 epochs, 16 rows a step, rate 0.0003 (cosine, 10 warm-up steps), clip 0.3, seed 42 |",
        "| parameters | 3,796,992 trainable of 271,895,168 |", "| train loss | 3.500 → 0.250 after 40 optimizer steps |",
        "| validation loss | 1.250 |", "| ended | finished |",
    ):  # fmt: skip
        assert line in card.splitlines()


@pytest.mark.parametrize(("best", "told"), [(40, "the same, kept again"), (36, "the best by validation loss, after step 36")])
def test_the_model_card_names_the_last_and_the_best_adapter(runs, best, told):
    create(runs)
    early = events.Ended(state="finished", step=40, best_step=best, cause="early stop", reason="ended early after optimizer step 40")
    for event in (BEGUN, step(40, 2.0), events.Saved(step=best, best=True), events.Saved(step=40, best=best == 40), early):
        runs.append("first", event)
    card = model_card(runs.view("first")).splitlines()
    assert f"| adapters | here: the last, after step 40; best/: {told} |" in card
    assert "| ended | finished: ended early after optimizer step 40 |" in card


@pytest.mark.parametrize("happened", [[], [BEGUN, events.Ended(state="stopped", reason="stopped by hand", step=1)]])
def test_the_model_card_names_no_path_of_this_machine(runs, tmp_path, happened):
    create(runs, model=str(tmp_path / "models" / "my-gemma"), model_name="my-gemma")
    for event in happened:
        runs.append("first", event)
    card = model_card(runs.view("first"))
    assert str(tmp_path) not in card
    assert "base_model: my-gemma\n" in card


def test_the_model_card_of_a_failed_run_does_not_repeat_the_path_in_its_reason(runs, tmp_path):
    create(runs)
    runs.append("first", events.Ended(state="failed", reason=f"The disk is full: {runs.path('first')} was not written."))
    card = model_card(runs.view("first"))
    assert "| ended | failed" in card
    assert str(tmp_path) not in card


# -- resumed runs ------------------------------------------------------------------------------------


def test_a_resume_voids_what_was_told_after_its_checkpoint_and_the_end_before_it(runs):
    old = [BEGUN, events.Sampled(step=0, epoch=0.0, right=1, asked=2), step(1, 1.0), events.Validation(step=1, epoch=0.25, loss=2.5),
           step(2, 2.0, 9.0), events.Sampled(step=2, epoch=0.5, right=2, asked=2), events.Ended(state="failed", reason="x", step=2)]  # fmt: skip
    assert state_after(runs, *old, events.Resumed(step=1)) == "waiting"
    view = runs.view("first")
    assert ([s.step for s in view.steps], len(view.validations), [s.step for s in view.samples], view.ended) == ([1], 1, [0], None)
    for event in (BEGUN.model_copy(update={"device": "H100"}), step(2, 3.0, 1.5)):
        runs.append("first", event)
    view = runs.view("first")
    assert (view.state, [s.loss for s in view.steps], view.started.device) == ("running", [2.0, 1.5], "H100")
    assert len(view.happened) == len(old) + 3, "the log keeps them all"


def test_a_resume_from_step_0_begins_anew_and_keeps_the_notices(runs):
    notice = events.Notice(text="x")
    state_after(runs, BEGUN, notice, events.Sampled(step=0, epoch=0.0, right=0, asked=1), step(1, 1.0), events.Resumed(step=0))
    assert [e.type for e in runs.view("first").standing] == ["notice", "resumed"]


def test_a_resumed_run_whose_process_is_gone_is_interrupted_again(runs):
    state_after(runs, BEGUN, events.Ended(state="stopped"), events.Resumed(step=0))
    give_to(runs, "first", dead_owner())
    assert runs.view("first").state == "interrupted"


def test_the_cause_of_a_failure_is_kept(runs):
    state_after(runs, BEGUN, step(3, 1.0))
    runs.mark_failed("first", "The memory ran out.", cause="memory")
    assert runs.view("first").ended.cause == "memory"


@pytest.mark.parametrize(("end", "can"), [("stopped", True), ("failed", True), ("finished", False), (None, False)])
def test_a_run_can_be_resumed_if_it_has_a_checkpoint_and_neither_goes_on_nor_finished(runs, end, can):
    state_after(runs, BEGUN, step(3, 1.0), *([events.Ended(state=end)] if end else []))
    assert runs.view("first").resumable is False
    (runs.path("first") / "checkpoint").mkdir()
    (runs.path("first") / "checkpoint" / "state.json").write_text("{}")
    assert runs.view("first").resumable is can


def test_a_copied_folder_is_a_run_of_its_own_name(runs):
    create(runs)
    shutil.copytree(runs.path("first"), runs.path("copy"))
    assert {view.info.name for view in runs.views()} == {"first", "copy"}
    assert runs.info("copy").settings == runs.info("first").settings
