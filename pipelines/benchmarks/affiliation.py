"""Affiliation: how near in time alarms and events are, compared with random alarms."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from anomalyvae.metrics import event_spans, merge_alarms

Intervals = NDArray[np.float64]  # (k, 2): starts and ends, disjoint, in order


class Affiliation(NamedTuple):
    """What `affiliation` returns: two shares, each in [0, 1]."""

    precision: float
    recall: float


def affiliation(flagged: ArrayLike, spans: pd.DataFrame, events: pd.DataFrame, tolerance_s: float = 0.0) -> Affiliation:
    """Affiliation precision and recall [1]_: how close alarms are to events, and events to alarms.

    Each moment of a recording belongs to the zone of its nearest event. A moment of alarm is worth the probability
    that a random moment of its zone lies further from the event. A moment of the event is worth the probability that
    a random moment of the zone lies further from it than the nearest alarm does. A small delay costs little; random
    alarms get about one half.

    Parameters
    ----------
    flagged : array-like of bool, shape (n,)
        The flagged windows.
    spans : DataFrame, n rows
        Windows: ``recording``, ``start_s``, ``end_s``. A recording lasts from its first start to its last end.
    events : DataFrame
        Events: ``recording`` and ``start_s``, ``end_s``, or ``time_s``.
    tolerance_s : float
        Seconds added on both sides of each event; events that are moments need it.

    Returns
    -------
    Affiliation
        ``precision``: mean over the events with an alarm in their zone; NaN without any. ``recall``: mean over all
        events, 0 for those without an alarm in their zone; NaN without events. Recordings without events do not count.

    Raises
    ------
    ValueError
        If lengths differ, an event has no length, or it lies outside its recording.

    Notes
    -----
    For an event J in a zone E, with |.| a length and d the distance from J, a moment of alarm outside J is worth
    ``1 - |{u in E: d(u) <= d}| / |E|``, and 1 inside J. A moment y of J at distance d from the nearest alarm in E is
    worth ``1 - |{u in E: |u - y| <= d}| / |E|``, and 1 in an alarm. Both are integrated exactly.

    References
    ----------
    .. [1] A. Huet, J. M. Navarro, D. Rossi (2022), Local Evaluation of Time Series Anomaly Detection Algorithms, KDD.

    Examples
    --------
    >>> spans = pd.DataFrame({"recording": "a", "start_s": [0.0, 10.0, 20.0, 30.0], "end_s": [10.0, 20.0, 30.0, 40.0]})
    >>> events = pd.DataFrame({"recording": ["a"], "start_s": [10.0], "end_s": [20.0]})
    >>> affiliation([False, True, False, False], spans, events)
    Affiliation(precision=1.0, recall=1.0)
    >>> affiliation([False, False, True, False], spans, events)
    Affiliation(precision=0.5, recall=0.75)
    """
    alarms = merge_alarms(spans, flagged)
    wanted = event_spans(events)
    values: list[tuple[float, float]] = []
    for name, whole in spans.groupby("recording", sort=False):
        marks = wanted.loc[wanted["recording"] == name, ["start_s", "end_s"]].to_numpy(dtype=float)
        if not len(marks):
            continue
        reach = float(whole["start_s"].min()), float(whole["end_s"].max())
        marks = _joined(np.clip(marks + np.array([-tolerance_s, tolerance_s]), *reach))
        if (marks[:, 1] <= marks[:, 0]).any():
            raise ValueError(
                f"An event of recording {name!r} has no length within {reach[0]:g} to {reach[1]:g} s; "
                "affiliation needs events that last. Pass tolerance_s, or drop the event."
            )
        raised = alarms.loc[alarms["recording"] == name, ["start_s", "end_s"]].to_numpy(dtype=float)
        borders = np.concatenate([[reach[0]], (marks[:-1, 1] + marks[1:, 0]) / 2, [reach[1]]])
        for event, zone in zip(marks, pairwise(borders), strict=True):
            inside = np.clip(raised, *zone)
            inside = inside[inside[:, 1] > inside[:, 0]]
            values.append((_precision(inside, event, zone), _recall(inside, event, zone)))
    if not values:
        return Affiliation(float("nan"), float("nan"))
    precision, recall = np.array(values).T
    known = precision[~np.isnan(precision)]
    return Affiliation(float(known.mean()) if known.size else float("nan"), float(recall.mean()))


def _joined(intervals: Intervals) -> Intervals:
    """Intervals in order, those that touch or overlap as one."""
    intervals = intervals[np.argsort(intervals[:, 0], kind="stable")]
    reach = np.maximum.accumulate(intervals[:, 1])
    opens = np.append(True, intervals[1:, 0] > reach[:-1])
    return np.column_stack([intervals[opens, 0], reach[np.append(opens[1:], True)]])


def _precision(alarms: Intervals, event: NDArray, zone: tuple[float, float]) -> float:
    """Mean worth of the moments of alarm in the zone of an event."""
    if not len(alarms):
        return float("nan")
    (begin, end), (low, high) = event, zone
    nearer = min(begin - low, high - end)  # on the shorter side there is nothing further than this

    def integral(d: NDArray) -> NDArray:
        both = np.where(d <= nearer, d**2 / 2, nearer * d - nearer**2 / 2)
        return d - ((end - begin) * d + d**2 / 2 + both) / (high - low)

    before, after = np.minimum(alarms, begin), np.maximum(alarms, end)
    within = np.clip(alarms, begin, end)
    worth = (
        integral(begin - before[:, 0]) - integral(begin - before[:, 1])
        + integral(after[:, 1] - end) - integral(after[:, 0] - end)
        + within[:, 1] - within[:, 0]
    )  # fmt: skip
    return float(worth.sum() / (alarms[:, 1] - alarms[:, 0]).sum())


def _recall(alarms: Intervals, event: NDArray, zone: tuple[float, float]) -> float:
    """Mean worth of the moments of an event, by their distance from the alarms in its zone."""
    if not len(alarms):
        return 0.0
    (begin, end), (low, high) = event, zone
    middle = (alarms[:-1, 1] + alarms[1:, 0]) / 2
    after = np.column_stack([alarms[:, 1], np.append(middle, high)])  # moments whose nearest alarm lies before them
    before = np.column_stack([np.append(low, middle), alarms[:, 0]])

    def integral(d: NDArray, room: NDArray) -> NDArray:
        """Of the worth up to a distance from an alarm that is ``room`` away from the zone's end on that side."""
        return d - np.where(d <= room / 2, d**2, room * d - room**2 / 4) / (high - low)

    later, earlier = np.clip(after, begin, end) - alarms[:, 1:], alarms[:, :1] - np.clip(before, begin, end)
    room_after, room_before = high - alarms[:, 1], alarms[:, 0] - low
    within = np.clip(alarms, begin, end)
    worth = (
        integral(later[:, 1], room_after) - integral(later[:, 0], room_after)
        + integral(earlier[:, 0], room_before) - integral(earlier[:, 1], room_before)
        + within[:, 1] - within[:, 0]
    )  # fmt: skip
    return float(worth.sum() / (end - begin))
