"""What importing costs: 10,000 ordinary rows, and 50 MB files made to hurt. Each in a process of its own, with its peak memory.

    python benchmarks/data_import.py [--only NAME]

A file that is refused or reported counts as done. The limits: 10 s and 500 MB on top of the imports for a hostile file,
5 s for 10,000 rows with duplicates found. The memory of the process that reads Parquet files is counted too.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SIZE = 50 * 2**20
WORDS = ("покажи", "мне", "остаток", "на", "моём", "счёте", "за", "март", "пожалуйста", "где", "мой", "заказ", "balance", "please", "the", "weather")
ROW = b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n'


def ordinary(path: Path, count: int = 10_000) -> None:
    """Rows like a person's: half calls, one in twenty asked twice."""
    rng = random.Random(1)
    asked: list[str] = []
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            request = rng.choice(asked) if asked and i % 20 == 0 else " ".join(rng.choices(WORDS, k=rng.randint(3, 14)))
            asked.append(request)
            answer = '<tool_call name="get_sensitive_data" arguments="{&quot;n&quot;: 1}"/>' if i % 2 else " ".join(rng.choices(WORDS, k=20))
            row = {"messages": [{"role": "user", "content": request}, {"role": "assistant", "content": answer}], "tools": ["get_sensitive_data"]}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def repeated(piece: bytes, before: bytes = b"", after: bytes = b"") -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(before + piece * ((SIZE - len(before) - len(after)) // len(piece)) + after)

    return write


def with_emoji(path: Path) -> None:
    text = b'{"messages": [{"role": "user", "content": "' + b"a" * 2000 + b'"}, {"role": "assistant", "content": "b"}]}\n'
    path.write_bytes(text * (SIZE // len(text)) + ROW.replace(b"Hi", "😀".encode()))


def zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.jsonl", b"0" * (SIZE * 10))


def parquet_bomb(path: Path) -> None:
    """One text of 20 MB that 40,000 rows point to: a small file that says it unpacks to little."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.DictionaryArray.from_arrays(pa.array([0] * 40_000, pa.int32()), pa.array(["x" * (20 * 2**20)]))
    pq.write_table(pa.table({"request": text, "answer": text}), path, compression="zstd")


def parquet_lists(path: Path) -> None:
    """One row that lists one text of 1 MB a hundred thousand times."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    words = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), pa.array(["x" * 2**20]))
    cells = pa.ListArray.from_arrays(pa.array([0, 100_000], pa.int32()), words)
    pq.write_table(pa.table({"request": ["a"], "answer": ["b"], "more": cells}), path, compression="zstd")


FILES: dict[str, Callable[[Path], None]] = {
    "10,000 rows": ordinary,
    "25 million lines of one letter": repeated(b"x\n"),
    "52 million empty lines": repeated(b"\n", after=ROW),
    "one line of 50 MB": repeated(b"a", b'{"messages": "', b'"}'),
    "50 MB of [": repeated(b"["),
    "50 MB of {": repeated(b"{\n"),
    "50 MB of blanks": repeated(b" ", after=ROW),
    "an array of 16 million {}": repeated(b"{},", b"[", b"{}]"),
    "rows full of empty lists": repeated(ROW[:-2] + b', "x": [' + b"[]," * 100_000 + b"[]]}\n"),
    "an array whose text never ends": repeated(b'\\"', b'[{"a": "'),
    "an object whose text never ends": repeated(b'\\"', b'{\n"a": "'),
    "a quote that never ends (CSV)": repeated(b"a\n", b'request,answer\n"'),
    "a quote that never ends, one line (CSV)": repeated(b"a", b'request,answer\n"'),
    "25 million empty CSV lines": repeated(b"\n\n", b"request,answer\n", b"a,b\n"),
    "17 million CSV rows": repeated(b"a,b\n", b"request,answer\n"),
    "a CSV header of 50 MB": repeated(b"a,", b"request,answer,"),
    "ASCII and one emoji": with_emoji,
    "50 MB of <tool_call": repeated(ROW.replace(b"Hello", b'<tool_call name=\\"a\\" arguments=\\"' * 20_000)),
    "a ZIP bomb": zip_bomb,
    "a Parquet bomb (one text, 40,000 rows)": parquet_bomb,
    "a Parquet bomb (one text, 100,000 items)": parquet_lists,
}


def peak() -> int:
    """This process's peak memory so far, in KiB. What `getrusage` says begins with the parent's peak on Linux."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def look(path: Path) -> None:
    """Look at a file in this process and print the seconds, the megabytes on top of the imports, and what came of it."""
    from workbench.dataset.imports import preview_file
    from workbench.errors import DataError

    before = peak()
    begun = time.perf_counter()
    try:
        found = preview_file(path, path.name)
        what = f"{found.usable:,} usable, {found.problems:,} problems, {found.duplicates:,} duplicates"
    except DataError as exc:
        what = f"refused: {exc}"
    seconds = time.perf_counter() - begun
    own = peak() - before
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps({"seconds": seconds, "mb": (own + child) / 1024, "what": what}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="the files whose name holds this")
    parser.add_argument("--look", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.look:
        look(options.look)
        return
    over = 0
    print(f"{'file':42} {'size, MB':>9} {'s':>6} {'memory, MB':>11}  what came of it")
    with tempfile.TemporaryDirectory() as folder:
        for name, write in FILES.items():
            if options.only not in name:
                continue
            path = Path(folder) / "file.csv" if "CSV" in name else Path(folder) / "file.json"
            write(path)
            done = subprocess.run([sys.executable, __file__, "--look", str(path)], capture_output=True, text=True, check=True, cwd=ROOT)
            found = json.loads(done.stdout)
            limit = 5 if name == "10,000 rows" else 10
            bad = found["seconds"] > limit or found["mb"] > 500
            over += bad
            size = path.stat().st_size / 2**20
            print(f"{name:42} {size:9.1f} {found['seconds']:6.2f} {found['mb']:11.0f}  {'OVER THE LIMIT ' if bad else ''}{found['what'][:110]}", flush=True)
            path.unlink()
    sys.exit(1 if over else 0)


if __name__ == "__main__":
    main()
