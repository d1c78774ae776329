"""Known events, and windows, on one axis of time: which touch, what they cover, and which merge.

Two tables are used throughout:

- ``spans``: one row per window, with the columns ``recording``, ``start_s``, ``end_s``;
- ``events``: one row per event, with ``recording`` and either ``time_s`` (a moment) or ``start_s``, ``end_s``.
"""

import math
import warnings
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from anomalyvae.tables.rows import read_rows

SLACK_S = 1e-6  # window ends are sums of decimal steps: ends closer than a microsecond count as touching


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
        If it cannot be read, one of these columns is missing, or two columns have the same name.
    """
    events = read_rows([Path(path)], text=("recording", "kind"), allow_empty=True)
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
        If an event has no time that is a finite number, or ends before it starts.
    """
    start, end = ("start_s", "end_s") if {"start_s", "end_s"} <= set(events) else ("time_s", "time_s")
    times = {name: _seconds(events[name]) for name in (start, end)}
    spans = pd.DataFrame({"recording": events["recording"], "start_s": times[start], "end_s": times[end]})
    infinite = np.isinf(spans["start_s"]) | np.isinf(spans["end_s"])
    wrong = ~(spans["start_s"] <= spans["end_s"]) | infinite
    if wrong.any():
        first = spans[wrong].iloc[0]
        raise ValueError(
            f"{wrong.sum()} of {len(spans)} events have no time or end before they start, such as {start}="
            f"{first['start_s']}, {end}={first['end_s']} of recording {first['recording']!r}. Correct the events."
        )
    return spans


def _seconds(cells: "pd.Series[Any]") -> "pd.Series[float]":
    """Convert times to numbers; refuse cells that are not numbers."""
    numbers = pd.to_numeric(cells.astype(object), errors="coerce").astype(float)  # no moment of time is a number
    other = cells[numbers.isna() & cells.notna()]
    if len(other):
        raise ValueError(
            f"{len(other)} cells in column {cells.name} of the events are no numbers, such as {str(other.iloc[0])!r}; "
            "expected seconds from the start of the recording. Convert them."
        )
    return numbers


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
    (starts, ends), (event_starts, event_ends) = on_one_axis(spans, events)
    return overlap(starts, ends, event_starts - tolerance_s, event_ends + tolerance_s)


def refuse_negative(name: str, value: float) -> None:
    """Raise ValueError for a number of seconds, or a rate, that is negative, infinite or no number."""
    if not 0 <= value < math.inf:
        raise ValueError(f"Got {name}={value!r}, expected a finite number from 0 on. Correct it.")


def covered_hours(spans: pd.DataFrame) -> float:
    """Hours covered by at least one window."""
    (starts, ends), _ = on_one_axis(spans, None)
    return covered_s(starts, ends) / 3600


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
    positions = np.flatnonzero(check_flags(flagged, len(spans)))
    chosen = spans.iloc[positions]
    (starts, ends), _ = on_one_axis(chosen, None)
    order = np.argsort(starts, kind="stable")
    latest_end = np.maximum.accumulate(ends[order])
    opens = np.ones(order.size, dtype=bool)
    opens[1:] = starts[order][1:] > latest_end[:-1] + SLACK_S
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


def on_one_axis(
    spans: pd.DataFrame, events: pd.DataFrame | None
) -> tuple[tuple[NDArray, NDArray], tuple[NDArray, NDArray]]:
    """Starts and ends of windows and events on one time axis, where recordings follow each other, over a day apart.

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


def overlap(starts: NDArray, ends: NDArray, other_starts: NDArray, other_ends: NDArray) -> NDArray[np.bool_]:
    """Whether each interval touches one of the others: more of those have started than have ended."""
    started = np.searchsorted(np.sort(other_starts), ends + SLACK_S, side="right")
    ended = np.searchsorted(np.sort(other_ends), starts - SLACK_S, side="left")
    return started > ended


def covered_s(starts: NDArray, ends: NDArray) -> float:
    """Seconds covered by at least one of the intervals."""
    order = np.argsort(starts, kind="stable")
    before = np.concatenate([[-np.inf], np.maximum.accumulate(ends[order])[:-1]])[: order.size]
    return float(np.maximum(ends[order] - np.maximum(starts[order], before), 0.0).sum())


def check_flags(flagged: ArrayLike, n: int) -> NDArray[np.bool_]:
    """Flags as a flat array, one per window."""
    values = np.asarray(flagged, dtype=bool).ravel()
    if values.size != n:
        raise ValueError(f"Got {values.size} flags for {n} windows, expected one flag each. Pass equal lengths.")
    return values
