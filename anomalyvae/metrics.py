"""How good anomaly scores are: as a ranking of windows, and as the alarms that follow from them.

- *Ranking* (`auroc`, `average_precision`) looks at windows one by one.
- *Alarms* (`event_recall`, `event_precision`, `event_delays`, `false_alarms_per_hour`) look at what a person sees: a
  run of flagged windows is one alarm, an event is found or missed, and false alarms are counted per hour.

Two tables are used throughout:

- ``spans``: one row per window, with the columns ``recording``, ``start_s``, ``end_s``;
- ``events``: one row per event, with ``recording`` and either ``time_s`` (a moment) or ``start_s``, ``end_s``.

Point adjustment, which counts a whole event as flagged if one of its points is, is not offered: random scores do well
under it (Kim et al. 2022, Towards a Rigorous Evaluation of Time-Series Anomaly Detection, AAAI).
"""

import warnings
from bisect import bisect_left, bisect_right
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from anomalyvae.tables.rows import read_rows

# Window ends are sums of decimal steps: ends closer than a microsecond count as touching.
_SLACK_S = 1e-6


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
        If lengths differ, or a score is NaN.

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
    """Labels and scores as flat arrays of the same length, without NaN."""
    flat = np.asarray(labels, dtype=bool).ravel()
    return flat, _check_scores(scores, flat.size)


# --- windows and events ---------------------------------------------------------------------------------


def read_events(path: str | PathLike[str]) -> pd.DataFrame:
    """Read a table of events.

    Parameters
    ----------
    path : path
        CSV, or Parquet by its suffix ``.parquet``.

    Returns
    -------
    DataFrame
        ``recording`` (text), ``time_s`` or ``start_s`` and ``end_s``, and the other columns of the file.

    Raises
    ------
    ValueError
        If one of these columns is missing.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        events = pd.read_parquet(path)
    else:
        events = read_rows([path], text=("recording", "kind"), allow_empty=True)
    if "recording" not in events or not ("time_s" in events or {"start_s", "end_s"} <= set(events)):
        raise ValueError(
            f"{path} has the columns {', '.join(map(str, events.columns))}; a table of events needs recording and "
            "time_s, or recording, start_s and end_s. Rename the columns."
        )
    return events.astype({"recording": str})


def event_spans(events: pd.DataFrame) -> pd.DataFrame:
    """``recording``, ``start_s`` and ``end_s`` of every event; both times are ``time_s`` if an event is a moment.

    Raises
    ------
    ValueError
        If an event has no time, or ends before it starts.
    """
    start, end = ("start_s", "end_s") if {"start_s", "end_s"} <= set(events) else ("time_s", "time_s")
    spans = pd.DataFrame({"recording": events["recording"], "start_s": events[start], "end_s": events[end]})
    wrong = ~(spans["start_s"] <= spans["end_s"])
    if wrong.any():
        first = spans[wrong].iloc[0]
        raise ValueError(
            f"{wrong.sum()} of {len(spans)} events have no time or end before they start, such as {start}="
            f"{first['start_s']}, {end}={first['end_s']} of recording {first['recording']!r}. Correct the events."
        )
    return spans


def check_matches(events: pd.DataFrame, spans: pd.DataFrame) -> None:
    """Check that events lie in recordings with windows, and in their time.

    Otherwise an error in the table of events would turn known anomalies into normal windows.

    Parameters
    ----------
    events : DataFrame
        ``recording``, ``start_s``, ``end_s``.
    spans : DataFrame
        All windows: ``recording``, ``start_s``, ``end_s``.

    Raises
    ------
    ValueError
        If this is so for all events.

    Warns
    -----
    UserWarning
        If it is so for some events.
    """
    if not len(spans):
        return
    reach = spans.groupby("recording").agg(start=("start_s", "min"), end=("end_s", "max")).reindex(events["recording"])
    foreign = reach["start"].isna().to_numpy()
    meets = (events["start_s"].to_numpy() <= reach["end"]) & (events["end_s"].to_numpy() >= reach["start"])
    outside = ~foreign & ~np.asarray(meets)
    if not (foreign | outside).any():
        return
    said = []
    if foreign.any():
        names = ", ".join(map(repr, spans["recording"].unique()[:5]))
        said.append(
            f"{foreign.sum()} of {len(events)} events name other recordings, such as "
            f"{events['recording'][foreign].iloc[0]!r}; recordings with windows are {names}"
        )
    if outside.any():
        first = events[outside].iloc[0]
        start, end = reach[outside].iloc[0]
        said.append(
            f"{outside.sum()} of {len(events)} events lie outside of the windows of their recording, such as "
            f"{first['start_s']:g} s of {first['recording']!r}, whose windows reach from {start:g} to {end:g} s"
        )
    text = ". ".join(said) + ". Recordings are named by their file without suffix, and times count from their start."
    if (foreign | outside).all():
        raise ValueError(f"{text} Correct the events.")
    warnings.warn(f"{text} These events have no effect.", stacklevel=3)


def touches(spans: pd.DataFrame, events: pd.DataFrame, tolerance_s: float = 0.0) -> NDArray[np.bool_]:
    """Whether each window of `spans`, shape ``(n,)``, lies within `tolerance_s` seconds of an event of its recording.

    Examples
    --------
    >>> spans = pd.DataFrame({"recording": "a", "start_s": [0.0, 2.0, 4.0], "end_s": [2.0, 4.0, 6.0]})
    >>> touches(spans, pd.DataFrame({"recording": ["a"], "time_s": [4.4]}), tolerance_s=0.5)
    array([False,  True,  True])
    """
    (starts, ends), (event_starts, event_ends) = _on_one_axis(spans, events)
    return _overlap(starts, ends, event_starts - tolerance_s, event_ends + tolerance_s)


def covered_hours(spans: pd.DataFrame) -> float:
    """Hours covered by at least one window."""
    (starts, ends), _ = _on_one_axis(spans, None)
    return _covered_s(starts, ends) / 3600


# --- alarms ---------------------------------------------------------------------------------------------


def merge_alarms(spans: pd.DataFrame, flagged: ArrayLike) -> pd.DataFrame:
    """Merge flagged windows of a recording that touch or overlap in time: each run is one alarm.

    Parameters
    ----------
    spans : DataFrame, n rows
        Windows in any order: ``recording``, ``start_s``, ``end_s``.
    flagged : array-like of bool, shape (n,)

    Returns
    -------
    DataFrame
        One row per alarm, by recording and time: ``recording``, ``start_s``, ``end_s``, ``windows`` (how many were
        merged) and ``members`` (their positions in `spans`).

    Examples
    --------
    >>> spans = pd.DataFrame({"recording": "a", "start_s": [0.0, 1.0, 9.0], "end_s": [2.0, 3.0, 11.0]})
    >>> merge_alarms(spans, [True, True, True])[["start_s", "end_s", "windows"]]
       start_s  end_s  windows
    0      0.0    3.0        2
    1      9.0   11.0        1
    """
    positions = np.flatnonzero(_check_flags(flagged, len(spans)))
    chosen = spans.iloc[positions]
    (starts, ends), _ = _on_one_axis(chosen, None)
    order = np.argsort(starts, kind="stable")
    latest_end = np.maximum.accumulate(ends[order])
    opens = np.ones(order.size, dtype=bool)
    opens[1:] = starts[order][1:] > latest_end[:-1] + _SLACK_S
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
    (starts, ends), (event_starts, event_ends) = _on_one_axis(spans, events)
    near = _overlap(starts, ends, event_starts - tolerance_s, event_ends + tolerance_s)
    budget = alarms_per_hour * _covered_s(starts[~near], ends[~near]) / 3600 + 1e-9

    # The alarms so far, sorted and disjoint; `explained` says whether one touches an event.
    alarm_starts: list[float] = []
    alarm_ends: list[float] = []
    explained: list[bool] = []
    false_alarms, threshold = 0, float("inf")
    order = np.argsort(-values, kind="stable")
    for step in np.split(order, np.flatnonzero(np.diff(values[order])) + 1):
        for window in step:
            first = bisect_left(alarm_ends, starts[window] - _SLACK_S)
            last = bisect_right(alarm_starts, ends[window] + _SLACK_S)
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
    chosen = _check_flags(flagged, len(spans))
    (starts, ends), (event_starts, event_ends) = _on_one_axis(spans, events)
    if not event_starts.size:
        return float("nan")
    return float(_overlap(event_starts, event_ends, starts[chosen] - tolerance_s, ends[chosen] + tolerance_s).mean())


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
    chosen, wanted = spans[_check_flags(flagged, len(spans))], event_spans(events)
    starts, ends = chosen["start_s"].to_numpy(dtype=float), chosen["end_s"].to_numpy(dtype=float)
    times = wanted[["start_s", "end_s"]].to_numpy(dtype=float)
    delays = np.full(len(times), np.nan)
    slack = tolerance_s + _SLACK_S
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
    (starts, ends), _ = _on_one_axis(spans, None)
    hours = _covered_s(starts[~near], ends[~near]) / 3600
    return float(false_alarms / hours) if hours > 0 else float("nan")


# --- inside ---------------------------------------------------------------------------------------------


def _on_one_axis(
    spans: pd.DataFrame, events: pd.DataFrame | None
) -> tuple[tuple[NDArray, NDArray], tuple[NDArray, NDArray]]:
    """Starts and ends of windows and events on one time axis: recordings one after the other, over a day apart.

    Events of recordings that are not in `spans` are left out.
    """
    codes, names = pd.factorize(spans["recording"])
    windows = spans[["start_s", "end_s"]].to_numpy(dtype=float)
    marks, event_codes = np.empty((0, 2)), np.empty(0, dtype=int)
    if events is not None:
        event_codes = pd.Index(names).get_indexer(pd.Index(events["recording"]))
        marks = event_spans(events)[["start_s", "end_s"]].to_numpy(dtype=float)[event_codes >= 0]
        event_codes = event_codes[event_codes >= 0]

    everything = np.concatenate([windows.ravel(), marks.ravel()])
    step = 2 * np.ptp(everything) + 86_400 if everything.size else 0.0  # a day exceeds any sensible tolerance
    windows = windows + (codes * step)[:, None]
    marks = marks + (event_codes * step)[:, None]
    return (windows[:, 0], windows[:, 1]), (marks[:, 0], marks[:, 1])


def _overlap(starts: NDArray, ends: NDArray, other_starts: NDArray, other_ends: NDArray) -> NDArray[np.bool_]:
    """Whether each interval touches one of the others: more of those have started than have ended."""
    started = np.searchsorted(np.sort(other_starts), ends + _SLACK_S, side="right")
    ended = np.searchsorted(np.sort(other_ends), starts - _SLACK_S, side="left")
    return started > ended


def _covered_s(starts: NDArray, ends: NDArray) -> float:
    """Seconds covered by at least one of the intervals."""
    order = np.argsort(starts, kind="stable")
    before = np.concatenate([[-np.inf], np.maximum.accumulate(ends[order])[:-1]])[: order.size]
    return float(np.maximum(ends[order] - np.maximum(starts[order], before), 0.0).sum())


def _check_scores(scores: ArrayLike, n: int) -> NDArray[np.float64]:
    """Scores as a flat array, one number per window."""
    values = np.asarray(scores, dtype=float).ravel()
    if values.size != n:
        raise ValueError(f"Got {values.size} scores for {n} windows, expected one score each. Pass equal lengths.")
    if np.isnan(values).any():
        raise ValueError(f"{np.isnan(values).sum()} of {n} scores are NaN; NaN cannot be ranked. Drop those rows.")
    return values


def _check_flags(flagged: ArrayLike, n: int) -> NDArray[np.bool_]:
    """Flags as a flat array, one per window."""
    values = np.asarray(flagged, dtype=bool).ravel()
    if values.size != n:
        raise ValueError(f"Got {values.size} flags for {n} windows, expected one flag each. Pass equal lengths.")
    return values
