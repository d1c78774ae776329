"""How good anomaly scores are: as a ranking of windows, and as the alarms that follow from them.

- *Ranking* (`auroc`, `average_precision`) looks at windows one by one.
- *Alarms* (`event_recall`, `event_precision`, `event_delays`, `false_alarms_per_hour`) look at what a person sees: a
  run of flagged windows is one alarm, an event is found or missed, and false alarms are counted per hour.

The tables of windows (``spans``) and of known events are those of `anomalyvae.events`.

Point adjustment, which counts a whole event as flagged if one of its points is, is not offered: random scores do well
under it (Kim et al. 2022, Towards a Rigorous Evaluation of Time-Series Anomaly Detection, AAAI).
"""

from bisect import bisect_left, bisect_right

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from anomalyvae.events import (
    SLACK_S,
    check_flags,
    covered_s,
    event_spans,
    merge_alarms,
    on_one_axis,
    overlap,
    touches,
)
from anomalyvae.tables.arrays import unmasked

# --- ranking --------------------------------------------------------------------------------------------


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Probability that an anomalous window scores higher than a normal one, ties counted as half.

    Parameters
    ----------
    labels : array-like of bool, shape (n,)
        True where the window is anomalous.
    scores : array-like of float, shape (n,)
        High = anomalous.

    Returns
    -------
    float
        In [0, 1]; NaN if all windows are of one class.

    Raises
    ------
    ValueError
        If lengths differ, a score is NaN, or a label is missing.

    Examples
    --------
    >>> auroc([False, False, True, True], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    labels, scores = check_ranking(labels, scores)
    return float(roc_auc_score(labels, scores)) if 0 < labels.sum() < labels.size else float("nan")


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the precision-recall curve, by steps; takes and refuses what `auroc` does.

    Returns
    -------
    float
        In (0, 1]; random scores get the share of anomalous windows. NaN if all windows are of one class.

    Examples
    --------
    >>> average_precision([False, True, True], [0.2, 0.3, 0.9])
    1.0
    """
    labels, scores = check_ranking(labels, scores)
    return float(average_precision_score(labels, scores)) if 0 < labels.sum() < labels.size else float("nan")


def check_ranking(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Labels and scores as flat arrays of the same length, none of them missing."""
    given = np.asarray(unmasked(labels)).ravel()
    missing = np.flatnonzero(pd.isna(given))
    if len(missing):
        raise ValueError(
            f"Got labels of which {len(missing)} of {given.size} are missing, the first in row {missing[0]}, expected "
            "True or False for each window. Drop those windows."
        )
    flat = given.astype(bool)
    return flat, _check_scores(scores, flat.size)


# --- alarms ---------------------------------------------------------------------------------------------


def alarm_threshold(
    scores: ArrayLike,
    spans: pd.DataFrame,
    events: pd.DataFrame,
    alarms_per_hour: float,
    tolerance_s: float = 0.0,
) -> float:
    """Lowest threshold that keeps false alarms within `alarms_per_hour`.

    Windows are flagged from the highest score downwards, windows of equal score together. An alarm (see `merge_alarms`)
    is false if it is further than `tolerance_s` from every event. The search stops before the first step that has more
    false alarms than `alarms_per_hour` times the hours covered by windows that touch no event. It does not look
    further down, where alarms merge and their number falls again.

    Parameters
    ----------
    scores, spans, events, alarms_per_hour, tolerance_s
        See `event_recall`.

    Returns
    -------
    float
        Flag windows whose score is at least this; ``inf`` if not even the highest score may be flagged.

    Raises
    ------
    ValueError
        If lengths differ, a score is NaN, or `alarms_per_hour` is negative.
    """
    if not alarms_per_hour >= 0:
        raise ValueError(f"alarms_per_hour={alarms_per_hour} is negative; a rate cannot be. Pass 0 or more.")
    values = _check_scores(scores, len(spans))
    (starts, ends), (event_starts, event_ends) = on_one_axis(spans, events)
    near = overlap(starts, ends, event_starts - tolerance_s, event_ends + tolerance_s)
    budget = alarms_per_hour * covered_s(starts[~near], ends[~near]) / 3600 + 1e-9

    # The alarms so far, sorted and disjoint; `explained` says whether one touches an event.
    alarm_starts: list[float] = []
    alarm_ends: list[float] = []
    explained: list[bool] = []
    false_alarms, threshold = 0, float("inf")
    order = np.argsort(-values, kind="stable")
    for step in np.split(order, np.flatnonzero(np.diff(values[order])) + 1):
        for window in step:
            first = bisect_left(alarm_ends, starts[window] - SLACK_S)
            last = bisect_right(alarm_starts, ends[window] + SLACK_S)
            merged = explained[first:last]
            hit = bool(near[window]) or any(merged)
            false_alarms += (not hit) - merged.count(False)
            alarm_starts[first:last] = [min([starts[window], *alarm_starts[first:last]])]
            alarm_ends[first:last] = [max([ends[window], *alarm_ends[first:last]])]
            explained[first:last] = [hit]
        if false_alarms > budget:
            break
        threshold = float(values[step[0]]) if step.size else threshold
    return threshold


def event_recall(
    scores: ArrayLike,
    spans: pd.DataFrame,
    events: pd.DataFrame,
    alarms_per_hour: float,
    tolerance_s: float = 0.0,
) -> float:
    """Share of the events that are found at `alarms_per_hour` false alarms per hour.

    `alarm_threshold` chooses the threshold on these same labels, so methods are compared at the same cost. All events
    of the recordings in `spans` count, including those where no window was scored.

    Parameters
    ----------
    scores : array-like of float, shape (n,)
        High = anomalous.
    spans : DataFrame, n rows
        Windows: ``recording``, ``start_s``, ``end_s``.
    events : DataFrame
        Events: ``recording`` and ``time_s``, or ``start_s`` and ``end_s``, in seconds.
    alarms_per_hour : float
        False alarms allowed per hour covered by windows that touch no event.
    tolerance_s : float
        Largest distance, in seconds, at which an alarm finds an event.

    Returns
    -------
    float
        In [0, 1]; NaN without events.

    Examples
    --------
    >>> spans = pd.DataFrame({"recording": "a", "start_s": [0.0, 2.0, 9.0], "end_s": [1.0, 4.0, 11.0]})
    >>> marks = pd.DataFrame({"recording": "a", "time_s": [3.0, 9.5]})
    >>> event_recall([0.5, 0.9, 0.1], spans, marks, alarms_per_hour=0)
    0.5
    """
    threshold = alarm_threshold(scores, spans, events, alarms_per_hour, tolerance_s)
    return found_share(_check_scores(scores, len(spans)) >= threshold, spans, events, tolerance_s)


def found_share(flagged: ArrayLike, spans: pd.DataFrame, events: pd.DataFrame, tolerance_s: float = 0.0) -> float:
    """Share of the events of these recordings with a flagged window within `tolerance_s`; NaN without events."""
    chosen = check_flags(flagged, len(spans))
    (starts, ends), (event_starts, event_ends) = on_one_axis(spans, events)
    if not event_starts.size:
        return float("nan")
    return float(overlap(event_starts, event_ends, starts[chosen] - tolerance_s, ends[chosen] + tolerance_s).mean())


def event_precision(flagged: ArrayLike, spans: pd.DataFrame, events: pd.DataFrame, tolerance_s: float = 0.0) -> float:
    """Share of the alarms (merged windows) that lie within `tolerance_s` of an event; NaN without alarms."""
    found = touches(merge_alarms(spans, flagged), events, tolerance_s)
    return float(found.mean()) if found.size else float("nan")


def event_delays(
    flagged: ArrayLike, spans: pd.DataFrame, events: pd.DataFrame, tolerance_s: float = 0.0
) -> NDArray[np.float64]:
    """Time from the start of each event to the end of its first flagged window, when it can be scored at the earliest.

    Returns
    -------
    ndarray of float, shape (events,)
        Seconds; 0 if the alarm came first; NaN if no flagged window lies within `tolerance_s` of the event.

    Examples
    --------
    >>> spans = pd.DataFrame({"recording": "a", "start_s": [0.0, 1.0, 2.0], "end_s": [2.0, 3.0, 4.0]})
    >>> events = pd.DataFrame({"recording": "a", "start_s": [1.5, 9.0], "end_s": [4.0, 9.5]})
    >>> event_delays([False, True, True], spans, events)
    array([1.5, nan])
    """
    chosen, wanted = spans[check_flags(flagged, len(spans))], event_spans(events)
    starts, ends = chosen["start_s"].to_numpy(dtype=float), chosen["end_s"].to_numpy(dtype=float)
    times = wanted[["start_s", "end_s"]].to_numpy(dtype=float)
    delays = np.full(len(times), np.nan)
    slack = tolerance_s + SLACK_S
    for event, (recording, (start, end)) in enumerate(zip(wanted["recording"], times, strict=True)):
        near = (chosen["recording"] == recording).to_numpy() & (starts <= end + slack) & (ends >= start - slack)
        if near.any():
            delays[event] = max(ends[near].min() - start, 0.0)
    return delays


def false_alarms_per_hour(
    flagged: ArrayLike, spans: pd.DataFrame, events: pd.DataFrame, tolerance_s: float = 0.0
) -> float:
    """Alarms further than `tolerance_s` from every event, per hour covered by windows that touch no event.

    NaN if every window touches an event.

    Examples
    --------
    >>> spans = pd.DataFrame({"recording": "a", "start_s": [0.0, 1800.0], "end_s": [1800.0, 3600.0]})
    >>> false_alarms_per_hour([True, False], spans, pd.DataFrame({"recording": [], "time_s": []}))
    1.0
    """
    false_alarms = (~touches(merge_alarms(spans, flagged), events, tolerance_s)).sum()
    near = touches(spans, events, tolerance_s)
    (starts, ends), _ = on_one_axis(spans, None)
    hours = covered_s(starts[~near], ends[~near]) / 3600
    return float(false_alarms / hours) if hours > 0 else float("nan")


# --- inside ---------------------------------------------------------------------------------------------


def _check_scores(scores: ArrayLike, n: int) -> NDArray[np.float64]:
    """Scores as a flat array, one number per window."""
    values = np.asarray(unmasked(scores), dtype=float).ravel()
    if values.size != n:
        raise ValueError(f"Got {values.size} scores for {n} windows, expected one score each. Pass equal lengths.")
    if np.isnan(values).any():
        raise ValueError(f"{np.isnan(values).sum()} of {n} scores are NaN; NaN cannot be ranked. Drop those rows.")
    return values
