"""The whole page, built once for all that only look at it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gradio as gr
import pytest

from workbench.ui.workbench import build
from workbench.workspace import Workspace


@pytest.fixture(scope="session")
def whole_page(tmp_path_factory: pytest.TempPathFactory, new_workspace: Callable[[Path], Workspace]) -> gr.Blocks:
    """All pages over a workspace as it is shipped. To be looked at: who changes something builds one of their own."""
    return build(new_workspace(tmp_path_factory.mktemp("page") / "workbench"))
