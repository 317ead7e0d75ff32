"""Files made for a browser to fetch."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import gradio as gr

from workbench.errors import DataError
from workbench.files import explain_os_error
from workbench.workspace import Workspace

KEPT = 3600.0  # seconds that a file stays to be fetched


def download_folder(space: Workspace) -> Path:
    """A new folder for one file, so that two pages don't write one; those that were made long ago are taken away.

    Raises `DataError` where the disk refuses.
    """
    folder = space.root / ".cache" / "export"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            if old.stat().st_mtime < time.time() - KEPT:
                shutil.rmtree(old, ignore_errors=True) if old.is_dir() and not old.is_symlink() else old.unlink(missing_ok=True)
        return Path(tempfile.mkdtemp(dir=folder))
    except OSError as exc:
        raise DataError(explain_os_error(exc, folder)) from exc


def fetched(made: Any, file: gr.DownloadButton) -> None:
    """Let the browser fetch what the event `made` has put behind the hidden `file`: the file is made at the click, and only then fetched."""
    made.then(None, file, None, js=f"(made) => {{ if (made) document.querySelector('#{file.elem_id}').click(); }}")
