"""Fits and jobs as runs of MLflow, and its registry of models."""

from anomalyvae.tracking.runs import TrackedRun, track, tracked_run

__all__ = ["TrackedRun", "track", "tracked_run"]
