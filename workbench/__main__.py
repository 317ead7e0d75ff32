"""The workbench without a browser: `python -m workbench VERB`. Exit 0 on success, 2 on bad input (one line on stderr)."""

from __future__ import annotations

import argparse
import atexit
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

from workbench import verbs
from workbench.dataset.exports import EXPORTS
from workbench.dataset.families import BY_KEY
from workbench.dataset.generate import LANGUAGES
from workbench.errors import InputError, WorkbenchError
from workbench.models.catalog import DEMO
from workbench.workspace import ROOT, Workspace


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with the options in one line, as every other bad input is told."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists the options)\n")


def parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    top = OneLineParser(prog="python -m workbench", description="Teach a chat model to call tools, and measure it.")
    top.add_argument("--root", type=Path, help=argparse.SUPPRESS)  # another workbench folder, for tests
    sub = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        found = sub.add_parser(name, help=text, description=text)
        found.add_argument("--json", action="store_true", help="print one JSON object as the last line")
        return found

    def model(p: argparse.ArgumentParser, text: str = "a local folder, a hub name, merged:NAME, or demo (the embedded model)") -> None:
        p.add_argument("--model", default=os.environ.get("MODEL") or DEMO, help=text)

    def settings(p: argparse.ArgumentParser) -> None:
        p.add_argument("--set", action="append", default=[], metavar="GROUP.FIELD=VALUE", help="a setting, as in lora.rank=16; repeat it for more")

    def preset(p: argparse.ArgumentParser) -> None:
        p.add_argument("--preset", metavar="NAME|FILE", help="settings to start from, by name (`presets` lists them) or in a YAML file; --set goes over them")

    def constrain(p: argparse.ArgumentParser, more: str = "") -> None:
        p.add_argument("--constrain", action="store_true", help=f"bind calls to the dialect's grammar and the tools' schemas{more}")

    adapters = "a run's name; NAME@best is the adapter of its best measurement"
    verb("fetch-demo-model", "fetch and convert the embedded model once; prints its folder")
    check = verb("check", "say what a file of rows holds and which lines can't be used (exit 2 if there are any)")
    check.add_argument("file", type=Path)
    model(check, "whose tokenizer judges length and control tokens, if it is on this machine")
    settings(check)
    convert = verb("convert", "write a file of rows in another form: JSON lines (tag, openai), sharegpt or parquet")
    convert.add_argument("file", type=Path, help="JSON lines, a JSON array, CSV or Parquet; chat, ShareGPT, Alpaca or request/answer rows")
    convert.add_argument("out", type=Path)
    convert.add_argument("--to", choices=sorted(EXPORTS), default="tag")
    convert.add_argument("--approved", action="store_true", help="approved rows alone")
    convert.add_argument("--force", action="store_true", help="replace the file if it exists")
    generate = verb("generate", "write draft rows into a new file, from families of wordings or from an OpenAI-compatible endpoint")
    generate.add_argument("--out", type=Path, required=True)
    generate.add_argument("--force", action="store_true", help="replace the file if it exists")
    generate.add_argument("--tool", help="a tool of data/tools.json (default: the first)")
    generate.add_argument("--count", type=int, default=20)
    generate.add_argument("--seed", type=int, default=42)
    generate.add_argument("--topic", action="append", default=[], help="a word that the rows are about; repeat it for more")
    generate.add_argument("--family", action="append", default=[], metavar="FAMILY", help=f"one of {', '.join(BY_KEY)}; repeat it for more")
    generate.add_argument("--endpoint", metavar="URL", help="ask this address instead, as in http://127.0.0.1:8000/v1 (key: WORKBENCH_OPENAI_KEY or OPENAI_API_KEY)")
    generate.add_argument("--endpoint-model", metavar="NAME")
    generate.add_argument("--kind", choices=("call", "text"), default="call", help="what an endpoint writes: rows that call, or rows that must not")
    generate.add_argument("--language", choices=LANGUAGES, default="Russian")
    generate.add_argument("--max-requests", type=int, default=20, help="an endpoint is asked at most this often")
    generate.add_argument("--max-tokens", type=int, default=50_000, help="prompt and reply tokens at most, all requests together")
    plan = verb("plan", "say what a run would be: parameters, tokens, optimizer steps, memory, warnings")
    model(plan)
    plan.add_argument("--data", type=Path, help="rows in JSON lines (default: data/examples.json)")
    preset(plan)
    settings(plan)
    presets = verb("presets", "list the presets, the workbench's and your own (data/presets)")
    model(presets, "whose defaults a preset changes")
    train = verb("train", "train an adapter into adapters/NAME; Ctrl+C stops it and keeps what is learned")
    train.add_argument("--data", type=Path, required=True)
    train.add_argument("--name", required=True)
    model(train)
    preset(train)
    settings(train)
    resume = verb("resume", "go on with a stopped, failed or interrupted run from its checkpoint")
    resume.add_argument("--name", required=True)
    runs = verb("runs", "list the runs and what they came to; write their metrics into a file")
    runs.add_argument("--name", help="this run alone")
    runs.add_argument("--export", type=Path, metavar="FILE", help="every figure of every step: FILE.csv or FILE.json")
    runs.add_argument("--force", action="store_true", help="replace the file if it exists")
    compare_settings = verb("sweep", "compare settings by cross-validation, in sweeps/NAME; run it again to go on, Ctrl+C stops and keeps")
    compare_settings.epilog = verbs.SWEEP_JSON
    compare_settings.add_argument("--name", required=True)
    compare_settings.add_argument("--data", type=Path, help="rows in JSON lines; not needed to go on with a sweep or to show one")
    compare_settings.add_argument(
        "--axis", action="append", default=[], metavar="GROUP.FIELD=VALUE,VALUE",
        help="a setting and its values, as in quantization.mode=4-bit,8-bit; repeat it for more. training.seed=1,2,3 repeats everything with other folds",
    )
    compare_settings.add_argument("--folds", type=int, default=5, help="parts the rows are cut into, each held back once (default: 5)")
    compare_settings.add_argument("--seed", type=int, default=42, help="decides the folds (default: 42)")
    compare_settings.add_argument("--max-cells", type=int, default=400, help="a larger grid is refused (default: 400)")
    compare_settings.add_argument("--show", action="store_true", help="print the table of a sweep and end")
    model(compare_settings)
    settings(compare_settings)
    answer = verb("answer", "answer one prompt with an adapter, or with its base")
    answer.add_argument("--adapter", required=True, help=f"{adapters}; merged:NAME is a model that `merge` made")
    answer.add_argument("--prompt", required=True)
    answer.add_argument("--base", action="store_true", help="the base without the adapter")
    answer.add_argument("--run-tools", action="store_true", help="run its calls on the tools' mocks and let it answer with what they give")
    answer.add_argument("--functions", action="store_true", help="with --run-tools: Python functions of data/functions may answer too")
    answer.add_argument("--yes", action="store_true", help="with --run-tools: run calls without asking for each")
    constrain(answer)
    answer.add_argument("--max-new-tokens", type=int, default=96)
    compare = verb("compare", "answer prompts with base and adapter side by side")
    compare.add_argument("--adapter", required=True, help=adapters)
    compare.add_argument("--beside", metavar="VOICE", help="another adapter, or merged:NAME, in the place of the base")
    compare.add_argument("--prompts", type=Path, help="rows in JSON lines, or one prompt a line (default: the six demo prompts)")
    compare.add_argument("--max-new-tokens", type=int, default=96)
    constrain(compare)
    merge = verb("merge", "merge an adapter into its base: a model of its own in models/NAME, which --model takes as merged:NAME")
    merge.add_argument("--adapter", required=True, help=adapters)
    merge.add_argument("--name", required=True, help="the new model's folder: letters, digits, '.', '_' and '-'")
    evaluate = verb("evaluate", "measure call recall, over-calls and malformed calls over cases")
    evaluate.add_argument("--cases", type=Path, required=True)
    which = evaluate.add_mutually_exclusive_group(required=True)
    which.add_argument("--adapter", help=adapters)
    which.add_argument("--base", action="store_true")
    model(evaluate, "the base to measure with --base")
    evaluate.add_argument("--max-new-tokens", type=int, default=64)
    constrain(evaluate, "; the figures are then told, not kept")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    options = parser().parse_args(arguments)
    try:
        space = Workspace(root=options.root or ROOT, model=getattr(options, "model", DEMO))
        status = _finish(getattr(verbs, options.verb.replace("-", "_"))(space, options), options.json)
        sys.stdout.flush()  # here, where a reader that is gone is known for what it is; Python's own flush comes too late
        return status
    except WorkbenchError as exc:
        print(" ".join(str(exc).split()), file=sys.stderr)
        return 2 if isinstance(exc, InputError) else 1
    except SystemExit as ended:  # one of several processes, with nothing to say
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return _reader_gone()


def _reader_gone() -> int:
    """Whoever read the output has closed it (`| head`): nothing is left to say, nor to flush at the process's end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _finish(result: dict[str, Any], as_json: bool) -> int:
    bad = result.pop("_bad_input", None)
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
    if bad:
        print(bad, file=sys.stderr)
        return 2
    return 0


def leave(status: int) -> NoReturn:
    """End the process once its work is done, without taking the libraries and the model apart first.

    Beside a card that takes seconds, and where several processes trained together it may fail: gloo's threads outlive their group, and
    one that lets go of a tensor while Python ends aborts the process.
    """
    for thread in threading.enumerate():  # a quantized copy that is still being written
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (BrokenPipeError, ValueError):
            status = status or 1
    os._exit(status)


if __name__ == "__main__":
    leave(main())
