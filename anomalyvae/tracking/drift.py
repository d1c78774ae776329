"""Drift of recordings as metrics of a run of MLflow."""

import time
from functools import partial
from typing import Any

import pandas as pd

from anomalyvae.tracking.entries import MODEL_ID, drift_figures, flat, send_values
from anomalyvae.tracking.runs import tracked_run

_BATCH = 900  # metrics that MLflow takes at once


def track_drift(
    found: pd.DataFrame,
    summary: dict[str, Any] | None,
    model_id: str,
    *,
    experiment: str | None = None,
    run_name: str | None = None,
    uri: str | None = None,
) -> str | None:
    """Send what is known of drift to a run of its own, tagged with the model's id; return where to see it.

    The metric ``drift.evidence`` has a step per recording, at the time of the recording if it says it; ``drift.alarm``,
    ``drift.recordings`` and ``drift.by.NAME``, of each measure and signal alone, have the last value.

    ``found`` and ``summary`` are those of `anomalyvae.scoring.drift.drift` and `anomalyvae.scoring.drift.summary_of`;
    for the rest see `tracked_run`. None is returned if the run was not sent, and a warning said why.
    """
    with tracked_run(experiment=experiment, run_name=run_name, uri=uri, tags={MODEL_ID: model_id}, listen=False) as run:
        missing = run.send({"the drift": partial(_send, found=found, summary=summary or {})})
        if missing:
            run.warn(missing, "these scores", "Run the same command again once it answers.")
        return None if missing else run.url


def _send(client: Any, run_id: str, found: pd.DataFrame, summary: dict[str, Any]) -> None:
    from mlflow.entities import Metric

    now_ms = int(1000 * time.time())
    steps = [
        Metric("drift.evidence", float(evidence), now_ms if pd.isna(start) else int(start.timestamp() * 1000), step)
        for step, (evidence, start) in enumerate(zip(found["evidence"], found["start"], strict=True))
    ]
    for begin in range(0, len(steps), _BATCH):
        client.log_batch(run_id, metrics=steps[begin : begin + _BATCH], synchronous=True)
    last = list(flat(drift_figures(summary) | {"evidence": None}, "drift.").items())
    for begin in range(0, len(last), _BATCH):
        send_values(client, run_id, metrics=dict(last[begin : begin + _BATCH]))
