"""A tool's answer: fixed, filled from the call's arguments, or from a function in a process of its own that can't hang or flood anybody."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from workbench.calls.mocks import MockError, MockLimits, mock_kind, run_mock
from workbench.calls.tools import check_spec
from workbench.errors import RowError
from workbench.schema import ToolCall, ToolSpec

FUNCTIONS = '''
import os, socket, subprocess, sys, threading, time
from datetime import date

def forecast(city, days=1):
    print("not the answer")
    return {"city": city, "days": days, "since": str(date(2025, 3, 14))}

def words(city):
    return "Ясно, " + city

def hang(): time.sleep(600)
def spin():
    while True: pass
def fail(): raise ValueError("no such city")
def leave(): sys.exit(3)
def vanish(): os._exit(0)
def no_json(): return {1, 2}
def infinite(): return float("inf")
def endless():
    found = []
    found.append(found)
    return found
def large(): return "x" * 100_000_000
def flood():
    while True: os.write(3, b"x" * 65536)
def half(): return "\\ud800"
def hungry(): return len(bytearray(4 * 2**30))
def network(): socket.create_connection(("127.0.0.1", 9))
def shell(): subprocess.run(["true"])
def shell2(): os.system("true")
def fork(): os.fork()
def write(): open("/tmp/workbench-mock-wrote", "w").write("x")
def delete(): os.remove(__file__)
def secret(): return dict(os.environ)
def threads():
    threading.Thread(target=time.sleep, args=(600,)).start()
    return "left one behind"
'''


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    folder = tmp_path / "functions"
    folder.mkdir()
    (folder / "mine.py").write_text(FUNCTIONS, encoding="utf-8")
    (folder / "broken.py").write_text("def f(:", encoding="utf-8")
    (tmp_path / "outside.py").write_text("def f(): return 1", encoding="utf-8")
    return folder


def tool(mock: Any) -> ToolSpec:
    return ToolSpec("weather", mock=mock)


def run(function: str, folder: Path | None, arguments: dict[str, Any] | None = None, **limits: Any) -> str:
    return run_mock(tool({"$python": function}), ToolCall("weather", arguments or {}), functions=folder, limits=MockLimits(**limits))


@pytest.mark.parametrize(
    ("mock", "kind"),
    [(None, "none"), ("ok", "fixed"), ({"a": 1}, "fixed"), ({"$template": "x"}, "template"), ({"$python": "a.py:f"}, "python"), ({"$python": 1, "a": 2}, "fixed")],
)
def test_a_mock_s_kind_is_told_by_its_form(mock: Any, kind: str) -> None:
    assert mock_kind(mock) == kind


@pytest.mark.parametrize("function", ["mine.py", "/etc/mine.py:f", "../mine.py:f", "a:b.py:f", 3, "mine.py:f()"])
def test_a_tool_that_names_its_function_wrongly_can_t_be_saved(function: Any) -> None:
    with pytest.raises(RowError, match=r"'weather' can't be used: mock: a function is named as file\.py:function"):
        check_spec(tool({"$python": function}))
    check_spec(tool({"$python": "mine.py:f"}))
    check_spec(tool({"$template": {"a": "{{b}}"}}))


def test_a_fixed_answer_is_given_as_it_is() -> None:
    assert run_mock(tool({"balance": "12 ₽"}), ToolCall("weather")) == '{"balance": "12 ₽"}'
    assert run_mock(tool("ok"), ToolCall("weather")) == "ok"
    with pytest.raises(MockError, match="The tool weather has no answer to give"):
        run_mock(tool(None), ToolCall("weather"))
    with pytest.raises(MockError, match="has 31 characters; 16 are allowed"):
        run_mock(tool("x" * 31), ToolCall("weather"), limits=MockLimits(result_chars=16))


@pytest.mark.parametrize(
    ("template", "arguments", "answer"),
    [
        ("В городе {{city}} {{ days }} дня", {"city": "Ростов", "days": 3}, "В городе Ростов 3 дня"),
        ({"n": "{{days}}", "list": ["{{city}}", 1]}, {"city": "{{days}}", "days": 3}, '{"n": 3, "list": ["{{days}}", 1]}'),
        ("{{place.city}} {{days=1}} {{place}}", {"place": {"city": "Ош"}}, 'Ош 1 {"city": "Ош"}'),
    ],
)
def test_a_template_is_filled_from_the_arguments_once(template: Any, arguments: dict[str, Any], answer: str) -> None:
    assert run_mock(tool({"$template": template}), ToolCall("weather", arguments)) == answer


def test_a_template_that_wants_what_the_call_lacks_says_so() -> None:
    with pytest.raises(MockError, match=r"wants the argument place\.city, which the call does not have: write \{\{place\.city=…\}\}"):
        run_mock(tool({"$template": "{{place.city}}"}), ToolCall("weather", {"place": 3}))


def test_a_function_gets_the_arguments_and_its_prints_are_not_its_answer(functions: Path) -> None:
    assert run("mine.py:forecast", functions, {"city": "Ош", "days": 2}) == '{"city": "Ош", "days": 2, "since": "2025-03-14"}'
    assert run("mine.py:words", functions, {"city": "Ош"}) == "Ясно, Ош"
    assert run("mine.py:threads", functions) == "left one behind"


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("mine.py:fail", "The function of weather failed: ValueError: no such city."),
        ("mine.py:forecast", "failed: TypeError: forecast() missing 1 required positional argument: 'city'."),
        ("mine.py:leave", "failed: SystemExit: 3."),
        ("mine.py:vanish", "ended its process before it answered"),
        ("mine.py:no_json", "it returned what is no JSON (Object of type set is not JSON serializable)"),
        ("mine.py:infinite", "it returned what is no JSON"),
        ("mine.py:endless", "it returned what is no JSON"),
        ("mine.py:half", "holds half a character"),
        ("mine.py:large", "The answer of weather has 100,000,000 characters; 16,384 are allowed."),
        ("mine.py:flood", "16,384 are allowed. Let it answer less."),
        ("mine.py:hungry", "failed: MemoryError"),
        ("mine.py:network", "failed: NotAllowedError: socket."),
        ("mine.py:shell", "failed: NotAllowedError: "),
        ("mine.py:shell2", "failed: NotAllowedError: os.system is not allowed here."),
        ("mine.py:fork", "failed: NotAllowedError: os.fork is not allowed here."),
        ("mine.py:write", "failed: NotAllowedError: writing a file is not allowed here."),
        ("mine.py:delete", "failed: NotAllowedError: os.remove is not allowed here."),
        ("mine.py:gone", "failed: its file has no function gone."),
        ("broken.py:f", "failed: SyntaxError: "),
        ("missing.py:f", "is looked for in missing.py, which does not stand in the folder functions"),
        ("../outside.py:f", "write it as file.py:function"),
        ("..outside.py:f", "The name of the function's file"),
        ("mine.py", "names its function as 'mine.py': write it as file.py:function"),
    ],
)
def test_what_a_function_does_wrong_is_told_in_one_sentence_and_harms_nobody(functions: Path, function: str, said: str) -> None:
    with pytest.raises(MockError) as caught:
        run(function, functions, seconds=30.0)
    assert said in str(caught.value)
    assert not os.path.exists("/tmp/workbench-mock-wrote") and (functions / "mine.py").is_file()


@pytest.mark.parametrize("function", ["hang", "spin"])
def test_a_function_that_hangs_is_ended_with_its_process(functions: Path, function: str) -> None:
    with pytest.raises(MockError, match=r"had not answered after 0\.5 s and was ended"):
        run(f"mine.py:{function}", functions, seconds=0.5)


def test_a_function_ends_when_it_is_stopped(functions: Path) -> None:
    until = time.monotonic() + 0.3
    with pytest.raises(MockError, match="was stopped on request"):
        run_mock(tool({"$python": "mine.py:hang"}), ToolCall("weather"), functions=functions, limits=MockLimits(seconds=600), stop=lambda: time.monotonic() > until)


def test_a_function_sees_none_of_the_workbench_s_surroundings(functions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    assert "secret" not in run("mine.py:secret", functions)


def test_without_a_folder_no_function_is_run() -> None:
    with pytest.raises(MockError, match="none may be run here"):
        run("mine.py:words", None)
