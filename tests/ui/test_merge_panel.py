"""Merging from the Chat tab and deleting what was merged: what is said, and what is refused; the engine is scripted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workbench.engine.client import Status, Ticket
from workbench.engine.messages import Holds, MergeJob
from workbench.errors import InputError, ModelError, WorkbenchError
from workbench.schema import Example, Message
from workbench.settings import RunSettings
from workbench.training import events
from workbench.training.call_form import CallRecord
from workbench.training.merged import MergedRecord, list_merged
from workbench.ui.chat import merge_panel
from workbench.ui.chat.merge_panel import Seen, delete, list_html, size_words, stamp
from workbench.workspace import Workspace

ROWS = (Example((Message("user", "a"), Message("assistant", "b"))),)


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

    def queue(self) -> tuple[Ticket, ...]:
        return tuple(self.tickets)

    def status(self) -> Status:
        return Status("busy", self.tickets[-1] if self.tickets else None, 0, Holds(), "")

    def close(self) -> None:
        """Nothing runs."""


@pytest.fixture
def space(workspace: Workspace) -> Workspace:
    workspace.runs.create("a", model="demo", model_name="m", rows=ROWS, data_name="d", settings=RunSettings())
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


# -- what was merged ----------------------------------------------------------------------------------


def make(space: Workspace, name: str, adapter: str = "a") -> Path:
    folder = space.catalog.models_dir / name
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"x" * 3 * 2**20)
    (folder / "merged.json").write_text(MergedRecord(adapter=adapter, base="gemma", calls=CallRecord(dialect="tag")).model_dump_json())
    return folder


def test_the_first_press_asks_and_the_second_deletes(space: Workspace) -> None:
    vars(space)["engine"] = Engine({})
    mine, lost = make(space, "mine"), make(space, "lost", "nobody")
    asked, seen = delete(space, "merged:mine", Seen())
    assert asked == (
        "Press again to delete the merged model mine for good: 3.0 MiB are freed, and no bin keeps it. The adapter a stays: it can be merged again."
    )
    other, meant = delete(space, "merged:lost", seen)  # a press on another one asks again
    assert "Its adapter nobody is not here any more, so it can't be made again." in other and mine.is_dir() and lost.is_dir()
    late = replace(meant, at=meant.at - merge_panel.SURE_SECONDS - 1)
    assert late.sure == "" and delete(space, "merged:lost", late)[0] == other and lost.is_dir(), "a press that was long ago is forgotten"
    assert delete(space, "merged:lost", meant) == ("The merged model lost was deleted: 3.0 MiB are free again.", Seen())
    assert not lost.exists() and space.voices() == ["a", "merged:mine"]
    with pytest.raises(ModelError, match="There is no merged model lost any more"):
        delete(space, "merged:lost", Seen())


def test_what_was_trained_on_it_is_named_before_it_goes_and_a_use_is_refused_at_the_first_press(space: Workspace) -> None:
    engine = vars(space)["engine"] = Engine({})
    make(space, "mine")
    space.runs.create("on", model="merged:mine", model_name="mine", rows=ROWS, data_name="d", settings=RunSettings())
    space.runs.append("on", events.Ended(state="finished", step=1))
    assert delete(space, "merged:mine", Seen())[0].endswith(" What was trained on it can't answer without it: on.")
    engine.submit(MergeJob(run="on", name="x"), "merging on")
    with pytest.raises(ModelError, match=r"A job is using the merged model mine \(merging on\)"):
        delete(space, "merged:mine", Seen())


def test_the_list_says_what_to_do_while_it_is_empty_and_escapes_what_records_say(space: Workspace) -> None:
    assert "No merged models yet. Choose an adapter in the right pane" in list_html([])
    before = stamp(space)
    make(space, "mine", "<img src=x onerror=x>")
    (make(space, "wrong") / "merged.json").write_text("{")
    assert before == () and [name for name, _ in stamp(space)] == ["merged:wrong", "merged:mine"]
    html = list_html(list_merged(space.catalog), "merged:mine")
    assert "<img" not in html and "&lt;img" in html and html.count('data-do="delete"') == 2 and html.count("Sure? Delete it") == 1
    assert 'aria-label="Delete the merged model mine"' in html and "its record can&#x27;t be read" in html and "3.0 MiB" in html
    assert (size_words(2**28), size_words(2**29 * 3), size_words(0)) == ("0.2 GiB", "1.5 GiB", "0.0 MiB")
