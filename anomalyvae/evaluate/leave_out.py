"""A job, run: each recording is scored by a detector that never saw it, beside the baselines.

A run leaves each recording out in turn, learns from the normal windows of the others and scores it, does the
same with the baselines, then learns from all normal windows. Scores are those of the model's ONNX file, so that what is
measured is what will be at work. Nothing is written before everything is computed, and the result takes its place in
one step.
"""

import json
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomalyvae import metrics
from anomalyvae.bundle.card import read_card
from anomalyvae.bundle.manifest import begin_manifest
from anomalyvae.evaluate.baselines import BASELINES
from anomalyvae.evaluate.job import Evaluation, Job, Progress, databases_of, find_recordings, refuse_foreign
from anomalyvae.folders import replacing
from anomalyvae.health.grades import Profile, stretches, within
from anomalyvae.health.measures import signals_of
from anomalyvae.health.sensors import Sensors, learn_health, part_of, rows_of, told_of_events
from anomalyvae.recordings import WindowRecipe, Windows, read_windows
from anomalyvae.review.flags import WindowView, excess_shares, explained_flags, signal_scores, window_view
from anomalyvae.train import save_traced

FIGURES = ("auroc", "average_precision", "event_recall", "alarms_per_hour")
_RESULTS = {"scores.parquet", "flags.parquet", "metrics.json", "report.html", "model", "folds"}
_STRANGEST = 6  # windows that the report draws


def run_job(job: Job, progress: Progress = lambda done, steps, what: None) -> dict[str, Any]:
    """Run a job and put its result in the output folder.

    The folder then holds

    - ``scores.parquet``: a row per window, scored by a model that never saw its recording;
    - ``flags.parquet``: flagged windows merged to events, strangest first, with the signals behind them, and whether
      the strangeness goes away without the sensors that are bad (``cause``, ``sensors``);
    - ``metrics.json`` and ``report.html``: what is returned, and the same for people;
    - ``model/``: a bundle fitted on all normal windows, and ``folds/``: those that gave the scores. Each says which
      intervals of recordings it learned, so that ``model/`` can be the first champion of the review loop.

    It is replaced as a whole or not at all. With ``[tracking]``, MLflow then gets a copy.

    Parameters
    ----------
    job : Job
    progress : callable, optional
        Told of each step.

    Returns
    -------
    dict
        What ``metrics.json`` holds. ``folds``, ``mean`` and each of ``baselines`` have ``auroc``,
        ``average_precision``, ``event_recall`` at the alarm rate of ``evaluation``, and ``alarms_per_hour``,
        the rate that was reached there (None where undefined, as without events). ``own_threshold`` states
        the last two for the detector's own flags, on which the recording's events had no influence.

    Raises
    ------
    ImportError
        If the extra ``report`` is missing, or ``mlflow`` where it is needed.
    FileExistsError
        If the output folder holds anything else than an earlier result.
    ValueError
        If no recording fits the patterns, or there are no others to learn from.
    """
    if job.tracking is None:
        return _run(job, progress)
    from anomalyvae.tracking import tracked_run

    settings = asdict(job.tracking)
    with tracked_run(**settings | {"run_name": job.tracking.run_name or job.name}, listen=False) as run:
        result = _run(job, progress, run.listening)
        paths, _ = find_recordings(job.data)
        if run.log(job.output.folder, source=os.path.commonpath([path.resolve() for path in paths])):
            progress(1, 1, f"tracked: {run.url}")
        return result


def _run(job: Job, progress: Progress, listening: Callable[[], AbstractContextManager[None]] = nullcontext) -> Any:
    from anomalyvae.evaluate import report

    report.need_extra()
    folder = Path(job.output.folder)
    refuse_foreign(folder, _RESULTS)
    began = time.monotonic()
    paths, events = find_recordings(job.data)
    windows, samples = _windows(job, paths)
    strange = metrics.touches(windows.spans, events, job.data.tolerance_s)
    left_out = _left_out(windows.spans["recording"].unique(), job.evaluation)
    steps = len(left_out) + 3
    progress(1, steps, f"{len(windows)} windows of {len(paths)} recordings, {strange.sum()} near an event")

    folds: dict[str, _Fold] = {}
    for recording in left_out:
        folds[recording] = _leave_out(job, windows, samples, events, strange, recording)
        progress(1 + len(folds), steps, f"{recording} scored by a model of the others")
    with listening():
        model = _fit(job, windows, ~strange)
    progress(steps - 1, steps, f"learned from all {(~strange).sum()} normal windows")

    ranges = None if job.health is None else job.health.range
    known = learn_health(job.windows, part_of(samples, ~strange), ranges, _unlearned(samples, folds)[~strange])
    result = _summary(job, windows, strange, folds)
    result["seconds"] = round(time.monotonic() - began, 1)
    with replacing(folder) as fresh:
        learned = begin_manifest(paths, windows.spans, events, job.data.tolerance_s)
        learned["role"] = learned["role"].replace("fault", "excluded")  # they are left out here, not pushed away
        result["model_id"] = _save(model, fresh / "model", job.windows, windows, result["mean"], learned, known)
        for name, fold in folds.items():
            others = learned[learned["recording"] != name]
            fold.scores["model_id"] = _save(
                fold.model, fresh / "folds" / name, job.windows, windows, result["folds"][name], others, fold.known
            )
        scores = pd.concat([fold.scores for fold in folds.values()], ignore_index=True)
        flags = pd.concat([fold.flags for fold in folds.values()], ignore_index=True)
        flags = flags.sort_values("peak_score", ascending=False, kind="stable", ignore_index=True)
        views = sorted((view for fold in folds.values() for view in fold.views), key=lambda view: -view.score)
        page = report.render_report(
            job.name, result, scores=scores, flags=flags, events=events, views=views[:_STRANGEST]
        )
        scores.to_parquet(fresh / "scores.parquet", index=False)
        flags.to_parquet(fresh / "flags.parquet", index=False)
        text = json.dumps(result, indent=2, allow_nan=False)
        (fresh / "metrics.json").write_text(text + "\n", encoding="utf-8")
        (fresh / "report.html").write_text(page, encoding="utf-8")
    progress(steps, steps, f"wrote {folder}")
    return result


def _windows(job: Job, paths: Sequence[Path]) -> tuple[Windows, Windows]:
    """The windows as the model takes them, and as samples; what cannot be, by [health], is missing in both."""
    databases, ranges = databases_of(job.data), None if job.health is None else job.health.range
    windows = read_windows(paths, job.windows, databases=databases)
    if job.windows.coefficients is None:
        windows = within(windows, ranges)
        return windows, windows
    samples = within(read_windows(paths, replace(job.windows, coefficients=None), databases=databases), ranges)
    return (Windows(rows_of(job.windows, samples), samples.spans, samples.units) if ranges else windows), samples


def _left_out(recordings: Iterable[str], evaluation: Evaluation) -> list[str]:
    recordings = list(recordings)
    patterns = (evaluation.leave_out,) if isinstance(evaluation.leave_out, str) else evaluation.leave_out
    chosen = [name for name in recordings if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not chosen:
        raise ValueError(
            f"Got leave_out = {evaluation.leave_out!r}, which fits none of {len(recordings)} recordings with "
            "windows. Correct [evaluation], or [windows] if there should be more."
        )
    if len(recordings) < 2:
        raise ValueError(
            f"Got windows of one recording ({chosen[0]}), expected at least two: one is left out, "
            "the others are learned. Add recordings to [data]."
        )
    return chosen


# --- one recording left out -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Fold:
    """A recording, scored by a model that never saw it."""

    model: Any
    scores: pd.DataFrame
    flags: pd.DataFrame
    views: list[WindowView]
    figures: dict[str, Any]
    known: dict[str, Any]
    gaps: NDArray[np.float64]
    baselines: dict[str, dict[str, float]]


def _leave_out(
    job: Job, windows: Windows, samples: Windows, events: pd.DataFrame, strange: NDArray[np.bool_], recording: str
) -> _Fold:
    inside = (windows.spans["recording"] == recording).to_numpy()
    normal = ~inside & ~strange
    own = Windows(windows.rows[inside].reset_index(drop=True), windows.spans[inside].reset_index(drop=True))
    began = time.monotonic()
    model = _fit(job, windows, normal)
    seconds = time.monotonic() - began

    found, parity = _through_onnx(model, own)
    score, flagged = found["anomaly_score"], found["is_outlier"]
    excess = signal_scores(model, own.rows, job.windows)
    excess -= signal_scores(model, windows.rows[normal], job.windows).mean(axis=0)
    flags = explained_flags(own.spans, score, flagged, excess, job.windows.signals)
    flags["near_event"] = metrics.touches(flags, events, job.data.tolerance_s)
    known = learn_health(job.windows, part_of(samples, normal), None if job.health is None else job.health.range)
    sensors, recorded = Sensors(model, job.windows, Profile.from_dict(known)), part_of(samples, inside)
    grades = sensors.grade(recorded)
    flags = flags.join(told_of_events(flags, recorded.spans, sensors.causes(recorded, grades)))
    shares = excess_shares(excess)
    strangest = flags.head(_STRANGEST)

    def measured(values: NDArray[np.float64]) -> dict[str, float]:
        threshold = metrics.alarm_threshold(
            values, own.spans, events, job.evaluation.alarms_per_hour, job.data.tolerance_s
        )
        return {
            "auroc": metrics.auroc(strange[inside], values),
            "average_precision": metrics.average_precision(strange[inside], values),
            **alarms(values >= threshold),
        }

    def alarms(flagged: NDArray[np.bool_]) -> dict[str, float]:
        known = (flagged, own.spans, events, job.data.tolerance_s)
        return {
            "event_recall": metrics.found_share(*known),
            "alarms_per_hour": metrics.false_alarms_per_hour(*known),
        }

    return _Fold(
        model=model,
        scores=own.spans.assign(anomaly_score=score, p_value=found["p_value"], is_outlier=flagged),
        flags=flags.drop(columns="peak"),
        views=[
            window_view(model, job.windows, own, peak, float(score[peak]), near, shares[peak])
            for peak, near in zip(strangest["peak"], strangest["near_event"], strict=True)
        ],
        figures={
            **measured(score),
            "own_threshold": {"threshold": -model.offset_, **alarms(flagged)},
            "windows": len(own),
            "strange": int(strange[inside].sum()),
            "events": int((events["recording"] == recording).sum()),
            "fit_seconds": round(seconds, 2),
            "not_good": stretches(grades).to_dict("records"),
            "onnx": parity,
        },
        known=known,
        gaps=sensors.gaps(recorded),
        baselines={name: measured(method(windows.rows[normal], own.rows)) for name, method in BASELINES.items()},
    )


def _through_onnx(model: Any, windows: Windows) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """What the model's ONNX file gives, and how close it is to the model."""
    from anomalyvae.models import export_onnx
    from anomalyvae.scoring.scorer import Scorer

    with tempfile.TemporaryDirectory() as scratch:
        scorer = Scorer(export_onnx(model, Path(scratch, "model.onnx")))
        found = scorer.score(windows.rows)
    return found, {"precision": scorer.metadata["precision"], **scorer.metadata["parity"]}


def _fit(job: Job, windows: Windows, chosen: NDArray[np.bool_]) -> Any:
    from anomalyvae.detector import VAEOutlierDetector

    if not chosen.any():
        raise ValueError("Got no normal window to learn from. Add recordings or lower tolerance_s in [data].")
    groups = windows.spans["recording"].to_numpy()[chosen]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Training was interrupted")
        model = VAEOutlierDetector(**job.detector).fit(windows.rows[chosen], groups=groups)
    if model.stop_reason_ == "interrupted":  # alone, it keeps what it has learned so far; a job must not
        raise KeyboardInterrupt
    return model


# --- the result -----------------------------------------------------------------------------------------


def _summary(job: Job, windows: Windows, strange: NDArray[np.bool_], folds: Mapping[str, _Fold]) -> dict[str, Any]:
    """Everything in ``metrics.json`` but the identity of the model and the time it all took."""
    own = [fold.figures["own_threshold"] for fold in folds.values()]
    baselines = {name: {recording: fold.baselines[name] for recording, fold in folds.items()} for name in BASELINES}
    versions = {name: version(name) for name in ("anomalyvae", "numpy", "pandas", "scikit-learn", "torch")}
    return _nan_to_none(
        {
            "job": job.name,
            "seed": job.detector.get("random_state"),
            "detector": dict(job.detector),
            "evaluation": asdict(job.evaluation) | {"tolerance_s": job.data.tolerance_s},
            "windows": {
                **job.windows.to_dict(),
                "count": len(windows),
                "strange": int(strange.sum()),
                "recordings": int(windows.spans["recording"].nunique()),
                "hours": round(metrics.covered_hours(windows.spans), 4),
            },
            "folds": {recording: fold.figures for recording, fold in folds.items()},
            "mean": {
                **_mean([fold.figures for fold in folds.values()], FIGURES),
                "own_threshold": _mean(own, ("event_recall", "alarms_per_hour")),
            },
            "baselines": {
                name: {"folds": per_fold, "mean": _mean(per_fold.values(), FIGURES)}
                for name, per_fold in baselines.items()
            },
            "versions": {"python": platform.python_version(), **versions},
        }
    )


def _unlearned(samples: Windows, folds: Mapping[str, _Fold]) -> NDArray[np.float64]:
    """The gaps of all windows by models that did not learn them, NaN for recordings that were never left out."""
    recordings = samples.spans["recording"].to_numpy()
    gaps = np.full((len(samples), len(signals_of(samples))), np.nan)
    for name, fold in folds.items():
        gaps[recordings == name] = fold.gaps
    return gaps


def _mean(entries: Iterable[Mapping[str, float]], names: Sequence[str]) -> dict[str, float]:
    """Mean of each figure over the entries in which it is defined."""
    table = pd.DataFrame(list(entries))
    return {name: float(table[name].mean(skipna=True)) for name in names}


def _nan_to_none(value: Any) -> Any:
    """JSON has no NaN: an undefined figure becomes null."""
    if isinstance(value, dict):
        return {key: _nan_to_none(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_nan_to_none(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def _save(
    model: Any,
    folder: Path,
    recipe: WindowRecipe,
    windows: Windows,
    figures: dict[str, Any],
    learned: pd.DataFrame,
    known: dict[str, Any],
) -> str:
    units = windows.units
    save_traced(model, folder, learned, recipe=recipe.to_dict(), units=units, figures=figures, health=known)
    return read_card(folder)["model_id"]
