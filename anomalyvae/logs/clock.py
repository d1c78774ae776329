"""Many signals with stamps of their own become columns on one even clock.

Values between two samples are interpolated on a straight line, and only where the two are at most
``max_gap_s`` apart: nothing is invented inside a gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
import pandas as pd

from anomalyvae.logs.log import Log, Signal

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
    origin = stretches[0, 0] if len(stretches) else 0.0
    first, count = _tick_ranges(stretches, origin, rate_hz)
    time_s = origin + _numbered(first, count, 0, count.sum()) / rate_hz
    return pd.DataFrame(_on_clock(chosen, time_s, max_gap_s), copy=False)


def resample_pieces(
    pieces: Iterable[tuple[np.ndarray, list[np.ndarray]]],
    signals: list[str],
    rate_hz: float,
    max_gap_s: float,
    most: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Put the signals of one table on one even clock while its samples come piece by piece.

    A tick is given out when no sample to come can change it. What is held of the recording is the last piece
    and the samples of about twice ``max_gap_s`` before it.

    Parameters
    ----------
    pieces : iterable of (time_s, columns)
        The stamps, of shape (n,) and increasing from piece to piece too, and for each signal its values.
    signals : list of str
        The names of the signals.
    rate_hz, max_gap_s : float
        As for :func:`resample`.
    most : int
        Give out at most so many ticks at once.

    Yields
    ------
    dict of str to numpy.ndarray, shape (ticks,)
        The columns of :func:`resample`; joined, they are the same to the last bit.
    """
    stamps, columns = np.empty(0), [np.empty(0) for _ in signals]
    end = (stamps, columns)
    following: int | None = None  # the number of the next tick in the stretch that may go on
    origin = 0.0
    for piece in chain(pieces, [end]):
        known = len(stamps)
        stamps = np.concatenate((stamps, piece[0]))
        columns = [np.concatenate(pair) for pair in zip(columns, piece[1], strict=True)]
        if not len(stamps):
            continue
        origin = stamps[0] if following is None else origin
        stretches = _stretches([stamps[max(known - 1, 0) :]], max_gap_s)
        first, count = _tick_ranges(stretches, origin, rate_hz, following)
        settled_s = stamps[-1]
        if piece is not end:
            settled_s = _settled(stamps, columns, max_gap_s)
            count[-1] = max(int((settled_s - origin - 2 * _SAME_S) * rate_hz // 1) + 1 - first[-1], 0)
        following = int(first[-1] + count[-1])
        chosen = [Signal(name, stamps, values) for name, values in zip(signals, columns, strict=True)]
        for begin in range(0, int(count.sum()), most):
            time_s = origin + _numbered(first, count, begin, begin + most) / rate_hz
            yield _on_clock(chosen, time_s, max_gap_s)
        keep = slice(np.searchsorted(stamps, settled_s - 2 * (max_gap_s + _SAME_S)), None)
        stamps, columns = stamps[keep], [values[keep] for values in columns]


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


def _settled(stamps: np.ndarray, columns: list[np.ndarray], max_gap_s: float) -> float:
    """Return the time before which no later sample changes a signal: its last sample, unless a gap follows."""
    settled_s = float(stamps[-1])
    for values in columns:
        taken = stamps[np.isfinite(values)]
        if len(taken) and stamps[-1] - taken[-1] <= max_gap_s + _SAME_S:
            settled_s = min(settled_s, float(taken[-1]))
    return settled_s


def _tick_ranges(
    stretches: np.ndarray, origin: float, rate_hz: float, following: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each stretch its first tick's number and how many ticks it has; the first may go on at one."""
    first = np.ceil((stretches[:, 0] - origin - _SAME_S) * rate_hz).astype(np.int64)
    last = np.floor((stretches[:, 1] - origin + _SAME_S) * rate_hz).astype(np.int64)
    if following is not None:
        first[0] = following
    return first, np.maximum(last - first + 1, 0)


def _numbered(first: np.ndarray, count: np.ndarray, begin: int, end: int) -> np.ndarray:
    """Return ticks of all stretches in one row, from place ``begin`` of it to ``end``."""
    before = np.cumsum(count) - count
    skipped = np.clip(begin - before, 0, count)
    taken = np.clip(end - before, 0, count) - skipped
    return np.arange(taken.sum()) + np.repeat(first + skipped - (np.cumsum(taken) - taken), taken)


def _on_clock(signals: list[Signal], time_s: np.ndarray, max_gap_s: float) -> dict[str, np.ndarray]:
    columns = {"time_s": time_s}
    shared: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # signals of one table have the same stamps
    for signal in signals:
        taken = np.isfinite(signal.values)
        if taken.all():
            key = id(signal.time_s)
            if key not in shared:
                shared[key] = _neighbours(signal.time_s, time_s, max_gap_s)
            columns[signal.name] = _on_line(signal.values, *shared[key])
        else:
            neighbours = _neighbours(signal.time_s[taken], time_s, max_gap_s)
            columns[signal.name] = _on_line(signal.values[taken], *neighbours)
    return columns


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
    here, following = values[left], values[np.minimum(left + 1, len(values) - 1)]
    return np.where(way == 0, here, (1.0 - way) * here + way * following)  # else -0.0 might become 0.0
