"""Writes a run's figures into trackio: JSON lines come in, the first names the run. Started by `tracker`, with no network in its reach."""

from __future__ import annotations

import json
import sys
from typing import TextIO


def follow(lines: TextIO) -> None:
    """Log every line until there are none left; a run that is resumed goes on under its name."""
    import trackio  # type: ignore[import-not-found]

    first = json.loads(lines.readline())
    run = trackio.init(
        project=first["project"], name=first["name"], config=first["config"], resume="allow",
        space_id=None, server_url=None, embed=False, auto_log_gpu=False, auto_log_cpu=False,
    )  # fmt: skip
    try:
        for line in lines:
            told = json.loads(line)
            run.log(told["figures"], step=told["step"])
    finally:
        run.finish()


if __name__ == "__main__":
    follow(sys.stdin)
