"""How fast replies are read, in MB of UTF-8 a second for every dialect: whole, and fed four characters at a time as a model's answer comes.

    python benchmarks/parse_speed.py [--megabytes 1] [--repeats 3]

`calls` is one call after the other, `mixed` a paragraph between two calls, `words` has no call, `broken` has calls that lost their
last third. Each figure is the best of the repeats, by processor time.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from workbench.calls.dialects import DIALECTS, Dialect, calls_in  # noqa: E402
from workbench.schema import ToolCall  # noqa: E402

CALL = ToolCall("search_businesses", {"query": "итальянские рестораны", "location": "Ростов-на-Дону", "radius": 5000, "open": True, "tags": ["pasta", "pizza"]})
WORDS = "Сейчас посмотрю, что есть поблизости: (a < b), [1], {x} и `код`. I will look it up and tell you what I have found there. " * 3
FED = 4  # characters, about a token


def replies(dialect: Dialect, size: int) -> dict[str, str]:
    """Texts of about `size` characters."""
    call = dialect.render(CALL)
    units = {"calls": call + "\n", "mixed": WORDS + call + "\n", "words": WORDS, "broken": call[: len(call) * 2 // 3] + "\n"}
    return {kind: unit * max(1, size // len(unit)) for kind, unit in units.items()}


def speed(work: Callable[[str], object], text: str, repeats: int) -> float:
    """MB a second, the best of the repeats."""
    taken = []
    for _ in range(repeats):
        begun = time.process_time()
        work(text)
        taken.append(time.process_time() - begun)
    return len(text.encode()) / 1e6 / min(taken)


def fed(dialect: Dialect, text: str) -> None:
    stream = dialect.stream()
    for at in range(0, len(text), FED):
        stream.feed(text[at : at + FED])
    stream.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=1.0, help="of each text")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    kinds = ("calls", "mixed", "words", "broken")
    print(f"{'MB/s':<14}" + "".join(f"{kind:>9}" for kind in kinds) + f"{'mixed, fed':>12}")
    for dialect in DIALECTS.values():
        texts = replies(dialect, int(options.megabytes * 700_000))
        assert len(calls_in(dialect.parse(texts["calls"]))) == texts["calls"].count("search_businesses")
        figures = [speed(dialect.parse, texts[kind], options.repeats) for kind in kinds]
        slow = speed(functools.partial(fed, dialect), texts["mixed"], 1)
        print(f"{dialect.name:<14}" + "".join(f"{figure:>9.1f}" for figure in figures) + f"{slow:>12.1f}", flush=True)


if __name__ == "__main__":
    main()
