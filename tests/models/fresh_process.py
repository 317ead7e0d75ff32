"""Code run in a Python of its own: what an import does can be seen there alone."""

from __future__ import annotations

import os
import subprocess
import sys


def run(code: str, *arguments: str, **environment: str) -> str:
    """What the code printed; an `AssertionError` with its errors if it failed."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
