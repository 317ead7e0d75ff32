"""The verb that merges an adapter into its base, as a model of its own."""

from __future__ import annotations

import argparse

from workbench.engine.messages import MergeJob
from workbench.models.merge_plan import GIB
from workbench.verbs.data import Result
from workbench.verbs.training import host, need_model, stop_on_signals
from workbench.workspace import Workspace


def merge(space: Workspace, options: argparse.Namespace) -> Result:
    """Merge `--adapter` into its base as the model `--name`; Ctrl+C leaves nothing of it."""
    info = space.jobs.check_merge(options.adapter, options.name)  # what is impossible is told before torch is waited for
    need_model(space, info.model)
    work, report = host(space)
    with stop_on_signals("stopping: nothing will be left of the merged model") as stopped:
        report.stop = lambda: bool(stopped)
        done: Result = work.do(MergeJob(run=options.adapter, name=options.name.strip()), report)
    print(f"{options.adapter} was merged into {info.model_name}: {done['model']}, {done['bytes'] / GIB:.1f} GiB in {done['folder']}")
    print(f"the adapter moves the logits by up to {done['adapter_difference']:.2f}; the merged model is off by up to {done['rounding']:.2g}")
    print(f"measure it with: python -m workbench evaluate --cases data/cases.jsonl --base --model {done['model']}")
    return {"adapter": options.adapter, "base": info.model_name} | done
