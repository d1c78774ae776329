"""The values of signals at the ticks of a clock, by kind: interpolated, averaged, held, or counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from anomalyvae.recordings.log import Signal

# Stamps closer than this are the same moment: unix times in float64 are good to a quarter of a microsecond.
SAME_S = 1e-6
_FASTER = 1.5  # times as fast as the clock: from here on samples are averaged
_RATE_TICKS = 16  # without a gap: by them a signal's rate is measured

Sampled = dict[str, np.ndarray]  # "time_s" and the values of signals at these times, by name


class Clock(NamedTuple):
    """An even clock, and how signals are sampled on it: the arguments of :func:`~anomalyvae.recordings.resample`."""

    rate_hz: float
    max_gap_s: float
    states: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    antialias: bool = True


class Ticks(NamedTuple):
    """Some ticks of a clock, in order: their numbers, and the start of the stretch of each."""

    number: np.ndarray  # (n,) of int64
    began_s: np.ndarray  # (n,)
    origin_s: float  # the time of tick 0
    rate_hz: float

    def seconds(self, number: np.ndarray) -> np.ndarray:
        """Return the times of the ticks with these numbers."""
        return self.origin_s + number / self.rate_hz


def at_ticks(signals: Iterable[Signal], ticks: Ticks, clock: Clock, averaged_from: Mapping[str, float]) -> Sampled:
    """Return the columns of :func:`~anomalyvae.recordings.resample` at some ticks, which are in order.

    ``signals`` have all samples that affect these ticks. ``averaged_from`` has the results of :func:`averaging_begins`;
    a signal that is not in it is not averaged.
    """
    time_s = ticks.seconds(ticks.number)
    columns = {"time_s": time_s}
    shared: dict[tuple[int, float], _Line] = {}  # signals of one table have the same stamps
    for signal in signals:
        valid = np.isfinite(signal.values)
        complete = bool(valid.all())
        stamps, values = (signal.time_s, signal.values) if complete else (signal.time_s[valid], signal.values[valid])
        if signal.name in clock.counts:
            columns[signal.name] = _counted(stamps, ticks)
        elif signal.name in clock.states:
            columns[signal.name] = _held(stamps, values, time_s, ticks.began_s)
        else:
            begin_s = averaged_from.get(signal.name, np.inf)
            line = shared.get((id(stamps), begin_s)) or _Line(stamps, ticks, time_s, clock.max_gap_s, begin_s)
            if complete:  # the others have stamps of their own
                shared[id(stamps), begin_s] = line
            columns[signal.name] = line.of(values)
    return columns


def averaging_begins(stamps: np.ndarray, clock: Clock) -> float | None:
    """Return the time from which on a continuous signal is averaged: infinity for never, None for not yet known.

    The median step decides, of the first 16 ticks of the first run of samples without a gap that is that long;
    ``stamps`` are those of the samples that are not missing.
    """
    if not clock.antialias:
        return np.inf
    begins, ends = runs(stamps, clock.max_gap_s)
    until_s = stamps[begins] + _RATE_TICKS / clock.rate_hz
    long = np.flatnonzero(stamps[ends] >= until_s)
    if not len(long):
        return None
    first = stamps[begins[long[0]] : np.searchsorted(stamps, until_s[long[0]]) + 1]
    fast = np.median(np.diff(first)) * clock.rate_hz * _FASTER < 1
    return float(first[0]) if fast else np.inf


def runs(stamps: np.ndarray, max_gap_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices at which runs of samples without a gap begin and end."""
    gaps = np.flatnonzero(np.diff(stamps) > max_gap_s + SAME_S)
    if not len(stamps):
        return gaps, gaps
    return np.concatenate(([0], gaps + 1)), np.concatenate((gaps, [len(stamps) - 1]))


def _counted(stamps: np.ndarray, ticks: Ticks) -> np.ndarray:
    before, upto = (
        np.searchsorted(stamps, ticks.seconds(number) + SAME_S, side="right")
        for number in (ticks.number - 1, ticks.number)
    )
    return (upto - before).astype(np.float64)


def _held(stamps: np.ndarray, values: np.ndarray, time_s: np.ndarray, began_s: np.ndarray) -> np.ndarray:
    if not len(stamps):
        return np.full(len(time_s), np.nan)
    left = np.searchsorted(stamps, time_s + SAME_S, side="right") - 1
    return np.where((left >= 0) & (stamps[left] >= began_s), values[left], np.nan)


class _Line:
    """Where ticks lie among the stamps of a continuous signal; the same for all signals that share the stamps."""

    def __init__(
        self, stamps: np.ndarray, ticks: Ticks, time_s: np.ndarray, max_gap_s: float, averaged_from_s: float
    ) -> None:
        self._left, self._way = _neighbours(stamps, time_s, max_gap_s)
        self._averaged = len(time_s) > 0 and averaged_from_s <= time_s[-1] + SAME_S
        if self._averaged:
            self._weigh(stamps, ticks)
            weight = self._sums(1.0)
            # With less than the weight of a sample, as where a signal slows down, interpolation is better.
            self._dense = (weight >= 1 - 1e-6) & ~np.isnan(self._way) & (time_s >= averaged_from_s - SAME_S)
            self._weight = np.where(self._dense, weight, 1.0)

    def of(self, values: np.ndarray) -> np.ndarray:
        """Return the values of a signal at the ticks."""
        on_line = _on_line(values, self._left, self._way)
        if not self._averaged:
            return on_line
        return np.where(self._dense, self._sums(values[self._some]) / self._weight, on_line)

    def _weigh(self, stamps: np.ndarray, ticks: Ticks) -> None:
        """Give every sample a weight for the tick before and the tick after it, larger for the nearer.

        Samples are grouped into segments from tick to tick, with one more at either end of consecutive ticks, so the
        sums of a segment have the same bits whichever ticks are computed. No gap is shorter than a tick, so all samples
        within one tick of a tick without a gap are joined to it.
        """
        first = np.concatenate(([True], np.diff(ticks.number) > 1))
        last = np.concatenate((first[1:], [True]))
        self._after = np.arange(len(first)) + 2 * np.cumsum(first) - 1  # the segment that begins at each tick
        edges = np.empty(self._after[-1] + 2, dtype=np.int64)
        edges[self._after] = ticks.number
        edges[self._after[first] - 1] = ticks.number[first] - 1
        edges[self._after[last] + 1] = ticks.number[last] + 1
        edge_s = ticks.seconds(edges)
        begins = np.searchsorted(stamps, edge_s)
        self._some, count = slice(begins[0], begins[-1]), np.diff(begins)
        self._begins, self._empty = begins - begins[0], count == 0
        since_s = stamps[self._some] - np.repeat(edge_s[:-1], count)
        until_s = np.repeat(edge_s[1:], count) - stamps[self._some]
        self._falling, self._rising = (np.maximum(1.0 - way * ticks.rate_hz, 0.0) for way in (since_s, until_s))

    def _sums(self, values: np.ndarray | float) -> np.ndarray:
        """Return the weighted sums of samples around each tick."""
        weighted = np.zeros(len(self._rising) + 1)  # one more, in which the last segment ends
        sums = []
        for weight, segment in ((self._rising, self._after - 1), (self._falling, self._after)):
            np.multiply(weight, values, out=weighted[:-1])
            total = np.add.reduceat(weighted, self._begins)[:-1]
            total[self._empty] = 0.0
            sums.append(total[segment])
        return sums[0] + sums[1]


def _neighbours(stamps: np.ndarray, time_s: np.ndarray, max_gap_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Return for each tick the last sample at or before it, and the fraction of the way to the next sample.

    The fraction, in [0, 1), is NaN if the tick lies outside the samples or in a gap.
    """
    if not len(stamps):
        return np.zeros(len(time_s), dtype=np.int64), np.full(len(time_s), np.nan)
    left = np.searchsorted(stamps, time_s + SAME_S, side="right") - 1
    outside = left < 0
    left[outside] = 0
    step = np.diff(stamps, append=np.inf)
    step[step > max_gap_s + SAME_S] = np.nan
    since = time_s - stamps[left]
    way = since / step[left]
    way[np.abs(since) <= SAME_S] = 0.0  # on a sample: its own value, gap or not
    way[outside] = np.nan
    return left, way


def _on_line(values: np.ndarray, left: np.ndarray, way: np.ndarray) -> np.ndarray:
    if not len(values):
        return np.full(len(left), np.nan)
    here, following = values[left], values[np.minimum(left + 1, len(values) - 1)]
    return np.where(way == 0, here, (1.0 - way) * here + way * following)  # else -0.0 might become 0.0
