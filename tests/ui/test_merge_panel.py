"""Merging from the Chat tab: what is said while it goes on, and what is refused; the engine is scripted."""

from __future__ import annotations

from typing import Any

import pytest

from workbench.engine.client import Status, Ticket
from workbench.engine.messages import Holds, MergeJob
from workbench.errors import InputError, WorkbenchError
from workbench.schema import Example, Message
from workbench.settings import RunSettings
from workbench.training import events
from workbench.ui.chat import merge_panel
from workbench.workspace import Workspace


class Engine:
    """Takes one job, and ends it when it is asked how far it is for the second time."""

    def __init__(self, end: dict[str, Any] | WorkbenchError) -> None:
        self.end, self.tickets = end, list[Ticket]()

    def submit(self, job: Any, label: str) -> Ticket:
        ticket = Ticket(1, job, label, begun=1.0, progress="loading the weights", share=0.5)
        ticket.wait_change = lambda timeout: self._finish(ticket)  # type: ignore[method-assign]
        self.tickets.append(ticket)
        return ticket

    def _finish(self, ticket: Ticket) -> None:
        if isinstance(self.end, WorkbenchError):
            ticket.error = self.end
        else:
            ticket.result = self.end
        ticket.finished.set()

    def status(self) -> Status:
        return Status("busy", self.tickets[-1] if self.tickets else None, 0, Holds(), "")

    def close(self) -> None:
        """Nothing runs."""


@pytest.fixture
def space(workspace: Workspace) -> Workspace:
    rows = (Example((Message("user", "a"), Message("assistant", "b"))),)
    workspace.runs.create("a", model="demo", model_name="m", rows=rows, data_name="d", settings=RunSettings())
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        (workspace.runs.path("a") / file).write_text("{}")
    workspace.runs.append("a", events.Ended(state="finished", step=1))
    return workspace


def test_it_tells_how_far_it_is_and_what_came_of_it(space: Workspace) -> None:
    engine = vars(space)["engine"] = Engine({"model": "merged:mine", "bytes": 3 * 2**29, "rounding": 0.00012})
    first, last = merge_panel.merge(space, "a", " mine ")
    assert "merging a: loading the weights 50%…" in first and "It goes on if this page is closed" in first
    assert "a is merged: “merged: mine” can be chosen in both panes now (1.5 GiB in models/mine)." in last and "to within 0.00012" in last
    assert engine.tickets[0].job == MergeJob(run="a", name="mine")


def test_what_can_t_be_merged_is_refused_before_a_job_is_made(space: Workspace) -> None:
    engine = vars(space)["engine"] = Engine({})
    for voice, name, told in ((None, "x", "Choose an adapter"), ("", "x", "Choose an adapter"), ("merged:m", "x", "Choose an adapter"), ("gone", "x", "Choose an adapter"),
                              ("a", "", "can't be used"), ("a", "../x", "can't be used"), ("a", "gemma-3-270m", "There is already a model named gemma-3-270m")):  # fmt: skip
        with pytest.raises(InputError, match=told):
            list(merge_panel.merge(space, voice, name))
    assert engine.tickets == []


def test_a_job_that_fails_says_why(space: Workspace) -> None:
    vars(space)["engine"] = Engine(WorkbenchError("Merging a into mine was stopped on request: nothing of it is left."))
    with pytest.raises(WorkbenchError, match="nothing of it is left"):
        list(merge_panel.merge(space, "a", "mine"))
