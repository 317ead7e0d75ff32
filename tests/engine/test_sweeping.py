"""Running a sweep: what is done once, what a stop, a fault or the end of the process leaves, and how it goes on."""

import threading
from types import SimpleNamespace

import pytest

from workbench.dataset.formats import load_rows, rows_hash
from workbench.engine.client import Ticket
from workbench.engine.messages import FoldJob
from workbench.engine.sweeping import ClosingError, Sweeps, failure_kind, run_sweep
from workbench.errors import BusyError, EngineError, RunError, WorkbenchError
from workbench.schema import Example, Message
from workbench.settings import RunSettings, make_settings
from workbench.training.runs import Owner
from workbench.training.sweep import make_spec
from workbench.training.sweep_store import SweepStore
from workbench.training.sweep_view import Begun

RESULT = {
    "loss": 1.0, "train_loss": 0.5, "call_recall": (2, 2), "over_calls": (0, 2), "malformed": (0, 4), "right": (4, 4),
    "steps": 10, "seconds": 2.0, "peak_memory_gib": 1.5, "device": "CPU",
}  # fmt: skip
ROWS = tuple(Example((Message("user", chr(0x4E00 + i) * 3), Message("assistant", "Да"))) for i in range(8))


@pytest.fixture
def store(tmp_path):
    """A folder with the sweep "s": two ranks, two folds, four cells."""
    store = SweepStore(tmp_path / "sweeps")
    spec, rows = make_spec(
        "s", ROWS, model="demo", model_name="tiny", data_name="rows.json", data_sha256=rows_hash(ROWS), settings=RunSettings(),
        axes={"lora.rank": (8, 16)}, folds=2,
    )  # fmt: skip
    store.create(spec, rows)
    return store


class Cells:
    """Does cells without a model: `acts` by the cell's turn are a result's changes or an error; keeps the jobs."""

    def __init__(self, *acts):
        self.acts, self.jobs, self.labels = list(acts), [], []

    def __call__(self, job, label):
        self.jobs.append(job)
        self.labels.append(label)
        act = self.acts[len(self.jobs) - 1] if len(self.jobs) <= len(self.acts) else {}
        if isinstance(act, Exception):
            raise act
        return RESULT | act


def never():
    return False


def test_every_cell_is_done_once_on_its_fold(store):
    do, heard = Cells(), []
    ended = run_sweep(store, "s", do, stop=never, heard=lambda cell, line: heard.append(cell.number))
    view = store.view("s")
    assert (ended.state, ended.reason, view.state, len(view.done)) == ("finished", "", "finished", 4)
    assert heard == [1, 2, 3, 4]
    assert do.labels[0] == "sweep s, cell 1 of 4"
    assert [j.settings.lora.rank for j in do.jobs] == [8, 16, 8, 16]
    assert do.jobs[0].held == do.jobs[1].held and sorted(do.jobs[0].held + do.jobs[2].held) == list(range(8))
    assert load_rows(store.folder / "s" / "rows.jsonl").rows == ROWS and do.jobs[0].rows == str(store.folder / "s" / "rows.jsonl")
    assert FoldJob.model_validate_json(do.jobs[0].model_dump_json()) == do.jobs[0]


def test_a_stop_between_cells_keeps_those_done_and_the_rest_is_done_later(store):
    count = iter(range(100))
    ended = run_sweep(store, "s", Cells(), stop=lambda: next(count) >= 2)
    assert (ended.state, ended.reason) == ("stopped", "stopped on request with 2 of 4 cells done; they are kept")
    rest = Cells()
    assert run_sweep(store, "s", rest, stop=never).state == "finished"
    assert len(rest.jobs) == 2 and len(store.view("s").done) == 4
    nothing = Cells()
    assert run_sweep(store, "s", nothing, stop=never).state == "finished"
    assert nothing.jobs == []


def test_a_cell_that_was_stopped_is_not_counted(store):
    ended = run_sweep(store, "s", lambda job, label: {"stopped": True}, stop=never)
    assert (ended.state, len(store.view("s").done), len(store.view("s").failed)) == ("stopped", 0, 0)


def test_a_failed_cell_is_noted_and_the_sweep_goes_on_and_tries_it_again_later(store):
    ended = run_sweep(store, "s", Cells({}, EngineError("The memory ran out.")), stop=never)
    view = store.view("s")
    assert (ended.state, ended.reason) == ("finished", "1 of 4 cells failed: go on with the sweep to try them again.")
    assert [(f.reason, f.values, f.fold) for f in view.failed.values()] == [("The memory ran out.", {"lora.rank": 16}, 0)]
    assert view.resumable
    again = Cells()
    assert run_sweep(store, "s", again, stop=never).reason == ""
    assert [(j.settings.lora.rank, store.view("s").left) for j in again.jobs] == [(16, 0)]


def test_three_failures_of_a_kind_in_a_row_end_it(store):
    do = Cells(*[EngineError(f"Step {n} is no number.") for n in range(4)])
    ended = run_sweep(store, "s", do, stop=never)
    assert (ended.state, ended.reason) == ("failed", "3 cells in a row failed for the same reason. Step 2 is no number.")
    assert len(do.jobs) == 3 and store.view("s").state == "failed"


def test_failures_of_other_kinds_or_with_a_success_between_do_not(store):
    kinds = [EngineError("killed"), EngineError("memory"), EngineError("killed"), EngineError("memory")]
    assert run_sweep(store, "s", Cells(*kinds), stop=never).state == "finished"
    assert run_sweep(store, "s", Cells(kinds[0], kinds[0], {}, kinds[0]), stop=never).state == "finished"


def test_the_engines_cause_tells_the_kind():
    error = EngineError("It was killed at 12:01.")
    assert failure_kind(error) == "It was killed at #:#."
    error.cause = "killed"
    assert failure_kind(error) == "killed"


def test_a_result_that_is_not_whole_is_a_failure(store):
    run_sweep(store, "s", Cells({"loss": "x"}), stop=never)
    assert [f.reason[:28] for f in store.view("s").failed.values()] == ["The cell's result was not wh"]


def test_leaving_off_keeps_the_sweep_resumable(store):
    ended = run_sweep(store, "s", Cells({}, ClosingError("The workbench was closed.")), stop=never)
    assert (ended.state, ended.reason) == ("interrupted", "The workbench was closed.")
    assert (store.view("s").resumable, len(store.view("s").done)) == (True, 1)


def test_a_process_that_died_leaves_it_interrupted_and_resumable(store):
    run_sweep(store, "s", Cells({}, ClosingError("x")), stop=never)
    store.append("s", Begun(owner=Owner(pid=2**22 + 1, started=0.0)))
    assert store.view("s").state == "interrupted"
    do = Cells()
    run_sweep(store, "s", do, stop=never)
    assert len(do.jobs) == 3


def test_rows_that_are_gone_end_it_with_the_reason(store):
    (store.folder / "s" / "rows.jsonl").unlink()
    with pytest.raises(WorkbenchError, match="rows.jsonl does not exist"):
        run_sweep(store, "s", Cells(), stop=never)
    assert store.view("s").state == "failed" and "rows.jsonl does not exist" in store.view("s").ended.reason


def test_a_sweep_that_is_run_elsewhere_is_left_alone(store):
    store.begin("s")
    with pytest.raises(BusyError):
        run_sweep(store, "s", Cells(), stop=never)


# -- through the engine's queue --------------------------------------------------------------------


class FakeEngine:
    """Takes jobs as the engine does and ends them when `let` allows it; `after` changes the ticket before its end."""

    def __init__(self, after=lambda ticket: None):
        self.after, self.tickets, self.closed = after, [], False
        self.let = threading.Semaphore(0)
        self.handed_in = threading.Semaphore(0)

    def submit(self, job, label):
        if self.closed:
            raise EngineError("The workbench is closing.")
        ticket = Ticket(len(self.tickets) + 1, job, label)
        self.tickets.append(ticket)
        threading.Thread(target=self._do, args=(ticket,), daemon=True).start()
        self.handed_in.release()
        return ticket

    def _do(self, ticket):
        self.let.acquire(timeout=30)
        ticket.result = {"stopped": True} if ticket.stop_asked else dict(RESULT)
        self.after(ticket)
        ticket.finished.set()

    def stop(self, ticket):
        ticket.stop_asked = True
        self.let.release()

    def allow(self, count):
        for _ in range(count):
            self.let.release()


def test_cells_are_handed_in_one_at_a_time(store):
    engine = FakeEngine()
    sweeps = Sweeps(store, lambda: engine)
    sweeps.start("s")
    assert engine.handed_in.acquire(timeout=10)
    assert (len(engine.tickets), sweeps.running(), sweeps.ticket.label) == (1, "s", "sweep s, cell 1 of 4")
    with pytest.raises(BusyError, match="^The sweep s is still going on"):
        sweeps.start("s")
    engine.allow(4)
    assert sweeps.join(10)
    assert (store.view("s").state, sweeps.running(), sweeps.ticket) == ("finished", None, None)
    with pytest.raises(RunError, match="^All cells of the sweep s are done"):
        sweeps.start("s")


def test_stopping_gives_up_the_cell_in_hand_and_starting_goes_on(store):
    engine = FakeEngine()
    sweeps = Sweeps(store, lambda: engine)
    with pytest.raises(RunError, match="^The sweep s is not going on here"):
        sweeps.stop("s")
    sweeps.start("s")
    engine.allow(1)
    assert engine.handed_in.acquire(timeout=10) and engine.handed_in.acquire(timeout=10)
    sweeps.stop("s")
    assert sweeps.join(10)
    assert (store.view("s").state, len(store.view("s").done)) == ("stopped", 1)
    engine.allow(3)
    sweeps.start("s")
    assert sweeps.join(10)
    assert (store.view("s").state, len(store.view("s").done), len(engine.tickets)) == ("finished", 4, 5)


def test_a_cell_stopped_from_elsewhere_stops_the_sweep(store):
    engine = FakeEngine()
    sweeps = Sweeps(store, lambda: engine)
    sweeps.start("s")
    assert engine.handed_in.acquire(timeout=10)
    engine.stop(engine.tickets[0])
    assert sweeps.join(10)
    assert store.view("s").state == "stopped"


def test_a_cell_in_the_queue_tells_what_stands_before_it(store):
    engine = FakeEngine()
    sweeps = Sweeps(store, lambda: engine)
    assert sweeps.waits_for() == ()
    sweeps.start("s")
    assert engine.handed_in.acquire(timeout=10)
    others = [Ticket(8, None, "training run a", begun=1.0), Ticket(9, None, "an answer")]
    engine.queue = lambda: (*others, *engine.tickets, Ticket(10, None, "later"))
    assert sweeps.waits_for() == ("training run a", "an answer")
    engine.tickets[0].begun = 2.0
    assert sweeps.waits_for() == ()
    engine.allow(4)
    assert sweeps.join(10)


def test_a_dead_worker_costs_one_cell(store):
    def after(ticket):
        if ticket.number == 2:
            ticket.result, ticket.error, ticket.cause = None, EngineError("The engine process was killed (SIGKILL)."), "killed"

    engine = FakeEngine(after)
    engine.allow(4)
    sweeps = Sweeps(store, lambda: engine)
    sweeps.start("s")
    assert sweeps.join(10)
    view = store.view("s")
    assert (view.state, len(view.done), [(f.kind, f.reason) for f in view.failed.values()]) == (
        "finished", 3, [("killed", "The engine process was killed (SIGKILL).")],
    )  # fmt: skip


@pytest.mark.parametrize("at_once", [True, False])
def test_the_app_s_end_leaves_it_interrupted(store, at_once):
    engine = FakeEngine(lambda ticket: setattr(ticket, "result", {"stopped": True}))
    engine.closed = at_once
    engine.allow(4)
    sweeps = Sweeps(store, lambda: engine)
    sweeps.start("s")
    assert sweeps.join(10)
    assert (store.view("s").state, store.view("s").ended.reason) == ("interrupted", "The workbench was closed.")


def test_a_fault_of_ours_does_not_leave_it_looking_alive(store, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    sweeps = Sweeps(store, lambda: SimpleNamespace(submit=lambda job, label: 1 / 0))
    sweeps.start("s")
    assert sweeps.join(10)
    assert "ZeroDivisionError" in store.view("s").ended.reason and store.view("s").state == "failed"


def fill(store, monkeypatch, engine):
    """From the engine's next job on, nothing can be written into the sweep's folder until the returned patch is undone."""
    submit = engine.submit

    def full(name, line):
        raise RunError("The disk is full: make room.")

    def last(job, label):
        monkeypatch.setattr(store, "append", full)
        return submit(job, label)

    monkeypatch.setattr(engine, "submit", last)


def test_a_full_disk_does_not_leave_it_running_and_its_reason_is_told(store, monkeypatch):
    engine = FakeEngine()
    engine.allow(5)
    sweeps = Sweeps(store, lambda: engine)
    with monkeypatch.context() as patch:
        fill(store, patch, engine)
        sweeps.start("s")
        assert sweeps.join(10)
        view = store.view("s")
        assert (view.state, view.ended.reason, view.left, view.resumable) == ("failed", "The disk is full: make room.", 4, True)
        with pytest.raises(RunError, match="^The disk is full"):
            sweeps.start("s")
    sweeps.start("s")
    assert sweeps.join(10)
    assert (store.view("s").state, SweepStore(store.folder).view("s").state) == ("finished", "finished")


def test_a_fault_of_ours_on_a_full_disk_is_raised_as_it_is(store, monkeypatch):
    raised = []
    monkeypatch.setattr(threading, "excepthook", lambda args: raised.append(args.exc_type))
    engine = SimpleNamespace(submit=lambda job, label: 1 / 0)
    fill(store, monkeypatch, engine)
    sweeps = Sweeps(store, lambda: engine)
    sweeps.start("s")
    assert sweeps.join(10)
    assert raised == [ZeroDivisionError]
    assert "ZeroDivisionError" in store.view("s").ended.reason and store.view("s").state == "failed"


def test_a_sweep_ended_on_a_full_disk_can_be_deleted_and_its_name_used_anew(store, monkeypatch):
    with monkeypatch.context() as patch:
        fill(store, patch, engine := FakeEngine())
        engine.allow(1)
        sweeps = Sweeps(store, lambda: engine)
        sweeps.start("s")
        assert sweeps.join(10)
    spec, rows = store.spec("s"), store.rows("s")
    store.delete("s")
    store.bring_back("s")
    assert store.view("s").state == "failed"
    store.delete("s")
    assert store.create(spec, rows).state == "waiting"


@pytest.mark.slow
def test_a_sweep_runs_through_the_real_engine(workspace):
    store = SweepStore(workspace.root / "sweeps")
    rows = load_rows(workspace.data_dir / "examples.json").rows[:6]
    settings = make_settings({"training": {"epochs": 1, "rows_per_step": 2, "warmup_steps": 0}, "lora": {"rank": 4}})
    spec, kept = make_spec(
        "real", rows, model="demo", model_name="tiny", data_name="x", data_sha256=rows_hash(rows), settings=settings,
        axes={"quantization.mode": ("none", "4-bit")}, folds=2,
    )  # fmt: skip
    store.create(spec, kept)
    sweeps = Sweeps(store, lambda: workspace.engine)
    sweeps.start("real")
    assert sweeps.join(300)
    view = store.view("real")
    assert (view.state, view.ended.reason, len(view.done)) == ("finished", "", 4)
    assert all(d.right[1] == 3 and d.steps == 2 and 0 < d.loss < 20 for d in view.done.values())
    losses = {mode: [d.loss for d in view.done.values() if d.values["quantization.mode"] == mode] for mode in ("none", "4-bit")}
    assert losses["none"] != losses["4-bit"]
    assert workspace.engine.status().holds.adapter is None
