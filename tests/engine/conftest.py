"""A host of jobs in this process, on a workspace with the tiny model, and short runs on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from workbench.dataset.formats import load_rows
from workbench.engine.jobs import Host, Report
from workbench.engine.messages import TrainJob
from workbench.settings import make_settings
from workbench.workspace import Workspace


@pytest.fixture
def host(workspace: Workspace) -> Host:
    return Host(workspace.catalog, workspace.runs)


@pytest.fixture
def train(host: Host, workspace: Workspace) -> Callable[..., str]:
    def build(name: str, lora: dict[str, Any] | None = None, **training: Any) -> str:
        small = {"epochs": 1, "rows_per_step": 2, "validation_share": 0.0, "warmup_steps": 0, "learning_rate": 0.05, "sample_every": 0}
        chosen = make_settings({"training": small | training, "lora": {"rank": 4} | (lora or {})})
        workspace.create_run(name, load_rows(workspace.data_dir / "examples.json").rows[:4], chosen, data_name="examples.json")
        host.do(TrainJob(run=name), Report())
        return name

    return build
