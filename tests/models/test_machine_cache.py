"""Small findings about this machine, kept between processes."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tests.models.fresh_process import run
from workbench.models import machine_cache, overlap


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_a_value_is_found_again_as_long_as_what_it_rests_on_is_the_same(home: Path) -> None:
    (home / "a").write_text("one")
    made_of = machine_cache.stamp(home / "a")
    assert machine_cache.recall("x", made_of) is None
    machine_cache.keep("x", made_of, {"b": [1, 2]})
    assert machine_cache.recall("x", made_of) == {"b": [1, 2]}
    (home / "a").write_text("longer")
    assert machine_cache.recall("x", machine_cache.stamp(home / "a")) is None
    with pytest.raises(OSError):
        machine_cache.stamp(home / "none")


@pytest.mark.parametrize("text", ["", "[]", "{", "1", "\\ud800"])
def test_a_broken_file_is_nothing(home: Path, text: str) -> None:
    machine_cache.keep("x", [], 1)
    (machine_cache.folder() / "x.json").write_text(text, encoding="utf-8")
    assert machine_cache.recall("x", []) is None


def test_a_place_that_takes_no_file_is_no_fault(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "cache").write_text("a file where the folder should be")
    machine_cache.keep("x", [], 1)
    assert machine_cache.recall("x", []) is None

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    machine_cache.keep("x", [], 1)
    assert machine_cache.recall("x", []) is None


def test_a_relative_cache_folder_is_passed_over_as_the_rule_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert machine_cache.folder() == Path.home() / ".cache" / machine_cache.NAME


def test_a_home_that_is_none_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    for home in ("relative", "/"):
        monkeypatch.setattr(Path, "home", lambda home=home: Path(home))
        machine_cache.keep("x", [], 1)
        assert machine_cache.recall("x", []) is None
        with pytest.raises(RuntimeError):
            machine_cache.folder()


def test_triton_s_digest_is_taken_once_on_a_machine(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("runtime", "compiler", "backends", "language", "_C"):
        (home / "triton" / name).mkdir(parents=True)
    for name in ("runtime/cache.py", "_C/libtriton.so"):
        (home / "triton" / name).write_text("x")
    taken: list[int] = []

    def process() -> str:
        """A fresh process' Triton, after it was asked for; the digest that its kernels are named by."""
        def digest() -> str:
            taken.append(1)
            return f"digest {len(taken)}"

        cache = ModuleType("triton.runtime.cache")
        cache.__file__ = str(home / "triton" / "runtime" / "cache.py")
        vars(cache)["triton_key"] = digest
        monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(__version__="1"))  # type: ignore[arg-type]
        monkeypatch.setattr(overlap.importlib, "import_module", lambda name: sys.modules["triton"] if name == "triton" else cache)
        for _ in range(2):
            overlap.name_kernels()
        return str(vars(cache)["triton_key"]())

    assert [process(), process()] == ["digest 1", "digest 1"] and len(taken) == 1
    (home / "triton" / "_C" / "libtriton.so").write_text("another one")
    assert [process(), process()] == ["digest 2", "digest 2"]


def test_a_triton_that_is_not_there_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(overlap.importlib, "import_module", missing)
    overlap.name_kernels()


@pytest.mark.slow
def test_triton_is_whole_for_whoever_imports_it_meanwhile() -> None:
    code = """
import sys, threading, time
from workbench.models.overlap import name_kernels
import torch
thread = threading.Thread(target=lambda: (time.sleep(float(sys.argv[1])), name_kernels()))
thread.start()
import triton, triton.language
thread.join()
import triton.runtime.cache
assert triton.runtime.cache.triton_key.__module__ == 'workbench.models.overlap'
"""
    pytest.importorskip("triton")
    for delay in ("0.005", "0.02", "0.05"):
        run(code, delay)
