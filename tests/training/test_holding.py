"""Who trains a run: a lock of its own that outlives the run's owner, and that a killed process leaves behind unlocked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from workbench.errors import RunError
from workbench.settings import RunSettings
from workbench.training import events, holding, resuming, shelf
from workbench.training.runs import Owner, RunStore

fcntl = pytest.importorskip("fcntl")
ENDING = "The old engine is still ending its step of the run r1: try again in a moment."


@pytest.fixture
def runs(tmp_path: Path) -> RunStore:
    store = RunStore(tmp_path / "adapters")
    store.create("r1", model="demo", model_name="x", rows=(), data_name="x", settings=RunSettings())
    store.append("r1", events.Started(total_steps=4, epochs=1, train_rows=1, validation_rows=0, trainable_parameters=1, total_parameters=2, device="CPU"))
    return store


@pytest.fixture
def orphan(runs: RunStore) -> Iterator[subprocess.Popen[str]]:
    """The run's owner is gone, and another process still trains the run."""
    runs.rewrite_info("r1", owner=Owner(pid=os.getpid(), started=1.0))
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(runs.path("r1") / holding.LOCK)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "PATIENCE", 0.0)


def refusal(runs: RunStore, *, resume: bool = True) -> str:
    with pytest.raises(RunError) as caught:
        resuming.take(runs, "r1", resume=resume)
    return str(caught.value)


def test_a_run_whose_worker_outlives_its_owner_goes_on_and_is_not_taken_up(runs: RunStore, orphan: subprocess.Popen[str]) -> None:
    assert runs.view("r1").state == "running"
    owner = runs.info("r1").owner
    assert refusal(runs) == refusal(runs, resume=False) == ENDING
    with pytest.raises(RunError, match=r"^The old engine is still ending its step of the run r1"), resuming.alone_in_training(runs, "r1"):
        raise AssertionError("two at once")
    with pytest.raises(RunError, match="still going on"):
        shelf.delete(runs, "r1")
    assert runs.info("r1").owner == owner and len(runs.view("r1").happened) == 1


def test_a_worker_that_has_told_its_end_still_has_the_files(runs: RunStore, orphan: subprocess.Popen[str]) -> None:
    runs.append("r1", events.Ended(state="stopped"))
    assert refusal(runs) == ENDING


def test_a_killed_worker_holds_nothing_and_its_file_is_in_nobody_s_way(runs: RunStore, orphan: subprocess.Popen[str]) -> None:
    orphan.kill()
    orphan.wait()
    assert (runs.path("r1") / holding.LOCK).is_file() and runs.view("r1").state == "interrupted"
    assert shelf.rename(runs, "r1", "r2") == "r2"
    assert resuming.reopen(runs, "r2") == 0
    assert not (runs.path("r2") / holding.LOCK).exists()


def test_a_run_that_another_process_trains_for_a_living_owner_is_not_begun_twice(runs: RunStore, orphan: subprocess.Popen[str]) -> None:
    runs.rewrite_info("r1", owner=Owner.this_process())
    with pytest.raises(RunError, match=r"^The run r1 is being trained already: wait for its end"), resuming.alone_in_training(runs, "r1"):
        raise AssertionError("two at once")


def test_the_holder_itself_holds_again_and_leaves_no_file(runs: RunStore) -> None:
    folder = runs.path("r1")
    before = sorted(p.name for p in folder.iterdir())
    with holding.held(folder):
        with holding.held(folder):
            assert not holding.held_elsewhere(folder)
        assert (folder / holding.LOCK).is_file()
        with (folder / holding.LOCK).open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    assert sorted(p.name for p in folder.iterdir()) == before


def test_a_lock_whose_file_was_taken_away_is_asked_for_again(runs: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = runs.path("r1")
    asked, found = [], holding._is_at

    def at(handle: int, path: Path) -> bool:
        asked.append(handle)
        if len(asked) == 1:
            path.unlink()
        return found(handle, path)

    monkeypatch.setattr(holding, "_is_at", at)
    with holding.held(folder):
        assert len(asked) == 2 and (folder / holding.LOCK).is_file()


def test_without_locks_nothing_is_held(runs: RunStore, orphan: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "_locks", lambda: None)
    assert runs.view("r1").state == "interrupted"
    with resuming.alone_in_training(runs, "r1"):
        assert resuming.reopen(runs, "r1") == 0


def test_a_disk_without_locks_refuses_nobody(runs: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(handle: int, how: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with holding.held(runs.path("r1")):
        assert not holding.held_elsewhere(runs.path("r1"))
