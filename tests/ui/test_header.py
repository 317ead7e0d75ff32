"""The line on top: who holds the engine, what waits, and the buttons that stop the holder and free the memory."""

import time

import gradio as gr
import pytest

from workbench.engine.client import Status, Ticket
from workbench.engine.messages import AnswerJob, EvaluateJob, Holds, LoadJob, TrainJob, UnloadJob
from workbench.ui import header
from workbench.ui.header import Offer, Sure
from workbench.ui.words import engine as said

ANSWER = AnswerJob(turns=({"role": "user", "content": "x"},), lanes=(False,))


class Fake:
    """An engine that holds what the test says, and notes what it is asked to end."""

    def __init__(self):
        self.jobs, self.fault, self.on, self.left = [], "", True, None
        self.stopped, self.ended, self.asked = [], [], []

    def hold(self, *jobs):
        self.jobs = [Ticket(k + 1, job, label) for k, (job, label) in enumerate(jobs)]
        self.jobs[0].begun = time.time() - 40
        return self.jobs

    def queue(self):
        return tuple(self.jobs)

    def status(self):
        state = "busy" if self.jobs else "idle" if self.on else "off"
        return Status(state, self.jobs[0] if self.jobs else None, max(0, len(self.jobs) - 1), Holds(), self.fault)

    def place(self, ticket):
        return self.jobs.index(ticket) if ticket in self.jobs else None

    def seconds_left(self, ticket):
        return self.left

    def stop(self, ticket):
        self.stopped.append(ticket)
        ticket.stop_asked, ticket.stop_time = True, time.monotonic()

    def end(self, ticket):
        self.ended.append(ticket)

    def submit(self, job, label):
        self.asked.append((job, label))


@pytest.fixture
def engine(workspace):
    vars(workspace)["engine"] = fake = Fake()
    fake.close = lambda: None
    return fake


def train(name="balance-7"):
    return TrainJob(run=name), f"training run {name}"


# -- what the line says --------------------------------------------------------------------------------


def test_the_line_says_who_holds_the_engine_how_long_and_who_waits(workspace, engine):
    engine.hold(train(), (ANSWER, "an <b>answer"))
    engine.left = 100
    line = header.header_html(workspace)
    assert "1:40 left · training run balance-7 · 1 waiting</span>" in line
    assert "(for 40 s): an &lt;b&gt;answer" in line and "<b>answer" not in line


def test_while_something_holds_the_engine_the_line_gives_its_name_the_room_and_its_title_tells_the_whole(workspace, engine):
    assert 'class="wb-head"' in header.header_html(workspace)
    name = "gemma-3-270m-balance-and-weather-rank16-lr2e-4-run9"
    engine.hold(train(name))[0].progress = f"training {name}"
    line = header.header_html(workspace)
    assert 'class="wb-head wb-held"' in line and f'title="training run {name} (for 40 s)"' in line


def test_a_job_with_a_share_says_how_far_it_is(workspace, engine):
    ticket = engine.hold((LoadJob(model="m"), "loading m"))[0]
    ticket.progress, ticket.share = "loading the weights of m, 4-bit", 0.456
    assert "loading m: loading the weights of m, 4-bit 46%</span>" in header.header_html(workspace)


def test_a_fault_is_told_while_nothing_goes_on(workspace, engine):
    engine.fault = "The card <failed>."
    assert "The card &lt;failed&gt;." in header.header_html(workspace)
    engine.hold(train())
    assert "failed" not in header.header_html(workspace)


def test_whoever_waits_reads_the_own_place_the_holder_and_the_ways_out(workspace, engine):
    jobs = engine.hold(train(), (ANSWER, "an answer"), (ANSWER, "an answer"))
    engine.left = 100
    ways = f"training run balance-7 holds the engine for 40 s, 1:40 left. {said.TAKE_BACK}"
    assert header.waiting_words(workspace, jobs[1]) == f"waiting, next in the queue: {ways}"
    assert header.waiting_words(workspace, jobs[2]) == f"waiting, number 2 in the queue: {ways}"
    engine.left = None
    assert " for 40 s. " in header.waiting_words(workspace, jobs[1])
    jobs[1].begun, jobs[1].progress, jobs[1].share = 1.0, "loading", 0.5
    assert header.waiting_words(workspace, jobs[1]) == "loading 50%…"
    jobs[1].pace_from = (time.time() - 30, 0.2)
    assert header.waiting_words(workspace, jobs[1]) == "loading 50%, 50 s left…"
    engine.jobs = []
    assert header.waiting_words(workspace, Ticket(9, ANSWER, "an answer")) == said.WAITING


# -- what the buttons offer and do -----------------------------------------------------------------------


def test_without_a_holder_there_is_nothing_to_stop(workspace, engine):
    assert header.offer(workspace, None) == Offer(can_free=True)
    engine.on = False
    assert header.offer(workspace, None) == Offer(can_free=False)
    assert header.press(workspace, Offer(1, "Stop x", "stop"), None) is None and engine.stopped == []


@pytest.mark.parametrize("job", [ANSWER, EvaluateJob(prompts=(), adapted=False), LoadJob(model="m")])
def test_one_press_stops_anything_but_a_training(workspace, engine, job):
    ticket = engine.hold((job, "some job"))[0]
    seen = header.offer(workspace, None)
    assert (seen.label, seen.act) == (said.STOP, "stop")
    assert header.press(workspace, seen, None) is None
    assert engine.stopped == [ticket]
    assert header.offer(workspace, None) == Offer(1, said.STOPPING, "", True)


def test_a_training_is_stopped_by_a_second_press(workspace, engine):
    ticket = engine.hold(train())[0]
    seen = header.offer(workspace, None)
    assert seen.label == said.STOP, "what it stops stands beside it"
    sure = header.press(workspace, seen, None)
    assert sure is not None and engine.stopped == []
    asked = header.offer(workspace, sure)
    assert asked.label == said.SURE_STOP
    assert header.press(workspace, asked, sure) is None and engine.stopped == [ticket]


def test_a_first_press_for_one_run_does_not_count_for_the_next(workspace, engine):
    engine.hold(train())
    sure = header.press(workspace, header.offer(workspace, None), None)
    engine.hold(train("other"))[0].number = 2
    seen = header.offer(workspace, sure)
    assert seen.label == said.STOP
    assert header.press(workspace, seen, sure) == Sure(2, "stop", pytest.approx(time.monotonic(), abs=5)) and engine.stopped == []


def test_what_holds_the_engine_by_now_is_not_stopped_for_what_held_it(workspace, engine):
    engine.hold((ANSWER, "an answer"))
    seen = header.offer(workspace, None)
    engine.hold((ANSWER, "another answer"))[0].number = 2
    assert header.press(workspace, seen, None) is None and engine.stopped == []


def test_a_stop_that_takes_long_can_be_forced_by_two_presses(workspace, engine):
    ticket = engine.hold((ANSWER, "an answer"))[0]
    ticket.stop_time = time.monotonic() - header.PATIENCE - 1
    seen = header.offer(workspace, None)
    assert (seen.label, seen.act) == (said.END, "end")
    sure = header.press(workspace, seen, None)
    assert sure is not None and engine.ended == [] and header.offer(workspace, sure).label == said.SURE_END
    assert header.press(workspace, header.offer(workspace, sure), sure) is None and engine.ended == [ticket]


def test_freeing_the_memory_is_offered_once(workspace, engine):
    workspace.jobs.unload()
    assert engine.asked == [(UnloadJob(leave=True), "freeing the memory")]
    engine.hold((UnloadJob(leave=True), "freeing the memory"))
    assert not header.offer(workspace, None).can_free


def test_freeing_that_waits_says_so_and_is_taken_back_by_a_second_press(workspace, engine):
    engine.hold(train())
    engine.submit = lambda job, label: engine.jobs.append(Ticket(7, job, label)) or engine.jobs[-1]
    told = header.press_free(workspace, header.offer(workspace, None))
    why = "waiting, next in the queue: training run balance-7 holds the engine for 40 s. "
    assert told == said.FREE_WAITS.format(why=why + said.FREE_WAYS)
    seen = header.offer(workspace, None)
    assert (seen.freeing, seen.can_free) == (7, True)
    assert header.press_free(workspace, header.Offer(can_free=True)) == "", "another page's press asks for nothing more"
    assert len(engine.jobs) == 2
    assert header.press_free(workspace, seen) == said.FREE_TAKEN_BACK and engine.stopped == engine.jobs[1:]
    engine.jobs[1].begun = 1.0
    assert header.offer(workspace, None).freeing is None and header.press_free(workspace, seen) == ""


def test_freeing_an_idle_engine_needs_no_word(workspace, engine):
    engine.submit = lambda job, label: Ticket(1, job, label)
    assert header.press_free(workspace, header.offer(workspace, None)) == ""


# -- the wires -------------------------------------------------------------------------------------------


@pytest.fixture
def handlers(workspace, engine):
    """The tick, the Stop button's and the Free button's handlers, as the page calls them."""
    with gr.Blocks() as page:
        header.build(workspace, gr.Timer(1.0))
    return [event.fn for event in page.fns.values()]


def test_the_buttons_are_drawn_only_where_something_changed(handlers, engine):
    tick = handlers[0]
    line, stop, free, seen, sure = tick(Offer(), None)
    assert "wb-head" in line and free.interactive and stop == gr.skip() and (seen, sure) == (Offer(can_free=True), None)
    engine.hold(train())
    _, stop, free, seen, _ = tick(seen, None)
    assert (stop.value, stop.interactive, stop.elem_classes, free) == (said.STOP, True, [], gr.skip())
    assert tick(seen, None)[1:] == [gr.skip(), gr.skip(), seen, None]
    engine.jobs = []
    assert tick(seen, None)[1].elem_classes == ["wb-off"]


def test_a_first_press_is_forgotten_after_some_seconds(handlers, engine):
    tick, press, _ = handlers
    ticket = engine.hold(train())[0]
    seen = tick(Offer(), None)[3]
    _, stop, _, asked, sure = press(seen, None)
    assert (stop.value, stop.variant) == (said.SURE_STOP, "stop") and sure.number == ticket.number
    assert tick(asked, sure)[4] == sure
    old = Sure(sure.number, sure.act, sure.at - header.SURE_SECONDS - 1)
    _, stop, _, seen, sure = tick(asked, old)
    assert (stop.value, sure) == (said.STOP, None) and engine.stopped == []


def test_the_free_button_asks_for_it(handlers, engine):
    handlers[2](Offer(can_free=True), None)
    assert [job for job, _ in engine.asked] == [UnloadJob(leave=True)]
