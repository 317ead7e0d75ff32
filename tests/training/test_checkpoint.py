"""Checkpoints: a resumed run is the uninterrupted one, whatever ended it; what can't be resumed is refused and stays as it is."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from workbench.dataset.formats import dump_jsonl, load_rows
from workbench.errors import DataError, RunError, WorkbenchError
from workbench.files import write_atomic
from workbench.models.adapters import put_new_adapter, put_saved_adapter, take_off_adapter
from workbench.models.fingerprint import fingerprint
from workbench.models.loading import Base, load_base
from workbench.settings import Quantization, RunSettings, make_settings
from workbench.training import batching, checkpoint, events, job, loop, resuming
from workbench.training.cpu_pass import CpuPass
from workbench.training.keeping import Keeper
from workbench.training.pack import pack_within
from workbench.training.runs import Owner, RunStore
from workbench.workspace import Workspace

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
ROWS = load_rows(ROOT / "data" / "examples.json").rows[:6]
# 6 rows: 4 to learn, 2 held back; 3 epochs of 2 steps, with dropout.
SMALL = {"epochs": 3, "rows_per_step": 2, "validation_share": 0.34, "warmup_steps": 1, "learning_rate": 0.02, "sample_every": 1}
PLAIN = {"sample_every": 0, "keep_best": "off"}


@pytest.fixture(scope="module", autouse=True)
def short_replies() -> Iterator[None]:
    """A byte is a token of the tiny model's: what it answers is cut early, for speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "MOST_NEW_TOKENS", 6)
        yield


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> Base:
    return load_base(tiny_folder, Quantization(mode="none"))


@pytest.fixture
def runs(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "adapters")


def settings(**training: Any) -> RunSettings:
    return make_settings({"training": SMALL | training, "lora": {"rank": 4, "alpha": 8, "dropout": 0.2}})


def create(runs: RunStore, name: str = "r1", **training: Any) -> None:
    runs.create(name, model="demo", model_name="gemma-3-270m", rows=ROWS, data_name="rows.json", settings=settings(**training))


def never() -> bool:
    return False


def told_steps(runs: RunStore, name: str, count: int) -> Callable[[], bool]:
    """A stop that is asked for once `count` steps are told."""
    return lambda: len(runs.view(name).steps) >= count


def tensors_of(folder: Path, step: int = 3) -> Path:
    """The one file of tensors in a checkpoint's folder."""
    (found,) = folder.glob(f"step-{step}-*.safetensors")
    return found


class Crash(BaseException):
    """Ends a run as a kill does: nothing of ours catches it."""


def crash_at(step: int) -> Callable[[events.Event], None]:
    def tell(event: events.Event) -> None:
        if isinstance(event, events.Step) and event.step == step:
            raise Crash

    return tell


def curve(runs: RunStore, name: str = "r1") -> list[tuple[str, int, float]]:
    """Every loss and count that the run's own view tells, in order."""
    view = runs.view(name)
    return [
        *(("step", e.step, e.loss) for e in view.steps), *(("rate", e.step, e.learning_rate) for e in view.steps),
        *(("validation", e.step, e.loss) for e in view.validations), *(("right", e.step, e.right) for e in view.samples),
    ]  # fmt: skip


def dead(runs: RunStore, name: str = "r1") -> None:
    """As if the process that answered for the run were gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    runs.rewrite_info(name, owner=Owner(pid=process.pid, started=time.time() - 1000))


@pytest.fixture(scope="module")
def whole(base: Base, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int, float]]:
    """The curve of the run that nothing interrupted."""
    store = RunStore(tmp_path_factory.mktemp("whole"))
    create(store)
    job.run_training(base, store, "r1", stop=never)
    return curve(store)


def same(found: list[tuple[str, int, float]], wanted: list[tuple[str, int, float]]) -> None:
    assert [f[:2] for f in found] == [w[:2] for w in wanted]
    assert [f[2] for f in found] == pytest.approx([w[2] for w in wanted], abs=1e-4, rel=0)


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_a_stopped_run_goes_on_as_if_it_had_never_stopped(base: Base, runs: RunStore, whole: list[Any], step: int) -> None:
    create(runs)
    assert job.run_training(base, runs, "r1", stop=told_steps(runs, "r1", step)).state == "stopped"
    view = runs.view("r1")
    assert view.resumable and len(view.steps) == step
    take_off_adapter(base)
    torch.manual_seed(999)  # whatever else the engine did meanwhile
    random.seed(999)
    ended = job.run_training(base, runs, "r1", stop=never, resume=True)
    assert (ended.state, ended.step) == ("finished", 6)
    same(curve(runs), whole)


@pytest.mark.parametrize(("step", "start"), [(1, 0), (3, 2), (5, 4), (6, 4)])
def test_a_run_that_crashed_between_two_savings_goes_on_from_the_last(base: Base, runs: RunStore, whole: list[Any], step: int, start: int) -> None:
    create(runs)
    with pytest.raises(Crash):
        job.run_training(base, runs, "r1", stop=never, tell=crash_at(step))
    dead(runs)
    assert (runs.view("r1").state, runs.view("r1").resumable) == ("interrupted", start > 0)
    assert resuming.reopen(runs, "r1") == start
    assert (runs.view("r1").state, runs.info("r1").owner) == ("waiting", Owner.this_process())
    states = []
    ended = job.run_training(base, runs, "r1", stop=never, resume=True, tell=lambda e: states.append(runs.view("r1").state))
    assert (ended.state, ended.step, states[0], states[-2:]) == ("finished", 6, "running", ["running", "finished"])
    same(curve(runs), whole)
    assert ended.peak_memory_gib == max(s.memory_gib for s in runs.view("r1").steps)


@pytest.mark.skipif(torch.cuda.is_available(), reason="bf16 kernels differ in the third digit between two processes on a card")
def test_a_process_killed_outright_leaves_a_run_that_can_be_resumed(base: Base, workspace: Workspace) -> None:
    long = {"epochs": 40, "save_every": 3, **PLAIN}
    pairs = [f"--set=training.{k}={v}" for k, v in (SMALL | long).items()] + ["--set=lora.rank=4", "--set=lora.alpha=8", "--set=lora.dropout=0.2"]
    data = workspace.root / "six.jsonl"
    data.write_text(dump_jsonl(ROWS), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "workbench", "--root", str(workspace.root), "train", "--data", str(data), "--name", "r1", *pairs],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    path = workspace.root / "adapters" / "r1" / "events.jsonl"
    while process.poll() is None and sum(isinstance(e, events.Step) for e in events.read_events(path)) < 8:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run must not have ended by itself"
    runs = workspace.runs
    before = runs.view("r1")
    assert before.state == "interrupted" and before.resumable and 8 <= len(before.steps) < 80
    assert job.run_training(base, runs, "r1", stop=never, resume=True).step == 80
    resumed = [e.step for e in runs.view("r1").happened if isinstance(e, events.Resumed)]
    assert len(resumed) == 1 and 3 <= resumed[0] <= len(before.steps)
    create(runs, "r2", **long)
    job.run_training(base, runs, "r2", stop=never)
    same(curve(runs), curve(runs, "r2"))


def test_a_run_can_be_resumed_more_than_once(base: Base, runs: RunStore, whole: list[Any]) -> None:
    create(runs)
    job.run_training(base, runs, "r1", stop=told_steps(runs, "r1", 1))
    spent = runs.view("r1").ended.seconds  # type: ignore[union-attr]
    for count in (3, 5):
        job.run_training(base, runs, "r1", stop=told_steps(runs, "r1", count), resume=True)
    ended = job.run_training(base, runs, "r1", stop=never, resume=True)
    assert [e.step for e in runs.view("r1").happened if isinstance(e, events.Resumed)] == [1, 3, 5]
    assert ended.seconds > spent
    same(curve(runs), whole)


@pytest.mark.parametrize("step", [2, 6])
def test_a_validation_that_a_stop_cuts_short_is_the_first_thing_after_a_resume(
    base: Base, runs: RunStore, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    create(runs)
    monkeypatch.setattr(loop, "pack_within", lambda rows, budget: [pack for row in rows for pack in pack_within([row], budget)])  # a row a pack
    packs = []
    real = CpuPass.loss_sum
    monkeypatch.setattr(CpuPass, "loss_sum", lambda *given: packs.append(torch.is_grad_enabled()) or real(*given))
    ended = job.run_training(base, runs, "r1", stop=told_steps(runs, "r1", step))
    assert (ended.state, ended.step) == ("stopped", step) and packs[-2:] == [True, False], "one pack of two was measured"
    assert step not in [v.step for v in runs.view("r1").validations]
    assert runs.view("r1").has_adapter and runs.view("r1").resumable
    assert job.run_training(base, runs, "r1", stop=never, resume=True).state == "finished"
    assert [v.step for v in runs.view("r1").validations] == [2, 4, 6]


def test_a_stop_right_after_a_resume_loses_nothing(base: Base, runs: RunStore, whole: list[Any]) -> None:
    create(runs)
    job.run_training(base, runs, "r1", stop=told_steps(runs, "r1", 3))
    for _ in range(3):  # the checkpoint of one step, written again and again
        assert job.run_training(base, runs, "r1", stop=lambda: True, resume=True).step == 3
    job.run_training(base, runs, "r1", stop=never, resume=True)
    same(curve(runs), whole)


def test_a_checkpoint_holds_safetensors_and_json_and_goes_when_the_run_is_finished(base: Base, runs: RunStore) -> None:
    create(runs)
    job.run_training(base, runs, "r1", stop=told_steps(runs, "r1", 3))
    folder = runs.path("r1") / "checkpoint"
    assert {p.name for p in folder.iterdir()} == {"state.json", tensors_of(folder).name}
    tensors = safetensors.torch.load_file(str(tensors_of(folder)))
    own = {k for k in tensors if k.startswith("adapter/")}
    assert len(own) == 2 * 7 * 3 and all(tensors[k].dtype == torch.float32 for k in own)
    assert set(tensors) == own | {k.replace("adapter/", f"{m}/") for k in own for m in ("exp_avg", "exp_avg_sq", "step")} | {"random/cpu"}
    state = resuming.read_state(runs.path("r1"), "r1")
    assert state is not None and (state.step, state.size) == (3, tensors_of(folder).stat().st_size)
    job.run_training(base, runs, "r1", stop=never, resume=True)
    assert not folder.exists() and not runs.view("r1").resumable


def test_the_log_states_the_size_of_a_checkpoint_once(base: Base, runs: RunStore) -> None:
    create(runs)
    job.run_training(base, runs, "r1", stop=never)
    notices = [e.text for e in runs.view("r1").happened if isinstance(e, events.Notice)]
    assert notices == ["The run can be resumed from each saving: its checkpoint takes 0.2 MiB until the run is finished."]


# -- what can't be resumed ------------------------------------------------------------------------


@pytest.fixture
def stopped(base: Base, runs: RunStore) -> RunStore:
    create(runs, **PLAIN)
    job.run_training(base, runs, "r1", stop=told_steps(runs, "r1", 3))
    return runs


def refused(act: Callable[[], Any], error: type[WorkbenchError] = RunError) -> str:
    with pytest.raises(error) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def untouched(runs: RunStore, act: Callable[[], Any]) -> str:
    """The refusal of `act`, which must leave the run's events and its owner as they are."""
    events_before, info = (runs.path("r1") / "events.jsonl").read_bytes(), runs.info("r1")
    sentence = refused(act)
    assert ((runs.path("r1") / "events.jsonl").read_bytes(), runs.info("r1")) == (events_before, info)
    assert not (runs.path("r1") / ".reopening").exists()
    return sentence


def test_a_finished_run_is_not_resumed(base: Base, runs: RunStore) -> None:
    create(runs, **PLAIN)
    job.run_training(base, runs, "r1", stop=never)
    for act in (lambda: resuming.reopen(runs, "r1"), lambda: job.run_training(base, runs, "r1", stop=never, resume=True)):
        assert untouched(runs, act) == "The run r1 is finished: start a new one to train for longer."
    assert untouched(runs, lambda: job.run_training(base, runs, "r1", stop=never)) == (
        "The run r1 has finished already: resume it, or start a new one under another name."
    )


def test_a_run_that_goes_on_is_neither_resumed_nor_started_again(base: Base, stopped: RunStore) -> None:
    resuming.reopen(stopped, "r1")
    assert untouched(stopped, lambda: resuming.reopen(stopped, "r1")) == "The run r1 is going on already: wait for its end, or stop it first."
    stopped.append("r1", stopped.view("r1").started)  # type: ignore[arg-type]
    for resume in (True, False):
        assert "already: wait for its end" in untouched(stopped, lambda resume=resume: job.run_training(base, stopped, "r1", stop=never, resume=resume))


def test_two_processes_can_t_take_one_run_up_at_once(stopped: RunStore) -> None:
    claim = stopped.path("r1") / ".reopening"
    claim.write_text("")
    assert refused(lambda: resuming.reopen(stopped, "r1")).startswith("The run r1 is being resumed by somebody else at this moment")
    os.utime(claim, (time.time() - 100,) * 2)  # left by a process that died
    assert resuming.reopen(stopped, "r1") == 3


def test_a_missing_checkpoint_is_told(stopped: RunStore) -> None:
    shutil.rmtree(stopped.path("r1") / "checkpoint")
    assert not stopped.view("r1").resumable
    assert untouched(stopped, lambda: resuming.reopen(stopped, "r1")) == (
        "The checkpoint of run r1 is missing, so it can't be resumed: start a new run, or use the adapter it saved."
    )


@pytest.mark.parametrize("how", ["no json", "half a state", "cut tensors", "no tensors", "a way out"])
def test_a_broken_checkpoint_is_told(stopped: RunStore, how: str) -> None:
    folder = stopped.path("r1") / "checkpoint"
    tensors = tensors_of(folder)
    if how == "no json":
        (folder / "state.json").write_bytes(b"\xff")
    elif how == "half a state":
        (folder / "state.json").write_text('{"step": 3}')
    elif how == "cut tensors":
        tensors.write_bytes(tensors.read_bytes()[:-10])
    elif how == "no tensors":
        tensors.unlink()
    else:
        state = json.loads((folder / "state.json").read_text())
        shutil.copy(tensors, stopped.path("r1") / "x.safetensors")
        (folder / "state.json").write_text(json.dumps(state | {"tensors": "../x.safetensors"}))
    assert untouched(stopped, lambda: resuming.reopen(stopped, "r1")) == (
        "The checkpoint of run r1 is broken, so it can't be resumed: start a new run, or use the adapter it saved."
    )


def test_tensors_that_are_spoiled_at_their_full_length_are_told(base: Base, stopped: RunStore) -> None:
    path = tensors_of(stopped.path("r1") / "checkpoint")
    path.write_bytes(b"\xff" * path.stat().st_size)
    assert refused(lambda: job.run_training(base, stopped, "r1", stop=never, resume=True)).startswith("The checkpoint of run r1 is broken")
    assert stopped.view("r1").state == "failed"


def test_a_checkpoint_of_a_newer_workbench_is_told(stopped: RunStore) -> None:
    path = stopped.path("r1") / "checkpoint" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 2}))
    assert "written by a newer workbench" in untouched(stopped, lambda: resuming.reopen(stopped, "r1"))


def test_another_base_is_refused(base: Base, stopped: RunStore, tiny_model_folder: Callable[[str], Path]) -> None:
    assert stopped.info("r1").base_fingerprint == fingerprint(base.folder)
    other = tiny_model_folder("gemma3-wide")
    sentence = untouched(stopped, lambda: resuming.reopen(stopped, "r1", base=other))
    assert sentence.startswith("The run r1 began on another gemma-3-270m: the model's files have changed since")
    wide = load_base(other, Quantization(mode="none"))
    assert refused(lambda: job.run_training(wide, stopped, "r1", stop=never, resume=True)) == sentence
    assert stopped.view("r1").state == "failed" and stopped.view("r1").resumable, "with its base back it can go on"
    assert resuming.reopen(stopped, "r1", base=base.folder) == 3


def test_a_model_of_one_shape_with_other_weights_has_another_fingerprint(base: Base, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(base.folder, copy)
    assert fingerprint(copy) == fingerprint(base.folder)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"transformers_version": "9.9"}, indent=4))
    assert fingerprint(copy) == fingerprint(base.folder)
    (weights,) = copy.glob("*.safetensors")
    tensors = safetensors.torch.load_file(str(weights))
    safetensors.torch.save_file({k: t * 1.01 for k, t in tensors.items()}, str(weights), metadata={"format": "pt"})
    assert fingerprint(copy) != fingerprint(base.folder)


# -- rows, disks and stops --------------------------------------------------------------------------


def test_rows_changed_or_deleted_in_the_dataset_do_not_reach_a_run(base: Base, workspace: Workspace) -> None:
    rows = workspace.data_dir / "examples.json"
    workspace.create_run("r1", ROWS, settings(**PLAIN), data_name="examples.json")
    job.run_training(base, workspace.runs, "r1", stop=told_steps(workspace.runs, "r1", 1))
    rows.unlink()
    assert job.run_training(base, workspace.runs, "r1", stop=never, resume=True).state == "finished"


@pytest.mark.parametrize(("text", "said"), [(None, "are gone"), (dump_jsonl(ROWS[:5]), "were changed after it was created")])
def test_a_run_whose_own_rows_were_touched_is_refused(base: Base, stopped: RunStore, text: str | None, said: str) -> None:
    path = stopped.path("r1") / "rows.jsonl"
    path.unlink() if text is None else path.write_text(text, encoding="utf-8")
    sentence = refused(lambda: job.run_training(base, stopped, "r1", stop=never, resume=True), DataError)
    assert sentence == f"The rows that run r1 learns from (r1/rows.jsonl) {said}: restore the file, or start a new run from the dataset."
    path.write_text(dump_jsonl(ROWS), encoding="utf-8")
    assert job.run_training(base, stopped, "r1", stop=never, resume=True).state == "finished"


def moment(step: int) -> checkpoint.Moment:
    model = torch.nn.Linear(3, 3)
    return checkpoint.Moment(step, model, torch.optim.AdamW(model.parameters()), Keeper(None, False, 0), 0, False)


def test_no_file_of_tensors_is_ever_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for _ in range(4):
        checkpoint.write_checkpoint(tmp_path, moment(2), seconds=1.0)
        names.append(tensors_of(tmp_path / "checkpoint", 2).name)
    assert len(set(names)) == 4
    monkeypatch.setattr(checkpoint, "_flush", lambda path: (_ for _ in ()).throw(OSError(errno.EIO, "x")))
    with pytest.raises(OSError, match="x"):
        checkpoint.write_checkpoint(tmp_path, moment(2), seconds=1.0)
    state = resuming.read_state(tmp_path, "r1")
    assert state is not None and state.tensors == tensors_of(tmp_path / "checkpoint", 2).name == names[-1]


def test_an_interruption_right_after_the_state_was_replaced_leaves_its_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path, text: str) -> None:
        write_atomic(path, text)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write_atomic", write)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write_checkpoint(tmp_path, moment(3), seconds=1.0)
    found = checkpoint.read_checkpoint(tmp_path, "r1")
    assert found is not None and found.state.step == 3 and "adapter/weight" in found.tensors


@pytest.mark.parametrize("best", [False, True])
def test_what_was_measured_of_an_adapter_goes_when_another_takes_its_place(base: Base, tmp_path: Path, best: bool) -> None:
    into = tmp_path / "best" if best else tmp_path
    model = put_new_adapter(base, settings().lora, name="r1", seed=1, checkpointing=False)
    checkpoint.save_adapter(base, tmp_path, best=best)
    for name in ("scores.json", "answers.json"):
        (into / name).write_text("{}")
    checkpoint.save_adapter(base, tmp_path, best=best)
    assert (into / "scores.json").is_file() and (into / "answers.json").is_file(), "the same adapter once more"
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad).add_(1.0)
    checkpoint.save_adapter(base, tmp_path, best=best)
    assert sorted(p.name for p in into.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    take_off_adapter(base)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("what", ["the tensors", "the state"])
def test_a_disk_that_refuses_a_checkpoint_leaves_the_old_one_whole(
    base: Base, runs: RunStore, monkeypatch: pytest.MonkeyPatch, whole: list[Any], number: int, what: str
) -> None:
    create(runs)
    real_save, real_write = checkpoint.save_file, checkpoint.write_atomic

    def save(tensors: Any, path: str) -> None:
        if "step-4" in path and what == "the tensors":
            Path(path).write_bytes(b"half")
            raise OSError(number, os.strerror(number))
        real_save(tensors, path)

    def write(path: Path, text: str) -> None:
        if '"step":4' in text and what == "the state":
            try:
                raise OSError(number, os.strerror(number))
            except OSError as exc:
                raise WorkbenchError(f"refused: {path.name}") from exc
        real_write(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", save)
        patch.setattr(checkpoint, "write_atomic", write)
        with pytest.raises(WorkbenchError, match="Then resume the run: it goes on after optimizer step 2"):
            job.run_training(base, runs, "r1", stop=never)
    view = runs.view("r1")
    assert (view.state, view.ended and view.ended.cause, view.resumable) == ("failed", "disk", True)
    assert {p.name for p in (view.folder / "checkpoint").iterdir()} == {"state.json", tensors_of(view.folder / "checkpoint", 2).name}
    take_off_adapter(base)
    assert put_saved_adapter(base, view.folder, "r1") > 0, "the last good adapter stays"
    job.run_training(base, runs, "r1", stop=never, resume=True)
    same(curve(runs), whole)


def test_a_run_s_folder_that_turns_read_only_is_told_and_does_not_look_alive(base: Base, runs: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    create(runs, **PLAIN)
    real = events.append_event

    def append(path: Path, event: Any) -> None:
        if len(runs.view("r1").steps) >= 3:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        real(path, event)

    with monkeypatch.context() as patch:
        patch.setattr(events, "append_event", append)
        with pytest.raises(WorkbenchError, match=r"^There is no permission to use .*/r1\. Change its rights"):
            job.run_training(base, runs, "r1", stop=never)
        assert (runs.view("r1").state, runs.view("r1").ended.cause) == ("failed", "disk")  # type: ignore[union-attr]
    assert job.run_training(base, runs, "r1", stop=never, resume=True).state == "finished"
    assert runs.view("r1").state == "finished", "the mark that could not be written is forgotten"


def test_a_read_only_adapters_folder_refuses_a_run_in_one_sentence(runs: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert refused(lambda: create(runs)) == (
        f"The run's folder {runs.folder / 'r1'} can't be made: Read-only file system. Check the rights and the room of {runs.folder}."
    )


@pytest.mark.parametrize("resumed", [False, True])
def test_a_stop_while_the_rows_are_read_keeps_what_there_is(
    base: Base, runs: RunStore, monkeypatch: pytest.MonkeyPatch, resumed: bool
) -> None:
    create(runs, **PLAIN)
    if resumed:
        job.run_training(base, runs, "r1", stop=told_steps(runs, "r1", 3))
    monkeypatch.setattr(job, "ROWS_AT_ONCE", 2)
    take_off_adapter(base)
    ended = job.run_training(base, runs, "r1", stop=lambda: True, resume=resumed)
    assert (ended.state, ended.step, base.adapter) == ("stopped", 3 if resumed else 0, None)
    monkeypatch.undo()
    assert job.run_training(base, runs, "r1", stop=never, resume=True).state == "finished"


def test_an_events_file_cut_off_in_mid_line_loses_that_line_alone(base: Base, stopped: RunStore) -> None:
    path = stopped.path("r1") / "events.jsonl"
    whole = stopped.view("r1")
    path.write_bytes(path.read_bytes()[:-20])  # the end's line
    dead(stopped)
    assert stopped.view("r1").state == "interrupted" and stopped.view("r1").steps == whole.steps
    assert job.run_training(base, stopped, "r1", stop=never, resume=True).state == "finished"
    assert [s.step for s in stopped.view("r1").steps] == [1, 2, 3, 4, 5, 6]


def test_a_loss_that_is_no_number_names_its_cause_and_leaves_the_adapter_before(base: Base, runs: RunStore) -> None:
    create(runs, **PLAIN)

    def spoil(event: events.Event) -> None:
        if isinstance(event, events.Saved):
            with torch.no_grad():
                next(p for p in base.model.parameters() if p.requires_grad).fill_(float("nan"))

    with pytest.raises(WorkbenchError, match="optimizer step 3 is not a finite number: lower the learning rate .*step 2 is kept"):
        job.run_training(base, runs, "r1", stop=never, tell=spoil)
    ended = runs.view("r1").ended
    assert ended is not None and (ended.state, ended.cause, ended.step) == ("failed", "not finite", 2)
    take_off_adapter(base)
    assert put_saved_adapter(base, runs.path("r1"), "r1") > 0


def test_a_failed_mark_is_not_put_on_a_run_that_another_process_trains(runs: RunStore) -> None:
    create(runs)
    stranger = subprocess.Popen(["sh", "-c", f"{sys.executable} -c 'print(1, flush=True); import time; time.sleep(60)' & echo $! ; wait"], stdout=subprocess.PIPE)
    assert stranger.stdout is not None
    pid = int(stranger.stdout.readline())
    try:
        import psutil

        runs.rewrite_info("r1", owner=Owner(pid=pid, started=psutil.Process(pid).create_time()))
        runs.mark_failed("r1", "x")
        assert runs.view("r1").state == "waiting"
    finally:
        os.kill(pid, signal.SIGKILL)
        stranger.wait()
        stranger.stdout.close()
    runs.mark_failed("r1", "x")
    assert runs.view("r1").state == "failed"


@pytest.mark.parametrize("mode", ["none", "4-bit"])
@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_is_saved_as_peft_saves_it(mode: str, dora: bool, tiny_folder: Path, tmp_path: Path) -> None:
    base = load_base(tiny_folder, Quantization(mode=mode), keep=False)  # type: ignore[arg-type]
    model = put_new_adapter(base, make_settings({"lora": {"rank": 4, "dora": dora, "dropout": 0.0}}).lora, name="a", seed=3, checkpointing=False)
    (tmp_path / "ours").mkdir()
    checkpoint.save_adapter(base, tmp_path / "ours", best=False)
    model.save_pretrained(str(tmp_path / "theirs"), save_embedding_layers=False)  # with its README: nothing was left changed
    theirs = tmp_path / "theirs" / checkpoint.ADAPTER
    assert (tmp_path / "theirs" / "README.md").is_file() and not (tmp_path / "ours" / "README.md").exists()
    for file in checkpoint.ADAPTER_FILES:
        assert (tmp_path / "ours" / file).read_bytes() == (theirs / file).read_bytes()
