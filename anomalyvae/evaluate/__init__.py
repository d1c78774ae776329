"""Evaluation: each recording scored by a detector that never saw it, beside plain methods, and the report."""
