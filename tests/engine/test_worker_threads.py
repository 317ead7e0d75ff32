"""Threads of the engine that wait for each other leave the core to others."""

from __future__ import annotations

import subprocess
import sys

import pytest

from workbench.engine.worker import share_cores


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"GOMP_SPINCOUNT": "1000"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
    ],
)
def test_waiting_threads_sleep_soon_unless_the_user_has_chosen(before: dict[str, str], after: dict[str, str]) -> None:
    share_cores(before)
    assert before == after


def test_it_is_settled_before_torch_reads_it() -> None:
    told = subprocess.run([sys.executable, "-c", "import sys, workbench.engine.worker; print('torch' in sys.modules)"], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"
