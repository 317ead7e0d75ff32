"""The job that merges an adapter into its base: asked first what it takes, then done, then kept whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.engine.bases import give_back
from workbench.engine.messages import MergeJob
from workbench.errors import ModelError, WorkbenchError
from workbench.models.merge_plan import GIB, SPARE, MergePlan, plan_merge
from workbench.models.merging import merge_adapter, place_for, save_merged
from workbench.models.watched import StoppedLoadingError, watched_weights
from workbench.training.call_form import CallRecord
from workbench.training.merged import MergedRecord

if TYPE_CHECKING:
    from workbench.engine.jobs import Host, Report


def run_merge(host: Host, job: MergeJob, report: Report) -> dict[str, Any]:
    """Merge, and tell how far it is; a stop leaves nothing of it. Raises `WorkbenchError` with one sentence, as its steps do."""
    try:
        return _merge(host, job, report)
    finally:
        give_back()


def _merge(host: Host, job: MergeJob, report: Report) -> dict[str, Any]:
    info, adapter = host.finished_adapter(job.run)
    form = host.runs.form(job.run)
    source = host.fetch(info.model, report)
    weighed = host.refuse_other_base(source, info, job.run)
    plan = plan_merge(host.catalog, source, job.name)
    device = _place(host, plan, report)

    def stopped() -> None:
        if report.stop():
            raise WorkbenchError(f"Merging {job.run} into {plan.name} was stopped on request: nothing of it is left.")

    doing = ""

    def say(text: str) -> None:
        nonlocal doing
        doing = text
        report.progress(text, None)

    def went_on(share: float) -> None:
        report.progress(doing, share)

    try:
        with watched_weights(went_on, report.stop, plan.name):  # tensors that are read, files that are written
            base, merged = merge_adapter(plan, adapter, job.run, device, say=say, heed=stopped)
            record = MergedRecord(adapter=job.run, base=info.model_name, base_fingerprint=weighed, calls=CallRecord.of(form), **vars(merged))
            save_merged(base, plan, record.model_dump_json(indent=1), say=say, heed=stopped)
    except StoppedLoadingError:
        stopped()
        raise
    return {"model": plan.model, "folder": str(plan.target), "bytes": plan.disk} | vars(merged)


def _place(host: Host, plan: MergePlan, report: Report) -> Any:
    """Where the base is taken; what is loaded makes room for it if it must. Raises `ModelError` where that is not enough."""
    device = place_for(plan)
    if device is None:
        host.drop()
        host.tell(report)
        device = place_for(plan)
    if device is None:
        raise ModelError(
            f"Merging into {plan.source.name} needs {(plan.weights + SPARE) / GIB:.1f} GiB of free memory, since its weights are taken as they are stored, not "
            "quantized: close what else takes memory, or answer with the adapter itself."
        )
    return device
