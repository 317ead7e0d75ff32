"""Two voices answer together: two adapters in one batch on their base, an adapter and a merged model in turns, token by token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from workbench.engine import answering
from workbench.engine.jobs import Host, Report
from workbench.engine.messages import AnswerJob, EvaluateJob, MergeJob, TogetherJob
from workbench.errors import RunError
from workbench.models import decoding
from workbench.settings import Sampling
from workbench.workspace import Workspace

pytestmark = pytest.mark.slow

TURNS = ({"role": "user", "content": "Сколько у меня денег?"},)
SHORT = Sampling(max_new_tokens=16)


def asks(run: str | None = None, *lanes: bool, **more: Any) -> AnswerJob:
    return AnswerJob(turns=TURNS, lanes=lanes or (run is not None,), run=run, sampling=SHORT, **more)


def alone(host: Host, job: AnswerJob) -> list[str]:
    return [reply["text"] for reply in host.do(job, Report())["replies"]]


def live(text: str) -> str:
    """A reply as it is told while it grows: a letter that may still be whole is held back."""
    return text.rstrip("\ufffd")


def both(host: Host, *parts: AnswerJob, report: Report | None = None) -> list[list[str]]:
    found = host.do(TogetherJob(parts=parts), report or Report())  # type: ignore[arg-type]
    return [[reply["text"] for reply in part["replies"]] for part in found["parts"]]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The adapters' numbers of the lanes of every batch."""
    seen: list[list[int]] = []

    def counted(base: Any, lanes: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append([lane.adapter for lane in lanes])
        return decoding.generate(base, lanes, *args, **kwargs)

    monkeypatch.setattr(answering, "generate", counted)
    return seen


def test_two_adapters_and_their_base_answer_in_one_batch_as_each_does_alone(host: Host, train: Callable[..., str], batches: list[list[int]]) -> None:
    one, two = train("one"), train("two", {"rank": 2, "target_modules": ["q_proj", "v_proj"]}, seed=7)
    expected = [alone(host, asks(one)), alone(host, asks(two))]
    plain = alone(host, asks(one, False))
    assert expected[0] != expected[1] and plain not in expected
    batches.clear()
    texts: list[list[str]] = []
    assert both(host, asks(one), asks(two), report=Report(texts=texts.append)) == expected
    assert batches == [[1, 2]] and host.base is not None and host.base.adapters == ("one", "two"), "what was on it stayed"
    assert texts[-1] == [live(expected[0][0]), live(expected[1][0])] and any(all(some) and some != texts[-1] for some in texts), "both grow together"
    assert both(host, asks(two), asks(one, False, True)) == [expected[1], [plain[0], expected[0][0]]] and batches[1:] == [[2, 0, 1]]


def test_each_keeps_its_own_proof_and_either_answers_alone_without_being_put_on_again(
    host: Host, train: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = train("one"), train("two", seed=7)
    moved = [host.do(asks(name), Report())["adapter_difference"] for name in (one, two)]
    found = host.do(TogetherJob(parts=(asks(one), asks(two))), Report())
    assert [part["adapter_difference"] for part in found["parts"]] == pytest.approx(moved, rel=1e-5) and moved[0] != moved[1]
    put: list[str] = []
    monkeypatch.setattr("workbench.engine.jobs.put_saved_adapter", lambda base, folder, name: put.append(name))
    told: list[str | None] = []
    host.tell(Report(holds=lambda holds: told.append(holds.adapter)))
    assert told == ["two and one"]
    replies = [alone(host, asks(name)) for name in (one, two)]
    scored = [host.do(EvaluateJob(prompts=(TURNS,), adapted=True, run=name, sampling=SHORT), Report())["replies"] for name in (one, two)]
    assert put == [] and scored == replies and replies[0] != replies[1]


def test_a_run_that_is_trained_again_is_put_on_anew_and_training_takes_both_off(host: Host, workspace: Workspace, train: Callable[..., str]) -> None:
    one, two = train("one"), train("two", seed=7)
    before = both(host, asks(one), asks(two))
    workspace.runs.remove("two")
    train("two", {"rank": 6}, seed=9)
    assert host.base is not None and host.base.adapters == ("two",)
    after = both(host, asks(one), asks(two))
    assert after[0] == before[0] and after[1] == alone(host, asks("two")) != before[1]


def test_a_voice_that_can_t_be_asked_is_named_and_the_other_one_answers(host: Host, workspace: Workspace, train: Callable[..., str]) -> None:
    one, two = train("one"), train("two", seed=7)
    expected = alone(host, asks(one))
    (workspace.runs.path("two") / "adapter_model.safetensors").write_bytes(b"no weights")
    held: list[str | None] = []
    for parts in ((asks(one), asks(two)), (asks(two), asks(one))):
        texts: list[list[str]] = []
        found = host.do(TogetherJob(parts=parts), Report(texts=texts.append, holds=lambda holds: held.append(holds.adapter)))["parts"]
        sound, broken = (found[0], found[1]) if parts[0].run == one else (found[1], found[0])
        assert [reply["text"] for reply in sound["replies"]] == expected and sound["adapter_difference"] is not None
        assert broken["replies"] == [] and "adapter_model.safetensors of two is broken" in broken["error"]
        assert sorted(texts[-1]) == sorted([live(expected[0]), ""]) and {len(told) for told in texts} == {2}
    assert host.base is not None and host.base.adapters == ("one",) and alone(host, asks(one)) == expected and held[-1] == "one"
    assert "There is no run named three" in host.do(TogetherJob(parts=(asks(one), asks("three"))), Report())["parts"][1]["error"]
    with pytest.raises(RunError, match="There is no run named four"):
        both(host, asks("four"), asks("three"))


def test_adapters_of_two_dialects_each_end_where_their_own_does(host: Host, train: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = train("one"), train("two", dialect="functiongemma", seed=7)
    lanes: list[Any] = []
    monkeypatch.setattr(answering, "generate", lambda base, asked, *args, **kwargs: lanes.extend(asked) or decoding.generate(base, asked, *args, **kwargs))
    both(host, asks(one), asks(two, stops=("!",)))
    control = host.runs.form("two").dialect
    assert [(lane.keep, lane.stops) for lane in lanes] == [((), ()), (control.control, (*control.stops, "!"))] and control.stops


def test_a_dora_adapter_answers_beside_another_one_batch_after_the_other(host: Host, train: Callable[..., str]) -> None:
    one, two = train("one"), train("two", {"dora": True}, seed=7)
    expected = [alone(host, asks(one)), alone(host, asks(two))]
    assert both(host, asks(one), asks(two)) == expected and both(host, asks(two), asks(one)) == expected[::-1]


def test_an_adapter_and_a_merged_model_grow_together_where_the_memory_holds_both(host: Host, train: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = train("one"), train("two", seed=7)
    host.do(MergeJob(run=one, name="mine"), Report())
    merged = asks(model="merged:mine")
    expected = [alone(host, asks(two)), alone(host, merged)]
    texts: list[list[str]] = []
    found = host.do(TogetherJob(parts=(asks(two), merged)), Report(texts=texts.append))
    assert [[reply["text"] for reply in part["replies"]] for part in found["parts"]] == expected
    assert [part["adapter_difference"] is None for part in found["parts"]] == [False, True]
    assert any(0 < len(left) < len(expected[0][0]) and 0 < len(right) < len(expected[1][0]) for left, right in texts)
    assert host.key is not None and host.key[0] == "merged:mine" and host.beside is not None and host.beside.base.adapters == ("two",)
    assert both(host, merged, asks(two, False, True)) == [expected[1], [alone(host, asks(two, False))[0], expected[0][0]]]


def test_without_the_room_for_both_bases_one_comes_after_the_other(host: Host, train: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    host.do(MergeJob(run=train("one"), name="mine"), Report())
    expected = [alone(host, asks()), alone(host, asks(model="merged:mine"))]
    host.drop()
    monkeypatch.setattr(host, "one_only", True)
    texts: list[list[str]] = []
    said: list[str] = []
    assert both(host, asks(), asks(model="merged:mine"), report=Report(progress=lambda text, share: said.append(text), texts=texts.append)) == expected
    assert host.beside is None and any("the memory does not hold both" in text for text in said)
    assert texts[-1] == [expected[0][0], live(expected[1][0])] and all(left == expected[0][0] for left, right in texts if right)


def test_a_seed_gives_the_same_words_alone_and_beside_another_base(host: Host, train: Callable[..., str]) -> None:
    host.do(MergeJob(run=train("one"), name="mine"), Report())
    drawn = Sampling(greedy=False, temperature=1.5, top_k=0, top_p=1.0, max_new_tokens=12, seed=3)
    parts = tuple(asks(run, **more).model_copy(update={"sampling": drawn}) for run, more in (("one", {}), (None, {"model": "merged:mine"})))
    expected = [alone(host, part) for part in parts]
    assert both(host, *parts) == expected and host.beside is not None


def test_a_stop_while_the_first_of_two_answers_by_itself_keeps_what_it_said(host: Host, train: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    host.do(MergeJob(run=train("one"), name="mine"), Report())
    host.drop()
    monkeypatch.setattr(host, "one_only", True)
    texts: list[list[str]] = []
    found = host.do(TogetherJob(parts=(asks("one"), asks(model="merged:mine"))), Report(texts=texts.append, stop=lambda: len(texts) > 2))["parts"]
    assert [(reply["tokens"], reply["ended"]) for part in found for reply in part["replies"]] == [(3, "stopped"), (0, "stopped")]
    assert host.key is not None and host.key[0] == "demo", "the second one was not loaded any more"


def test_the_layers_of_both_bases_give_signs(host: Host, train: Callable[..., str]) -> None:
    host.do(MergeJob(run=train("one"), name="mine"), Report())
    parts = (asks("one"), asks(model="merged:mine"))
    both(host, *parts)
    signs: list[str] = []
    layers = sum(len(base.base.raw.model.layers) for base in (host, host.beside) if base is not None and base.base is not None)
    host.do(TogetherJob(parts=parts), Report(sign=signs.append))  # type: ignore[arg-type]
    tokens = max(reply["tokens"] for part in host.do(TogetherJob(parts=parts), Report())["parts"] for reply in part["replies"])
    assert len(signs) >= layers * (tokens - 1)


def test_a_stop_ends_both(host: Host, train: Callable[..., str]) -> None:
    host.do(MergeJob(run=train("one"), name="mine"), Report())
    parts = (asks("one"), asks(model="merged:mine"))
    both(host, *parts)
    texts: list[list[str]] = []
    found = host.do(TogetherJob(parts=parts), Report(texts=texts.append, stop=lambda: len(texts) > 4))
    assert {reply["ended"] for part in found["parts"] for reply in part["replies"]} == {"stopped"}
    assert all(2 <= reply["tokens"] <= 4 for part in found["parts"] for reply in part["replies"])
