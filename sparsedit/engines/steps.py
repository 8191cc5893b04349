"""How many denoising steps jobs take, as far as can be said before they run."""

from __future__ import annotations

from collections.abc import Sequence

from sparsedit.calibration import plan_dense_steps
from sparsedit.jobs import Job


def total_steps(jobs: Sequence[Job]) -> int:
    """Denoising steps that a watcher will be told of, all jobs together, as far as can be said beforehand."""
    return sum(_steps(job) for job in jobs)


def _steps(job: Job) -> int:
    """Of the runs of one job: the original's, where there is one, the edits' and those they are compared with."""
    calls, edits, planned = job.settings.calls, len(job.variants), plan_dense_steps(job.settings)
    compared = calls * edits if job.settings.dense else 0
    few = planned.count if planned else calls
    if planned and job.settings.task == "prompt":
        few += calls  # all of its original's steps are made upon the few
    if job.inverted:
        few += calls
    compared *= dense_runs(job)
    if job.settings.way == "alongside":
        return calls + compared
    if job.settings.way == "cold":
        return (few + calls) * edits + compared
    return few + calls * edits * job.passes + compared


def dense_runs(job: Job) -> int:
    """Runs of a dense edit: a picture is inverted first, and led along that where no whole recording was."""
    if not job.inverted:
        return 1
    return 3 if plan_dense_steps(job.settings) else 2
