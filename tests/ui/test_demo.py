"""The demonstration: what is played, how it is counted, what can go wrong, and the file of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import gradio as gr
import pytest

from workbench.calls.dialects import TAG
from workbench.calls.prompting import PLAIN
from workbench.engine.client import Ticket
from workbench.engine.messages import AnswerJob
from workbench.errors import InputError, WorkbenchError
from workbench.evaluation.deck import Deck, Entry
from workbench.schema import ToolCall
from workbench.settings import RunSettings, Sampling
from workbench.ui.demo import pages as demo_pages
from workbench.ui.demo import show as verbs
from workbench.ui.demo.pages import Pages
from workbench.ui.demo.saved import saved_html
from workbench.ui.demo.show import Played, Show, choose, deck_store, new_deck, play, stop
from workbench.ui.demo.stage import score_words, stage_html
from workbench.ui.forms import SAMPLING_FIELDS
from workbench.ui.words import demo as words
from workbench.workspace import Workspace
from workbench.workspace.jobs import Jobs

CALL = TAG.render(ToolCall("get_sensitive_data", {}))
EVIL = '<script>alert(1)</script><img src=x onerror="alert(2)">'
Answers = Callable[..., list[AnswerJob]]


@pytest.fixture
def ready(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace with the adapter r."""
    workspace.runs.create("r", model="demo", model_name="small-model", rows=(), data_name="d", settings=RunSettings())
    monkeypatch.setattr(workspace, "adapters", lambda: ["r"])
    view = workspace.runs.view("r")
    monkeypatch.setattr(workspace.runs, "adapter", lambda name: (view, workspace.runs.path("r")))
    monkeypatch.setattr(workspace.runs, "form", lambda name: PLAIN)
    return workspace


@pytest.fixture
def answers(ready: Workspace, monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Answers every prompt with the replies given, (base, adapted) in turn; an error in their place is raised. Returns the jobs."""

    def give(*pairs: Any) -> list[AnswerJob]:
        jobs: list[AnswerJob] = []
        left = list(pairs)

        def answer(self: Jobs, turns: Any, *, run: str | None, lanes: tuple[bool, ...], sampling: Sampling) -> Ticket:
            job = AnswerJob(turns=tuple(turns), lanes=lanes, run=run, sampling=sampling)
            jobs.append(job)
            ticket, found = Ticket(len(jobs), job, "an answer"), left.pop(0)
            if isinstance(found, WorkbenchError):
                ticket.error = found
            else:
                told = [{"text": t, "tokens": 4, "seconds": 2.0, "first_token_seconds": 0.5, "ended": "stop token"} for t in found]
                ticket.result = {"replies": told, "adapter_difference": 3.25}
            ticket.finished.set()
            return ticket

        monkeypatch.setattr(Jobs, "answer", answer)
        return jobs

    return give


def a_show(*entries: Entry) -> Show:
    return Show(Deck(entries or (Entry("Баланс?", True), Entry("Доступ?", True), Entry("Привет", False))), run="r")


def run_all(space: Workspace, show: Show, places: list[int], sampling: Sampling = Sampling()) -> int:  # noqa: B008
    return sum(1 for _ in play(space, show, places, sampling))


def test_all_prompts_are_asked_of_both_sides_and_counted(ready: Workspace, answers: Answers) -> None:
    show = a_show()
    jobs = answers(("нет", CALL), ("нет", "<tool_call broken>"), (CALL, "Привет!"))
    run_all(ready, show, [0, 1, 2])
    assert [(job.lanes, job.run, job.turns[-1]["content"]) for job in jobs] == [((False, True), "r", e.prompt) for e in show.deck.entries]
    assert score_words(show) == ["adapted called 1 of 2, base 0 of 2", "over-calls: adapted 0 of 1, base 1 of 1", "3 of 3 prompts played"]
    page = stage_html(show, ["r"])
    assert "4 tokens · 2 tokens/s · first after 0.5 s" in page and "it moves the logits by up to 3.2" in page
    assert not show.going and show.ticket is None


def test_the_score_runs_along_and_space_goes_on_to_the_next_unplayed_prompt(ready: Workspace, answers: Answers) -> None:
    show = a_show()
    assert score_words(show) == [words.NO_SCORE]
    answers(("a", CALL), ("a", CALL), ("a", "b"), ("a", "b"))
    seen = []
    for _ in range(4):
        place = show.next_unplayed()
        seen.append(place)
        run_all(ready, show, [place])
    assert seen == [0, 1, 2, 0]
    assert score_words(show)[0] == "adapted called 1 of 2, base 0 of 2"


def test_what_bound_calls_changed_is_told_in_words(ready: Workspace, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    show = a_show()
    answers((CALL, CALL))
    wait = Ticket.wait

    def bound(self: Ticket) -> dict[str, Any]:
        result = wait(self)
        for reply, changed in zip(result["replies"], (0, 2), strict=True):
            reply["constrained"] = {"changed": changed}
        return result

    monkeypatch.setattr(Ticket, "wait", bound)
    run_all(ready, show, [0])
    assert show.played[0].base.foot.endswith(" · bound calls: nothing had to be changed")
    assert " · bound calls: changed in 2 place(s)" in show.played[0].adapted.foot


def test_each_pane_says_whether_it_did_as_it_should(ready: Workspace, answers: Answers) -> None:
    show = a_show()
    answers(("нет", CALL), (CALL, "x"), (CALL, "<tool_call broken>"))
    run_all(ready, show, [0])
    assert "learned to call" in stage_html(show, ["r"]) and f"✗ {words.WRONG_CALL}" in stage_html(show, ["r"]) and f"✓ {words.RIGHT}" in stage_html(show, ["r"])
    run_all(ready, show, [1])
    assert "the call is missed now" in stage_html(show, ["r"])
    run_all(ready, show, [2])
    assert f"✗ {words.WRONG_TEXT}" in stage_html(show, ["r"]) and f"✗ {words.BROKEN}" in stage_html(show, ["r"])


def test_a_call_that_nobody_wants_is_nothing_learned(ready: Workspace, answers: Answers) -> None:
    show = a_show()
    answers(("Привет!", CALL))
    run_all(ready, show, [2])
    assert "over-calls now" in stage_html(show, ["r"]) and "learned to call" not in stage_html(show, ["r"])


def test_a_fault_ends_the_show_with_its_sentence_and_counts_nothing(ready: Workspace, answers: Answers) -> None:
    show = a_show()
    jobs = answers(("a", CALL), WorkbenchError("The card <failed>."), ("a", "b"))
    run_all(ready, show, [0, 1, 2])
    assert len(jobs) == 2 and show.place == 1
    assert "The card &lt;failed&gt;." in stage_html(show, ["r"])
    assert score_words(show) == ["adapted called 1 of 1, base 0 of 1", "1 of 3 prompts played"]


def test_without_an_adapter_the_way_to_one_is_told(workspace: Workspace) -> None:
    show = Show(Deck((Entry("a", True),)))
    assert words.NO_ADAPTER in stage_html(show, []) and "<h3>Adapted</h3>" in stage_html(show, [])
    with pytest.raises(InputError, match="No adapter yet. Train one first"):
        run_all(workspace, show, [0])
    show.run = "gone"
    with pytest.raises(InputError, match="The adapter gone is not there any more"):
        run_all(workspace, show, [0])
    assert words.CHOOSE in stage_html(Show(show.deck), ["r"])


def test_one_thing_is_played_at_a_time_and_a_stop_ends_it(ready: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    show, stopped = a_show(), []
    ticket = Ticket(1, AnswerJob(turns=({"role": "user", "content": "a"},), lanes=(False, True), run="r"), "an answer")
    monkeypatch.setattr(Jobs, "answer", lambda *rest, **more: ticket)
    monkeypatch.setattr(verbs, "waiting_words", lambda space, found: "waiting <for> it")

    def halt(found: Ticket) -> None:
        stopped.append(found)
        found.error = WorkbenchError("An answer was taken back before it began.")
        found.finished.set()

    monkeypatch.setattr(type(ready.engine), "stop", lambda self, found: halt(found))
    going = play(ready, show, [0, 1], Sampling())
    next(going)
    assert 'data-going="1"' in stage_html(show, ["r"]) and "waiting &lt;for&gt; it" in stage_html(show, ["r"])
    with pytest.raises(InputError, match="A prompt is being played"):
        run_all(ready, show, [1])
    assert stop(ready, show)
    list(going)
    assert stopped == [ticket] and list(show.played) == [0] and show.played[0].failed == words.STOPPED
    assert not stop(ready, show)


def test_a_page_that_is_closed_stops_its_prompt(ready: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    show, stopped = a_show(), list[Ticket]()
    ticket = Ticket(1, AnswerJob(turns=({"role": "user", "content": "a"},), lanes=(False, True), run="r"), "an answer")
    monkeypatch.setattr(Jobs, "answer", lambda *rest, **more: ticket)
    monkeypatch.setattr(type(ready.engine), "stop", lambda self, found: stopped.append(found))
    going = play(ready, show, [0], Sampling())
    next(going)
    going.close()
    assert stopped == [ticket] and not show.going


def test_another_adapter_deck_or_manner_puts_what_was_played_aside(ready: Workspace, answers: Answers) -> None:
    show = a_show()
    answers(*[("a", CALL)] * 4)
    run_all(ready, show, [0])
    choose(ready, show, "r")
    assert show.played
    choose(ready, show, "other")
    assert not show.played
    show.run = "r"
    run_all(ready, show, [0, 1])
    run_all(ready, show, [1], Sampling(max_new_tokens=5))
    assert list(show.played) == [1]
    new_deck(ready, show, Deck((Entry("neu", False),)))
    assert (show.played, show.place) == ({}, 0)


def test_the_six_demo_prompts_are_the_deck_that_it_begins_with(workspace: Workspace) -> None:
    assert [entry.should_call for entry in deck_store(workspace).read().entries] == [True] * 4 + [False] * 2


class Tags(HTMLParser):
    """The tags of a document, its policy, and what its attributes name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.names: set[str] = set()
        self.policy = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.names |= {name for name, _ in attrs}
        found = dict(attrs)
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"] or ""


def test_the_file_holds_everything_and_nothing_that_could_run_or_fetch(ready: Workspace, answers: Answers) -> None:
    show = a_show(Entry(EVIL, True), Entry("Привет", False), Entry("later", True))
    answers((EVIL, CALL), (f"<tool_call {EVIL}>", "да"))
    run_all(ready, show, [0, 1])
    text = saved_html(show, ["r"], at=0)
    for wanted in ("small-model", ">r<", "Greedy: yes · Longest reply: 96 · Bind calls: no", "adapted called 1 of 1, base 0 of 1", "get_sensitive_data",
                   "1970-01-01", "learned to call", words.NOT_PLAYED, "2 of 3 prompts played", ">tag<"):  # fmt: skip
        assert wanted in text, wanted
    tags = Tags(text)
    assert tags.policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert not tags.seen & {"script", "img", "link", "iframe", "object", "a", "form", "base", "svg"}
    assert not {name for name in tags.names if name.startswith("on")} and "src" not in tags.names and "href" not in tags.names
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 2  # as a prompt and as a reply
    assert not re.search(r"url\(|@import|https?://", text.split("</style>")[0])


def test_there_is_no_file_of_nothing() -> None:
    show = a_show()
    with pytest.raises(InputError, match="Nothing was played yet: press Space or A first"):
        saved_html(show, ["r"])
    show.played[0] = Played(show.deck.entries[0], "tag")
    with pytest.raises(InputError, match="No prompt was played to its end yet"):
        saved_html(show, ["r"])


def test_without_an_adapter_the_file_says_that_one_is_missing_and_what_to_do() -> None:
    show = Show(a_show().deck)
    for there, said in (([], words.FILE_NO_ADAPTER), (["r"], words.FILE_CHOOSE)):
        with pytest.raises(InputError) as caught:
            saved_html(show, there)
        assert str(caught.value) == said
    assert "no adapter" in words.FILE_NO_ADAPTER and "Train one first" in words.FILE_NO_ADAPTER and "choose one at the top" in words.FILE_CHOOSE
    show.run = "gone"
    with pytest.raises(InputError, match="The adapter gone is not there any more: choose another one at the top."):
        saved_html(show, ["r"])


def test_markup_in_a_prompt_a_reply_or_a_name_is_shown_and_not_run(ready: Workspace, answers: Answers) -> None:
    show = a_show(Entry(EVIL, True))
    answers((EVIL, EVIL))
    run_all(ready, show, [0])
    show.run = show.said = EVIL
    tags = Tags(stage_html(show, ["r"]))
    assert not tags.seen & {"script", "img"} and "onerror" not in tags.names


def test_what_a_press_led_to_stays_when_the_picture_is_drawn_again(whole_page: gr.Blocks) -> None:
    """A play draws its last picture while a key is pressed: it must not bring back the play's own sentence."""
    pressed = {fn.name: fn.fn for fn in whole_page.fns.values() if fn.fn is not None and fn.page == "demo"}
    show = Show(a_show().deck)
    values = [getattr(Sampling(), name) for name in SAMPLING_FIELDS]
    going = pressed["play_one"](show, *values)
    drawn = [next(going), pressed["filed"](show)[1], *going, stage_html(show, []), pressed["move"](show)]
    above = [picture.split("wb-demo-ask")[0] for picture in drawn]
    assert words.NO_ADAPTER in above[0] and words.FILE_NO_ADAPTER in above[1] and words.FILE_NO_ADAPTER in above[-2] and "wb-note" not in above[-1]


def test_a_later_picture_has_a_higher_number_also_after_a_new_start(whole_page: gr.Blocks) -> None:
    pressed = {fn.name: fn.fn for fn in whole_page.fns.values() if fn.fn is not None and fn.page == "demo"}
    before = a_show()
    numbers = [int(re.findall(r'data-picture="([0-9]+)"', pressed["move"](before))[0]) for _ in range(3)]
    assert numbers == sorted(set(numbers))
    time.sleep(0.02)
    assert numbers[-1] < int(time.time() * 1000), "what a new server begins with"


# -- a page that is loaded anew ------------------------------------------------------------------------


def test_a_page_that_is_loaded_anew_goes_on_with_what_was_played_whole(ready: Workspace, answers: Answers) -> None:
    pages, show = Pages(), a_show()
    assert not pages.enter("one", show, "", ["r"])
    answers(("нет", CALL), WorkbenchError("The card failed."))
    run_all(ready, show, [0, 1], Sampling(max_new_tokens=7))
    again = Show(Deck(show.deck.entries), run="other")
    assert pages.enter("two", again, "one", ["other", "r"])
    assert (again.run, again.place, again.sampling.max_new_tokens, again.said, again.going) == ("r", 1, 7, "", False)
    assert list(again.played) == [0] and again.next_unplayed() == 1 and score_words(again)[0] == "adapted called 1 of 1, base 0 of 1"
    again.played.clear()
    assert list(show.played) == [0, 1], "a tab that was duplicated keeps its own"


def test_another_deck_or_an_adapter_that_is_gone_begins_anew(ready: Workspace) -> None:
    pages, show = Pages(), a_show()
    pages.enter("one", show, "", ["r"])
    for place, (before, deck, there) in enumerate((("one", Deck((Entry("a", True),)), ["r"]), ("one", show.deck, ["b"]), ("", show.deck, ["r"]), ("nobody", show.deck, ["r"]))):
        fresh = Show(deck, run="b")
        assert not pages.enter(f"next{place}", fresh, before, there) and fresh.run == "b"
    assert not pages.enter("one", show, "one", ["r"])


def test_pages_are_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_pages, "MOST", 3)
    pages, shows = Pages(), [a_show() for _ in range(5)]
    for i, show in enumerate(shows):
        pages.enter(str(i), show, "", ["r"])
    found = [pages.enter("new", a_show(), before, ["r"]) for before in ("4", "3", "1", "0")]
    assert found == [True, True, False, False]


def test_the_page_stands_at_its_own_address_beside_the_workbench(whole_page: gr.Blocks) -> None:
    assert ("demo", words.TITLE, False) in whole_page.pages
    own = {block.elem_id for block in whole_page.blocks.values() if block.page == "demo" and block.elem_id}
    assert {"demo-stage", "demo-play", "demo-all", "demo-stop", "demo-deck", "demo-file", "demo-adapter"} <= own
    assert "grid" not in own
