"""Writing rows with the loaded model: every reply is JSON of the asked form, a stop keeps what there is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from workbench.dataset.generate import Request, prompt, read_reply, reply_schema
from workbench.engine import answering
from workbench.engine.jobs import Host, Report
from workbench.engine.messages import Do, GenerateJob, LoadJob, ToEngine
from workbench.errors import AdapterError, InputError
from workbench.schema import ToolSpec
from workbench.settings import Sampling
from workbench.workspace import Workspace

pytestmark = pytest.mark.slow

REQUEST = Request(ToolSpec("get_sensitive_data"), "call", "Russian", "баланс", 2)
SAMPLED = Sampling(greedy=False, temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=3000, seed=1)


@pytest.fixture
def host(workspace: Workspace) -> Host:
    return Host(workspace.catalog, workspace.runs)


def job(count: int, sampling: Sampling = SAMPLED, **change: Any) -> GenerateJob:
    return GenerateJob(prompts=(tuple(prompt(REQUEST)),) * count, form=reply_schema(REQUEST, bounded=True), sampling=sampling, **change)


def after(calls: int) -> Callable[[], bool]:
    asked = iter(range(10_000))
    return lambda: next(asked) >= calls


def test_replies_over_several_batches_are_all_of_the_form_and_all_different(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "WRITERS", 2)
    told: list[tuple[str, float | None]] = []
    done = host.do(job(3), Report(progress=lambda text, share: told.append((text, share))))
    assert [r["ended"] for r in done["replies"]] == ["stop token"] * 3 and done["adapter_difference"] is None
    assert len({r["text"] for r in done["replies"]}) == 3
    for reply in done["replies"]:
        assert [set(item) for item in json.loads(reply["text"])["rows"]] == [{"request"}] * 2
        rows, refused = read_reply(reply["text"], REQUEST, "tiny")
        assert len(rows) + len(refused) == 2 and all(row.source == "generated:model:tiny" for row in rows)
    assert told[-2:] == [("wrote 0 of 3 replies", 0.0), ("wrote 2 of 3 replies", pytest.approx(2 / 3))]


def test_a_stop_in_mid_reply_gives_what_there_is_and_begins_no_other(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "WRITERS", 1)
    host.do(LoadJob(model="demo"), Report())  # loading looks for a stop too
    done = host.do(job(3), Report(stop=after(6)))
    [reply] = done["replies"]
    assert reply["ended"] == "stopped" and reply["tokens"] == 6
    assert '{"rows": ['.startswith(reply["text"])


def test_a_reply_cut_at_the_cap_says_so(host: Host) -> None:
    done = host.do(job(1, SAMPLED.model_copy(update={"max_new_tokens": 15})), Report())
    assert [(r["ended"], r["tokens"]) for r in done["replies"]] == [("length", 15)]
    rows, refused = read_reply(done["replies"][0]["text"], REQUEST)
    assert rows == [] and refused[0].reason == "the reply breaks off within this row"


def test_a_form_without_a_grammar_and_an_unknown_adapter_are_refused(host: Host) -> None:
    broken = job(1).model_copy(update={"form": {"$ref": "#/nowhere"}})
    with pytest.raises(InputError, match="Simplify its schema"):
        host.do(broken, Report())
    with pytest.raises((AdapterError, InputError), match="nobody"):
        host.do(job(1, run="nobody"), Report())


def test_the_job_survives_the_way_to_the_engine() -> None:
    sent = Do(number=3, job=job(2))
    assert ToEngine.validate_json(sent.model_dump_json()) == sent


def test_the_workspace_hands_the_job_to_the_engine(workspace: Workspace) -> None:
    ticket = workspace.jobs.generate([list(job(1).prompts[0])], reply_schema(REQUEST, bounded=True), run=None, sampling=SAMPLED)
    assert ticket.label == "writing rows" and isinstance(ticket.job, GenerateJob)
    assert ticket.wait(120)["replies"][0]["ended"] == "stop token"
