"""All that is measured on a GPU, one script after the other, the figures of each in a file of its own.

    python benchmarks/gpu.py [speed] [equal] [scale] [decode] [memory] [--json FOLDER] [-- options for each of them]

Gemma 3 4B's exact shape with random weights (values don't change time or memory), made once in --work; `equal` takes the embedded
model's real weights as well. About three quarters of an hour on an H100: where the card is lent for less, call the scripts themselves with --only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PARTS = ("speed", "equal", "decode", "memory", "scale")


def main() -> None:
    own, split, rest = sys.argv[1:], "--", []
    if split in own:
        own, rest = own[: own.index(split)], own[own.index(split) + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--json", type=Path, help="keep the figures there, PART.json each")
    options = parser.parse_args(own)
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.error(f"there is no part {unknown[0]}: {', '.join(PARTS)}")
    failed = []
    for part in options.parts or PARTS:
        print(f"== {part}", flush=True)
        command = [sys.executable, str(HERE / f"gpu_{part}.py"), *rest]
        if options.json:
            options.json.mkdir(parents=True, exist_ok=True)
            command += ["--json", str(options.json / f"{part}.json")]
        if subprocess.run(command, check=False).returncode:
            failed.append(part)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
