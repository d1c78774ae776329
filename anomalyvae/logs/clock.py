"""Many signals with stamps of their own become columns on one even clock.

Values between two samples are interpolated on a straight line, and only where the two are at most
``max_gap_s`` apart: nothing is invented inside a gap.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from anomalyvae.logs.log import Log

# Stamps closer than this are the same moment: unix times in float64 are good to a quarter of a microsecond.
_SAME_S = 1e-6


def resample(log: Log, rate_hz: float, max_gap_s: float, signals: Iterable[str] | None = None) -> pd.DataFrame:
    """Put signals on one even clock.

    The clock begins at the recording's first sample and ticks ``rate_hz`` times a second. A sample that is
    not finite counts as not taken. Pauses longer than ``max_gap_s`` in which no signal has a sample are left
    out, so that a file with two drives a week apart costs no more than the drives; wherever ``time_s``
    continues without such a pause, its steps are even.

    Parameters
    ----------
    log : Log
        The recording.
    rate_hz : float
        Ticks per second.
    max_gap_s : float
        Two samples further apart than this are not joined; at least one tick.
    signals : iterable of str, optional
        Signals to put on the clock; by default all.

    Returns
    -------
    pandas.DataFrame, shape (ticks, 1 + signals)
        Column ``time_s``, seconds from the recording's start, and one float64 column per signal, NaN where
        the signal has no sample near enough.

    Raises
    ------
    ValueError
        An unknown signal (the nearest is named), or numbers out of range.

    Examples
    --------
    >>> from anomalyvae.logs import log_from_frame
    >>> frame = pd.DataFrame({"time_s": [0.0, 0.5, 1.0, 4.0], "x": [0.0, 1.0, 3.0, 9.0]})
    >>> log = log_from_frame(frame, "drive")
    >>> resample(log, rate_hz=4, max_gap_s=1.0)
       time_s    x
    0    0.00  0.0
    1    0.25  0.5
    2    0.50  1.0
    3    0.75  2.0
    4    1.00  3.0
    5    4.00  9.0
    """
    check_rate(rate_hz, max_gap_s)
    chosen = [log[name] for name in (log.signals if signals is None else signals)]
    stretches = _stretches([signal.time_s for signal in log.signals.values()], max_gap_s)
    time_s = _ticks(stretches, rate_hz)
    columns = {"time_s": time_s}
    shared: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # signals of one table have the same stamps
    for signal in chosen:
        taken = np.isfinite(signal.values)
        if taken.all():
            key = id(signal.time_s)
            if key not in shared:
                shared[key] = _neighbours(signal.time_s, time_s, max_gap_s)
            columns[signal.name] = _on_line(signal.values, *shared[key])
        else:
            neighbours = _neighbours(signal.time_s[taken], time_s, max_gap_s)
            columns[signal.name] = _on_line(signal.values[taken], *neighbours)
    return pd.DataFrame(columns, copy=False)


def check_rate(rate_hz: float, max_gap_s: float) -> None:
    """Refuse a clock on which a gap could hide between two ticks."""
    if not (np.isfinite(rate_hz) and rate_hz > 0):
        raise ValueError(f"Got rate_hz={rate_hz!r}, expected a positive number of samples per second.")
    if not (np.isfinite(max_gap_s) and max_gap_s * rate_hz >= 1 - 1e-9):
        raise ValueError(
            f"Got max_gap_s={max_gap_s!r} at rate_hz={rate_hz!r}, expected at least {1 / rate_hz:g} s, the "
            f"time from one sample to the next. Raise max_gap_s or rate_hz."
        )


def _stretches(clocks: list[np.ndarray], max_gap_s: float) -> np.ndarray:
    """Return the spans (start, end) without a pause in which no signal has a sample, in order."""
    distinct = list({id(clock): clock for clock in clocks if len(clock)}.values())
    if not distinct:
        return np.empty((0, 2))
    spans = []
    for clock in distinct:
        pauses = np.flatnonzero(np.diff(clock) > max_gap_s + _SAME_S)
        starts = clock[np.concatenate(([0], pauses + 1))]
        ends = clock[np.concatenate((pauses, [len(clock) - 1]))]
        spans.append(np.column_stack((starts, ends)))
    if len(spans) == 1:
        return spans[0]
    every = np.concatenate(spans)
    every = every[np.argsort(every[:, 0], kind="stable")]
    reach = np.maximum.accumulate(every[:, 1])
    begins = np.flatnonzero(np.concatenate(([True], every[1:, 0] > reach[:-1] + max_gap_s + _SAME_S)))
    return np.column_stack((every[begins, 0], reach[np.concatenate((begins[1:] - 1, [len(every) - 1]))]))


def _ticks(stretches: np.ndarray, rate_hz: float) -> np.ndarray:
    """Return the clock's ticks that lie in the stretches; the clock begins with the first of them."""
    if not len(stretches):
        return np.empty(0)
    origin = stretches[0, 0]
    first = np.ceil((stretches[:, 0] - origin - _SAME_S) * rate_hz).astype(np.int64)
    last = np.floor((stretches[:, 1] - origin + _SAME_S) * rate_hz).astype(np.int64)
    count = np.maximum(last - first + 1, 0)
    before = np.cumsum(count) - count
    tick = np.arange(count.sum()) + np.repeat(first - before, count)
    return origin + tick / rate_hz


def _neighbours(stamps: np.ndarray, time_s: np.ndarray, max_gap_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Return for each tick the last sample at or before it, and how far it is on the way to the next.

    The way, in [0, 1), is NaN where the tick lies outside the samples or in a gap.
    """
    if not len(stamps):
        return np.zeros(len(time_s), dtype=np.int64), np.full(len(time_s), np.nan)
    left = np.searchsorted(stamps, time_s + _SAME_S, side="right") - 1
    outside = left < 0
    left[outside] = 0
    step = np.diff(stamps, append=np.inf)
    step[step > max_gap_s + _SAME_S] = np.nan
    since = time_s - stamps[left]
    way = since / step[left]
    way[np.abs(since) <= _SAME_S] = 0.0  # on a sample: its own value, gap or not
    way[outside] = np.nan
    return left, way


def _on_line(values: np.ndarray, left: np.ndarray, way: np.ndarray) -> np.ndarray:
    if not len(values):
        return np.full(len(left), np.nan)
    right = np.minimum(left + 1, len(values) - 1)
    return (1.0 - way) * values[left] + way * values[right]
