"""Run a job: leave-one-recording-out evaluation of the detector and of plain methods, and a final model.

Each recording is left out in turn: a detector learns the normal windows of the others and scores it. The scores come
from the ONNX file, so the evaluation measures what will be deployed. A last detector learns all normal windows. The
result is written in one step, after everything is computed.
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
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomalyvae import metrics
from anomalyvae.bundle import read_card
from anomalyvae.calibration import CAUTION, few_recordings
from anomalyvae.evaluate.baselines import BASELINES, ONE_LINERS
from anomalyvae.evaluate.job import Evaluation, Job, Progress, find_recordings, matches, options_of, refuse_foreign
from anomalyvae.evaluate.whole_recordings import ranked, with_moments
from anomalyvae.events import covered_hours, touches
from anomalyvae.fleet import Tally
from anomalyvae.folders import replacing
from anomalyvae.health import Profile, Sensors
from anomalyvae.health.grades import stretches
from anomalyvae.health.measures import cells_of
from anomalyvae.health.profile import within
from anomalyvae.health.sensors import event_causes, signal_scores
from anomalyvae.recordings import Windows
from anomalyvae.recordings.coverage import without_in_words
from anomalyvae.review.reasons import WindowView, excess_shares, explained_flags, window_view
from anomalyvae.train import TrainingSet, train

FIGURES = ("auroc", "average_precision", "event_recall", "alarms_per_hour")
_RESULTS = {"scores.parquet", "flags.parquet", "ranking.parquet", "metrics.json", "report.html", "model", "folds"}
_DRAWN_WINDOWS = 6  # the most anomalous ones, in the report


def run_job(job: Job, progress: Progress = lambda done, steps, what: None) -> dict[str, Any]:
    """Run a job and write its result to the output folder.

    The folder holds

    - ``scores.parquet``: a row per window, scored by a model that never saw its recording;
    - ``flags.parquet``: flagged windows merged to events, most anomalous first, with the signals behind them, and
      whether a bad sensor explains the event (``cause``, ``sensors``);
    - ``ranking.parquet``: recordings, the most unlike the others first (`anomalyvae.scoring.ranking.rank`);
    - ``metrics.json``, which is also returned, and ``report.html``, the same for people;
    - ``model/``: the bundle of a model of all normal windows, and ``folds/``: the bundles behind the scores. Their
      manifests say which intervals they learned, so ``model/`` can be the first champion of the review loop.

    The folder is replaced as a whole or not at all. With ``[tracking]``, MLflow gets a copy.

    Parameters
    ----------
    job : Job
    progress : callable, optional
        Called with the steps done, the steps in all, and what has just been done.

    Returns
    -------
    dict
        The content of ``metrics.json``. ``folds``, ``mean`` and each of ``baselines`` have ``auroc``,
        ``average_precision``, ``event_recall`` at the alarm rate of ``[evaluation]``, and ``alarms_per_hour``, the rate
        that was reached (None where undefined, as without events). ``own_threshold`` has the last two at the
        detector's own threshold, which no event has influenced. ``drift`` says whether the later half of the recordings
        differs from the earlier (`anomalyvae.evaluate.whole_recordings.ranked`).

    Raises
    ------
    ImportError
        If the extra ``report`` is missing, or ``mlflow`` where it is needed.
    FileExistsError
        If the output folder holds files other than an earlier result.
    ValueError
        If no recording matches the patterns, or no other is left to learn from.
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
    """Read, leave each recording out, fit on all, write; ``listening`` sends the epochs of the last fit to MLflow."""
    from anomalyvae.evaluate.report import need_extra

    need_extra()
    folder = Path(job.output.folder)
    refuse_foreign(folder, _RESULTS)
    began = time.monotonic()
    paths, events = find_recordings(job.data)
    data = TrainingSet.of_files(
        paths,
        job.windows,
        events=events,
        tolerance_s=job.data.tolerance_s,
        ranges=None if job.health is None else job.health.range,
        **options_of(job.data),
    )
    windows, anomalous = data.named, data.role != "normal"
    left_out = _left_out(windows.spans["recording"].unique(), job.evaluation, data.samples.without)
    for recording in left_out:
        data.without(recording).refuse_empty()  # before any fit
    steps = len(left_out) + 3
    progress(1, steps, f"{len(windows)} windows of {len(paths)} recordings, {anomalous.sum()} near an event")

    folds: dict[str, _Fold] = {}
    for recording in left_out:
        folds[recording] = _leave_out(job, data, events, recording)
        progress(1 + len(folds), steps, f"{recording} scored by a model of the others")
    with listening():
        model = _fit(job, data)
    progress(steps - 1, steps, f"learned from all {(~anomalous).sum()} normal windows")

    result = _summary(job, windows, anomalous, folds)
    tallies = {name: fold.tally for name, fold in folds.items()}
    ranking, result["drift"] = ranked(tallies, data.samples.starts, job.windows.signals)
    result["seconds"] = round(time.monotonic() - began, 1)
    with replacing(folder) as fresh:
        drift = job.health is not None and job.health.drift
        data.save(model, fresh / "model", drift=drift, figures=result["mean"])
        result["model_id"] = read_card(fresh / "model")["model_id"]
        result["without"] = data.samples.without
        for name, fold in folds.items():
            home = fresh / "folds" / name
            fold.data.save(fold.model, home, health=fold.health, figures=result["folds"][name], ranks=False)
            fold.scores["model_id"] = read_card(home)["model_id"]
        _write(fresh, job.name, result, folds, events, ranking, data.samples.starts)
    progress(steps, steps, f"wrote {folder}")
    return result


def _left_out(recordings: Iterable[str], evaluation: Evaluation, without: Mapping[str, str]) -> list[str]:
    recordings = list(recordings)
    chosen = [name for name in recordings if matches(name, evaluation.leave_out)]
    if not chosen:
        raise ValueError(
            f"leave_out = {evaluation.leave_out!r} matches none of the {len(recordings)} recordings that have windows. "
            "Correct [evaluation], or [windows] if more recordings should have windows."
        )
    if len(recordings) < 2:
        others = f" Not used: {without_in_words(without)}." if without else ""
        raise ValueError(
            f"Only one recording has windows ({chosen[0]}), expected at least two: one is left out, the others are "
            f"learned. Add recordings to [data].{others}"
        )
    return chosen


# --- one recording left out -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Fold:
    """A recording that was left out, and the model of the others that scored it."""

    model: Any
    scores: pd.DataFrame
    flags: pd.DataFrame
    views: list[WindowView]
    figures: dict[str, Any]
    data: TrainingSet
    health: dict[str, Any]
    baselines: dict[str, dict[str, float]]
    tally: Tally


def _leave_out(job: Job, data: TrainingSet, events: pd.DataFrame, recording: str) -> _Fold:
    """Score a recording by a model of the others, explain its flags, and measure both against the known events."""
    windows, anomalous = data.named, data.role != "normal"
    inside = (windows.spans["recording"] == recording).to_numpy()
    normal, own, others = ~inside & ~anomalous, windows.part(inside), data.without(recording)
    began = time.monotonic()
    model = _fit(job, others, CAUTION)  # which the report has, and the last fit says
    seconds = time.monotonic() - began

    found, parity = _through_onnx(model, own)
    score, flagged = found["anomaly_score"], found["is_outlier"]
    of_signals = signal_scores(model, own.rows, job.windows)
    excess = of_signals - signal_scores(model, windows.rows[normal], job.windows).mean(axis=0)
    flags = explained_flags(own.spans, score, flagged, excess, job.windows.signals)
    flags["near_event"] = touches(flags, events, job.data.tolerance_s)
    health = others.health()
    sensors = Sensors(model, job.windows, Profile.from_dict(health))
    causes, not_good = _of_sensors(sensors, replace(data.samples.part(inside), spans=own.spans), flags)
    shares = excess_shares(excess)
    most_anomalous = flags.head(_DRAWN_WINDOWS)
    tally = Tally(len(job.windows.signals))
    tally.add(np.column_stack([score, of_signals]), flagged, own.spans["start_s"])
    known = _Known(own.spans, anomalous[inside], events, job.data.tolerance_s, job.evaluation.alarms_per_hour)
    return _Fold(
        model=model,
        scores=own.spans.assign(anomaly_score=score, p_value=found["p_value"], is_outlier=flagged),
        flags=flags.drop(columns="peak").join(causes),
        views=[
            window_view(model, job.windows, own, peak, float(score[peak]), near, shares[peak])
            for peak, near in zip(most_anomalous["peak"], most_anomalous["near_event"], strict=True)
        ],
        figures={
            **known.measured(score),
            "own_threshold": {"threshold": -model.offset_, **known.alarms(flagged)},
            "windows": len(own),
            "anomalous": int(anomalous[inside].sum()),
            "events": int((events["recording"] == recording).sum()),
            "fit_seconds": round(seconds, 2),
            "not_good": not_good.to_dict("records"),
            "caution": few_recordings(model.calibration_.evidence, model.training_),
            "onnx": parity,
        },
        data=others,
        health=health,
        baselines={name: known.measured(values) for name, values in _of_baselines(data, normal, inside).items()},
        tally=tally,
    )


def _of_sensors(sensors: Sensors, recorded: Windows, flags: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Whether a bad sensor explains each flag, and the stretches of time in which a signal is not good."""
    grades = sensors.grade(recorded)
    return event_causes(flags, recorded.spans, sensors.causes(recorded, grades)), stretches(grades)


@dataclass(frozen=True)
class _Known:
    """The labels of a recording, by which scores are judged."""

    spans: pd.DataFrame
    anomalous: NDArray[np.bool_]
    events: pd.DataFrame
    tolerance_s: float
    alarms_per_hour: float

    def measured(self, scores: NDArray[np.float64]) -> dict[str, float]:
        """The `FIGURES` of scores, at the threshold that keeps the rate of false alarms."""
        threshold = metrics.alarm_threshold(scores, self.spans, self.events, self.alarms_per_hour, self.tolerance_s)
        return {
            "auroc": metrics.auroc(self.anomalous, scores),
            "average_precision": metrics.average_precision(self.anomalous, scores),
            **self.alarms(scores >= threshold),
        }

    def alarms(self, flagged: NDArray[np.bool_]) -> dict[str, float]:
        """The last two of `FIGURES`, of flags."""
        known = (flagged, self.spans, self.events, self.tolerance_s)
        return {"event_recall": metrics.found_share(*known), "alarms_per_hour": metrics.false_alarms_per_hour(*known)}


def _of_baselines(
    data: TrainingSet, normal: NDArray[np.bool_], inside: NDArray[np.bool_]
) -> dict[str, NDArray[np.float64]]:
    """The scores of the windows ``inside`` by each baseline, which compares them with the ``normal`` ones."""
    rows, cells = data.named.rows, cells_of(within(data.samples, data.ranges))
    scores = {name: method(rows[normal], rows[inside]) for name, method in BASELINES.items()}
    return scores | {name: method(cells[normal], cells[inside]) for name, method in ONE_LINERS.items()}


def _through_onnx(model: Any, windows: Windows) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Scores by the model's ONNX file, and how close they are to the model's own."""
    from anomalyvae.models import export_onnx
    from anomalyvae.scoring import Scorer

    with tempfile.TemporaryDirectory() as scratch:
        scorer = Scorer(export_onnx(model, Path(scratch, "model.onnx")))
        found = scorer.score(windows.rows)
    return found, {"precision": scorer.metadata["precision"], **scorer.metadata["parity"]}


def _fit(job: Job, data: TrainingSet, *unsaid: str) -> Any:
    from anomalyvae.detector import VAEOutlierDetector

    with warnings.catch_warnings():
        for message in ("Training was interrupted", *unsaid):
            warnings.filterwarnings("ignore", message=message)
        model = train(data, job.windows, VAEOutlierDetector(**job.detector))
    if model.stop_reason_ == "interrupted":  # a fit keeps what it has learned so far; a job does not
        raise KeyboardInterrupt
    return model


# --- the result -----------------------------------------------------------------------------------------


def _summary(job: Job, windows: Windows, anomalous: NDArray[np.bool_], folds: Mapping[str, _Fold]) -> dict[str, Any]:
    """The content of ``metrics.json`` but for the id of the model and the run time."""
    own = [fold.figures["own_threshold"] for fold in folds.values()]
    rivals = (*BASELINES, *ONE_LINERS)
    baselines = {name: {recording: fold.baselines[name] for recording, fold in folds.items()} for name in rivals}
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
                "anomalous": int(anomalous.sum()),
                "recordings": int(windows.spans["recording"].nunique()),
                "hours": round(covered_hours(windows.spans), 4),
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


def _write(
    folder: Path,
    title: str,
    result: dict[str, Any],
    folds: Mapping[str, _Fold],
    events: pd.DataFrame,
    ranking: pd.DataFrame,
    starts: Mapping[str, pd.Timestamp],
) -> None:
    """Write the tables of a run, its figures and its report."""
    from anomalyvae.evaluate.report import render_report

    scores = pd.concat([fold.scores for fold in folds.values()], ignore_index=True)
    flags = pd.concat([fold.flags for fold in folds.values()], ignore_index=True)
    flags = flags.sort_values("peak_score", ascending=False, kind="stable", ignore_index=True)
    scores, flags = (with_moments(table, starts) for table in (scores, flags))
    views = sorted((view for fold in folds.values() for view in fold.views), key=lambda view: -view.score)
    page = render_report(
        title, result, scores=scores, flags=flags, events=events, ranking=ranking, views=views[:_DRAWN_WINDOWS]
    )
    for name, table in (("ranking", ranking), ("scores", scores), ("flags", flags)):
        table.to_parquet(folder / f"{name}.parquet", index=False)
    text = json.dumps(result, indent=2, allow_nan=False)
    (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
    (folder / "report.html").write_text(page, encoding="utf-8", errors="backslashreplace")


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
