"""Evaluation: each recording is scored by a detector that never saw it, and by baselines; the report."""
