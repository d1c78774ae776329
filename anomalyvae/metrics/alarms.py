"""Alarms and events: what a person would meet, and what it costs.

A run of flagged windows is one alarm, an event is found or it is not, and patience is counted per hour.

Tables in use throughout:

- ``spans``: one row per window, with the columns ``recording``, ``start_s``, ``end_s``;
- ``events``: one row per event, with ``recording`` and either ``time_s`` (a mark) or ``start_s``, ``end_s``.
"""

from bisect import bisect_left, bisect_right

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from anomalyvae.metrics.ranking import one_score_each

# Window ends come from sums of decimal steps; a microsecond keeps neighbours neighbours.
_SLACK_S = 1e-6


def touches(spans: pd.DataFrame, events: pd.DataFrame, tolerance_s: float = 0.0) -> NDArray[np.bool_]:
    """Tell which windows lie within `tolerance_s` of an event of their own recording.

    Parameters
    ----------
    spans : DataFrame, n rows
        Windows: ``recording``, ``start_s``, ``end_s``.
    events : DataFrame
        Events: ``recording`` and ``time_s``, or ``start_s`` and ``end_s``.
    tolerance_s : float
        How far from the window, in seconds, an event still counts.

    Returns
    -------
    ndarray of bool, shape (n,)

    Examples
    --------
    >>> spans = pd.DataFrame({"recording": "a", "start_s": [0.0, 2.0, 4.0], "end_s": [2.0, 4.0, 6.0]})
    >>> touches(spans, pd.DataFrame({"recording": ["a"], "time_s": [4.4]}), tolerance_s=0.5)
    array([False,  True,  True])
    """
    (starts, ends), (event_starts, event_ends) = _on_one_line(spans, events)
    return _meet(starts, ends, event_starts - tolerance_s, event_ends + tolerance_s)


def merge_alarms(spans: pd.DataFrame, flagged: ArrayLike) -> pd.DataFrame:
    """Merge flagged windows of a recording whose times touch or overlap: each run is one alarm.

    Parameters
    ----------
    spans : DataFrame, n rows
        Windows in any order: ``recording``, ``start_s``, ``end_s``.
    flagged : array-like of bool, shape (n,)
        The windows that raised a flag.

    Returns
    -------
    DataFrame
        One row per alarm, by recording and time: ``recording``, ``start_s``, ``end_s``, ``windows`` (how many
        were merged) and ``members`` (their positions in `spans`).

    Examples
    --------
    >>> spans = pd.DataFrame({"recording": "a", "start_s": [0.0, 1.0, 9.0], "end_s": [2.0, 3.0, 11.0]})
    >>> merge_alarms(spans, [True, True, True])[["start_s", "end_s", "windows"]]
       start_s  end_s  windows
    0      0.0    3.0        2
    1      9.0   11.0        1
    """
    positions = np.flatnonzero(_flags(flagged, len(spans)))
    chosen = spans.iloc[positions]
    (starts, ends), _ = _on_one_line(chosen, None)
    order = np.argsort(starts, kind="stable")
    reach = np.maximum.accumulate(ends[order])
    opens = np.ones(order.size, dtype=bool)
    opens[1:] = starts[order][1:] > reach[:-1] + _SLACK_S
    alarm = np.cumsum(opens) - 1

    merged = (
        chosen.iloc[order]
        .groupby(alarm)
        .agg(recording=("recording", "first"), start_s=("start_s", "min"), end_s=("end_s", "max"))
    )
    members = np.split(positions[order], np.flatnonzero(opens)[1:]) if order.size else []
    merged["windows"] = np.bincount(alarm, minlength=len(members))
    merged["members"] = pd.Series(members, index=merged.index, dtype=object)
    return merged


def alarm_threshold(
    scores: ArrayLike,
    spans: pd.DataFrame,
    events: pd.DataFrame,
    alarms_per_hour: float,
    tolerance_s: float = 0.0,
) -> float:
    """Find the lowest threshold that keeps false alarms within `alarms_per_hour`.

    Windows are flagged from the highest score downwards, windows of equal score together. Flagged windows
    that touch merge to one alarm (`merge_alarms`); an alarm is false if it comes no nearer than `tolerance_s`
    to any event. The walk stops before the first step at which there are more false alarms than
    `alarms_per_hour` times the hours of negative time, that is, time covered by windows which touch no event.
    Stopping at the first excess matters: far below it, alarms melt into one another and get fewer again.

    Returns
    -------
    float
        Flag windows whose score is at least this; ``inf`` if not even the highest score may be flagged.

    Raises
    ------
    ValueError
        If lengths differ, a score is not a number, or `alarms_per_hour` is negative.
    """
    if not alarms_per_hour >= 0:
        raise ValueError(f"Got alarms_per_hour={alarms_per_hour}, expected 0 or more. Give a rate per hour.")
    values = one_score_each(scores, len(spans))
    (starts, ends), (event_starts, event_ends) = _on_one_line(spans, events)
    near = _meet(starts, ends, event_starts - tolerance_s, event_ends + tolerance_s)
    budget = alarms_per_hour * _covered_s(starts[~near], ends[~near]) / 3600 + 1e-9

    # The alarms so far, in order of time and disjoint; `found` says whether one touches an event.
    alarm_starts: list[float] = []
    alarm_ends: list[float] = []
    found: list[bool] = []
    false, threshold = 0, float("inf")
    order = np.argsort(-values, kind="stable")
    for step in np.split(order, np.flatnonzero(np.diff(values[order])) + 1):
        for window in step:
            first = bisect_left(alarm_ends, starts[window] - _SLACK_S)
            last = bisect_right(alarm_starts, ends[window] + _SLACK_S)
            joined = found[first:last]
            hit = bool(near[window]) or any(joined)
            false += (not hit) - joined.count(False)
            alarm_starts[first:last] = [min([starts[window], *alarm_starts[first:last]])]
            alarm_ends[first:last] = [max([ends[window], *alarm_ends[first:last]])]
            found[first:last] = [hit]
        if false > budget:
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

    The threshold is `alarm_threshold`'s: it is chosen on these very labels, so that methods are compared at
    the same cost. An event is found if an alarm comes within `tolerance_s` of it. Every event of the
    recordings in `spans` counts, also one that happened where no window was scored.

    Parameters
    ----------
    scores : array-like of float, shape (n,)
        High = strange.
    spans : DataFrame, n rows
        Windows: ``recording``, ``start_s``, ``end_s``.
    events : DataFrame
        Events: ``recording`` and ``time_s``, or ``start_s`` and ``end_s``, in seconds.
    alarms_per_hour : float
        False alarms allowed per hour of negative time.
    tolerance_s : float
        How far from an event, in seconds, an alarm still finds it.

    Returns
    -------
    float
        In [0, 1]; NaN where there is no event.

    Examples
    --------
    >>> spans = pd.DataFrame({"recording": "a", "start_s": [0.0, 2.0, 9.0], "end_s": [1.0, 4.0, 11.0]})
    >>> marks = pd.DataFrame({"recording": "a", "time_s": [3.0, 9.5]})
    >>> event_recall([0.5, 0.9, 0.1], spans, marks, alarms_per_hour=0)
    0.5
    """
    threshold = alarm_threshold(scores, spans, events, alarms_per_hour, tolerance_s)
    return found_share(one_score_each(scores, len(spans)) >= threshold, spans, events, tolerance_s)


def found_share(flagged: ArrayLike, spans: pd.DataFrame, events: pd.DataFrame, tolerance_s: float = 0.0) -> float:
    """Share of the events, in the recordings of `spans`, that a flagged window comes within `tolerance_s` of.

    Returns
    -------
    float
        In [0, 1]; NaN where there is no event.
    """
    chosen = _flags(flagged, len(spans))
    (starts, ends), (event_starts, event_ends) = _on_one_line(spans, events)
    if not event_starts.size:
        return float("nan")
    return float(_meet(event_starts, event_ends, starts[chosen] - tolerance_s, ends[chosen] + tolerance_s).mean())


def event_precision(flagged: ArrayLike, spans: pd.DataFrame, events: pd.DataFrame, tolerance_s: float = 0.0) -> float:
    """Share of the alarms, merged windows, that come within `tolerance_s` of an event.

    Returns
    -------
    float
        In [0, 1]; NaN where there is no alarm.
    """
    found = touches(merge_alarms(spans, flagged), events, tolerance_s)
    return float(found.mean()) if found.size else float("nan")


def event_delays(
    flagged: ArrayLike, spans: pd.DataFrame, events: pd.DataFrame, tolerance_s: float = 0.0
) -> NDArray[np.float64]:
    """Time from the start of each event until its first flagged window is over, since only then it can be scored.

    Returns
    -------
    ndarray of float, shape (events,)
        Seconds, 0 for an alarm that was already there; NaN for an event that no flagged window comes within
        `tolerance_s` of.

    Examples
    --------
    >>> spans = pd.DataFrame({"recording": "a", "start_s": [0.0, 1.0, 2.0], "end_s": [2.0, 3.0, 4.0]})
    >>> events = pd.DataFrame({"recording": "a", "start_s": [1.5, 9.0], "end_s": [4.0, 9.5]})
    >>> event_delays([False, True, True], spans, events)
    array([1.5, nan])
    """
    chosen, wanted = spans[_flags(flagged, len(spans))], event_spans(events)
    begins, ends = chosen["start_s"].to_numpy(dtype=float), chosen["end_s"].to_numpy(dtype=float)
    times = wanted[["start_s", "end_s"]].to_numpy(dtype=float)
    delays = np.full(len(times), np.nan)
    slack = tolerance_s + _SLACK_S
    for event, (recording, (begin, end)) in enumerate(zip(wanted["recording"], times, strict=True)):
        near = (chosen["recording"] == recording).to_numpy() & (begins <= end + slack) & (ends >= begin - slack)
        if near.any():
            delays[event] = max(ends[near].min() - begin, 0.0)
    return delays


def false_alarms_per_hour(
    flagged: ArrayLike, spans: pd.DataFrame, events: pd.DataFrame, tolerance_s: float = 0.0
) -> float:
    """Count alarms that no event explains, per hour covered by windows which touch no event.

    Returns
    -------
    float
        NaN where there is no such time.

    Examples
    --------
    >>> spans = pd.DataFrame({"recording": "a", "start_s": [0.0, 1800.0], "end_s": [1800.0, 3600.0]})
    >>> false_alarms_per_hour([True, False], spans, pd.DataFrame({"recording": [], "time_s": []}))
    1.0
    """
    alarms = merge_alarms(spans, flagged)
    near = touches(spans, events, tolerance_s)
    (starts, ends), _ = _on_one_line(spans, None)
    hours = _covered_s(starts[~near], ends[~near]) / 3600
    return float((~touches(alarms, events, tolerance_s)).sum() / hours) if hours > 0 else float("nan")


def event_spans(events: pd.DataFrame) -> pd.DataFrame:
    """Give every event a start and an end; a mark in time has both at once.

    Returns
    -------
    DataFrame
        ``recording``, ``start_s``, ``end_s``.
    """
    begin, end = ("start_s", "end_s") if {"start_s", "end_s"} <= set(events) else ("time_s", "time_s")
    return pd.DataFrame({"recording": events["recording"], "start_s": events[begin], "end_s": events[end]})


def covered_hours(spans: pd.DataFrame) -> float:
    """Hours that are covered by at least one window."""
    (starts, ends), _ = _on_one_line(spans, None)
    return _covered_s(starts, ends) / 3600


# --- times ----------------------------------------------------------------------------------------------


def _on_one_line(
    spans: pd.DataFrame, events: pd.DataFrame | None
) -> tuple[tuple[NDArray, NDArray], tuple[NDArray, NDArray]]:
    """Lay the recordings one after the other on a single line of time, too far apart to touch.

    Events of recordings that `spans` does not hold are left out.
    """
    codes, names = pd.factorize(spans["recording"])
    windows = spans[["start_s", "end_s"]].to_numpy(dtype=float)
    marks, event_codes = np.empty((0, 2)), np.empty(0, dtype=int)
    if events is not None:
        event_codes = pd.Index(names).get_indexer(pd.Index(events["recording"]))
        marks = event_spans(events)[["start_s", "end_s"]].to_numpy(dtype=float)[event_codes >= 0]
        event_codes = event_codes[event_codes >= 0]

    everything = np.concatenate([windows.ravel(), marks.ravel()])
    step = 2 * np.ptp(everything) + 86_400 if everything.size else 0.0  # a day beats any sensible tolerance
    windows = windows + (codes * step)[:, None]
    marks = marks + (event_codes * step)[:, None]
    return (windows[:, 0], windows[:, 1]), (marks[:, 0], marks[:, 1])


def _meet(starts: NDArray, ends: NDArray, other_starts: NDArray, other_ends: NDArray) -> NDArray[np.bool_]:
    """Tell which intervals meet one of the others: more of those have begun than are over."""
    begun = np.searchsorted(np.sort(other_starts), ends + _SLACK_S, side="right")
    over = np.searchsorted(np.sort(other_ends), starts - _SLACK_S, side="left")
    return begun > over


def _covered_s(starts: NDArray, ends: NDArray) -> float:
    """Seconds covered by at least one of the intervals."""
    order = np.argsort(starts, kind="stable")
    before = np.concatenate([[-np.inf], np.maximum.accumulate(ends[order])[:-1]])[: order.size]
    return float(np.maximum(ends[order] - np.maximum(starts[order], before), 0.0).sum())


def _flags(flagged: ArrayLike, n: int) -> NDArray[np.bool_]:
    values = np.asarray(flagged, dtype=bool).ravel()
    if values.size != n:
        raise ValueError(f"Got {values.size} flags for {n} windows, expected one each. Pass matching rows.")
    return values
