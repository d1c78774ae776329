"""Evaluation: each recording is scored by a detector that never saw it, and by baselines; the report."""

from typing import TYPE_CHECKING

from anomalyvae.lazy import lazy_names

if TYPE_CHECKING:
    from anomalyvae.evaluate.job import Job, read_job
    from anomalyvae.evaluate.leave_out import run_job

__all__ = ["Job", "read_job", "run_job"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Job": "anomalyvae.evaluate.job",
        "read_job": "anomalyvae.evaluate.job",
        "run_job": "anomalyvae.evaluate.leave_out",
    },
)
