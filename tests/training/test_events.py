"""A run's events: every whole line is read, whatever a crash left around it."""

import json
import os
import time

import pytest

from workbench.training.events import Ended, Notice, Saved, Started, Step, Validation, append_event, read_events

STEP = Step(
    time=101.0, step=1, epoch=0.25, loss=2.5, learning_rate=1e-4, gradient_norm=0.5,
    tokens=640, labels=160, seconds=2.0, memory_gib=1.5,
)  # fmt: skip
ALL = [
    Started(time=100.0, total_steps=40, epochs=10, train_rows=63, validation_rows=7,
            trainable_parameters=5, total_parameters=9, device="CPU"),
    STEP,
    Validation(time=102.0, step=1, epoch=0.25, loss=2.25),
    Saved(time=103.0, step=1),
    Notice(time=104.0, text="Привет\nдва\u2028три"),
    Ended(time=105.0, state="finished", step=40, seconds=120.5, adapter_difference=4.5),
]  # fmt: skip


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.jsonl"


def test_events_come_back_in_order_as_they_were(path):
    for event in ALL:
        append_event(path, event)
    assert read_events(path) == ALL
    assert path.read_bytes().count(b"\n") == len(ALL)


def test_an_event_is_one_readable_line_with_its_type(path):
    append_event(path, STEP)
    (line,) = path.read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {
        "time": 101.0, "type": "step", "step": 1, "epoch": 0.25, "loss": 2.5, "learning_rate": 1e-4,
        "gradient_norm": 0.5, "tokens": 640, "labels": 160, "seconds": 2.0, "memory_gib": 1.5, "gpu_use": None,
    }  # fmt: skip


def test_appending_never_rewrites_what_stands_there(path):
    path.write_bytes(b"anything\n")
    append_event(path, STEP)
    assert path.read_bytes().startswith(b"anything\n{")


def test_a_run_without_events_has_none(path):
    assert read_events(path) == []
    path.write_bytes(b"")
    assert read_events(path) == []


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_half_written_last_line_waits_for_its_end(path, cut):
    append_event(path, ALL[0])
    line = (STEP.model_dump_json() + "\n").encode()
    with path.open("ab") as stream:
        stream.write(line[:cut])
    assert read_events(path) == ALL[:1]
    with path.open("ab") as stream:
        stream.write(line[cut:])
    assert read_events(path) == ALL[:2]


@pytest.mark.parametrize(
    "bad",
    [b"{", b"", b"\xff\xfe", b"null", b"[]", b'{"type": "step"}', b'{"type": "unknown", "step": 1}', b'{"step": 1}', b"\0" * 50,
     b'{"type": "saved", "step": "x"}'],
)  # fmt: skip
def test_a_corrupt_line_in_the_middle_hides_no_other(path, bad):
    append_event(path, ALL[0])
    with path.open("ab") as stream:
        stream.write(bad + b"\n")
    append_event(path, ALL[-1])
    assert read_events(path) == [ALL[0], ALL[-1]]


def test_an_event_after_a_half_written_line_is_not_lost(path):
    append_event(path, ALL[0])
    with path.open("ab") as stream:
        stream.write(STEP.model_dump_json().encode()[:30])
    append_event(path, ALL[-1])
    assert read_events(path) == [ALL[0], ALL[-1]]


def test_a_later_version_s_keys_are_ignored(path):
    path.write_text('{"type": "saved", "time": 103.0, "step": 1, "new": true}\n', encoding="utf-8")
    assert read_events(path) == [Saved(time=103.0, step=1)]


def test_a_loss_that_is_not_finite_is_still_told(path):
    append_event(path, Validation(time=102.0, step=1, epoch=0.25, loss=float("inf")))
    assert [event.loss for event in read_events(path)] == [float("inf")]


def test_only_the_end_is_forced_to_the_disk(path, monkeypatch):
    forced = []
    monkeypatch.setattr(os, "fsync", forced.append)
    for event in ALL[:-1]:
        append_event(path, event)
    assert forced == []
    append_event(path, ALL[-1])
    assert len(forced) == 1


def test_an_event_carries_the_time_it_was_made():
    before = time.time()
    event = Saved(step=1)
    assert before <= event.time <= time.time()
