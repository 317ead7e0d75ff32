"""Names that may become files, and writing that never costs what stood there before."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import InputError, RunError, WorkbenchError
from workbench.files import explain_os_error, safe_name, write_atomic

TRICKS = [
    "", " ", ".", "..", "../x", "a/b", "a\\b", "/etc/passwd", "C:\\x", "a..b", ".hidden", "-rf", "_x", "name.", "x" * 65, "a\0b",
    "a\nb", "a b", "a:b", "a*", "~", "~root", "$HOME", "%2e%2e", "con", "NUL", "com1", "LPT9.txt", "aux.json", "a\u202eb",
    "a\u2028b",
]  # fmt: skip
PATHY = st.text(st.sampled_from("./\\~ab:-_\0\n\u2024\uff0f\u202eй1 ") | st.characters(), max_size=70)


@pytest.mark.parametrize("name", TRICKS)
def test_a_name_that_could_leave_its_folder_is_refused(name):
    with pytest.raises(InputError, match="can't be used: take 1 to 64 letters, digits"):
        safe_name(name)


@pytest.mark.parametrize("name", ["a", "run-1", "s42", "Прогон_1", "v1.2", "x" * 64, "console", "com10", "0", "1.a-b_c"])
def test_an_ordinary_name_is_taken_as_it_is(name):
    assert safe_name(name) == name


def test_spaces_around_a_name_are_dropped():
    assert safe_name("  run-1\n") == "run-1"


def test_the_refusal_names_the_thing_and_has_the_wanted_kind():
    with pytest.raises(RunError) as caught:
        safe_name("../x", what="run name", error=RunError)
    assert str(caught.value) == (
        "The run name '../x' can't be used: take 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or a digit."
    )


def test_the_refusal_of_a_huge_name_is_short():
    with pytest.raises(InputError) as caught:
        safe_name("/" * 100_000)
    assert len(str(caught.value)) < 250


@settings(deadline=None)
@given(PATHY)
def test_whatever_is_let_through_stays_one_step_inside_the_folder(text):
    try:
        name = safe_name(text)
    except InputError:
        return
    folder = Path("/data/adapters")
    assert Path(os.path.normpath(folder / name)).parent == folder
    assert name == os.path.basename(name) == Path(name).name
    assert not name.startswith((".", "-", "~"))
    assert 1 <= len(name) <= 64


def files_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_new_file_is_written_with_the_folders_it_needs(tmp_path):
    write_atomic(tmp_path / "a" / "b.txt", "Привет\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "Привет\n".encode()
    assert files_in(tmp_path / "a") == ["b.txt"]


def test_bytes_are_written_as_they_are(tmp_path):
    write_atomic(tmp_path / "x", b"\xff\r\n\0")
    assert (tmp_path / "x").read_bytes() == b"\xff\r\n\0"


def test_a_rewritten_file_keeps_its_rights_and_a_new_one_gets_the_usual_ones(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("x")
    old.chmod(0o600)
    write_atomic(old, "y")
    write_atomic(new, "y")
    assert (old.stat().st_mode & 0o777, new.stat().st_mode & 0o777) == (0o600, 0o644)


class FullDisk:
    """A file object that a full disk refuses to write to."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        os.close(self.handle)

    def write(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")


def refuse(number: int):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


def break_write(monkeypatch, where: str, number: int = errno.ENOSPC) -> None:
    if where == "write":
        monkeypatch.setattr(os, "fdopen", lambda handle, mode: FullDisk(handle))
    else:
        monkeypatch.setattr("tempfile.mkstemp" if where == "mkstemp" else f"os.{where}", refuse(number))


@pytest.mark.parametrize("where", ["write", "fsync", "replace", "mkstemp"])
def test_a_full_disk_leaves_the_old_file_whole_and_no_other(tmp_path, monkeypatch, where):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"old\r\n")
    break_write(monkeypatch, where)
    with pytest.raises(WorkbenchError) as caught:
        write_atomic(path, "new")
    assert str(caught.value) == (
        f"The disk is full: {path} was not written and the old version is untouched. Free some space and try again."
    )
    assert path.read_bytes() == b"old\r\n"
    assert files_in(tmp_path) == ["rows.jsonl"]


def test_an_interrupt_while_writing_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupt(handle):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "x", "new")
    assert files_in(tmp_path) == []


def test_a_file_where_a_folder_should_be_is_told_in_one_sentence(tmp_path):
    (tmp_path / "a").write_text("I am a file")
    with pytest.raises(WorkbenchError, match="could not be used: ") as caught:
        write_atomic(tmp_path / "a" / "b", "x")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "a").read_text() == "I am a file"


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "The disk is full: /d/f was not written and the old version is untouched. Free some space and try again."),
        (errno.EACCES, "There is no permission to use /d/f. Change its rights or choose another place."),
        (errno.EPERM, "There is no permission to use /d/f. Change its rights or choose another place."),
        (errno.EROFS, "There is no permission to use /d/f. Change its rights or choose another place."),
        (errno.ENOENT, "/d/f does not exist. Check the path."),
        (errno.EISDIR, "/d/f could not be used: Is a directory."),
    ],
)
def test_each_fault_of_the_disk_has_its_sentence(number, sentence):
    assert explain_os_error(OSError(number, os.strerror(number)), Path("/d/f")) == sentence
