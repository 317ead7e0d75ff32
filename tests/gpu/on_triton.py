"""What tests of Triton kernels share: they run on the card, or else in Triton's interpreter. Imported before anything imports Triton."""

from __future__ import annotations

import os

import numpy
import pytest
import torch

CARD = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CARD else "cpu")
if not CARD:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
pytest.importorskip("triton", reason="torch's build for this machine has no Triton")


def _interpretable() -> bool:
    """Triton 3.6's interpreter takes arrays of one value for numbers, which numpy gave up."""
    try:
        return int(numpy.ones(1, dtype=numpy.int32)) == 1
    except TypeError:
        return False


RUNS = pytest.mark.skipif(not CARD and not _interpretable(), reason="no card, and this numpy is too new for Triton's interpreter")
