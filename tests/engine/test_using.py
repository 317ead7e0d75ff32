"""A merged model that is in use can't be deleted: each use is told with what ends it."""

from __future__ import annotations

from typing import Any

import pytest

from workbench.engine.client import Status, Ticket
from workbench.engine.messages import AnswerJob, EvaluateJob, FoldJob, Holds, Job, LoadJob, MergeJob, TogetherJob, TrainJob, UnloadJob
from workbench.engine.using import runs_used, trained_on
from workbench.errors import ModelError
from workbench.schema import Example, Message
from workbench.settings import RunSettings, Sampling
from workbench.training import events
from workbench.training.call_form import CallRecord
from workbench.training.merged import MergedRecord
from workbench.workspace import Workspace

ROWS = (Example((Message("user", "a"), Message("assistant", "b"))),)
MINE = "merged:mine"


class Engine:
    """Its queue and what it has loaded, as a test says."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.holds = Holds()

    def queue(self) -> tuple[Ticket, ...]:
        return tuple(Ticket(i, job, f"job {i}") for i, job in enumerate(self.jobs))

    def status(self) -> Status:
        return Status("busy", None, 0, self.holds, "")

    def close(self) -> None:
        """Nothing runs."""


@pytest.fixture
def engine(workspace: Workspace) -> Engine:
    """A workbench with the merged models "mine" and "other", and the run "on-mine", which was trained on the first; on a scripted engine."""
    for name in ("mine", "other"):
        folder = workspace.catalog.models_dir / name
        folder.mkdir()
        (folder / "merged.json").write_text(MergedRecord(adapter="a", base="m", calls=CallRecord(dialect="tag")).model_dump_json())
    workspace.runs.create("on-mine", model=MINE, model_name="mine", rows=ROWS, data_name="d", settings=RunSettings())
    workspace.runs.append("on-mine", events.Ended(state="finished", step=1))
    workspace.runs.create("on-demo", model="demo", model_name="m", rows=ROWS, data_name="d", settings=RunSettings())
    workspace.runs.append("on-demo", events.Ended(state="finished", step=1))
    made = vars(workspace)["engine"] = Engine()
    return made


def answer(**named: Any) -> AnswerJob:
    return AnswerJob(prompts=((),), lanes=(False,), sampling=Sampling(), **named)


USES: list[Job] = [
    LoadJob(model=MINE), answer(model=MINE), answer(form_of=MINE), answer(run="on-mine"), answer(run="on-mine@best"),
    EvaluateJob(prompts=(), adapted=False, model=MINE, sampling=Sampling()), TrainJob(run="on-mine"), MergeJob(run="on-mine", name="x"),
    FoldJob(model=MINE, rows="r", learned=(), held=(), settings=RunSettings()), TogetherJob(parts=(answer(run="on-demo"), answer(model=MINE))),
]  # fmt: skip


@pytest.mark.parametrize("job", USES, ids=lambda job: f"{job.kind} {getattr(job, 'run', None)}")
def test_a_job_that_waits_for_it_keeps_it(workspace: Workspace, engine: Engine, job: Job) -> None:
    engine.jobs = [UnloadJob(), answer(run="on-demo"), job]
    with pytest.raises(ModelError, match=r"A job is using the merged model mine \(job 2\): wait for its end, or stop it\."):
        workspace.jobs.delete_merged(MINE)
    assert workspace.catalog.merged_folder(MINE).is_dir() and workspace.jobs.delete_merged("merged:other") > 0


def test_it_is_kept_while_it_is_loaded_also_as_the_second_one(workspace: Workspace, engine: Engine) -> None:
    for holds in (Holds(model="mine"), Holds(model="gemma-3-270m", also="mine")):
        engine.holds = holds
        with pytest.raises(ModelError, match="The merged model mine is loaded: press “Free memory” on top, then delete it."):
            workspace.jobs.delete_merged(MINE)
    engine.holds = Holds(model="gemma-3-270m", also="other")
    assert workspace.jobs.delete_merged(MINE) > 0 and workspace.catalog.merged() == ["merged:other"]


def test_it_is_kept_while_a_run_trains_on_it_also_in_another_process(workspace: Workspace, engine: Engine) -> None:
    workspace.runs.create("going", model=MINE, model_name="mine", rows=ROWS, data_name="d", settings=RunSettings())
    with pytest.raises(ModelError, match="The run going is training on the merged model mine: stop it or wait for its end."):
        workspace.jobs.delete_merged(MINE)


def test_the_model_that_the_workbench_is_open_on_is_kept_by_its_name_and_by_its_folder(workspace: Workspace, engine: Engine) -> None:
    for opened in (MINE, str(workspace.catalog.models_dir / "mine")):
        space = Workspace(root=workspace.root, model=opened)
        vars(space)["engine"] = engine
        with pytest.raises(ModelError, match="This workbench is open on the merged model mine: start it with another --model"):
            space.jobs.delete_merged(MINE)
    for name in ("../mine", "", ".x"):
        with pytest.raises(ModelError, match="can't be used"):
            workspace.jobs.delete_merged(f"merged:{name}")
    with pytest.raises(ModelError, match="There is no merged model nobody any more"):
        workspace.jobs.delete_merged("merged:nobody")


def test_the_runs_that_were_trained_on_it_are_known(workspace: Workspace, engine: Engine) -> None:
    assert trained_on(workspace.runs, MINE) == ["on-mine"] and trained_on(workspace.runs, "merged:other") == []


def test_the_runs_that_jobs_need_are_known_also_those_that_answer_together(engine: Engine) -> None:
    assert runs_used(engine) == set()  # type: ignore[arg-type]
    engine.jobs = [UnloadJob(), answer(model=MINE), answer(form_of="form@best"), TogetherJob(parts=(answer(run="one@best"), answer(model=MINE, form_of=MINE)))]
    assert runs_used(engine) == {"form", "one"}  # type: ignore[arg-type]
