"""An answer whose lanes are asked different conversations, and that ends before a text of the asker's."""

from __future__ import annotations

import pytest

from workbench.engine.jobs import Host, Report
from workbench.engine.messages import AnswerJob
from workbench.errors import InputError
from workbench.settings import Sampling
from workbench.workspace import Workspace

FIRST, SECOND = ({"role": "user", "content": "Привет"},), (
    {"role": "user", "content": "Привет"}, {"role": "assistant", "content": "Да"}, {"role": "user", "content": "Ещё?"},
)  # fmt: skip
SHORT = Sampling(max_new_tokens=12)


@pytest.fixture
def host(workspace: Workspace) -> Host:
    return Host(workspace.catalog, workspace.runs)


def test_a_prompt_over_the_models_context_is_refused(host: Host) -> None:
    long = ({"role": "user", "content": "x" * 4200},)
    with pytest.raises(InputError, match=r"The prompt has 4,2\d\d tokens; 4,095 are allowed here\. Shorten it, or begin a new conversation\."):
        texts(host, AnswerJob(prompts=(FIRST, long), lanes=(False, False), sampling=SHORT))


def texts(host: Host, job: AnswerJob) -> list[str]:
    return [reply["text"] for reply in host.do(job, Report())["replies"]]


def test_each_lane_answers_its_own_conversation(host: Host) -> None:
    alone = [texts(host, AnswerJob(turns=turns, lanes=(False,), sampling=SHORT))[0] for turns in (FIRST, SECOND)]
    assert texts(host, AnswerJob(prompts=(FIRST, SECOND), lanes=(False, False), sampling=SHORT)) == alone
    assert alone[0] != alone[1]


def test_a_reply_ends_before_a_text_of_the_asker_s(host: Host) -> None:
    whole = texts(host, AnswerJob(turns=FIRST, lanes=(False,), sampling=SHORT))[0]
    stop = whole[3:6]
    assert texts(host, AnswerJob(turns=FIRST, stops=(stop,), lanes=(False,), sampling=SHORT))[0] == whole[: whole.index(stop)]
