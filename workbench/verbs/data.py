"""The verbs over files of rows: what one holds, one in another form, and new draft rows."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from workbench.calls.tools import ToolSet
from workbench.dataset.checks import KEPT_APART, balance, near_duplicates
from workbench.dataset.endpoint import Endpoint, write_rows
from workbench.dataset.exports import export_with
from workbench.dataset.families import generate as from_families
from workbench.dataset.formats import dump_jsonl, load_rows
from workbench.dataset.generate import Refused, admit, make_request
from workbench.dataset.health import Finding, check_health, load_kept_apart
from workbench.dataset.imports import preview_file
from workbench.dataset.store import RowStore
from workbench.errors import DataError, InputError, ModelError
from workbench.files import write_atomic
from workbench.schema import Example, ToolSpec
from workbench.settings import RunSettings, Training, apply_overrides
from workbench.workspace import Workspace, row_problems

Result = dict[str, Any]


def check(space: Workspace, options: argparse.Namespace) -> Result:
    """What a file of JSON lines holds: counts, problems by line, near-duplicates, and the findings of its health."""
    settings = apply_overrides(RunSettings(), options.set)
    loaded = load_rows(options.file)
    problems = list(loaded.problems)
    with contextlib.suppress(ModelError):  # without a tokenizer the form alone is judged
        form = space.form_of(settings, space.tokenizer)
        for p in row_problems(space.tokenizer, loaded.rows, settings.training.max_row_tokens, form):
            problems.append(type(p)(loaded.lines[p.line - 1], p.field, p.reason))
    problems.sort(key=lambda p: p.line)
    counts = balance(loaded.rows)
    pairs = near_duplicates([row.request for row in loaded.rows])
    twins = [[loaded.lines[p.first], loaded.lines[p.second]] for p in pairs]
    found, notes = _findings(space, options.file)
    print(f"{options.file.name}: {counts.rows} rows, {counts.calls} calls, {counts.texts} texts, {len(problems)} problems")
    for problem in problems:
        print(f"  {problem}")
    for first, second in twins:
        print(f"  lines {first} and {second} ask nearly the same")
    for finding in found:
        print(f"  {finding['title']} {finding['advice']}")
    for note in notes:
        print(f"  {note}")
    result: Result = {
        "rows": counts.rows, "calls": counts.calls, "texts": counts.texts,
        "problems": [asdict(p) for p in problems], "near_duplicates": twins, "findings": found,
    } | ({"notes": notes} if notes else {})
    if problems:
        result["_bad_input"] = f"{options.file.name}: {len(problems)} line(s) can't be used, the first: {problems[0]}"
    elif not counts.rows:
        result["_bad_input"] = f"{options.file.name} holds no rows."
    return result


def _findings(space: Workspace, file: Path) -> tuple[list[Result], list[str]]:
    """The findings of the file's health, and what could not be looked at."""
    rows = RowStore(file).read()
    own = file.resolve()
    others, reasons = load_kept_apart(space.data_dir)
    # A file of cases is not held against itself.
    kept = [name for name in KEPT_APART if (space.data_dir / name).resolve() != own]
    tools, notes = ToolSet(), list[str]()
    try:
        tools = space.tools.read()
    except DataError as exc:
        notes.append(f"The calls were not held against the schemas of the tools: {exc}")
    training = Training()
    health = check_health(
        rows, tools.tools, {name: others[name] for name in kept if others.get(name)}, share=training.validation_share, seed=training.seed,
        uncompared={name: reasons[name] for name in kept if name in reasons},
    )
    return [_as_json(f) for f in health.findings if f.kind != "broken"], notes  # those stand among the problems


def _as_json(finding: Finding) -> Result:
    values = asdict(finding)
    return {key: values[key] for key in ("kind", "severity", "title", "advice")} | {"rows": [place + 1 for place in finding.places]}


def convert(space: Workspace, options: argparse.Namespace) -> Result:
    """Any readable file of rows, written anew in another form."""
    preview = preview_file(options.file, options.file.name)
    rows = [c.row for c in preview.candidates if c.row is not None]
    kept = [row for row in rows if row.status == "approved"] if options.approved else rows
    if not kept:
        raise DataError(f"{options.file.name} holds no {'approved ' if options.approved else ''}rows: nothing was written.")
    _refuse_existing(options.out, options.force)
    made = export_with(space.tools, kept, options.to)
    write_atomic(options.out, made.data)
    found = [c.problem for c in preview.candidates if c.problem is not None]
    problems = [{"line": p.line, "field": p.field, "reason": p.reason} for p in found]
    print(f"{options.file.name} ({preview.container}, {preview.layout}) → {options.out}: {len(kept)} rows")
    for line in (*preview.notes, *made.notes, *map(str, found)):
        print(f"  {line}")
    result: Result = {"rows": len(kept), "left_out": len(rows) - len(kept), "problems": problems, "container": preview.container, "layout": preview.layout, "out": str(options.out)}
    if problems:
        result["_bad_input"] = f"{options.file.name}: {len(problems)} record(s) can't be used and were left out."
    return result


def generate(space: Workspace, options: argparse.Namespace) -> Result:
    """Draft rows from the families of wordings, or from an OpenAI-compatible endpoint, into a new file."""
    tool = _tool(space, options.tool)
    _refuse_existing(options.out, options.force)
    existing = list(space.rows.read().rows)
    others, reasons = load_kept_apart(space.data_dir)
    forbidden = [row.request for rows in others.values() for row in rows]
    for reason in reasons.values():
        print(f"Not compared with all that is kept apart: {reason}", file=sys.stderr)
    ended = ""
    if options.endpoint:
        rows, refused, ended = _from_endpoint(options, tool, existing, forbidden)
    else:
        avoid = [*forbidden, *(row.request for row in existing)]
        made = from_families(tool, families=options.family, topics=options.topic, count=options.count, seed=options.seed, avoid=avoid)
        admitted = admit(made, existing, forbidden, [tool])
        rows, refused = admitted.rows, admitted.refused
    if rows:
        write_atomic(options.out, dump_jsonl(rows))
    print(f"{len(rows)} draft rows{f' in {options.out}' if rows else ''}, {len(refused)} refused. {ended}".rstrip())
    return {"rows": len(rows), "refused": [asdict(r) for r in refused], "ended": ended, "out": str(options.out) if rows else None}


def _from_endpoint(
    options: argparse.Namespace, tool: ToolSpec, existing: Sequence[Example], forbidden: Sequence[str]
) -> tuple[Sequence[Example], Sequence[Refused], str]:
    endpoint = Endpoint(options.endpoint, options.endpoint_model or "", max_requests=options.max_requests, max_tokens=options.max_tokens)
    request = make_request(tool, options.kind, options.language, (options.topic or [""])[0], options.count)
    written = write_rows(
        endpoint, request, existing, forbidden,
        progress=lambda w: print(f"{len(w.rows)} rows after {w.requests} requests, {w.tokens:,} tokens", file=sys.stderr, flush=True),
    )
    for line in written.notes:
        print(line, file=sys.stderr)
    if written.failed and not written.rows:
        raise InputError(written.ended)
    return written.rows, written.refused, written.ended


def _tool(space: Workspace, name: str | None) -> ToolSpec:
    tools = space.tools.read().tools
    if not tools:
        raise InputError("data/tools.json holds no tool: add one first.")
    if name and name not in tools:
        raise InputError(f"There is no tool {name}; the tools are: {', '.join(tools)}.")
    return tools[name] if name else next(iter(tools.values()))


def _refuse_existing(path: Path, force: bool) -> None:
    if path.exists() and not force:
        raise InputError(f"{path} exists: give another name, or --force to replace it.")
