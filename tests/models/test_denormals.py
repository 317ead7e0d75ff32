"""Numbers below 1e-38 are zero in a step on a CPU, in all of torch's threads, and nowhere else."""

from __future__ import annotations

from pathlib import Path

from tests.models import fresh_process

# In a process of its own: a thread's helpers take it from the thread when they are made. The second half of the numbers is a helper's.
CODE = """
import sys, torch
from pathlib import Path
from workbench.models.denormals import as_zero
from workbench.models.loading import load_base
from workbench.settings import Quantization
torch.set_num_threads(2)
load_base(Path(sys.argv[1]), Quantization(mode="none"), keep=False)
small = torch.full((2_000_000,), 1e-39)

def left():
    made = small * 1.0
    return int(made[:10].count_nonzero()), int(made[-10:].count_nonzero())

with as_zero():
    print(*left(), 1e-310 * 1.0 == 0.0)
print(left()[0], 1e-310 * 1.0 == 0.0)
"""


def test_a_step_has_none_and_python_keeps_its_own(tiny_folder: Path) -> None:
    assert fresh_process.run(CODE, str(tiny_folder), CUDA_VISIBLE_DEVICES="").split() == ["0", "0", "True", "10", "False"]
