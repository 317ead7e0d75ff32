"""The chat's verbs: conversations of two panes, the way of a call, stops; the engine's replies are scripted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from workbench.calls.dialects import DIALECTS, TAG, message_calls
from workbench.calls.loop import Failed, FellBack, Ran, Refused, Said
from workbench.calls.prompting import CallForm
from workbench.dataset.formats import dump_jsonl
from workbench.engine.client import Ticket
from workbench.engine.messages import AnswerJob, TogetherJob
from workbench.errors import InputError, WorkbenchError
from workbench.schema import Example, Message, ToolCall, ToolSpec
from workbench.settings import RunSettings, Sampling
from workbench.training import events
from workbench.training.call_form import CallRecord
from workbench.training.merged import MergedRecord
from workbench.ui.chat import asking, panel, reload, shown, wanted
from workbench.ui.chat.asking import Manner
from workbench.ui.chat.talk import KEPT, Chat, Exchange, Piece, Side
from workbench.ui.chat.voices import choice_words, chosen_now, replaced_words
from workbench.ui.words import STILL_ANSWERING
from workbench.ui.words import chat as words
from workbench.workspace import Workspace

CALL = TAG.render(ToolCall("get_sensitive_data"))
PLAIN = Manner()
ROWS = (Example((Message("user", "Баланс?"), Message("assistant", CALL))),)


class Script:
    """Stands for the engine: notes each job, those of a job together one by one, and answers from a list of replies, a lane each; an error is a job that fails."""

    def __init__(self) -> None:
        self.jobs: list[AnswerJob] = []
        self.replies: list[Any] = []
        self.handed_in = 0

    def submit(self, job: Any, label: str) -> Ticket:
        self.handed_in += 1
        parts = job.parts if isinstance(job, TogetherJob) else (job,)
        self.jobs += parts
        ticket, said = Ticket(self.handed_in, job, label), self.replies.pop(0)
        if isinstance(said, WorkbenchError):
            ticket.error = said
        else:
            assert [len(part.lanes) for part in parts] == [len(part.prompts) for part in parts] and len(said) == sum(len(part.lanes) for part in parts)
            told = iter([{"text": text, "tokens": 4, "seconds": 0.5, "first_token_seconds": 0.1, "ended": "stop token"} for text in said])
            moved = {None: None, "a": 3.5, "b": 2.5}
            results = [{"replies": [next(told) for _ in part.lanes], "adapter_difference": moved[part.run]} for part in parts]
            for result in results:
                if isinstance(error := result["replies"][0]["text"], WorkbenchError):
                    result |= {"replies": [], "error": str(error)}
            ticket.result = {"parts": results} if len(results) > 1 else results[0]
        ticket.finished.set()
        return ticket

    def close(self) -> None:
        """Nothing runs."""


@pytest.fixture
def engine(workspace: Workspace) -> Script:
    """A workbench with the adapters "a" and "b", on a scripted engine."""
    for name in ("b", "a"):
        workspace.runs.create(name, model="demo", model_name="m", rows=ROWS, data_name="d", settings=RunSettings())
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            (workspace.runs.path(name) / file).write_text("{}")
        workspace.runs.append(name, events.Ended(state="finished", step=1))
    script = Script()
    vars(workspace)["engine"] = script
    return script


def talk(space: Workspace, chat: Chat, text: str, voices: tuple[str | None, str | None] = ("", "a"), manner: Manner = PLAIN) -> Exchange:
    asked = asking.ask(space, chat, text, voices, manner)
    for _ in asking.follow(asked):
        pass
    return asked.exchange


def run_call(space: Workspace, chat: Chat, key: str, manner: Manner = PLAIN) -> None:
    asked, side = asking.press(space, chat, key, manner)
    for _ in asking.carry_on(asked, side):
        pass


def said(job: AnswerJob) -> list[list[tuple[str, str]]]:
    return [[(turn["role"], turn["content"]) for turn in prompt] for prompt in job.prompts]


# -- two panes, several turns -----------------------------------------------------------------------


def test_each_pane_goes_on_with_its_own_conversation_in_one_job(workspace: Workspace, engine: Script) -> None:
    chat = Chat()
    engine.replies = [("Да", "Нет"), ("Один", "Два")]
    talk(workspace, chat, " Привет ")
    talk(workspace, chat, "Ещё?", manner=Manner(Sampling(max_new_tokens=7), ("конец",)))
    assert said(engine.jobs[1]) == [
        [("user", "Привет"), ("assistant", "Да"), ("user", "Ещё?")], [("user", "Привет"), ("assistant", "Нет"), ("user", "Ещё?")],
    ]  # fmt: skip
    job = engine.jobs[1]
    assert (job.run, job.lanes, job.stops, job.sampling.max_new_tokens) == ("a", (False, True), ("конец",), 7)
    assert [side.moved for side in chat.exchanges[1].asked()] == [None, 3.5]


def test_two_adapters_answer_together_and_so_does_the_same_voice_twice(workspace: Workspace, engine: Script) -> None:
    engine.replies = [("Да", "Нет"), ("x", "y")]
    exchange = talk(workspace, Chat(), "Привет", ("a", "b"))
    assert [(job.run, job.lanes) for job in engine.jobs] == [("a", (True,)), ("b", (True,))] and engine.handed_in == 1
    assert [(side.first.text, side.moved) for side in exchange.asked()] == [("Да", 3.5), ("Нет", 2.5)]
    talk(workspace, Chat(), "Привет", ("", ""))
    assert (engine.jobs[2].run, engine.jobs[2].lanes) == (None, (False, False))


def test_a_voice_that_could_not_be_asked_says_why_in_its_own_pane_and_the_other_one_stands(workspace: Workspace, engine: Script) -> None:
    engine.replies = [("Да", WorkbenchError("b is broken: train it again."))]
    exchange = talk(workspace, Chat(), "Привет", ("a", "b"))
    assert [(side.first.text, side.first.ended, side.first.trouble) for side in exchange.asked()] == [
        ("Да", "stop token", ""), ("", "failed", "b is broken: train it again."),
    ]  # fmt: skip


def test_what_another_voice_said_is_not_put_into_a_models_mouth(workspace: Workspace, engine: Script) -> None:
    chat = Chat()
    engine.replies = [("Да", "Нет"), ("Один", "Два")]
    talk(workspace, chat, "Привет")
    talk(workspace, chat, "Ещё?", ("", "b"))
    assert said(engine.jobs[1]) == [[("user", "Привет"), ("assistant", "Да"), ("user", "Ещё?")], [("user", "Ещё?")]]


def test_a_failed_reply_is_told_and_left_out_of_the_conversation(workspace: Workspace, engine: Script) -> None:
    chat = Chat()
    engine.replies = [WorkbenchError("The prompt has 9,000 tokens; 8,192 are allowed here."), ("Да", "Нет")]
    talk(workspace, chat, "<длинное>")
    assert "The prompt has 9,000 tokens" in shown.live_html(chat, 0, {}, "") and shown.changed_html(chat) == ""
    talk(workspace, chat, "Привет")
    assert said(engine.jobs[1]) == [[("user", "Привет")]] * 2


def test_an_adapter_deleted_in_mid_chat_is_named_and_the_chat_stays(workspace: Workspace, engine: Script) -> None:
    chat = Chat()
    engine.replies = [("Да", "Нет")]
    talk(workspace, chat, "Привет")
    workspace.runs.remove("a")
    with pytest.raises(InputError) as caught:
        asking.ask(workspace, chat, "Ещё?", ("", "a"), Manner())
    assert str(caught.value) == "The adapter a is not there any more (deleted, or its run is training again): choose another one."
    assert len(chat.exchanges) == 1 and len(engine.jobs) == 1


def test_a_chat_keeps_its_newest_exchanges(workspace: Workspace, engine: Script) -> None:
    chat = Chat()
    for i in range(KEPT + 2):
        chat.take_up(Exchange(str(i)))
    assert [exchange.prompt for exchange in chat.exchanges][:1] == ["2"] and chat.newest is not None and chat.newest.key == KEPT + 2
    chat.cut(1)
    assert chat.place(3) == 0 and chat.place(4) is None


def test_stop_sequences_are_read_a_line_each() -> None:
    assert asking.read_stops("###\n\nUser:\\n\n###") == ("###", "User:\n") and asking.read_stops(None) == ()
    with pytest.raises(InputError, match="At most 8 stop sequences of 100 characters"):
        asking.read_stops("x" * 101)


def test_answering_again_takes_another_seed_where_it_samples() -> None:
    chat = Chat([Exchange("Привет")])
    assert panel.again(chat, Manner())[2].startswith("Greedy decoding gives the same reply again") and chat.exchanges == []
    sampled = Manner(Sampling(greedy=False, seed=5), ("x",), "run", True)
    seeds = []
    for _ in range(2):
        chat.take_up(Exchange("Привет"))
        prompt, manner, told = panel.again(chat, sampled)
        seeds.append(manner.sampling.seed)
        assert (prompt, told, manner.stops, manner.way, manner.functions) == ("Привет", "", ("x",), "run", True)
    assert seeds == [6, 7]
    with pytest.raises(InputError, match="nothing to answer again"):
        panel.again(chat, sampled)


# -- the way of a call ------------------------------------------------------------------------------


def test_a_call_waits_for_its_button_is_run_and_answered_with_its_result(workspace: Workspace, engine: Script) -> None:
    chat = Chat()
    engine.replies = [("Не знаю", CALL), ("У вас 12 340,50 ₽",)]
    exchange = talk(workspace, chat, "Баланс?")
    right = exchange.right
    assert right is not None and right.loop == "waits" and exchange.left is not None and exchange.left.loop == "answered"
    assert 'data-run="1/1/0/0"' in shown.live_html(chat, 1, workspace.tools.read().tools, "a")
    run_call(workspace, chat, "1/1/0/0")
    assert [type(step) for step in right.steps] == [Said, Ran, Said] and right.loop == "answered"
    job = engine.jobs[1]
    assert (job.run, job.lanes) == ("a", (True,)) and [role for role, _ in said(job)[0]] == ["user", "assistant", "user"]
    assert "12 340,50" in job.prompts[0][2]["content"]
    html = shown.live_html(chat, 1, workspace.tools.read().tools, "a")
    assert "get_sensitive_data answered" in html and "У вас 12 340,50 ₽" in html and "data-run" not in html


def test_what_was_answered_after_a_call_is_part_of_the_conversation(workspace: Workspace, engine: Script) -> None:
    chat = Chat()
    engine.replies = [("Не знаю", CALL), ("Много",), ("x", "y")]
    talk(workspace, chat, "Баланс?")
    run_call(workspace, chat, "1/1/0/0")
    talk(workspace, chat, "Спасибо")
    told = said(engine.jobs[2])[1]
    assert [role for role, _ in told] == ["user", "assistant", "user", "assistant", "user"] and told[3:] == [("assistant", "Много"), ("user", "Спасибо")]


def test_a_reply_that_is_written_after_a_confirmed_call_waits_for_nobody() -> None:
    call = TAG.render(ToolCall("get_sensitive_data"))
    side = Side(pieces=[Piece(text=call, ended="stop token")], loop="waits")
    assert words.WAITS_FOR_YOU in shown.side_html(side, None, key="1/1")
    side.pieces.append(Piece(text="Ваш"))
    assert words.WAITS_FOR_YOU not in shown.side_html(side, None, key="1/1")


def test_a_call_that_nobody_ran_stays_without_its_result(workspace: Workspace, engine: Script) -> None:
    chat = Chat()
    engine.replies = [("Не знаю", CALL), ("x", "y")]
    talk(workspace, chat, "Баланс?")
    talk(workspace, chat, "Спасибо")
    assert said(engine.jobs[1])[1] == [("user", "Баланс?"), ("assistant", CALL), ("user", "Спасибо")]
    with pytest.raises(InputError, match="can't be run any more"):
        asking.press(workspace, chat, "1/1/0/0", Manner())


@pytest.mark.parametrize("key", ["", "1", "1/1/0/7", "1/7/0/0", "1/0/0/0", "9/1/0/0", "1/1/-1/0", "a/b/c/d"])
def test_a_key_that_names_no_waiting_call_is_refused(workspace: Workspace, engine: Script, key: str) -> None:
    chat = Chat()
    engine.replies = [("Не знаю", CALL)]
    talk(workspace, chat, "Баланс?")
    with pytest.raises(InputError, match="can't be run any more"):
        asking.press(workspace, chat, key, Manner())


def test_without_the_confirm_step_calls_run_at_once_and_equal_ones_are_known(workspace: Workspace, engine: Script) -> None:
    chat = Chat()
    engine.replies = [(CALL, CALL), ("Один",), ("Два",)]
    exchange = talk(workspace, chat, "Баланс?", manner=Manner(way="run"))
    ran = [step for side in exchange.asked() for step in side.steps if isinstance(step, Ran)]
    assert [step.cached for step in ran] == [False, True] and [side.pieces[1].text for side in exchange.asked()] == ["Один", "Два"]


def test_two_panes_that_say_the_same_go_on_each_by_itself(workspace: Workspace, engine: Script) -> None:
    chat = Chat()
    engine.replies = [("Да",), ("x", "y"), (CALL, CALL), ("Один",), ("Два",)]
    talk(workspace, chat, "Привет", ("", None))
    talk(workspace, chat, "И тебе", ("", ""))
    talk(workspace, chat, "Баланс?", ("", ""), Manner(way="run"))
    asked = [[text for role, text in said(job)[0] if role == "user"][:2] for job in engine.jobs[3:]]
    assert asked == [["Привет", "И тебе"], ["И тебе", "Баланс?"]] and [side.pieces[1].text for side in chat.exchanges[2].asked()] == ["Один", "Два"]


def test_calls_that_are_only_shown_are_neither_run_nor_judged(workspace: Workspace, engine: Script) -> None:
    engine.replies = [("Не знаю", CALL)]
    exchange = talk(workspace, Chat(), "Баланс?", manner=Manner(way="show"))
    assert [(side.loop, side.steps) for side in exchange.asked()] == [("", ()), ("", ())]


def test_two_calls_of_one_reply_are_confirmed_each(workspace: Workspace, engine: Script) -> None:
    book = workspace.tools
    book.save(ToolSpec("now", "", {"type": "object", "properties": {}}, "12:00"), book.read().version)
    chat = Chat()
    engine.replies = [("Не знаю", CALL + TAG.render(ToolCall("now"))), ("Готово",)]
    exchange = talk(workspace, chat, "Баланс?")
    assert exchange.right is not None
    run_call(workspace, chat, "1/1/0/1")
    assert exchange.right.loop == "waits" and len(engine.jobs) == 1, "the first call still waits"
    run_call(workspace, chat, "1/1/0/0")
    assert [step.call.name for step in exchange.right.steps if isinstance(step, Ran)] == ["get_sensitive_data", "now"]
    assert exchange.right.pieces[1].text == "Готово"


def test_after_a_reload_a_call_that_ran_is_known_and_not_run_again(workspace: Workspace, engine: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    book, ran = workspace.tools, []
    book.save(ToolSpec("now", "", {"type": "object", "properties": {}}, "12:00"), book.read().version)
    run_mock = asking.run_mock
    monkeypatch.setattr(asking, "run_mock", lambda tool, call, **more: ran.append(call.name) or run_mock(tool, call, **more))
    before, chat = Chat(), Chat()
    engine.replies = [("Не знаю", CALL + TAG.render(ToolCall("now"))), ("Готово",)]
    talk(workspace, before, "Баланс?")
    run_call(workspace, before, "1/1/0/0")
    reload.write(workspace, "page1", before)
    assert reload.take_over(workspace, "page1", "page2", chat)
    exchange = chat.exchanges[0]
    assert exchange.right is not None and exchange.right.loop == "waits"
    run_call(workspace, chat, f"{exchange.key}/1/0/1")
    assert ran == ["get_sensitive_data", "now"] and exchange.right.pieces[1].text == "Готово"


@pytest.mark.parametrize(("reply", "kinds", "reason"), [
    ("<tool_call name=", [Said, FellBack], "malformed call"), (TAG.render(ToolCall("nope")), [Said, Refused, FellBack], "there is no tool “nope”"),
])
def test_what_an_adapter_could_not_do_is_listed_for_a_person_and_the_base_s_is_not(
    workspace: Workspace, engine: Script, reply: str, kinds: list[Any], reason: str
) -> None:
    chat = Chat()
    engine.replies = [(reply, reply)]
    exchange = talk(workspace, chat, "Баланс?")
    assert [[type(step) for step in side.steps] for side in exchange.asked()] == [kinds, kinds]
    (entry,) = workspace.review.waiting()
    assert (entry.prompt, entry.replies, entry.adapter) == ("Баланс?", (reply,), "a") and reason in entry.reason
    assert ["needs a human" in shown.live_html(chat, pane, {}, "") for pane in (0, 1)] == [False, True]


def test_a_tool_without_an_answer_ends_in_a_fall_back(workspace: Workspace, engine: Script) -> None:
    book = workspace.tools
    book.save(ToolSpec("get_sensitive_data", "", {"type": "object", "properties": {}}), book.read().version)
    engine.replies = [("Нет", CALL)]
    exchange = talk(workspace, Chat(), "Баланс?", manner=Manner(way="run"))
    assert exchange.right is not None and [type(step) for step in exchange.right.steps] == [Said, Failed, FellBack]
    assert len(workspace.review.waiting()) == 1


def test_a_reply_that_fails_after_a_call_leaves_the_trace_and_says_why(workspace: Workspace, engine: Script) -> None:
    chat = Chat()
    engine.replies = [("Нет", CALL), WorkbenchError("The engine is gone."), ("x", "y")]
    exchange = talk(workspace, chat, "Баланс?", manner=Manner(way="run"))
    assert exchange.right is not None and exchange.right.loop == "stopped" and "The engine is gone." in shown.live_html(chat, 1, {}, "a")
    talk(workspace, chat, "Ещё?")
    assert [role for role, _ in said(engine.jobs[2])[1]] == ["user", "assistant", "user"], "a result that nothing was said to is left out"


def test_a_chat_that_calls_for_ever_ends_at_the_chain_limit(workspace: Workspace, engine: Script) -> None:
    engine.replies = [("Нет", CALL), *[(CALL,)] * 4]
    exchange = talk(workspace, Chat(), "Баланс?", manner=Manner(way="run"))
    assert exchange.right is not None and exchange.right.loop == "needs a human" and len(exchange.right.pieces) == 5


def test_a_stop_before_the_loop_runs_no_call(workspace: Workspace, engine: Script) -> None:
    engine.replies = [("Нет", CALL)]
    asked = asking.ask(workspace, Chat(), "Баланс?", ("", "a"), Manner(way="run"))
    asked.stop()
    for _ in asking.follow(asked):
        pass
    assert [side.steps for side in asked.exchange.asked()] == [(), ()]


# -- the handler --------------------------------------------------------------------------------------


def test_a_page_asks_one_thing_at_a_time_and_a_closed_one_stops_its_jobs(workspace: Workspace, engine: Script) -> None:
    desk = asking.Desk()
    steps = panel.answering(workspace, desk, panel.drawing(workspace))
    engine.replies = [("Да", "Нет")]
    chat = Chat()
    asked = asking.ask(workspace, chat, "Привет", ("", "a"), Manner())
    going: Any = steps("page", chat, "(base)", "a", lambda: (asked, asking.follow(asked), ""))
    first = next(going)
    assert len(first) == 11 and desk.of("page") is asked
    assert "still being written" in next(steps("page", chat, "(base)", "a", lambda: (asked, iter(()), "")))[6]
    going.close()
    assert asked.halted and desk.of("page") is None


def test_the_last_picture_of_a_cleared_chat_is_empty(workspace: Workspace, engine: Script) -> None:
    """Gradio tells the last picture of a stream once more when it ends."""
    desk, chat = asking.Desk(), Chat()
    steps = panel.answering(workspace, desk, panel.drawing(workspace))
    engine.replies = [("Да", "Нет")]
    asked = asking.ask(workspace, chat, "Привет", ("", "a"), Manner())
    going = steps("page", chat, "(base)", "a", lambda: (asked, asking.follow(asked), ""))
    assert "Привет" in next(going)[2]
    desk.leave("page")
    chat.clear()
    (last,) = list(going)
    assert "wb-empty" in last[2] and "Привет" not in "".join(map(str, last[:6]))


def test_an_error_is_a_sentence_and_the_box_keeps_its_text(workspace: Workspace, engine: Script) -> None:
    steps = panel.answering(workspace, asking.Desk(), panel.drawing(workspace))

    def begin() -> Any:
        raise InputError("So <it> is.")

    (only,) = list(steps("page", Chat(), "(base)", None, begin))
    assert "So &lt;it&gt; is." in only[6] and not isinstance(only[7], str)


# -- voices that come and go --------------------------------------------------------------------------


@pytest.fixture
def merged(workspace: Workspace, engine: Script) -> str:
    """A merged model beside the adapters, which speaks the Hermes form."""
    folder = workspace.catalog.models_dir / "mine"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text("")
    record = MergedRecord(adapter="a", base="m", calls=CallRecord.of(CallForm(DIALECTS["hermes"])))
    (folder / "merged.json").write_text(record.model_dump_json())
    return "merged:mine"


def ways(engine: Script) -> list[tuple[Any, ...]]:
    return [(job.run, job.model, job.form_of, job.lanes) for job in engine.jobs]


def test_a_merged_model_is_a_voice_like_any_other(workspace: Workspace, engine: Script, merged: str) -> None:
    engine.replies = [("Да", "Нет")] * 2 + [("x", "y")]
    chat = Chat()
    exchange = talk(workspace, chat, "Привет", ("", merged))
    assert ways(engine) == [(None, "demo", merged, (False,)), (None, merged, None, (False,))], "the base in the form of the voice beside it"
    assert [side.dialect_name for side in exchange.asked()] == ["hermes", "hermes"] and [side.moved for side in exchange.asked()] == [None, None]
    assert "Merged · mine" in shown.title_html(merged)
    talk(workspace, chat, "Ещё?", ("a", merged))
    assert ways(engine)[2:] == [("a", "demo", None, (True,)), (None, merged, None, (False,))]
    assert said(engine.jobs[3]) == [[("user", "Привет"), ("assistant", "Нет"), ("user", "Ещё?")]], "it goes on with what it said itself"
    talk(workspace, Chat(), "Привет", (merged, merged))
    assert ways(engine)[4:] == [(None, merged, None, (False, False))] and engine.handed_in == 3, "both panes are one job"


def test_a_call_of_a_merged_model_is_run_and_answered_by_it(workspace: Workspace, engine: Script, merged: str) -> None:
    call = DIALECTS["hermes"].render(ToolCall("get_sensitive_data"))
    engine.replies = [("Да", call), ("У вас 12",)]
    exchange = talk(workspace, Chat(), "Баланс?", ("", merged), Manner(way="run"))
    assert exchange.right is not None and exchange.right.loop == "answered" and ways(engine)[2] == (None, merged, None, (False,))


def test_a_voice_that_is_not_there_is_refused_by_name(workspace: Workspace, engine: Script, merged: str) -> None:
    for voice, told in (("merged:other", "The merged model other is not there any more"), ("merged:../x", "The merged model"), ("nope", "The adapter nope")):
        with pytest.raises(InputError, match=told):
            asking.ask(workspace, Chat(), "Привет", ("", voice), Manner())
    (workspace.catalog.models_dir / "mine" / "merged.json").unlink()
    with pytest.raises(InputError, match="The merged model mine is not there any more"):
        asking.ask(workspace, Chat(), "Привет", (merged, ""), Manner())
    assert engine.jobs == []


def test_an_adapter_that_is_deleted_while_its_call_waits_ends_the_way_with_a_sentence(workspace: Workspace, engine: Script) -> None:
    chat = Chat()
    engine.replies = [("Не знаю", CALL)]
    talk(workspace, chat, "Баланс?")
    workspace.runs.remove("a")
    run_call(workspace, chat, "1/1/0/0")
    side = chat.exchanges[0].right
    assert side is not None and (side.loop, len(side.pieces)) == ("stopped", 1)
    html = shown.live_html(chat, 1, {}, "a")
    assert "There is no run named a; there are: b." in html and "data-run" not in html and words.WAITS_FOR_YOU not in html


def test_the_boxes_follow_the_voices_until_a_chat_has_begun() -> None:
    begun, base = Chat([Exchange("x")]), words.BASE
    there = ["b", "merged:mine"]
    assert chosen_now(Chat(), None, None, [], None) == (base, None)
    assert chosen_now(Chat(), base, None, there, None) == (base, "b")
    assert chosen_now(Chat(), base, base, there, ["b"]) == (base, base), "a merged model pushes nobody aside"
    assert chosen_now(Chat(), base, "b", ["c", *there], there) == (base, "c"), "a new adapter is shown"
    assert chosen_now(Chat(), "a", "a", there, ["a", *there]) == (base, "b"), "one that is gone is chosen no more"
    assert chosen_now(Chat(), base, "a", [], ["a"]) == (base, None)
    assert chosen_now(begun, "a", "a", there, ["a", *there]) == ("a", "a"), "in a chat that goes on the voice is not changed unasked"
    assert chosen_now(begun, base, "b", ["c", *there], there) == (base, "b")
    assert [choice_words(voice) for voice in there] == ["b", "merged: mine"]


def test_a_pane_whose_voice_is_gone_says_which_it_has_now() -> None:
    gone = "merged:gone"
    assert replaced_words(("", gone), ("", "b"), ["b"]) == "“merged: gone” is not there any more: its pane has b now."
    assert replaced_words((gone, "b"), ("", "b"), ["b"]) == "“merged: gone” is not there any more: its pane has Base now."
    assert replaced_words(("", "a"), ("", None), []) == "“a” is not there any more: its pane is empty until there is another voice."
    assert replaced_words(("", "b"), ("", "c"), ["c", "b"]) == "", "a new adapter has taken its place"
    assert replaced_words((None, gone), (None, gone), ["b"]) == "", "in a chat that goes on it stays chosen, and is named there"


def test_what_another_button_said_stays_while_an_answer_streams(workspace: Workspace, engine: Script) -> None:
    chat = Chat([Exchange("a", Side(pieces=[Piece("wri")]), Side("a", "a", pieces=[Piece("wri")]))])
    asked = SimpleNamespace(stop=lambda: None, pressed=False)

    def going() -> Iterator[None]:
        yield
        yield  # meanwhile another button speaks
        for side in chat.exchanges[0].asked():
            side.pieces = [Piece("Да", "stop token")]
        yield

    steps = panel.answering(workspace, asking.Desk(), panel.drawing(workspace))("page", chat, words.BASE, "a", lambda: (asked, going(), "known"))  # type: ignore[arg-type,return-value]
    lines = [step[6] for step in steps]
    assert "known" in lines[0] and lines[1] == gr.skip() and "both in text" in lines[2] and len(lines) == 3


def test_that_an_answer_is_still_being_written_is_said_no_longer_than_it_is(workspace: Workspace, engine: Script) -> None:
    chat, desk = Chat([Exchange("a", Side(pieces=[Piece("Да", "stop token")]), None)]), asking.Desk()
    asked = asking.Asked(workspace, chat, chat.exchanges[0], Manner())
    answer = panel.answering(workspace, desk, panel.drawing(workspace))
    steps = answer("page", chat, words.BASE, "a", lambda: (asked, (None for _ in range(2)), ""))
    next(steps)
    assert STILL_ANSWERING in next(answer("page", chat, words.BASE, "a", lambda: (asked, iter(()), "")))[6]
    assert [step[6] for step in steps] == [gr.skip(), ""]


# -- a new conversation -------------------------------------------------------------------------------


def test_a_new_conversation_leaves_the_old_one_to_be_seen_and_not_to_be_read(workspace: Workspace, engine: Script) -> None:
    chat = Chat()
    engine.replies = [("Да", CALL), ("У вас 12",), ("x", "y"), ("z", "w")]
    talk(workspace, chat, "Баланс?", manner=Manner(way="run"))
    cache = chat.cache
    asked = asking.ask(workspace, chat, "Погода?", ("", "a"), Manner(), fresh=True)
    list(asking.follow(asked))
    assert said(engine.jobs[2]) == [[("user", "Погода?")]] * 2 and chat.cache is not cache
    talk(workspace, chat, "Ещё?")
    assert said(engine.jobs[3])[1] == [("user", "Погода?"), ("assistant", "y"), ("user", "Ещё?")]
    past = shown.past_html(chat, 1, {})
    assert past.count('class="wb-turn old"') == 1 and past.count(words.NEW_CONVERSATION) == 1 and "У вас 12" in past
    assert [exchange.fresh for exchange in chat.exchanges] == [False, True, False] and [e.prompt for e in chat.current()] == ["Погода?", "Ещё?"]


def test_the_way_of_a_call_in_a_new_conversation_knows_nothing_of_the_old_one(workspace: Workspace, engine: Script) -> None:
    chat = Chat()
    engine.replies = [("Да", "Нет"), ("Да", CALL), ("У вас 12",)]
    talk(workspace, chat, "Привет")
    asked = asking.ask(workspace, chat, "Баланс?", ("", "a"), Manner(way="run"), fresh=True)
    list(asking.follow(asked))
    assert [role for role, _ in said(engine.jobs[2])[0]] == ["user", "assistant", "user"] and said(engine.jobs[2])[0][0] == ("user", "Баланс?")


def test_the_first_request_of_a_chat_begins_nothing_new(workspace: Workspace, engine: Script) -> None:
    chat = Chat()
    engine.replies = [("Да", "Нет")]
    asked = asking.ask(workspace, chat, "Привет", ("", "a"), Manner(), fresh=True)
    list(asking.follow(asked))
    assert not chat.exchanges[0].fresh and words.NEW_CONVERSATION not in shown.live_html(chat, 1, {}, "a")


# -- what a prompt should lead to ---------------------------------------------------------------------


def test_a_prompt_of_the_files_is_judged_by_what_they_want(workspace: Workspace, engine: Script) -> None:
    chat = Chat()
    engine.replies = [("Здравствуйте!", CALL), ("Нет", CALL), (CALL, "Да")]
    assert talk(workspace, chat, "Привет!").should_call is False and "over-calls now" in shown.changed_html(chat)
    list(asking.follow(asking.ask(workspace, chat, "Что-то новое?", ("", "a"), PLAIN, fresh=True)))
    assert chat.exchanges[-1].should_call is None and "learned to call" in shown.changed_html(chat)
    assert talk(workspace, chat, "Привет!").should_call is None, "what was said before may change what it should lead to"


def test_what_a_prompt_wants_is_asked_of_cases_and_rows(workspace: Workspace) -> None:
    cases = workspace.data_dir / "cases.jsonl"
    assert wanted.should_call(workspace, "Мой доступ активен?") is True and wanted.should_call(workspace, "Привет!") is False
    row = workspace.rows.read().rows[0]
    assert wanted.should_call(workspace, row.request) is bool(message_calls(row.answer))
    cases.write_text("{broken", encoding="utf-8")
    assert wanted.should_call(workspace, row.request) is bool(message_calls(row.answer))
    assert wanted.should_call(workspace, "Никто не знает") is None


ROUNDS = (Message("user", "А?"), Message("assistant", CALL), Message("tool", "1"), Message("assistant", "Да"))


@pytest.mark.parametrize("change", [{"status": "rejected"}, {"source": "generated:families", "status": "draft"}, {"messages": ROUNDS}])
def test_a_row_that_nobody_vouches_for_or_of_several_rounds_says_nothing(workspace: Workspace, change: dict[str, Any]) -> None:
    row = Example((Message("user", "А?"), Message("assistant", CALL)), status="approved")
    workspace.rows.path.write_text(dump_jsonl([row]), encoding="utf-8")
    assert wanted.should_call(workspace, "А?") is True
    workspace.rows.path.write_text(dump_jsonl([dataclasses.replace(row, **change)]), encoding="utf-8")
    assert wanted.should_call(workspace, "А?") is None
